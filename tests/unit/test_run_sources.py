"""The infer job on tensors: .npy, .npz and raw files, cut into batches and put together again."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inferring import JobIO, lines, parameters, run, source, summed, twice
from onnx import TensorProto
from runtime import infer, runners, sources
from runtime.runners import Tensor
from worker import JobError


def saved(path: Path, array: Any) -> dict[str, Any]:
    np.save(path, array)
    return source(path)


def zipped(path: Path, **arrays: Any) -> dict[str, Any]:
    np.savez(path, **arrays)
    return source(path)


def result(out: Path, name: str) -> dict[str, Any]:
    with np.load(out / "outputs" / f"{name}.npz") as arrays:
        return dict(arrays)


def rows(count: int, first: float = 0) -> Any:
    return (first + np.arange(2 * count, dtype=np.float32)).reshape(count, 2)


def infer_arrays(model: Path, files: list[dict[str, Any]], out: Path, **more: Any) -> Any:
    return run(model, files, out, **{"kind": "arrays", "save": ["json", "csv", "npz"], **more})


@pytest.mark.parametrize(
    ("shape", "batch", "batches"),
    [
        (("n", 2), None, 1),
        (("n", 2), 4, 3),
        ((5, 2), None, 2),
        ((1, 2), None, 9),
        ((9, 2), None, 1),
    ],
)
def test_rows_become_batches_and_come_back(
    tmp_path: Path, shape: tuple[int | str, ...], batch: int | None, batches: int
) -> None:
    model = twice(tmp_path / "m.onnx", shape=shape)
    out = tmp_path / "out"
    values = infer_arrays(model, [saved(tmp_path / "x.npy", rows(9))], out, batch=batch)
    assert (result(out, "x")["y"] == 2 * rows(9)).all()
    assert (values["images"], values["batches"]) == (1, batches)
    assert lines(out) == [{"file": "x.npy", "inputs": {"x": [9, 2]}, "outputs": {"y": [9, 2]}}]
    told = list(csv.reader((out / "results.csv").read_text().splitlines()))
    assert told[1] == ["x.npy", "y", "float32", "9x2", "0", "34", "17"]


def test_files_follow_each_other_through_the_slots(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{n}.npy", rows(n + 1, n)) for n in range(7)]
    out = tmp_path / "out"
    infer_arrays(twice(tmp_path / "m.onnx"), files, out, batch=2)
    assert [entry["file"] for entry in lines(out)] == [file["name"] for file in files]
    for number in range(7):
        assert (result(out, str(number))["y"] == 2 * rows(number + 1, number)).all()


def test_several_inputs_in_one_file_or_each_in_its_own(tmp_path: Path) -> None:
    model = summed(tmp_path / "m.onnx")
    bias = np.array([100, 200], np.float32)
    both = zipped(tmp_path / "both.npz", a=rows(5), b=rows(5, 3), bias=bias)
    parts = [
        {**saved(tmp_path / f"{name}.npy", array), "input": name}
        for name, array in (("b", rows(5, 3)), ("bias", bias), ("a", rows(5)))
    ]
    expected = rows(5) + rows(5, 3) + bias
    for number, files in enumerate(([both], parts)):
        out = tmp_path / str(number)
        infer_arrays(model, files, out, batch=2)
        found = result(out, "both" if number == 0 else "a")
        assert (found["sum"] == expected).all()
        assert found["total"].shape == (3,)  # one for each batch: a scalar has no rows


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.FLOAT, "float64"),
        (TensorProto.INT64, "int32"),
        (TensorProto.INT64, "uint8"),
        (TensorProto.DOUBLE, "float32"),
    ],
)
def test_types_that_fit_are_cast(tmp_path: Path, kind: int, dtype: str) -> None:
    model, out = twice(tmp_path / "m.onnx", kind), tmp_path / "out"
    infer_arrays(model, [saved(tmp_path / "x.npy", rows(3).astype(dtype))], out)
    assert (result(out, "x")["y"] == 2 * rows(3)).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (rows(3).astype("float32"), "x.npy` for input `x` is float32; the model takes int32"),
        (np.full((1, 2), 1 << 40), "numbers that int32 cannot"),
        (np.zeros((1, 2, 3), "int32"), "is 1x2x3; the model takes \\?x2"),
        (np.zeros((1, 3), "int32"), "input `x` is 1x3; the model takes \\?x2"),
        (np.zeros((0, 2), "int32"), "x 0"),
        (np.array([["a", "b"]]), "no tensor"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    model = twice(tmp_path / "m.onnx", TensorProto.INT32)
    with pytest.raises(JobError, match=message):
        infer_arrays(model, [saved(tmp_path / "x.npy", array)], tmp_path / "out")


def test_one_file_that_does_not_fit_is_told_and_the_others_run(tmp_path: Path) -> None:
    model, out = twice(tmp_path / "m.onnx"), tmp_path / "out"
    files = [saved(tmp_path / f"{n}.npy", rows(4)) for n in range(3)]
    Path(files[1]["path"]).write_bytes(b"\x93NUMPY no more")
    values = infer_arrays(model, files, out, batch=2)
    assert (values["images"], values["failed"]) == (2, 1)
    assert [("error" in entry) for entry in lines(out)] == [False, True, False]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "nothing is given for input `bias`"),
        (("a", "b", "bias", "other"), "no input `other`"),
    ],
)
def test_an_archive_has_the_inputs_and_nothing_else(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    file = zipped(tmp_path / "x.npz", **dict.fromkeys(names, rows(2)))
    with pytest.raises(JobError, match=message):
        infer_arrays(summed(tmp_path / "m.onnx"), [file], tmp_path / "out")


def test_an_input_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="does not say which input"):
        infer_arrays(
            summed(tmp_path / "m.onnx"), [saved(tmp_path / "x.npy", rows(2))], tmp_path / "out"
        )


def test_raw_bytes_take_the_type_and_shape_of_the_input(tmp_path: Path) -> None:
    model, out = twice(tmp_path / "m.onnx"), tmp_path / "out"
    path = tmp_path / "x.raw"
    rows(6).tofile(path)
    infer_arrays(model, [source(path)], out, kind="raw", batch=4)
    assert (result(out, "x")["y"] == 2 * rows(6)).all()
    infer_arrays(model, [source(path)], out, kind="raw", shapes={"x": [6, 2]})
    assert (result(out, "x")["y"] == 2 * rows(6)).all()
    with pytest.raises(JobError, match="has 48 bytes; 5x2 of float32 are 40"):
        infer_arrays(model, [source(path)], out, kind="raw", shapes={"x": [5, 2]})
    path.write_bytes(b"12345")
    with pytest.raises(JobError, match="has 5 bytes"):
        infer_arrays(model, [source(path)], out, kind="raw")


def test_raw_bytes_of_an_open_shape_need_one(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    rows(6).tofile(path)
    model = twice(tmp_path / "m.onnx", shape=("n", "m"))
    with pytest.raises(JobError) as caught:
        infer_arrays(model, [source(path)], tmp_path / "out", kind="raw")
    assert "--shapes x:" in str(caught.value.hint)


def test_tensors_have_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no pictures"):
        infer_arrays(
            twice(tmp_path / "m.onnx"),
            [saved(tmp_path / "x.npy", rows(2))],
            tmp_path / "out",
            save=["sheet"],
        )


def test_the_job_needs_no_task_for_tensors(tmp_path: Path) -> None:
    model, file = twice(tmp_path / "m.onnx"), saved(tmp_path / "x.npy", rows(2))
    job = JobIO(tmp_path / "out")
    values = infer.run(parameters(model, [file], kind="arrays", save=["npy"], batch=1), job)
    assert (np.load(tmp_path / "out" / "outputs" / "x.y.npy") == 2 * rows(2)).all()
    assert values["batch"] == 1
    assert job.phases[-1][1:] == (1, 1)


@given(
    total=st.integers(1, 200),
    low=st.integers(1, 8),
    more=st.integers(0, 40),
    batch=st.none() | st.integers(1, 60),
    fixed=st.none() | st.integers(1, 20),
)
def test_pieces_cover_each_row_once_and_keep_to_the_profile(
    total: int, low: int, more: int, batch: int | None, fixed: int | None
) -> None:
    high = low + more
    tensor = Tensor("x", "float32", [-1, 3], [low, 3], [low, 3], [high, 3])
    if fixed is not None:
        tensor = Tensor("x", "float32", [fixed, 3], None, None, None)
        low = high = fixed
    array = np.zeros((total, 3), np.float32)
    names, pieces = sources.pieces([tensor], {"x": array}, batch)
    if total == fixed:
        assert names == []
        return
    covered = [n for piece in pieces for n in range(piece.first, piece.first + piece.count)]
    assert covered == list(range(total))
    assert all(low <= piece.rows <= high and piece.count <= piece.rows for piece in pieces)
    parts = [(piece, {"y": np.zeros((piece.rows, 1))}) for piece in pieces]
    assert sources.gather(parts)["y"].shape == (total, 1)


def test_a_safe_cast_keeps_what_numbers_say() -> None:
    tensor = Tensor("x", "float16", [-1], None, None, None)
    assert runners.safe_cast(tensor, np.array([0.5])).dtype == np.float16
    with pytest.raises(JobError, match="complex"):
        runners.safe_cast(tensor, np.array([1j]))


def test_shapes_are_of_inputs_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(b"\0" * 16)
    with pytest.raises(JobError, match="no input `y`; it has x"):
        run(
            twice(tmp_path / "m.onnx"),
            [source(path)],
            tmp_path / "out",
            kind="raw",
            shapes={"y": [2, 2]},
        )
