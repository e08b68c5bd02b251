"""Stands in for PyCUDA, which is compiled against a CUDA toolkit: what trtenv calls of it, on libcuda.c.

As the real one it has a stack of contexts for each thread, makes nothing without one, and ends the
process where a thread leaves one behind: here an error at the next call.
"""

import ctypes
import sys
import threading
import types
from typing import Any

import numpy as np

STACK = threading.local()
STATE: Any = types.SimpleNamespace(driver=None, context=ctypes.c_void_p())


class Error(Exception):
    pass


class LogicError(Error):
    pass


class OutOfMemory(Error):
    pass


def check(name: str, *argv: Any) -> None:
    if status := getattr(STATE.driver, name)(*argv):
        kind = OutOfMemory if status == 2 else LogicError
        raise kind(f"{name} failed: {'out of memory' if status == 2 else status}")


def entered() -> None:
    if not getattr(STACK, "depth", 0):
        raise LogicError("no currently active context?")


class Context:
    def push(self) -> None:
        if getattr(STACK, "depth", 0):
            raise LogicError("the last call left its context behind")
        STACK.depth = 1
        check("cuCtxSetCurrent", STATE.context)

    @staticmethod
    def pop() -> None:
        STACK.depth = 0

    def detach(self) -> None:
        check("cuDevicePrimaryCtxRelease", 0)


class Device:
    def __init__(self, index: int) -> None:
        check("cuDeviceGet", ctypes.byref(ctypes.c_int()), index)

    def retain_primary_context(self) -> Context:
        check("cuDevicePrimaryCtxRetain", ctypes.byref(STATE.context), 0)
        return Context()

    def name(self) -> str:
        return "Stand-in 0"

    def compute_capability(self) -> tuple[int, int]:
        return 9, 0

    def total_memory(self) -> int:
        size = ctypes.c_size_t()
        check("cuDeviceTotalMem_v2", ctypes.byref(size), 0)
        return size.value


class Allocation:
    def __init__(self, size: int) -> None:
        entered()
        pointer = ctypes.c_uint64()
        check("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        self.address = pointer.value

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        entered()
        check("cuMemFree_v2", ctypes.c_uint64(self.address))


class Host:
    def __init__(self, size: int) -> None:
        entered()
        pointer = ctypes.c_void_p()
        check("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
        self.address = pointer
        data = (pointer.value, False)
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": data,
            "version": 3,
        }

    def free(self) -> None:
        entered()
        check("cuMemFreeHost", self.address)


class Stream:
    def __init__(self, flags: int = 0) -> None:
        entered()
        self.pointer = ctypes.c_void_p()
        check("cuStreamCreate", ctypes.byref(self.pointer), flags)

    @property
    def handle(self) -> int:
        return self.pointer.value or 0

    def synchronize(self) -> None:
        check("cuStreamSynchronize", self.pointer)

    def __del__(self) -> None:
        check("cuStreamDestroy_v2", self.pointer)


class Event:
    def __init__(self, flags: int = 0) -> None:
        entered()
        self.pointer = ctypes.c_void_p()
        check("cuEventCreate", ctypes.byref(self.pointer), flags)

    def record(self, stream: Stream) -> None:
        check("cuEventRecord", self.pointer, stream.pointer)

    def synchronize(self) -> None:
        check("cuEventSynchronize", self.pointer)

    def time_since(self, event: "Event") -> float:
        found = ctypes.c_float()
        check("cuEventElapsedTime", ctypes.byref(found), event.pointer, self.pointer)
        return found.value

    def __del__(self) -> None:
        check("cuEventDestroy_v2", self.pointer)


def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
    source, size = ctypes.c_void_p(src.ctypes.data), ctypes.c_size_t(src.nbytes)
    check("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(dest), source, size, stream.pointer)


def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
    target, size = ctypes.c_void_p(dest.ctypes.data), ctypes.c_size_t(dest.nbytes)
    check("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(src), size, stream.pointer)


def pagelocked_empty(size: int, dtype: Any) -> np.ndarray:
    return np.asarray(Host(size))


def install(driver: ctypes.CDLL, setitem: Any) -> None:
    """`import pycuda.driver` gives it; setitem: monkeypatch's."""
    STATE.driver = driver
    module: Any = types.ModuleType("pycuda.driver")
    module.init = lambda: None
    module.Error, module.LogicError, module.MemoryError = Error, LogicError, OutOfMemory
    module.Context, module.Device, module.Stream, module.Event = Context, Device, Stream, Event
    module.mem_alloc, module.pagelocked_empty = Allocation, pagelocked_empty
    module.memcpy_htod_async, module.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    package: Any = types.ModuleType("pycuda")
    package.driver = module
    setitem(sys.modules, "pycuda", package)
    setitem(sys.modules, "pycuda.driver", module)
