"""A worker process in a Python environment of this machine: its variables, its life and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trtenv import console
from trtenv.errors import EnvironmentFailed, JobFailed, OutOfMemory
from trtenv.runners.pip import LEAKS
from trtenv.runners.protocol import (
    JOBS_FOLDER,
    Event,
    RunOptions,
    Session,
    log_tail,
    parse_event,
)
from trtenv.runners.wheels import library_folders

__all__ = ["Place", "VenvSession", "place_variables", "worker_variables"]

# Folders that libraries fill on their own account: below the staging folder they end with the job.
SCRATCH: Final = {
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TMPDIR": "",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TRITON_CACHE_DIR": "triton",
    "YOLO_CONFIG_DIR": "ultralytics",
}
WORKER: Final = JOBS_FOLDER / "worker.py"
PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An interpreter and what must be set for it; `venv` is None for a user's own."""

    python: Path
    venv: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def programs(self) -> Path:
        return self.python.parent

    def argv(self, argv: Sequence[str]) -> list[str]:
        """With the environment's own program where it has one of that name."""
        if argv[0] in ("python", "python3"):
            return [str(self.python), *argv[1:]]
        own = self.programs / argv[0]
        return [str(own) if own.exists() else argv[0], *argv[1:]]


def place_variables(base: Mapping[str, str], place: Place, options: RunOptions) -> dict[str, str]:
    """What any command in the environment is started with; the user's own variables come last."""
    variables = {key: value for key, value in base.items() if key not in LEAKS}
    variables["PATH"] = os.pathsep.join([str(place.programs), base.get("PATH", os.defpath)])
    variables["PYTHONNOUSERSITE"] = "1"
    if place.venv:
        variables["VIRTUAL_ENV"] = str(place.venv)
        folders = [
            str(folder)
            for site in sorted((place.venv / "lib").glob("python3*/site-packages"))
            for folder in library_folders(site)
        ]
        # The caller's come after: WSL and NixOS keep the driver's own library there.
        folders += [base["LD_LIBRARY_PATH"]] if base.get("LD_LIBRARY_PATH") else []
        if folders:
            variables["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    match options.gpus:
        case None:
            pass
        case "none":
            variables["CUDA_VISIBLE_DEVICES"] = ""
        case "all":
            variables.pop("CUDA_VISIBLE_DEVICES", None)
        case listed:
            variables["CUDA_VISIBLE_DEVICES"] = listed
    return variables | dict(place.variables) | dict(options.variables)


def worker_variables(
    base: Mapping[str, str], place: Place, options: RunOptions, scratch: Path
) -> dict[str, str]:
    """For a job: besides, nothing is left behind in the user's home."""
    folders = {key: str(scratch / name) for key, name in SCRATCH.items()}
    return place_variables({**base, **folders}, place, options)


class VenvSession(Session):
    """The worker runs in a process group of its own, so that the terminal's Ctrl-C ends this
    process first and this process ends the whole group."""

    def __init__(self, place: Place, options: RunOptions, staging: Path) -> None:
        super().__init__(staging, staging / "session.log")
        self._place = place
        self._options = options
        self._process: subprocess.Popen[str]
        self._reader = threading.Thread(target=self._keep_log, daemon=True)

    def __enter__(self) -> Self:
        scratch = self.staging / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        argv = [str(self._place.python), str(WORKER)]
        console.command(" ".join(argv))
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.staging,
                env=worker_variables(os.environ, self._place, self._options, scratch),
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentFailed(f"{argv[0]} does not start: {error.strerror}") from error
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what was still buffered for a worker that is gone
            if self._process.stdin:
                self._process.stdin.close()
        if kind is None:
            # An idle worker ends by itself, at once; only what it left behind is ended below.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
        end_group(self._process)
        self._reader.join(PATIENCE_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe and not self._reader.is_alive():
                pipe.close()

    def inside(self, path: Path) -> str:
        return str(path.absolute())

    def send(self, line: str) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # cause_of_death says why, once its last words are read
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def events(self) -> Iterator[Event]:
        assert self._process.stdout
        for line in self._process.stdout:
            yield parse_event(line)

    def cause_of_death(self) -> JobFailed:
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return JobFailed("the worker closed its output and runs on", details=log_tail(self.log))
        self._reader.join(PATIENCE_S)
        details = log_tail(self.log)
        if code == -signal.SIGKILL:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
            return OutOfMemory(
                "the worker was killed by signal 9, which is usually the kernel out of memory; "
                f"this machine has {memory:.1f} GiB",
                hint="close other programs, or make the model's inputs or the workspace smaller",
                details=details,
            )
        how = f"by signal {signal_name(-code)}" if code < 0 else f"with exit code {code}"
        return JobFailed(f"the worker ended {how} in the middle of a job", details=details)

    def _keep_log(self) -> None:
        assert self._process.stderr
        with self.log.open("a", encoding="utf-8") as log:
            for line in self._process.stderr:
                log.write(line)
                log.flush()
                console.detail(line.rstrip())


def end_group(process: subprocess.Popen[str]) -> None:
    """Ask, wait, then kill: the worker and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            process.poll()  # a zombie would still count as a member of the group
            if not group_lives(process.pid):
                return
            time.sleep(0.02)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def signal_name(number: int) -> str:
    with suppress(ValueError):
        return f"{number} ({signal.Signals(number).name})"
    return str(number)
