"""A model and its reference, run on the same inputs: where each runs, and what they were given."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from trtenv import console
from trtenv.catalog.resolve import Wish
from trtenv.errors import JobFailed, ResolutionError, UsageError
from trtenv.pipeline.inputs import Sources
from trtenv.pipeline.place import Place, Settings
from trtenv.pipeline.running import Subject, mounts, place_for
from trtenv.pipeline.staging import staging_folder
from trtenv.pipeline.tolerances import Tolerance
from trtenv.pipeline.truth import Truth
from trtenv.runners.protocol import Job, JobResult, Session

KIND: Final = "runtime.verify"
METRICS: Final = "metrics"  # what catalog.model.ADDITIONS calls their libraries
# What one turn of two environments may write; then it is compared and removed.
BUDGET: Final = 512 << 20
WORST: Final = "worst.npz"
RANDOM_BATCHES: Final = 4
Inside = Callable[[Path], str]  # where a worker sees a file


class VerifySpec(NamedTuple):
    """sources: None for random inputs. shapes: by input, as the job takes them, where the model does
    not know its own. min_metric, max_drop: percent, and points of it."""

    subject: Subject
    reference: Subject
    tolerance: Tolerance
    sources: Sources | None = None
    truth: Truth | None = None
    samples: int | None = None
    seed: int = 0
    shapes: Mapping[str, Mapping[str, list[int]]] = MappingProxyType({})
    runner: Mapping[str, Any] = MappingProxyType({})
    min_metric: float | None = None
    max_drop: float | None = None
    bisect: bool = False

    @property
    def inputs(self) -> str:
        return self.sources.kind if self.sources else "random"

    def seen_by(self, place: Place, *, own: bool, other: bool) -> None:
        """Let a place's jobs read the files of the model, of its reference, or of both."""
        images = self.sources.paths if self.sources else []
        labels = self.truth.files if self.truth else []
        found = [*place.options.mounts]
        found += mounts(self.subject, images) if own else ()
        found += mounts(self.reference, labels) if other else ()
        place.options = replace(place.options, mounts=tuple(dict.fromkeys(found)))

    def source_params(self, inside: Inside, other: Inside) -> dict[str, Any]:
        """Images are read where the model runs, their truths where the reference does."""
        shapes = {name: dict(sizes) for name, sizes in self.shapes.items()}
        found = {"kind": self.inputs, "seed": self.seed, "shapes": shapes}
        if self.sources is None:
            return {**found, "samples": self.samples or RANDOM_BATCHES}
        known = self.truth.by_name if self.truth else {}

        def truth(name: str) -> int | str | None:
            value = known.get(name)
            return other(value) if isinstance(value, Path) else value

        files = [
            {
                "name": source.name,
                "path": inside(source.path.resolve()),
                "input": source.input,
                "truth": truth(source.name),
            }
            for source in self.sources.files
        ]
        return {**found, "files": files, "samples": self.samples}

    def params(self, other: Inside) -> dict[str, Any]:
        """What both roles share."""
        labels = None
        if self.truth is not None:
            path = other(self.truth.path.resolve()) if self.truth.path else None
            labels = {"kind": self.truth.kind, "format": self.truth.format, "path": path}
        return {
            "task": self.subject.task.to_dict() if self.subject.task else None,
            "labels": labels,
            "tolerance": self.tolerance.params(),
            "keep_worst": self.bisect,
        }


class Sides(NamedTuple):
    """Sessions of the model and of its reference; one and the same where they share an environment."""

    subject: Session
    reference: Session


class Places(NamedTuple):
    subject: Place
    reference: Place

    @property
    def one(self) -> bool:
        return self.subject is self.reference


def choose_places(
    spec: VerifySpec, settings: Settings, subject: Place, against: str | None
) -> Places:
    """Where the reference runs: as asked, beside the model where that environment can, else in the best.

    `subject`'s options get what the reference needs, where both are one place.
    """
    reference = _reference_place(spec, settings, subject, against)
    if spec.truth is not None and METRICS in reference.environment.on_demand:
        packages = tuple(dict.fromkeys((*reference.options.needs_packages, METRICS)))
        reference.options = replace(reference.options, needs_torch=True, needs_packages=packages)
    if not _shared(spec, subject, reference):
        if subject.options.name:
            raise UsageError("--name names one container; there are two environments")
        spec.seen_by(subject, own=True, other=False)
        spec.seen_by(reference, own=False, other=True)
        return Places(subject, reference)
    packages = (*subject.options.needs_packages, *reference.options.needs_packages)
    subject.options = replace(
        subject.options,
        needs_torch=subject.options.needs_torch or reference.options.needs_torch,
        needs_gpu=subject.options.needs_gpu or reference.options.needs_gpu,
        needs_packages=tuple(dict.fromkeys(packages)),
    )
    spec.seen_by(subject, own=True, other=True)
    return Places(subject, subject)


