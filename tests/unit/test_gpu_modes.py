"""How a container gets its GPU: the choice as a table, and what each mode asks the daemon for.

A fake /proc, folders of files with the head of an ELF file, and GPUs as NVML would number them stand for a
driver. tests/docker/test_gpu_starts.py puts the same before real daemons.
"""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.cli.options import RunFlags
from trtenv.errors import GpuUnavailable, TrtenvError, UsageError
from trtenv.pipeline.doctor import _gpu_modes
from trtenv.runners.container import Bind, Caller, Command, Gpus, create_body
from trtenv.runners.daemon import DaemonFacts, inspect_daemon
from trtenv.runners.daemon_errors import cannot_give_gpus, explain
from trtenv.runners.docker_run import docker_run
from trtenv.runners.driverlibs import (
    Driver,
    device_nodes,
    libraries_in,
    library_folders,
    read_driver,
)
from trtenv.runners.gpuchoice import GpuChoice, cdi_files, is_local
from trtenv.runners.gpumodes import Signs, judge, render, to_try
from trtenv.runners.gpus import Mig, NvmlGpu
from trtenv.runners.protocol import GPU_MODES, RunOptions

GPUS = (
    NvmlGpu(0, "GPU-aaaa", 2),
    NvmlGpu(1, "GPU-bbbb", 0),
    NvmlGpu(2, "GPU-cccc", 1, True, (Mig(0, "MIG-dddd", 7, 0), Mig(1, "MIG-eeee", 8, 0))),
    NvmlGpu(3, "GPU-ffff", 3, True),
)
LIBRARIES = (("libcuda.so.1", Path("/usr/lib/libcuda.so.580.1")),)
DRIVER = Driver("580.1", LIBRARIES, Path("/usr/bin/nvidia-smi"), gpus=lambda: GPUS)

OLD = DaemonFacts(version="20.10.24", api="1.41", runtimes=("runc",))
FLAGGED = DaemonFacts(version="26.1.5", api="1.45", cdi_folders=("/etc/cdi", "/var/run/cdi"))
NEW = DaemonFacts(version="28.3.0", api="1.51", cdi_folders=("/etc/cdi",))
LISTED = dataclasses.replace(NEW, cdi_devices=("nvidia.com/gpu=0", "nvidia.com/gpu=all"))
CONFIGURED = dataclasses.replace(OLD, runtimes=("nvidia", "runc"))
PODMAN = DaemonFacts(name="podman", version="5.4.2", api="1.41")
OLD_PODMAN = dataclasses.replace(PODMAN, version="4.3.1")
REMOTE = Signs()
BARE = Signs(local=True, no_driver="no NVIDIA driver is loaded on this machine")
PLAIN = Signs(local=True, driver=DRIVER)
TOOLKIT = PLAIN._replace(hook=True)
DESCRIBED = PLAIN._replace(cdi_files=("/etc/cdi/nvidia.yaml",))
JETSON = TOOLKIT._replace(jetson=True)

