"""Memory, streams and events of a GPU by PyCUDA: what memory.py tells of, the other way. Python 3.6 to 3.13."""

import ctypes
from contextlib import contextmanager

import cuda
import numpy as np
import pycuda.driver as pycuda
from worker import JobError


@contextmanager
def said():
    """PyCUDA's errors as those of jobs."""
    try:
        yield
    except pycuda.MemoryError as error:
        raise JobError("out-of-memory", str(error))
    except pycuda.Error as error:
        raise JobError("cuda", str(error))


class PycudaDevice(object):
    """A GPU by PyCUDA, whose stack of contexts is of each thread: it is entered for as long as a call lasts.

    A thread that ends with a context on that stack takes the process with it.
    """

    kind = "pycuda"

    def __init__(self, index=0, driver=None):
        with said():
            pycuda.init()
            self._device = pycuda.Device(index)
            self._context = self._device.retain_primary_context()
        self.driver = cuda.Device(index, driver)
        self.use()

    @property
    def name(self):
        return self._device.name()

    @property
    def compute_capability(self):
        return "%d.%d" % tuple(self._device.compute_capability())

    @property
    def total_memory(self):
        return self._device.total_memory()

    @contextmanager
    def entered(self):
        with said():
            self._context.push()
            try:
                yield
            finally:
                pycuda.Context.pop()

    def use(self):
        self.driver.use()

    def buffer(self, size):
        return PycudaBuffer(self, size)

    def pinned(self, size):
        return PycudaPinned(self, size)

    def stream(self):
        return PycudaStream(self)

    def event(self):
        return PycudaEvent(self)

    def copy_in(self, buffer, pinned, size, stream):
        return self.prepared(
            pycuda.memcpy_htod_async, buffer.address, pinned.array[:size], stream.object
        )

    def copy_out(self, buffer, pinned, size, stream):
        return self.prepared(
            pycuda.memcpy_dtoh_async, pinned.array[:size], buffer.address, stream.object
        )

    def prepared(self, function, *argv):
        def run():
            try:
                function(*argv)
            except pycuda.Error:
                with said():
                    raise

        return run

    def close(self):
        if self._context is not None:
            self._context.detach()
            self._context = None
            self.driver.close()


class PycudaBuffer(object):
    def __init__(self, device, size):
        self._device, self.size = device, size
        with device.entered():
            self._memory = pycuda.mem_alloc(max(size, 1))
        self.address = int(self._memory)

    def free(self):
        if self.address:
            with self._device.entered():
                self._memory.free()
            self.address = 0


class PycudaPinned(object):
    def __init__(self, device, size):
        self._device = device
        with device.entered():
            self._memory = pycuda.pagelocked_empty(max(size, 1), np.uint8)
        self.array = self._memory[:size]
        self.address = self._memory.ctypes.data

    def free(self):
        if self.address:
            with self._device.entered():
                self._memory.base.free()
            self.address, self.array, self._memory = 0, None, None


class PycudaStream(object):
    def __init__(self, device):
        self._device = device
        with device.entered():
            self.object = pycuda.Stream(cuda.STREAM_NON_BLOCKING)
        self.handle = int(self.object.handle)
        self.native = ctypes.c_void_p(self.handle)
        self.synchronize = device.prepared(self.object.synchronize)

    def free(self):
        with self._device.entered():
            self.object = self.synchronize = None


class PycudaEvent(object):
    def __init__(self, device):
        self._device = device
        with device.entered():
            self._event = pycuda.Event()
        self.synchronize = device.prepared(self._event.synchronize)

    def record(self, stream):
        self._event.record(stream.object)

    def elapsed(self, since):
        with said():
            return self._event.time_since(since._event)

    def free(self):
        with self._device.entered():
            self._event = self.synchronize = None
