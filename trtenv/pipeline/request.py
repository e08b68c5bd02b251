"""One engine that is to be made: everything decided, nothing started. And when it counts as made."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trtenv import console
from trtenv.dialect.build import BACKENDS, Translation, raise_refused, study
from trtenv.engine.digests import file_digest
from trtenv.engine.precision import Verdict
from trtenv.engine.precision import check as check_precision
from trtenv.engine.stamp import fingerprint, is_current, is_ours, read_stamp
from trtenv.errors import UsageError
from trtenv.pipeline.onnxmodel import OnnxModel, is_quantized, node_names
from trtenv.pipeline.place import Place
from trtenv.runners.protocol import JOBS_FOLDER
from trtenv.spec import values
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import OPTIONS
from trtenv.spec.shapes import Shapes, check_shapes

if TYPE_CHECKING:
    from trtenv.pipeline.lint import Report

FILES = tuple(option.name for option in OPTIONS if option.parse is values.file)
LAYERS = "layers.json"  # in the job's output folder
PathMap = Callable[[str], str]


class BuildPlan(NamedTuple):
    """profiles: shapes for every input, once the model has been looked at; empty before.

    calibration: None where no ranges are measured.
    """

    place: Place
    spec: BuildSpec
    translation: Translation
    output: Path
    profiles: tuple[Shapes, ...] = ()
    calibration: Calibration | None = None

    @property
    def log(self) -> Path:
        return self.output.with_name(self.output.name + ".log")

    @property
    def timed(self) -> bool:
        """Whether this TensorRT keeps a timing cache, as the dialect has it."""
        entries = {entry.option: entry for entry in self.translation.entries}
        entry = entries.get("timing_cache")
        wanted = self.spec.wishes.get("timing_cache", "auto") != "none"
        return wanted and entry is not None and entry.outcome == "translated"

    def check_precision(self, found: Mapping[str, Any] | None) -> Verdict:
        """ArtifactError for an engine without the precision asked for, unless any is accepted."""
        accept = self.spec.wishes.get("accept_precision") == "any"
        return check_precision(self.spec.precision, found, accept_any=accept)

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
            "calibration": self._calibration(path),
            "timing_cache": None,
            "verbose": False,
            "output": self.output.name,
        }

    def _calibration(self, path: PathMap) -> dict[str, Any] | None:
        if self.calibration is None:
            return None
        data = path(self.spec.wishes["calibration"])
        return {**self.calibration.settings, "data": data, "cache": None}


class Calibration(NamedTuple):
    """How ranges are measured, and the digest of the data they are measured on."""

    settings: Mapping[str, Any]
    sha256: str


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


def staged_name(path: str) -> str:
    """Of a user's file in the staging folder; two files may have one name."""
    apart = sha256(os.fsencode(path)).hexdigest()[:8]
    return f"jobs/files/{apart}/{Path(path).name}"


def plan_build(place: Place, spec: BuildSpec, output: Path) -> BuildPlan:
    """UsageError where this environment's TensorRT cannot do what the spec asks.

    In a dry run the refusals are part of the answer.
    """
    env = place.environment
    translation = say(place, spec)
    if not place.settings.dry_run:
        raise_refused(translation, env.flavour, env.tensorrt or "")
    plan = BuildPlan(place, spec, translation, output)
    check_outputs(plan)
    if "calibration" not in spec.wishes:
        return plan
    from trtenv.pipeline import calibration

    data = calibration.read_data(Path(spec.wishes["calibration"]))
    place.options = calibration.with_data(place.options, data, place.choice.runner)
    chosen = Calibration(calibration.settings(spec.wishes), data.sha256)
    return plan._replace(calibration=chosen)


def check_outputs(plan: BuildPlan) -> None:
    """UsageError where what comes beside the engine could not be written: builds take long."""
    wishes, settings = plan.spec.wishes, plan.place.settings
    if wishes.get("timing_cache", "auto") not in ("auto", "none"):
        from trtenv.pipeline.timing_cache import check_file

        check_file(Path(wishes["timing_cache"]))
    if "export_layer_info" not in wishes:
        return
    target = Path(wishes["export_layer_info"])
    stamp = (read_stamp(plan.output) or {}) if is_ours(plan.output) else {}
    ours = is_whole(stamp.get("build", {}).get("layer_info"), target)
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(
            f"the layers cannot be written to `{target}`",
            hint="name a file in a folder that you may write to: --export-layer-info FILE",
        )
    if target.exists() and not ours and not settings.force:
        raise UsageError(
            f"`{target}` is there, and is not the layers of `{plan.output.name}`",
            hint="move it away, choose another file, or overwrite it: --force",
        )