TABLE: list[tuple[DaemonFacts, Signs, list[str], dict[str, str]]] = [
    (OLD, TOOLKIT, ["toolkit", "devices"], {"cdi": "20.10.24 does not know CDI"}),
    (CONFIGURED, TOOLKIT, ["toolkit", "runtime", "devices"], {"runtime": "has the runtime"}),
    # A hook outside of every usual folder, or a snap: the registered runtime is sure to work.
    (CONFIGURED, PLAIN, ["runtime", "toolkit", "devices"], {"toolkit": "only a try"}),
    (OLD, PLAIN, ["devices"], {"toolkit": "not installed", "runtime": "no runtime `nvidia`"}),
    (OLD, BARE, [], {"devices": "no NVIDIA driver is loaded"}),
    (OLD, REMOTE, ["toolkit"], {"devices": "another machine"}),
    (FLAGGED, DESCRIBED, ["cdi", "devices"], {"cdi": "described in /etc/cdi/nvidia.yaml"}),
    (FLAGGED, PLAIN, ["devices"], {"cdi": "no CDI description of nvidia.com/gpu in /etc/cdi or "}),
    (FLAGGED, REMOTE, ["toolkit", "cdi"], {"cdi": "only a try can tell"}),
    (dataclasses.replace(FLAGGED, cdi_folders=()), DESCRIBED, ["devices"], {"cdi": "switched off"}),
    (LISTED, REMOTE, ["cdi", "toolkit"], {"cdi": "knows nvidia.com/gpu=0, nvidia.com/gpu=all"}),
    # What the daemon lists counts more than a file: it may not have been able to read it.
    (NEW, DESCRIBED, ["devices"], {"cdi": "no CDI description"}),
    (dataclasses.replace(LISTED, rootless=True), TOOLKIT, ["cdi", "toolkit", "devices"], {}),
    (
        PODMAN,
        DESCRIBED,
        ["cdi", "devices"],
        {"toolkit": "drops such a wish", "runtime": "takes no"},
    ),
    (PODMAN, REMOTE, ["cdi"], {}),
    (OLD_PODMAN, DESCRIBED, ["devices"], {"cdi": "Podman 4.3.1 drops"}),
    (OLD_PODMAN, BARE, [], {}),
    (CONFIGURED, JETSON, ["runtime", "toolkit"], {"devices": "a Jetson's driver"}),
    (OLD, JETSON, ["toolkit"], {"runtime": "no runtime"}),
    (DaemonFacts(reachable=False), REMOTE, ["toolkit"], {"devices": "no container daemon answers"}),
]


@pytest.mark.parametrize(("facts", "signs", "modes", "reasons"), TABLE)
def test_the_choice(
    facts: DaemonFacts, signs: Signs, modes: list[str], reasons: dict[str, str]
) -> None:
    judgements = judge(facts, signs)
    assert sorted(one.mode for one in judgements) == sorted(set(GPU_MODES) - {"auto"})
    why = {one.mode: one.why for one in judgements}
    assert all(words in why[mode] for mode, words in reasons.items()), why
    options = RunOptions(gpus="all")
    if modes:
        assert to_try(options, judgements) == modes
        return
    with pytest.raises(GpuUnavailable) as failed:
        to_try(options, judgements)
    assert all(f"{mode}: {why[mode]}" in failed.value.message for mode in why)
    assert "--gpus none" in (failed.value.hint or "")


@pytest.mark.parametrize(("facts", "signs", "modes", "_"), TABLE)
def test_what_doctor_says(
    facts: DaemonFacts, signs: Signs, modes: list[str], _: dict[str, str]
) -> None:
    findings = list(_gpu_modes(judge(facts, signs), has_gpu=True))
    assert {one.topic for one in findings[:-1]} == {
        f"--gpu-mode {mode}" for mode in GPU_MODES if mode != "auto"
    }
    working = [one.topic.split()[1] for one in findings[:-1] if one.state == "ok"]
    assert set(working) <= set(modes)
    assert findings[-1].topic == "GPU in containers"
    assert (findings[-1].state == "problem") == (not modes)
    assert not modes or findings[-1].text == f"--gpu-mode auto tries {', '.join(modes)}"
    without = list(_gpu_modes(judge(facts, signs), has_gpu=False))
    assert not any(one.state == "problem" or one.remedy for one in without)


@pytest.mark.parametrize("mode", ["toolkit", "runtime", "cdi"])
def test_a_named_mode_is_tried_unless_the_daemon_would_pass_over_it(mode: str) -> None:
    options = RunOptions(gpus="all", gpu_mode=mode)
    assert to_try(options, judge(OLD, BARE)) == [mode]
    with pytest.raises(GpuUnavailable, match="Podman"):
        to_try(options, judge(OLD_PODMAN, TOOLKIT))


