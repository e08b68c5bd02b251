"""What a GPU goes through while something is measured on it: clocks, heat, power, and who else is there.

Read from the driver's management library (NVML) on the host; nothing is ever set. What a GPU does not
tell is null, and without a driver there is nothing to tell.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Self

from trtenv.catalog.host import Gpu

INTERVAL_S: Final = 0.2
# NVML's nvmlClocksEventReasons bits (nvml.h) that cost speed. Being idle, set application clocks and
# synchronised boost say nothing of a limit that was hit.
THROTTLE: Final[Mapping[int, str]] = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
SHOWN: Final = ("sm_mhz", "memory_mhz", "temperature_c", "power_w", "utilisation")
# One step of the SM clock of data-centre GPUs; smaller differences are no change of the clock.
CLOCK_STEP_MHZ: Final = 15


class Sample(NamedTuple):
    """At `time`, seconds since the epoch. utilisation in percent, throttle is NVML's bits.

    processes: bytes of GPU memory by process id, None where the driver does not tell.
    """

    time: float
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    utilisation: int | None = None
    throttle: int | None = None
    processes: Mapping[int, int | None] = MappingProxyType({})

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in SHOWN},
            "throttle": None if self.throttle is None else reasons(self.throttle),
        }


class Watched(NamedTuple):
    """A GPU, and its samples before, during and after what `GpuWatch` was around."""

    gpu: Gpu
    driver: str | None
    limits: Mapping[str, float | None]
    before: Sample
    during: tuple[Sample, ...]
    after: Sample

    def to_dict(self) -> dict[str, Any]:
        return {
            "index": self.gpu.index,
            "name": self.gpu.name,
            "uuid": self.gpu.uuid,
            "driver": self.driver,
            **self.limits,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "others": others(self),
        }


class GpuWatch:
    """Samples a GPU in a thread while inside. `found` is there after it; None without NVML."""

    def __init__(self, gpu: Gpu | None, nvml: Any = None, interval: float = INTERVAL_S) -> None:
        self._gpu = gpu
        self._nvml = nvml
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._samples: list[Sample] = []
        self._reader: Reader | None = None
        self.found: Watched | None = None

    def __enter__(self) -> Self:
        self._reader = open_reader(self._gpu, self._nvml)
        if self._reader:
            self._before = self._reader.sample()
            self._thread.start()
        return self

    def _sample(self) -> None:
        assert self._reader
        while not self._ended.wait(self._interval):
            self._samples.append(self._reader.sample())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._reader is None:
            return
        self._ended.set()
        self._thread.join()
        reader = self._reader
        self.found = Watched(
            gpu=reader.gpu,
            driver=reader.driver(),
            limits=reader.limits(),
            before=self._before,
            during=tuple(self._samples),
            after=reader.sample(),
        )
        reader.close()


def open_reader(gpu: Gpu | None, nvml: Any = None) -> Reader | None:
    if gpu is None:
        return None
    if nvml is None:
        import pynvml  # an import that only a machine with a GPU pays for

        nvml = pynvml
    try:
        nvml.nvmlInit()
        return Reader(nvml, gpu, nvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
    except nvml.NVMLError:
        return None


class Reader:
    """One GPU's figures as NVML has them; None for what this GPU or this driver does not tell."""

    def __init__(self, nvml: Any, gpu: Gpu, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self.gpu = gpu

    def sample(self) -> Sample:
        nvml, ask = self._nvml, self._ask
        power = ask(nvml.nvmlDeviceGetPowerUsage)
        used = ask(nvml.nvmlDeviceGetUtilizationRates)
        return Sample(
            time=time.time(),
            sm_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            temperature_c=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            utilisation=None if used is None else int(used.gpu),
            throttle=ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
            processes=self._processes(),
        )

    def limits(self) -> dict[str, float | None]:
        nvml = self._nvml
        power = self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        return {
            "max_sm_mhz": self._ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
            "max_memory_mhz": self._ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_MEM),
            "power_limit_w": None if power is None else power / 1000,
        }

    def driver(self) -> str | None:
        try:
            found = self._nvml.nvmlSystemGetDriverVersion()
        except self._nvml.NVMLError:
            return None
        return found.decode() if isinstance(found, bytes) else str(found)

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _processes(self) -> dict[int, int | None]:
        nvml = self._nvml
        found: dict[int, int | None] = {}
        for call in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            found.update({entry.pid: entry.usedGpuMemory for entry in self._ask(call) or ()})
        return found

    def _ask(self, call: Callable[..., Any], *argv: Any) -> Any:
        try:
            return call(self._handle, *argv)
        except self._nvml.NVMLError:
            return None


