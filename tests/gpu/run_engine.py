"""Runs an engine once on the GPU: python run_engine.py ENGINE INPUTS.npz OUTPUTS.npz [PROFILE]

Needs TensorRT >= 8.5 (or TensorRT-RTX), numpy and a CUDA runtime library; prints the mean time of a
hundred enqueues in milliseconds, and more of the engine, as JSON. Python 3.6 to 3.13.
"""

import ctypes
import glob
import json
import os
import sys
import time

import numpy as np

sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
try:
    import tensorrt as trt
except ImportError:
    import tensorrt_rtx as trt


def load_cudart():
    found = []
    for folder in [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *sys.path]:
        if folder:
            found += glob.glob(os.path.join(folder, "libcudart.so.1*"))
            found += glob.glob(os.path.join(folder, "nvidia", "*", "lib", "libcudart.so.1*"))
    return ctypes.CDLL((found or ["libcudart.so"])[0])


class Cuda:
    def __init__(self):
        self.library = load_cudart()

    def __call__(self, name, *argv):
        status = getattr(self.library, name)(*argv)
        if status:
            raise RuntimeError("%s failed with CUDA error %d" % (name, status))


def numpy_type(dtype):
    """trt.nptype of 8.5 and 8.6 needs a numpy below 1.24."""
    name = str(dtype).split(".")[-1]
    return {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32,
            "INT64": np.int64, "BOOL": np.bool_, "UINT8": np.uint8}[name]  # fmt: skip


def allocate(cuda, size):
    pointer = ctypes.c_void_p()
    cuda("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
    return pointer


def main(engine_path, inputs_path, outputs_path, profile=0):
    cuda = Cuda()
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    with open(engine_path, "rb") as handle:
        engine = runtime.deserialize_cuda_engine(handle.read())
    context = engine.create_execution_context()
    stream = ctypes.c_void_p()
    cuda("cudaStreamCreate", ctypes.byref(stream))
    if int(profile):
        assert context.set_optimization_profile_async(int(profile), stream.value)
    arrays = {name: np.ascontiguousarray(value) for name, value in np.load(inputs_path).items()}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for name in names:
        if name in arrays:
            context.set_input_shape(name, arrays[name].shape)
    outputs, pointers = {}, {}
    for name in names:
        if name not in arrays:
            shape = tuple(context.get_tensor_shape(name))
            outputs[name] = np.empty(shape, dtype=numpy_type(engine.get_tensor_dtype(name)))
        host = arrays.get(name, outputs.get(name))
        pointers[name] = allocate(cuda, host.nbytes)
        context.set_tensor_address(name, pointers[name].value)
        if name in arrays:
            size = ctypes.c_size_t(host.nbytes)
            cuda("cudaMemcpy", pointers[name], ctypes.c_void_p(host.ctypes.data), size, 1)
    assert context.execute_async_v3(stream.value)
    cuda("cudaStreamSynchronize", stream)
    for name, host in outputs.items():
        size = ctypes.c_size_t(host.nbytes)
        cuda("cudaMemcpy", ctypes.c_void_p(host.ctypes.data), pointers[name], size, 2)
    started = time.perf_counter()
    for _ in range(100):
        context.execute_async_v3(stream.value)
    cuda("cudaStreamSynchronize", stream)
    milliseconds = (time.perf_counter() - started) * 10
    np.savez(outputs_path, **outputs)
    said = {
        "milliseconds": round(milliseconds, 4),
        "tensorrt": trt.__version__,
        "refittable": bool(engine.refittable),
        "profiles": engine.num_optimization_profiles,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
