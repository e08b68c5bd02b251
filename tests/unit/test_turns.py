"""Builds on one GPU wait for each other, whoever starts them and however they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trtenv.catalog.host import Gpu, Host
from trtenv.pipeline.turns import gpu_turn, turns
from trtenv.runners.protocol import RunOptions

GPUS = tuple(Gpu(n, "NVIDIA L4", f"GPU-{n}{n}", "8.9", 24 * 10**9) for n in range(3))
HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_turns import place
from trtenv.pipeline.turns import gpu_turn
with gpu_turn(place(sys.argv[3]), Path(sys.argv[2])):
    print("has it", flush=True)
    sys.stdin.read()
"""


def place(gpus: str | None = None, *, needs_gpu: bool = True, host: tuple[Gpu, ...] = GPUS) -> Any:
    """What a turn asks of a place: the options of its job and the GPUs of its machine."""
    settings = SimpleNamespace(host=Host(machine="x86_64", gpus=host))
    return SimpleNamespace(options=RunOptions(gpus=gpus, needs_gpu=needs_gpu), settings=settings)


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        (None, ["gpu-GPU-00", "gpu-GPU-11", "gpu-GPU-22"]),
        ("all", ["gpu-GPU-00", "gpu-GPU-11", "gpu-GPU-22"]),
        ("1", ["gpu-GPU-11"]),
        ("GPU-22,0", ["gpu-GPU-00", "gpu-GPU-22"]),
        ("1,GPU-11", ["gpu-GPU-11"]),
        # A part of some GPU, or a name that only the container toolkit knows.
        ("MIG-77", ["gpu-GPU-00", "gpu-GPU-11", "gpu-GPU-22"]),
        ("nvidia.com/gpu=0", ["gpu-GPU-00", "gpu-GPU-11", "gpu-GPU-22"]),
    ],
)
def test_a_turn_is_of_the_gpus_that_the_job_may_use(wish: str | None, names: list[str]) -> None:
    assert [name for name, _ in turns(GPUS, wish)] == names


def test_where_the_driver_tells_nothing_all_builds_share_one_turn() -> None:
    assert turns((), "1") == [("gpu-all", "the GPU")]


@pytest.mark.parametrize("free", [place(needs_gpu=False), place("none")])
def test_work_without_a_gpu_takes_no_turn(free: Any, tmp_path: Path) -> None:
    with gpu_turn(place(), tmp_path), gpu_turn(free, tmp_path):
        assert len(list(tmp_path.glob("*.lock"))) == 3


def test_another_gpu_is_another_turn(tmp_path: Path) -> None:
    with gpu_turn(place("0"), tmp_path), gpu_turn(place("1,2"), tmp_path):
        pass


def test_a_folder_that_cannot_hold_locks_stops_no_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gpu_turn(place("0"), tmp_path / "missing"):
        pass
    assert "cannot take turns" in capsys.readouterr().err


def test_a_link_in_the_place_of_a_lock_is_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    (tmp_path / "trtenv-gpu-GPU-00.lock").symlink_to(target)
    with gpu_turn(place("0"), tmp_path):
        pass
    assert "cannot take turns" in capsys.readouterr().err
    assert not target.exists()


def test_locks_are_readable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with gpu_turn(place("0"), tmp_path):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "trtenv-gpu-GPU-00.lock").stat().st_mode & 0o777 == 0o644


@contextmanager
def started(folder: Path, gpus: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(folder), gpus]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str], stream: str) -> str:
    pipe = getattr(process, stream)
    return str(pipe.readline())


@pytest.mark.process
def test_the_second_waits_says_for_whom_and_goes_on_when_the_first_is_done(tmp_path: Path) -> None:
    with started(tmp_path, "0") as first:
        assert line_of(first, "stdout") == "has it\n"
        with started(tmp_path, "0,1") as second, started(tmp_path, "1") as third:
            waiting = line_of(second, "stderr")
            assert waiting == f"waiting for another build on GPU 0 (pid {first.pid})\n"
            assert line_of(third, "stdout") == "has it\n"
            third.kill()
            first.stdin.close()  # type: ignore[union-attr]
            assert line_of(second, "stdout") == "has it\n"


@pytest.mark.process
def test_a_killed_holder_frees_its_turn(tmp_path: Path) -> None:
    with started(tmp_path, "0") as holder:
        assert line_of(holder, "stdout") == "has it\n"
        with started(tmp_path, "0") as waiter:
            assert "waiting" in line_of(waiter, "stderr")
            holder.kill()
            assert line_of(waiter, "stdout") == "has it\n"


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiter_can_be_stopped(tmp_path: Path, number: signal.Signals) -> None:
    with gpu_turn(place("0"), tmp_path), started(tmp_path, "0") as waiter:
        assert f"(pid {os.getpid()})" in line_of(waiter, "stderr")
        waiter.send_signal(number)
        assert waiter.wait(timeout=10) == -number
    with gpu_turn(place("0"), tmp_path):
        pass


@pytest.mark.process
def test_a_removed_lock_file_gives_nobody_a_second_turn(tmp_path: Path) -> None:
    lock = tmp_path / "trtenv-gpu-GPU-00.lock"
    with started(tmp_path, "0") as first:
        assert line_of(first, "stdout") == "has it\n"
        with started(tmp_path, "0") as second:
            assert "waiting" in line_of(second, "stderr")
            lock.unlink()
            with gpu_turn(place("0"), tmp_path):
                first.kill()
                # The second got the lock of a file that is gone, and queues up at the new one.
                assert f"(pid {os.getpid()})" in line_of(second, "stderr")
            assert line_of(second, "stdout") == "has it\n"
