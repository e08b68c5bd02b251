"""Containers that get this machine's GPUs by each mode: nvidia-smi, and a kernel that the driver compiles.

TRTENV_GPU_CONTAINERS names an image with Python 3, TRTENV_GPU_MODES the modes that must work (default: auto).
docs/gpu-containers.md tells how to run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trtenv.runners.gpus import read_gpus

IMAGE = os.environ.get("TRTENV_GPU_CONTAINERS")
MODES = os.environ.get("TRTENV_GPU_MODES", "auto").split(",")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not IMAGE, reason="no image is named in TRTENV_GPU_CONTAINERS"),
    pytest.mark.parametrize("mode", MODES),
]

# CUDA's driver library alone, by ctypes. The kernel is PTX, so that libcuda has to load the driver's
# compiler too.
COMPUTE = r"""
import ctypes
ptx = b'''.version 6.4
.target sm_50
.address_size 64
.visible .entry triple(.param .u64 data) {
 .reg .b64 %rd<4>; .reg .b32 %r<4>;
 ld.param.u64 %rd1, [data]; cvta.to.global.u64 %rd1, %rd1;
 mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
 ld.global.u32 %r2, [%rd3]; mul.lo.s32 %r3, %r2, 3; st.global.u32 [%rd3], %r3; ret;
}
'''
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *args):
    code = getattr(cuda, name)(*args)
    assert code == 0, (name, code)
count, device = ctypes.c_int(), ctypes.c_int()
context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
memory = ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGetCount", ctypes.byref(count))
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
call("cuModuleLoadData", ctypes.byref(module), ptx)
call("cuModuleGetFunction", ctypes.byref(kernel), module, b"triple")
call("cuMemAlloc_v2", ctypes.byref(memory), 128)
data = (ctypes.c_uint32 * 32)(*range(32))
call("cuMemcpyHtoD_v2", memory, data, 128)
arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(memory), ctypes.c_void_p))
call("cuLaunchKernel", kernel, 1, 1, 1, 32, 1, 1, 0, None, arguments, None)
call("cuMemcpyDtoH_v2", data, memory, 128)
assert list(data) == [3 * n for n in range(32)], list(data)
print("computed on one of", count.value)
"""


def inside(mode: str, gpus: str, *argv: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        *(sys.executable, "-m", "trtenv", "exec", "--image", str(IMAGE), "--runner", "docker"),
        *("--gpu-mode", mode, "--gpus", gpus, "--", *argv),
    ]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def listed(text: str) -> list[str]:
    return re.findall(r"UUID: ((?:GPU|MIG)-[^)]+)\)", text)


def test_every_gpu_of_this_machine(mode: str, tmp_path: Path) -> None:
    here = [gpu.uuid for gpu in read_gpus()[1]]
    assert here
    done = inside(mode, "all", "nvidia-smi", "-L", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in listed(done.stdout) if name.startswith("GPU-")] == here


@pytest.mark.parametrize("by", ["index", "uuid"])
def test_one_gpu(mode: str, by: str, tmp_path: Path) -> None:
    gpu = read_gpus()[1][-1]
    done = inside(mode, str(getattr(gpu, by)), "nvidia-smi", "-L", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in listed(done.stdout) if name.startswith("GPU-")] == [gpu.uuid]


@pytest.mark.parametrize("gpus", ["all", "0"])
def test_it_computes(mode: str, gpus: str, tmp_path: Path) -> None:
    done = inside(mode, gpus, "python3", "-c", COMPUTE, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(read_gpus()[1]) if gpus == "all" else 1
    assert done.stdout.splitlines()[-1] == f"computed on one of {count}"


def test_a_mig_device(mode: str, tmp_path: Path) -> None:
    seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    parts = [name for name in listed(seen.stdout) if name.startswith("MIG-")]
    if not parts:
        pytest.skip("no GPU of this machine is in MIG mode")
    done = inside(mode, parts[-1], "nvidia-smi", "-L", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in listed(done.stdout) if name.startswith("MIG-")] == [parts[-1]]
    done = inside(mode, parts[-1], "python3", "-c", COMPUTE, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gpu_that_is_not_there(mode: str, tmp_path: Path) -> None:
    done = inside(mode, "99", "true", cwd=tmp_path)
    assert done.returncode != 0
    assert "99" in done.stderr


def test_none_is_none(mode: str, tmp_path: Path) -> None:
    script = "! ls /dev/nvidiactl"
    done = inside(mode, "none", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
