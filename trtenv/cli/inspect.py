"""inspect: what a file is, without TensorRT and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console

if TYPE_CHECKING:
    from trtenv.engine.inspect import Inspection


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An engine or an ONNX file.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say what an engine or ONNX file is: flavour, version, size check, stamp, and what is unknown."""
    from trtenv.engine.inspect import inspect as look

    found = look(file)
    if json:
        console.document(found.to_dict())
        return
    for line in describe(found):
        console.data(line)


def describe(found: Inspection) -> Iterator[str]:
    yield f"{found.path}: {found.title}"
    yield f"sha256: {found.sha256}  ({found.size:,} bytes)"
    if plan := found.plan:
        yield f"{plan.flavour} version: {plan.version or plan.release or 'unknown'}"
        yield f"size check: {plan.state}"
    if gpu := found.gpu:
        yield f"GPU family: {gpu.family or 'unknown'} ({gpu.note})"
    if wrapper := found.wrapper:
        yield f"wrapper: {wrapper.kind}, plan at byte {wrapper.offset}"
    if onnx := found.onnx:
        yield f"opset: {onnx.opsets.get('ai.onnx', '?')}, IR {onnx.ir_version}, {onnx.node_count} nodes"
        for word, tensors in (("input", onnx.inputs), ("output", onnx.outputs)):
            for tensor in tensors:
                yield f"{word}: {tensor.name} {tensor.type} {_dims(tensor.dims)}"
        yield from (f"metadata: {key} = {value}" for key, value in sorted(onnx.metadata.items()))
    if found.stamp and found.stamp.document:
        yield f"stamp: {found.stamp.path.name}, sha256 {found.stamp.sha256}"
        yield from _story(found.stamp.document)
    yield from (f"finding: {text}" for text in found.findings)
    yield from (f"unknown: {text}" for text in found.unknown)


def _dims(dims: tuple[int | str | None, ...] | None) -> str:
    return "of unknown rank" if dims is None else "x".join(str(dim or "?") for dim in dims)


def _story(stamp: dict[str, Any]) -> Iterator[str]:
    """The parts of a stamp that a person asks for first; --json has all of it."""
    for section, keys in {
        "engine": ("precision", "inputs", "outputs", "profiles"),
        "source": ("onnx", "model"),
        "environment": ("name", "reference", "digest"),
        "targets": ("compute_capabilities", "rule"),
    }.items():
        part = stamp.get(section)
        if not isinstance(part, dict):  # a stamp is a file that anyone may have written
            continue
        for key in keys:
            if part.get(key):
                yield f"  {section}.{key}: {part[key]}"
