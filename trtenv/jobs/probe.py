"""Reads what this environment really holds. Python 3.6 to 3.13, standard library only."""

import ctypes
import importlib
import os
import platform
import re
import sys

MODULES = ("torch", "onnx", "onnxruntime", "numpy", "ultralytics", "torchvision", "pycuda")


def version_of(module):
    """The version of an importable module, None where it is absent, and text where it is broken."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        return None if missing.split(".")[0] == module else "broken: %s" % error
    except Exception as error:  # a library that cannot start says so in any way it likes
        return "broken: %s: %s" % (type(error).__name__, error)
    version = getattr(loaded, "__version__", None) or getattr(loaded, "VERSION_TEXT", None)
    return str(version) if version else "unknown"


def loaded_library(stem):
    """The file of a library that this process has loaded: the loader may know others of its name."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as handle:
            paths = {line.split(None, 5)[5].strip() for line in handle if "/" + stem in line}
    except OSError:
        return []
    return sorted(paths)


def library_version(names, function, decode):
    for name in names:
        try:
            library = ctypes.CDLL(name)
            call = getattr(library, function)
        except (OSError, AttributeError):
            continue
        return decode(call)
    return None


def decode_tensorrt(call):
    call.restype = ctypes.c_int32
    number = call()
    # NvInferVersion.h: up to 9.x MAJOR*1000+MINOR*100+PATCH, from 10.0 MAJOR*10000+MINOR*100+PATCH.
    if number >= 100000:
        return "%d.%d.%d" % (number // 10000, number // 100 % 100, number % 100)
    return "%d.%d.%d" % (number // 1000, number // 100 % 10, number % 100)


def decode_cuda(call):
    value = ctypes.c_int()
    if call(ctypes.byref(value)) != 0:
        return None
    return "%d.%d" % (value.value // 1000, value.value % 1000 // 10)


def decode_cudnn(call):
    call.restype = ctypes.c_size_t
    number = call()
    # cudnn_version.h: up to 8.x MAJOR*1000+MINOR*100+PATCH, from 9.0 MAJOR*10000+MINOR*100+PATCH.
    if number >= 90000:
        return "%d.%d.%d" % (number // 10000, number // 100 % 100, number % 100)
    return "%d.%d.%d" % (number // 1000, number // 100 % 10, number % 100)


CUDA_CALL = ("cudaRuntimeGetVersion", decode_cuda)
CUDNN_CALL = ("cudnnGetVersion", decode_cudnn)


def cuda_version():
    """The toolkit's version, from the runtime library or the version file of the toolkit."""
    names = ["libcudart.so"] + ["libcudart.so.%d" % major for major in (14, 13, 12)]
    names += ["libcudart.so.11.0", "libcudart.so.10.2", "libcudart.so.10.1", "libcudart.so.10.0"]
    found = library_version(names, *CUDA_CALL)
    for path in ("/usr/local/cuda/version.json", "/usr/local/cuda/version.txt"):
        if found is None and os.path.exists(path):
            with open(path) as handle:
                match = re.search(r"(\d+\.\d+\.?\d*)", handle.read())
            found = match.group(1) if match else None
    return found


def operating_system():
    fields = {}
    try:
        with open("/etc/os-release", encoding="utf-8") as handle:
            for line in handle:
                key, _, value = line.strip().partition("=")
                fields[key] = value.strip('"')
    except OSError:
        return platform.platform()
    return "%s %s" % (fields.get("ID", "linux"), fields.get("VERSION_ID", ""))


def devices():
    """GPUs as the driver shows them here, in its own numbers; empty without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [describe_device(cuda, index) for index in range(count.value)]


def describe_device(cuda, index):
    device = ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, 256, device)
    memory = ctypes.c_size_t()
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    value = ctypes.c_int()

    def attribute(number):  # CUdevice_attribute of cuda.h
        cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return {
        "name": name.value.decode("utf-8", "replace"),
        "compute_capability": "%d.%d" % (attribute(75), attribute(76)),
        "sm_count": attribute(16),
        "memory_bytes": memory.value,
    }


def driver_version():
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as handle:
            match = re.search(r"\s(\d{3}\.\d+(?:\.\d+)?)\s", handle.read())
        return match.group(1) if match else None
    except OSError:
        return None


def tensorrt_modules():
    """Versions by Python module; the library answers where the bindings are missing."""
    found = {"tensorrt": version_of("tensorrt"), "tensorrt-rtx": version_of("tensorrt_rtx")}
    if found["tensorrt"] is None:
        names = ["libnvinfer.so"] + ["libnvinfer.so.%d" % n for n in range(12, 6, -1)]
        found["libnvinfer"] = library_version(names, "getInferLibVersion", decode_tensorrt)
    return found


def stamp_facts(versions):
    """What the stamp says of the place a job ran in; `versions` are of libraries the job has loaded."""
    found = dict(versions)
    found["python"] = sys.version.split()[0]
    found["os"] = operating_system()
    found["machine"] = platform.machine()
    # Of what this job has loaded and of nothing else: a job that used no cuDNN has no cuDNN version.
    found["cuda"] = library_version(loaded_library("libcudart.so"), *CUDA_CALL)
    found["cudnn"] = library_version(loaded_library("libcudnn.so"), *CUDNN_CALL)
    found["driver"] = driver_version()
    found["devices"] = devices()
    return found


def run(params, io):
    io.progress("reading versions")
    sys.setdlopenflags(os.RTLD_LAZY)  # as the build job loads TensorRT
    found = tensorrt_modules()
    found.update((name, version_of(name)) for name in MODULES)
    found = stamp_facts(found)
    cudnn = ["libcudnn.so"] + ["libcudnn.so.%d" % n for n in (9, 8, 7)]
    found["cuda"] = found["cuda"] or cuda_version()
    found["cudnn"] = found["cudnn"] or library_version(cudnn, *CUDNN_CALL)
    return found
