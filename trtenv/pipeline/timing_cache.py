"""Timing caches between builds: shards in the user's cache folder, or one file that the user names.

A shard is KEY.DIGEST.cache. KEY is told by the job, which alone knows the exact TensorRT and the GPU;
DIGEST is of the content. A build reads every shard of its key, publishes one that holds them all, and
removes those that it read: nothing is ever changed in place, so builds need no lock between them, on
any file system, and what two of them measured at once is joined by the next.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from trtenv import console
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import read_stamp
from trtenv.errors import ArtifactError, JobFailed, TrtenvError, UsageError
from trtenv.paths import cache_folder, whole_file
from trtenv.pipeline.place import Place
from trtenv.runners.protocol import Job, Session

# Measured times are some kilobytes a model; from TensorRT 10 on, compiled kernels come with them.
MAX_BYTES = 512 * 2**20
DIGEST_LENGTH = 32
WRITTEN = "timing.cache"
STALE_PART_S = 24 * 3600


class TimingCache(NamedTuple):
    """What a build is given. `file`: the user's own, `seen` its digest; None means shards."""

    params: dict[str, Any]
    file: Path | None = None
    seen: str | None = None


def check_file(file: Path) -> None:
    """UsageError where the cache could not be written after the build: builds take long."""
    folder = file.parent
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(
            f"the timing cache `{file}` cannot be written",
            hint="name a file in a folder that you may write to, or take --timing-cache auto",
        )


def stage(wish: str, place: Place, session: Session) -> TimingCache | None:
    """Put what a build may read where its worker sees it. `wish`: auto, none, or the path of a file."""
    if wish == "none":
        return None
    if wish != "auto":
        return stage_file(Path(wish), place, session)
    folder = _empty_folder(session)
    prefix = "-".join([place.environment.flavour, *_minor(place)])
    for shard in _folder().glob(f"{prefix}*.cache"):
        with suppress(FileNotFoundError):  # another build has just joined it with its own
            _link(shard, folder / shard.name)
    return TimingCache(_params(place, session, folder, shards=True))


def stage_file(
    file: Path, place: Place, session: Session, *, key: str | None = None
) -> TimingCache:
    """One file instead of shards, and the key that it must be of, where that is known."""
    check_file(file)
    file = file.resolve()
    folder, seen = _empty_folder(session), None
    if file.exists():
        # Copied, not linked: trtexec changes such files in place.
        copy = Path(shutil.copyfile(file, folder / file.name))
        seen = file_digest(copy)
    return TimingCache(_params(place, session, folder, shards=False, key=key), file, seen)


def replay(output: Path, key: str, place: Place, session: Session) -> TimingCache | None:
    """What --reproducible recorded beside `output` for this request; else None.

    Nothing is written back to it, and the job fails where TensorRT times anything that it could hold.
    """
    try:
        stamp = read_stamp(output) or {}
    except ArtifactError:
        stamp = {}
    file = recorded(output)
    said = stamp.get("build", {})
    # Without the engine's stamp nothing says what the cache was for: the job will tell.
    if not file.exists() or (said.get("recorded") or {}).get("key", key) != key:
        return None
    said = said.get("timing_cache") or {}
    cache = stage_file(file, place, session, key=said.get("key"))
    return cache._replace(params={**cache.params, "frozen": True}, file=None)


def record(out: Path, output: Path, key: str, *, replayed: bool) -> dict[str, str]:
    """Keep what this build went by beside its engine; returns what the stamp says of it."""
    file = recorded(output)
    if not replayed:
        if file.exists():
            console.say(f"note: {file.name} was of another request and is recorded anew")
        _put(out / WRITTEN, file)
    return {"name": file.name, "sha256": file_digest(file), "key": key}


def recorded(output: Path) -> Path:
    return output.with_name(output.name + ".timing")


