"""Which files --input names, and what they are called in results."""

import os
from pathlib import Path
from typing import Any

import pytest

from trtenv.errors import UsageError
from trtenv.pipeline.inputs import find_sources


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        *("photos/frame10.png", "photos/frame2.png", "photos/notes.txt", "photos/.hidden.png"),
        *("photos/deep/a.JPG", "photos/.cache/b.png", "more/frame2.png", "more/clip.mp4"),
        *("arrays/a.npz", "arrays/b.npy", "arrays/c.raw", "odd[1].png", "photos/é ü.webp"),
    ):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(*texts: str) -> list[str]:
    return [source.name for source in find_sources(texts).files]


def test_a_folder_is_walked_in_natural_order(photos: Path) -> None:
    assert names("photos") == ["deep/a.JPG", "frame2.png", "frame10.png", "é ü.webp"]


def test_files_and_patterns(photos: Path) -> None:
    assert names("photos/frame10.png") == ["frame10.png"]
    assert names("photos/frame*.png") == ["frame2.png", "frame10.png"]
    assert names("**/frame2.png") == ["frame2.png", "photos/frame2.png"]
    assert names("odd[1].png") == ["odd[1].png"]  # a file of that name is no pattern


def test_several_folders_keep_their_names_and_each_file_counts_once(photos: Path) -> None:
    found = names("photos", "more", "photos/frame2.png")
    assert found[-1] == "more/frame2.png"
    assert found.count("photos/frame2.png") == 1


def test_equal_names_are_told_apart(photos: Path) -> None:
    assert names("photos/frame2.png", "more/frame2.png") == ["frame2.png", "more/frame2.png"]


def test_arrays_may_name_the_input_they_fill(photos: Path) -> None:
    found = find_sources(["image=arrays/a.npz", "arrays/b.npy"])
    assert found.kind == "arrays"
    assert [source.input for source in found.files] == ["image", None]
    assert find_sources(["arrays/c.raw"]).kind == "raw"


def test_one_file_may_fill_several_inputs_and_several_runs(photos: Path) -> None:
    texts = ["a=arrays/b.npy", "b=arrays/b.npy", "a=arrays/b.npy", "b=arrays/a.npz"]
    found = find_sources(texts).files
    assert [source.input for source in found] == ["a", "b", "a", "b"]
    assert len({source.name for source in found}) == 4


def test_a_folder_may_be_named_too(photos: Path) -> None:
    assert {source.input for source in find_sources(["image=more", "photos"]).files} == {
        "image", None,
    }  # fmt: skip


def test_a_folder_that_cannot_be_looked_into_is_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match="photos/deep` cannot be looked into: Permission denied"):
        names("photos")


def test_names_that_are_no_text_are_refused_before_anything_starts(photos: Path) -> None:
    Path(os.fsdecode(b"photos/caf\xe9.png")).touch()
    with pytest.raises(UsageError, match="caf\N{REPLACEMENT CHARACTER}"):
        names("photos")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["nothing"], "does not exist"),
        (["photos/none*.png"], "no file matches"),
        (["arrays"], "holds no images"),
        (["more/clip.mp4"], "ffmpeg"),
        (["photos/notes.txt"], "no input that is known"),
        (["photos", "arrays/a.npz"], "is arrays"),
        ([], "no inputs"),
    ],
)
def test_what_is_no_input_is_refused(photos: Path, texts: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_sources(texts)
    assert said in f"{caught.value.message} {caught.value.hint}"
