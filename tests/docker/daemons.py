"""Starts daemons for tests, and looks at what they hold."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trtenv.runners.docker import DockerRunner

# Podman asks for more open files and processes than a test machine in a container may give.
CONTAINERS_CONF = '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'


@dataclass(frozen=True)
class Engine:
    name: str
    url: str


@contextmanager
def podman_service(folder: Path, *prefix: str | Path) -> Iterator[str]:
    """`prefix`: a command that starts the service given to it."""
    address = folder / "podman.sock"
    configuration = folder / "containers.conf"
    configuration.write_text(CONTAINERS_CONF)
    podman = ["podman", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
    service = subprocess.Popen(
        [*prefix, *podman, "system", "service", "--time=0", f"unix://{address}"],
        env={**os.environ, "CONTAINERS_CONF": str(configuration)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(str(address)))
        yield f"unix://{address}"
    finally:
        service.terminate()
        service.wait(timeout=20)
        # Its storage is full of mounts and of other users' files: only Podman can take it away.
        subprocess.run([*podman, "system", "reset", "--force"], check=False, capture_output=True)


class Dockerd:
    """A daemon of our own, to be killed: its data, socket and processes lie in one folder."""

    def __init__(self, folder: Path, *options: str | Path) -> None:
        self._folder = folder
        self._options = options
        self._address = str(folder / "docker.sock")
        self.url = f"unix://{self._address}"
        self.start()

    def start(self) -> None:
        folder = self._folder
        # Written by a daemon that was killed; their numbers may be others' by now.
        for left in ("pid", "exec/containerd/containerd.pid"):
            (folder / left).unlink(missing_ok=True)
        options = ["--data-root", folder / "data", "--exec-root", folder / "exec", *self._options]
        with (folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    # In a network of its own: --bridge=none deletes the docker0 of the real daemon.
                    *("unshare", "--net", "dockerd", "--host", self.url),
                    *("--pidfile", folder / "pid", *options),
                    *("--bridge=none", "--iptables=false"),
                ],
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: answers(self._address))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        # What a killed daemon had mounted stays mounted.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = [path for path in mounts if path.startswith(f"{self._folder}/")]
        subprocess.run(["umount", "--lazy", *reversed(ours)], check=False, capture_output=True)


def answers(address: str | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.1)


def containers(runner: DockerRunner) -> list[str]:
    return [entry.name for entry in runner.leftovers(everything=True)]


def volumes(runner: DockerRunner) -> set[str]:
    found = runner.client.api.volumes()["Volumes"] or []
    return {volume["Name"] for volume in found}
