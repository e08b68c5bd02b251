"""Images in the order of their files, prepared ahead of need, and batches on their way through a runner.

Memory is bounded: by the rows that are prepared at a time and by the slots of the runner. Python 3.6 to 3.13.
"""

import collections
import time
from typing import Any, NamedTuple

PARALLEL_BYTES = 1 << 22
COPIES = 4


class Item(NamedTuple):
    """An image and what became of it.

    error: text where it is broken. row: its array, prepared, in `cell`. size: (width, height) as it was.
    """

    index: int
    file: Any
    error: Any
    size: Any
    placement: Any
    row: Any
    cell: int


class Batch(NamedTuple):
    """items: in order, broken ones too; good: the others. shape: of each of their rows."""

    items: Any
    good: Any
    shape: Any


class Stages(object):
    """Seconds that the stream waited, by stage."""

    def __init__(self):
        self.seconds = {"decode": 0.0, "compute": 0.0, "write": 0.0}

    def wait(self, stage, call, *arguments):
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds[stage] += time.perf_counter() - started


class Ahead(object):
    """Iterates over Items in order while workers prepare the next ones; release() gives back rows."""

    def __init__(self, files, pool, cells, chunk, stages):
        self._files, self._pool, self._chunk, self._stages = files, pool, chunk, stages
        self._free = collections.deque(range(cells))
        self._pending = collections.deque()
        self._next = 0

    def _fill(self):
        while self._next < len(self._files) and len(self._free) >= self._chunk:
            numbers = range(self._next, min(self._next + self._chunk, len(self._files)))
            cells = [self._free.popleft() for _ in numbers]
            paths = [self._files[number]["path"] for number in numbers]
            self._pending.append((numbers, cells, self._pool.prepare(paths, cells)))
            self._next = numbers[-1] + 1

    def __iter__(self):
        self._fill()
        while self._pending:
            numbers, cells, future = self._pending.popleft()
            for number, cell, told in zip(
                numbers, cells, self._stages.wait("decode", future.result)
            ):
                error, size, placement, row = told
                if error is None and row is None:
                    row = self._pool.rows[cell]
                if error is not None:
                    self._free.append(cell)
                yield Item(number, self._files[number], error, size, placement, row, cell)
            self._fill()

    def release(self, items):
        self._free.extend(item.cell for item in items)
        self._fill()

    def cancel(self):
        for _, _, future in self._pending:
            future.cancel()
        self._next = len(self._files)


def batches(items, size):
    """Batches of at most `size` good items of one shape; broken ones go along in their place."""
    found, good = [], []
    for item in items:
        if good and item.error is None and item.row.shape != good[0].row.shape:
            yield Batch(found, good, good[0].row.shape)
            found, good = [], []
        found.append(item)
        if item.error is None:
            good.append(item)
        if len(good) == size:
            yield Batch(found, good, good[0].row.shape)
            found, good = [], []
    if found:
        yield Batch(found, good, good[0].row.shape if good else None)


class Flight(object):
    """Batches in a runner: as many as it has slots; outputs come back in order, as copies."""

    def __init__(self, runner, stages, threads=None):
        self._runner, self._stages, self._threads = runner, stages, threads
        self._flying = collections.deque()
        self.launched = 0

    def launch(self, shapes, fill, tag):
        """fill(slot) writes the inputs. Returns the (tag, outputs) that had to land before, or None."""
        landed = self.land() if len(self._flying) == self._runner.slots else None
        slot = self._runner.acquire(shapes)
        try:
            fill(slot)
            self._stages.wait("compute", self._runner.submit, slot)
        except BaseException:
            self._runner.release(slot)
            raise
        self._flying.append((tag, slot))
        self.launched += 1
        return landed

    def land(self):
        """(tag, outputs) of the batch that is longest in flight."""
        tag, slot = self._flying.popleft()
        try:
            outputs = self._stages.wait("compute", self._runner.collect, slot)
            return tag, {name: copied(array, self._threads) for name, array in outputs.items()}
        finally:
            self._runner.release(slot)

    def drain(self):
        while self._flying:
            yield self.land()


def copied(array, threads):
    import numpy as np

    made = np.empty_like(array)
    copy_rows(made, array, threads) if array.ndim else np.copyto(made, array)
    return made


def copy_rows(target, rows, threads):
    """Fill target[i] with rows[i]; by several threads where there is much: numpy lets go of the lock."""
    import numpy as np

    def copy(start, end):
        for index in range(start, end):
            np.copyto(target[index], rows[index])

    count = len(rows)
    if threads is None or count < COPIES or target.nbytes < PARALLEL_BYTES:
        copy(0, count)
        return
    edges = [count * part // COPIES for part in range(COPIES + 1)]
    for future in [threads.submit(copy, *pair) for pair in zip(edges, edges[1:])]:
        future.result()
