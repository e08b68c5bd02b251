"""Timing loops, and what is said of their samples. Python 3.6 to 3.13.

A loop goes on until it has lasted long enough and has samples enough; no sample is left out.
"""

import gc
import math
import time
from collections import deque
from contextlib import contextmanager
from itertools import chain

import numpy as np

# Computes queued on the GPU at a time, as in trtexec: it does not wait for the host in between.
DEPTH = 2
DIGITS = 6  # of milliseconds: a nanosecond


class Stop(object):
    """When a loop ends: both after `seconds` and with `iterations` samples."""

    def __init__(self, seconds, iterations):
        self._iterations = iterations
        self._end = time.perf_counter() + seconds

    def __call__(self, count):
        return count >= self._iterations and time.perf_counter() >= self._end


@contextmanager
def without_garbage_collection():
    """Python's collector stops the host for milliseconds at moments of its own."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def computes(device, slot, stop):
    """(GPU milliseconds, host milliseconds of the enqueue) of each compute; inputs are on the GPU.

    The GPU's are between two events around the enqueue on its stream.
    """
    pairs = [(device.event(), device.event()) for _ in range(DEPTH)]
    free, pending = deque(pairs), deque()
    on_gpu, on_host = [], []

    def take():
        start, end = pending.popleft()
        end.synchronize()
        on_gpu.append(end.elapsed(start))
        free.append((start, end))

    try:
        while not stop(len(on_gpu)):
            if not free:
                take()
            start, end = free.popleft()
            start.record(slot.stream)
            began = time.perf_counter()
            slot.enqueue()
            on_host.append((time.perf_counter() - began) * 1e3)
            end.record(slot.stream)
            pending.append((start, end))
        while pending:
            take()
    finally:
        for event in chain.from_iterable(pairs):
            event.free()
    return on_gpu, on_host


def latencies(start, wait, slot, stop):
    """Milliseconds of each batch from its start to its end, one at a time."""
    found = []
    while not stop(len(found)):
        began = time.perf_counter()
        start(slot)
        wait(slot)
        found.append((time.perf_counter() - began) * 1e3)
    return found


def in_flight(start, wait, slots, stop):
    """(batches, seconds) with every slot at work; from the first start to the last end."""
    pending, count = deque(), 0
    began = time.perf_counter()
    for slot in slots:
        start(slot)
        pending.append(slot)
    while not stop(count):
        slot = pending.popleft()
        wait(slot)
        count += 1
        start(slot)
        pending.append(slot)
    while pending:
        wait(pending.popleft())
        count += 1
    return count, time.perf_counter() - began


def summary(samples, percentiles):
    """Of milliseconds. Percentiles are by nearest rank: a value that was measured, as in trtexec."""
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    found = {
        "n": len(ordered),
        "mean": ordered.mean(),
        "deviation": ordered.std(),
        "median": np.median(ordered),
        "min": ordered[0],
        "max": ordered[-1],
    }
    found = {key: value if key == "n" else rounded(value) for key, value in found.items()}
    found["percentiles"] = {
        "%g" % percent: rounded(ordered[nearest_rank(percent, len(ordered))])
        for percent in percentiles
    }
    return found


def nearest_rank(percent, count):
    """Index of the smallest of `count` sorted samples that `percent` of them do not exceed."""
    # 99 % of 100 is 99, and not the 99.00000000000001 of binary fractions.
    return max(math.ceil(round(percent * count / 100.0, 9)) - 1, 0)


def rounded(value):
    return round(float(value), DIGITS)
