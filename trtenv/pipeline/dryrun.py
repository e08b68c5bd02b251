"""What would be run, said completely: the jobs and the equal command lines. Starts nothing."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trtenv.dialect.build import Translation, study
from trtenv.dialect.versions import split_flavour
from trtenv.pipeline.convert import Outcome, Work
from trtenv.pipeline.export import export_params
from trtenv.pipeline.infer import InferSpec
from trtenv.pipeline.onnxmodel import read_onnx
from trtenv.pipeline.place import Place
from trtenv.pipeline.request import BuildPlan, lint_for, staged_name, with_model
from trtenv.pipeline.running import see, shown_params
from trtenv.runners.container import ROOT, WORKER, inside, option_binds
from trtenv.runners.protocol import JOBS_FOLDER
from trtenv.spec.build import BuildSpec

# Stands for the staging folder of a real run: with these files in it, the commands can be pasted.
STAGING = Path("trtenv-job")


def describe(work: Work) -> list[dict[str, Any]]:
    """One document for each job. UsageError where the request does not fit a model that is there."""
    jobs = []
    if work.export and work.export_place:
        place = work.export_place
        binds = option_binds(place.options.mounts) if place.choice.runner == "docker" else []
        params = export_params(
            work.export, lambda path: inside(path, binds) if binds else str(path)
        )
        jobs.append(job("export", params, place, {}))
    model = None if work.export or not work.onnx.exists() else read_onnx(work.onnx)
    for plan in work.plans:
        fitted = plan if model is None else with_model(plan, model)
        onnx, files = f"jobs/onnx/{work.onnx.name}", {}
        files[onnx] = str(work.onnx)
        params = fitted.params(shown(onnx, plan.place), shown_files(plan, files))
        found = job("build", params, plan.place, files)
        said = dialect(fitted.translation, fitted.spec, plan.place.target, work.onnx, plan.output)
        report = None if model is None else lint_for(fitted, work.onnx).to_dict()
        jobs.append({**found, "dialect": said, "lint": report})
    return jobs


def running(kind: str, spec: InferSpec, place: Place) -> dict[str, Any]:
    """One job that runs a model."""
    see(place, spec.subject, spec.sources.paths)
    docker = place.choice.runner == "docker"
    binds = option_binds(place.options.mounts) if docker else []
    files, staged, subject = {}, None, spec.subject
    if subject.runtime == "onnxruntime" and subject.path is not None:
        onnx = f"jobs/onnx/{subject.path.name}"
        files[onnx] = str(subject.path)
        staged = shown(onnx, place)

    def path(source: Path) -> str:
        return inside(source, binds) if docker else str(source)

    return job(kind, spec.params(shown_params(subject, path, staged), path), place, files)


def shown(name: str, place: Place) -> str:
    """Where the worker sees what lies in the staging folder as `jobs/...`."""
    return folders(place)[0] + name.removeprefix("jobs")


def shown_files(plan: BuildPlan, files: dict[str, str]) -> Callable[[str], str]:
    """Paths of the user's files as the worker sees them; those that are copied go into `files`."""
    place = plan.place

    def path(source: str) -> str:
        if source == plan.spec.wishes.get("calibration"):
            docker = place.choice.runner == "docker"
            return inside(Path(source), option_binds(place.options.mounts)) if docker else source
        files[staged_name(source)] = source
        return shown(staged_name(source), place)

    return path


def unplaced(work: Work) -> tuple[list[dict[str, Any]], list[Outcome]]:
    """What would be said to TensorRTs that no environment has; and the outcomes that stay refused."""
    found, rest = [], []
    for outcome in work.refused:
        flavour, version = split_flavour(outcome.unplaced or "")
        if not version or not outcome.error:
            rest.append(outcome)
            continue
        said = study(work.spec, flavour, version)
        output = work.named or Path(f"{work.onnx.stem}.{outcome.unplaced}.engine")
        found.append(
            {
                "environment": None,
                "kind": "build",
                "reason": outcome.error.message,
                "dialect": dialect(said, work.spec, (flavour, version), work.onnx, output),
            }
        )
    return found, rest


def dialect(
    said: Translation, spec: BuildSpec, target: tuple[str, str], onnx: Path, output: Path
) -> dict[str, Any]:
    """The request in the words of both back ends, and what became of each option."""
    flavour, version = target
    return {
        "flavour": flavour,
        "version": version,
        "builder": said.builder,
        "notes": list(said.notes),
        "options": [entry.to_dict() for entry in said.entries],
        "refused": bool(said.refused),
        "graph": list(said.graph),
        "api": list(said.steps),
        "trtexec": trtexec_line(spec, target, onnx, output),
    }


def trtexec_line(
    spec: BuildSpec, target: tuple[str, str], onnx: Path, output: Path
) -> dict[str, Any]:
    """The equal argv of trtexec, also where the API builds; or why there is none."""
    found = study(spec._replace(builder="trtexec"), *target)
    # What it gets is the rewritten file; the job makes that one inside.
    given = onnx.with_name(f"{onnx.stem}.rewritten.onnx") if found.graph else onnx
    argv = None if found.refused else found.argv(str(given), str(output))
    reasons = [f"{entry.flag}: {entry.reason}" for entry in found.refused]
    return {"argv": argv, "graph": list(found.graph), "why_not": reasons}


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
