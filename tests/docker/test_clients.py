"""Clients in processes of their own: interrupted, killed, run by another user, on a terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Engine, containers, wait_for

from trtenv.runners.docker import DockerRunner

CLIENT = Path(__file__).parent / "client.py"
STRANGER, STRANGERS = 4242, 4243

pytestmark = pytest.mark.docker
# What is ours alone needs one daemon; what the daemon has a part in is tried on both.
one_daemon = pytest.mark.parametrize("engine", ["docker"], indirect=True, scope="session")

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(
    runner: DockerRunner, base_image: str, staging: Path, jobs: Path, tmp_path: Path
) -> Iterator[Start]:
    """Starts client.py with one job, in a folder that holds nothing of ours."""
    started: list[subprocess.Popen[str]] = []

    def begin(params: dict[str, Any], prefix: list[str] | None = None) -> subprocess.Popen[str]:
        argv = ["session", base_image, str(staging), str(jobs), json.dumps(params)]
        process = subprocess.Popen(
            [*(prefix or []), sys.executable, str(CLIENT), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_until_it_sleeps(client: subprocess.Popen[str]) -> None:
    assert client.stdout
    for line in client.stdout:
        if json.loads(line).get("phase") == "sleeping":
            return
    pytest.fail(f"the client ended: {client.communicate()[1]}")


SLEEP = {"kind": "misbehave", "how": "sleep"}


def test_ctrl_c_leaves_no_container(start: Start, runner: DockerRunner) -> None:
    client = start(SLEEP)
    wait_until_it_sleeps(client)
    client.send_signal(signal.SIGINT)
    _, errors = client.communicate(timeout=30)
    assert (client.returncode, errors) == (130, "")
    assert containers(runner) == []


@one_daemon
def test_a_terminated_client_cleans_up(start: Start, runner: DockerRunner) -> None:
    client = start(SLEEP)
    wait_until_it_sleeps(client)
    client.terminate()
    client.communicate(timeout=30)
    assert client.returncode == 143
    assert containers(runner) == []


@one_daemon
def test_a_second_ctrl_c_leaves_no_container(start: Start, runner: DockerRunner) -> None:
    client = start(SLEEP)
    wait_until_it_sleeps(client)
    for _ in range(2):
        client.send_signal(signal.SIGINT)
        time.sleep(0.03)
    client.communicate(timeout=30)
    assert client.returncode == 130
    wait_for(lambda: containers(runner) == [])


@one_daemon
@pytest.mark.parametrize("after", [0.0, 0.1, 0.3, 0.6])
def test_ctrl_c_while_it_starts(start: Start, runner: DockerRunner, after: float) -> None:
    client = start(SLEEP)
    wait_for(lambda: bool(containers(runner)) or client.poll() is not None)
    time.sleep(after)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    assert client.returncode == 130
    assert containers(runner) == []


def test_a_killed_client_ends_the_work_and_clean_finds_the_rest(
    start: Start, runner: DockerRunner
) -> None:
    client = start(SLEEP)
    wait_until_it_sleeps(client)
    assert runner.leftovers() == []
    client.kill()
    client.communicate()
    wait_for(lambda: [entry.state for entry in runner.leftovers()] == ["exited"])
    (removed,) = runner.clean()
    assert removed.environment == "test"
    assert containers(runner) == []


def test_another_user(
    start: Start, runner: DockerRunner, engine: Engine, staging: Path, tmp_path: Path
) -> None:
    """Files belong to the caller, and the caller can delete the staging folder again."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    address = Path(engine.url.removeprefix("unix://"))
    if engine.name == "podman":
        address.chmod(0o666)
    for folder in (tmp_path, staging):
        os.chown(folder, STRANGER, STRANGERS)
    client = start({"kind": "look", "read": [], "write": []}, prefix=become_stranger(address))
    output, errors = client.communicate(timeout=60)
    assert client.returncode == 0, errors
    seen = json.loads(output.splitlines()[-1])["values"]
    assert (seen["uid"], seen["gid"], seen["user"]) == (STRANGER, STRANGERS, "trtenv")
    assert address.stat().st_gid in seen["groups"]
    assert seen["home_error"] is None
    assert int(seen["capabilities"], 16) == 0
    found = [*staging.rglob("*")]
    assert any(path.name == "result.json" for path in found)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(STRANGER, STRANGERS)}


