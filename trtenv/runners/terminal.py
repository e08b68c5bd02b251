"""Connects this process's stdin, stdout and stderr with a container's, for `shell` and `exec`."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from trtenv.errors import TrtenvError
from trtenv.runners.attach import STDOUT, Attachment
from trtenv.runners.lifecycle import Container

__all__ = ["is_terminal", "relay"]

IN, OUT, ERR = 0, 1, 2


def is_terminal() -> bool:
    return os.isatty(IN) and os.isatty(OUT)


def relay(container: Container, *, as_terminal: bool) -> None:
    """Copy until the container ends. On a terminal every key, Ctrl-C included, goes inside."""
    sys.stdout.flush()
    with (
        _raw_terminal(container) if as_terminal else nullcontext(),
        _input_copied(container.attachment),
    ):
        while (frames := container.attachment.receive()) is not None:
            for stream, data in frames:
                _write(OUT if stream == STDOUT else ERR, data)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _input_copied(attachment: Attachment) -> Iterator[None]:
    """In a thread: a container that does not read its stdin must not keep us from its stdout."""
    stop, wake = os.pipe()

    def copy() -> None:
        with suppress(OSError):
            while stop not in select.select([IN, stop], [], [])[0]:
                if not (data := os.read(IN, 65536)):
                    attachment.end_input()
                    return
                attachment.send(data)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(wake)
        # Bounded: the thread may hang in a send to a container that never reads.
        thread.join(timeout=1)
        if not thread.is_alive():
            os.close(stop)


@contextmanager
def _raw_terminal(container: Container) -> Iterator[None]:
    """Raw mode, and the container's terminal as large as this one, also after a resize."""

    def resize(*_: object) -> None:
        with suppress(OSError, TrtenvError):
            columns, rows = os.get_terminal_size(OUT)
            container.resize(rows, columns)

    before = termios.tcgetattr(IN)
    handler = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(IN)
        resize()
        yield
    finally:
        termios.tcsetattr(IN, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
