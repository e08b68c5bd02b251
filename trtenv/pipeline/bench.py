"""Measures models one after the other, each in its own environment, by one method; and compares them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv import console
from trtenv.catalog.host import Gpu
from trtenv.engine.rebuild import at
from trtenv.errors import JobFailed, TrtenvError, UsageError
from trtenv.pipeline.benchreport import Measured, Report, compare, judge
from trtenv.pipeline.gpu_watch import GpuWatch
from trtenv.pipeline.place import Place
from trtenv.pipeline.running import Subject, runner_params, see, story
from trtenv.pipeline.staging import staging_folder
from trtenv.pipeline.turns import gpu_turn
from trtenv.runners.protocol import Job, JobResult, Session
from trtenv.spec.bench import BenchSpec, Profile, check_case

KIND: Final = "runtime.bench"
ROWS: Final = "rows.jsonl"


class Candidate(NamedTuple):
    """One model that is measured. `runner` goes into an engine's runner as it is: profile, memory."""

    subject: Subject
    place: Place
    spec: BenchSpec
    hints: Mapping[str, list[int]]
    values: Mapping[str, list[int]]
    runner: Mapping[str, Any]

    def params(self, runner: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.spec.to_dict()
        keys = ("cases", "warm_up", "duration", "iterations", "streams", "percentiles", "transfers")
        return {
            "runner": {**runner, **(self.runner if self.subject.runtime == "engine" else {})},
            **{key: spec[key] for key in (*keys, "seed")},
            "hints": dict(self.hints),
            "values": dict(self.values),
        }


def check_spec(spec: BenchSpec, subjects: Sequence[Subject], profile: int | None) -> None:
    """UsageError where a stamp tells that an engine does not take a shape, before anything starts."""
    engines = [subject for subject in subjects if subject.runtime == "engine"]
    for flag, asked in (("--cuda-graph", spec.cuda_graph), ("--profile", profile is not None)):
        if asked and not engines:
            raise UsageError(f"{flag} belongs to an engine, and none is measured")
    if not spec.transfers and len(engines) < len(subjects):
        raise UsageError(
            "--no-data-transfers: ONNX Runtime and PyTorch are measured with all that a caller waits for",
            hint="measure engines alone, or with the copies",
        )
    for subject in subjects:
        inputs, profiles = known_inputs(subject), known_profiles(subject)
        if inputs is None:
            continue
        if profile is not None and profiles:
            if profile >= len(profiles):
                raise UsageError(
                    f"--profile {profile}: `{subject.name}` has {len(profiles)}, counted from 0"
                )
            profiles = [profiles[profile]]
        for case in spec.cases:
            check_case(case, inputs, profiles, subject.name)


def known_inputs(subject: Subject) -> list[dict[str, Any]] | None:
    """`name` and `shape`, -1 for a dynamic dimension; None where nothing tells."""
    if subject.runtime == "engine":
        found = at(subject.stamp, "engine", "inputs")
        return found if isinstance(found, list) else None
    if subject.found is None or subject.found.onnx is None:
        return None
    return [
        {
            "name": tensor.name,
            "shape": None
            if tensor.dims is None
            else [size if isinstance(size, int) else -1 for size in tensor.dims],
        }
        for tensor in subject.found.onnx.inputs
    ]


def known_profiles(subject: Subject) -> list[Profile]:
    found = at(subject.stamp, "engine", "profiles")
    return found if isinstance(found, list) else []


def optimum(subjects: Sequence[Subject]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Shapes of the first profile that a stamp tells, and the values of inputs that are shapes."""
    profiles = next(filter(None, map(known_profiles, subjects)), [])
    sizes: dict[str, list[int]] = {}
    values: dict[str, list[int]] = {}
    for name, span in (profiles[0] if profiles else {}).items():
        if "values_of" in span:
            sizes[name], values[name] = list(span["values_of"]), list(span["opt"])
        else:
            sizes[name] = list(span["opt"])
    return sizes, values


def named(subject: Subject) -> dict[str, Any]:
    """Without the folders of this machine, also of a PyTorch model's file."""
    return {**story(subject), "name": Path(subject.name).name}


def candidates(
    subjects: Sequence[Subject],
    spec: BenchSpec,
    place_of: Callable[[Subject], Place],
    runner: Mapping[str, Any],
) -> Iterator[Candidate | Measured]:
    """In the order given. One that has no environment here is told, and does not stop the others."""
    sizes, values = optimum(subjects)
    for subject in subjects:
        try:
            place = place_of(subject)
        except TrtenvError as error:
            if len(subjects) == 1:
                raise
            yield Measured(model=named(subject), error=error)
        else:
            see(place, subject)
            yield Candidate(subject, place, spec, sizes, values, runner)


def carry_out(found: Sequence[Candidate | Measured], spec: BenchSpec) -> Report:
    """Measure each in its turn. Ctrl-C ends it; what was measured by then is in the report."""
    report = Report(spec=spec)
    for number, entry in enumerate(found):
        if isinstance(entry, Measured):
            report.engines.append(entry)
            continue
        measured = Measured(model=named(entry.subject))
        report.engines.append(measured)
        try:
            measure(entry, measured, first=number == 0)
        except TrtenvError as error:
            measured.error = error
        except (KeyboardInterrupt, SystemExit) as end:
            report.stopped = end
            break
    compare(report.engines)
    return report


def measure(one: Candidate, measured: Measured, *, first: bool) -> None:
    """Fill `measured`. The GPU is watched from before the worker starts until after it has ended."""
    place = one.place
    identity = place.identity  # made ready first: others need not wait for a download
    measured.environment = {
        "name": place.environment.name,
        "runner": place.choice.runner,
        "reference": identity.reference,
        "digest": identity.digest,
        "measured": None,
    }
    with staging_folder(Path(tempfile.gettempdir())) as staging, gpu_turn(place):
        watch = GpuWatch(watched_gpu(place))
        try:
            with watch, place.session(staging) as session:
                values = _run(one, session).values
            measured.rows, measured.runner = values["rows"], values["runner"]
            measured.load_seconds = values["load_seconds"]
            facts = dict(values["environment"])
            place.record(facts)
            measured.environment["measured"] = facts
        except BaseException:
            measured.rows = finished(staging / "out")
            raise
        finally:
            judge(measured, watch.found, one.spec, first=first)


def _run(one: Candidate, session: Session) -> JobResult:
    params = one.params(runner_params(one.subject, session))
    title = f"measuring {one.subject.name} in {one.place.environment.name}"
    try:
        with console.Step(title) as step:
            return session.run(Job(KIND, params), step.on_event)
    except JobFailed as error:
        from trtenv.dialect.diagnosis import diagnosed

        raise diagnosed(error) from error


def finished(out: Path) -> list[dict[str, Any]]:
    """Rows of a run that ended early; a last line that is not whole is none."""
    found = []
    for path in out.glob(f"*/{ROWS}"):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def watched_gpu(place: Place) -> Gpu | None:
    """The first one that --gpus allows: the job's device 0."""
    gpus, wish = place.settings.host.gpus, place.options.gpus
    if not place.options.needs_gpu or not gpus or wish == "none":
        return None
    if wish in (None, "all"):
        return gpus[0]
    name = wish.split(",")[0]
    return next((gpu for gpu in gpus if name in (str(gpu.index), gpu.uuid)), None)
