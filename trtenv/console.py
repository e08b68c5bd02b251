"""The only module that prints. Data goes to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from trtenv.errors import TrtenvError

_verbose = False
_documents = 0


def set_verbose(*, on: bool) -> None:
    global _verbose  # noqa: PLW0603  one process, one terminal
    _verbose = on


def is_verbose() -> bool:
    return _verbose


def colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def data(text: str) -> None:
    """An answer, for pipes and eyes alike."""
    sys.stdout.write(text + "\n")


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def document(value: object) -> None:
    """The one JSON document of a --json run."""
    global _documents  # noqa: PLW0603  one process, one stdout
    _documents += 1
    data(to_json(value))


def documents() -> int:
    """How many were printed so far."""
    return _documents


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def command(line: str) -> None:
    """Echo what is run, quoted for copy and paste."""
    if _verbose:
        say("+ " + line)


def detail(text: str) -> None:
    if _verbose:
        say("    " + text)


def error(problem: TrtenvError) -> None:
    label = "\x1b[31merror:\x1b[0m" if colour() else "error:"
    for line in problem.details:
        say("    " + line)
    say(f"{label} {problem.message}")
    if problem.hint:
        say(f"\nhint: {problem.hint}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their longest cell: readable in a pipe, greppable, without an import."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        data(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


class Step:
    """One line with a duration; a bar or a clock while it runs on a terminal."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._started = time.monotonic()
        self._status: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(self.title)
            self._status.start()
        else:
            say(f"{self.title} ...")
        return self

    def update(self, text: str) -> None:
        if self._status is not None:
            elapsed = time.monotonic() - self._started
            self._status.update(f"{self.title}: {text} ({elapsed:.0f} s)")

    def on_event(self, event: dict[str, Any]) -> None:
        """Show what a job says of itself."""
        if event["event"] == "progress":
            share = f" {event['done']}/{event['total']}" if event.get("total") else ""
            self.update(f"{event['phase']}{share}")
        elif event["event"] == "log":
            if event.get("job"):
                self._line(f"    {event['text']}")
            else:
                detail(event["text"])

    def _line(self, text: str) -> None:
        if self._status is not None:
            self._status.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def __exit__(self, kind: object, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
        seconds = time.monotonic() - self._started
        say(f"{self.title} {'failed' if kind else 'done'} in {seconds:.1f} s")
