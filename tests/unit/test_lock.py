from pathlib import Path

import pytest

from trtenv.catalog.lock import (
    LockEntry,
    check_digest,
    check_locked,
    read_lock,
    render_lock,
    update_lock,
)
from trtenv.errors import NotLocked, UsageError

ENTRY = LockEntry(
    digest="sha256:" + "a" * 64,
    reference="nvcr.io/nvidia/tensorrt:24.08-py3",
    platform="linux/amd64",
    date="2026-01-02T03:04:05Z",
    measured={"tensorrt": "10.3.0.26"},
)


def test_missing_lock_is_empty(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "trtenv.lock") == {}


def test_what_is_written_is_read_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "trtenv.lock"
    update_lock(path, "b", ENTRY)
    update_lock(path, "a", ENTRY)
    assert list(read_lock(path)) == ["a", "b"]
    assert read_lock(path)["a"] == ENTRY
    assert path.read_text() == render_lock(read_lock(path))
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format":1,"environments":{"a":{"x":1}}}', "\x00"]
)
def test_damaged_lock_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trtenv.lock"
    path.write_text(text)
    with pytest.raises(UsageError, match="no trtenv lock"):
        read_lock(path)
    assert path.read_text() == text


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trtenv.lock"
    path.write_text('{"format": 99, "environments": {}}')
    with pytest.raises(UsageError, match="lock format 99"):
        read_lock(path)


def test_locked_demands_an_entry_and_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "trtenv.lock"
    with pytest.raises(NotLocked, match="is not in"):
        check_locked({}, "x", path)
    check_digest(ENTRY, ENTRY.digest, "x", path)
    with pytest.raises(NotLocked, match="holds sha256:a"):
        check_digest(ENTRY, "sha256:b", "x", path)
