"""The create request and the `docker run` that equals it: they are the product, so written out."""

import dataclasses
import os
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trtenv.catalog.model import Environment
from trtenv.errors import GpuUnavailable, HostError, JobFailed, OutOfMemory, TrtenvError, UsageError
from trtenv.runners import daemon, docker
from trtenv.runners.attach import Demultiplexer, Lines
from trtenv.runners.container import (
    Bind,
    Caller,
    Command,
    create_body,
    group,
    inside,
    option_binds,
    passwd,
    session_binds,
    without_doubles,
)
from trtenv.runners.daemon import DaemonFacts, PullProgress, check_platform, identify
from trtenv.runners.docker import DockerRunner
from trtenv.runners.docker_run import docker_run
from trtenv.runners.docker_session import explain_death
from trtenv.runners.gpuchoice import GpuChoice
from trtenv.runners.gpumodes import Signs
from trtenv.runners.lifecycle import Leftover, labels, leftovers
from trtenv.runners.protocol import JOBS_FOLDER, Mount, RunOptions

ALIVE, DEAD = os.getpid(), 2**22 + 1  # above the kernel's largest pid
IMAGE = "nvcr.io/nvidia/tensorrt:22.08-py3"
ANN = Caller(1000, 1000, (44, 109))
ROOT = Caller(0, 0)
DOCKER = DaemonFacts(memory=64 * 2**30)
PODMAN = dataclasses.replace(DOCKER, name="podman", version="5.4.0")
SHELL = Command(argv=("bash",), workdir="/workdir", tty=True)
VARIABLES = [
    "HOME=/trtenv/home",
    "USER=trtenv",
    "LOGNAME=trtenv",
    "LANG=C.UTF-8",
    "XDG_CACHE_HOME=/trtenv/home/.cache",
    "TORCHINDUCTOR_CACHE_DIR=/trtenv/home/.cache/torchinductor",
    "TRITON_CACHE_DIR=/trtenv/home/.cache/triton",
    "MPLCONFIGDIR=/trtenv/home/.cache/matplotlib",
    "NUMBA_CACHE_DIR=/trtenv/home/.cache/numba",
    "YOLO_CONFIG_DIR=/trtenv/home/.config",
]


def body(
    options: RunOptions | None = None,
    command: Command = SHELL,
    binds: list[Bind] | None = None,
    facts: DaemonFacts = DOCKER,
    caller: Caller = ANN,
) -> dict[str, Any]:
    found, options = binds or [], options or RunOptions()
    gpus = GpuChoice(facts, Signs()).planned(options, str)
    return create_body(IMAGE, options, command, found, facts=facts, caller=caller, gpus=gpus)


def host(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return dict(body(*args, **kwargs)["HostConfig"])


def test_the_request_of_a_session() -> None:
    worker = Command(
        argv=("/trtenv/jobs/worker.py",), entrypoint=("python3",), workdir="/trtenv/home"
    )
    assert body(RunOptions(needs_gpu=True), worker, session_binds(Path("/data/s"))) == {
        "Image": IMAGE,
        "Entrypoint": ["python3"],
        "Cmd": ["/trtenv/jobs/worker.py"],
        "User": "1000:1000",
        "WorkingDir": "/trtenv/home",
        "Env": VARIABLES,
        "Tty": False,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "NetworkMode": "none",
            "Mounts": [
                mount(JOBS_FOLDER, "/trtenv/jobs"),
                mount("/data/s/jobs", "/trtenv/session"),
                mount("/data/s/out", "/trtenv/out", read_only=False),
                mount("/data/s/home", "/trtenv/home", read_only=False),
                mount("/data/s/etc/passwd", "/etc/passwd"),
                mount("/data/s/etc/group", "/etc/group"),
            ],
            "ShmSize": 16 * 2**30,
            "Ulimits": [
                {"Name": "memlock", "Soft": -1, "Hard": -1},
                {"Name": "stack", "Soft": 67108864, "Hard": 67108864},
            ],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "GroupAdd": ["44", "109"],
            "PidsLimit": 8192,
            "DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}],
        },
    }


