"""What every way through a runner shares: progress, failures, interrupts and the end. Python 3.6 to 3.13."""

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from worker import JobError

from runtime import stream

TOLD_FAILURES = 20


class Interrupts(object):
    """Turns the first SIGINT or SIGTERM into a flag; the second raises KeyboardInterrupt at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.caught = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.caught is not None:
            raise KeyboardInterrupt()
        self.caught = number


class Meter(object):
    """Progress, at most five times a second."""

    def __init__(self, io, total, what):
        self._io, self._total, self._what = io, total, what
        self.started = time.perf_counter()
        self._told = 0.0

    def tell(self, done, last=False):
        now = time.perf_counter()
        if last or now - self._told >= 0.2:
            self._told = now
            rate = done / max(now - self.started, 1e-6)
            self._io.progress("inferring, %.0f %s/s" % (rate, self._what), done, self._total)


def printable(text):
    """In one line, and without what a terminal would obey: names of files may hold anything."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class Counts(object):
    """What was done and what failed; the first failures are kept, and logged."""

    def __init__(self, io):
        self._io = io
        self.done = self.failed = 0
        self.failures = []
        self.first = None

    def fail(self, file, reason, error=None):
        self.failed += 1
        self.first = self.first or error
        if len(self.failures) < TOLD_FAILURES:
            self.failures.append({"file": file, "reason": reason})
            self._io.log(printable("%s is left out: %s" % (file, reason)))
        elif self.failed == TOLD_FAILURES + 1:
            self._io.log("and more inputs are left out")

    def check(self):
        """JobError where nothing was done."""
        if self.done:
            return
        if self.first is not None and len(self.failures) == 1:
            raise self.first
        told = "; ".join("%(file)s: %(reason)s" % entry for entry in self.failures[:3])
        raise JobError(
            "no-input",
            "none of the %d inputs can be used: %s" % (self.failed, told or "there are none"),
        )


class Job(object):
    """What images and arrays have in common: the way through the runner, and the end."""

    what = "inputs"

    def __init__(self, runner, params, io, interrupts):
        self.runner, self.params, self.io, self.interrupts = runner, params, io, interrupts
        self.files, self.save = params["sources"]["files"], params["save"]
        self.stages, self.counts = stream.Stages(), Counts(io)
        self.copies = ThreadPoolExecutor(max_workers=stream.COPIES)
        self.flight = stream.Flight(runner, self.stages, self.copies)
        self.total, self.batch, self.threads = len(self.files), None, 0
        self.card = None  # of images: what says what they mean

    def run(self):
        self.prepare()
        self.meter = Meter(self.io, self.total, self.what)
        try:
            self.work()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.close()
            raise
        self.close()
        if self.interrupts.caught is not None:
            raise KeyboardInterrupt(
                "stopped by signal %d after %d of %d"
                % (self.interrupts.caught, self.counts.done, self.total)
            )
        self.meter.tell(self.counts.done + self.counts.failed, last=True)
        self.counts.check()
        seconds = time.perf_counter() - self.meter.started
        return {
            "images": self.counts.done,
            "failed": self.counts.failed,
            "failures": self.counts.failures,
            "seconds": round(seconds, 3),
            "images_per_second": round(self.counts.done / max(seconds, 1e-9), 2),
            "batches": self.flight.launched,
            "batch": self.batch,
            "decode_threads": self.threads,
            "stages": {name: round(took, 3) for name, took in self.stages.seconds.items()},
        }

    def tell(self):
        self.meter.tell(self.counts.done + self.counts.failed)