def with_model(plan: BuildPlan, model: OnnxModel) -> BuildPlan:
    """The plan with every input's shapes. UsageError where the request does not fit the model.

    trtexec wants shapes for dynamic inputs alone, and none at all for a static model.
    """
    wanted = plan.spec.profiles or ({},)
    profiles = tuple(check_shapes(shapes, model.inputs) for shapes in wanted)
    told = {entry.name for entry in model.inputs if entry.dims is None or None in entry.dims}
    told |= {name for shapes in profiles for name in shapes if shapes[name].only_values}
    asked: tuple[Shapes, ...] = ()
    if told:
        asked = tuple(
            {name: shapes[name] for name in shapes if name in told} for shapes in profiles
        )
    elif len(profiles) > 1:
        raise UsageError(
            f"`{model.path}` is static: it has one shape, and {len(profiles)} profiles are given",
            hint="export it with a range of shapes, or give one",
        )
    plan = plan._replace(spec=plan.spec._replace(profiles=asked), profiles=profiles)
    if plan.spec.precision in ("int8", "fp8"):
        plan = _with_ranges(plan, model)
    if plan.spec.builder == "trtexec" or plan.translation.builder == "trtexec":
        _check_layer_names(plan.spec, model)
    translation = say(plan.place, plan.spec)
    if not plan.place.settings.dry_run:
        raise_refused(translation, *plan.place.target)
    return plan._replace(translation=translation)


def _with_ranges(plan: BuildPlan, model: OnnxModel) -> BuildPlan:
    """A model with Q/DQ nodes has its ranges: it needs no data, and would use none."""
    spec = plan.spec
    if not is_quantized(model):
        if plan.calibration is None:
            raise UsageError(
                f"--precision {spec.precision} needs ranges: `{model.path}` has no Q/DQ nodes, and "
                "no data to calibrate with is given",
                hint="give some hundred samples: --calibration FOLDER, or an .npz or .npy file",
            )
        return plan
    if "keep_fp32" in spec.wishes:
        raise UsageError(
            f"`{model.path}` says itself, by its Q/DQ nodes, what runs in {spec.precision}: "
            "--keep-fp32 changes nothing",
            hint="drop it, or take the Q/DQ nodes out of the model",
        )
    if plan.calibration is None:
        return plan
    console.say(f"note: `{model.path}` has Q/DQ nodes: the calibration data is not used")
    kept = {
        name: value
        for name, value in spec.wishes.items()
        if name != "quantization" and not name.startswith("calibration")
    }
    return plan._replace(spec=spec._replace(wishes=kept), calibration=None)


def _check_layer_names(spec: BuildSpec, model: OnnxModel) -> None:
    """UsageError for a name that no node has: trtexec passes over it without a word."""
    wanted = [
        name
        for option in ("keep_fp32", "layer_precisions", "layer_output_types", "layer_device_types")
        for name in spec.wishes.get(option, ())
    ]
    if not wanted:
        return
    known = node_names(model)
    for name in wanted:
        if "*" not in name and name not in known:
            close = ", ".join(difflib.get_close_matches(name, known))
            raise UsageError(
                f"no node of `{model.path}` is called `{name}`",
                hint=f"near to it: {close}" if close else "names are those of the ONNX nodes",
            )


def lint_for(plan: BuildPlan, onnx: Path) -> Report:
    """What speaks against this request for this model, before anything is started."""
    from trtenv.pipeline.lint import lint, plugins_given

    wishes = plan.spec.wishes
    return lint(
        onnx,
        plan.profiles,
        *plan.place.target,
        dla="use_dla_core" in wishes,
        gpu_fallback="allow_gpu_fallback" in wishes,
        plugins=plugins_given(plan.spec),
    )


def build_key(plan: BuildPlan, model: OnnxModel) -> str:
    """Changes with anything that could change the engine."""
    return fingerprint({"request": request_key(plan, model), "job": job_sources()})


def request_key(plan: BuildPlan, model: OnnxModel) -> str:
    """The same, whatever trtenv builds it."""
    place, spec = plan.place, plan.spec

    def digest(path: str) -> str:
        if plan.calibration is not None and path == spec.wishes["calibration"]:
            return plan.calibration.sha256
        return file_digest(Path(path))

    named = [text.partition("=")[2] for text in spec.extra]
    return fingerprint(
        {
            "onnx": model.sha256,
            "params": plan.params("model.onnx", digest),
            "named": {path: digest(path) for path in named if Path(path).is_file()},
            "environment": place.identity.digest,
            "device": place.settings.gpu_names if place.options.needs_gpu else None,
            "variables": dict(place.options.variables),
        }
    )


@cache
def job_sources() -> dict[str, str]:
    return {path.name: file_digest(path) for path in JOBS_FOLDER.glob("*.py")}


def is_built(plan: BuildPlan, model: OnnxModel) -> bool:
    """ArtifactError where it is, and is not in the precision that is asked for now."""
    if plan.place.settings.always or not is_current(plan.output, build_key(plan, model)):
        return False
    stamp = read_stamp(plan.output) or {}
    recorded = stamp["build"].get("recorded")
    if "reproducible" in plan.spec.wishes and plan.timed and not is_whole(recorded, plan.output):
        return False
    layers = plan.spec.wishes.get("export_layer_info")
    if layers and not is_whole(stamp["build"].get("layer_info"), Path(layers)):
        return False
    plan.check_precision(stamp["engine"]["precision"]["found"])
    return True


def is_whole(entry: Mapping[str, Any] | None, beside: Path) -> bool:
    """Whether the file that the stamp speaks of is still there as it was, beside that path."""
    if entry is None:
        return False
    file = beside.with_name(entry["name"])
    return file.is_file() and file_digest(file) == entry["sha256"]