def mount(source: str | Path, target: str, *, read_only: bool = True) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def test_the_command_line_that_people_know() -> None:
    """docker run --gpus all --runtime nvidia --shm-size=16g -v ... --workdir --name IMAGE, whole."""
    options = RunOptions(
        gpus="all", runtime="nvidia", shm_size=16 * 2**30, name="tensorrt-v8.x", network="bridge"
    )
    binds = [
        Bind(Path("/home/ann/work"), "/workdir", read_only=False),
        Bind(Path("/etc/localtime"), "/etc/localtime"),
    ]
    variables = [word for variable in VARIABLES for word in ("--env", variable)]
    assert docker_run(body(options, binds=binds), options.name) == [
        "docker", "run", "--rm", "-i", "-t", "--name", "tensorrt-v8.x",
        "--gpus", "all", "--shm-size", "16g",
        "--ulimit", "memlock=-1", "--ulimit", "stack=67108864",
        "--runtime", "nvidia", "--network", "bridge",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--group-add", "44", "--group-add", "109", "--pids-limit", "8192",
        "--mount", "type=bind,source=/home/ann/work,target=/workdir",
        "--mount", "type=bind,source=/etc/localtime,target=/etc/localtime,readonly",
        "--user", "1000:1000", "--workdir", "/workdir", *variables,
        IMAGE, "bash",
    ]  # fmt: skip


def test_the_command_line_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "daemon_facts", lambda: DaemonFacts(reachable=False))
    environment = Environment(name="ngc", image=IMAGE)
    argv = ["python3", "/trtenv/jobs/worker.py"]
    line = DockerRunner().command_line(environment, RunOptions(memory=2**30), argv)
    assert line[-4:] == ["--entrypoint", "python3", IMAGE, "/trtenv/jobs/worker.py"]
    assert f"type=bind,source={JOBS_FOLDER},target=/trtenv/jobs,readonly" in line
    assert line[line.index("--tmpfs") + 1] == "/trtenv/home:mode=1777"
    assert line[line.index("--memory") : line.index("--memory") + 4] == [
        "--memory", "1g", "--memory-swap", "1g",
    ]  # fmt: skip
    assert not any("/workdir" in word for word in line)


def test_a_shell_is_opened_where_no_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "daemon_facts", lambda: DaemonFacts(reachable=False))
    monkeypatch.setattr(docker.terminal, "is_terminal", lambda: True)
    line = DockerRunner().command_line(Environment(name="ngc", image=IMAGE), RunOptions(), [])
    assert line[:5] == ["docker", "run", "--rm", "-i", "-t"]
    assert line[-2:] == [IMAGE, "bash"]
    assert f"type=bind,source={Path.cwd()},target=/workdir" in line


def test_commas_and_quotes_in_paths_survive_the_command_line() -> None:
    line = docker_run(body(binds=[Bind(Path('/a,b/c"d: é'), "/trtenv/in/0/x,y")]))
    flag = line[line.index("--mount") + 1]
    assert flag == 'type=bind,"source=/a,b/c""d: é","target=/trtenv/in/0/x,y",readonly'


@pytest.mark.parametrize(
    ("gpus", "needs_gpu", "request_", "flags"),
    [
        (None, False, None, []),
        ("none", True, None, []),
        (
            None,
            True,
            {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]},
            ["--gpus", "all"],
        ),
        (
            "0,GPU-8f3c",
            False,
            {"Driver": "", "DeviceIDs": ["0", "GPU-8f3c"], "Capabilities": [["gpu"]]},
            ["--gpus", '"device=0,GPU-8f3c"'],
        ),
        (
            "nvidia.com/gpu=all",
            False,
            {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]},
            ["--device", "nvidia.com/gpu=all"],
        ),
    ],
)
def test_gpus(
    gpus: str | None, needs_gpu: bool, request_: dict[str, Any] | None, flags: list[str]
) -> None:
    made = body(RunOptions(gpus=gpus, needs_gpu=needs_gpu))
    assert made["HostConfig"].get("DeviceRequests") == ([request_] if request_ else None)
    line = docker_run(made)
    assert line[line.index("-t") + 1 : line.index("--shm-size")] == flags


def test_no_gpu_holds_also_where_nvidia_is_the_default_runtime() -> None:
    assert "NVIDIA_VISIBLE_DEVICES=void" in body(RunOptions(gpus="none"))["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=void" not in body(RunOptions(gpus="all"))["Env"]


def test_podman_gets_cdi_names() -> None:
    found = host(RunOptions(gpus="0"), facts=PODMAN)["DeviceRequests"]
    assert found == [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}]


def test_podman_that_drops_gpus_is_refused() -> None:
    with pytest.raises(GpuUnavailable, match=r"Podman 4\.3\.1 drops .*needed: 5\.4"):
        body(RunOptions(gpus="all"), facts=dataclasses.replace(PODMAN, version="4.3.1"))


def test_shared_memory_is_capped_by_the_machine() -> None:
    assert host(facts=dataclasses.replace(DOCKER, memory=4 * 2**30))["ShmSize"] == 4 * 2**30
    assert host(RunOptions(shm_size=2**20))["ShmSize"] == 2**20


def test_root_may_read_what_root_may_read() -> None:
    made = host(caller=ROOT)
    assert made["CapDrop"] == ["ALL"]
    assert made["CapAdd"] == ["DAC_OVERRIDE"]
    assert "CapAdd" not in host(caller=ANN)


