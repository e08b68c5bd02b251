"""What the stamp of an engine says: what it is, from what, by what, on what, for where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtenv import __version__
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import read_stamp
from trtenv.errors import ArtifactError
from trtenv.pipeline.onnxmodel import OnnxModel
from trtenv.pipeline.place import now
from trtenv.pipeline.request import BuildPlan, build_key

HEADER_BYTES = 4096


def engine_stamp(
    plan: BuildPlan, model: OnnxModel, values: Mapping[str, Any], made: Path
) -> dict[str, Any]:
    """ArtifactError where the environment made an engine of another flavour than it is said to."""
    from trtenv.engine.header import read_plan_header

    env, said = plan.place.environment, plan.translation
    with made.open("rb") as handle:
        header = read_plan_header(handle.read(HEADER_BYTES), made.stat().st_size)
    if header.flavour != env.flavour:
        raise ArtifactError(f"`{env.name}` made an engine of {header.flavour}, not {env.flavour}")
    measured = dict(values["environment"])
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
            "inputs": values["inputs"] or declared_inputs(model),
            "outputs": values["outputs"],
            "profiles": plan.params("")["profiles"],
            "layers": values["layers"],
            "precision": {"asked": plan.spec.precision, "found": values["found"]},
        },
        "source": {
            "onnx": {"name": model.path.name, "sha256": model.sha256, "opset": model.opset},
            "model": model_story(model.path),
        },
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
            "rewritten": values.get("graph"),
            "quantized": values.get("quantize"),
            "api": list(said.steps),
            "trtexec": list(said.flags),
            "timing_cache": values["timing_cache"],
            "calibration": calibration_story(plan, values),
            "seconds": values["build_seconds"],
            "warnings": values["warnings"],
            "log": plan.log.name,
        },
        "targets": targets(plan, header.version, devices),
    }


def portable(plan: BuildPlan) -> dict[str, Any]:
    """The request; of paths only the names, since stamps travel with engines."""

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(entry) for entry in value]
        absolute = isinstance(value, str) and Path(value).is_absolute()
        return Path(value).name if absolute else value

    return {option: name(value) for option, value in sorted(plan.spec.wishes.items())}


def calibration_story(plan: BuildPlan, values: Mapping[str, Any]) -> dict[str, Any] | None:
    if plan.calibration is None:
        return None
    return {**plan.calibration, **(values["calibration"] or {})}


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
