"""Drives the engine runner on a GPU, inside of an environment: python run_runner.py JOBS SPEC.json

SPEC: engine, flavour, arrays (an .npz of inputs and expected outputs), inputs, outputs, batches, timed (the
batch that GPU times are taken at; none without), device. Prints one JSON line for each kind of memory, with
and without CUDA graphs. Python 3.6 to 3.13.
"""

import ctypes
import importlib.util
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

with open(sys.argv[2]) as handle:  # noqa: PTH123
    SPEC = json.load(handle)
sys.path.insert(0, sys.argv[1])

from runtime import engines, memory

ROUNDS, CALLS = 7, 200


class JobIO:
    def __init__(self) -> None:
        self.logs: Any = []

    def log(self, text: str) -> None:
        self.logs.append(text)

    def progress(self, *_: Any) -> None:
        pass


def free_memory(device: Any) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    device.driver.work("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


def cut(arrays: Any, names: Any, batch: Any) -> Any:
    """The first rows of each; all where there is no batch."""
    return {name: arrays[name][:batch] if batch else arrays[name] for name in names}


def relative_error(found: Any, expected: Any) -> float:
    difference = found.astype(np.float64) - expected
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(difference)) / (size or 1.0)


def fill(slot: Any, feed: Any) -> Any:
    for name, array in feed.items():
        slot.inputs[name][...] = array
    return slot


def numbers(runner: Any, arrays: Any) -> Any:
    """The largest relative error of each output, over batches that come and go three times."""
    found: Any = {}
    for _ in range(3):
        for batch in SPEC["batches"]:
            for _ in range(3):
                outputs = runner.run(cut(arrays, SPEC["inputs"], batch))
                for name, expected in cut(arrays, SPEC["outputs"], batch).items():
                    assert outputs[name].shape == expected.shape, (name, outputs[name].shape)
                    error = relative_error(outputs[name], expected)
                    found[name] = max(found.get(name, 0.0), error)
    return found


def overlapped(runner: Any, arrays: Any) -> bool:
    """Whether two batches in flight, of which one is turned round, come out as they went in."""
    batch = SPEC["batches"][-1]
    feed, step = cut(arrays, SPEC["inputs"], batch), -1 if batch else 1
    shapes = {name: array.shape for name, array in feed.items()}
    alone = runner.run(feed)
    good = True
    for _ in range(20):
        slots = [runner.acquire(shapes) for _ in range(runner.slots)]
        fill(slots[0], feed)
        for slot in slots[1:]:
            fill(slot, {name: array[::step] for name, array in feed.items()})
        for slot in slots:
            runner.submit(slot)
        for index, slot in enumerate(slots):
            for name, array in runner.collect(slot).items():
                expected = alone[name][::step] if index else alone[name]
                good = good and relative_error(array, expected) < 1e-3
            runner.release(slot)
    return good


def host_times(runner: Any, arrays: Any) -> Any:
    """Microseconds of a call at the smallest batch: median of calls made one at a time."""
    feed = cut(arrays, SPEC["inputs"], SPEC["batches"][0])
    slot = fill(runner.acquire({name: array.shape for name, array in feed.items()}), feed)
    found = {}
    for name, call in (("enqueue", slot.enqueue), ("submit", lambda: runner.submit(slot))):
        samples = []
        for _ in range(1000):
            began = time.perf_counter()
            call()
            samples.append(time.perf_counter() - began)
            slot.synchronize()
        found[name] = round(statistics.median(samples) * 1e6, 2)
    runner.release(slot)
    return found


def gpu_time(device: Any, stream: Any, call: Any) -> float:
    """Milliseconds of one call among many in a row."""
    start, end = device.event(), device.event()
    start.record(stream)
    for _ in range(CALLS):
        call()
    end.record(stream)
    end.synchronize()
    milliseconds = end.elapsed(start) / CALLS
    start.free()
    end.free()
    return float(milliseconds)


