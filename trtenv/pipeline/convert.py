"""One model, one ONNX, one engine for each target; a failing target does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from trtenv import console
from trtenv.catalog.resolve import Wish
from trtenv.engine.stamp import read_stamp
from trtenv.errors import HostError, ResolutionError, TrtenvError, UsageError
from trtenv.pipeline.export import ExportSpec, is_exported, run_export
from trtenv.pipeline.onnxmodel import OnnxModel, read_onnx
from trtenv.pipeline.place import Place, Settings
from trtenv.pipeline.request import BuildPlan, is_built, lint_for, plan_build, with_model
from trtenv.pipeline.staging import refuse_foreign, sole_writer, staging_folder
from trtenv.runners.protocol import Session
from trtenv.spec.build import BuildSpec


class Target(NamedTuple):
    """One engine that is wanted: an environment by name, or the best of a TensorRT version."""

    environment: str | None = None
    trt: str | None = None
    image: str | None = None

    def __str__(self) -> str:
        version = f"TensorRT {self.trt}" if self.trt else "the best that runs here"
        return self.environment or self.image or version

    def adopted(self, settings: Settings) -> str | None:
        """The environment's name; an image becomes one by being probed, but not in a dry run."""
        if self.image is None:
            return self.environment
        from trtenv.pipeline.probe import adopt_image, declare_image

        return (declare_image if settings.dry_run else adopt_image)(self.image, settings)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one artifact: its stamp where it is in place, else the error.

    unplaced: the TensorRT asked for, where no environment has it.
    """

    target: str
    output: Path | None = None
    stamp: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    unchanged: bool = False
    error: TrtenvError | None = None
    unplaced: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "output": str(self.output) if self.output else None,
            "unchanged": self.unchanged,
            "stamp": self.stamp or None,
            "reason": self.reason,
            "error": self.error.to_dict() if self.error else None,
        }


class Work(NamedTuple):
    """Everything decided, nothing started: what --dry-run prints and `carry_out` does.

    named: the engine's file, where the user named one.
    """

    onnx: Path
    export: ExportSpec | None
    export_place: Place | None
    plans: tuple[BuildPlan, ...]
    refused: tuple[Outcome, ...] = ()
    spec: BuildSpec = BuildSpec()
    named: Path | None = None


def plan_engines(
    targets: Sequence[Target],
    spec: BuildSpec,
    settings: Settings,
    name: Callable[[Place, BuildSpec], Path],
) -> tuple[list[BuildPlan], list[Outcome]]:
    """Choose an environment for each target; what cannot be is an Outcome with its error."""
    plans: dict[Path, BuildPlan] = {}
    refused: list[Outcome] = []
    for target in dict.fromkeys(targets):
        try:
            wish = Wish(
                environment=target.adopted(settings),
                trt=target.trt,
                compute_capabilities=spec.compute_capabilities,
            )
            choice = settings.resolve(wish)
            gpu = choice.environment.flavour == "tensorrt"
            place = Place(choice, settings, replace(settings.options, needs_gpu=gpu))
            plan = plan_build(place, spec, name(place, spec))
        except TrtenvError as error:
            unplaced = target.trt if isinstance(error, ResolutionError) else None
            refused.append(Outcome(target=str(target), error=error, unplaced=unplaced))
        else:
            console.say(f"{choice.environment.name}: {choice.reason} ({choice.runner})")
            plans.setdefault(plan.output, plan)
    return list(plans.values()), refused


def export_place(
    spec: ExportSpec, plans: Sequence[BuildPlan], settings: Settings, asked: str | None
) -> Place:
    """Where the export runs: as asked, in a target's own environment, or in the best with torch."""
    needs = spec.model.needs
    own = [entry.place for entry in plans if all(map(entry.place.environment.provides, needs))]
    if asked is None and own:
        place = own[0]
    else:
        choice = settings.resolve(Wish(environment=asked, job="export", needs=needs))
        same = [entry for entry in own if entry.environment == choice.environment]
        place = same[0] if same else Place(choice, settings, settings.options)
        if plans:
            why = "asked for" if asked else f"since no target holds {' and '.join(needs)}"
            console.say(f"{choice.environment.name}: exports, {why}")
    mounts = (*place.options.mounts, *spec.mounts())
    packages = tuple(name for name in needs if name != "torch")
    place.options = replace(place.options, needs_torch=True, needs_packages=packages, mounts=mounts)
    return place


class Rooms:
    """Open sessions by environment: an export and a build in the same one share a worker."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._open: dict[str, Session] = {}

    @contextmanager
    def enter(self, place: Place) -> Iterator[Session]:
        """A worker that failed a job may be dead or spoilt: the next job gets a new one."""
        name = place.environment.name
        if name not in self._open:
            folder = self._stack.enter_context(staging_folder(self._folder))
            self._open[name] = self._stack.enter_context(place.session(folder))
        try:
            yield self._open[name]
        except BaseException:
            del self._open[name]
            raise


def carry_out(work: Work) -> list[Outcome]:
    """Export if needed, then build each engine. The ONNX is kept even where no engine comes out."""
    if len(work.plans) > 1 and any(plan.place.options.name for plan in work.plans):
        raise UsageError("--name names one container; there are several environments")
    folder = (work.plans[0].output if work.plans else work.onnx).parent
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        rooms = Rooms(stack, folder)
        if work.export and work.export_place:
            outcomes.append(_export(work.export, work.export_place, rooms))
        if work.plans:
            model = read_onnx(work.onnx)
            outcomes += [_build(plan, model, rooms) for plan in work.plans]
    return [*outcomes, *work.refused]


def _export(spec: ExportSpec, place: Place, rooms: Rooms) -> Outcome:
    """An export that fails ends the whole work: there is nothing to build from."""
    if is_exported(spec, place):
        console.say(f"{spec.output} is unchanged")
        stamp = read_stamp(spec.output) or {}
        return Outcome(target="onnx", output=spec.output, stamp=stamp, unchanged=True)
    refuse_foreign(spec.output, spec.inputs, force=place.settings.force)
    with sole_writer(spec.output), rooms.enter(place) as session:
        stamp = run_export(spec, place, session)
    return Outcome(target="onnx", output=spec.output, stamp=stamp)


def _lint(plan: BuildPlan, onnx: Path) -> None:
    """ModelRefused before anything is started; what is risky is said."""
    from trtenv.pipeline.lint import RISKY, raise_if_blocked

    report = lint_for(plan, onnx)
    raise_if_blocked(report)
    for finding in report.findings:
        if finding.verdict == RISKY:
            console.say(f"risky: {finding.message}")


def _build(plan: BuildPlan, model: OnnxModel, rooms: Rooms) -> Outcome:
    choice = plan.place.choice
    outcome = Outcome(target=choice.environment.name, output=plan.output, reason=choice.reason)
    try:
        plan = with_model(plan, model)
        if is_built(plan, model):
            console.say(f"{plan.output} is unchanged")
            outcome.stamp, outcome.unchanged = read_stamp(plan.output) or {}, True
        else:
            _lint(plan, model.path)
            inputs = [model.path, *(model.path.parent / name for name in model.external)]
            refuse_foreign(plan.output, inputs, force=plan.place.settings.force)
            from trtenv.pipeline.build import run_build  # not needed to see that nothing changed

            with sole_writer(plan.output), rooms.enter(plan.place) as session:
                outcome.stamp = run_build(plan, model, session)
    except TrtenvError as error:
        outcome.error = error
    except OSError as error:
        outcome.error = HostError(
            f"`{plan.output}` was not made: {error}", hint="check disk and rights"
        )
    return outcome