def test_devices_need_the_driver_of_this_machine() -> None:
    options = RunOptions(gpus="all", gpu_mode="devices")
    for facts, signs, why in ((OLD, REMOTE, "another machine"), (OLD, BARE, "no NVIDIA driver")):
        with pytest.raises(GpuUnavailable, match=why):
            to_try(options, judge(facts, signs))


def test_names_of_cdi_are_for_cdi_alone() -> None:
    options = RunOptions(gpus="nvidia.com/gpu=0")
    assert to_try(options, judge(CONFIGURED, TOOLKIT)) == ["cdi"]
    with pytest.raises(UsageError, match="toolkit knows none"):
        to_try(dataclasses.replace(options, gpu_mode="toolkit"), judge(OLD, TOOLKIT))


def test_a_line_to_be_read_needs_no_gpu_here() -> None:
    shown = GpuChoice(OLD, BARE).planned(RunOptions(gpus="all"), str)
    assert shown.host["DeviceRequests"][0]["Count"] == -1
    with pytest.raises(GpuUnavailable):
        GpuChoice(OLD_PODMAN, BARE).planned(RunOptions(gpus="all"), str)


RENDERED: list[tuple[str, str, dict[str, Any], dict[str, str], list[str]]] = [
    (
        "toolkit",
        "0,GPU-bbbb",
        {
            "DeviceRequests": [
                {"Driver": "", "DeviceIDs": ["0", "GPU-bbbb"], "Capabilities": [["gpu"]]}
            ]
        },
        {},
        ["--gpus", '"device=0,GPU-bbbb"'],
    ),
    (
        "cdi",
        "0,MIG-dddd,2:1",
        {
            "DeviceRequests": [
                {
                    "Driver": "cdi",
                    "DeviceIDs": [f"nvidia.com/gpu={name}" for name in ("0", "MIG-dddd", "2:1")],
                }
            ]
        },
        {"NVIDIA_VISIBLE_DEVICES": "void"},
        [
            *("--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=MIG-dddd"),
            *("--device", "nvidia.com/gpu=2:1"),
        ],
    ),
    (
        "runtime",
        "0,MIG-dddd",
        {"Runtime": "nvidia"},
        {
            "NVIDIA_VISIBLE_DEVICES": "0,MIG-dddd",
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility,video",
        },
        ["--runtime", "nvidia"],
    ),
    (
        "devices",
        "1",
        {
            "Devices": [
                {
                    "PathOnHost": f"/dev/{name}",
                    "PathInContainer": f"/dev/{name}",
                    "CgroupPermissions": "rw",
                }
                for name in ("nvidiactl", "nvidia0")
            ]
        },
        {"NVIDIA_VISIBLE_DEVICES": "void", "LD_LIBRARY_PATH": "/trtenv/driver:/usr/lib/cuda"},
        [
            *("--device", "/dev/nvidiactl:/dev/nvidiactl:rw"),
            *("--device", "/dev/nvidia0:/dev/nvidia0:rw"),
        ],
    ),
]


@pytest.mark.parametrize(("mode", "wish", "host", "variables", "flags"), RENDERED)
def test_what_a_mode_asks_for(
    mode: str, wish: str, host: dict[str, Any], variables: dict[str, str], flags: list[str]
) -> None:
    options = RunOptions(gpus=wish)
    made = render(
        mode, options, driver=DRIVER, nodes=["nvidiactl", "nvidia0"], library_path="/usr/lib/cuda"
    )
    binds = [
        Bind(Path("/usr/lib/libcuda.so.580.1"), "/trtenv/driver/libcuda.so.1"),
        Bind(Path("/usr/bin/nvidia-smi"), "/usr/bin/nvidia-smi"),
    ]
    assert made == Gpus(host, variables, tuple(binds) if mode == "devices" else ())
    line = docker_run(request(options, made))
    pairs = list(itertools.pairwise(line))
    for pair in zip(flags[::2], flags[1::2], strict=True):
        assert pair in pairs
    mount = "type=bind,source=/usr/lib/libcuda.so.580.1,target=/trtenv/driver/libcuda.so.1,readonly"
    assert (mount in line) == (mode == "devices")
    for variable in variables.items():
        assert "=".join(variable) in line


