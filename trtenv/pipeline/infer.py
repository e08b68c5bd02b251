"""A model and inputs in; results, and pictures of them, out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from trtenv import __version__, console
from trtenv.engine.compat import Report
from trtenv.engine.compatfacts import WILL_NOT_RUN
from trtenv.engine.metadata import parse_metadata
from trtenv.errors import ArtifactError, HostError, JobFailed, UsageError
from trtenv.pipeline.inputs import Sources
from trtenv.pipeline.place import Place, now
from trtenv.pipeline.running import Subject, runner_params, see, story
from trtenv.pipeline.staging import publish_log, sole_writer, staging_folder
from trtenv.runners.protocol import Job, JobResult, Session

SAVES: Final = ("json", "csv", "npz", "npy", "pictures", "sheet")
SUMMARY: Final = "infer.json"
RESULTS: Final = "results.jsonl"
# What the job and we put into the folder of results.
MADE: Final = frozenset(
    (SUMMARY, RESULTS, "results.csv", "log.txt", "sheet.png", "pictures", "outputs")
)
OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "top_k": 5,
        "confidence": 0.25,
        "iou": 0.45,
        "max_detections": 300,
        "class_agnostic": False,
    }
)


class InferSpec(NamedTuple):
    """What is run on what. `runner` goes into the job's runner as it is: profile, cuda_graph, memory.

    size: of the network's input, (height, width), or "image" for each image's own. wish: what is said
    of the task of a PyTorch model, whose own card only the job sees.
    """

    subject: Subject
    sources: Sources
    output: Path
    save: tuple[str, ...]
    options: Mapping[str, Any] = OPTIONS
    runner: Mapping[str, Any] = MappingProxyType({})
    size: tuple[int, int] | str | None = None
    shapes: Mapping[str, list[int]] = MappingProxyType({})
    batch: int | None = None
    threads: int | None = None
    wish: Mapping[str, Any] = MappingProxyType({})

    def params(self, runner: Mapping[str, Any], inside: Callable[[Path], str]) -> dict[str, Any]:
        """Of the job; `inside` tells where it sees a file."""
        files = [
            {"name": entry.name, "path": inside(entry.real), "input": entry.input}
            for entry in self.sources.files
        ]
        return {
            "runner": {**runner, **self.runner},
            "task": self.subject.task.to_dict() if self.subject.task else None,
            "wish": dict(self.wish),
            "options": dict(self.options),
            "size": list(self.size) if isinstance(self.size, tuple) else self.size,
            "sources": {"kind": self.sources.kind, "files": files},
            "batch": self.batch,
            "shapes": dict(self.shapes),
            "save": list(self.save),
            "threads": self.threads,
            "slots": 2,
        }


def check_output(spec: InferSpec, *, force: bool) -> None:
    """UsageError where files would be lost: inputs always, what is no result of ours without `force`."""
    output = spec.output
    if output.exists() and not output.is_dir():
        raise UsageError(f"the output `{output}` is a file", hint="name a folder with -o")
    if not output.is_dir():
        return
    whole = output.resolve()
    model = spec.subject.path or (spec.subject.model and spec.subject.model.path)
    for path in (*spec.sources.paths, *([model] if model else [])):
        if whole in path.absolute().parents or whole in path.resolve().parents:
            raise UsageError(
                f"`{path}` lies in the output folder `{output}`, which the results replace",
                hint="choose another folder with -o",
            )
    if not force and any(output.iterdir()) and not is_ours(output):
        raise UsageError(
            f"`{output}` holds files that are no results of trtenv",
            hint="choose another folder with -o, or replace it and all in it: --force",
        )


def is_ours(folder: Path) -> bool:
    """Whether it holds results and nothing else."""
    return _summary_in(folder) is not None and {path.name for path in folder.iterdir()} <= MADE


def _summary_in(folder: Path) -> dict[str, object] | None:
    try:
        found = parse_metadata((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return found if "trtenv" in found else None


def refuse_unfit(report: Report) -> None:
    """ArtifactError, before anything is started, where the engine is known not to load there."""
    if report.verdict != WILL_NOT_RUN:
        return
    reasons = [item for item in report.findings if item.verdict == WILL_NOT_RUN]
    hint = f"rebuild it for that place: {report.rebuild}" if report.rebuild else reasons[0].hint
    raise ArtifactError(
        f"`{report.path.name}` will not run with {report.place.name}: {reasons[0].message}",
        hint=f"{hint}; or try all the same: --unchecked",
        details=[f"{item.rule}: {item.message} ({item.source})" for item in reasons],
    )


def run_infer(spec: InferSpec, place: Place) -> dict[str, Any]:
    """Run, and put the folder of results in place; returns the summary.

    What an interrupted run has finished is kept: whole lines, whole files; beside a folder that is there.
    """
    see(place, spec.subject, spec.sources.paths)
    with sole_writer(spec.output), staging_folder(spec.output.absolute().parent) as staging:
        log = staging / "log"
        try:
            with place.session(staging) as session:
                log = session.log
                result = _run(spec, place, session)
        except BaseException as error:
            made = staging / "out" / "1-runtime.infer"
            if isinstance(error, (KeyboardInterrupt, SystemExit)) and finished(made):
                kept = beside(spec.output)
                put_in_place(made, kept, _summary(spec, place, None), log)
                console.say(f"what was done so far is in {kept}")
            raise
        summary = _summary(spec, place, result)
        put_in_place(result.out, spec.output, summary, log)
    return summary


def beside(output: Path) -> Path:
    """Where part of the results goes: `output` itself, or the first free name where something is there
    that is worth more than part of the results."""
    others = (output.with_name(f"{output.name}-interrupted-{number}") for number in count(1))
    return next(path for path in chain([output], others) if not _worth_keeping(path))


def _worth_keeping(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    partial = is_ours(path) and (_summary_in(path) or {}).get("interrupted")
    return any(path.iterdir()) and not partial


def _run(spec: InferSpec, place: Place, session: Session) -> JobResult:
    params = spec.params(runner_params(spec.subject, session), session.inside)
    title = f"running {spec.subject.name} in {place.environment.name}"
    try:
        with console.Step(title) as step:
            result = session.run(Job("runtime.infer", params), step.on_event)
    except JobFailed as error:
        from trtenv.dialect.diagnosis import diagnosed

        raise diagnosed(error) from error
    place.record(result.values["environment"])
    return result


def _summary(spec: InferSpec, place: Place, result: JobResult | None) -> dict[str, Any]:
    """Of an interrupted run nothing is known but what was asked."""
    values = dict(result.values) if result else {}
    measured = values.pop("environment", None)
    known = spec.subject.task.to_dict() if spec.subject.task else None
    return {
        "trtenv": __version__,
        "date": now(),
        "model": story(spec.subject),
        "task": values.pop("task", known),
        "environment": {
            "name": place.environment.name,
            "runner": place.choice.runner,
            "digest": place.identity.digest,
            "measured": measured,
        },
        "inputs": len(spec.sources.files),
        "interrupted": result is None,
        "options": dict(spec.options),
        "output": str(spec.output),
        "run": values or None,
    }


def finished(made: Path) -> bool:
    """Whether a run that ended early left anything; half-written files go."""
    if not made.is_dir():
        return False
    for part in made.rglob("*.part"):
        part.unlink()
    lines = made / RESULTS
    if lines.is_file():
        data = lines.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            lines.write_bytes(whole)
    return any(path.is_file() and path.stat().st_size for path in made.rglob("*"))


def put_in_place(made: Path, output: Path, summary: Mapping[str, Any], log: Path) -> None:
    """A whole folder takes the old one's place; the old one stays where that fails."""
    (made / SUMMARY).write_text(console.to_json(summary) + "\n", encoding="utf-8")
    (made / "result.json").unlink(missing_ok=True)  # the protocol's, not the user's
    publish_log(log, made / "log.txt")
    old = None
    try:
        _usual_mode(made)
        if output.exists():
            old = Path(tempfile.mkdtemp(prefix=".trtenv-old-", dir=output.absolute().parent))
            output.replace(old / "results")
        made.replace(output)
    except OSError as error:
        if old is not None and (old / "results").exists() and not output.exists():
            (old / "results").replace(output)
        raise HostError(
            f"cannot write `{output}`: {error.strerror}", hint="choose another folder with -o"
        ) from error
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def _usual_mode(folder: Path) -> None:
    """Staging folders are private; results have the mode that any new folder has."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
