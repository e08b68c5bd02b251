"""The timing loops, and the job that runs them: with ONNX Runtime, and with a GPU played by a clock."""

import gc
import json
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_onnx import write_digits
from hypothesis import given, settings
from hypothesis import strategies as st

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from runtime import bench, loops, runners
from runtime.runners import Tensor
from worker import JobError

PARAMS = {
    "cases": [{"batch": None, "shapes": {}}],
    "warm_up": 0,
    "duration": 0,
    "iterations": 5,
    "streams": 1,
    "percentiles": [50, 99],
    "transfers": True,
    "seed": 0,
    "hints": {},
    "values": {},
}
IMAGE = Tensor("image", "float32", [-1, 3, -1, -1], [1, 3, 32, 32], [4, 3, 64, 48], [8, 3, 96, 96])
FREE = Tensor("image", "float32", [-1, 3, -1, -1], None, None, None)
FIXED = Tensor("mask", "bool", [2, 5], None, None, None)
FLAT = Tensor("scale", "float32", [], None, None, None)


class JobIO:
    def __init__(self, folder: Path) -> None:
        self.folder, self.phases = folder, list[str]()
        self.out = str(folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def log(self, text: str) -> None:
        raise AssertionError(text)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        self.phases.append(phase)


class Gpu:
    """Computes in order, each for as long as `costs` says; time passes only by what is done on it."""

    def __init__(self, costs: list[float]) -> None:
        self.now, self.free_at, self.costs = 0.0, 0.0, deque(costs)
        self.queued, self.most_queued, self.events = deque[float](), 0, 0

    def event(self) -> "Event":
        self.events += 1
        return Event(self)

    def enqueue(self) -> None:
        self.now += 0.1
        self.free_at = max(self.now, self.free_at) + self.costs.popleft()
        self.queued.append(self.free_at)
        self.queued = deque(end for end in self.queued if end > self.now)
        self.most_queued = max(self.most_queued, len(self.queued))


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.at = gpu, 0.0

    def record(self, stream: object) -> None:
        self.at = max(self.gpu.now, self.gpu.free_at)

    def synchronize(self) -> None:
        self.gpu.now = max(self.gpu.now, self.at)

    def elapsed(self, since: "Event") -> float:
        return self.at - since.at

    def free(self) -> None:
        self.gpu.events -= 1


class GpuSlot:
    stream = object()

    def __init__(self, gpu: Gpu, shape: tuple[int, ...] = (1,)) -> None:
        self.enqueue = gpu.enqueue
        self.inputs = {"image": np.zeros(shape, np.float32)}
        self.done = list[str]()

    def upload(self) -> None:
        self.done.append("upload")

    def synchronize(self) -> None:
        self.done.append("synchronize")


class After:
    """Ends a loop after a number of samples."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, count: int) -> bool:
        return count >= self.count


@pytest.mark.parametrize(
    ("percent", "count", "index"),
    [(99, 100, 98), (99, 1, 0), (90, 10, 8), (0, 7, 0), (100, 7, 6), (50, 5, 2), (99.9, 1000, 998)],
)
def test_nearest_rank(percent: float, count: int, index: int) -> None:
    assert loops.nearest_rank(percent, count) == index


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 1e4), min_size=1, max_size=200),
    st.lists(st.integers(0, 100), min_size=1, max_size=5),
)
def test_percentiles_are_samples_that_so_many_do_not_exceed(
    samples: list[float], percents: list[int]
) -> None:
    found = loops.summary(samples, percents)
    assert found["n"] == len(samples)
    assert found["min"] <= found["median"] <= found["max"]
    for percent in percents:
        value = found["percentiles"][str(percent)]
        assert value in [round(sample, 6) for sample in samples]
        below = sum(round(sample, 6) <= value for sample in samples)
        assert below * 100 >= percent * len(samples)


def test_outliers_are_kept() -> None:
    found = loops.summary([1.0] * 99 + [100.0], [90, 99, 100])
    assert found["percentiles"] == {"90": 1.0, "99": 1.0, "100": 100.0}
    assert (found["mean"], found["median"], found["max"]) == (1.99, 1.0, 100.0)


def test_a_loop_goes_on_until_both_time_and_samples_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(loops.time, "perf_counter", lambda: now[0])
    stop = loops.Stop(2, 10)
    assert not stop(1000)
    now[0] = 102.5
    assert not stop(9)
    assert stop(10)


@pytest.mark.parametrize(
    "costs", [[1.0] * 8, [0.01] * 8, [1.0, 5.0, 0.01, 1.0, 0.01, 2.0, 1.0, 1.0]]
)
def test_gpu_time_is_that_of_each_compute_whatever_else_is_queued(costs: list[float]) -> None:
    gpu = Gpu(costs)
    on_gpu, on_host = loops.computes(gpu, GpuSlot(gpu), After(len(costs) - loops.DEPTH))
    # An event that the GPU reaches before the host has enqueued waits for the host: trtexec's too.
    waits = [0.1 if cost < 0.1 else 0 for cost in costs]
    assert len(on_gpu) == len(on_host)
    for found, cost, wait in zip(on_gpu, costs, waits, strict=False):
        assert cost - 1e-9 <= found <= cost + 0.1 + wait
    assert gpu.most_queued <= loops.DEPTH
    assert gpu.events == 0


def test_a_busy_gpu_never_waits_for_the_host() -> None:
    gpu = Gpu([1.0] * 20)
    found, _ = loops.computes(gpu, GpuSlot(gpu), After(20 - loops.DEPTH))
    assert found[1:] == pytest.approx([1.0] * (len(found) - 1))
    assert gpu.free_at == pytest.approx(0.1 + len(found))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_slot_is_in_flight_and_every_batch_is_waited_for(count: int) -> None:
    flying, most, waited = set[int](), 0, 0

    def start(slot: int) -> None:
        nonlocal most
        assert slot not in flying
        flying.add(slot)
        most = max(most, len(flying))

    def wait(slot: int) -> None:
        nonlocal waited
        flying.remove(slot)
        waited += 1

    batches, seconds = loops.in_flight(start, wait, list(range(count)), After(7))
    assert (most, flying, batches) == (count, set(), waited)
    assert batches >= 7
    assert seconds > 0


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_of_garbage_rests_meanwhile_and_is_as_before_after(
    on: bool,
) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with loops.without_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize(
    ("tensors", "case", "hints", "expected"),
    [
        ([IMAGE], {}, {}, {"image": [4, 3, 64, 48]}),
        ([IMAGE], {"batch": 2}, {}, {"image": [2, 3, 64, 48]}),
        ([IMAGE], {"shapes": {"image": [1, 3, 32, 32]}}, {}, {"image": [1, 3, 32, 32]}),
        ([IMAGE], {"shapes": {"": [1, 3, 32, 32]}, "batch": 8}, {}, {"image": [8, 3, 32, 32]}),
        ([FREE], {"batch": 2}, {"image": [9, 3, 64, 64]}, {"image": [2, 3, 64, 64]}),
        (
            [FREE, FIXED],
            {"batch": 7},
            {"image": [1, 3, 8, 8]},
            {"image": [7, 3, 8, 8], "mask": [2, 5]},
        ),
        ([FIXED], {"batch": 2}, {}, {"mask": [2, 5]}),
        ([FLAT, IMAGE], {"batch": 2}, {}, {"scale": [], "image": [2, 3, 64, 48]}),
        ([Tensor("x", "int64", [-1, 4], None, None, None)], {}, {}, {"x": [1, 4]}),
    ],
)
def test_shapes(
    tensors: list[Tensor], case: dict[str, Any], hints: dict[str, Any], expected: dict[str, Any]
) -> None:
    case = {"batch": None, "shapes": {}, **case}
    assert bench.shapes_of(tensors, case, hints) == expected


@pytest.mark.parametrize(
    ("tensors", "case", "words"),
    [
        ([FREE], {}, "how large dimension 2 of input `image` (?x3x?x?) is"),
        ([IMAGE], {"shapes": {"img": [1, 3, 4, 4]}}, "no input is called `img`; there are `image`"),
        ([IMAGE], {"shapes": {"image": [1, 3, 4]}}, "rank 4; 1x3x4 has rank 3"),
        ([FIXED], {"batch": 8}, "no input takes a batch of 8"),
        ([IMAGE, FIXED], {"shapes": {"": [1, 3, 4, 4]}}, "names none of several inputs"),
    ],
)
def test_shapes_that_are_none(tensors: list[Tensor], case: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError) as caught:
        bench.shapes_of(tensors, {"batch": None, "shapes": {}, **case}, {})
    assert words in caught.value.message
    assert caught.value.kind == "shape"


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 5)])
def test_values_are_seeded_and_of_their_type(dtype: str, shape: tuple[int, ...]) -> None:
    kind = np.dtype(dtype)
    first, second = (bench.values(kind, shape, np.random.RandomState(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert (first.dtype, first.shape) == (kind, shape)
    if dtype in ("int32", "int64"):
        assert set(first.ravel().tolist()) <= {0, 1}
    if dtype == "uint8" and first.size:
        assert first.max() > 1


def engine_params(**more: Any) -> dict[str, Any]:
    return {**PARAMS, "runner": {"runtime": "engine"}, **more}


class GpuRunner:
    inputs: tuple[Tensor, ...] = (IMAGE,)
    outputs = ()

    def __init__(self, gpu: Gpu, slots: int) -> None:
        self.device, self.slots, self.held, self.closed = gpu, slots, 0, False
        self.made, self.values = list[GpuSlot](), dict[int, Any]()

    def acquire(self, shapes: dict[str, list[int]]) -> GpuSlot:
        runners.check_shape(IMAGE, shapes["image"])
        self.held += 1
        assert self.held <= self.slots
        self.made.append(GpuSlot(self.device, tuple(shapes["image"])))
        return self.made[-1]

    def submit(self, slot: GpuSlot) -> None:
        slot.enqueue()

    def collect(self, slot: GpuSlot) -> dict[str, np.ndarray]:
        slot.synchronize()
        return {}

    def release(self, slot: GpuSlot) -> None:
        self.held -= 1

    def describe(self) -> dict[str, Any]:
        return {"runtime": "engine", "tensorrt": "8.6.0"}

    def close(self) -> None:
        self.closed = True


def test_fewer_slots_than_were_asked_for_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GpuRunner(Gpu([1.0] * 500), 2)
    monkeypatch.setattr(runners, "open_runner", lambda *_, slots: runner)
    found = bench.run(engine_params(streams=8), JobIO(tmp_path))
    assert found["rows"][0]["throughput"]["streams"] == 2


@pytest.mark.parametrize("transfers", [True, False])
def test_an_engine_has_gpu_time_and_enqueue_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfers: bool
) -> None:
    runner = GpuRunner(Gpu([2.0] * 500), 3)
    monkeypatch.setattr(runners, "open_runner", lambda *_, slots: runner)
    cases = [{"batch": None, "shapes": {}}, {"batch": 8, "shapes": {}}]
    asked = engine_params(cases=cases, streams=3, transfers=transfers)
    found = bench.run(asked, JobIO(tmp_path))
    first, second = found["rows"]
    assert first["gpu_ms"]["median"] == pytest.approx(2.0)
    assert first["enqueue_ms"]["n"] == first["gpu_ms"]["n"] >= 5
    assert (first["latency_ms"] is None) is not transfers
    assert (first["batch"], second["batch"]) == (4, 8)
    assert second["shapes"] == {"image": [8, 3, 64, 48]}
    assert runner.closed
    assert runner.held == 0
    # Noise, and not the same of the zeros that buffers hold at first; uploaded before it is measured.
    assert all(slot.inputs["image"].std() > 0.1 for slot in runner.made)
    assert all(slot.done[:2] == ["upload", "synchronize"] for slot in runner.made)
    lines = (tmp_path / bench.ROWS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == found["rows"]


def test_a_shape_that_does_not_fit_ends_it_and_the_rows_before_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GpuRunner(Gpu([1.0] * 500), 1)
    monkeypatch.setattr(runners, "open_runner", lambda *_, slots: runner)
    cases = [{"batch": 1, "shapes": {}}, {"batch": 9, "shapes": {}}]
    with pytest.raises(JobError, match="image"):
        bench.run(engine_params(cases=cases), JobIO(tmp_path))
    assert len((tmp_path / bench.ROWS).read_text().splitlines()) == 1
    assert runner.closed
    assert runner.held == 0


def test_inputs_whose_values_are_a_shape_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu([])
    slot = GpuSlot(gpu)
    slot.inputs = {"size": np.zeros(2, np.int64)}
    size = Tensor("size", "int64", [2], None, None, None)
    runner = GpuRunner(gpu, 1)
    runner.inputs = (size,)
    bench.fill(slot, runner, {"seed": 0, "values": {"size": [640, 480]}})
    assert slot.inputs["size"].tolist() == [640, 480]
    runner.values = {0: {"size": [[1, 1], [8, 8], [9, 9]]}}
    bench.fill(slot, runner, {"seed": 0, "values": {"size": [7, 7]}})
    assert slot.inputs["size"].tolist() == [640, 480]  # what the slot has put there


@pytest.mark.parametrize("streams", [1, 2])
def test_onnx_runtime_has_latency_and_throughput_and_no_gpu_time(
    tmp_path: Path, streams: int
) -> None:
    model = write_digits(tmp_path / "digits.onnx")
    runner = {"runtime": "onnxruntime", "path": str(model)}
    cases = [{"batch": batch, "shapes": {}} for batch in (1, 4)]
    asked = {**PARAMS, "runner": runner, "cases": cases, "streams": streams}
    found = bench.run(asked, JobIO(tmp_path))
    assert found["runner"]["runtime"] == "onnxruntime"
    assert found["environment"]["onnxruntime"]
    for row, batch in zip(found["rows"], (1, 4), strict=True):
        assert row["gpu_ms"] is row["enqueue_ms"] is None
        assert row["shapes"] == {"image": [batch, 1, 32, 32]}
        assert row["latency_ms"]["n"] >= 5
        assert row["throughput"]["batches"] >= 5
        assert row["window"][0] < row["window"][1]


def test_without_copies_onnx_runtime_has_nothing_to_measure(tmp_path: Path) -> None:
    model = write_digits(tmp_path / "digits.onnx")
    runner = {"runtime": "onnxruntime", "path": str(model)}
    with pytest.raises(JobError, match="no copies of its own"):
        bench.run({**PARAMS, "runner": runner, "transfers": False}, JobIO(tmp_path))
