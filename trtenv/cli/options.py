"""Options that several commands share, declared once as fields of a dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from trtenv import console
from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.place import Settings
    from trtenv.runners.protocol import Mount, RunOptions

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class EnvFlags:
    """Where environments come from."""

    runner: Annotated[str, typer.Option(help="docker, venv or auto.", metavar="NAME")] = "auto"
    lock: Annotated[Path, typer.Option(help="Lock file.", metavar="FILE")] = Path("trtenv.lock")
    locked: Annotated[
        bool, typer.Option("--locked", help="Fail on anything that the lock does not hold.")
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-V", help="Show commands and the tools' own output.")
    ] = False

    def options(self) -> "RunOptions":
        from trtenv.runners.protocol import RunOptions

        return RunOptions()

    def settings(self, *, force: bool = False, dry_run: bool = False) -> "Settings":
        from trtenv.pipeline.catalog import catalog_with_lock
        from trtenv.pipeline.place import Settings

        console.set_verbose(on=self.verbose)
        if self.runner not in ("auto", "docker", "venv"):
            raise UsageError(f"runner `{self.runner}` is not known", hint="docker, venv or auto")
        return Settings(
            catalog=catalog_with_lock(self.lock),
            runner=self.runner,
            options=self.options(),
            lock=self.lock,
            locked=self.locked,
            force=force,
            dry_run=dry_run,
        )


@dataclass(frozen=True, kw_only=True)
class RunFlags(EnvFlags):
    """How environments are started; the defaults are the safe ones."""

    gpus: Annotated[
        str | None, typer.Option(help="all, none, or indices and UUIDs: 0,1.", metavar="GPUS")
    ] = None
    gpu_mode: Annotated[
        str,
        typer.Option(
            help="How containers get GPUs: auto, toolkit, cdi, runtime or devices.", metavar="MODE"
        ),
    ] = "auto"
    # Not --runtime, as docker has it: there that means what runs a model.
    container_runtime: Annotated[
        str | None, typer.Option(help="Such as nvidia: docker run --runtime.", metavar="NAME")
    ] = None
    shm_size: Annotated[str | None, typer.Option(help="Size of /dev/shm: 16G.", metavar="SIZE")] = (
        None
    )
    memory: Annotated[
        str | None, typer.Option(help="Memory limit of the container: 8G.", metavar="SIZE")
    ] = None
    name: Annotated[str | None, typer.Option(help="Name of the container.", metavar="NAME")] = None
    mount: Annotated[
        list[str] | None,
        typer.Option(
            "--mount", "-v", help="SOURCE:TARGET[:rw]; read-only by default.", metavar="M"
        ),
    ] = None
    workdir: Annotated[
        str | None, typer.Option(help="Working folder inside.", metavar="FOLDER")
    ] = None
    variable: Annotated[
        list[str] | None,
        typer.Option("--variable", "-e", help="NAME=VALUE for the inside.", metavar="VARIABLE"),
    ] = None
    network: Annotated[str, typer.Option(help="none, bridge or host.", metavar="MODE")] = "none"

    def options(self) -> "RunOptions":
        from trtenv.runners.protocol import GPU_MODES, RunOptions
        from trtenv.spec.values import parse_size

        if self.gpu_mode not in GPU_MODES:
            raise UsageError(f"GPU mode `{self.gpu_mode}` is not known", hint=", ".join(GPU_MODES))
        return RunOptions(
            gpus=self.gpus,
            gpu_mode=self.gpu_mode,
            runtime=self.container_runtime,
            shm_size=parse_size(self.shm_size) if self.shm_size else None,
            memory=parse_size(self.memory) if self.memory else None,
            name=self.name,
            mounts=tuple(parse_mount(text) for text in self.mount or ()),
            workdir=self.workdir,
            variables=dict(parse_variable(text) for text in self.variable or ()),
            network=self.network,
        )


def parse_mount(text: str) -> "Mount":
    """SOURCE:TARGET[:ro|rw]; a colon in SOURCE is fine, since TARGET starts with a slash."""
    from trtenv.runners.protocol import Mount

    body, _, mode = text.rpartition(":")
    if mode not in ("ro", "rw"):
        body, mode = text, "ro"
    source, found, target = body.rpartition(":/")
    if not found or not source:
        raise UsageError(f"`{text}` is no mount", hint="write SOURCE:/TARGET or SOURCE:/TARGET:rw")
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise UsageError(f"mount source `{source}` does not exist", hint="create it first")
    return Mount(source=path, target="/" + target, read_only=mode == "ro")


def parse_variable(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise UsageError(f"`{text}` is no variable", hint="write NAME=VALUE")
    return name, value


def report_removed(removed: list[str], otherwise: str, *, as_json: bool) -> None:
    if as_json:
        console.document({"removed": removed})
        return
    for what in removed:
        console.data(f"removed {what}")
    if not removed:
        console.say(otherwise)


_hints = cache(partial(get_type_hints, include_extras=True))  # asked for by several commands


def takes(**groups: type) -> Callable[[Command], Command]:
    """Give a command the options of dataclasses: `@takes(run=RunFlags)` fills its argument `run`."""

    def decorate(function: Command) -> Command:
        own = inspect.signature(function).parameters
        hints = get_type_hints(function, include_extras=True)
        parameters = [
            entry.replace(annotation=hints[name])
            for name, entry in own.items()
            if name not in groups
        ]
        for group in groups.values():
            found = _hints(group)
            hints.update(found)
            parameters += [
                inspect.Parameter(
                    entry.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=entry.default,
                    annotation=found[entry.name],
                )
                for entry in fields(group)
            ]

        @wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            filled = {
                name: group(**{entry.name: kwargs.pop(entry.name) for entry in fields(group)})
                for name, group in groups.items()
            }
            return function(*args, **kwargs, **filled)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {name: hint for name, hint in hints.items() if name not in groups}
        return command  # type: ignore[return-value]

    return decorate
