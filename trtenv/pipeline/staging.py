"""Where outputs are made before they are put in place: whole, stamped, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import is_ours, render, stamp_path
from trtenv.errors import HostError, OutputBusy, UsageError
from trtenv.paths import cache_folder

PREFIX = ".trtenv-"


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A private folder on the file system of the outputs, so that the last step is a rename."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent.resolve()))
    except OSError as error:
        raise HostError(
            f"cannot write to the output folder `{parent}`: {error.strerror}",
            hint="choose another folder with -o, or make this one writable",
        ) from error
    note = remember(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)


def remember(folder: Path) -> Path:
    """A link in the cache by which `clean` finds the folder if this process is killed."""
    note = cache_folder() / "staging" / folder.name
    note.parent.mkdir(parents=True, exist_ok=True)
    note.symlink_to(folder)
    return note


@contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """OutputBusy where another trtenv of this user is writing the same file."""
    from filelock import FileLock, Timeout

    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = sha256(os.fsencode(output.resolve())).hexdigest()[:24]
    try:
        with FileLock(folder / f"output-{name}.lock", timeout=0):
            yield
    except Timeout:
        raise OutputBusy(
            f"another trtenv is writing `{output}`",
            hint="wait for it, or choose another output with -o",
        ) from None


def refuse_foreign(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """UsageError where writing `output` would lose a file that trtenv did not make."""
    if output.is_dir():
        raise UsageError(f"the output `{output}` is a folder", hint="name a file with -o")
    if any(output.resolve() == source.resolve() for source in inputs):
        raise UsageError(f"`{output}` is input and output at once", hint="choose another -o")
    foreign = output.exists() or stamp_path(output).exists()
    if foreign and not is_ours(output) and not force:
        raise UsageError(
            f"`{output}` or its stamp is there, and trtenv did not make it",
            hint="move it away, choose another output with -o, or overwrite it: --force",
        )


def publish(
    made: Path, target: Path, stamp: Mapping[str, Any], siblings: list[Path]
) -> dict[str, Any]:
    """Stamp `made` and move it to `target`: siblings and stamp first, the artifact last.

    Returns the whole stamp.

    Whoever sees the artifact sees its stamp; a crash in between leaves the old artifact with a
    stamp whose sha256 differs, which every reader notices.
    """
    document = {**stamp, "sha256": file_digest(made), "size": made.stat().st_size}
    if siblings:
        document["external"] = {sibling.name: file_digest(sibling) for sibling in siblings}
    stamped = made.with_name(made.name + ".stamp")
    stamped.write_text(render(document), encoding="utf-8")
    try:
        for sibling in siblings:
            sibling.replace(target.with_name(sibling.name))
        stamped.replace(stamp_path(target))
        made.replace(target)
    except OSError as error:
        raise HostError(
            f"cannot write `{target}`: {error.strerror}", hint="choose another output with -o"
        ) from error
    return document


def publish_log(log: Path, target: Path) -> None:
    """Logs stay, also of failed runs: they are what the user needs then."""
    if log.exists() and log.stat().st_size:
        shutil.copyfile(log, target)
