"""Reads this machine's GPUs from the driver's management library."""

from __future__ import annotations

from pathlib import Path

from trtenv.catalog.host import Gpu

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


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