def test_in_a_rootless_daemon_root_is_the_caller() -> None:
    rootless = dataclasses.replace(DOCKER, rootless=True, limits_pids=False, limits_memory=False)
    made = body(facts=rootless)
    assert made["User"] == "0:0"
    assert {"Ulimits", "PidsLimit", "GroupAdd"}.isdisjoint(made["HostConfig"])
    assert body(RunOptions(user="7:8"), facts=rootless)["User"] == "7:8"
    with pytest.raises(HostError, match="cannot limit memory"):
        body(RunOptions(memory=2**30), facts=rootless)


def test_what_a_daemon_adds_is_answered() -> None:
    assert host(facts=dataclasses.replace(DOCKER, remapped=True))["UsernsMode"] == "host"
    selinux = host(facts=dataclasses.replace(DOCKER, selinux=True))
    assert selinux["SecurityOpt"] == ["no-new-privileges", "label=disable"]


def test_the_users_variables_win() -> None:
    assert "LANG=de_DE.UTF-8" in body(RunOptions(variables={"LANG": "de_DE.UTF-8"}))["Env"]
    assert "LANG=C.UTF-8" not in body(RunOptions(variables={"LANG": "de_DE.UTF-8"}))["Env"]


def test_the_users_mounts_win() -> None:
    ours = Bind(Path("/etc/localtime"), "/etc/localtime")
    users = Bind(Path("/usr/share/zoneinfo/Asia/Tokyo"), "/etc/localtime/")
    assert without_doubles([ours, users]) == [users]


def test_podman_mounts_with_commas_in_the_other_form() -> None:
    binds = [Bind(Path("/a,b"), "/x"), Bind(Path("/c:d"), "/y", read_only=False)]
    made = host(binds=binds, facts=PODMAN)
    assert made["Binds"] == ["/a,b:/x:ro"]
    assert made["Mounts"] == [mount("/c:d", "/y", read_only=False)]
    with pytest.raises(UsageError, match="a comma as well as a colon"):
        host(binds=[Bind(Path("/a,b:c"), "/x")], facts=PODMAN)


def test_inside_takes_the_innermost_mount(tmp_path: Path) -> None:
    mounts = [Mount(source=tmp_path / "in put"), Mount(source=tmp_path / "m.onnx")]
    binds = [*session_binds(tmp_path / "s"), *option_binds(mounts)]
    assert inside(tmp_path / "s" / "jobs" / "1-é", binds) == "/trtenv/session/1-é"
    assert inside(tmp_path / "s" / "out" / "x" / ".." / "y", binds) == "/trtenv/out/y"
    assert inside(tmp_path / "in put" / "a,b:c", binds) == "/trtenv/in/0/in put/a,b:c"
    assert inside(tmp_path / "m.onnx", binds) == "/trtenv/in/1/m.onnx"
    assert inside(tmp_path / "s" / "home", binds) == "/trtenv/home"
    with pytest.raises(ValueError, match="below no mount"):
        inside(tmp_path / "elsewhere", binds)


def test_users_of_the_inside() -> None:
    assert passwd("1000:100").splitlines() == [
        "root:x:0:0:root:/root:/bin/bash",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
        "trtenv:x:1000:100:trtenv:/trtenv/home:/bin/bash",
    ]
    assert passwd("0:0").startswith("root:x:0:0:root:/trtenv/home:")
    assert group("1000:100").splitlines() == ["root:x:0:", "nogroup:x:65534:", "trtenv:x:100:"]
    assert group("0:0").splitlines() == ["root:x:0:", "nogroup:x:65534:"]


FRAMES = b"\x01\0\0\0\0\0\0\x05hello" + b"\x02\0\0\0\0\0\0\x00" + b"\x02\0\0\0\0\0\0\x03\xff\n!"


@pytest.mark.parametrize("size", range(1, len(FRAMES) + 1))
def test_frames_may_be_cut_anywhere(size: int) -> None:
    split, streams = Demultiplexer(), {1: b"", 2: b""}
    for start in range(0, len(FRAMES), size):
        for stream, data in split.feed(FRAMES[start : start + size]):
            streams[stream] += data
    assert streams == {1: b"hello", 2: b"\xff\n!"}


def test_lines_may_be_cut_anywhere() -> None:
    lines, found = Lines(), deque[str]()
    for byte in "a\n\né".encode() + b"\xff\nlast":
        found.extend(lines.feed(bytes([byte])))
    assert list(found) == ["a", "", "é�"]
    assert lines.flush() == ["last"]
    assert lines.flush() == []


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    lines = Lines()
    assert lines.feed(b"x" * 2**20) == []
    assert [len(line) for line in lines.feed(b"x")] == [2**20 + 1]
    assert lines.flush() == []


