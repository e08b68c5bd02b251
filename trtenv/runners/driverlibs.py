"""The NVIDIA driver of this machine as files: its libraries, its device nodes, its GPUs' numbers.

A container that gets these needs neither NVIDIA's toolkit nor a CDI description.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trtenv.errors import GpuUnavailable
from trtenv.runners.gpus import NvmlGpu, read_nvml_gpus

__all__ = ["Driver", "device_nodes", "libraries_in", "library_folders", "read_driver"]

PROC = Path("/proc/driver/nvidia")
DEV = Path("/dev")
# Those of libnvidia-container's lists (src/nvc_info.c) that computing, nvidia-smi and video need.
LIBRARIES = (
    "libcuda",
    "libnvcuvid",
    "libnvidia-allocator",
    "libnvidia-cfg",
    "libnvidia-compiler",
    "libnvidia-encode",
    "libnvidia-fatbinaryloader",
    "libnvidia-gpucomp",
    "libnvidia-ml",
    "libnvidia-nvvm",
    "libnvidia-nvvm70",
    "libnvidia-opencl",
    "libnvidia-opticalflow",
    "libnvidia-ptxjitcompiler",
    "libnvidia-tileiras",
)
NEEDED = ("libcuda.so.1", "libnvidia-ml.so.1")
CONTROL_NODES = ("nvidiactl", "nvidia-uvm")
# Where the loader's cache names no folder: NixOS has no cache, some drivers are only on its path.
USUAL_FOLDERS = ("/run/opengl-driver/lib", "/usr/lib64", "/usr/local/nvidia/lib64")
SMI_FOLDERS = "/usr/bin:/usr/local/nvidia/bin:/run/current-system/sw/bin"


class Driver(NamedTuple):
    """`libraries`: the name that a program loads, and the file. `gpus` asks the driver for its GPUs."""

    version: str
    libraries: tuple[tuple[str, Path], ...]
    smi: Path | None = None
    dev: Path = DEV
    proc: Path = PROC
    gpus: Callable[[], Sequence[NvmlGpu]] = read_nvml_gpus


def read_driver(
    proc: Path = PROC, dev: Path = DEV, folders: Sequence[Path] | None = None
) -> Driver:
    """GpuUnavailable says what of it is missing. `folders`: where to look, if not by the loader."""
    if (dev / "dxg").exists():
        raise GpuUnavailable(
            "WSL gives its GPU by /dev/dxg, not by an NVIDIA driver's device nodes",
            hint="install nvidia-container-toolkit in WSL, or use Docker Desktop",
        )
    version = _version(proc)
    missing = [name for name in CONTROL_NODES if not (dev / name).exists()]
    if missing:
        raise GpuUnavailable(
            f"the driver's device nodes are missing: {', '.join(str(dev / n) for n in missing)}",
            hint="make them: sudo nvidia-modprobe -u -c 0",
        )
    folders = _loader_folders() if folders is None else folders
    libraries = libraries_in(folders, version)
    absent = [name for name in NEEDED if name not in dict(libraries)]
    if absent:
        raise GpuUnavailable(
            f"no {' and no '.join(absent)} of driver {version} in "
            + (", ".join(map(str, folders)) or "any folder of the loader"),
            hint="install the driver's libraries in the version of its kernel module; after an "
            "update of the driver: restart the machine",
        )
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=SMI_FOLDERS)
    return Driver(version, libraries, Path(smi).resolve() if smi else None, dev, proc)


def _version(proc: Path) -> str:
    try:
        text = (proc / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise GpuUnavailable(
            "no NVIDIA driver is loaded on this machine",
            hint="install it until `nvidia-smi` works",
        ) from None
    # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (...)"
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text.partition("\n")[0] + " ")
    if not found:
        raise GpuUnavailable(f"{proc / 'version'} tells no version of the driver")
    return found[1]


def _loader_folders() -> list[Path]:
    ldconfig = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    text = ""
    if ldconfig:
        done = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False)
        text = done.stdout
    return library_folders(text, USUAL_FOLDERS)


def library_folders(cache: str, usual: Sequence[str] = ()) -> list[Path]:
    """Folders with a libcuda or libnvidia-ml, by `ldconfig -p`; 32-bit ones come along, harmless."""
    pattern = r"^\s*(?:libcuda|libnvidia-ml)\.so\.1 \(.*\) => (/.+)/[^/]+$"
    named = re.findall(pattern, cache, re.MULTILINE)
    return [Path(folder) for folder in dict.fromkeys([*named, *usual]) if Path(folder).is_dir()]


def libraries_in(folders: Iterable[Path], version: str) -> tuple[tuple[str, Path], ...]:
    """(name, file) of each library of exactly this driver; a name's first 64-bit file counts.

    The names are those of the links that the driver's installer made: the sonames are among them.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("lib*.so*")):
            if path.name.partition(".so")[0] not in LIBRARIES or path.name in found:
                continue
            file = path.resolve()
            if file.name.endswith(f".so.{version}") and _is_64_bit(file):
                found[path.name] = file
    return tuple(sorted(found.items()))


