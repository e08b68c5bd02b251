"""The engine runner, on each way in which TensorRT's Python API has spoken and with each kind of memory.

No machine without a GPU runs an engine: tests/fakes has stand-ins for TensorRT's bindings and for the
driver, stricter than the real ones where they can be. tests/gpu/test_gpu_runner.py has the real ones;
tests/venvs/test_api_surface.py holds every name that is called against the real bindings.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.gpu_standin import allocations, count, load_standin
from fakes.pycuda_standin import install
from fakes.tensorrt_standin import STYLES, make_tensorrt, plan, tensor

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

import runtime
from runtime import engines
from worker import JobError

pytestmark = pytest.mark.process

NAMED = ("8.5", "10.0", "rtx")
WIDE = {"x": [[1, 3], [4, 3], [8, 3]]}
X, Y = tensor("x", "FLOAT", -1, 3), tensor("y", "FLOAT", -1, 3)


class JobIO:
    def __init__(self) -> None:
        self.logs = list[str]()

    def log(self, text: str) -> None:
        self.logs.append(text)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load_standin(tmp_path_factory.mktemp("driver"))


Open = Callable[..., Any]


@pytest.fixture
def opened(driver: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """opened(style, document, slots=2, **params): the runner; all that it had is given back in the end."""
    before, made = driver.standin_alive(), list[Any]()
    monkeypatch.delitem(sys.modules, "runtime.pycudamemory", raising=False)
    monkeypatch.delattr(runtime, "pycudamemory", raising=False)

    def open_engine(style: str, document: bytes, slots: int = 2, **params: Any) -> Any:
        flavour = "tensorrt-rtx" if style == "rtx" else "tensorrt"
        module = make_tensorrt(style, driver)
        monkeypatch.setitem(sys.modules, flavour.replace("-", "_"), module)
        if params.setdefault("memory", "driver") == "pycuda":
            install(driver, monkeypatch.setitem)
        path = tmp_path / "x.engine"
        path.write_bytes(document)
        io = JobIO()
        asked = {"path": str(path), "flavour": flavour, **params}
        runner = engines.EngineRunner(asked, io, slots, driver)
        made.append(runner)
        runner.logs = io.logs
        return runner

    yield open_engine
    for runner in made:
        runner.close()
    made.clear()
    if driver.standin_alive() != before:
        gc.collect()  # tracebacks hold references to PyCUDA's streams
    assert driver.standin_alive() == before


def affine(**more: Any) -> bytes:
    return plan("affine", [X], [Y], more.pop("profiles", [WIDE]), **more)


def rows(count: int, start: float = 0.0) -> np.ndarray:
    return np.arange(start, start + count * 3, dtype=np.float32).reshape(count, 3)


def feed(runner: Any, **arrays: np.ndarray) -> Any:
    slot = runner.acquire({name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        slot.inputs[name][...] = array
    return slot


@pytest.mark.parametrize("memory", ["driver", "pycuda"])
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_batches_of_any_size_in_the_profile_are_computed(
    opened: Open, style: str, cuda_graph: bool, memory: str
) -> None:
    runner = opened(style, affine(), cuda_graph=cuda_graph, memory=memory)
    assert runner.slots == 2
    told = runner.describe()
    assert told["memory"] == memory
    assert told["tensorrt-rtx" if style == "rtx" else "tensorrt"] == runner.trt.__version__
    (x,), (y,) = runner.inputs, runner.outputs
    assert x == ("x", "float32", [-1, 3], [1, 3], [4, 3], [8, 3])
    assert y == ("y", "float32", [-1, 3], None, None, None)
    for size in (4, 4, 4, 1, 8, 8, 8, 2):
        found = runner.run({"x": rows(size, start=size)})
        np.testing.assert_array_equal(found["y"], rows(size, start=size) * 2 + 1)
    assert runner.describe()["cuda_graph"] == cuda_graph
    assert runner.logs == (
        [] if style in ("10.0", "rtx")
        else ["the engine is loaded once more: its contexts cannot share a profile"]
    )  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_slots_are_in_flight_at_a_time(opened: Open, style: str) -> None:
    runner = opened(style, affine(sharing=True))
    assert runner.logs == []
    first, second = feed(runner, x=rows(2)), feed(runner, x=rows(2, 50))
    assert first is not second
    assert first.stream.handle != second.stream.handle
    with pytest.raises(RuntimeError, match="all 2 slots are in use"):
        runner.acquire({"x": (2, 3)})
    runner.submit(first)
    runner.submit(second)
    np.testing.assert_array_equal(runner.collect(second)["y"], rows(2, 50) * 2 + 1)
    np.testing.assert_array_equal(runner.collect(first)["y"], rows(2) * 2 + 1)
    runner.release(second)
    assert runner.acquire({"x": (2, 3)}) is second


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_the_steady_state_takes_no_memory_and_few_calls(
    opened: Open, driver: ctypes.CDLL, style: str, cuda_graph: bool
) -> None:
    runner = opened(style, affine(), slots=1, cuda_graph=cuda_graph)
    runner.run({"x": rows(8)})
    runner.run({"x": rows(8)})
    made, total = allocations(driver), driver.standin_total()
    for _ in range(5):
        runner.run({"x": rows(8)})
    # In turn: two contexts set, two copies or one graph, one wait; acquire sets the context too.
    assert driver.standin_total() - total == 5 * (5 if cuda_graph else 6)
    assert count(driver, "cuGraphLaunch") >= (5 if cuda_graph else 0)
    for size in (3, 8, 1, 5):
        runner.run({"x": rows(size)})
    assert allocations(driver) == made


@pytest.mark.parametrize("style", STYLES)
def test_a_slot_offers_its_parts_to_whoever_measures(opened: Open, style: str) -> None:
    runner = opened(style, affine(), slots=1, cuda_graph=True)
    slot = feed(runner, x=rows(4))
    slot.upload()
    start, end = runner.device.event(), runner.device.event()
    for _ in range(4):
        slot.inputs["x"][...] = -1  # not uploaded: not computed with
        start.record(slot.stream)
        slot.enqueue()
        end.record(slot.stream)
    slot.download()
    slot.synchronize()
    end.synchronize()
    assert end.elapsed(start) >= 0
    np.testing.assert_array_equal(runner.collect(slot)["y"], rows(4) * 2 + 1)
    runner.release(slot)
    for event in (start, end):
        event.free()


TWO = [{"x": [[1, 3], [1, 3], [2, 3]]}, {"x": [[2, 3], [8, 3], [16, 3]]}]


@pytest.mark.parametrize("style", STYLES)
def test_of_several_profiles_that_is_taken_which_fits_best(opened: Open, style: str) -> None:
    runner = opened(style, affine(profiles=TWO))
    assert runner.inputs[0][3:] == ([1, 3], [1, 3], [16, 3])
    for size, profile in ((1, 0), (16, 1), (2, 0), (3, 1)):
        slot = feed(runner, x=rows(size))
        assert slot._profile == profile
        runner.submit(slot)
        np.testing.assert_array_equal(runner.collect(slot)["y"], rows(size) * 2 + 1)
        runner.release(slot)
    named = opened(style, affine(profiles=TWO), profile=1)
    assert named.inputs[0][3:] == ([2, 3], [8, 3], [16, 3])
    np.testing.assert_array_equal(named.run({"x": rows(2)})["y"], rows(2) * 2 + 1)
    with pytest.raises(JobError, match="`x` is 1x3; the model takes 2x3 to 16x3"):
        named.acquire({"x": (1, 3)})


def test_shapes_between_profiles_are_told_all_of_them(opened: Open) -> None:
    gap = [{"x": [[1, 3], [1, 3], [2, 3]]}, {"x": [[8, 3], [8, 3], [16, 3]]}]
    runner = opened("10.0", affine(profiles=gap))
    with pytest.raises(JobError, match="no profile takes x 5x3") as caught:
        runner.acquire({"x": (5, 3)})
    assert caught.value.kind == "shape"
    assert caught.value.hint == "they take 0: x 1x3 to 2x3; 1: x 8x3 to 16x3"
    assert runner.run({"x": rows(9)})["y"].shape == (9, 3)  # the slot is as good as before
    with pytest.raises(JobError, match="no profile 2; it has 2"):
        opened("10.0", affine(profiles=gap), profile=2)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", [(9, 3), (0, 3), (2, 4), (2,), (1, 1, 3)])
def test_shapes_outside_of_the_profile_are_told_its_range(
    opened: Open, style: str, shape: tuple[int, ...]
) -> None:
    runner = opened(style, affine(), slots=1)
    with pytest.raises(JobError, match="the model takes 1x3 to 8x3"):
        runner.acquire({"x": shape})
    assert runner.run({"x": rows(1)})["y"].shape == (1, 3)


def test_inputs_are_named_and_typed(opened: Open) -> None:
    runner = opened("10.0", affine(), slots=1)
    with pytest.raises(JobError, match="no input `image`"):
        runner.run({"image": rows(1)})
    with pytest.raises(JobError, match="nothing is given for input `x`"):
        runner.acquire({})
    with pytest.raises(JobError, match="is complex128; the model takes float32"):
        runner.run({"x": rows(1).astype(complex)})
    odd = np.asfortranarray(rows(8).astype(np.float64))[::2]
    np.testing.assert_array_equal(runner.run({"x": odd})["y"], odd * 2 + 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("float16", "HALF"), ("int8", "INT8"), ("uint8", "UINT8"), ("int32", "INT32"),
        ("int64", "INT64"), ("bool", "BOOL"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", ["8.0", "10.0"])
def test_every_type_crosses_as_it_is(opened: Open, style: str, ours: str, theirs: str) -> None:
    tensors = tensor("x", theirs, 2, 3), tensor("y", theirs, 2, 3)
    runner = opened(style, plan("same", [tensors[0]], [tensors[1]], []))
    assert runner.inputs[0][:3] == ("x", ours, [2, 3])
    values = np.array([[0, 1, 1], [0, 0, 1]], ours)
    found = runner.run({"x": values})["y"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(("name", "theirs"), [("bfloat16", "BF16"), ("float8_e4m3fn", "FP8")])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_types_that_numpy_has_not_cross_as_float32(
    opened: Open, name: str, theirs: str, cuda_graph: bool
) -> None:
    tensors = tensor("x", theirs, 2, 2), tensor("y", theirs, 2, 2)
    document = plan("same", [tensors[0]], [tensors[1]], [])
    runner = opened("10.0", document, cuda_graph=cuda_graph)
    assert runner.inputs[0].dtype == name
    for value in (1.5, -2.0, 0.25):
        slot = feed(runner, x=np.full((2, 2), value, np.float32))
        runner.submit(slot)
        np.testing.assert_array_equal(runner.collect(slot)["y"], np.full((2, 2), value))
        runner.release(slot)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"format": "CHW4"}, "`x` has the format CHW4"),
        ({"dtype": "INT4"}, "`x` has the type INT4"),
    ],
)
def test_what_is_no_plain_array_is_refused(
    opened: Open, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        opened("10.0", plan("same", [{**X, **more}], [Y], [WIDE]))


@pytest.mark.parametrize("style", STYLES)
def test_empty_tensors_are_run(opened: Open, style: str) -> None:
    profile = {"x": [[0, 3], [1, 3], [2, 3]]}
    runner = opened(style, affine(profiles=[profile]), cuda_graph=True)
    for size in (0, 0, 0, 2, 0):
        assert runner.run({"x": rows(size)})["y"].shape == (size, 3)


@pytest.mark.parametrize("style", ["7.0", "8.0", "8.5"])
def test_an_implicit_batch_is_a_dimension_like_any_other(opened: Open, style: str) -> None:
    inputs = [tensor("x", "FLOAT", 3), tensor("z", "FLOAT", 3)]
    document = plan("sum", inputs, [tensor("y", "FLOAT", 3)], [], max_batch=4)
    runner = opened(style, document)
    assert runner.inputs[0] == ("x", "float32", [-1, 3], [1, 3], [4, 3], [4, 3])
    assert runner.outputs[0].shape == [-1, 3]
    for size in (4, 1, 3):
        found = runner.run({"x": rows(size), "z": rows(size, 7)})
        np.testing.assert_array_equal(found["y"], rows(size) + rows(size, 7))
    with pytest.raises(JobError, match="have one batch"):
        runner.acquire({"x": (2, 3), "z": (1, 3)})
    with pytest.raises(JobError, match="takes 1x3 to 4x3"):
        runner.acquire({"x": (5, 3), "z": (5, 3)})


def reshape(dtype: str = "INT32", **more: Any) -> bytes:
    inputs = [tensor("x", "FLOAT", -1, 4), tensor("s", dtype, 2, host=True)]
    outputs = [tensor("y", "FLOAT", -1, -1), tensor("t", dtype, 2, host=True)]
    profiles = [{"x": [[1, 4], [2, 4], [4, 4]], "s": [[1, 1], [4, 2], [16, 16]]}]
    return plan("reshape", inputs, outputs, profiles, **more)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_values_that_are_shapes_are_read_before_each_batch(
    opened: Open, driver: ctypes.CDLL, style: str, cuda_graph: bool
) -> None:
    runner = opened(style, reshape(), cuda_graph=cuda_graph)
    slot = runner.acquire({"x": (2, 4), "s": (2,)})
    assert slot.inputs["s"].tolist() == [4, 2]  # the profile's usual ones
    runner.release(slot)
    slot = runner.acquire({"x": (2, 4)})  # a static shape need not be said
    runner.release(slot)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for values in ([4, 2], [4, 2], [4, 2], [1, 8], [8, 1], [8, 1]):
        found = runner.run({"x": x, "s": np.array(values, np.int32)})
        np.testing.assert_array_equal(found["y"], x.reshape(values))
        assert found["t"].tolist() == values[::-1]
    made = allocations(driver)
    runner.run({"x": x, "s": np.array([2, 4], np.int32)})
    assert allocations(driver) == made
    with pytest.raises(
        JobError, match=r"`s` holds \[17, 1\]; profile 0 takes \[1, 1\] to \[16, 16\]"
    ):
        runner.run({"x": x, "s": np.array([17, 1], np.int32)})
    assert runner.run({"x": x, "s": np.array([4, 2], np.int32)})["y"].shape == (4, 2)


def test_values_that_make_no_shape_are_refused(opened: Open) -> None:
    runner = opened("10.0", reshape("INT64"))
    with pytest.raises(JobError, match="reshape changes volume") as caught:
        runner.run({"x": np.zeros((4, 4), np.float32), "s": np.array([3, 3])})
    assert caught.value.kind == "shape"
    for _ in range(2):  # the usual 4x2 does not go with these either
        found = runner.run({"x": np.zeros((4, 4), np.float32), "s": np.array([2, 8])})
        assert found["y"].shape == (2, 8)


def test_values_that_tensorrt_8_0_tells_in_part_are_those_of_the_caller(opened: Open) -> None:
    runner = opened("8.0", reshape(values_bug=True))
    x = np.zeros((2, 4), np.float32)
    assert runner.run({"x": x, "s": np.array([1, 8], np.int32)})["y"].shape == (1, 8)


@pytest.mark.parametrize("largest", [-1, 64, 1 << 40])
@pytest.mark.parametrize("style", NAMED)
def test_outputs_whose_size_data_tell_are_as_large_as_they_are(
    opened: Open, driver: ctypes.CDLL, style: str, largest: int
) -> None:
    document = plan("positive", [X], [tensor("y", "FLOAT", -1)], [WIDE], largest=largest)
    runner = opened(style, document, cuda_graph=True)
    assert runner.outputs[0].shape == [-1]
    x = rows(8)
    for threshold in (0, 20, 23, 24, 3, 0):
        found = runner.run({"x": x - threshold})["y"]
        np.testing.assert_array_equal(found, (x - threshold)[x > threshold])
    made = allocations(driver)
    runner.run({"x": x - 5})
    assert allocations(driver) == made
    assert runner.describe()["no_cuda_graph"] == "the size of `y` depends on data"


def test_memory_that_an_output_cannot_have_is_told_of(opened: Open, driver: ctypes.CDLL) -> None:
    profile = {"x": [[1, 3], [1, 3], [4096, 3]]}
    runner = opened("10.0", plan("positive", [X], [tensor("y", "FLOAT", -1)], [profile]), slots=1)
    slot = feed(runner, x=rows(4096) + 1)
    driver.standin_room(1 << 12)
    try:
        with pytest.raises(JobError) as caught:
            runner.submit(slot)
    finally:
        driver.standin_room(1 << 30)
    assert caught.value.kind == "out-of-memory"
    runner.submit(slot)
    assert runner.collect(slot)["y"].shape == (4096 * 3,)


def test_bindings_cannot_have_outputs_of_unknown_size(opened: Open) -> None:
    runner = opened("8.0", plan("positive", [X], [tensor("y", "FLOAT", -1)], [WIDE]))
    with pytest.raises(JobError, match="size of output `y` is not known"):
        runner.acquire({"x": (1, 3)})


@pytest.mark.parametrize(
    ("style", "more", "reason"),
    [
        ("10.0", {"uncapturable": True}, "could not start the engine"),
        ("8.0", {"uncapturable": True}, "could not start the engine"),
        ("rtx", {"says_uncapturable": True}, "cannot be captured"),
    ],
)
def test_an_engine_that_cannot_be_captured_runs_without_a_graph(
    opened: Open, style: str, more: dict[str, Any], reason: str
) -> None:
    runner = opened(style, affine(sharing=True, **more), cuda_graph=True)
    for size in (4, 4, 4, 2, 2, 2):
        np.testing.assert_array_equal(runner.run({"x": rows(size)})["y"], rows(size) * 2 + 1)
    assert runner.describe()["cuda_graph"] is False
    (line,) = runner.logs
    assert line.startswith("no CUDA graph: ")
    assert reason in line


def test_what_tensorrt_says_after_the_start_ends_the_batch(opened: Open) -> None:
    runner = opened("10.0", affine(fails_later=True), slots=1)
    slot = feed(runner, x=rows(1))
    runner.submit(slot)
    with pytest.raises(JobError, match="misaligned address") as caught:
        runner.collect(slot)
    assert caught.value.kind == "execution"


def test_what_the_gpu_says_after_the_start_ends_the_batch(
    opened: Open, driver: ctypes.CDLL
) -> None:
    runner = opened("10.0", affine(), slots=1)
    slot = feed(runner, x=rows(1))
    runner.submit(slot)
    driver.standin_fail(700)
    with pytest.raises(JobError, match="CUDA error 700: an illegal memory access"):
        runner.collect(slot)


def test_closing_tells_nothing_of_what_failed_before(opened: Open, driver: ctypes.CDLL) -> None:
    runner = opened("10.0", affine(), slots=1)
    runner.submit(feed(runner, x=rows(1)))
    told = runner.describe()
    driver.standin_fail(700)
    runner.close()
    assert runner.describe() == told


@pytest.mark.parametrize("style", STYLES)
def test_an_engine_that_cannot_be_loaded_is_told_in_tensorrts_words(
    opened: Open, style: str
) -> None:
    with pytest.raises(JobError, match="magicTag does not match") as caught:
        opened(style, b"ftrt and so on")
    assert caught.value.kind == "engine"
    assert "trtenv inspect" in caught.value.hint


def test_no_memory_for_a_context_is_out_of_memory(opened: Open) -> None:
    with pytest.raises(JobError, match="OutOfMemory") as caught:
        opened("10.0", affine(no_context=True))
    assert caught.value.kind == "out-of-memory"


def test_the_plan_may_lie_inside_of_a_file(opened: Open) -> None:
    document = affine()
    runner = opened("10.0", b"1234" + document + b"after", offset=4, length=len(document))
    assert runner.run({"x": rows(2)})["y"].shape == (2, 3)
    with pytest.raises(JobError, match="no plan at 4"):
        opened("10.0", b"123", offset=4)
    with pytest.raises(JobError, match="no plan at 0"):
        opened("10.0", b"")


def test_plugins_are_loaded_first(opened: Open, tmp_path: Path) -> None:
    runner = opened("8.0", affine())
    assert runner.trt.plugins == [""]
    with pytest.raises(JobError, match="no-such") as caught:
        opened("8.0", affine(), plugins=[str(tmp_path / "no-such.so")])
    assert caught.value.kind == "plugin"


def test_every_name_of_the_api_that_is_called_is_in_the_table() -> None:
    """tests/venvs holds the table against real bindings: what is missing in it would not be held."""
    import re

    from runtime import bindings

    table = " ".join(bindings.API.values())
    for module in (bindings, engines):
        text = Path(module.__file__ or "").read_text()
        for name in re.findall(r"\b(?:_engine|engine|_context|_runtime|runtime)\.([a-z]\w+)", text):
            if re.search(rf"def {name}\b|import .*\b{name}\b|from runtime", text) is None:
                assert f".{name}" in table, name
