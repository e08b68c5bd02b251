"""The options of export, build and convert, as values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trtenv.errors import UsageError
from trtenv.pipeline.convert import Target
from trtenv.pipeline.export import TOLERANCE, ExportSpec
from trtenv.spec.build import (
    BuildSpec,
    parse_compute_capabilities,
    parse_precision,
    parse_size,
    parse_tactic_sources,
)
from trtenv.spec.model import ModelRef
from trtenv.spec.shapes import ShapeRange, merge_profile


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
    """Shapes in trtexec's grammar."""

    shapes: Annotated[
        str | None,
        typer.Option(help="image:1x3x224x224, or a range image:1x3x224x224..8x3x224x224."),
    ] = None
    min_shapes: Annotated[str | None, typer.Option(help="As trtexec's --minShapes.")] = None
    opt_shapes: Annotated[str | None, typer.Option(help="As trtexec's --optShapes.")] = None
    max_shapes: Annotated[str | None, typer.Option(help="As trtexec's --maxShapes.")] = None

    def parsed(self) -> dict[str, ShapeRange]:
        return merge_profile(self.shapes, self.min_shapes, self.opt_shapes, self.max_shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFlags:
    """What engine."""

    precision: Annotated[str, typer.Option(help="tf32 (TensorRT's default), fp32 or fp16.")] = (
        "tf32"
    )
    workspace: Annotated[
        str | None, typer.Option(help="Builder memory: 4G, 512M or MiB.", metavar="SIZE")
    ] = None
    builder_optimization_level: Annotated[
        int | None, typer.Option(help="0 to 5, from TensorRT 8.6.", min=0, max=5)
    ] = None
    tactic_sources: Annotated[
        str | None, typer.Option(help="As trtexec's: -CUBLAS,-CUDNN,+JIT_CONVOLUTIONS.")
    ] = None
    sm: Annotated[
        str | None,
        typer.Option(
            help="TensorRT-RTX: compute capabilities to build for: 8.6,8.9.", metavar="SM"
        ),
    ] = None

    def spec(self, shapes: dict[str, ShapeRange]) -> BuildSpec:
        return BuildSpec(
            shapes=shapes,
            precision=parse_precision(self.precision),
            workspace=parse_size(self.workspace) if self.workspace else None,
            builder_optimization_level=self.builder_optimization_level,
            compute_capabilities=parse_compute_capabilities(self.sm or ""),
            tactic_sources=parse_tactic_sources(self.tactic_sources or ""),
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
        self, model: ModelRef, shapes: dict[str, ShapeRange], max_opset: int, output: Path
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
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFlags:
    force: Annotated[bool, typer.Option("--force", help="Also where nothing changed.")] = False
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the jobs and the equal commands; start nothing."),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False
