"""ONNX in, stamped engine out, for one environment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from trtenv import console
from trtenv.engine.digests import file_digest
from trtenv.errors import HostError, JobFailed
from trtenv.paths import whole_file
from trtenv.pipeline import calibration, timing_cache
from trtenv.pipeline.enginestamp import engine_stamp
from trtenv.pipeline.onnxmodel import OnnxModel, stage
from trtenv.pipeline.request import LAYERS, BuildPlan, request_key, staged_name
from trtenv.pipeline.staging import publish, publish_log
from trtenv.pipeline.turns import gpu_turn
from trtenv.runners.protocol import Job, JobResult, Session


def run_build(plan: BuildPlan, model: OnnxModel, session: Session) -> dict[str, Any]:
    """Build, look at the engine, stamp it and put it in place; returns the stamp."""
    for note in plan.translation.notes:
        console.say(f"note: {note}")
    params = plan.params(stage(model, session), lambda path: staged(path, plan, session))
    params["verbose"] = console.is_verbose()
    ranges = None
    if plan.calibration is not None:
        ranges = calibration_key(plan, model, params)
        params["calibration"]["cache"] = calibration.stage_cache(ranges, session)
    try:
        result, recorded = _run(plan, request_key(plan, model), params, session)
        values = result.values
        plan.place.record(values["environment"])
        for warning in values["warnings"]:
            console.detail(f"TensorRT: {warning}")
        if ranges is not None:
            calibration.keep_cache(ranges, result.out)
        console.say(f"{plan.output.name}: {plan.check_precision(values['found']).message}")
        made = result.out / plan.output.name
        stamp = engine_stamp(plan, model, values, made)
        stamp["build"]["recorded"] = recorded
        stamp["build"]["layer_info"] = layer_info(plan, result)
        document = publish(made, plan.output, stamp, [])
        if stamp["build"]["layer_info"]:
            put_in_place(result.out / LAYERS, Path(plan.spec.wishes["export_layer_info"]))
        return document
    finally:
        publish_log(session.log, plan.log)


def _run(
    plan: BuildPlan, key: str, params: dict[str, Any], session: Session
) -> tuple[JobResult, dict[str, str] | None]:
    """The job's result, and what --reproducible recorded beside the engine, in the GPU's turn.

    JobFailed with cause and remedy where TensorRT's own words are known; they stay in the log.
    """
    place, wishes = plan.place, plan.spec.wishes
    reproducible = "reproducible" in wishes
    with gpu_turn(place):
        # In the turn: a build that waited goes by what the one before it measured.
        again = cache = None
        if plan.timed:
            again = timing_cache.replay(plan.output, key, place, session) if reproducible else None
            cache = again or timing_cache.stage(wishes.get("timing_cache", "auto"), place, session)
        job = Job("build", {**params, "timing_cache": cache.params if cache else None})
        try:
            with console.Step(f"building {plan.output.name} in {place.environment.name}") as step:
                result = session.run(job, step.on_event)
        except JobFailed as error:
            from trtenv.dialect.diagnosis import diagnosed

            raise diagnosed(error) from error
        report = result.values["timing_cache"]
        if cache and report:
            timing_cache.keep(cache, report, result.out, place, session)
        if reproducible and report:
            return result, timing_cache.record(result.out, plan.output, key, replayed=bool(again))
    return result, None


def calibration_key(plan: BuildPlan, model: OnnxModel, params: dict[str, Any]) -> str:
    assert plan.calibration
    place = plan.place
    return calibration.cache_key(
        model=model.sha256,
        data=plan.calibration.sha256,
        flavour=place.environment.flavour,
        version=place.identity.digest,
        devices=place.settings.gpu_names,
        settings=plan.calibration.settings,
        network={"graph": params["graph"], "profiles": params["profiles"]},
    )


def staged(path: str, plan: BuildPlan, session: Session) -> str:
    """Where the worker sees a file of the user's: calibration data is mounted, others are copied."""
    if path == plan.spec.wishes.get("calibration"):
        return session.inside(Path(path))
    target = session.staging / staged_name(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)
    return session.inside(target)


def layer_info(plan: BuildPlan, result: JobResult) -> dict[str, str] | None:
    if "export_layer_info" not in plan.spec.wishes:
        return None
    name = Path(plan.spec.wishes["export_layer_info"]).name
    return {"name": name, "sha256": file_digest(result.out / LAYERS)}


def put_in_place(made: Path, target: Path) -> None:
    """Whole or not at all. The engine is in place by now: what fails here costs no build."""
    try:
        with whole_file(target) as part:
            shutil.copyfile(made, part)
    except OSError as error:
        raise HostError(
            f"the layers cannot be written to `{target}`: {error.strerror}",
            hint="name a file in a folder that you may write to: --export-layer-info FILE",
        ) from error
