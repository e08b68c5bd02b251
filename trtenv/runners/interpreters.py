"""Finds Python interpreters by minor version: this one's own, PATH, pyenv, uv. Installs none."""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trtenv.errors import InterpreterMissing
from trtenv.paths import cache_folder

__all__ = ["Interpreter", "available", "require"]

# What an error lists as seen. Older than 3.9, no bundled pip can be put into a new environment.
SUPPORTED: Final = tuple(f"3.{minor}" for minor in range(9, 16))


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`executable` is the system's own, never that of a virtual environment."""

    executable: Path
    version: str

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


def available(minors: Sequence[str]) -> Interpreter | None:
    """The first of `minors`, best first, that runs here; each minor is looked for once."""
    return next((found for minor in minors if (found := _find(minor))), None)


def require(minors: Sequence[str], *, what: str) -> Interpreter:
    """`available`, or InterpreterMissing that names what was seen and how to get one."""
    if found := available(minors):
        return found
    seen = [each.version for minor in SUPPORTED if (each := _find(minor))]
    best = minors[0]
    raise InterpreterMissing(
        f"{what} needs Python {' or '.join(minors)} for {platform.machine()}; "
        f"found {', '.join(seen) or 'none'}",
        hint=f"`uv python install {best}`, `pyenv install {best}`, or your distribution's "
        f"package: `apt install python{best}`",
    )


@functools.cache
def _find(minor: str) -> Interpreter | None:
    if minor not in SUPPORTED:
        return None
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        # No search for the one that runs; in a venv, CPython keeps the path of its origin here.
        origin = getattr(sys, "_base_executable", None) or sys.executable
        return Interpreter(Path(origin), platform.python_version())
    # Imported late: it takes 0.2 s, and most commands look for no interpreter.
    from python_discovery import DiskCache, get_interpreter

    found = get_interpreter(
        f"cpython{minor}-64-{platform.machine()}",
        # Each candidate is started to learn what it is; the cache makes that once per machine.
        cache=DiskCache(cache_folder() / "interpreters"),
        env=_surroundings(minor),
    )
    if found is None:
        return None
    return Interpreter(Path(found.system_executable or found.executable), found.version_str)


def _surroundings(minor: str) -> dict[str, str]:
    """The variables to search by, with pyenv's own folders in place of its shims.

    A shim starts bash (0.3 s each) and refuses every version that is not active in this folder.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted((root / "versions").glob(f"{minor}.*"), key=_numbers, reverse=True)
    entries = [
        entry
        for entry in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if Path(entry) != root / "shims"
    ]
    path = os.pathsep.join([*entries, *(str(folder / "bin") for folder in installed)])
    return {**os.environ, "PATH": path}


def _numbers(folder: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", folder.name)]
