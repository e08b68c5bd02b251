"""What engine is wanted, in one frozen value, independent of any TensorRT version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from trtenv.errors import UsageError
from trtenv.spec.options import BY_NAME, PRECISIONS
from trtenv.spec.shapes import Shapes

BUILDERS = ("auto", "api", "trtexec")
# Types that a layer may be given under each precision: TensorRT sets no flag for others.
ALLOWED = {
    "tf32": {"fp32"},
    "fp32": {"fp32"},
    "fp16": {"fp32", "fp16"},
    "bf16": {"fp32", "bf16"},
    "int8": {"fp32", "int8"},
    "fp8": {"fp32", "fp8"},
    "best": {"fp32", "fp16", "bf16", "int8"},
}
LOWER = ("fp16", "bf16", "int8", "fp8", "best")


class BuildSpec(NamedTuple):
    """profiles: the shapes of each optimization profile; none for a static model.

    wishes: by the name of an option (spec.options), only what was asked for. builder: which back
    end says it to TensorRT. extra: raw trtexec flags, checked against the version's table.
    """

    profiles: tuple[Shapes, ...] = ()
    wishes: Mapping[str, Any] = MappingProxyType({})
    builder: str = "auto"
    extra: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """`tf32` is TensorRT's own default: FP32 tensors, TF32 allowed inside."""
        return str(self.wishes.get("precision", "tf32"))

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """TensorRT-RTX only, such as ("8.6", "8.9"); empty is its portable default."""
        return tuple(self.wishes.get("sm", ()))

    def with_wishes(self, **wishes: Any) -> BuildSpec:
        return self._replace(wishes={**self.wishes, **wishes})

    def check(self) -> BuildSpec:
        """Itself; UsageError for wishes that contradict each other whatever the version."""
        unknown = sorted(set(self.wishes) - set(BY_NAME))
        if unknown:
            raise UsageError(f"no option is called {', '.join(unknown)}")
        for name in ("calibration_mean", "calibration_std"):
            if len(self.wishes.get(name, [1])) not in (1, 3, 4):
                raise UsageError(f"{BY_NAME[name].flag} takes one value, or one for each channel")
        for wrong, message, hint in self._contradictions():
            if wrong:
                raise UsageError(message, hint=hint)
        return self

    def _contradictions(self) -> Iterator[tuple[bool, str, str]]:
        wishes, precision = self.wishes, self.precision
        yield (
            "workspace" in wishes and "workspace" in wishes.get("mem_pool_size", {}),
            "--workspace and --mem-pool-size both set the workspace",
            "give one of them",
        )
        yield from self._about_ranges()
        yield (
            "allow_gpu_fallback" in wishes
            and not wishes.keys() & {"use_dla_core", "layer_device_types"},
            "--allow-gpu-fallback is for what a DLA cannot run, and none is asked for",
            "add --use-dla-core 0",
        )
        yield (
            "exclude_lean_runtime" in wishes and "version_compatible" not in wishes,
            "--exclude-lean-runtime is about version-compatible engines",
            "add --version-compatible",
        )
        named = {
            part
            for name in ("layer_precisions", "layer_output_types")
            for value in wishes.get(name, {}).values()
            for part in value.split("+")
        }
        beyond = sorted(named - ALLOWED[precision] - {"int32", "int64", "bool", "uint8"})
        yield (
            bool(beyond),
            f"layers are asked to be {', '.join(beyond)}, which --precision {precision} does not allow",
            f"--precision {beyond[0] if beyond and beyond[0] in PRECISIONS else 'best'}",
        )
        yield (
            "keep_fp32" in wishes and precision not in LOWER,
            f"--keep-fp32 has no use in {precision}",
            "add --precision fp16",
        )
        yield (
            "reproducible" in wishes and wishes.get("timing_cache") == "none",
            "--reproducible replays a timing cache, and --timing-cache none forbids one",
            "drop --timing-cache none",
        )

    def _about_ranges(self) -> Iterator[tuple[bool, str, str]]:
        wishes, precision = self.wishes, self.precision
        yield (
            "calibration" in wishes and precision not in ("int8", "fp8", "best"),
            f"--calibration has no use in {precision}",
            "add --precision int8",
        )
        yield (
            "quantization" in wishes and "calibration" not in wishes,
            "--quantization says how ranges become INT8, and no data to measure them on is given",
            "add --calibration DATA, or drop it for a model with Q/DQ nodes",
        )
        yield (
            precision == "fp8" and wishes.get("quantization") == "calibration",
            "FP8 is made by Q/DQ nodes alone: no TensorRT calibrates it",
            "--quantization qdq",
        )
        tuned = [name for name in wishes if name.startswith("calibration_")]
        yield (
            bool(tuned) and "calibration" not in wishes,
            f"{', '.join(BY_NAME[name].flag for name in tuned)}: there is nothing to calibrate with",
            "add --calibration DATA",
        )
        pictures = {"calibration_mean", "calibration_std", "calibration_scale"} & set(wishes)
        yield (
            bool(pictures) and str(wishes.get("calibration")).endswith((".npz", ".npy")),
            f"{', '.join(sorted(BY_NAME[name].flag for name in pictures))}: arrays are taken as they are",
            "scale the arrays yourself, or give a folder of images",
        )
        yield (
            precision == "fp8" and wishes.get("calibration_method") == "entropy",
            "FP8 ranges are the largest values: there is nothing to clip for entropy",
            "drop --calibration-method",
        )
