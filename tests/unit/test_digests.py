import hashlib
import os
from pathlib import Path

import pytest

from trtenv.engine import digests
from trtenv.engine.digests import SMALL, file_digest
from trtenv.paths import cache_folder


@pytest.fixture
def old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as settled: its time of change cannot be set, the rule's length can."""
    monkeypatch.setattr(digests, "SETTLED_NS", -1)
    path = tmp_path / "x.engine"
    path.write_bytes(b"a" * SMALL)
    return path


def test_digest_is_sha256(old_file: Path) -> None:
    assert file_digest(old_file) == hashlib.sha256(b"a" * SMALL).hexdigest()


def test_unchanged_file_is_not_read_again(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = file_digest(old_file)
    monkeypatch.setattr(digests, "_read", lambda path: pytest.fail("read again"))
    assert file_digest(old_file) == first


def test_same_size_and_time_but_other_content_is_noticed(old_file: Path) -> None:
    before, times = file_digest(old_file), old_file.stat()
    old_file.write_bytes(b"b" * SMALL)
    os.utime(old_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(old_file) != before


def test_fresh_file_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * SMALL)
    file_digest(path)
    assert not (cache_folder() / "digests.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}'])
def test_damaged_memory_is_no_error(old_file: Path, text: str) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "digests.json").write_text(text)
    assert file_digest(old_file) == hashlib.sha256(b"a" * SMALL).hexdigest()
