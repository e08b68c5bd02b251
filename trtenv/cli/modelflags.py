"""What infer, verify and bench have in common: where a model runs, and how an engine does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.errors import ResolutionError, UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.place import Place, Settings
    from trtenv.pipeline.running import Subject
    from trtenv.spec.task import TaskCard

MEMORIES = ("auto", "pycuda", "driver")


@dataclass(frozen=True, kw_only=True)
class PlaceFlags:
    """Where a model runs."""

    env: Annotated[
        str | None,
        typer.Option("--env", help="Another environment than the engine's own.", metavar="NAME"),
    ] = None
    trt: Annotated[
        str | None, typer.Option("--trt", help="TensorRT version: 8.5.3.", metavar="VERSION")
    ] = None
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Load it also where `trtenv check` says it will not run."),
    ] = False

    def place(self, subject: Subject, settings: Settings, *, asked: bool = True) -> Place:
        """As --env and --trt ask, if they are meant: `asked`. ArtifactError where the engine is known not
        to load there."""
        from trtenv.pipeline.running import place_for

        env, trt = (self.env, self.trt) if asked else (None, None)
        try:
            place = place_for(subject, settings, env=env, trt=trt)
        except ResolutionError as error:
            if subject.runtime != "engine" or settings.host.gpus:
                raise
            hint = "without a GPU its ONNX file can be run: trtenv infer --runtime onnxruntime"
            raise ResolutionError(error.message, hint=hint, details=error.details) from error
        console.say(f"{place.environment.name}: {place.choice.reason} ({place.choice.runner})")
        if subject.runtime == "engine" and subject.found:
            self.refuse_unfit(subject, place)
        return place

    def refuse_unfit(self, subject: Subject, place: Place) -> None:
        if self.unchecked or place.settings.dry_run or subject.found is None:
            return
        from trtenv.cli.check import this_machine, with_environment
        from trtenv.engine.compat import check
        from trtenv.pipeline.infer import refuse_unfit

        refuse_unfit(check(subject.found, with_environment(this_machine(), place.environment)))


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """How an engine runs."""

    profile: Annotated[
        int | None,
        typer.Option(help="Optimization profile. Default: one that fits.", metavar="N", min=0),
    ] = None
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Launch each shape as one CUDA graph.")
    ] = False
    device_memory: Annotated[
        str, typer.Option(help="pycuda, driver, or auto: pycuda where it is.", metavar="NAME")
    ] = "auto"

    def engine(self) -> dict[str, Any]:
        """Keys of an engine's runner, only those that say something."""
        if self.device_memory not in MEMORIES:
            raise UsageError(
                f"--device-memory: `{self.device_memory}` is not known", hint=", ".join(MEMORIES)
            )
        given = {
            "profile": self.profile,
            "cuda_graph": self.cuda_graph or None,
            "memory": self.device_memory if self.device_memory != "auto" else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def merged_card(known: TaskCard | None, wish: Mapping[str, Any]) -> TaskCard:
    """The card that is known, with what the user says better."""
    from trtenv.engine.taskmeta import merged
    from trtenv.spec.task import TaskCard

    return TaskCard.from_dict(merged(known.to_dict() if known else None, wish))
