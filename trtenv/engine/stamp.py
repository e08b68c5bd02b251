"""The JSON document beside an artifact: what it is, from what, by what, on what, for where.

It holds no host name, no user name, no secret and no absolute path: stamps travel with engines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trtenv.engine.digests import file_digest
from trtenv.errors import ArtifactError

FORMAT: Final = 1
SUFFIX: Final = ".json"
Stamp = dict[str, Any]


def stamp_path(artifact: Path) -> Path:
    return artifact.with_name(artifact.name + SUFFIX)


def render(stamp: Mapping[str, Any]) -> str:
    return json.dumps(stamp, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_stamp(artifact: Path) -> Stamp | None:
    """None where there is no stamp; ArtifactError where it cannot be read."""
    path = stamp_path(artifact)
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"the stamp `{path}` cannot be read: {error}",
            hint="delete it; rebuilding the artifact writes a new one",
        ) from error
    if not isinstance(stamp, dict):
        raise ArtifactError(f"the stamp `{path}` is no JSON object")
    return stamp


def fingerprint(document: Mapping[str, Any]) -> str:
    """The key by which an unchanged re-run is known: sha256 over sorted JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_ours(artifact: Path) -> bool:
    """Whether a stamp of trtenv lies beside it: only then may it be replaced unasked."""
    try:
        stamp = read_stamp(artifact)
    except ArtifactError:
        return False
    return stamp is not None and "trtenv" in stamp and stamp.get("kind") in ("engine", "onnx")


def is_current(artifact: Path, key: str) -> bool:
    """Whether the artifact is there, whole, and was made from exactly these inputs."""
    try:
        stamp = read_stamp(artifact)
    except ArtifactError:
        return False
    if stamp is None or stamp.get("key") != key or not artifact.is_file():
        return False
    if stamp.get("size") != artifact.stat().st_size:
        return False
    files = {artifact.name: stamp.get("sha256"), **(stamp.get("external") or {})}
    folder = artifact.parent
    return all(
        (folder / name).is_file() and file_digest(folder / name) == digest
        for name, digest in files.items()
    )