def _reference_place(
    spec: VerifySpec, settings: Settings, subject: Place, against: str | None
) -> Place:
    own, other = subject.environment, spec.reference
    if other.runtime == "engine":
        return place_for(other, settings, env=against)
    needs = other.model.needs if other.model else ("onnxruntime",)
    wanted = (*needs, METRICS) if spec.truth else needs
    # What a user's own Python holds beside TensorRT no catalogue tells: the job will see.
    able = own.kind == "python" or all(map(own.provides, wanted))
    if against in (None, own.name) and able:
        packages = tuple(name for name in needs if name != "torch") if other.model else ()
        options = replace(
            settings.options, needs_torch=other.model is not None, needs_packages=packages
        )
        choice = subject.choice._replace(reason=f"`{spec.subject.name}` runs there")
        return Place(choice, settings, options)
    if against is None and spec.truth is not None:
        against = _with_metrics(wanted, settings)
    return place_for(other, settings, env=against)


def _with_metrics(needs: tuple[str, ...], settings: Settings) -> str | None:
    """None where no environment is known to hold them: the one that is chosen may all the same."""
    try:
        return settings.resolve(Wish(job="run", needs=needs)).environment.name
    except ResolutionError:
        return None


def _shared(spec: VerifySpec, subject: Place, reference: Place) -> bool:
    """Two ONNX files of one name would take each other's place in one session."""
    same = subject.environment.name == reference.environment.name
    names = {
        model.path.name
        for model in (spec.subject, spec.reference)
        if model.runtime == "onnxruntime" and model.path
    }
    both = spec.subject.runtime == spec.reference.runtime == "onnxruntime"
    return same and not (both and len(names) == 1)


@contextmanager
def sessions(places: Places) -> Iterator[Sides]:
    folder = Path(tempfile.gettempdir())
    with ExitStack() as stack:

        def opened(place: Place) -> Session:
            return stack.enter_context(place.session(stack.enter_context(staging_folder(folder))))

        subject = opened(places.subject)
        yield Sides(subject, subject if places.one else opened(places.reference))


class Answer(NamedTuple):
    """worst: the inputs of the worst batch, on this machine, where they were asked for."""

    values: dict[str, Any]
    worst: Path | None


def run_both(
    models: tuple[Mapping[str, Any], Mapping[str, Any]],
    inputs: Mapping[str, Any],
    shared: Mapping[str, Any],
    places: Places,
    sides: Sides,
) -> Answer:
    """`models`: runners of both sides. Inputs are recorded and compared in turns where the sides differ.

    JobFailed with cause and remedy where TensorRT's own words are known.
    """
    params = {**shared, "inputs": inputs}
    subject, reference = ({"subject": models[0]}, {"reference": models[1]})
    if places.one:
        one = _job(
            sides.subject, places.subject, {**params, **subject, **reference, "role": "both"}
        )
        return Answer(one.values, _worst(one))
    state, worst, start, turn = None, None, 0, 0
    while True:
        role = {"role": "record", "start": start, "budget": BUDGET}
        made = _job(sides.subject, places.subject, {**params, **subject, **role})
        folder = sides.reference.staging / "jobs" / f"recorded-{os.urandom(4).hex()}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.out.rename(folder)
        start, turn = made.values["next"], turn + 1
        role = {
            "role": "compare",
            "recorded": sides.reference.inside(folder),
            "state": sides.reference.inside(state) if state else None,
            "last": start is None,
        }
        compared = _job(sides.reference, places.reference, {**params, **reference, **role})
        shutil.rmtree(folder)
        state, worst = compared.out / "state.json", _worst(compared) or worst
        if start is None:
            ran = {**made.values["ran"], **compared.values["ran"]}
            return Answer({**compared.values, "ran": ran}, worst)


def _worst(result: JobResult) -> Path | None:
    return result.out / WORST if result.values["worst_kept"] else None


def _job(session: Session, place: Place, params: dict[str, Any]) -> JobResult:
    what = {"record": "running", "compare": "comparing", "both": "comparing"}[params["role"]]
    try:
        with console.Step(f"{what} in {place.environment.name}") as step:
            result = session.run(Job(KIND, params), step.on_event)
    except JobFailed as error:
        from trtenv.dialect.diagnosis import diagnosed

        raise diagnosed(error) from error
    place.record(result.values["environment"])
    return result
