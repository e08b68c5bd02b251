"""sha256 of files, remembered by what the file system says of them, as git's index does.

A file whose identity, size, and times of change are as before has the digest that it had. One that
was changed within the last two seconds is not remembered: it may change again within one tick of the
file system's clock. A memory that cannot be read or written is no error.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from trtenv.paths import cache_folder, whole_file

SETTLED_NS: Final = 2_000_000_000
# Where remembering costs more than reading again.
SMALL: Final = 1 << 20
MOST: Final = 256


def file_digest(path: Path) -> str:
    status = path.stat()
    if status.st_size < SMALL:
        return _read(path)
    seen = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    memory = cache_folder() / "digests.json"
    known = _recall(memory)
    name = str(path.absolute())
    if (entry := known.get(name)) and entry[:-1] == seen:
        return str(entry[-1])
    digest = _read(path)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
        known.pop(name, None)
        known[name] = [*seen, digest]
        _remember(memory, dict(list(known.items())[-MOST:]))
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _recall(memory: Path) -> dict[str, list[object]]:
    try:
        found = json.loads(memory.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _remember(memory: Path, known: dict[str, list[object]]) -> None:
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(memory) as part:
            part.write_text(json.dumps(known), encoding="utf-8")
