"""Measures how fast a model runs: on the GPU alone, and with all that a caller waits for. Python 3.6 to 3.13."""

import json
import time

import numpy as np
import probe
from worker import JobError

from runtime import feeds, loops, runners

# Of each slot before anything is measured: the first loads kernels, the second captures a CUDA graph.
STARTS = 3
ROWS = "rows.jsonl"  # each row as soon as it is measured: an interrupted run keeps them


def run(params, io):
    io.progress("loading")
    began = time.perf_counter()
    runner = runners.open_runner(params["runner"], io, slots=params["streams"])
    try:
        loaded = time.perf_counter() - began
        rows = []
        cases = params["cases"]
        for number, case in enumerate(cases):
            io.progress("measuring", number, len(cases))
            rows.append(measure(runner, case, params))
            with open(io.path(ROWS), "a", encoding="utf-8") as handle:
                handle.write(json.dumps(rows[-1], sort_keys=True) + "\n")
        return {
            "runner": runner.describe(),
            "load_seconds": round(loaded, 3),
            "rows": rows,
            "environment": probe.stamp_facts(runners.libraries(runner)),
        }
    finally:
        runner.close()


def measure(runner, case, params):
    """One row. `window` is when the measures were taken, in seconds since the epoch."""
    shapes = shapes_of(runner.inputs, case, params["hints"])
    # There may be fewer slots than were asked for: memory is what it is.
    slots = [runner.acquire(shapes) for _ in range(min(params["streams"], runner.slots))]
    try:
        for slot in slots:
            fill(slot, runner, params)
        return {
            "batch": batch_of(runner.inputs, shapes),
            "shapes": {tensor.name: list(shapes[tensor.name]) for tensor in runner.inputs},
            **timed(runner, slots, params),
        }
    finally:
        for slot in slots:
            runner.release(slot)


def timed(runner, slots, params):
    on_gpu = hasattr(slots[0], "enqueue")
    if not on_gpu and not params["transfers"]:
        raise JobError(
            "usage",
            "this runtime has no copies of its own: without them nothing is measured",
            "drop --no-data-transfers",
        )
    compute = (lambda slot: slot.enqueue()), (lambda slot: slot.synchronize())
    start, wait = (runner.submit, runner.collect) if params["transfers"] else compute

    def stop():
        return loops.Stop(params["duration"], params["iterations"])

    def said(samples):
        return loops.summary(samples, params["percentiles"])

    with loops.without_garbage_collection():
        if on_gpu:
            for slot in slots:
                slot.upload()
                slot.synchronize()
            loops.in_flight(*compute, slots[:1], loops.Stop(0, STARTS))
        warm = loops.Stop(params["warm_up"] / 1e3, STARTS * len(slots))
        loops.in_flight(start, wait, slots, warm)
        began = time.time()
        gpu = enqueue = latency = None
        if on_gpu:
            gpu, enqueue = map(said, loops.computes(runner.device, slots[0], stop()))
        if params["transfers"]:
            latency = said(loops.latencies(start, wait, slots[0], stop()))
        count, seconds = loops.in_flight(start, wait, slots, stop())
        ended = time.time()
    return {
        "gpu_ms": gpu,
        "enqueue_ms": enqueue,
        "latency_ms": latency,
        "throughput": {"batches": count, "seconds": round(seconds, 6), "streams": len(slots)},
        "window": [began, ended],
    }


def shapes_of(tensors, case, hints):
    """{name: sizes} of every input; JobError where one is not known or not taken.

    Of a dynamic dimension: what is asked for, else the optimum of the profile, else of `hints` (the
    optimum of another engine of the model), else one for a batch.
    """
    asked = feeds.by_input(case["shapes"], tensors)
    found = {
        tensor.name: sizes_of(tensor, asked.get(tensor.name), case["batch"], hints)
        for tensor in tensors
    }
    batch = case["batch"]
    if batch and not any(sizes and sizes[0] == batch for sizes in found.values()):
        raise JobError(
            "shape", "no input takes a batch of %d: their first dimensions are fixed" % batch
        )
    return found


def sizes_of(tensor, asked, batch, hints):
    if asked is not None and len(asked) != len(tensor.shape):
        raise JobError(
            "shape",
            "input `%s` has rank %d; %s has rank %d"
            % (tensor.name, len(tensor.shape), runners.show(asked), len(asked)),
        )
    hint = tensor.optimum or hints.get(tensor.name)
    if hint is None or len(hint) != len(tensor.shape):
        hint = [None] * len(tensor.shape)
    sizes = []
    for axis, size in enumerate(tensor.shape):
        if size >= 0:
            sizes.append(asked[axis] if asked is not None else size)
        elif axis == 0 and batch:
            sizes.append(batch)
        elif asked is not None:
            sizes.append(asked[axis])
        elif hint[axis] is None and axis > 0:
            raise JobError(
                "shape",
                "nothing says how large dimension %d of input `%s` (%s) is"
                % (axis, tensor.name, runners.show(tensor.shape)),
                "give its shape: --shapes %s:%s"
                % (tensor.name, "x".join(str(max(size, 1)) for size in tensor.shape)),
            )
        else:
            sizes.append(hint[axis] or 1)
    return sizes


def batch_of(tensors, shapes):
    """Images in a batch: the first dimension of the first input that has one."""
    first = [shapes[tensor.name] for tensor in tensors if shapes[tensor.name]]
    return first[0][0] if first else 1


def fill(slot, runner, params):
    """With noise; but inputs whose values are a shape keep what an engine's slot has put there."""
    random = np.random.RandomState(params["seed"])
    kept = {name for known in getattr(runner, "values", {}).values() for name in known}
    for tensor in runner.inputs:
        array = slot.inputs[tensor.name]
        if tensor.name in kept:
            continue
        if tensor.name in params["values"]:
            array[...] = np.reshape(params["values"][tensor.name], array.shape)
        else:
            array[...] = values(array.dtype, array.shape, random)


def values(dtype, shape, random):
    """Noise, since a GPU computes zeros with less power; integers are 0 or 1, valid as most indices."""
    if dtype.kind == "f":
        return np.array(random.uniform(-1, 1, shape), dtype)
    low, high = {"uint8": (0, 256), "int8": (-128, 128)}.get(dtype.name, (0, 2))
    return np.array(random.randint(low, high, shape), dtype)
