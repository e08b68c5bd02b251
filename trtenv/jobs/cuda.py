"""Device memory through the CUDA driver's own library, which is wherever a GPU is. Python 3.6 to 3.13.

No package is needed: neither a CUDA toolkit nor PyCUDA. What is made here belongs to the primary context
of its device, the one that TensorRT works in.
"""

import ctypes

from worker import JobError

LIBRARY = "libcuda.so.1"
STREAM_NON_BLOCKING = 1  # of cuda.h: a stream that does not wait for the default one


def load_driver(path=None):
    try:
        return ctypes.CDLL(path or LIBRARY)
    except OSError as error:
        raise JobError(
            "no-gpu",
            "the CUDA driver is not here: %s" % error,
            "run on a machine with an NVIDIA GPU and its driver; in a container, with --gpus all",
        )


# CUdevice_attribute of cuda.h
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76


class Device(object):
    """One GPU. `driver` is the loaded library; every call to it is checked."""

    def __init__(self, index=0, driver=None):
        self._driver = driver or load_driver()
        self.call("cuInit", 0)
        self._device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self._device), index)
        self._context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    @property
    def name(self):
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode("utf-8", "replace")

    @property
    def compute_capability(self):
        """Such as "9.0"."""
        found = []
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            found.append(str(value.value))
        return ".".join(found)

    @property
    def total_memory(self):
        """In bytes."""
        size = ctypes.c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        return size.value

    def call(self, name, *argv):
        """JobError with the driver's own words where a function of its fails."""
        status = getattr(self._driver, name)(*argv)
        if status:
            self.fail(name, status)

    def fail(self, name, status):
        text = ctypes.c_char_p()
        self._driver.cuGetErrorString(status, ctypes.byref(text))
        words = (text.value or b"unknown error").decode("ascii", "replace")
        kind = "out-of-memory" if status == 2 else "cuda"
        raise JobError(kind, "%s failed with CUDA error %d: %s" % (name, status, words))

    def has(self, name):
        return hasattr(self._driver, name)

    def function(self, name, *types):
        """The function with its argument types declared: it is called unchecked, and returns a status.

        Without them ctypes passes Python's integers as 32 bits, and converts each time.
        """
        found = getattr(self._driver, name)
        found.argtypes = types
        return found

    def use(self):
        """Make its context the one of the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def work(self, name, *argv):
        """A call that needs the context; callbacks come on threads that may have none."""
        self.use()
        self.call(name, *argv)

    def buffer(self, size):
        return Buffer(self, size)

    def close(self):
        """Give up the primary context, which lives on where another has it; a second time does nothing."""
        if self._context is not None:
            self._context = None
            self.call("cuDevicePrimaryCtxRelease", self._device)


class Buffer(object):
    """`size` bytes on the device, at `address`."""

    def __init__(self, device, size):
        self._device = device
        self.size = size
        pointer = ctypes.c_uint64()
        device.work("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        self.address = pointer.value

    def upload(self, array):
        """Copy a contiguous numpy array of at most this size to the device, and wait for it."""
        source, size = self._checked(array)
        self._device.work("cuMemcpyHtoD_v2", ctypes.c_uint64(self.address), source, size)

    def download(self, array):
        """Fill a contiguous numpy array of at most this size from the device."""
        target, size = self._checked(array)
        self._device.work("cuMemcpyDtoH_v2", target, ctypes.c_uint64(self.address), size)

    def _checked(self, array):
        if array.nbytes > self.size or not array.flags["C_CONTIGUOUS"]:
            raise ValueError("an array of %d bytes for a buffer of %d" % (array.nbytes, self.size))
        return ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)

    def free(self):
        """Give the memory back; a second time does nothing."""
        if self.address:
            self._device.work("cuMemFree_v2", ctypes.c_uint64(self.address))
            self.address = 0