def keep(
    cache: TimingCache, report: Mapping[str, Any], out: Path, place: Place, session: Session
) -> None:
    """Keep what the build measured; a cache that cannot be kept is told of and costs no engine."""
    for name, reason in report["dropped"].items():
        console.say(f"note: the timing cache {name} was not used: {reason}")
    try:
        if cache.file and report["changed"]:
            _write_back(out / WRITTEN, cache, place, session)
        elif cache.params["shards"] and report["key"]:
            publish(out / WRITTEN, report)
    except OSError as error:
        console.say(f"note: the timing cache could not be kept: {error}")


def publish(made: Path, report: Mapping[str, Any]) -> None:
    folder, key = _folder(), report["key"]
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", key):
        raise OSError(f"`{key}` is no key")
    shards = {path.name: path for path in folder.glob(f"{key}.*.cache")}
    for name, reason in report["dropped"].items():
        if reason == "damaged" and name in shards:
            shards.pop(name).unlink(missing_ok=True)
    used = [shards[name] for name in report["read"] if name in shards]
    if not report["changed"]:
        for path in used:
            with suppress(FileNotFoundError):
                os.utime(path)
        return
    target = folder / f"{key}.{file_digest(made)[:DIGEST_LENGTH]}.cache"
    _put(made, target)
    for path in used:
        if path != target:
            path.unlink(missing_ok=True)
    prune(folder, MAX_BYTES)


def prune(folder: Path, most: int) -> None:
    """Remove the shards used longest ago until all are within `most` bytes."""
    found = []
    for path in folder.glob("*.cache"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
    for part in folder.glob("*.part"):  # of a process that was killed while it wrote
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > STALE_PART_S:
                part.unlink()


def _folder() -> Path:
    return cache_folder() / "timing"


def _minor(place: Place) -> list[str]:
    """`8.6.` of a declared 8.6.1: the job compares the exact version, which is only known inside."""
    numbers = (place.environment.tensorrt or "").split(".")
    return [".".join([*numbers[:2], ""])] if len(numbers) > 1 else []


def _params(
    place: Place, session: Session, folder: Path, *, shards: bool, key: str | None = None
) -> dict[str, Any]:
    return {
        "read": [session.inside(path) for path in sorted(folder.iterdir())],
        "shards": shards,
        "key": key,
        # One TensorRT version is published for two majors of CUDA, with different kernels inside.
        "cuda": (place.environment.cuda or "").partition(".")[0] or None,
        "write": WRITTEN,
    }


def _empty_folder(session: Session) -> Path:
    folder = session.staging / "jobs" / "timing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)  # with its time: the job takes the newest last


def _put(made: Path, target: Path) -> None:
    """Whole or not at all, also where the job's folder is on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        shutil.copyfile(made, part)


def _write_back(made: Path, cache: TimingCache, place: Place, session: Session) -> None:
    """Replace the user's file; where it changed since it was read, by both together."""
    from filelock import FileLock

    assert cache.file
    locks = cache_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    name = sha256(os.fsencode(cache.file)).hexdigest()[:24]
    with FileLock(locks / f"timing-{name}.lock"):
        if cache.file.exists() and file_digest(cache.file) != cache.seen:
            try:
                made = _combined(made, cache.file, place, session)
            except TrtenvError as error:
                console.say(
                    f"note: `{cache.file}` was changed during the build and is left as it is: "
                    f"{error.message}"
                )
                return
        _put(made, cache.file)


def _combined(made: Path, theirs: Path, place: Place, session: Session) -> Path:
    """Both caches in one. JobFailed where TensorRT refuses either."""
    folder = _empty_folder(session)
    both = [
        Path(shutil.copyfile(theirs, folder / "theirs.cache")),
        Path(shutil.copyfile(made, folder / "ours.cache")),
    ]
    params = {
        "flavour": place.environment.flavour,
        "read": [session.inside(path) for path in both],
        "write": WRITTEN,
    }
    result = session.run(Job("timing", params), lambda _: None)
    if refused := result.values["refused"]:
        raise JobFailed(f"TensorRT refuses {', '.join(sorted(refused))}")
    return result.out / WRITTEN
