"""What would be run, said completely: the jobs and the equal command lines. Starts nothing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from trtenv.pipeline.convert import Work
from trtenv.pipeline.export import export_params
from trtenv.pipeline.place import Place
from trtenv.runners.container import ROOT, WORKER, inside, option_binds
from trtenv.runners.protocol import JOBS_FOLDER

# Stands for the staging folder of a real run: with these files in it, the commands can be pasted.
STAGING = Path("trtenv-job")


def describe(work: Work) -> list[dict[str, Any]]:
    jobs = []
    if work.export and work.export_place:
        place = work.export_place
        binds = option_binds(place.options.mounts) if place.choice.runner == "docker" else []
        params = export_params(
            work.export, lambda path: inside(path, binds) if binds else str(path)
        )
        jobs.append(job("export", params, place, {}))
    for plan in work.plans:
        onnx = f"jobs/onnx/{work.onnx.name}"
        shown = folders(plan.place)[0] + f"/onnx/{work.onnx.name}"
        jobs.append(job("build", plan.params(shown), plan.place, {onnx: str(work.onnx)}))
    return jobs


def folders(place: Place) -> tuple[str, str]:
    """Where the worker sees the folders of jobs and of results."""
    if place.choice.runner == "docker":
        return f"{ROOT}/session", f"{ROOT}/out"
    return str(STAGING.absolute() / "jobs"), str(STAGING.absolute() / "out")


def job(kind: str, params: dict[str, Any], place: Place, files: dict[str, str]) -> dict[str, Any]:
    """`files` are what must lie in the staging folder: by its name there, this job or a file's copy."""
    _ = place.locked_entry  # --locked refuses here as it would there
    jobs, out = folders(place)
    docker = place.choice.runner == "docker"
    worker = [*(WORKER if docker else ("python", str(JOBS_FOLDER / "worker.py")))]
    worker += [f"{jobs}/1-{kind}", f"{out}/1-{kind}"]
    staging = STAGING.absolute() if docker else None
    argv = place.runner.command_line(place.pinned, place.options, worker, staging)
    return {
        "environment": place.environment.name,
        "runner": place.choice.runner,
        "reason": place.choice.reason,
        "kind": kind,
        "params": params,
        "files": {f"jobs/1-{kind}/job.json": "this job", **files},
        "command": shlex.join(argv),
        "argv": argv,
    }
