"""What the stamp of an engine says: what it is, from what, by what, on what, for where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtenv import __version__, console
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import read_stamp, render, stamp_path
from trtenv.engine.taskmeta import card_of_metadata, merged
from trtenv.errors import ArtifactError, HostError, UsageError
from trtenv.paths import whole_file
from trtenv.pipeline.onnxmodel import OnnxModel
from trtenv.pipeline.place import now
from trtenv.pipeline.request import BuildPlan, build_key, inside, say
from trtenv.pipeline.staging import sole_writer
from trtenv.spec import values
from trtenv.spec.options import BY_NAME

HEADER_BYTES = 4096


def engine_stamp(
    plan: BuildPlan, model: OnnxModel, results: Mapping[str, Any], made: Path
) -> dict[str, Any]:
    """ArtifactError where the environment made an engine of another flavour than it is said to."""
    from trtenv.engine.header import read_plan_header

    env = plan.place.environment
    said = say(plan.place, inside(plan.spec, base))
    with made.open("rb") as handle:
        header = read_plan_header(handle.read(HEADER_BYTES), made.stat().st_size)
    if header.flavour != env.flavour:
        raise ArtifactError(f"`{env.name}` made an engine of {header.flavour}, not {env.flavour}")
    measured = dict(results["environment"])
    devices = measured.pop("devices", [])
    return {
        "format": 1,
        "kind": "engine",
        "trtenv": __version__,
        "key": build_key(plan, model),
        "date": now(),
        "engine": {
            "flavour": env.flavour,
            "version": header.version or measured.get(env.flavour),
            "inputs": results["inputs"] or declared_inputs(model),
            "outputs": results["outputs"],
            "profiles": plan.params("")["profiles"],
            "layers": results["layers"],
            "precision": {"asked": plan.spec.precision, "found": results["found"]},
        },
        "source": {
            "onnx": {"name": model.path.name, "sha256": model.sha256, "opset": model.opset},
            "model": model_story(model.path),
        },
        "task": task_of(model),
        "environment": {
            "name": env.name,
            "runner": plan.place.choice.runner,
            "reference": plan.place.identity.reference,
            "digest": plan.place.identity.digest,
            "platform": plan.place.identity.platform,
            "measured": measured,
        },
        "gpu": devices[0] if devices and env.flavour == "tensorrt" else None,
        "build": {
            "builder": said.builder,
            "wishes": portable(plan),
            "graph": list(said.graph),
            "rewritten": results.get("graph"),
            "quantized": results.get("quantize"),
            "api": list(said.steps),
            "trtexec": [without_folders(flag) for flag in said.flags],
            "timing_cache": results["timing_cache"],
            "calibration": calibration_story(plan, results),
            "seconds": results["build_seconds"],
            "warnings": results["warnings"],
            "log": plan.log.name,
        },
        "targets": targets(plan, header.version, devices),
    }


def task_of(model: OnnxModel) -> dict[str, Any] | None:
    """The card in the ONNX file's metadata, if it is one: a build needs none, and says what is wrong."""
    card = card_of_metadata(model.metadata)
    try:
        return merged(card, {}) if card else None
    except UsageError as error:
        console.say(f"note: what `{model.path}` says of its task is not used: {error.message}")
        return None


def restamp(engine: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's stamp, with this task card: no byte of an engine depends on it."""
    with sole_writer(engine):
        stamp = read_stamp(engine) or {}
        if stamp.get("task") == card:
            return stamp
        stamp = {**stamp, "task": dict(card)}
        try:
            with whole_file(stamp_path(engine)) as part:
                part.write_text(render(stamp), encoding="utf-8")
        except OSError as error:
            raise HostError(
                f"cannot write the stamp of `{engine}`: {error.strerror}",
                hint="check disk and rights",
            ) from error
        return stamp


PATHS = (values.file, values.data, values.output, values.cache)


def portable(plan: BuildPlan) -> dict[str, Any]:
    """The request; of paths only the names, since stamps travel with engines."""
    found: dict[str, Any] = {}
    for option, value in sorted(plan.spec.wishes.items()):
        if BY_NAME[option].parse in PATHS:
            found[option] = [*map(base, value)] if isinstance(value, list) else base(value)
        else:
            found[option] = value
    return found


def base(path: str) -> str:
    return Path(path).name


def without_folders(flag: str) -> str:
    """A raw flag with the name alone of an absolute path."""
    name, equals, value = flag.partition("=")
    return f"{name}={base(value)}" if equals and Path(value).is_absolute() else flag


def calibration_story(plan: BuildPlan, results: Mapping[str, Any]) -> dict[str, Any] | None:
    if plan.calibration is None:
        return None
    story = {**plan.calibration.settings, "sha256": plan.calibration.sha256}
    return {**story, **(results["calibration"] or {})}


def declared_inputs(model: OnnxModel) -> list[dict[str, Any]]:
    """As the ONNX file says: trtexec tells nothing of the network it built."""
    return [
        {
            "name": entry.name,
            "dtype": entry.dtype,
            "shape": None if entry.dims is None else [-1 if d is None else d for d in entry.dims],
        }
        for entry in model.inputs
    ]


def model_story(onnx: Path) -> dict[str, Any] | None:
    """What the ONNX file's own stamp tells of its origin, if the file is still that one."""
    try:
        stamp = read_stamp(onnx)
    except ArtifactError:
        return None
    if stamp is None or stamp.get("sha256") != file_digest(onnx):
        return None
    return stamp.get("source")


def targets(plan: BuildPlan, version: str | None, devices: list[Any]) -> dict[str, Any]:
    wishes = plan.spec.wishes
    if plan.place.environment.flavour == "tensorrt-rtx":
        asked = list(plan.spec.compute_capabilities)
        return {
            "version": version,
            "compute_capabilities": asked or "the release's portable default",
            "rule": "TensorRT-RTX engines load only in the release that built them",
        }
    later = bool(wishes.get("version_compatible"))
    level = wishes.get("hardware_compatible", "none")
    gpus = {
        "none": "on the GPU model that built them",
        "same-sm": "on GPUs of the compute capability that built them",
        "ampere+": "on GPUs of the Ampere generation and later, Jetson apart",
    }
    versions = "in the version that built them" + (" and later ones" if later else "")
    return {
        "version": version,
        "version_compatible": later,
        "hardware_compatible": level,
        "platform": wishes.get("runtime_platform", "same"),
        "compute_capabilities": [device["compute_capability"] for device in devices[:1]],
        "rule": f"engines of this kind load only {versions} and {gpus[level]}",
    }
