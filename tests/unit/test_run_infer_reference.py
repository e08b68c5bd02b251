"""ONNX Runtime as a runner; PyTorch is in tests/export."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inferring import JobIO, summed, twice
from onnx import TensorProto
from runtime import runners
from runtime.reference import OnnxRuntimeRunner
from worker import JobError


def opened(path: Path, slots: int = 2, **more: Any) -> Any:
    params = {"runtime": "onnxruntime", "path": str(path), **more}
    return runners.open_runner(params, JobIO(path.parent), slots)


def test_it_tells_its_tensors(tmp_path: Path) -> None:
    runner = opened(summed(tmp_path / "m.onnx"), threads=1)
    assert [(t.name, t.dtype, t.shape) for t in runner.inputs] == [
        ("a", "float32", [-1, 2]), ("b", "float32", [-1, 2]), ("bias", "float32", [2]),
    ]  # fmt: skip
    assert [(t.name, t.shape) for t in runner.outputs] == [("sum", [-1, 2]), ("total", [])]
    assert runner.inputs[0].maximum is None
    assert runner.describe()["device"] == "cpu"
    assert set(runners.libraries(runner)) == {"onnxruntime"}
    runner.close()


def test_slots_are_filled_while_another_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = opened(twice(tmp_path / "m.onnx"))
    compute, going = OnnxRuntimeRunner.compute, threading.Event()

    def slowly(self: Any, feed: Any) -> Any:
        going.wait(5)
        return compute(self, feed)

    monkeypatch.setattr(OnnxRuntimeRunner, "compute", slowly)
    slots = []
    for value in (1, 2):
        slot = runner.acquire({"x": (3, 2)})
        slot.inputs["x"][...] = value
        runner.submit(slot)  # returns although nothing is computed yet
        slots.append(slot)
    with pytest.raises(RuntimeError, match="all 2 slots"):
        runner.acquire({"x": (3, 2)})
    going.set()
    assert [runner.collect(slot)["y"].max() for slot in slots] == [2, 4]
    runner.release(slots[0])
    assert runner.acquire({"x": (1, 2)}).inputs["x"].base is not None
    runner.close()


def test_buffers_are_kept_where_shapes_fit(tmp_path: Path) -> None:
    runner = opened(twice(tmp_path / "m.onnx"), slots=1)
    addresses = []
    for count in (8, 3, 8):
        slot = runner.acquire({"x": (count, 2)})
        addresses.append(slot.inputs["x"].ctypes.data)
        assert slot.inputs["x"].flags["C_CONTIGUOUS"]
        runner.release(slot)
    assert len(set(addresses)) == 1


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.INT64, "int64"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.INT8, "int8"),
    ],
)
def test_types_are_those_of_numpy(tmp_path: Path, kind: int, dtype: str) -> None:
    runner = opened(twice(tmp_path / "m.onnx", kind))
    found = runner.run({"x": np.ones((2, 2), dtype)})["y"]
    assert found.dtype == dtype
    assert (found == 2).all()


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": np.ones((2, 3), np.float32)}, "2x3; the model takes \\?x2"),
        ({"x": np.ones(2, np.float32)}, "input `x` is 2;"),
        ({"z": np.ones((2, 2), np.float32)}, "no input `z`"),
        ({}, "nothing is given"),
        ({"x": np.ones((2, 2), np.complex64)}, "complex64"),
    ],
)
def test_run_says_what_does_not_fit(tmp_path: Path, feed: dict[str, Any], message: str) -> None:
    runner = opened(twice(tmp_path / "m.onnx"))
    with pytest.raises(JobError, match=message):
        runner.run(feed)
    assert (runner.run({"x": np.ones((1, 2), np.float32)})["y"] == 2).all()


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(JobError, match=r"cannot load `broken.onnx`"):
        opened(path)


def test_the_optimum_of_an_export_is_taken_where_the_shape_allows_it(tmp_path: Path) -> None:
    path = twice(tmp_path / "m.onnx")
    for told, expected in (([4, 2], [4, 2]), ([4, 3], None), ([4], None), (None, None)):
        (tensor,) = opened(path, optimum={"x": told, "other": [1]}).inputs
        assert (tensor.minimum, tensor.optimum, tensor.maximum) == (None, expected, None)
