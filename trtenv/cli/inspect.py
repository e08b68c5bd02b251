"""inspect: what a file is, without TensorRT and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.engine.inspect import Inspection
    from trtenv.spec.task import TaskCard

KEY = "trtenv.task"  # in an ONNX file's metadata; shown as what it means
SHOWN = 5  # labels


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
        card, wrong = task_of(found)
        task = card.to_dict() if card else None
        console.document({**found.to_dict(), "task": task, "findings": [*found.findings, *wrong]})
        return
    for line in describe(found):
        console.data(line)


def task_of(found: Inspection) -> tuple[TaskCard | None, list[str]]:
    """The task card, and what is wrong with one that is none."""
    from trtenv.engine.taskmeta import card_of_inspection
    from trtenv.spec.task import TaskCard

    card = card_of_inspection(found)
    try:
        return (TaskCard.from_dict(card) if card else None), []
    except UsageError as error:
        return None, [f"what it says of its task is unusable: {error.message}"]


def describe(found: Inspection) -> Iterator[str]:
    card, wrong = task_of(found)
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
        shown = {key: value for key, value in onnx.metadata.items() if not card or key != KEY}
        yield from (f"metadata: {key} = {value}" for key, value in sorted(shown.items()))
    if card:
        yield from _task(card)
    if found.stamp and found.stamp.document:
        yield f"stamp: {found.stamp.path.name}, sha256 {found.stamp.sha256}"
        yield from _story(found.stamp.document)
    yield from (f"finding: {text}" for text in (*found.findings, *wrong))
    yield from (f"unknown: {text}" for text in found.unknown)


def _task(card: TaskCard) -> Iterator[str]:
    names = card.labels or ()
    text = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    labels = f"{len(names)} label{'s' * (len(names) != 1)}: {text}" if names else "no labels"
    yield f"task: {card.kind}{f' ({card.layout})' if card.layout else ''}, {labels}"
    pixels = card.preprocess
    size = f"{pixels.size[0]}x{pixels.size[1]}" if isinstance(pixels.size, tuple) else pixels.size
    resize = pixels.resize or ("resize" if size else None)
    words = [
        " to ".join(str(part) for part in (resize, size) if part),
        f"centre {pixels.crop[0]}x{pixels.crop[1]}" if pixels.crop else "",
        pixels.interpolation,
        pixels.colour,
        "pixel / 255" if pixels.scale == 1 / 255 else f"pixel * {pixels.scale:.6g}",
        f"mean {_numbers(pixels.mean)}" if pixels.mean else "",
        f"std {_numbers(pixels.std)}" if pixels.std else "",
        f"multiples of {pixels.multiple}" if pixels.multiple > 1 else "",
        pixels.layout,
    ]
    yield f"preprocessing: {', '.join(word for word in words if word)}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


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