def request(options: RunOptions, gpus: Gpus, binds: tuple[Bind, ...] = ()) -> dict[str, Any]:
    command = Command(argv=("true",), workdir="/workdir")
    caller = Caller(1000, 1000)
    return create_body("image", options, command, binds, facts=OLD, caller=caller, gpus=gpus)


@pytest.mark.parametrize("mode", sorted(set(GPU_MODES) - {"auto"}))
def test_what_the_user_sets_stays(mode: str) -> None:
    mine = {"NVIDIA_VISIBLE_DEVICES": "3", "NVIDIA_DRIVER_CAPABILITIES": "all"}
    options = RunOptions(gpus="all", variables={**mine, "LD_LIBRARY_PATH": "/mine"})
    made = render(mode, options, driver=DRIVER, nodes=[], library_path="/image")
    line = request(options, made)["Env"]
    assert {f"{key}={value}" for key, value in mine.items()} <= set(line)
    expected = "/mine:/trtenv/driver" if mode == "devices" else "/mine"
    assert f"LD_LIBRARY_PATH={expected}" in line


def test_the_users_mounts_replace_the_drivers_files() -> None:
    mine = Bind(Path("/my/libcuda.so"), "/trtenv/driver/libcuda.so.1")
    options = RunOptions(gpus="all")
    body = request(options, render("devices", options, driver=DRIVER), (mine,))
    sources = {entry["Target"]: entry["Source"] for entry in body["HostConfig"]["Mounts"]}
    assert sources["/trtenv/driver/libcuda.so.1"] == "/my/libcuda.so"


@given(st.sampled_from(GPU_MODES[1:]), st.sampled_from(["none", None]))
def test_no_gpu_is_no_gpu_in_every_mode(mode: str, wish: str | None) -> None:
    made = render(mode, RunOptions(gpus=wish, gpu_mode=mode))
    assert (made.host, made.binds) == ({}, ())


@pytest.fixture
def machine(tmp_path: Path) -> Driver:
    """A driver's /proc and /dev: plain files stand for the nodes."""
    proc, dev = tmp_path / "proc", tmp_path / "dev"
    for gi, ci, minors in ((7, 0, (66, 67)), (8, 0, (75, 76))):
        folder = proc / f"capabilities/gpu1/mig/gi{gi}"
        for path, minor in zip((folder, folder / f"ci{ci}"), minors, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            (path / "access").write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\n")
    (dev / "nvidia-caps").mkdir(parents=True)
    nodes = ["ctl", "-uvm", *"0123", *(f"-caps/nvidia-cap{n}" for n in (66, 67, 75, 76))]
    for name in nodes:
        (dev / f"nvidia{name}").touch()
    return DRIVER._replace(dev=dev, proc=proc)


@pytest.mark.parametrize(
    ("wish", "nodes"),
    [
        ("0", ["nvidia2"]),
        ("0,1", ["nvidia2", "nvidia0"]),
        ("GPU-bbbb,0", ["nvidia0", "nvidia2"]),
        ("MIG-eeee", ["nvidia1", "nvidia-caps/nvidia-cap75", "nvidia-caps/nvidia-cap76"]),
        ("2:0", ["nvidia1", "nvidia-caps/nvidia-cap66", "nvidia-caps/nvidia-cap67"]),
        ("MIG-GPU-cccc/7/0", ["nvidia1", "nvidia-caps/nvidia-cap66", "nvidia-caps/nvidia-cap67"]),
        ("2", ["nvidia1", *(f"nvidia-caps/nvidia-cap{n}" for n in (66, 67, 75, 76))]),
    ],
)
def test_device_nodes(machine: Driver, wish: str, nodes: list[str]) -> None:
    assert device_nodes(wish, machine) == ["nvidiactl", "nvidia-uvm", *nodes]


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ("9", "no GPU `9`"),
        ("0,GPU-nosuch", "no GPU `GPU-nosuch`"),
        ("2:5", "no GPU `2:5`"),
        ("3", "in MIG mode and has no MIG device"),
        ("all", "in MIG mode and has no MIG device"),
    ],
)
def test_device_nodes_that_are_not_there(machine: Driver, wish: str, why: str) -> None:
    with pytest.raises(GpuUnavailable, match=why):
        device_nodes(wish, machine)