class Bare:
    """The engine by nothing but TensorRT's own calls, on memory of the driver."""

    def __init__(self, runner: Any, shapes: Any) -> None:
        trt, self.device = runner.trt, runner.device
        self.parts = [self.device.stream()]
        self.stream = self.parts[0]
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        with open(SPEC["engine"], "rb") as handle:  # noqa: PTH123
            self.engine = runtime.deserialize_cuda_engine(handle.read())
        context = self.engine.create_execution_context()
        profile = runner.choose_profile(shapes)
        assert context.set_optimization_profile_async(profile, self.stream.handle)
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        for name in names:
            if name in shapes:
                assert context.set_input_shape(name, shapes[name])
        for name in names:
            buffer = self.device.buffer(8 * memory.count(context.get_tensor_shape(name)))
            assert context.set_tensor_address(name, buffer.address)
            self.parts.append(buffer)
        self.stream.synchronize()
        self.context = context

    def enqueue(self) -> None:
        self.context.execute_async_v3(self.stream.handle)

    def free(self) -> None:
        self.stream.synchronize()
        self.context = self.engine = None
        for part in self.parts:
            part.free()


def gpu_times(runner: Any, arrays: Any) -> Any:
    """Milliseconds of a compute by the runner and by bare calls, in turns: medians, and their ratio."""
    feed = cut(arrays, SPEC["inputs"], SPEC["timed"])
    shapes = {name: array.shape for name, array in feed.items()}
    slot, bare = fill(runner.acquire(shapes), feed), Bare(runner, shapes)
    slot.upload()
    slot.synchronize()
    for call, stream in ((slot.enqueue, slot.stream), (bare.enqueue, bare.stream)):
        gpu_time(runner.device, stream, call)
    pairs = [
        (
            gpu_time(runner.device, slot.stream, slot.enqueue),
            gpu_time(runner.device, bare.stream, bare.enqueue),
        )
        for _ in range(ROUNDS)
    ]
    runner.release(slot)
    bare.free()
    own, plain = (statistics.median(pair[index] for pair in pairs) for index in (0, 1))
    return {"runner": round(own, 5), "bare": round(plain, 5), "ratio": round(own / plain, 4)}


def steady(runner: Any, arrays: Any) -> int:
    """Bytes of the GPU's memory that a hundred more batches took."""
    feed = cut(arrays, SPEC["inputs"], SPEC["batches"][-1])
    runner.run(feed)
    before = free_memory(runner.device)
    for _ in range(100):
        runner.run(feed)
    return before - free_memory(runner.device)


def check(kind: str, cuda_graph: bool, arrays: Any) -> Any:
    io = JobIO()
    params = {
        "path": SPEC["engine"], "flavour": SPEC["flavour"], "memory": kind, "cuda_graph": cuda_graph,
        "device": SPEC["device"],
    }  # fmt: skip
    began = time.perf_counter()
    runner = engines.EngineRunner(params, io, 2)
    seconds = time.perf_counter() - began
    try:
        return {
            "memory": kind, "graph": cuda_graph, "load_seconds": round(seconds, 3),
            "errors": numbers(runner, arrays), "overlapped": overlapped(runner, arrays),
            "grown": steady(runner, arrays), "host_us": host_times(runner, arrays),
            "gpu_ms": gpu_times(runner, arrays) if SPEC["timed"] else None,
            "runner": runner.describe(), "logs": io.logs,
        }  # fmt: skip
    finally:
        runner.close()


def main() -> None:
    with np.load(SPEC["arrays"]) as found:
        arrays = dict(found)
    kinds = ["driver"]
    if importlib.util.find_spec("pycuda"):
        kinds.append("pycuda")
    for kind in kinds:
        for cuda_graph in (False, True):
            print(json.dumps(check(kind, cuda_graph, arrays)), flush=True)


if __name__ == "__main__":
    main()
