"""infer: images or tensors through an engine, or through the model it was made from."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.cli.jobflags import AnswerFlags, TaskFlags
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import ResolutionError, UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.infer import InferSpec
    from trtenv.pipeline.place import Place, Settings
    from trtenv.pipeline.running import Subject

SOME_FAILED = 13
# Results that a terminal gets; the files have them all.
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """What runs, and by what."""

    runtime: Annotated[
        str | None,
        typer.Option(
            help="engine, onnxruntime or torch; with onnxruntime an engine stands for its ONNX file.",
            metavar="NAME",
        ),
    ] = None
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="The ONNX file of the engine, where it is not beside it.", metavar="FILE"
        ),
    ] = None
    weights: Annotated[str | None, typer.Option(help="Of a PyTorch model.", metavar="FILE")] = None
    env: Annotated[
        str | None, typer.Option("--env", help="Another environment than its own.", metavar="NAME")
    ] = None
    trt: Annotated[
        str | None, typer.Option("--trt", help="TensorRT version: 8.5.3.", metavar="VERSION")
    ] = None
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Load it also where `trtenv check` says it will not run."),
    ] = False

    def subject(self, model: str) -> Subject:
        from trtenv.pipeline.running import read_subject

        return read_subject(model, runtime=self.runtime, weights=self.weights, onnx=self.onnx)

    def place(self, subject: Subject, settings: Settings) -> Place:
        """ArtifactError where the engine is known not to load there."""
        from trtenv.pipeline.running import place_for

        try:
            place = place_for(subject, settings, env=self.env, trt=self.trt)
        except ResolutionError as error:
            if subject.runtime != "engine" or settings.host.gpus:
                raise
            hint = "without a GPU its ONNX file can be run: --runtime onnxruntime"
            raise ResolutionError(error.message, hint=hint, details=error.details) from error
        console.say(f"{place.environment.name}: {place.choice.reason} ({place.choice.runner})")
        if subject.runtime == "engine" and subject.found and not self.unchecked:
            from trtenv.cli.check import this_machine, with_environment
            from trtenv.engine.compat import check
            from trtenv.pipeline.infer import refuse_unfit

            if not settings.dry_run:
                refuse_unfit(
                    check(subject.found, with_environment(this_machine(), place.environment))
                )
        return place


@dataclass(frozen=True, kw_only=True)
class DetailFlags:
    """How it runs and what is kept."""

    save: Annotated[
        str | None,
        typer.Option(
            help="Of json, csv, npz, npy, pictures, sheet. Default: json, pictures and a sheet of "
            "images whose task is known, else npz.",
            metavar="LIST",
        ),
    ] = None
    batch: Annotated[
        int | None, typer.Option(help="Default: the profile's optimum.", metavar="N", min=1)
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            help="Of the network's input: 640x480 (height first), or image: each image's own.",
            metavar="HxW",
        ),
    ] = None
    shapes: Annotated[
        str | None,
        typer.Option(help="Of raw inputs: image:1x3x224x224.", metavar="SHAPES"),
    ] = None
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
    threads: Annotated[
        int | None,
        typer.Option(help="That decode images. Default: one for each core.", metavar="N", min=1),
    ] = None
    top_k: Annotated[int, typer.Option(help="Classes told of an image.", metavar="K", min=1)] = 5
    confidence: Annotated[
        float, typer.Option(help="Boxes below it are dropped.", metavar="P", min=0, max=1)
    ] = 0.25
    iou: Annotated[
        float, typer.Option(help="Overlap of boxes that are one.", metavar="P", min=0, max=1)
    ] = 0.45
    max_detections: Annotated[
        int, typer.Option(help="Boxes kept of an image.", metavar="N", min=1)
    ] = 300
    class_agnostic: Annotated[
        bool, typer.Option("--class-agnostic", help="Boxes of different classes may be one.")
    ] = False

    def options(self) -> dict[str, Any]:
        names = ("top_k", "confidence", "iou", "max_detections", "class_agnostic")
        return {name: getattr(self, name) for name in names}

    def runner(self) -> dict[str, Any]:
        """Keys of the engine's runner, only those that say something."""
        if self.device_memory not in ("auto", "pycuda", "driver"):
            raise UsageError(
                f"--device-memory: `{self.device_memory}` is not known", hint="auto, pycuda, driver"
            )
        given = {
            "profile": self.profile,
            "cuda_graph": self.cuda_graph or None,
            "memory": self.device_memory if self.device_memory != "auto" else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def saves(self, kind: str, *, task: bool) -> tuple[str, ...]:
        from trtenv.pipeline.infer import SAVES

        if self.save is None:
            return ("json", "pictures", "sheet") if kind == "images" and task else ("json", "npz")
        found = tuple(dict.fromkeys(part.strip() for part in self.save.split(",")))
        for name in found:
            if name not in SAVES:
                raise UsageError(f"--save: `{name}` is not known", hint="of " + ", ".join(SAVES))
        return found


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(infer)


@takes(model_=ModelFlags, task_=TaskFlags, detail=DetailFlags, run=RunFlags, answer=AnswerFlags)
def infer(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An engine; or an ONNX file, or a PyTorch model.")
    ],
    inputs: Annotated[
        list[str],
        typer.Option(
            "-i",
            "--input",
            help="Images, folders, patterns; .npy, .npz or .raw; NAME=FILE for one input of several.",
            metavar="PATH",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Default: MODEL-results.", metavar="FOLDER"),
    ] = None,
    *,
    model_: ModelFlags,
    task_: TaskFlags,
    detail: DetailFlags,
    run: RunFlags,
    answer: AnswerFlags,
) -> None:
    """Run a model on images or tensors; an engine finds its environment by its stamp."""
    from trtenv.pipeline.infer import InferSpec, check_output, run_infer
    from trtenv.pipeline.inputs import find_sources

    sources = find_sources(inputs)
    subject = model_.subject(model)
    wish = task_.wish()
    if subject.model is None and wish:
        subject = with_task(subject, wish)
    if sources.kind == "images" and subject.task is None and subject.model is None:
        raise UsageError(
            f"nothing says how images become the input of `{subject.name}`, nor what it answers",
            hint="say what it does: --task classify, detect or segment",
        )
    spec = InferSpec(
        subject=subject,
        sources=sources,
        output=output or Path(f"{subject.stem}-results"),
        save=detail.saves(sources.kind, task=subject.task is not None or subject.model is not None),
        options=detail.options(),
        runner=detail.runner() if subject.runtime == "engine" else {},
        size=parse_image_size(detail.size),
        shapes=parse_static(detail.shapes),
        batch=detail.batch,
        threads=detail.threads,
        wish=wish if subject.model is not None else {},
    )
    check_output(spec.output, force=answer.force)
    settings = run.settings(force=answer.force, dry_run=answer.dry_run)
    place = model_.place(subject, settings)
    if answer.dry_run:
        from trtenv.cli.convert import show_jobs
        from trtenv.pipeline.dryrun import running

        show_jobs([running("runtime.infer", spec, place)], [], answer)
        return
    summary = run_infer(spec, place)
    if answer.json:
        console.document(summary)
    else:
        show(spec, summary)
    if summary["run"]["failed"]:
        raise typer.Exit(SOME_FAILED)


def with_task(subject: Subject, wish: Mapping[str, Any]) -> Subject:
    """With the card that is known and what the user says better."""
    from trtenv.engine.taskmeta import merged
    from trtenv.spec.task import TaskCard

    known = subject.task.to_dict() if subject.task else None
    return subject._replace(task=TaskCard.from_dict(merged(known, wish)))


def parse_image_size(text: str | None) -> tuple[int, int] | str | None:
    if text is None or text == "image":
        return text
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--size: `{text}` is no size", hint="HEIGHTxWIDTH, such as 480x640; or image"
        )
    return int(parts[0]), int(parts[-1])


