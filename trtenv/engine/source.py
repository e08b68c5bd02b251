"""Opens files that strangers wrote: regular files only, read in pieces, by position."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from trtenv.errors import ArtifactError


class FileSource(NamedTuple):
    """A file that must not change while it is read."""

    descriptor: int
    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self.descriptor, length, offset)
        if len(data) != length:
            raise _changed()
        return data

    def require_unchanged(self) -> None:
        if os.fstat(self.descriptor).st_size != self.size:
            raise _changed()


@contextmanager
def opened(path: Path) -> Iterator[FileSource]:
    """OSError as it comes; ArtifactError for what is no regular file."""
    try:
        # Before the open: opening a FIFO would wait for ever, opening a device may do things.
        _require_regular(path.stat().st_mode)
    except ValueError as error:
        raise ArtifactError(f"no path: {error}", hint="name a file") from error
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        _require_regular(status.st_mode)
        yield FileSource(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def state_of_named(folder: Path, location: str, needed: int) -> str:
    """`present`, or what is wrong with a file that a model names; it is never opened.

    A name that leaves the model's folder is not even looked at.
    """
    pure = PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts:
        return "outside the model's folder"
    try:
        path = (folder / location).resolve()
        if not path.is_relative_to(folder.resolve()):
            return "a link that leaves the model's folder"
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return "missing"
    if size is None:
        return "missing"
    return "present" if size >= needed else f"short by {needed - size} bytes"


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file becomes an ArtifactError that names it."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"`{path}`: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise ArtifactError(
            f"`{path}` cannot be read: {error.strerror or error}",
            hint="check the path and who may read it (`ls -l`)",
        ) from error


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ArtifactError("a folder, not a file", hint="name the engine file inside it")
    if not stat.S_ISREG(mode):
        raise ArtifactError("no regular file", hint="copy the engine to a file first")


def _changed() -> ArtifactError:
    return ArtifactError(
        "the file changed while it was read", hint="wait until it is complete, then ask again"
    )
