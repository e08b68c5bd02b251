"""shell and exec: any command in an environment, its exit code passed through."""

import shlex
import sys
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from trtenv import console
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OneFlags:
    """One environment, and whether anything is started at all."""

    env: Annotated[
        str | None, typer.Option("--env", help="Environment by name.", metavar="NAME")
    ] = None
    trt: Annotated[
        str | None,
        typer.Option("--trt", help="TensorRT version: 8.5, or rtx-1.7.", metavar="VERSION"),
    ] = None
    image: Annotated[str | None, typer.Option("--image", help="Any image.", metavar="REF")] = None
    torch: Annotated[bool, typer.Option("--torch", help="Wheel environments: with torch.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the equal command; start nothing.")
    ] = False
    json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON document.")] = False


def register(app: typer.Typer, name: str) -> None:
    if name == "shell":
        app.command(name)(shell)
    else:
        app.command(name, context_settings={"allow_interspersed_args": False})(execute)


@takes(one=OneFlags, run=RunFlags)
def shell(*, one: OneFlags, run: RunFlags) -> None:
    """Open a shell in an environment; the current folder is mounted at /workdir."""
    start([], one, run)


@takes(one=OneFlags, run=RunFlags)
def execute(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    *,
    one: OneFlags,
    run: RunFlags,
) -> None:
    """Run any command in an environment: trtenv exec --env NAME -- CMD..."""
    start(command, one, run)


def start(argv: list[str], one: OneFlags, run: RunFlags) -> None:
    from trtenv.catalog.resolve import Wish
    from trtenv.pipeline.place import Place
    from trtenv.pipeline.probe import declare_image

    if sum(given is not None for given in (one.env, one.trt, one.image)) > 1:
        raise UsageError("--env, --trt and --image exclude each other")
    settings = run.settings(dry_run=one.dry_run)
    name = declare_image(one.image, settings) if one.image else one.env
    choice = settings.resolve(Wish(environment=name, trt=one.trt, job="any"))
    wants_gpu = run.gpus is None and bool(settings.host.gpus)
    options = replace(settings.options, needs_gpu=wants_gpu, needs_torch=one.torch)
    place = Place(choice, settings, options)
    line = place.runner.command_line(place.environment, options, argv)
    if one.dry_run:
        if one.json:
            console.document(
                {"dry_run": True, "environment": choice.environment.name, "argv": line}
            )
        else:
            console.data(shlex.join(line))
        return
    place.record({})  # pulls or creates it first, and checks the lock
    console.command(shlex.join(line))
    sys.exit(place.runner.execute(place.pinned, options, argv))
