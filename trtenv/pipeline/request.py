"""One engine that is to be made: everything decided, nothing started. And when it counts as made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trtenv.dialect.build import BACKENDS, Translation, raise_refused, study
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import fingerprint, is_current
from trtenv.errors import UsageError
from trtenv.pipeline.onnxmodel import OnnxModel, is_quantized
from trtenv.pipeline.place import Place
from trtenv.runners.protocol import JOBS_FOLDER
from trtenv.spec import values
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import OPTIONS
from trtenv.spec.shapes import Shapes, check_shapes

FILES = tuple(option.name for option in OPTIONS if option.parse is values.file)
LAYERS = "layers.json"  # in the job's output folder
PathMap = Callable[[str], str]


class BuildPlan(NamedTuple):
    """profiles: shapes for every input, once the model has been looked at; empty before.

    calibration: what is measured with what, and the digest of the data; None where nothing is.
    """

    place: Place
    spec: BuildSpec
    translation: Translation
    output: Path
    profiles: tuple[Shapes, ...] = ()
    calibration: Mapping[str, Any] | None = None

    @property
    def log(self) -> Path:
        return self.output.with_name(self.output.name + ".log")

    def params(self, onnx: str, path: PathMap = str) -> dict[str, Any]:
        """The build job's parameters; `path` turns a host's path into one of the inside.

        Timing and calibration caches are added when the job is staged: they change no engine.
        """
        said = say(self.place, inside(self.spec, path))
        return {
            "flavour": self.place.environment.flavour,
            "onnx": onnx,
            "builder": said.builder,
            "graph": list(said.graph),
            "steps": list(said.steps),
            "flags": list(said.flags),
            "profiles": [
                {name: shape.to_dict() for name, shape in sorted(profile.items())}
                for profile in self.profiles or self.spec.profiles
            ],
            "asked": self.spec.precision,
            "calibration": None if self.calibration is None else dict(self.calibration),
            "timing_cache": None,
            "output": self.output.name,
        }


def say(place: Place, spec: BuildSpec) -> Translation:
    """The request in the words of this environment's TensorRT; refusals are in it."""
    env = place.environment
    # NVIDIA's wheels carry no trtexec; whether an image has it shows when it runs.
    backends = ("api",) if env.kind == "wheel" else BACKENDS
    return study(spec, env.flavour, env.tensorrt or "", backends)


def inside(spec: BuildSpec, path: PathMap) -> BuildSpec:
    """The request as the job gets it: paths of the inside, the timing cache apart."""
    wishes = {**spec.wishes}
    for name in FILES:
        if name in wishes:
            wishes[name] = [path(file) for file in wishes[name]]
    if "export_layer_info" in wishes:
        wishes["export_layer_info"] = LAYERS
    if wishes.get("timing_cache", "auto") != "none":
        wishes["timing_cache"] = "auto"
    return spec._replace(wishes=wishes)


def plan_build(place: Place, spec: BuildSpec, output: Path) -> BuildPlan:
    """UsageError where this environment's TensorRT cannot do what the spec asks.

    In a dry run the refusals are part of the answer.
    """
    env = place.environment
    translation = say(place, spec)
    if not place.settings.dry_run:
        raise_refused(translation, env.flavour, env.tensorrt or "")
    plan = BuildPlan(place, spec, translation, output)
    if "calibration" not in spec.wishes:
        return plan
    from trtenv.pipeline import calibration

    data = calibration.read_data(Path(spec.wishes["calibration"]))
    place.options = calibration.with_data(place.options, data, place.choice.runner)
    chosen = calibration.settings(spec.wishes)
    return plan._replace(calibration={**chosen, "sha256": data.sha256})


def with_model(plan: BuildPlan, model: OnnxModel) -> BuildPlan:
    """The plan with every input's shapes. UsageError where the request does not fit the model.

    trtexec wants shapes for dynamic inputs alone, and none at all for a static model.
    """
    wanted = plan.spec.profiles or ({},)
    profiles = tuple(check_shapes(shapes, model.inputs) for shapes in wanted)
    dynamic = {entry.name for entry in model.inputs if entry.dims is None or None in entry.dims}
    asked: tuple[Shapes, ...] = ()
    if dynamic:
        asked = tuple(
            {name: shapes[name] for name in shapes if name in dynamic} for shapes in profiles
        )
    elif len(profiles) > 1:
        raise UsageError(
            f"`{model.path}` is static: it has one shape, and {len(profiles)} profiles are given",
            hint="export it with a range of shapes, or give one",
        )
    spec = plan.spec._replace(profiles=asked)
    if spec.precision in ("int8", "fp8") and not (plan.calibration or is_quantized(model)):
        raise UsageError(
            f"--precision {spec.precision} needs ranges: `{model.path}` has no Q/DQ nodes, and no "
            "data to calibrate with is given",
            hint="give some hundred samples: --calibration FOLDER, or an .npz or .npy file",
        )
    place = plan.place
    translation = say(place, spec)
    if not place.settings.dry_run:
        raise_refused(translation, place.environment.flavour, place.environment.tensorrt or "")
    return plan._replace(spec=spec, translation=translation, profiles=profiles)


def build_key(plan: BuildPlan, model: OnnxModel) -> str:
    """Changes with anything that could change the engine."""
    place = plan.place
    return fingerprint(
        {
            "onnx": model.sha256,
            "params": plan.params("model.onnx", lambda path: file_digest(Path(path))),
            "environment": place.identity.digest,
            "device": place.settings.gpu_names if place.options.needs_gpu else None,
            "variables": dict(place.options.variables),
            "job": job_sources(),
        }
    )


@cache
def job_sources() -> dict[str, str]:
    return {path.name: file_digest(path) for path in JOBS_FOLDER.glob("*.py")}


def is_built(plan: BuildPlan, model: OnnxModel) -> bool:
    if plan.place.settings.always or not is_current(plan.output, build_key(plan, model)):
        return False
    listed = plan.spec.wishes.get("export_layer_info")
    return listed is None or Path(listed).is_file()
