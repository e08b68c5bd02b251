"""ONNX in, stamped engine out, for one environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from trtenv import __version__, console
from trtenv.dialect.build import Translation, translate
from trtenv.dialect.versions import opset_range
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import fingerprint, is_current, read_stamp
from trtenv.errors import ArtifactError, UsageError
from trtenv.pipeline.onnxmodel import OnnxModel, stage
from trtenv.pipeline.place import Place, now
from trtenv.pipeline.staging import publish, publish_log
from trtenv.runners.protocol import JOBS_FOLDER, Job, JobResult, Session
from trtenv.spec.build import BuildSpec
from trtenv.spec.shapes import InputInfo, check_shapes

HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """One engine to be made: everything is decided, nothing has been started."""

    place: Place
    spec: BuildSpec
    translation: Translation
    output: Path

    @property
    def log(self) -> Path:
        return self.output.with_name(self.output.name + ".log")

    def params(self, onnx: str) -> dict[str, Any]:
        return {
            "flavour": self.place.environment.flavour,
            "onnx": onnx,
            "steps": list(self.translation.steps),
            "shapes": {name: shape.to_dict() for name, shape in sorted(self.spec.shapes.items())},
            "output": self.output.name,
        }


def plan_build(place: Place, spec: BuildSpec, output: Path) -> BuildPlan:
    """UsageError where this environment's TensorRT cannot do what the spec asks."""
    env = place.environment
    if spec.compute_capabilities and env.flavour != "tensorrt-rtx":
        raise UsageError(
            f"--sm needs TensorRT-RTX; `{env.name}` builds for the GPU it runs on",
            hint="drop --sm, or choose --trt rtx",
        )
    return BuildPlan(place, spec, translate(spec, env.flavour, env.tensorrt or ""), output)


def check_opset(plan: BuildPlan, model: OnnxModel) -> None:
    """UsageError where the tables are sure that this TensorRT does not take the model's opset."""
    limit = opset_range(*plan.place.target)
    if limit and limit.sure and model.opset > limit.max:
        env = plan.place.environment
        raise UsageError(
            f"`{model.path}` has opset {model.opset}; {env.flavour} {env.tensorrt} takes up to "
            f"opset {limit.max} ({limit.source})",
            hint=f"export it again with --opset {limit.max}, or choose a newer TensorRT",
        )


def with_shapes(plan: BuildPlan, inputs: tuple[InputInfo, ...]) -> BuildPlan:
    """Names, ranks and static dimensions against the model; see spec.shapes.check_shapes."""
    return replace(plan, spec=replace(plan.spec, shapes=check_shapes(plan.spec.shapes, inputs)))


def build_key(plan: BuildPlan, model: OnnxModel) -> str:
    """Changes with anything that could change the engine."""
    place = plan.place
    return fingerprint(
        {
            "onnx": model.sha256,
            "params": plan.params("model.onnx"),
            "environment": place.identity.digest,
            "device": place.settings.gpu_names if place.options.needs_gpu else None,
            "variables": dict(place.options.variables),
            "job": job_sources(),
        }
    )


@cache
def job_sources() -> dict[str, str]:
    return {path.name: fingerprint({"text": path.read_text()}) for path in JOBS_FOLDER.glob("*.py")}


def is_built(plan: BuildPlan, model: OnnxModel) -> bool:
    return not plan.place.settings.always and is_current(plan.output, build_key(plan, model))


def run_build(plan: BuildPlan, model: OnnxModel, session: Session) -> dict[str, Any]:
    """Build, stamp and put the engine in place; returns the stamp."""
    for note in plan.translation.notes:
        console.say(f"note: {note}")
    job = Job("build", plan.params(stage(model, session)))
    try:
        with console.Step(f"building {plan.output.name} in {plan.place.environment.name}") as step:
            result = session.run(job, step.on_event)
        made = result.out / plan.output.name
        stamp = publish(made, plan.output, engine_stamp(plan, model, result, made), [])
    finally:
        publish_log(session.log, plan.log)
    plan.place.record(result.values["environment"])
    for warning in result.values["warnings"]:
        console.detail(f"TensorRT: {warning}")
    return stamp


def engine_stamp(
    plan: BuildPlan, model: OnnxModel, result: JobResult, made: Path
) -> dict[str, Any]:
    from trtenv.engine.header import read_plan_header

    values, env = result.values, plan.place.environment
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
            "inputs": values["inputs"],
            "outputs": values["outputs"],
            "profiles": [plan.params("")["shapes"]],
            "layers": values["layers"],
            "precision": {"asked": plan.spec.precision, "found": _found(plan, values)},
        },
        "source": {
            "onnx": {"name": model.path.name, "sha256": model.sha256, "opset": model.opset},
            "model": _model_story(model.path),
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
            "api": list(plan.translation.steps),
            "seconds": values["build_seconds"],
            "warnings": values["warnings"],
            "log": plan.log.name,
        },
        "targets": _targets(plan, header.version, devices),
    }


def _found(plan: BuildPlan, values: Mapping[str, Any]) -> dict[str, int] | None:
    """Layer output types say what runs only where the network is typed; flags merely allow."""
    typed = any(step["do"] == "cast" for step in plan.translation.steps)
    typed = typed or plan.place.environment.flavour == "tensorrt-rtx"
    return dict(values["layer_types"]) if typed else None


def _model_story(onnx: Path) -> dict[str, Any] | None:
    """What the ONNX file's own stamp tells of its origin, if the file is still that one."""
    try:
        stamp = read_stamp(onnx)
    except ArtifactError:
        return None
    if stamp is None or stamp.get("sha256") != file_digest(onnx):
        return None
    return stamp.get("source")


def _targets(plan: BuildPlan, version: str | None, devices: list[Any]) -> dict[str, Any]:
    if plan.place.environment.flavour == "tensorrt-rtx":
        asked = list(plan.spec.compute_capabilities)
        rule = "TensorRT-RTX engines load only in the release that built them"
        return {
            "version": version,
            "compute_capabilities": asked or "the release's portable default",
            "rule": rule,
        }
    return {
        "version": version,
        "compute_capabilities": [device["compute_capability"] for device in devices[:1]],
        "rule": "TensorRT engines load only in the version and on the GPU model that built them, "
        "unless built version- or hardware-compatible",
    }
