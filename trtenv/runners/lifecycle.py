"""One container of ours, from creation to certain removal; and finding those left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trtenv import __version__, console
from trtenv.errors import TrtenvError
from trtenv.runners.attach import Attachment
from trtenv.runners.container import LABEL
from trtenv.runners.daemon import translated
from trtenv.runners.daemon_errors import refuses_ulimits

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["Container", "Leftover", "force_remove", "labels", "leftovers"]

REMOVAL_TIMEOUT = 20
# No container waits this long for its start or its removal, wherever its client runs.
FORGOTTEN_SECONDS = 24 * 3600


def labels(environment: str, kind: str) -> dict[str, str]:
    return {
        f"{LABEL}.version": __version__,
        f"{LABEL}.session": str(uuid.uuid4()),
        f"{LABEL}.environment": environment,
        f"{LABEL}.pid": str(os.getpid()),
        f"{LABEL}.host": this_host(),
        f"{LABEL}.kind": kind,
    }


def this_host() -> str:
    """Where a pid means something: this machine, and its pid namespace. Tells nothing else."""
    facts = []
    with suppress(OSError):
        facts.append(Path("/etc/machine-id").read_text(encoding="ascii"))
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  no path: `pid:[4026531836]`
    return hashlib.sha256("".join(facts).encode()).hexdigest()[:16]


class Container:
    """Attached and running inside the `with`; gone after it, however it is left."""

    def __init__(self, client: DockerClient, body: dict[str, Any], name: str | None) -> None:
        self.name = name or f"trtenv-{body['Labels'][f'{LABEL}.session']}"
        self._client = client
        self._body = body
        self._id: str | None = None
        self._attachment: Attachment | None = None

    @property
    def attachment(self) -> Attachment:
        assert self._attachment is not None
        return self._attachment

    def __enter__(self) -> Self:
        try:
            with translated(self._body["Image"]):
                self._start()
        except BaseException as error:
            if self.remove():
                raise KeyboardInterrupt from error
            if _is_about_ulimits(error) and self._body["HostConfig"].pop("Ulimits", None):
                # Rootless daemons, and root in a container, may not; few jobs need it.
                console.detail(
                    "the daemon may not raise limits: memlock and stack stay as they are"
                )
                return self.__enter__()
            raise
        return self

    def _start(self) -> None:
        with _interrupts_held():
            answer = self._client.api.create_container_from_config(self._body, self.name)
            self._id = answer["Id"]
        self._attachment = Attachment(self._client, self._id, tty=self._body["Tty"])
        self._client.api.start(self._id)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = self.remove()
        if interrupted and kind is None:
            raise KeyboardInterrupt

    def remove(self) -> bool:
        """Kill and remove, twice if need be; returns whether Ctrl-C came between. Never raises."""
        interrupted, problem = False, ""
        for _ in range(2):
            try:
                self._remove()
            except KeyboardInterrupt:
                interrupted, problem = True, "interrupted"
            except TrtenvError as error:
                problem = error.message
            else:
                return interrupted
        console.say(f"container {self.name} could not be removed: {problem}")
        console.say(f"hint: docker rm --force --volumes {self.name}")
        return interrupted

    def _remove(self) -> None:
        if self._attachment:
            self._attachment.close()
            self._attachment = None
        if self._id:
            force_remove(self._client, self._id)
            self._id = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the container has ended."""
        with translated():
            return int(self._client.api.wait(self._id, timeout=timeout)["StatusCode"])

    def state(self) -> Mapping[str, Any]:
        with translated():
            return dict(self._client.api.inspect_container(self._id)["State"])

    def resize(self, rows: int, columns: int) -> None:
        with translated():
            self._client.api.resize(self._id, rows, columns)


def force_remove(client: DockerClient, container: str) -> None:
    """Kill it and remove it with its volumes; fine where it is gone already. Takes bounded time."""
    from docker.errors import APIError, NotFound

    api = client.api
    usual, api.timeout = api.timeout, REMOVAL_TIMEOUT
    with translated(), suppress(NotFound):
        try:
            api.remove_container(container, v=True, force=True)
        except APIError as error:
            if "already in progress" not in str(error):
                raise
            # By a first try, which Ctrl-C ended for us but not for the daemon.
            api.wait(container, timeout=REMOVAL_TIMEOUT, condition="removed")
        finally:
            api.timeout = usual


def _is_about_ulimits(error: BaseException) -> bool:
    return isinstance(error, TrtenvError) and refuses_ulimits(error.message)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the daemon to name what it creates: what has no name cannot be removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Leftover:
    """A container whose client is gone."""

    id: str
    name: str
    environment: str
    state: str


def leftovers(client: DockerClient, *, everything: bool = False) -> list[Leftover]:
    """Containers of ours without a client; `everything` also lists those at work."""
    with translated():
        found = client.api.containers(all=True, filters={"label": f"{LABEL}.session"})
    return [
        Leftover(
            entry["Id"],
            entry["Names"][0].lstrip("/"),
            entry["Labels"].get(f"{LABEL}.environment", ""),
            entry["State"],
        )
        for entry in found
        if everything or _abandoned(entry)
    ]


def _abandoned(entry: Mapping[str, Any]) -> bool:
    """Its client's process is gone, as far as that can be seen from here; or it ended long ago."""
    forgotten = time.time() - entry["Created"] > FORGOTTEN_SECONDS
    return _client_is_dead(entry["Labels"]) or (entry["State"] != "running" and forgotten)


def _client_is_dead(marks: Mapping[str, str]) -> bool:
    pid = marks.get(f"{LABEL}.pid", "")
    here = marks.get(f"{LABEL}.host") == this_host()
    return here and pid.isdigit() and not Path("/proc", pid).exists()
