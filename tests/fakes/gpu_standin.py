"""libcuda.c, compiled and loaded as trtenv loads the real one."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

import cuda

SOURCE = Path(__file__).parent / "libcuda.c"


def load_standin(folder: Path) -> ctypes.CDLL:
    if not shutil.which("gcc"):
        pytest.skip("no gcc for the stand-in of the CUDA driver")
    library = folder / "libcuda.so.1"
    gcc = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o", str(library)]
    subprocess.run([*gcc, str(SOURCE)], check=True)
    driver: ctypes.CDLL = cuda.load_driver(str(library))
    driver.standin_alive.restype = driver.standin_total.restype = ctypes.c_long
    driver.standin_count.restype = ctypes.c_long
    driver.standin_room.argtypes = [ctypes.c_size_t]
    return driver


def count(driver: ctypes.CDLL, *names: str) -> int:
    """Calls so far of the functions."""
    return sum(driver.standin_count(name.encode()) for name in names)


def allocations(driver: ctypes.CDLL) -> int:
    return count(driver, "cuMemAlloc_v2", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate")
