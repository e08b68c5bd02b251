"""A session in a container: the worker's events, its log, and what its death means."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from trtenv import console
from trtenv.errors import HostError, JobFailed, OutOfMemory, TrtenvError
from trtenv.runners.attach import STDOUT, Lines
from trtenv.runners.container import WORKER, Bind, inside
from trtenv.runners.daemon_errors import explain
from trtenv.runners.lifecycle import Container
from trtenv.runners.protocol import Event, Session, log_tail, parse_event

__all__ = ["DockerSession", "explain_death"]

DEATH_TIMEOUT = 10


class DockerSession(Session):
    """The worker of one container, reached through its stdin and stdout."""

    def __init__(
        self,
        container: Container,
        binds: Sequence[Bind],
        staging: Path,
        log: Path,
        handle: BinaryIO,
        memory: int | None,
    ) -> None:
        super().__init__(staging, log)
        self._container = container
        self._binds = binds
        self._log_handle = handle
        self._memory = memory
        self._stdout, self._stderr = Lines(), Lines()
        self._lines: deque[str] = deque()

    def inside(self, path: Path) -> str:
        return inside(path, self._binds)

    def send(self, line: str) -> None:
        try:
            self._container.attachment.send(line.encode() + b"\n")
        except OSError as error:
            raise self.cause_of_death() from error

    def events(self) -> Iterator[Event]:
        while self._lines or self._read():
            while self._lines:
                yield parse_event(self._lines.popleft())

    def _read(self) -> bool:
        """Take in what came; False once the worker has ended and all was given out."""
        frames = self._container.attachment.receive()
        if frames is None:
            self._lines.extend(self._stdout.flush())
            return bool(self._lines)
        for stream, data in frames:
            if stream == STDOUT:
                self._lines.extend(self._stdout.feed(data))
            else:
                self._log_handle.write(data)
                self._log_handle.flush()
                for line in self._stderr.feed(data):
                    console.detail(line)
        return True

    def cause_of_death(self) -> JobFailed:
        tail = log_tail(self.log)
        try:
            self._container.wait(timeout=DEATH_TIMEOUT)
            state = self._container.state()
        except TrtenvError as error:
            return JobFailed(
                f"the container was lost in the middle of a job: {error.message}",
                hint="see that the daemon runs, then remove what is left: trtenv clean",
                details=tail,
            )
        return explain_death(state, tail, self._memory)


def explain_death(state: Mapping[str, Any], tail: Sequence[str], memory: int | None) -> JobFailed:
    """What a container's last state means; HostError where its folders were not there."""
    code = int(state["ExitCode"])
    text = "\n".join(tail)
    if code == 2 and f"can't open file '{WORKER[1]}'" in text:
        raise HostError(
            "the container daemon sees another file system: this job's folders are empty there",
            hint="with Docker in a container, put trtenv's cache and the outputs (-o) in a folder "
            "that both sides mount at the same path",
            details=tail,
        )
    if "exec format error" in text and code in (1, 126, 255):
        raise explain("exec format error")
    if state.get("OOMKilled") or code == 137:
        limit = f"its limit of {memory / 2**20:.0f} MiB" if memory else "the machine's memory"
        how = "used up" if state.get("OOMKilled") else "was killed, most likely for using up"
        return OutOfMemory(
            f"the job {how} {limit}",
            hint="raise --memory" if memory else "close other programs, or use a larger machine",
            details=tail,
        )
    if code == 9:
        return JobFailed("the job ended because its client went away", details=tail)
    if code > 128 and code - 128 in set(signal.Signals):
        name = signal.Signals(code - 128)
        return JobFailed(
            f"the job crashed: {name.name} ({signal.strsignal(name)})",
            hint="the log shows what it did last",
            details=tail,
        )
    ended = f" ({state['Error']})" if state.get("Error") else ""
    return JobFailed(f"the worker ended by itself with exit code {code}{ended}", details=tail)
