"""Memory, streams, events and graphs of a GPU: by PyCUDA where it is, else by the driver alone. Python 3.6 to 3.13.

Both work in the primary context, TensorRT's own. What is made here is of one device and lives until it is
freed; numpy views of pinned memory end with it. Objects of both kinds look alike:

    buffer.address, .size, .free()          pinned.array (bytes), .address, .free()
    stream.handle, .synchronize(), .free()  event.record(stream), .synchronize(), .elapsed(since) in ms
"""

import ctypes

import cuda
import numpy as np
from worker import JobError

HANDLE, ADDRESS, SIZE = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
# Of cuda.h: a capture that other threads do not disturb.
CAPTURE_THREAD_LOCAL = 1


def open_device(kind, index=0, driver=None):
    """kind: pycuda, driver, or auto for PyCUDA where it can be imported. driver: a loaded libcuda."""
    if kind == "driver":
        return DriverDevice(index, driver)
    try:
        from runtime import pycudamemory
    except ImportError as error:
        if kind == "auto":
            return DriverDevice(index, driver)
        raise JobError(
            "missing-module",
            "PyCUDA is asked for, and cannot be imported: %s" % error,
            "take the driver's own library: --device-memory driver",
        )
    return pycudamemory.PycudaDevice(index, driver)


class DriverDevice(cuda.Device):
    """A GPU by ctypes. `driver` is what graphs are made with, in both kinds."""

    kind = "driver"

    def __init__(self, index=0, driver=None):
        cuda.Device.__init__(self, index, driver)
        self.use()
        self.driver = self
        self._in = self.function("cuMemcpyHtoDAsync_v2", ADDRESS, HANDLE, SIZE, HANDLE)
        self._out = self.function("cuMemcpyDtoHAsync_v2", HANDLE, ADDRESS, SIZE, HANDLE)

    def pinned(self, size):
        return Pinned(self, size)

    def stream(self):
        return Stream(self)

    def event(self):
        return Event(self)

    def copy_in(self, buffer, pinned, size, stream):
        """A function that starts the copy of `size` bytes to the GPU."""
        return self.prepared(
            self._in, ADDRESS(buffer.address), HANDLE(pinned.address), SIZE(size), stream.native
        )

    def copy_out(self, buffer, pinned, size, stream):
        return self.prepared(
            self._out, HANDLE(pinned.address), ADDRESS(buffer.address), SIZE(size), stream.native
        )

    def prepared(self, function, *argv):
        """A function without arguments, as quick as ctypes allows."""

        def run():
            status = function(*argv)
            if status:
                self.fail(function.__name__, status)

        return run


class Pinned(object):
    """`size` bytes of the host that the GPU copies by itself."""

    def __init__(self, device, size):
        self._device = device
        pointer = ctypes.c_void_p()
        device.work("cuMemHostAlloc", ctypes.byref(pointer), SIZE(max(size, 1)), 0)
        self.address = pointer.value
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))

    def free(self):
        if self.address:
            self._device.work("cuMemFreeHost", HANDLE(self.address))
            self.address, self.array = 0, None


class Stream(object):
    def __init__(self, device):
        self._device = device
        self.native = ctypes.c_void_p()
        device.work("cuStreamCreate", ctypes.byref(self.native), cuda.STREAM_NON_BLOCKING)
        self.handle = self.native.value
        self.synchronize = device.prepared(
            device.function("cuStreamSynchronize", HANDLE), self.native
        )

    def free(self):
        if self.handle:
            self._device.work("cuStreamDestroy_v2", self.native)
            self.handle = 0


class Event(object):
    """A moment on a stream, with timing."""

    def __init__(self, device):
        self._device = device
        self.native = ctypes.c_void_p()
        device.work("cuEventCreate", ctypes.byref(self.native), 0)
        self._record = device.function("cuEventRecord", HANDLE, HANDLE)
        self.synchronize = device.prepared(
            device.function("cuEventSynchronize", HANDLE), self.native
        )

    def record(self, stream):
        status = self._record(self.native, stream.native)
        if status:
            self._device.fail("cuEventRecord", status)

    def elapsed(self, since):
        """Milliseconds from the event `since` to this one; both have passed."""
        found = ctypes.c_float()
        self._device.call("cuEventElapsedTime", ctypes.byref(found), since.native, self.native)
        return found.value

    def free(self):
        if self.native:
            self._device.work("cuEventDestroy_v2", self.native)
            self.native = None


class Graph(object):
    """What `work` starts on the stream, to be started again by one call: launch().

    JobError where it cannot be captured; the stream is as before then.
    """

    def __init__(self, driver, stream, work):
        self._driver = driver
        self._native = ctypes.c_void_p()
        graph = self._captured(stream, work)
        try:
            self._instantiate(graph)
        finally:
            driver.call("cuGraphDestroy", graph)
        launch, handle = driver.function("cuGraphLaunch", HANDLE, HANDLE), stream.native
        native = self._native

        def run():
            status = launch(native, handle)
            if status:
                driver.fail("cuGraphLaunch", status)

        self.launch = run

    def _captured(self, stream, work):
        driver, graph = self._driver, ctypes.c_void_p()
        if not driver.has("cuStreamBeginCapture_v2"):
            raise JobError("cuda", "this driver has no CUDA graphs")
        driver.call("cuStreamBeginCapture_v2", stream.native, CAPTURE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            end = driver.function("cuStreamEndCapture", HANDLE, HANDLE)
            end(stream.native, ctypes.byref(graph))  # its status is no news: the capture failed
            if graph:
                driver.call("cuGraphDestroy", graph)
            raise
        driver.call("cuStreamEndCapture", stream.native, ctypes.byref(graph))
        return graph

    def _instantiate(self, graph):
        """CUDA 11.4 has flags; before, there was room for a log."""
        made = ctypes.byref(self._native)
        if self._driver.has("cuGraphInstantiateWithFlags"):
            flags = ctypes.c_ulonglong(0)
            self._driver.call("cuGraphInstantiateWithFlags", made, graph, flags)
        else:
            self._driver.call("cuGraphInstantiate", made, graph, None, None, SIZE(0))

    def free(self):
        if self._native:
            self._driver.work("cuGraphExecDestroy", self._native)
            self._native = None


class Space(object):
    """The memory of one tensor, on the GPU and pinned on the host; it grows and never shrinks."""

    def __init__(self, device, on_gpu=True):
        self._device, self._on_gpu = device, on_gpu
        self.buffer = self.pinned = None
        self._size = -1

    @property
    def address(self):
        """Where TensorRT reads or writes the tensor."""
        return self.buffer.address if self._on_gpu else self.pinned.address

    def ask(self, size, pinned=True):
        """At least `size` bytes. pinned=False: on the GPU alone, for what is copied when its size is known."""
        if size > self._size:
            self.free()
            if self._on_gpu:
                self.buffer = self._device.buffer(size)
            self._size = size
        if pinned and (self.pinned is None or len(self.pinned.array) < size):
            if self.pinned is not None:
                self.pinned.free()
                self.pinned = None
            self.pinned = self._device.pinned(size)

    def view(self, dtype, shape):
        """A numpy array on the pinned memory."""
        dtype = np.dtype(dtype)
        size = count(shape) * dtype.itemsize
        return self.pinned.array[:size].view(dtype).reshape(shape)

    def free(self):
        for part in (self.buffer, self.pinned):
            if part is not None:
                part.free()
        self.buffer = self.pinned = None
        self._size = -1


def count(shape):
    """Elements of a shape without unknown sizes."""
    found = 1
    for size in shape:
        found *= size
    return found
