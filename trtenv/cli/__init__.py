"""The command line: reads flags, calls one function, prints. Only the named command is imported."""

import errno
import gc
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from trtenv import __version__, console
from trtenv.errors import HostError, TrtenvError

if TYPE_CHECKING:
    import typer

# Each command's module: no command pays for importing and building the others.
COMMANDS = {
    "convert": "trtenv.cli.convert",
    "export": "trtenv.cli.convert",
    "build": "trtenv.cli.convert",
    "inspect": "trtenv.cli.inspect",
    "strip": "trtenv.cli.wrap",
    "wrap": "trtenv.cli.wrap",
    "lint": "trtenv.cli.lint",
    "check": "trtenv.cli.check",
    "infer": "trtenv.cli.infer",
    "verify": "trtenv.cli.verify",
    "bench": "trtenv.cli.bench",
    "dialect": "trtenv.cli.dialect",
    "env": "trtenv.cli.env",
    "shell": "trtenv.cli.shell",
    "exec": "trtenv.cli.shell",
    "doctor": "trtenv.cli.doctor",
    "clean": "trtenv.cli.doctor",
}


def _version(value: bool) -> None:
    if value:
        console.data(f"trtenv {__version__}")
        sys.exit(0)


def make_app(wanted: str | None) -> "typer.Typer":
    """The application with the wanted command, or with all of them for help and typos."""
    import typer

    app = typer.Typer(
        name="trtenv",
        help="Convert PyTorch models to stamped TensorRT engines in pinned environments.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        import_module(COMMANDS[name]).register(app, name)

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version.", callback=_version, is_eager=True
        ),
    ) -> None:
        pass

    return app


def main(argv: list[str] | None = None) -> None:
    """Run and exit: the one place where an error becomes an exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        console.data(f"trtenv {__version__}")
        return
    # A terminated client cleans up as an interrupted one does: containers and staging folders.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    # Most of a short command is imports; collecting garbage meanwhile takes a tenth of its time.
    gc.disable()
    before = console.documents()
    try:
        make_app(argv[0] if argv else None)(argv, prog_name="trtenv")
    except TrtenvError as problem:
        fail(problem, as_json="--json" in argv)
    except KeyboardInterrupt:
        console.say("interrupted")
        unanswered(130, argv, before)
        sys.exit(130)
    except SystemExit as end:
        unanswered(end.code, argv, before)
        raise
    except OSError as problem:
        where = f" `{problem.filename}`" if problem.filename else ""
        hint = (
            "free some space" if problem.errno == errno.ENOSPC else "check the path and its owner"
        )
        fail(HostError(f"{problem.strerror}{where}", hint=hint), as_json="--json" in argv)


def unanswered(code: object, argv: list[str], before: int) -> None:
    """--json promises one document: also where the command line is wrong or a signal ends it."""
    if not code or "--json" not in argv or console.documents() > before:
        return
    kinds = {2: "UsageError", 130: "Interrupted"}
    kind = kinds.get(code, "Terminated") if isinstance(code, int) else "UsageError"
    what = "the command line is wrong; stderr says how" if kind == "UsageError" else kind.lower()
    console.document({"error": {"kind": kind, "exit_code": code, "message": what}})


def fail(problem: TrtenvError, *, as_json: bool) -> None:
    console.error(problem)
    if as_json:
        console.document({"error": problem.to_dict()})
    sys.exit(problem.exit_code)
