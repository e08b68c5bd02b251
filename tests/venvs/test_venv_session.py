"""The worker of the venv runner: what it is given, how it ends, and that nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trtenv.catalog.model import Environment
from trtenv.errors import (
    EnvironmentFailed,
    InterpreterMissing,
    JobFailed,
    OutOfMemory,
    UsageError,
)
from trtenv.runners import venvsession
from trtenv.runners.protocol import Job, RunOptions
from trtenv.runners.venv import VenvRunner
from trtenv.runners.venvsession import Place, VenvSession, place_variables

pytestmark = pytest.mark.process


def session(
    environment: Environment, staging: Path, options: RunOptions | None = None
) -> VenvSession:
    opened = VenvRunner().session(environment, options or RunOptions(), staging)
    assert isinstance(opened, VenvSession)
    return opened


def act(opened: VenvSession, what: str, **params: Any) -> dict[str, Any]:
    return opened.run(Job("act", {"what": what, **params}), lambda _: None).values


def alive(pid: int) -> bool:
    """Runs, and is no zombie that only a missing init has not yet collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvsession, "PATIENCE_S", 0.5)


@pytest.mark.usefixtures("jobs")
def test_a_job_sees_its_own_surroundings_and_nothing_of_the_callers_python(
    own_python: Environment, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    names = ["HOME", "MINE", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPATH", "PYTHONUSERBASE"]
    names += ["TMPDIR", "YOLO_CONFIG_DIR"]
    with session(own_python, staging, RunOptions(variables={"MINE": "given"})) as opened:
        found = act(opened, "surroundings", names=names)
    assert found["variables"] == {
        "HOME": os.environ["HOME"],
        "MINE": "given",
        "PYTHONHOME": None,
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": None,
        "PYTHONUSERBASE": None,
        "TMPDIR": str(staging / "tmp"),
        "YOLO_CONFIG_DIR": str(staging / "tmp" / "ultralytics"),
    }
    assert found["cwd"] == str(staging)
    assert "/elsewhere" not in found["path"]


@pytest.mark.usefixtures("jobs")
def test_several_jobs_share_one_worker_in_a_process_group_of_its_own(
    own_python: Environment, staging: Path
) -> None:
    with session(own_python, staging) as opened:
        groups = [act(opened, "surroundings", names=[])["group"] for _ in range(2)]
    assert groups[0] == groups[1] != os.getpgid(0)
    assert sorted(path.name for path in (staging / "out").iterdir()) == ["1-act", "2-act"]


@pytest.mark.usefixtures("jobs", "impatient")
def test_leaving_ends_what_the_job_started(own_python: Environment, staging: Path) -> None:
    with session(own_python, staging) as opened:
        found = act(opened, "have_children")
        assert all(alive(pid) for pid in found["children"])
    assert not any(alive(pid) for pid in (*found["children"], found["own"]))


@pytest.mark.usefixtures("jobs", "impatient")
def test_ctrl_c_in_the_middle_of_a_job_ends_it_whole(
    own_python: Environment, staging: Path
) -> None:
    seen: list[int] = []

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["text"].startswith("children:"):
            seen.extend(int(pid) for pid in event["text"].split()[1:])
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), session(own_python, staging) as opened:
        seen.append(opened._process.pid)
        opened.run(Job("act", {"what": "have_children", "stay": True}), interrupt)
    assert len(seen) == 3
    assert not any(alive(pid) for pid in seen)


def test_a_killed_client_leaves_no_worker(
    own_python: Environment, staging: Path, jobs: Path
) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from trtenv.runners import venvsession
from trtenv.runners.protocol import Job, RunOptions
venvsession.WORKER = Path({str(jobs / "worker.py")!r})
place = venvsession.Place(python=Path(sys.executable))
def on_event(event):
    if event["event"] == "start":
        print(opened._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
with venvsession.VenvSession(place, RunOptions(), Path({str(staging)!r})) as opened:
    opened.run(Job("act", {{"what": "close"}}), on_event)
"""
    client = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert client.returncode == -signal.SIGKILL, client.stderr.decode()
    worker = int(client.stdout)
    deadline = time.monotonic() + 5
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


@pytest.mark.usefixtures("jobs")
def test_signal_9_is_told_as_memory(own_python: Environment, staging: Path) -> None:
    with session(own_python, staging) as opened, pytest.raises(OutOfMemory) as caught:
        act(opened, "die", signal="SIGKILL")
    assert "signal 9" in caught.value.message
    assert "GiB" in caught.value.message
    assert "last words" in caught.value.details


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize(
    ("what", "params", "words"),
    [
        ("die", {"signal": "SIGSEGV"}, r"signal 11 \(SIGSEGV\)"),
        ("die", {"signal": "SIGABRT"}, r"signal 6 \(SIGABRT\)"),
        ("leave", {"code": 7}, "exit code 7"),
        ("leave", {"code": 0}, "exit code 0"),
    ],
)
def test_the_cause_of_death_is_named(
    own_python: Environment, staging: Path, what: str, params: dict[str, Any], words: str
) -> None:
    with session(own_python, staging) as opened:
        with pytest.raises(JobFailed, match=words):
            act(opened, what, **params)
        with pytest.raises(JobFailed, match=words):  # nor does a dead worker take another job
            act(opened, what, **params)


@pytest.mark.usefixtures("jobs", "impatient")
def test_a_worker_that_falls_silent_is_ended(own_python: Environment, staging: Path) -> None:
    with session(own_python, staging) as opened:
        with pytest.raises(JobFailed, match="closed its output"):
            act(opened, "close")
        worker = opened._process.pid
    assert not alive(worker)


@pytest.mark.usefixtures("jobs")
def test_whatever_a_library_prints_is_kept(own_python: Environment, staging: Path) -> None:
    with session(own_python, staging) as opened:
        act(opened, "talk")
    text = opened.log.read_text(encoding="utf-8")
    assert "to stdout" in text
    assert "no newline, not UTF-8" in text


def test_an_interpreter_that_does_not_start_is_named(staging: Path) -> None:
    broken = staging / "python"
    broken.write_text("no program", encoding="utf-8")
    opened = VenvSession(Place(python=broken), RunOptions(), staging)
    with pytest.raises(EnvironmentFailed, match="Permission denied"), opened:
        pass


@pytest.mark.parametrize(
    ("gpus", "visible"),
    [(None, "7"), ("all", None), ("none", ""), ("0,1", "0,1"), ("GPU-1a2b", "GPU-1a2b")],
)
def test_gpus_are_chosen_by_what_cuda_reads(gpus: str | None, visible: str | None) -> None:
    place = Place(python=Path("/opt/bin/python3"))
    found = place_variables({"CUDA_VISIBLE_DEVICES": "7"}, place, RunOptions(gpus=gpus))
    assert found.get("CUDA_VISIBLE_DEVICES") == visible


def test_the_environments_libraries_come_before_the_callers(tmp_path: Path) -> None:
    libraries = tmp_path / "lib/python3.10/site-packages/nvidia/cublas/lib"
    libraries.mkdir(parents=True)
    (libraries / "libcublas.so.12").touch()
    place = Place(python=tmp_path / "bin/python", venv=tmp_path)
    before = {"LD_LIBRARY_PATH": "/usr/lib/wsl/lib", "PATH": "/usr/bin"}
    found = place_variables(before, place, RunOptions())
    assert found["LD_LIBRARY_PATH"] == f"{libraries}:/usr/lib/wsl/lib"
    assert found["PATH"] == f"{tmp_path}/bin:/usr/bin"
    assert found["VIRTUAL_ENV"] == str(tmp_path)


def test_the_users_variables_have_the_last_word() -> None:
    place = Place(python=Path("/opt/bin/python3"), variables={"A": "toml", "B": "toml"})
    found = place_variables({"A": "caller"}, place, RunOptions(variables={"B": "flag"}))
    assert (found["A"], found["B"]) == ("toml", "flag")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["python3", "-c", f"import sys; sys.exit(sys.prefix != {sys.prefix!r})"], 0),
    ],
)
def test_commands_run_in_it_and_return_their_code(
    own_python: Environment, argv: list[str], code: int
) -> None:
    assert VenvRunner().execute(own_python, RunOptions(), argv) == code


def test_ctrl_c_is_the_commands_affair(own_python: Environment) -> None:
    code = f"""
import sys
from trtenv.catalog.model import Environment
from trtenv.runners.protocol import RunOptions
from trtenv.runners.venv import VenvRunner
mine = Environment(name="mine", kind="python", interpreter={own_python.interpreter!r})
script = "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done"
sys.exit(VenvRunner().execute(mine, RunOptions(), ["sh", "-c", script]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as terminal:
        assert terminal.stdout
        assert terminal.stdout.readline() == b"up\n"
        os.killpg(terminal.pid, signal.SIGINT)
        assert terminal.wait(20) == 9


def test_an_unknown_command_is_named(own_python: Environment) -> None:
    with pytest.raises(UsageError, match="`mine` has no `no-such-program`"):
        VenvRunner().execute(own_python, RunOptions(), ["no-such-program"])


def test_the_command_line_can_be_typed(own_python: Environment) -> None:
    line = VenvRunner().command_line(
        own_python, RunOptions(gpus="0", variables={"A": "b c"}), ["python3", "x.py"]
    )
    assert line == [
        "env", "-u", "PYTHONPATH", "-u", "PYTHONHOME", "-u", "PYTHONSTARTUP", "-u", "PYTHONUSERBASE",
        "A=b c", "CUDA_VISIBLE_DEVICES=0", "PYTHONNOUSERSITE=1", sys.executable, "x.py",
    ]  # fmt: skip


def make_tensorrt(folder: Path, content: str = "__version__ = '8.6.1'\n") -> None:
    (folder / "tensorrt").mkdir(exist_ok=True)
    (folder / "tensorrt" / "__init__.py").write_text(content, encoding="utf-8")


def with_path(environment: Environment, path: Path) -> Environment:
    import dataclasses

    return dataclasses.replace(environment, variables=(("PYTHONPATH", str(path)),))


def test_a_users_own_python_is_known_by_the_tensorrt_in_it(
    own_python: Environment, tmp_path: Path
) -> None:
    make_tensorrt(tmp_path)
    environment = with_path(own_python, tmp_path)
    first = VenvRunner().prepare(environment, RunOptions())
    assert first == VenvRunner().prepare(environment, RunOptions())
    assert first.reference == "python:mine"
    assert first.details["python"] == sys.version.split()[0]
    make_tensorrt(tmp_path, "__version__ = '8.6.2'\n")
    assert VenvRunner().prepare(environment, RunOptions()).digest != first.digest


def test_a_users_own_python_without_tensorrt_is_refused(own_python: Environment) -> None:
    with pytest.raises(EnvironmentFailed, match="has no tensorrt"):
        VenvRunner().prepare(own_python, RunOptions())


def test_a_users_own_python_may_hold_more_than_tensorrt(own_python: Environment) -> None:
    for holds, missing in (({"onnxruntime"}, None), ({"onnxruntime", "yolov5"}, "has no yolov5")):
        environment = replace(own_python, holds=frozenset(holds))
        if missing is None:
            VenvRunner().prepare(environment, RunOptions())
            continue
        with pytest.raises(EnvironmentFailed, match=missing):
            VenvRunner().prepare(environment, RunOptions())


def test_a_users_own_python_that_is_gone_is_named() -> None:
    environment = Environment(name="mine", kind="python", interpreter="~/no/such/python")
    with pytest.raises(InterpreterMissing, match=r"`mine` names the interpreter `/.*python`"):
        VenvRunner().prepare(environment, RunOptions())


def test_images_are_not_for_this_runner() -> None:
    with pytest.raises(UsageError, match="`ngc` is a container image"):
        VenvRunner().prepare(Environment(name="ngc", image="x"), RunOptions())
