"""Device memory, streams, events and graphs, by PyCUDA and by the driver's library: the same tests for both.

tests/fakes/libcuda.c stands in for the driver, which is only where a GPU is; tests/gpu has the real one.
"""

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.gpu_standin import allocations, count, load_standin
from fakes.pycuda_standin import install
from hypothesis import given
from hypothesis import strategies as st

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

import runtime
from runtime import memory, narrow
from worker import JobError

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load_standin(tmp_path_factory.mktemp("driver"))


@pytest.fixture(params=["driver", "pycuda"])
def device(
    request: pytest.FixtureRequest, driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    before = driver.standin_alive()
    if request.param == "pycuda":
        monkeypatch.delitem(sys.modules, "runtime.pycudamemory", raising=False)
        monkeypatch.delattr(runtime, "pycudamemory", raising=False)
        install(driver, monkeypatch.setitem)
    made = memory.open_device(request.param, 0, driver)
    assert made.kind == request.param
    yield made
    made.close()
    if driver.standin_alive() != before:
        gc.collect()  # tracebacks hold references to PyCUDA's streams
    assert driver.standin_alive() == before


def test_it_tells_of_the_gpu(device: Any) -> None:
    assert device.name == "Stand-in 0"
    assert device.compute_capability == "9.0"
    assert device.total_memory == 1 << 30


def test_bytes_go_to_the_gpu_and_back_on_a_stream(device: Any) -> None:
    stream, buffer = device.stream(), device.buffer(64)
    first, second = device.pinned(64), device.pinned(64)
    first.array[:] = np.arange(64)
    device.copy_in(buffer, first, 64, stream)()
    device.copy_out(buffer, second, 48, stream)()
    stream.synchronize()
    np.testing.assert_array_equal(second.array[:48], np.arange(48))
    assert set(second.array[48:]) == {0xAB}
    for part in (buffer, first, second, stream):
        part.free()


def test_a_prepared_copy_takes_one_call_and_no_memory(device: Any, driver: ctypes.CDLL) -> None:
    stream, buffer, pinned = device.stream(), device.buffer(8), device.pinned(8)
    copy = device.copy_in(buffer, pinned, 8, stream)
    calls, made = driver.standin_total(), allocations(driver)
    for _ in range(10):
        copy()
    assert driver.standin_total() - calls == 10
    assert allocations(driver) == made
    for part in (buffer, pinned, stream):
        part.free()


def test_events_tell_the_time_between_them(device: Any) -> None:
    stream, start, end = device.stream(), device.event(), device.event()
    start.record(stream)
    threading.Event().wait(0.01)
    end.record(stream)
    end.synchronize()
    assert 10 <= end.elapsed(start) < 1000
    for part in (start, end, stream):
        part.free()


def test_other_threads_make_and_free_memory_after_use(device: Any) -> None:
    found: list[Any] = []

    def work() -> None:
        device.use()
        buffer, stream = device.buffer(16), device.stream()
        pinned = device.pinned(16)
        device.copy_in(buffer, pinned, 16, stream)()
        for part in (buffer, pinned, stream):
            part.free()
        found.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


def test_a_space_grows_and_otherwise_stays_where_it_is(device: Any, driver: ctypes.CDLL) -> None:
    space = memory.Space(device)
    sizes, addresses, made = [8, 4, 0, 8, 16, 12], [], []
    for size in sizes:
        space.ask(size)
        addresses.append(space.address)
        made.append(allocations(driver))
    assert addresses[:4] == [addresses[0]] * 4
    assert made[:4] == [made[0]] * 4
    assert addresses[4] == addresses[5]
    assert made[5] == made[4] == made[0] + 2
    view = space.view("float32", (3, 1))
    assert view.shape == (3, 1)
    assert view.flags["C_CONTIGUOUS"]
    assert space.view("int64", ()).shape == ()
    assert space.view("float16", (2, 0, 3)).shape == (2, 0, 3)
    space.free()
    assert space.buffer is space.pinned is None


def test_out_of_memory_is_told_as_such_and_leaves_nothing(device: Any, driver: ctypes.CDLL) -> None:
    space = memory.Space(device)
    space.ask(16)
    driver.standin_room(1 << 10)
    try:
        with pytest.raises(JobError, match="out of memory") as caught:
            space.ask(1 << 11)
    finally:
        driver.standin_room(1 << 30)
    assert caught.value.kind == "out-of-memory"
    assert space.buffer is None
    space.ask(32)
    space.free()


def test_what_goes_wrong_on_the_gpu_is_told_when_it_is_waited_for(
    device: Any, driver: ctypes.CDLL
) -> None:
    stream = device.stream()
    driver.standin_fail(700)
    with pytest.raises(JobError) as caught:
        stream.synchronize()
    assert caught.value.kind == "cuda"
    stream.synchronize()
    stream.free()


def test_a_graph_does_what_was_captured_as_often_as_it_is_launched(
    device: Any, driver: ctypes.CDLL
) -> None:
    stream, buffer = device.stream(), device.buffer(4)
    first, second = device.pinned(4), device.pinned(4)
    copies = device.copy_in(buffer, first, 4, stream), device.copy_out(buffer, second, 4, stream)

    def work() -> None:
        for copy in copies:
            copy()

    second.array[:] = 0
    graph = memory.Graph(device.driver, stream, work)
    assert not second.array.any()  # a capture runs nothing
    for value in (3, 5):
        first.array[:] = value
        calls = driver.standin_total()
        graph.launch()
        assert driver.standin_total() == calls + 1
        assert set(second.array) == {value}
    for part in (graph, buffer, first, second, stream):
        part.free()


def wait(stream: Any) -> Callable[[], None]:
    def work() -> None:
        with contextlib.suppress(JobError):  # as a library that reports it in its own way
            stream.synchronize()

    return work


def test_a_failed_capture_leaves_the_stream_as_it_was(device: Any, driver: ctypes.CDLL) -> None:
    stream = device.stream()
    with pytest.raises(JobError, match="error 901"):
        memory.Graph(device.driver, stream, wait(stream))

    def fails() -> None:
        raise JobError("execution", "no")

    with pytest.raises(JobError, match="no"):
        memory.Graph(device.driver, stream, fails)
    stream.synchronize()
    stream.free()


def test_an_unknown_gpu_is_refused(driver: ctypes.CDLL) -> None:
    with pytest.raises(JobError, match="cuDeviceGet failed with CUDA error 101"):
        memory.open_device("driver", 7, driver)


def test_auto_takes_pycuda_where_it_is(
    driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "runtime.pycudamemory", raising=False)
    monkeypatch.delattr(runtime, "pycudamemory", raising=False)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    made = memory.open_device("auto", 0, driver)
    assert made.kind == "driver"
    made.close()
    with pytest.raises(JobError, match="cannot be imported") as caught:
        memory.open_device("pycuda", 0, driver)
    assert caught.value.kind == "missing-module"
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "runtime.pycudamemory", raising=False)
    install(driver, monkeypatch.setitem)
    made = memory.open_device("auto", 0, driver)
    assert made.kind == "pycuda"
    made.close()


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bfloat16_is_rounded_to_the_nearest(values: list[float]) -> None:
    wide = np.array(values, np.float32)
    stored, back = np.zeros(len(values), np.uint16), np.zeros(len(values), np.float32)
    narrow.encode_bfloat16(wide, stored)
    narrow.decode_bfloat16(stored, back)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(wide))
    normal = np.isfinite(wide) & (np.abs(wide) > 1e-37) & (np.abs(wide) < 3e38)
    assert np.all(np.abs(back[normal] - wide[normal]) <= np.abs(wide[normal]) * 2.0**-8)
    again = np.zeros_like(stored)
    narrow.encode_bfloat16(back, again)
    np.testing.assert_array_equal(again, stored)


def test_fp8_is_that_of_onnx() -> None:
    """Values and rounding of FLOAT8E4M3FN in the ONNX specification."""
    codes = np.arange(256).astype(np.uint8)
    wide, back = np.zeros(256, np.float32), np.zeros(256, np.uint8)
    narrow.decode_e4m3(codes, wide)
    known = {0x00: 0, 0x01: 2**-9, 0x08: 2**-6, 0x38: 1, 0x7E: 448, 0xB8: -1}
    assert {code: wide[code] for code in known} == known
    assert np.isnan(wide[[0x7F, 0xFF]]).all()
    narrow.encode_e4m3(wide, back)
    np.testing.assert_array_equal(back[:255], codes[:255])
    some = np.array([1.0625, 1.1875, 500, -np.inf, 2**-11, 0.3], np.float32)
    found = np.zeros(6, np.uint8)
    narrow.encode_e4m3(some, found)
    assert found.tolist() == [0x38, 0x3A, 0x7E, 0xFE, 0x00, 0x2A]


def test_the_counts_of_the_stand_in_are_those_of_calls(driver: ctypes.CDLL) -> None:
    before = count(driver, "cuInit")
    memory.open_device("driver", 0, driver).close()
    assert count(driver, "cuInit") == before + 1
