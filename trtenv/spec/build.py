"""What engine is wanted, in one frozen value, independent of any TensorRT version."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from trtenv.errors import UsageError
from trtenv.spec.options import BY_NAME
from trtenv.spec.shapes import Shapes

BUILDERS = ("auto", "api", "trtexec")
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
        pools = self.wishes.get("mem_pool_size", {})
        if "workspace" in self.wishes and "workspace" in pools:
            raise UsageError("--workspace and --mem-pool-size both set the workspace")
        if "calibration" in self.wishes and self.precision not in ("int8", "fp8", "best"):
            raise UsageError(
                f"--calibration has no use in {self.precision}", hint="add --precision int8"
            )
        if "keep_fp32" in self.wishes and self.precision not in LOWER:
            raise UsageError(
                f"--keep-fp32 has no use in {self.precision}", hint="add --precision fp16"
            )
        if "reproducible" in self.wishes and self.wishes.get("timing_cache") == "none":
            raise UsageError(
                "--reproducible replays a timing cache, and --timing-cache none forbids one",
                hint="drop --timing-cache none",
            )
        for name in ("calibration_mean", "calibration_std"):
            if len(self.wishes.get(name, [1])) not in (1, 3, 4):
                raise UsageError(f"{BY_NAME[name].flag} takes one value, or one for each channel")
        return self