def parse_static(text: str | None) -> dict[str, list[int]]:
    if text is None:
        return {}
    from trtenv.spec.shapes import parse_shapes

    found = parse_shapes(text)
    for name, shape in found.items():
        if shape.min != shape.max:
            raise UsageError(
                f"--shapes: `{name}` has a range", hint="what is run has one: image:4x3x224x224"
            )
    return {name: list(shape.opt) for name, shape in found.items()}


def show(spec: InferSpec, summary: dict[str, Any]) -> None:
    """The first results on stdout, one line each; where the rest is on stderr."""
    from trtenv.pipeline.infer import RESULTS

    path = spec.output / RESULTS
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                if number == SHOWN:
                    console.say(f"... all of them: {path}")
                    break
                console.data(in_a_line(json_module.loads(line)))
    ran = summary["run"]
    failed = f", {ran['failed']} could not be read" if ran["failed"] else ""
    console.say(
        f"{ran['images']} of {summary['inputs']} inputs{failed}; "
        f"{ran['images_per_second']:.1f} images/s; results in {spec.output}"
    )


def in_a_line(entry: dict[str, Any]) -> str:
    """One result as people read it; the keys are those of jobs/vision's results."""
    if "error" in entry:
        return f"{entry['file']}: {entry['error']}"

    def name(found: dict[str, Any]) -> str:
        return str(found["class"] if found["label"] is None else found["label"])

    if "top" in entry:
        told = [f"{name(top)} {top['score']:.3f}" for top in entry["top"]]
    elif "detections" in entry:
        told = [
            f"{name(box)} {box['score']:.2f} ({', '.join(str(round(edge)) for edge in box['box'])})"
            for box in entry["detections"]
        ] or ["nothing"]
    elif "classes" in entry:
        told = [f"{name(part)} {part['share']:.1%}" for part in entry["classes"]]
    else:
        told = [", ".join(f"{name} {shape}" for name, shape in entry.get("outputs", {}).items())]
    return f"{entry['file']}: {'; '.join(told)}"
