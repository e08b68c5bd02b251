"""infer: images or tensors through an engine, or through the model it was made from."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.cli.jobflags import AnswerFlags, TaskFlags
from trtenv.cli.modelflags import EngineFlags, PlaceFlags, merged_card
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.infer import InferSpec
    from trtenv.pipeline.running import Subject

SOME_FAILED = 13
# Results that a terminal gets; the files have them all.
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ModelFlags(PlaceFlags):
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

    def subject(self, model: str) -> Subject:
        from trtenv.pipeline.running import read_subject

        if self.onnx is not None and self.runtime != "onnxruntime":
            raise UsageError(
                "--onnx says what ONNX Runtime runs in the place of an engine",
                hint="add --runtime onnxruntime",
            )
        return read_subject(model, runtime=self.runtime, weights=self.weights, onnx=self.onnx)


@dataclass(frozen=True, kw_only=True)
class DetailFlags(EngineFlags):
    """How it runs and what is kept."""

    save: Annotated[
        str | None,
        typer.Option(
            help="Of json, csv, npz, npy, pictures, sheet. Default: json, pictures and a sheet of "
            "images, json and npz of arrays.",
            metavar="LIST",
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(
            help="Default: the profile's optimum, the export's, or 8.", metavar="N", min=1
        ),
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
        typer.Option(
            help="Of raw inputs, or of a PyTorch model that says none: image:1x3x224x224.",
            metavar="SHAPES",
        ),
    ] = None
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

    def runner(self, subject: Subject) -> dict[str, Any]:
        """Keys of the job's runner, only those that say something."""
        said = self.engine()
        if subject.runtime == "engine":
            return said
        if said:
            raise UsageError(
                f"--profile, --cuda-graph and --device-memory are of engines; `{subject.name}` is none"
            )
        if subject.runtime == "torch":
            return {"shapes": self.torch_shapes()}
        from trtenv.pipeline.running import exported_shapes

        optimum = {name: list(shape.opt) for name, shape in exported_shapes(subject).items()}
        return {"optimum": optimum} if optimum else {}

    def torch_shapes(self) -> dict[str, dict[str, list[int]]]:
        from trtenv.spec.shapes import parse_shapes

        shapes = parse_shapes(self.shapes) if self.shapes else {}
        return {name: shape.to_dict() for name, shape in shapes.items()}

    def saves(self, kind: str) -> tuple[str, ...]:
        from trtenv.pipeline.infer import SAVES

        if self.save is None:
            return ("json", "pictures", "sheet") if kind == "images" else ("json", "npz")
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
        subject = subject._replace(task=merged_card(subject.task, wish))
    if sources.kind == "images" and subject.task is None and subject.model is None:
        raise UsageError(
            f"nothing says how images become the input of `{subject.name}`, nor what it answers",
            hint="say what it does: --task classify, detect or segment",
        )
    spec = InferSpec(
        subject=subject,
        sources=sources,
        output=output or Path(f"{subject.stem}-results"),
        save=detail.saves(sources.kind),
        options=detail.options(),
        runner=detail.runner(subject),
        size=parse_image_size(detail.size),
        shapes=parse_static(detail.shapes, sources.kind, subject.runtime),
        batch=detail.batch,
        threads=detail.threads,
        wish=wish if subject.model is not None else {},
    )
    check_output(spec, force=answer.force)
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


def parse_image_size(text: str | None) -> tuple[int, int] | str | None:
    if text is None or text == "image":
        return text
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--size: `{text}` is no size", hint="HEIGHTxWIDTH, such as 480x640; or image"
        )
    return int(parts[0]), int(parts[-1])


def parse_static(text: str | None, kind: str, runtime: str) -> dict[str, list[int]]:
    """Of raw inputs; a PyTorch model may need shapes for itself, whatever its inputs are."""
    if text is None or (runtime == "torch" and kind != "raw"):
        return {}
    if kind != "raw":
        raise UsageError(
            "--shapes tells the shapes of raw bytes, and of a PyTorch model that does not say its own",
            hint="images: --size and --batch; arrays have the shapes of their files",
        )
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
    for note in ran["runner"].get("notes", ()):
        console.say(f"note: {note}")
    failed = f", {ran['failed']} could not be read" if ran["failed"] else ""
    what = "images" if spec.sources.kind == "images" else "runs"
    console.say(
        f"{ran['images']} of {ran['images'] + ran['failed']} {what}{failed}; "
        f"{ran['images_per_second']:.1f} {what}/s; results in {spec.output}"
    )


def in_a_line(entry: dict[str, Any]) -> str:
    """One result as people read it; the keys are those of jobs/vision's results. What a name or a label
    would do to a terminal or to the line is shown, not done."""
    text = f"{entry['file']}: {told(entry)}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def told(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return str(entry["error"])

    def name(found: dict[str, Any]) -> str:
        return str(found["class"] if found["label"] is None else found["label"])

    if "top" in entry:
        parts = [f"{name(top)} {top['score']:.3f}" for top in entry["top"]]
    elif "detections" in entry:
        parts = [
            f"{name(box)} {box['score']:.2f} ({', '.join(str(round(edge)) for edge in box['box'])})"
            for box in entry["detections"]
        ] or ["nothing"]
    elif "classes" in entry:
        parts = [f"{name(part)} {part['share']:.1%}" for part in entry["classes"]]
    else:
        parts = [", ".join(f"{name} {shape}" for name, shape in entry.get("outputs", {}).items())]
    return "; ".join(parts)