def become_stranger(address: Path) -> list[str]:
    """With the right to read: the tests' Python may lie in root's home."""
    return [
        *("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGERS}"),
        f"--groups={address.stat().st_gid}",
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
    ]


def execute(base_image: str, *argv: str, cwd: Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(CLIENT), "execute", base_image, *argv],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        **kwargs,
    )


PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
}


def test_exec_passes_streams_and_exit_code(
    runner: DockerRunner, base_image: str, staging: Path
) -> None:
    """Bytes, in both directions at once: more than any buffer on the way holds."""
    script = "pwd >&2; cat; touch made; exit 7"
    data = bytes(range(256)) * 8192
    with execute(base_image, "bash", "-c", script, cwd=staging, **PIPES) as client:
        output, errors = client.communicate(data, timeout=60)
    assert client.returncode == 7
    assert output == data
    assert errors == b"/workdir\n"
    assert (staging / "made").stat().st_uid == os.getuid()


@one_daemon
def test_exec_without_stdin(runner: DockerRunner, base_image: str, tmp_path: Path) -> None:
    kwargs = {**PIPES, "stdin": subprocess.DEVNULL}
    with execute(base_image, "wc", "-c", cwd=tmp_path, **kwargs) as client:
        output, _ = client.communicate(timeout=60)
    assert (client.returncode, output) == (0, b"0\n")


@one_daemon
def test_exec_of_a_program_that_does_not_read(
    runner: DockerRunner, base_image: str, tmp_path: Path
) -> None:
    """An open stdin, which says nothing, must not keep the command from ending."""
    with execute(base_image, "echo", "done", cwd=tmp_path, **PIPES) as client:
        assert client.stdout
        assert client.stdout.read() == b"done\n"
        assert client.wait(timeout=60) == 0


@one_daemon
def test_exec_of_a_missing_program(runner: DockerRunner, base_image: str, tmp_path: Path) -> None:
    with execute(base_image, "nosuchprogram", cwd=tmp_path, **PIPES) as client:
        _, errors = client.communicate(timeout=60)
    assert client.returncode == 5
    assert b"has no `nosuchprogram`" in errors


@one_daemon
def test_ctrl_c_ends_exec(runner: DockerRunner, base_image: str, tmp_path: Path) -> None:
    with execute(base_image, "bash", "-c", "echo up; sleep 300", cwd=tmp_path, **PIPES) as client:
        assert client.stdout
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(timeout=30) == 130
    assert containers(runner) == []


def test_a_terminal(runner: DockerRunner, base_image: str, tmp_path: Path) -> None:
    """Raw keys, window size, resize and Ctrl-C go inside; afterwards the terminal is as it was."""
    ours, theirs = pty.openpty()
    resize(ours, 33, 99)
    before = termios.tcgetattr(theirs)
    client = execute(
        base_image,
        *("env", f"PS1={PROMPT}", "bash", "--norc"),
        cwd=tmp_path,
        **dict.fromkeys(PIPES, theirs),
    )
    screen = Screen(ours)
    try:
        screen.expect(PROMPT)
        assert screen.ask("stty size") == "33 99"
        resize(ours, 44, 111)
        client.send_signal(signal.SIGWINCH)
        time.sleep(0.5)
        assert screen.ask("stty size") == "44 111"
        os.write(ours, b"sleep 300\r")
        screen.expect("sleep 300")
        time.sleep(0.3)
        os.write(ours, b"\x03")
        screen.expect(PROMPT)
        assert screen.ask("whoami") == ("trtenv" if os.getuid() else "root")
        os.write(ours, b"exit 3\r")
        assert client.wait(timeout=30) == 3
        assert termios.tcgetattr(theirs) == before
    finally:
        client.kill()
        client.wait()
        os.close(ours)
        os.close(theirs)


def resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


PROMPT = "ready> "


class Screen:
    """What a terminal shows, as far as it was read."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._text = ""

    def expect(self, wanted: str) -> str:
        end = time.monotonic() + 30
        while wanted not in self._text:
            assert time.monotonic() < end, f"{wanted!r} did not come: {self._text!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._text += os.read(self._terminal, 4096).decode()
        before, _, self._text = self._text.partition(wanted)
        return before

    def ask(self, command: str) -> str:
        """The first line of an answer."""
        os.write(self._terminal, command.encode() + b"\r")
        self.expect(command)
        self.expect("\n")
        answer = self.expect("\r\n").rpartition("\r")[2]
        self.expect(PROMPT)
        return answer
