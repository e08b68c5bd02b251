"""ONNX in, stamped engine out, for one environment."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from trtenv import console
from trtenv.engine.precision import check as check_precision
from trtenv.errors import HostError, JobFailed
from trtenv.pipeline import calibration, timing_cache
from trtenv.pipeline.enginestamp import engine_stamp
from trtenv.pipeline.onnxmodel import OnnxModel, stage
from trtenv.pipeline.request import LAYERS, BuildPlan, build_key
from trtenv.pipeline.staging import publish, publish_log
from trtenv.pipeline.turns import gpu_turn
from trtenv.runners.protocol import Job, JobResult, Session


def run_build(plan: BuildPlan, model: OnnxModel, session: Session) -> dict[str, Any]:
    """Build, look at the engine, stamp it and put it in place; returns the stamp."""
    for note in plan.translation.notes:
        console.say(f"note: {note}")
    params = plan.params(stage(model, session), Files(session).inside)
    params["verbose"] = console.is_verbose()
    ranges = None
    if plan.calibration is not None:
        data = calibration.read_data(Path(plan.spec.wishes["calibration"]))
        ranges = calibration_key(plan, model, data, params)
        chosen = calibration.settings(plan.spec.wishes)
        params["calibration"] = calibration.params(chosen, data, ranges, session)
    try:
        result, recorded = _run(plan, build_key(plan, model), params, session)
        values = result.values
        plan.place.record(values["environment"])
        for warning in values["warnings"]:
            console.detail(f"TensorRT: {warning}")
        if ranges is not None:
            calibration.keep_cache(ranges, result.out)
        accept = plan.spec.wishes.get("accept_precision") == "any"
        found = check_precision(plan.spec.precision, values["found"], accept_any=accept)
        console.say(f"{plan.output.name}: {found.message}")
        made = result.out / plan.output.name
        _export_layers(plan, result)
        stamp = engine_stamp(plan, model, values, made)
        stamp["build"]["recorded"] = recorded
        return publish(made, plan.output, stamp, [])
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
        if timed(plan):
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
        if reproducible and report and not again:
            return result, timing_cache.record(result.out, plan.output)
    return result, None


def timed(plan: BuildPlan) -> bool:
    """Whether this TensorRT keeps a timing cache, as the dialect has it."""
    entries = {entry.option: entry for entry in plan.translation.entries}
    entry = entries.get("timing_cache")
    wanted = plan.spec.wishes.get("timing_cache", "auto") != "none"
    return wanted and entry is not None and entry.outcome == "translated"


def calibration_key(
    plan: BuildPlan, model: OnnxModel, data: calibration.CalibrationData, params: dict[str, Any]
) -> str:
    place = plan.place
    return calibration.cache_key(
        model=model.sha256,
        data=data.sha256,
        flavour=place.environment.flavour,
        version=place.identity.digest,
        devices=place.settings.gpu_names,
        settings=calibration.settings(plan.spec.wishes),
        network={"graph": params["graph"], "profiles": params["profiles"]},
    )


def _export_layers(plan: BuildPlan, result: JobResult) -> None:
    target = plan.spec.wishes.get("export_layer_info")
    if target is None:
        return
    try:
        shutil.copyfile(result.out / LAYERS, target)
    except OSError as error:
        raise HostError(
            f"the layers cannot be written to `{target}`: {error.strerror}",
            hint="name a file in a folder that exists: --export-layer-info FILE",
        ) from error


class Files:
    """The user's own files, where the worker sees them; each is put there once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def inside(self, path: str) -> str:
        source = Path(path)
        apart = sha256(os.fsencode(source)).hexdigest()[:8]  # two files may have one name
        folder = self._session.staging / "jobs" / "files" / apart
        target = folder / source.name
        folder.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(source, target)
        return self._session.inside(target)