@pytest.mark.parametrize(
    ("state", "memory", "kind", "message"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, 2**26, OutOfMemory, "used up its limit of 64 MiB"),
        ({"ExitCode": 1, "OOMKilled": True}, None, OutOfMemory, "used up the machine's memory"),
        ({"ExitCode": 137}, None, OutOfMemory, "was killed, most likely for using up"),
        ({"ExitCode": 9}, None, JobFailed, "its client went away"),
        ({"ExitCode": 139}, None, JobFailed, "crashed: SIGSEGV (Segmentation fault)"),
        ({"ExitCode": 134}, None, JobFailed, "crashed: SIGABRT (Aborted)"),
        ({"ExitCode": 7}, None, JobFailed, "by itself with exit code 7"),
        ({"ExitCode": 127, "Error": "why"}, None, JobFailed, "exit code 127 (why)"),
    ],
)
def test_causes_of_death(
    state: dict[str, Any], memory: int | None, kind: type[TrtenvError], message: str
) -> None:
    problem = explain_death(state, ["the log's", "last words"], memory)
    assert type(problem) is kind
    assert message in problem.message
    assert problem.details == ("the log's", "last words")


def test_a_daemon_with_another_file_system_is_named() -> None:
    tail = [
        "python3: can't open file '/trtenv/jobs/worker.py': [Errno 2] No such file or directory"
    ]
    with pytest.raises(HostError, match="another file system"):
        explain_death({"ExitCode": 2}, tail, None)


def test_a_foreign_processor_is_named() -> None:
    with pytest.raises(TrtenvError, match="another processor"):
        explain_death({"ExitCode": 1}, ["exec /usr/bin/python3: exec format error"], None)


def test_identity_prefers_the_digest_of_the_repository_asked_for() -> None:
    image = {
        "Id": "sha256:1",
        "RepoDigests": ["other@sha256:2", "nvcr.io/nvidia/tensorrt@sha256:3"],
        "Os": "linux",
        "Architecture": "arm64",
        "Variant": "v8",
        "Size": 5,
        "Created": "2022-08-01",
    }
    found = identify(image, IMAGE)
    assert (found.digest, found.platform) == ("sha256:3", "linux/arm64/v8")
    assert identify({**image, "RepoDigests": []}, IMAGE).digest == "sha256:1"
    assert found.details == {"id": "sha256:1", "size": 5, "created": "2022-08-01"}


def test_an_image_for_another_processor_is_refused() -> None:
    facts = dataclasses.replace(DOCKER, architecture="amd64")
    check_platform({"Architecture": "amd64"}, facts, IMAGE)
    with pytest.raises(TrtenvError, match=r"is for linux/arm64; .* runs linux/amd64"):
        check_platform({"Architecture": "arm64"}, facts, IMAGE)


def test_pull_progress_adds_up_the_layers() -> None:
    progress = PullProgress()
    for event in (
        {"status": "Pulling from nvidia/pytorch", "id": "20.12-py3"},
        {"status": "Pulling fs layer", "id": "a"},
        {"status": "Pulling fs layer", "id": "b"},
        {"status": "Already exists", "id": "c"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 1e6, "total": 4e6}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 2e6, "total": 6e6}},
    ):
        text = progress.take(event)
    assert text == "1 of 3 layers, 3 of 10 MB"
    assert progress.take({"status": "Download complete", "id": "a"}) == "2 of 3 layers, 6 of 10 MB"
    assert progress.take({"status": "Pull complete", "id": "a"}) == "2 of 3 layers, 6 of 10 MB"


@pytest.mark.parametrize(
    ("state", "age", "pid", "here", "abandoned"),
    [
        ("running", 5, ALIVE, True, False),
        ("running", 5, DEAD, True, True),
        ("running", 10**6, DEAD, False, False),  # of another machine: its pids say nothing here
        ("exited", 5, ALIVE, True, False),  # about to be looked at, and removed
        ("exited", 5, DEAD, False, False),
        ("exited", 10**6, ALIVE, True, True),
        ("created", 10**6, DEAD, False, True),
    ],
)
def test_what_was_left_behind(state: str, age: int, pid: int, here: bool, abandoned: bool) -> None:
    marks = labels("trt8.5", "session") | {"dev.trtenv.pid": str(pid)}
    if not here:
        marks["dev.trtenv.host"] = "another"
    entry = {"Id": "1", "Names": ["/trtenv-1"], "State": state, "Labels": marks}
    entry["Created"] = time.time() - age
    client = SimpleNamespace(api=SimpleNamespace(containers=lambda **_: [entry]))
    found = [Leftover("1", "trtenv-1", "trt8.5", state)]
    assert leftovers(client) == (found if abandoned else [])
    assert leftovers(client, everything=True) == found
