"""Calibration data and calibration caches on the host: what they are, and how a job sees them.

Data is never copied: a container gets it as a read-only mount, a venv reads it where it lies.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import fingerprint
from trtenv.errors import UsageError
from trtenv.paths import cache_folder, whole_file
from trtenv.runners.protocol import Mount, RunOptions, Session

ARRAYS: Final = (".npz", ".npy")
WRITTEN: Final = "calibration.cache"  # by the job, in its output folder
SETTINGS: Final[Mapping[str, Any]] = {
    "method": "entropy",
    "batch": None,
    "mean": None,
    "std": None,
    "scale": 1 / 255,
}
HINT: Final = "name a folder of images, an .npz file with one array per input, or an .npy file"


class CalibrationData(NamedTuple):
    path: Path
    sha256: str


def read_data(path: Path) -> CalibrationData:
    """UsageError for what is no calibration data, or what this user cannot read."""
    path = path.absolute()
    if not path.exists():
        raise UsageError(f"calibration data `{path}` does not exist", hint=HINT)
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() in ARRAYS):
        raise UsageError(f"`{path}` is neither a folder nor an .npz nor .npy file", hint=HINT)
    try:
        return CalibrationData(path, _digest(path))
    except OSError as error:
        raise UsageError(
            f"calibration data `{error.filename or path}` cannot be read: {error.strerror}",
            hint=HINT,
        ) from error


def _digest(path: Path) -> str:
    """Of a folder: every name below it and every content."""
    if path.is_file():
        return file_digest(path)
    whole, empty = sha256(), True
    for file in _files(path):
        empty = False
        name = os.fsencode(file.relative_to(path))
        whole.update(name + b"\0" + file_digest(file).encode())
    if empty:
        raise UsageError(f"calibration folder `{path}` holds no files", hint=HINT)
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """What jobs/calibration.py reads: no hidden files and folders, no links to folders.

    A FIFO, socket or device is left out: opening one may wait for ever. OSError for a link to nothing.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    yield from (file for file in sorted(found) if stat.S_ISREG(file.stat().st_mode))


def with_data(options: RunOptions, data: CalibrationData, runner: str) -> RunOptions:
    """The options of the session that is to calibrate: a container has the data mounted.

    UsageError where links lead out of the folder: their targets would not be there.
    """
    if runner != "docker":
        return options
    if data.path.is_dir():
        root = data.path.resolve()
        for file in _files(data.path):
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                raise UsageError(
                    f"`{file}` is a link that leads out of the calibration folder; "
                    "a container sees that folder alone",
                    hint="copy the images, or use --runner venv",
                )
    return replace(options, mounts=(*options.mounts, Mount(source=data.path)))


def settings(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """How to calibrate, by the options --calibration-method, -batch, -mean, -std and -scale."""
    return {name: wishes.get(f"calibration_{name}", default) for name, default in SETTINGS.items()}


def cache_key(
    *,
    model: str,
    data: str,
    flavour: str,
    version: str,
    devices: Sequence[str],
    settings: Mapping[str, Any],
    network: Mapping[str, Any],
) -> str:
    """What a calibration cache depends on; `model` and `data` are digests.

    `network`: the rewrites of the graph and the profiles. The GPUs belong to it: TensorRT calibrates
    the network that it has fused for this one, and names ranges by the fused layers.
    """
    return fingerprint(
        {
            "model": model,
            "data": data,
            "flavour": flavour,
            "tensorrt": version,
            "devices": list(devices),
            "settings": dict(settings),
            "network": dict(network),
        }
    )


def cache_path(key: str) -> Path:
    return cache_folder() / "calibration" / f"{key}.cache"


def params(
    chosen: Mapping[str, Any], data: CalibrationData, key: str | None, session: Session
) -> dict[str, Any]:
    """The `calibration` parameter of the build job; with a key, the cache that an earlier one left."""
    cache = stage_cache(key, session) if key else None
    return {**chosen, "data": session.inside(data.path), "cache": cache}


def stage_cache(key: str, session: Session) -> str | None:
    """Where the job sees the cache of this key; None where there is none."""
    target = session.staging / "jobs" / "calibration" / f"{key}.cache"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(cache_path(key), target)
    except FileNotFoundError:
        return None
    return session.inside(target)


def keep_cache(key: str, out: Path) -> None:
    """Keep what the job wrote, whole or not at all; it writes none where it read one."""
    made = out / WRITTEN
    if not made.exists():
        return
    target = cache_path(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        shutil.copyfile(made, part)
