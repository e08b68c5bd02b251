"""The options of export, build and convert, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trtenv.errors import UsageError
from trtenv.pipeline.convert import Target
from trtenv.pipeline.export import TOLERANCE, ExportSpec
from trtenv.spec.build import BUILDERS, BuildSpec
from trtenv.spec.model import ModelRef
from trtenv.spec.options import OPTIONS, Option
from trtenv.spec.shapes import ShapeRange, Shapes, merge_profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFlags:
    """Which environments; each option may repeat, one engine each."""

    env: Annotated[
        list[str] | None, typer.Option("--env", help="Environment by name.", metavar="NAME")
    ] = None
    trt: Annotated[
        list[str] | None,
        typer.Option("--trt", help="TensorRT version: 8.5, or rtx-1.7.", metavar="VERSION"),
    ] = None
    image: Annotated[
        list[str] | None, typer.Option("--image", help="Any image, probed first.", metavar="REF")
    ] = None

    def targets(self) -> list[Target]:
        found = [Target(environment=name) for name in self.env or ()]
        found += [Target(trt=version) for version in self.trt or ()]
        found += [Target(image=reference) for reference in self.image or ()]
        return found or [Target()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeFlags:
    """Shapes in trtexec's grammar; each option may repeat, one optimization profile each."""

    shapes: Annotated[
        list[str] | None,
        typer.Option(
            help="image:1x3x224x224, or a range image:1x3x224x224..8x3x224x224; again for another "
            "profile.",
            metavar="SHAPES",
        ),
    ] = None
    min_shapes: Annotated[
        list[str] | None, typer.Option(help="As trtexec's --minShapes.", metavar="SHAPES")
    ] = None
    opt_shapes: Annotated[
        list[str] | None, typer.Option(help="As trtexec's --optShapes.", metavar="SHAPES")
    ] = None
    max_shapes: Annotated[
        list[str] | None, typer.Option(help="As trtexec's --maxShapes.", metavar="SHAPES")
    ] = None

    def profiles(self) -> tuple[Shapes, ...]:
        given = (self.shapes, self.min_shapes, self.opt_shapes, self.max_shapes)
        return merge_profiles(*(texts or () for texts in given))


class BuildRequest:
    """What engine: one field for each of spec.options.OPTIONS, and `builder`."""

    builder: str

    def spec(self, profiles: tuple[Shapes, ...], extra: Sequence[str] = ()) -> BuildSpec:
        """Only what was given. UsageError names the flag that is wrong."""
        if self.builder not in BUILDERS:
            raise UsageError(
                f"--builder: `{self.builder}` is not known", hint="one of " + ", ".join(BUILDERS)
            )
        given = {option: getattr(self, option.name) for option in OPTIONS}
        wishes = {
            option.name: option.read(value)
            for option, value in given.items()
            if value is not None and not (value is False and not option.off)
        }
        return BuildSpec(
            profiles=profiles, wishes=wishes, builder=self.builder, extra=tuple(extra)
        ).check()


def declared(option: Option) -> tuple[str, Any, Any]:
    """The option as a field that typer reads."""
    name = option.flag + (f"/--no-{option.flag[2:]}" if option.off else "")
    parameter = typer.Option(name, help=option.help, metavar=option.metavar)
    if option.off:
        return option.name, Annotated[bool | None, parameter], None
    if option.parse is None:
        return option.name, Annotated[bool, parameter], False
    if option.many:
        return option.name, Annotated[list[str] | None, parameter], None
    return option.name, Annotated[str | None, parameter], None


BuildFlags = make_dataclass(
    "BuildFlags",
    [
        *(declared(option) for option in OPTIONS),
        (
            "builder",
            Annotated[str, typer.Option(help="api, trtexec, or auto: whichever can say it all.")],
            "auto",
        ),
    ],
    bases=(BuildRequest,),
    kw_only=True,
    repr=False,  # what nobody asks for costs milliseconds at each start
    eq=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFlags:
    """How the ONNX is made."""

    weights: Annotated[
        str | None,
        typer.Option(help="A .pt or .safetensors file, or DEFAULT.", metavar="FILE"),
    ] = None
    opset: Annotated[
        int | None,
        typer.Option(help="Default: the newest that torch and the targets take.", min=1),
    ] = None
    exporter: Annotated[str, typer.Option(help="auto, torchscript or dynamo.")] = "auto"
    simplify: Annotated[str, typer.Option(help="onnxslim: auto, on or off.")] = "auto"
    verify: Annotated[
        bool, typer.Option(help="Compare the ONNX with PyTorch through ONNX Runtime.")
    ] = True
    tolerance: Annotated[float, typer.Option(help="Largest relative error, norm over norm.")] = 1e-4
    export_env: Annotated[
        str | None, typer.Option(help="Environment of the export.", metavar="NAME")
    ] = None

    def spec(
        self,
        model: ModelRef,
        shapes: dict[str, ShapeRange],
        max_opset: int,
        output: Path,
        task: Mapping[str, Any],
    ) -> ExportSpec:
        for name, value, known in (
            ("exporter", self.exporter, ("auto", "torchscript", "dynamo")),
            ("simplify", self.simplify, ("auto", "on", "off")),
        ):
            if value not in known:
                raise UsageError(f"--{name} `{value}` is not known", hint=", ".join(known))
        return ExportSpec(
            model=model,
            weights=self.weights,
            shapes=shapes,
            opset=self.opset,
            max_opset=max_opset,
            exporter=self.exporter,
            simplify=self.simplify,
            verify=self.verify,
            tolerance={**TOLERANCE, "rel": self.tolerance},
            output=output,
            task=task,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFlags:
    """What the model's images and outputs mean, where it does not say so itself."""

    task: Annotated[
        str | None, typer.Option(help="classify, detect or segment.", metavar="KIND")
    ] = None
    labels: Annotated[
        Path | None, typer.Option(help="One label a line, or JSON.", metavar="FILE")
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            help="Of the outputs: logits, probabilities, yolov5, yolov8, end2end, efficient-nms, "
            "boxes-labels-scores.",
            metavar="NAME",
        ),
    ] = None
    preprocess: Annotated[
        str | None,
        typer.Option(
            help='JSON, or a file of it: {"resize": "letterbox", "mean": [0.5], ...}.',
            metavar="JSON",
        ),
    ] = None

    def wish(self) -> dict[str, Any]:
        """Those keys of a task card that are said. UsageError where a value is none that it may have."""
        if self == TaskFlags():
            return {}
        from trtenv.spec.task import KINDS, SHORT, TaskCard, parse_preprocess, read_labels

        found: dict[str, Any] = {}
        if self.task is not None:
            found["kind"] = SHORT.get(self.task, self.task)
        if self.labels is not None:
            found["labels"] = list(read_labels(self.labels))
        if self.layout is not None:
            found["layout"] = self.layout
        if self.preprocess is not None:
            found["preprocess"] = parse_preprocess(self.preprocess)
        TaskCard.from_dict({"kind": KINDS[0], **found})
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFlags:
    force: Annotated[bool, typer.Option("--force", help="Also where nothing changed.")] = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the jobs and the equal commands; start nothing."),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False