def _is_64_bit(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            return handle.read(5) == b"\x7fELF\x02"
    except OSError:
        return False


def device_nodes(wish: str, driver: Driver) -> list[str]:
    """Names below /dev of the control nodes and of the GPUs of --gpus: all, indices, UUIDs, MIG ids.

    A MIG device is its GPU's node and the nodes of its two capabilities, whose minor numbers /proc
    tells (https://docs.nvidia.com/datacenter/tesla/mig-user-guide, "Device Nodes and Capabilities").
    """
    gpus = driver.gpus()
    names = list(CONTROL_NODES)
    if (driver.dev / "nvidia-uvm-tools").exists():
        names.append("nvidia-uvm-tools")
    items = [str(gpu.index) for gpu in gpus] if wish == "all" else wish.split(",")
    if not items:
        raise GpuUnavailable("the driver of this machine knows no GPU", hint="see: nvidia-smi -L")
    for item in items:
        names += _nodes_of(item, gpus, driver.proc)
    missing = [name for name in names if not (driver.dev / name).exists()]
    if missing:
        raise GpuUnavailable(
            f"the GPU's device node {driver.dev / missing[0]} is missing",
            hint="make it: run `nvidia-smi` as root, or `nvidia-modprobe`",
        )
    return list(dict.fromkeys(names))


def _nodes_of(item: str, gpus: Sequence[NvmlGpu], proc: Path) -> Iterator[str]:
    for gpu in gpus:
        whole = item in (str(gpu.index), gpu.uuid)
        # Of a GPU in MIG mode the driver computes on nothing but its MIG devices.
        parts = [mig for mig in gpu.migs if whole or item in mig.names(gpu)]
        if whole and gpu.mig_mode and not parts:
            raise GpuUnavailable(
                f"GPU {gpu.index} is in MIG mode and has no MIG device",
                hint="make one: sudo nvidia-smi mig -cgi PROFILE -C; or leave MIG mode",
            )
        if whole or parts:
            yield f"nvidia{gpu.minor}"
            for mig in parts:
                folder = proc / f"capabilities/gpu{gpu.minor}/mig/gi{mig.gpu_instance}"
                yield _capability(folder / "access")
                yield _capability(folder / f"ci{mig.compute_instance}" / "access")
            return
    raise GpuUnavailable(f"this machine has no GPU `{item}`", hint="list them: nvidia-smi -L")


def _capability(file: Path) -> str:
    try:
        found = re.search(r"DeviceFileMinor:\s*(\d+)", file.read_text(encoding="ascii"))
    except OSError:
        found = None
    if not found:
        raise GpuUnavailable(
            f"{file} does not tell the device node of a MIG device",
            hint="name whole GPUs, or use --gpu-mode toolkit or cdi",
        )
    return f"nvidia-caps/nvidia-cap{found[1]}"