def test_a_missing_node_is_no_reason_to_go_without(machine: Driver) -> None:
    (machine.dev / "nvidia0").unlink()
    with pytest.raises(GpuUnavailable, match=r"node .*/nvidia0 is missing"):
        device_nodes("0,1", machine)
    (machine.proc / "capabilities/gpu1/mig/gi7/access").unlink()
    with pytest.raises(GpuUnavailable, match="does not tell the device node"):
        device_nodes("MIG-dddd", machine)


def elf(path: Path, *links: str, bits: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF" + bytes([bits]))
    for link in links:
        (path.parent / link).symlink_to(path.name)
    return path


def test_libraries_by_every_name_they_are_loaded_by(tmp_path: Path) -> None:
    lib, old = tmp_path / "lib", tmp_path / "lib32"
    cuda = elf(lib / "libcuda.so.580.1", "libcuda.so.1", "libcuda.so")
    nvvm = elf(lib / "libnvidia-nvvm.so.580.1", "libnvidia-nvvm.so.4")
    comp = elf(lib / "libnvidia-gpucomp.so.580.1")
    elf(lib / "libGLX_nvidia.so.580.1", "libGLX_nvidia.so.0")  # for screens
    elf(lib / "libnvidia-ml.so.570.9", "libnvidia-ml.so.1")  # of another driver
    elf(lib / "libcudart.so.13")
    elf(old / "libcuda.so.580.1", "libcuda.so.1", bits=1)
    ml = elf(tmp_path / "usr/libnvidia-ml.so.580.1", "libnvidia-ml.so.1")
    assert dict(libraries_in([old, lib, tmp_path / "usr", tmp_path / "none"], "580.1")) == {
        "libcuda.so": cuda,
        "libcuda.so.1": cuda,
        "libcuda.so.580.1": cuda,
        "libnvidia-gpucomp.so.580.1": comp,
        "libnvidia-ml.so.1": ml,
        "libnvidia-ml.so.580.1": ml,
        "libnvidia-nvvm.so.4": nvvm,
        "libnvidia-nvvm.so.580.1": nvvm,
    }


def test_folders_of_the_loader(tmp_path: Path) -> None:
    # Lines as a machine with driver 580.159.04 printed them.
    cache = "1 libs found in cache `/etc/ld.so.cache'\n" + "".join(
        f"\t{name} (libc6,x86-64) => {tmp_path}/{folder}/{name}\n"
        for name, folder in (
            ("libnvidia-ptxjitcompiler.so.1", "jit"),
            ("libnvidia-ml.so.1", "b"),
            ("libcuda.so.1", "a"),
            ("libcudart.so.13", "cudart"),
            ("libcuda.so.1", "gone"),
        )
    )
    for name in ("a", "b", "jit", "cudart", "usual"):
        (tmp_path / name).mkdir()
    assert library_folders(cache, [str(tmp_path / "usual"), str(tmp_path / "a")]) == [
        tmp_path / "b",
        tmp_path / "a",
        tmp_path / "usual",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (n@)",
        # https://download.nvidia.com/XFree86/Linux-x86_64: the proprietary module's spelling
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue May  5 05:00:00 UTC 2026",
    ],
)
def test_the_driver_as_files(machine: Driver, tmp_path: Path, line: str) -> None:
    proc, dev, lib = machine.proc, machine.dev, tmp_path / "lib"

    def problem() -> str:
        with pytest.raises(GpuUnavailable) as failed:
            read_driver(proc, dev, [lib])
        return failed.value.message

    assert "no NVIDIA driver is loaded" in problem()
    (proc / "version").write_text(f"{line}\nGCC version:  gcc version 15.3.0 (GCC) \n")
    elf(lib / "libcuda.so.580.159.04", "libcuda.so.1")
    elf(lib / "libnvidia-ml.so.575.57.08", "libnvidia-ml.so.1")
    assert "no libnvidia-ml.so.1 of driver 580.159.04 in" in problem()
    elf(lib / "libnvidia-ml.so.580.159.04")
    (lib / "libnvidia-ml.so.1").unlink()
    (lib / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.159.04")
    assert read_driver(proc, dev, [lib]).version == "580.159.04"
    (dev / "nvidia-uvm").unlink()
    assert "device nodes are missing" in problem()
    (dev / "dxg").touch()
    assert "WSL" in problem()


def test_a_local_daemon_shares_kernel_and_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release="6.1"))
    here = DaemonFacts(url="unix:///var/run/docker.sock", kernel="6.1", free_bytes=1)
    assert is_local(here)
    assert is_local(dataclasses.replace(here, url="http+docker://localhost"))
    for other in (
        {"url": "tcp://gpu.example:2376"},
        {"url": "http+docker://ssh"},
        {"kernel": "6.6-linuxkit"},
        {"free_bytes": None},
    ):
        assert not is_local(dataclasses.replace(here, **other))  # type: ignore[arg-type]


