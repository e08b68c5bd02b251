"""The ways in which a container gets its GPUs: which can work here and why not, and what each asks
the daemon for. Pure: facts go in, choices and parts of a create request come out.

Sources: moby daemon/nvidia_linux.go (--gpus is served where the daemon finds the toolkit's hook),
https://docs.docker.com/build/building/cdi and dockerd's release notes (CDI: 25.0 with a feature flag,
28.3 by itself; API 1.50 lists the devices), Podman's podman-run(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from trtenv.errors import GpuUnavailable, UsageError
from trtenv.runners.container import ROOT, Bind, Gpus
from trtenv.runners.daemon import DaemonFacts
from trtenv.runners.driverlibs import Driver
from trtenv.runners.protocol import RunOptions

__all__ = [
    "Judgement", "Signs", "judge", "nothing_works", "render", "to_try", "wish_of",
]  # fmt: skip

KIND = "nvidia.com/gpu"
RUNTIME = "nvidia"
# What trtenv's jobs use: CUDA, nvidia-smi with its library, and video decoders.
CAPABILITIES = "compute,utility,video"
# To the toolkit, where it is the default runtime: the image's own `all` does not count.
HIDDEN = {"NVIDIA_VISIBLE_DEVICES": "void"}
DRIVER_FOLDER = f"{ROOT}/driver"
SMI = "/usr/bin/nvidia-smi"
# From this version on, Podman's Docker API passes CDI devices on; before, it drops all GPUs.
PODMAN_WITH_CDI = (5, 4)
DOCKER_WITH_CDI = (25,)
API_LISTING_DEVICES = (1, 50)

CONFIGURE = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
DESCRIBE = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"


class Signs(NamedTuple):
    """What this machine shows. `local`: the daemon runs on it; else the rest says nothing of it.

    hook: the toolkit's program. cdi_files: descriptions of NVIDIA's GPUs. no_driver: why `driver`
    is None.
    """

    local: bool = False
    jetson: bool = False
    hook: bool = False
    cdi_files: tuple[str, ...] = ()
    driver: Driver | None = None
    no_driver: str = ""


class Judgement(NamedTuple):
    """works: None where only a try can tell. ignored: the daemon would start it without a GPU."""

    mode: str
    works: bool | None
    why: str
    remedy: str | None = None
    ignored: bool = False


def wish_of(options: RunOptions) -> str:
    """`none`, `all`, or what --gpus lists."""
    return options.gpus or ("all" if options.needs_gpu else "none")


def judge(facts: DaemonFacts, signs: Signs) -> list[Judgement]:
    """All modes, in the order in which they are tried."""
    judges = {"toolkit": _toolkit, "cdi": _cdi, "runtime": _runtime}
    if signs.jetson:
        order = ["runtime", "cdi", "toolkit"]
    elif facts.name == "podman" or facts.rootless:
        # A rootless toolkit must not touch cgroups, and must be told so; CDI needs nothing.
        order = ["cdi", "toolkit", "runtime"]
    else:
        order = ["toolkit", "cdi", "runtime"]
    found = [judges[mode](facts, signs) for mode in order]
    # What is known to work before what is worth a try; a driver by hand only where all else fails.
    found.sort(key=lambda one: not one.works)
    return [*found, _devices(facts, signs)]


def to_try(options: RunOptions, judgements: Sequence[Judgement]) -> list[str]:
    """Modes for these options, best first. GpuUnavailable where none can give a GPU."""
    by_mode = {one.mode: one for one in judgements}
    mode = options.gpu_mode
    if "=" in wish_of(options):  # nvidia.com/gpu=0: names that only CDI knows
        if mode not in ("auto", "cdi"):
            raise UsageError(
                f"`--gpus {options.gpus}` names CDI devices; --gpu-mode {mode} knows none",
                hint="leave out --gpu-mode, or name GPUs by index or UUID",
            )
        mode = "cdi"
    if mode == "auto":
        modes = [one.mode for one in judgements if one.works is not False]
        if not modes:
            raise nothing_works(judgements)
        return modes
    if by_mode[mode].ignored or (mode == "devices" and by_mode[mode].works is False):
        one = by_mode[mode]
        hint = f"{one.remedy}; or do" if one.remedy else "choose another --gpu-mode, or do"
        raise GpuUnavailable(one.why, hint=f"{hint} without a GPU: --gpus none")
    return [mode]


def nothing_works(
    judgements: Iterable[Judgement], refused: Mapping[str, str] = MappingProxyType({})
) -> GpuUnavailable:
    """`refused`: what the daemon said to those that were tried."""
    reasons = [f"{one.mode}: {refused.get(one.mode, one.why)}" for one in judgements]
    remedy = next((one.remedy for one in judgements if one.remedy), None)
    return GpuUnavailable(
        "no container can get a GPU here; " + "; ".join(reasons),
        hint=(f"{remedy}; or do" if remedy else "do") + " without a GPU: --gpus none",
    )


def _toolkit(facts: DaemonFacts, signs: Signs) -> Judgement:
    if facts.name == "podman":
        why = "Podman has no device drivers; its socket drops such a wish"
        return Judgement("toolkit", False, why, ignored=True)
    if signs.local and signs.hook:
        return Judgement("toolkit", True, "the NVIDIA Container Toolkit is installed")
    if signs.local and RUNTIME not in facts.runtimes:
        return Judgement(
            "toolkit",
            False,
            "the NVIDIA Container Toolkit is not installed (no nvidia-container-runtime-hook)",
            f"install nvidia-container-toolkit, then: {CONFIGURE}",
        )
    return Judgement("toolkit", None, "whether the daemon has the toolkit only a try can tell")


def _cdi(facts: DaemonFacts, signs: Signs) -> Judgement:
    podman = facts.name == "podman"
    version = _numbers(facts.version)
    if podman and version < PODMAN_WITH_CDI:
        return Judgement(
            "cdi",
            False,
            f"Podman {facts.version} drops the wish for a GPU that comes through its socket "
            "(needed: 5.4 or newer)",
            "update Podman, or use Docker",
            ignored=True,
        )
    if found := [name for name in facts.cdi_devices if name.startswith(f"{KIND}=")]:
        return Judgement("cdi", True, f"the daemon knows {', '.join(found)}")
    if not podman and version < DOCKER_WITH_CDI:
        why = f"Docker {facts.version} does not know CDI devices (needs 25 or newer)"
        return Judgement("cdi", False, why, "update Docker")
    if not podman and not facts.cdi_folders:
        return Judgement(
            "cdi",
            False,
            "CDI is switched off in this daemon",
            'switch it on: "features": {"cdi": true} in /etc/docker/daemon.json, then restart Docker',
        )
    lists = not podman and _numbers(facts.api) >= API_LISTING_DEVICES
    if signs.local and signs.cdi_files and not lists:
        return Judgement("cdi", True, f"described in {', '.join(signs.cdi_files)}")
    if signs.local or lists:
        folders = " or ".join(facts.cdi_folders) or "/etc/cdi or /var/run/cdi"
        return Judgement("cdi", False, f"no CDI description of {KIND} in {folders}", DESCRIBE)
    return Judgement("cdi", None, "whether the daemon has CDI descriptions only a try can tell")


def _runtime(facts: DaemonFacts, _: Signs) -> Judgement:
    if facts.name == "podman":
        why = "Podman's socket takes no runtime"
        return Judgement("runtime", False, why, ignored=True)
    if RUNTIME in facts.runtimes:
        return Judgement("runtime", True, f"the daemon has the runtime `{RUNTIME}`")
    why = f"the daemon has no runtime `{RUNTIME}`"
    return Judgement("runtime", False, why, f"install nvidia-container-toolkit, then: {CONFIGURE}")


def _devices(facts: DaemonFacts, signs: Signs) -> Judgement:
    if not facts.reachable:
        return Judgement("devices", False, "no container daemon answers")
    if not signs.local:
        why = "the daemon works on another machine: its driver's files cannot be seen from here"
        return Judgement("devices", False, why)
    if signs.jetson:
        why = "a Jetson's driver is more than device nodes and CUDA's libraries"
        return Judgement("devices", False, why, "use --gpu-mode runtime")
    if signs.driver is None:
        return Judgement("devices", False, signs.no_driver or "no NVIDIA driver is loaded")
    count = len({file for _, file in signs.driver.libraries})
    return Judgement("devices", True, f"driver {signs.driver.version} with {count} libraries")


def render(
    mode: str,
    options: RunOptions,
    *,
    driver: Driver | None = None,
    nodes: Sequence[str] = (),
    library_path: str = "",
) -> Gpus:
    """What a mode adds to a create request. `library_path`: LD_LIBRARY_PATH of the image.

    `driver` and its `nodes` are of mode `devices`.
    """
    host: dict[str, Any] = {"Runtime": options.runtime} if options.runtime else {}
    wish = wish_of(options)
    if wish == "none":
        return Gpus(host, _unless_set(options, HIDDEN) if options.gpus else {})
    listed = wish.split(",")
    if mode == "toolkit":
        which = {"Count": -1} if wish == "all" else {"DeviceIDs": listed}
        host["DeviceRequests"] = [{"Driver": "", **which, "Capabilities": [["gpu"]]}]
        return Gpus(host)
    if mode == "cdi":
        names = [name if "=" in name else f"{KIND}={name}" for name in listed]
        host["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": names}]
        return Gpus(host, _unless_set(options, HIDDEN))
    if mode == "runtime":
        host.setdefault("Runtime", RUNTIME)
        wanted = {"NVIDIA_VISIBLE_DEVICES": wish, "NVIDIA_DRIVER_CAPABILITIES": CAPABILITIES}
        return Gpus(host, _unless_set(options, wanted))
    assert driver is not None
    host["Devices"] = [
        # Without the right to make nodes: nobody inside could, but least is least.
        {
            "PathOnHost": str(driver.dev / name),
            "PathInContainer": f"/dev/{name}",
            "CgroupPermissions": "rw",
        }
        for name in nodes
    ]
    found = _unless_set(options, HIDDEN)
    found["LD_LIBRARY_PATH"] = _library_path(options, library_path)
    return Gpus(host, found, _driver_binds(driver))


def _unless_set(options: RunOptions, variables: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in variables.items() if key not in options.variables}


def _library_path(options: RunOptions, of_image: str) -> str:
    """The driver's folder before the image's, which may hold a libcuda of its own for older drivers;
    what the user sets comes first all the same."""
    given = options.variables.get("LD_LIBRARY_PATH")
    paths = [DRIVER_FOLDER, of_image] if given is None else [given, DRIVER_FOLDER]
    return ":".join(path for path in paths if path)


def _driver_binds(driver: Driver) -> tuple[Bind, ...]:
    """Each library under the name it is loaded by: links of the host would lead nowhere inside."""
    binds = [Bind(file, f"{DRIVER_FOLDER}/{name}") for name, file in driver.libraries]
    if driver.smi:
        binds.append(Bind(driver.smi, SMI))
    return tuple(binds)


def _numbers(version: str) -> tuple[int, ...]:
    parts = re.match(r"[\d.]*", version)
    assert parts
    return tuple(int(part) for part in parts[0].split(".") if part)
