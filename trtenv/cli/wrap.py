"""strip and wrap: between bare TensorRT plans and Ultralytics' engines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.wrapping import Made

TASKS = ("detect", "segment", "classify")
MOST_NAMES = 1 << 20

Engine = Annotated[Path, typer.Argument(metavar="ENGINE", help="An engine; it is not changed.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.", metavar="FILE")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that trtenv did not make.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def register(app: typer.Typer, name: str) -> None:
    commands: dict[str, Callable[..., None]] = {"strip": strip, "wrap": wrap}
    app.command(name)(commands[name])


def strip(engine: Engine, output: Output, force: Force = False, json: Json = False) -> None:
    """Take Ultralytics' metadata off an engine: trtexec and Triton load what is left."""
    from trtenv.pipeline import wrapping

    answer(wrapping.strip(engine, output, force=force), json=json)


def wrap(
    engine: Engine,
    output: Output,
    task: Annotated[
        str | None, typer.Option(help="detect, segment or classify.", metavar="TASK")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="Class names: one a line, or JSON.", metavar="FILE")
    ] = None,
    imgsz: Annotated[
        str | None, typer.Option(help="Image size: 640 or 480x640.", metavar="HxW")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Largest stride of the model.", metavar="N")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Largest batch.", metavar="N")] = None,
    channels: Annotated[int | None, typer.Option(help="Of the images.", metavar="N")] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(help="The ONNX file of Ultralytics that it was built from.", metavar="FILE"),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Put Ultralytics' metadata in front of a plan: YOLO("x.engine") loads the result."""
    from trtenv.pipeline import wrapping

    if task is not None and task not in TASKS:
        raise UsageError(f"--task: `{task}` is not known", hint=", ".join(TASKS))
    given = {"task": task, "stride": stride, "batch": batch, "channels": channels}
    wishes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if imgsz is not None:
        wishes["imgsz"] = parse_imgsz(imgsz)
    if names is not None:
        wishes["names"] = names_of(names)
    answer(wrapping.wrap(engine, output, wishes, onnx=onnx, force=force), json=json)


def parse_imgsz(text: str) -> list[int]:
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text)
    if not found:
        raise UsageError(f"--imgsz: `{text}` is no size", hint="write HEIGHTxWIDTH: 480x640")
    return [int(found[1]), int(found[2] or found[1])]


def names_of(path: Path) -> dict[str, str]:
    from trtenv.engine.source import named, opened
    from trtenv.engine.wrapper import read_names

    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"--names: `{path}` is YAML", hint="write one name a line, or JSON")
    with named(path), opened(path) as source:
        if source.size > MOST_NAMES:
            raise UsageError(f"--names: `{path}` has {source.size:,} bytes, at most {MOST_NAMES:,}")
        raw = source.read_at(0, source.size)
    try:
        return read_names(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--names: `{path}` is no UTF-8 text") from error


def answer(made: Made, *, json: bool) -> None:
    for note in made.notes:
        console.say(f"note: {note}")
    if json:
        console.document(made.to_dict())
    else:
        console.data(f"{made.output}: {made.stamp['size']:,} bytes, sha256 {made.stamp['sha256']}")
