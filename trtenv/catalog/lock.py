"""trtenv.lock: which digest each environment name stood for, and what was measured inside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from trtenv.errors import HostError, NotLocked, UsageError

FORMAT: Final = 1


class LockEntry(NamedTuple):
    """`measured` holds what a job or `env probe` read inside; `date` is ISO 8601, UTC."""

    digest: str
    reference: str
    platform: str
    date: str
    measured: Mapping[str, Any] = MappingProxyType({})

    def to_dict(self) -> dict[str, Any]:
        return {
            "date": self.date,
            "digest": self.digest,
            "measured": dict(self.measured),
            "platform": self.platform,
            "reference": self.reference,
        }


Lock = Mapping[str, LockEntry]


def read_lock(path: Path) -> dict[str, LockEntry]:
    """Empty where there is no file. UsageError where it is no lock of a known format."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise UsageError(
                f"`{path}` has lock format {document['format']}; this trtenv reads {FORMAT}",
                hint="upgrade trtenv, or move the file away to write a new one",
            )
        return {name: LockEntry(**entry) for name, entry in document["environments"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"`{path}` is no trtenv lock: {error}", hint="restore it, or move it away"
        ) from error


def render_lock(lock: Lock) -> str:
    """Sorted, so that writing it again changes nothing."""
    entries = {name: entry.to_dict() for name, entry in lock.items()}
    document = {"format": FORMAT, "environments": entries}
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def check_locked(lock: Lock, name: str, path: Path) -> LockEntry:
    """The entry that --locked demands; NotLocked where there is none."""
    if name not in lock:
        raise NotLocked(
            f"environment `{name}` is not in `{path}`",
            hint="run once without --locked: the first use writes it",
        )
    return lock[name]


def check_digest(entry: LockEntry, digest: str, name: str, path: Path) -> None:
    if entry.digest != digest:
        raise NotLocked(
            f"environment `{name}` has digest {digest}; `{path}` holds {entry.digest}",
            hint=f"accept this one by running once without --locked, or restore `{path}`",
        )


def update_lock(path: Path, name: str, entry: LockEntry) -> None:
    """Add or replace one entry, safely beside other processes doing the same."""
    from filelock import FileLock

    from trtenv.paths import cache_folder

    locks = cache_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with FileLock(locks / "trtenv.lock.guard"):
            entries = read_lock(path)
            entries[name] = entry
            part.write_text(render_lock(entries), encoding="utf-8")
            part.replace(path)
    except OSError as error:
        raise HostError(
            f"the lock `{path}` cannot be written: {error.strerror}",
            hint="name another with --lock, or use what it holds: --locked",
        ) from error
