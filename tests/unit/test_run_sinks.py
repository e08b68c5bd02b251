"""What results are called, and how they are written."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inferring import JobIO, brightness, greys, run
from PIL import Image
from runtime import sinks, workers
from worker import JobError


def names(*files: str) -> list[str]:
    return sinks.names_of([{"name": name} for name in files])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.jpg", "b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ["x/a", "y/a", "b"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["x/a.jpg", "x/a.png", "y/a.png"], ["a.jpg", "x/a.png", "y/a"]),
        (["../../etc/a.jpg", "etc/a.jpg"], ["etc/a", "etc/a-2"]),
        (["/etc/a.jpg", "..\\..\\a.jpg"], ["etc/a", "a"]),
        (["..", ".", ""], ["input", "input-2", "input-3"]),
        (["A.jpg", "a.jpg"], ["A", "a-2"]),
        ([".hidden"], [".hidden"]),
        (["a.png", "a.mask.png"], ["a", "a.mask_"]),
        (["a\n\0b:c.jpg"], ["a__b_c"]),
    ],
)
def test_names_tell_files_apart(files: list[str], expected: list[str]) -> None:
    assert names(*files) == expected


@given(st.lists(st.text(st.sampled_from("aA./\\\0é\n"), max_size=12) | st.text(), max_size=6))
def test_names_are_unique_and_stay_inside(files: list[str]) -> None:
    found = names(*files)
    assert len({name.lower() for name in found}) == len(files)
    for name in found:
        path = os.path.normpath(os.path.join("/out", name))  # noqa: PTH118
        assert path == f"/out/{name}"
        assert all(len(os.fsencode(part)) <= 200 for part in name.split("/"))


def test_long_names_are_cut(tmp_path: Path) -> None:
    found = names("é" * 120 + "1.jpeg", "é" * 120 + "2.jpeg")
    assert len(set(found)) == 2
    for name in found:
        (tmp_path / (name + ".mask.png.part")).touch()


def test_results_of_equal_names_do_not_meet(tmp_path: Path) -> None:
    files = greys(tmp_path / "x", [10]) + greys(tmp_path / "y", [200])
    for folder, file in zip(("../x", "y"), files, strict=True):
        file["name"] = f"{folder}/00000.png"
    out = tmp_path / "deep" / "out"
    run(brightness(tmp_path / "m.onnx"), files, out, save=["pictures", "npz", "npy"])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    made = {name for name in found if name.startswith("deep")}
    assert made == {f"deep/out/pictures/{name}/00000.png" for name in "xy"} | {
        f"deep/out/outputs/{name}/00000.{ending}"
        for name in "xy"
        for ending in ("npz", "scores.npy")
    }
    assert len(found) == len(made) + 3


def test_jpegs_stay_jpegs(tmp_path: Path) -> None:
    path = tmp_path / "a.JPG"
    Image.new("RGB", (64, 48), (9, 99, 200)).save(path)
    files = [{"name": "a.JPG", "path": str(path), "input": None}]
    run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out", save=["pictures"])
    with Image.open(tmp_path / "out" / "pictures" / "a.jpg") as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize(("top", "mode"), [(3, "L"), (255, "L"), (256, "I;16"), (60000, "I;16")])
def test_masks_keep_the_numbers_of_classes(tmp_path: Path, top: int, mode: str) -> None:
    mask = np.array([[0, 1], [2, top]])
    workers.save_mask(mask, str(tmp_path / "m.png"))
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == mode
        assert (np.asarray(image) == mask).all()


def test_json_has_no_numbers_that_json_has_not() -> None:
    text = sinks.line({"a": [1.5, float("nan"), {"b": float("inf")}]})
    assert json.loads(text) == {"a": [1.5, None, {"b": None}]}
    assert text.endswith("\n")


def test_a_write_that_fails_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    def fail(handle: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        workers.write_whole(str(tmp_path / "a" / "b.png"), fail)
    assert not (tmp_path / "a" / "b.png").exists()


def test_the_sheet_shows_few_of_many(tmp_path: Path) -> None:
    pool = type("Pool", (), {"count": 1})()
    shown = sinks.Pictures(JobIO(tmp_path), ["sheet"], ["n"] * 1000, pool, None)
    chosen = sorted(shown._sheet)
    assert len(chosen) == sinks.PICTURES_IN_SHEET
    assert chosen[0] == 0
    assert max(b - a for a, b in itertools.pairwise(chosen)) <= 16


def test_outputs_may_have_any_name(tmp_path: Path) -> None:
    outputs = {name: np.arange(3) for name in ("file", "allow_pickle", "/head/out", "a.npy")}
    sinks.save_arrays(JobIO(tmp_path), ["npz"], "a", outputs)
    with np.load(tmp_path / "outputs" / "a.npz") as found:
        assert set(found) >= {"file", "allow_pickle", "/head/out"}
        assert (found["file"] == outputs["file"]).all()


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("save", ["npz", "pictures", "sheet"])
def test_a_full_disk_is_told_and_leaves_room_to_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str
) -> None:
    monkeypatch.setattr(workers, "write_whole", no_space)
    files = greys(tmp_path / "in", [10, 20])
    with pytest.raises(JobError, match="No space left") as caught:
        run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out", save=["json", save])
    assert caught.value.kind == "write"
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.process
def test_processes_tell_of_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "THREADS_ENOUGH", 1)
    code = (
        "import runtime.workers as w\ndef f(*a): raise OSError(28, 'No space')\nw.write_whole = f"
    )
    start = workers.START.replace("from runtime", f"exec({code!r}); from runtime")
    monkeypatch.setattr(workers, "START", start)
    files = greys(tmp_path / "in", [10] * 70)
    with pytest.raises(JobError, match="No space") as caught:
        run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out", save=["pictures"])
    assert caught.value.kind == "write"
