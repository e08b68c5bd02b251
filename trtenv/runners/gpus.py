"""Reads this machine's GPUs from the driver's management library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtenv.catalog.host import Gpu
from trtenv.errors import GpuUnavailable

# Where a driver shows itself: asking its library costs an import, so only where there may be one.
DRIVER_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu")


def read_gpus() -> tuple[str | None, tuple[Gpu, ...], str | None]:
    """Driver version, GPUs, and what is wrong with a driver that is there but does not answer."""
    if not any(Path(sign).exists() for sign in DRIVER_SIGNS):
        return None, (), None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return None, (), None
    except pynvml.NVMLError as error:
        return None, (), f"the NVIDIA driver does not answer: {error}"
    try:
        count = pynvml.nvmlDeviceGetCount()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return driver, tuple(_gpu(index) for index in range(count)), None
    except pynvml.NVMLError as error:
        return None, (), f"the NVIDIA driver does not answer: {error}"
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        compute_capability=f"{major}.{minor}",
        memory=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


@dataclass(frozen=True, slots=True)
class Mig:
    """A part of a GPU, by the driver's numbers."""

    index: int
    uuid: str
    gpu_instance: int
    compute_instance: int

    def names(self, gpu: NvmlGpu) -> tuple[str, ...]:
        """As people write it: its UUID, GPU:MIG indices, and the UUID of drivers before 470."""
        old = f"MIG-{gpu.uuid}/{self.gpu_instance}/{self.compute_instance}"
        return self.uuid, f"{gpu.index}:{self.index}", old


@dataclass(frozen=True, slots=True)
class NvmlGpu:
    """A GPU and its device node, /dev/nvidia<minor>."""

    index: int
    uuid: str
    minor: int
    mig_mode: bool = False
    migs: tuple[Mig, ...] = ()


def read_nvml_gpus() -> tuple[NvmlGpu, ...]:
    """GpuUnavailable where the driver does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return tuple(_nvml_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise GpuUnavailable(
            f"the NVIDIA driver does not answer: {error}", hint="see what it says: nvidia-smi"
        ) from error


def _nvml_gpu(index: int) -> NvmlGpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        mig_mode = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError_NotSupported:
        mig_mode = False
    return NvmlGpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        minor=int(pynvml.nvmlDeviceGetMinorNumber(handle)),
        mig_mode=mig_mode,
        migs=tuple(_migs(handle)) if mig_mode else (),
    )


def _migs(handle: Any) -> Iterator[Mig]:
    import pynvml

    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError_NotFound:
            continue
        yield Mig(
            index,
            _text(pynvml.nvmlDeviceGetUUID(mig)),
            int(pynvml.nvmlDeviceGetGpuInstanceId(mig)),
            int(pynvml.nvmlDeviceGetComputeInstanceId(mig)),
        )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
