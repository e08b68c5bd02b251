"""Does what jobs should not do, by name."""

import ctypes
import os
import time
from typing import Any


def noise(io: Any) -> dict[str, Any]:
    os.write(2, b"\xff\xfe no UTF-8\nno newline at the end")
    raw = io._channel._pipe
    raw.buffer.write(b"\xff no event\n" + "{half of é".encode())
    raw.flush()
    time.sleep(0.2)
    raw.buffer.write(b" and the rest}\n")
    raw.flush()
    return {"noisy": True}


def exit_7(io: Any) -> None:
    os.write(2, b"last words\n")
    os._exit(7)


def crash(io: Any) -> None:
    ctypes.string_at(0)


def eat_memory(io: Any) -> None:
    held = []
    while True:
        held.append(os.urandom(1 << 20))


def sleep(io: Any) -> None:
    io.progress("sleeping")
    time.sleep(300)


def run(params: dict[str, Any], io: Any) -> Any:
    return globals()[params["how"]](io)
