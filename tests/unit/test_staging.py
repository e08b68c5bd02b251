import os
from pathlib import Path

import pytest

from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import (
    fingerprint,
    is_current,
    read_stamp,
    stamp_path,
)
from trtenv.errors import ArtifactError, HostError, OutputBusy, UsageError
from trtenv.pipeline.staging import publish, refuse_foreign, sole_writer, staging_folder


def test_staging_is_beside_the_output_and_vanishes(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "out"
        (folder / "x").touch()
    assert list((tmp_path / "out").iterdir()) == []


def test_staging_vanishes_after_an_interrupt(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), staging_folder(out):
        raise KeyboardInterrupt
    assert list(out.iterdir()) == []


def test_output_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(HostError, match="cannot write to the output folder"),
        staging_folder(tmp_path / "out"),
    ):
        pass


def test_published_artifact_carries_its_digest(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"engine")
    target = tmp_path / "ü x.engine"
    publish(made, target, {"key": "k"}, [])
    stamp = read_stamp(target) or {}
    assert stamp == {"key": "k", "sha256": file_digest(target), "size": 6}
    assert is_current(target, "k")
    assert not is_current(target, "other")
    assert sorted(tmp_path.iterdir()) == [target, stamp_path(target)]


def test_changed_or_missing_artifact_is_not_current(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"engine")
    target = tmp_path / "x.engine"
    publish(made, target, {"key": "k"}, [])
    target.write_bytes(b"engInE")
    assert not is_current(target, "k")
    target.unlink()
    assert not is_current(target, "k")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_stamp_is_an_error_and_never_current(tmp_path: Path, text: str) -> None:
    target = tmp_path / "x.engine"
    target.touch()
    stamp_path(target).write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError):
        read_stamp(target)
    assert not is_current(target, "k")


def test_a_users_own_file_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "x.onnx"
    refuse_foreign(output, [], force=False)
    output.write_bytes(b"mine")
    with pytest.raises(UsageError, match="trtenv did not make it"):
        refuse_foreign(output, [], force=False)
    refuse_foreign(output, [], force=True)
    stamp_path(output).write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="trtenv did not make it"):
        refuse_foreign(output, [], force=False)
    stamp_path(output).write_text('{"trtenv": "0.1.0", "kind": "onnx"}')
    refuse_foreign(output, [], force=False)
    with pytest.raises(UsageError, match="input and output at once"):
        refuse_foreign(output, [tmp_path / "." / "x.onnx"], force=True)
    with pytest.raises(UsageError, match="is a folder"):
        refuse_foreign(tmp_path, [], force=True)


def test_second_writer_of_the_same_output_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    with (
        sole_writer(output),
        pytest.raises(OutputBusy, match=r"x\.engine"),
        sole_writer(tmp_path / "sub" / ".." / "x.engine"),
    ):
        pass
    with sole_writer(output):
        pass


def test_fingerprint_ignores_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output_folder_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HostError, match="cannot write"), staging_folder(tmp_path):
        pass