def test_what_a_daemon_says_of_cdi_and_its_kernel() -> None:
    """Answers of Docker 28.3 (its API's documentation), and of Podman 5.4.2, which says nothing."""
    info: dict[str, Any] = {
        "KernelVersion": "6.1",
        "CDISpecDirs": ["/etc/cdi"],
        "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}],
    }
    silent = {"KernelVersion": "6.1", "CDISpecDirs": None, "DiscoveredDevices": None}
    found = []
    for answer in (info, silent):
        client: Any = SimpleNamespace(version=dict, info=lambda answer=answer: answer)
        facts = inspect_daemon(client)
        found.append((facts.kernel, facts.cdi_folders, facts.cdi_devices))
    assert found == [("6.1", ("/etc/cdi",), ("nvidia.com/gpu=0",)), ("6.1", (), ())]


def test_files_of_cdi(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n")
    (tmp_path / "nvidia.json").write_text('{"kind": "nvidia.com/gpu"}')
    (tmp_path / "other.yaml").write_text("kind: example.com/net\n")
    (tmp_path / "nvidia.yaml.bak").write_text("kind: nvidia.com/gpu\n")
    found = cdi_files([str(tmp_path), str(tmp_path / "none")])
    assert [Path(name).name for name in found] == ["nvidia.json", "nvidia.yaml"]


@pytest.mark.parametrize(
    ("text", "another_may_work"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', True),
        ('could not select device driver "cdi" with capabilities: []', True),
        ("unknown or invalid runtime name: nvidia", True),
        # Docker 26.1.5, Podman 5.4.2
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=9", True),
        ("setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all", True),
        ("nvidia-container-cli: device error: 9: unknown device: unknown", False),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", False),
        ("unsatisfied condition: cuda>=12.8, please update your driver", False),
        ("bind source path does not exist: /nowhere", False),
    ],
)
def test_which_refusals_leave_other_ways(text: str, another_may_work: bool) -> None:
    assert cannot_give_gpus(explain(text)) == another_may_work
    assert not cannot_give_gpus(TrtenvError("of our own"))


def test_a_mode_that_is_none() -> None:
    with pytest.raises(UsageError, match="`magic` is not known") as failed:
        RunFlags(gpu_mode="magic").options()
    assert failed.value.hint == "auto, toolkit, cdi, runtime, devices"
    assert RunFlags(gpu_mode="cdi").options().gpu_mode == "cdi"
