"""Says what a job sees of the place it runs in."""

import os
import pwd
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attempt(action: Callable[..., object], *args: object) -> str | None:
    """None where it worked, otherwise the name of the error."""
    try:
        action(*args)
    except OSError as error:
        return type(error).__name__
    return None


def status(key: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)[key].strip()


def run(params: dict[str, Any], io: Any) -> dict[str, Any]:
    Path(io.path("made by the job, é.txt")).write_text("made")
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "home": str(Path.home()),
        "home_error": attempt((Path.home() / "cache").mkdir),
        "inputs": {path: Path(path).read_text() for path in params["read"]},
        "write_errors": [attempt(Path(path).touch) for path in params["write"]],
        "network_error": attempt(socket.create_connection, ("192.0.2.1", 80), 3),
        "capabilities": status("CapEff"),
        "no_new_privileges": status("NoNewPrivs"),
        "shm": shutil.disk_usage("/dev/shm").total,
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
    }
