"""A job that does what the test wants: reports its surroundings, dies, leaves children, talks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def surroundings(params: dict[str, Any], io: Any) -> Any:
    names = params["names"]
    return {
        "cwd": str(Path.cwd()),
        "group": os.getpgid(0),
        "path": sys.path,
        "variables": {name: os.environ.get(name) for name in names},
    }


def die(params: dict[str, Any], io: Any) -> None:
    os.write(2, b"last words\n")
    os.kill(os.getpid(), getattr(signal, params["signal"]))


def leave(params: dict[str, Any], io: Any) -> None:
    os._exit(params["code"])


def close(params: dict[str, Any], io: Any) -> None:
    os.closerange(3, 64)
    time.sleep(60)


def talk(params: dict[str, Any], io: Any) -> Any:
    print("to stdout")
    os.write(2, b"\xff\xfe no newline, not UTF-8")
    return {}


def have_children(params: dict[str, Any], io: Any) -> Any:
    """One that ends when asked, and one that does not."""
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    sleep = "print('up', flush=True)\ntime.sleep(60)"
    children = []
    for text in ("import time\n" + sleep, code + sleep):
        child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        children.append(child.pid)
    if params.get("stay"):
        io.log(f"children: {children[0]} {children[1]}")
        time.sleep(60)
    return {"children": children, "own": os.getpid()}


def run(params: dict[str, Any], io: Any) -> Any:
    return globals()[params["what"]](params, io)
