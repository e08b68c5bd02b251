"""Device memory through the CUDA driver's own library, which is wherever a GPU is. Python 3.6 to 3.13.

No package is needed: neither a CUDA toolkit nor PyCUDA. What is made here belongs to the primary context
of its device, the one that TensorRT works in.
"""

import ctypes

from worker import JobError

LIBRARY = "libcuda.so.1"


def load_driver():
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise JobError(
            "no-gpu",
            "the CUDA driver is not here: %s" % error,
            "run on a machine with an NVIDIA GPU and its driver; in a container, with --gpus all",
        )


class Device(object):
    """One GPU. `driver` is the loaded library; every call to it is checked."""

    def __init__(self, index=0, driver=None):
        self._driver = driver or load_driver()
        self.call("cuInit", 0)
        self._device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self._device), index)
        self._context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def call(self, name, *argv):
        """JobError with the driver's own words where a function of its fails."""
        status = getattr(self._driver, name)(*argv)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            words = (text.value or b"unknown error").decode("ascii", "replace")
            kind = "out-of-memory" if status == 2 else "cuda"
            raise JobError(kind, "%s failed with CUDA error %d: %s" % (name, status, words))

    def work(self, name, *argv):
        """A call that needs the context; callbacks come on threads that may have none."""
        self.call("cuCtxSetCurrent", self._context)
        self.call(name, *argv)

    def buffer(self, size):
        return Buffer(self, size)


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
