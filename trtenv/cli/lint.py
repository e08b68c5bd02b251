"""lint: whether a TensorRT takes a model, before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtenv import console

RISKY_EXIT = 9
# A finding on a terminal names this many nodes; --json names them all.
SHOWN = 5


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(lint)


def lint(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX file.")],
    trt: Annotated[
        str, typer.Option("--trt", help="TensorRT version: 8.5, or rtx-1.7.", metavar="VERSION")
    ],
    shapes: Annotated[
        list[str] | None,
        typer.Option(help="As build takes them; repeat it for several profiles.", metavar="SHAPES"),
    ] = None,
    use_dla_core: Annotated[
        int | None, typer.Option(help="Also check what a DLA runs.", metavar="N", min=0, max=15)
    ] = None,
    allow_gpu_fallback: Annotated[
        bool, typer.Option("--allow-gpu-fallback", help="What the DLA cannot run goes to the GPU.")
    ] = False,
    plugins: Annotated[
        bool, typer.Option("--plugins", help="Plugin libraries will be loaded.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 9 if the model is risky.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Check an ONNX file against what is known of a TensorRT version; needs neither."""
    from trtenv.dialect.release import release
    from trtenv.errors import ArtifactError, ModelRefused
    from trtenv.pipeline.lint import BLOCKED, NOTE, RISKY
    from trtenv.pipeline.lint import lint as judge
    from trtenv.spec.shapes import parse_shapes

    asked = release(trt)
    if model.is_dir():
        raise ArtifactError(
            f"`{model}` is a folder, not an ONNX file", hint="name the .onnx file inside it"
        )
    report = judge(
        model,
        [parse_shapes(text) for text in shapes or ()],
        asked.flavour,
        asked.version,
        dla=use_dla_core is not None,
        gpu_fallback=allow_gpu_fallback,
        plugins=plugins,
    )
    if json:
        console.document(report.to_dict())
    else:
        for item in report.findings:
            console.data(f"{item.verdict:<7} {item.rule}: {item.message}")
            if item.nodes and item.verdict != NOTE:
                more = f", and {len(item.nodes) - SHOWN} more" if len(item.nodes) > SHOWN else ""
                console.data(f"        nodes: {', '.join(item.nodes[:SHOWN])}{more}")
            if item.hint:
                console.data(f"        -> {item.hint}")
        console.data(f"{model}: {report.title}, for {report.target}")
    if report.verdict == BLOCKED:
        raise typer.Exit(ModelRefused.exit_code)
    if strict and report.verdict == RISKY:
        raise typer.Exit(RISKY_EXIT)