def conditions(watched: Watched, begin: float, end: float) -> dict[str, Any] | None:
    """Least, median and largest of each figure in a window of time; shares of samples for throttling.

    None where no sample fell into it.
    """
    samples = [sample for sample in watched.during if begin <= sample.time <= end]
    if not samples:
        return None
    bits = [sample.throttle for sample in samples if sample.throttle is not None]
    shares = {
        name: round(sum(bool(value & bit) for value in bits) / len(bits), 3)
        for bit, name in THROTTLE.items()
        if any(value & bit for value in bits)
    }
    return {
        "samples": len(samples),
        **{name: span(getattr(sample, name) for sample in samples) for name in SHOWN},
        "throttle": shares if bits else None,
    }


def span(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"min": min(known), "median": median(known), "max": max(known)}


def reasons(bits: int) -> list[str]:
    return [name for bit, name in THROTTLE.items() if bits & bit]


def others(watched: Watched, family: Callable[[int], bool] | None = None) -> list[dict[str, Any]]:
    """Processes on the GPU that are not ours, with the most memory that each was seen to have.

    Before and after, nothing there is ours. Meanwhile our descendants are; a container's processes
    are not among these, and the driver may number them otherwise: then one newcomer is ours.
    """
    family = family or descends_from_us
    seen: dict[int, int | None] = {}
    for sample in (watched.before, *watched.during, watched.after):
        for pid, memory in sample.processes.items():
            seen[pid] = max(filter(None, (memory, seen.get(pid))), default=None)
    outside = [*watched.before.processes, *watched.after.processes]
    came = [pid for pid in seen if pid not in outside]
    ours = [pid for pid in came if family(pid)] or came[:1]
    return [
        {"pid": pid, "memory_bytes": memory}
        for pid, memory in sorted(seen.items())
        if pid not in ours
    ]


def descends_from_us(pid: int) -> bool:
    own = os.getpid()
    while pid > 1:
        if pid == own:
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])  # the name before may hold anything
    return False


def notes(
    watched: Watched, windows: Sequence[Mapping[str, Any] | None], *, idle_before: bool = True
) -> list[dict[str, str]]:
    """What makes the figures worth less than they look; `windows` as `conditions` gives them.

    idle_before: whether nothing of ours can have kept the GPU busy just before.
    """
    found = []
    known = [window for window in windows if window]
    shares: dict[str, float] = {}
    for window in known:
        for name, share in (window["throttle"] or {}).items():
            shares[name] = max(share, shares.get(name, 0))
    if shares:
        told = ", ".join(f"{name} in {share:.0%} of the samples" for name, share in shares.items())
        found.append(("throttled", f"the GPU was slowed down: {told}"))
    if strangers := others(watched):
        told = ", ".join(_stranger(entry) for entry in strangers)
        found.append(("other-users", f"others used the GPU: {told}"))
    elif idle_before and watched.before.utilisation:
        found.append(("other-users", f"the GPU was {watched.before.utilisation} % busy before"))
    clocks = [window["sm_mhz"] for window in known if window["sm_mhz"]]
    if clocks:
        low = min(entry["min"] for entry in clocks)
        high = max(entry["max"] for entry in clocks)
        if high - low > CLOCK_STEP_MHZ:
            text = f"the SM clock went from {low} to {high} MHz while it was measured"
            found.append(("clocks-not-locked", text))
    return [{"kind": kind, "message": message} for kind, message in found]


def _stranger(entry: Mapping[str, Any]) -> str:
    memory = entry["memory_bytes"]
    return f"pid {entry['pid']}" + (f" ({memory / 2**20:.0f} MiB)" if memory else "")
