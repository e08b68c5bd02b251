"""What every runner offers, and the host's half of the job protocol.

A runner makes an environment ready and opens a session: one worker process inside it, which runs jobs
one after another, so that the second job pays neither a container's start nor the import of torch.
What differs between runners is how the worker is started, ended and what its death means.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from trtenv.catalog.model import Environment
from trtenv.errors import JobFailed, OutOfMemory

JOBS_FOLDER = Path(__file__).parent.parent / "jobs"
LOG_TAIL_LINES = 20
GPU_MODES = ("auto", "toolkit", "cdi", "runtime", "devices")


class Mount(NamedTuple):
    """A host folder or file that the environment may see; `target` None lets the runner choose."""

    source: Path
    target: str | None = None
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How an environment is started; each relaxation of the defaults is a flag of the CLI.

    gpus: "none", "all", or indices, UUIDs "0,1"; None asks for GPUs where the job needs one and the
    host has one. gpu_mode is one of GPU_MODES: how a container gets them. shm_size in bytes; None means
    16 GiB, capped by the machine's memory. memory is the most that a container may use, in bytes; None
    means all there is. base_image and extra_requirements are of images that are built for wheel
    environments. needs_packages are what a model needs beside torch: "torchvision", "ultralytics".
    """

    gpus: str | None = None
    gpu_mode: str = "auto"
    runtime: str | None = None
    shm_size: int | None = None
    memory: int | None = None
    name: str | None = None
    mounts: Sequence[Mount] = ()
    workdir: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    network: str = "none"
    user: str | None = None
    needs_gpu: bool = False
    needs_torch: bool = False
    needs_packages: Sequence[str] = ()
    pull: bool = True
    base_image: str | None = None
    extra_requirements: Sequence[str] = ()


class Job(NamedTuple):
    """`kind` names the script in jobs/; paths in `params` are already paths of the inside."""

    kind: str
    params: Mapping[str, Any]


class JobResult(NamedTuple):
    """`values` is what the script returned; `out` is its output folder on the host."""

    values: dict[str, Any]
    out: Path
    seconds: float


class Identity(NamedTuple):
    """What exactly an environment is on this machine: the lock holds it, the stamp repeats it.

    `digest` is sha256 of the image (repository digest where it has one) or of the venv's lock file.
    """

    digest: str
    reference: str
    platform: str
    details: Mapping[str, Any] = MappingProxyType({})


Event = dict[str, Any]
OnEvent = Callable[[Event], None]


class Session(ABC):
    """One running worker. Use as a context manager; leaving it removes every trace of the worker."""

    def __init__(self, staging: Path, log: Path) -> None:
        self.staging = staging
        self.log = log
        self._count = 0

    @abstractmethod
    def inside(self, path: Path) -> str:
        """The path that the worker sees for a host path below a mount or the staging folder."""

    @abstractmethod
    def send(self, line: str) -> None:
        """Write one line to the worker's stdin."""

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """Events from the worker's stdout, until it ends."""

    @abstractmethod
    def cause_of_death(self) -> JobFailed:
        """Why the worker ended by itself: exit code, signal, out of memory."""

    def run(self, job: Job, on_event: OnEvent) -> JobResult:
        """Run one job to its end. JobFailed or OutOfMemory carry the script's own words."""
        self._count += 1
        name = f"{self._count}-{job.kind}"
        folder, out = self.staging / "jobs" / name, self.staging / "out" / name
        folder.mkdir(parents=True)
        out.mkdir(parents=True)
        (folder / "job.json").write_text(describe(job), encoding="utf-8")
        self.send(json.dumps({"folder": self.inside(folder), "out": self.inside(out)}))
        for event in self.events():
            on_event(event)
            if event["event"] == "result" and event["job"] == name:
                return self._collect(out)
        raise self.cause_of_death()

    def _collect(self, out: Path) -> JobResult:
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        if not result["ok"]:
            raise failure(result["error"], self.log)
        return JobResult(result["values"], out, result["seconds"])


class Runner(Protocol):
    name: str

    def prepare(self, environment: Environment, options: RunOptions) -> Identity:
        """Pull, build or create what is missing. EnvironmentFailed or HostError where it can't be."""
        ...

    def session(
        self, environment: Environment, options: RunOptions, staging: Path
    ) -> AbstractContextManager[Session]: ...

    def execute(self, environment: Environment, options: RunOptions, argv: Sequence[str]) -> int:
        """Run any command with this terminal attached; returns its exit code."""
        ...

    def remove(self, environment: Environment) -> list[str]:
        """Remove it from this machine; returns what was removed."""
        ...

    def command_line(
        self,
        environment: Environment,
        options: RunOptions,
        argv: Sequence[str],
        staging: Path | None = None,
    ) -> list[str]:
        """The equal command as a user would type it: `docker run ...`, or the interpreter's.

        With `staging`, a session's, whose folders lie there.
        """
        ...


def describe(job: Job) -> str:
    document = {"kind": job.kind, "params": dict(job.params)}
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False)


def parse_event(line: str) -> Event:
    """One line of the worker's stdout; anything that is no event is kept as a log line."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    return {"event": "log", "job": None, "text": line.rstrip("\n")}


def log_tail(log: Path) -> list[str]:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-LOG_TAIL_LINES:]


def failure(error: Mapping[str, Any], log: Path) -> JobFailed:
    kind = OutOfMemory if error["kind"] == "out-of-memory" else JobFailed
    trace = (error.get("trace") or "").splitlines()
    return kind(error["message"], hint=error.get("hint"), details=trace or log_tail(log))
