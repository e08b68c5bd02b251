"""Builds on one GPU take turns: two that time kernels at once spoil each other's choice.

A turn is a lock on a file that every user of the machine shares, held by the client and not by its
worker: it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trtenv import console
from trtenv.catalog.host import Gpu
from trtenv.pipeline.place import Place

# Not the user's cache or runtime folder: others build on this GPU too.
FOLDER = Path("/tmp")  # noqa: S108  only locks are taken on what lies there; see `_open`
LOCKS = Path("/proc/locks")


@contextmanager
def gpu_turn(place: Place, folder: Path = FOLDER) -> Iterator[None]:
    """Wait until no other build of this machine uses the GPUs that this job may; then keep them."""
    if not place.options.needs_gpu or place.options.gpus == "none":
        yield
        return
    with ExitStack() as stack:
        # In one order everywhere: two builds that want the same two GPUs must not wait for each other.
        for name, label in sorted(turns(place.settings.host.gpus, place.options.gpus)):
            stack.enter_context(_turn(folder / f"trtenv-{name}.lock", label))
        yield


def turns(gpus: Sequence[Gpu], wish: str | None) -> list[tuple[str, str]]:
    """(name of the lock, what people call it) for each GPU of --gpus, as far as the driver knows them.

    Where a wish names a part of a GPU, or one by a name of the container toolkit, all are meant.
    """
    if not gpus:
        return [("gpu-all", "the GPU")]
    known = {key: gpu for gpu in gpus for key in (str(gpu.index), gpu.uuid)}
    wanted = (wish or "all").split(",")
    chosen = [known[item] for item in wanted] if set(wanted) <= set(known) else gpus
    return sorted({(f"gpu-{gpu.uuid}", f"GPU {gpu.index}") for gpu in chosen})


@contextmanager
def _turn(file: Path, label: str) -> Iterator[None]:
    lock = None
    try:
        lock = _take(file, label)
    except OSError as error:
        console.say(f"note: builds on {label} cannot take turns: {error}")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _take(file: Path, label: str) -> int:
    while True:
        lock = _open(file)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.say(f"waiting for another build on {label}{_holder(lock)}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(file, lock):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _is_at(file: Path, lock: int) -> bool:
    """A cleaner of /tmp may have removed the file meanwhile: a lock on it binds nobody else."""
    try:
        return os.path.samestat(file.stat(follow_symlinks=False), os.fstat(lock))
    except FileNotFoundError:
        return False


def _open(file: Path) -> int:
    """For reading: that is enough to lock it, and the file may be another user's.

    No O_CREAT on a file that is there: in /tmp the kernel refuses that for other users' files
    (fs.protected_regular). O_NOFOLLOW: nobody leads us elsewhere by a link.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        try:
            return os.open(file, flags)
        except FileNotFoundError:
            pass
        try:
            lock = os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        os.fchmod(lock, 0o644)  # readable to all, whatever the umask
        return lock


def _holder(lock: int) -> str:
    """` (pid 123)` where the kernel tells: not for processes of other containers."""
    inode = f":{os.fstat(lock).st_ino}"
    try:
        lines = LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = (
            line.split()
        )  # "1: FLOCK  ADVISORY  WRITE 4711 fd:01:9876 0 EOF"; waiters have "->"
        if fields[1:2] == ["FLOCK"] and fields[5].endswith(inode) and int(fields[4]) > 0:
            return f" (pid {fields[4]})"
    return ""
