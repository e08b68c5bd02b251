"""The container daemon: finding it, what it can do, its images. Nothing here starts a container."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trtenv.errors import DaemonUnavailable, EnvironmentFailed, TrtenvError
from trtenv.runners.daemon_errors import explain
from trtenv.runners.protocol import Identity

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "DaemonFacts",
    "check_platform",
    "connect",
    "daemon_facts",
    "find_image",
    "identify",
    "inspect_daemon",
    "pull_image",
    "remove_image",
    "translated",
]

# A daemon that hangs must not hang `doctor`; one that creates a container may take its time.
CONNECT_TIMEOUT = 4
REQUEST_TIMEOUT = 120

MINIMUM_API = (1, 41)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """What the daemon says of itself. Defaults are those of Docker on a plain Linux machine."""

    reachable: bool = True
    reason: str | None = None
    hint: str | None = None
    url: str = ""
    name: str = "docker"
    version: str = ""
    api: str = ""
    architecture: str = ""
    rootless: bool = False
    remapped: bool = False
    selinux: bool = False
    limits_memory: bool = True
    limits_pids: bool = True
    cgroup_version: str = ""
    runtimes: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    cdi_folders: tuple[str, ...] = ()
    kernel: str = ""
    data_root: str = ""
    free_bytes: int | None = None
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@contextmanager
def translated(image: str = "") -> Iterator[None]:
    """Errors of the SDK become ours: one place knows what the daemon's texts mean."""
    import requests
    import urllib3
    from docker.errors import DockerException

    known = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError)
    try:
        yield
    except known as error:
        raise explain(getattr(error, "explanation", None) or str(error), image=image) from error


def connect() -> DockerClient:
    """The first daemon that answers. DaemonUnavailable lists every address that was tried."""
    return _connect()[0]


def _connect() -> tuple[DockerClient, str]:
    import docker

    tried: list[str] = []
    problem: TrtenvError | None = None
    for url, settings in _addresses():
        try:
            _knock(url)
            with translated():
                client = docker.DockerClient(base_url=url, timeout=CONNECT_TIMEOUT, **settings)
                check_api(client)
        except TrtenvError as error:
            tried.append(f"tried {url}: {error.message}")
            # Of several failures the most telling is the first from a socket that exists.
            absent = problem is None or "does not exist" in problem.message
            problem = error if absent else problem
        else:
            client.api.timeout = REQUEST_TIMEOUT
            return client, url
    assert problem is not None
    hint = problem.hint or "check DOCKER_HOST, or the Docker context: docker context ls"
    raise DaemonUnavailable(problem.message, hint=hint, details=tried) from problem


def _knock(url: str) -> None:
    """Ask the kernel: docker-py wraps its answer twice, and leaves the socket open."""
    if not url.startswith("unix:///"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(url.removeprefix("unix://"))
        except OSError as error:
            raise explain(repr(error)) from error


def _addresses() -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a daemon may be. Where the user names one (DOCKER_HOST, Docker context), only there."""
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    if os.environ.get("DOCKER_HOST"):
        with translated():
            settings = kwargs_from_env()
        yield settings.pop("base_url"), settings
        return
    name = os.environ.get("DOCKER_CONTEXT")
    context = ContextAPI.get_context(name)
    if context is None:
        raise DaemonUnavailable(
            f"there is no Docker context `{name or 'chosen by docker context use'}`",
            hint="list them: docker context ls; choose one: docker context use NAME",
        )
    if context.name != "default":
        yield context.Host, {"tls": context.TLSConfig or False}
        return
    yield "unix:///var/run/docker.sock", {}
    user = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for path in (
        f"{user}/docker.sock",
        f"{user}/podman/podman.sock",
        "/run/podman/podman.sock",
    ):
        if os.path.exists(path):  # noqa: PTH110  Path.exists() raises for another user's folder
            yield f"unix://{path}", {}


def check_api(client: DockerClient) -> None:
    found = str(client.api.api_version)
    if tuple(int(part) for part in found.split(".")) < MINIMUM_API:
        needed = ".".join(str(part) for part in MINIMUM_API)
        raise DaemonUnavailable(
            f"the container daemon is too old: it speaks API {found}, needed is {needed}",
            hint="update to Docker 20.10, Podman 4 or newer",
        )


def daemon_facts() -> DaemonFacts:
    """For `doctor`: never raises for a daemon that is absent, down or hanging."""
    try:
        client, url = _connect()
    except DaemonUnavailable as error:
        reason = "; ".join((error.message, *error.details))
        return DaemonFacts(reachable=False, reason=reason, hint=error.hint)
    client.api.timeout = CONNECT_TIMEOUT
    try:
        return inspect_daemon(client, url)
    except TrtenvError as error:
        return DaemonFacts(reachable=False, reason=error.message, hint=error.hint)
    finally:
        client.close()


def inspect_daemon(client: DockerClient, url: str = "") -> DaemonFacts:
    with translated():
        version, info = client.version(), client.info()
    security = " ".join(info.get("SecurityOptions") or ())
    root = info.get("DockerRootDir") or ""
    return DaemonFacts(
        url=url,
        name=_name(version),
        version=version.get("Version", ""),
        api=version.get("ApiVersion", ""),
        architecture=version.get("Arch", ""),
        rootless="name=rootless" in security or bool(info.get("Rootless")),
        remapped="name=userns" in security,
        selinux="name=selinux" in security,
        limits_memory=bool(info.get("MemoryLimit", True)),
        limits_pids=bool(info.get("PidsLimit", True)),
        cgroup_version=str(info.get("CgroupVersion") or ""),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        cdi_devices=tuple(
            entry["ID"] for entry in info.get("DiscoveredDevices") or () if entry["Source"] == "cdi"
        ),
        cdi_folders=tuple(info.get("CDISpecDirs") or ()),
        kernel=info.get("KernelVersion") or "",
        data_root=root,
        free_bytes=_free_bytes(root),
        memory=info.get("MemTotal") or None,
    )


def _name(version: Mapping[str, Any]) -> str:
    components = " ".join(entry.get("Name", "") for entry in version.get("Components") or ())
    return "podman" if "podman" in components.lower() else "docker"


def _free_bytes(root: str) -> int | None:
    """None where the daemon's disk is on another machine, or in a VM."""
    try:
        return shutil.disk_usage(root).free if root else None
    except OSError:
        return None


def find_image(client: DockerClient, reference: str) -> dict[str, Any] | None:
    """What the daemon knows of a local image; None where it has none of this name."""
    from docker.errors import NotFound

    with translated(reference):
        try:
            return dict(client.api.inspect_image(reference))
        except NotFound:
            return None


def remove_image(client: DockerClient, reference: str) -> None:
    with translated(reference):
        client.api.remove_image(reference)


def pull_image(client: DockerClient, reference: str, report: Callable[[str], None]) -> None:
    """Pull; `report` gets one line of progress over all layers."""
    progress = PullProgress()
    with translated(reference):
        stream = client.api.pull(*_split(reference), stream=True, decode=True)
        for event in stream:
            if problem := event.get("error"):
                raise explain(
                    (event.get("errorDetail") or {}).get("message") or problem, image=reference
                )
            report(progress.take(event))


def _split(reference: str) -> tuple[str, str | None]:
    from docker.utils import parse_repository_tag

    repository, tag = parse_repository_tag(reference)
    return repository, tag


@dataclass
class PullProgress:
    """Adds up the layers: the daemon reports each by itself."""

    done: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)

    def take(self, event: Mapping[str, Any]) -> str:
        layer, status = event.get("id") or "", event.get("status") or ""
        detail = event.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self.done[layer], self.total[layer] = detail.get("current", 0), detail["total"]
        elif status in ("Download complete", "Pull complete", "Already exists"):
            self.done[layer] = self.total.setdefault(layer, 0)
            self.finished.add(layer)
        elif status == "Pulling fs layer":
            self.total.setdefault(layer, 0)
        return str(self)

    def __str__(self) -> str:
        megabytes = sum(self.done.values()) / 1e6, sum(self.total.values()) / 1e6
        layers = f"{len(self.finished)} of {len(self.total)} layers"
        return f"{layers}, {megabytes[0]:.0f} of {megabytes[1]:.0f} MB"


def check_platform(image: Mapping[str, Any], facts: DaemonFacts, reference: str) -> None:
    found, here = image.get("Architecture") or "", facts.architecture
    if found and here and found != here:
        raise EnvironmentFailed(
            f"image `{reference}` is for linux/{found}; the container daemon runs linux/{here}",
            hint="choose an environment for this machine: trtenv env list --runnable; or remove "
            f"the image and pull the right one: docker rmi {reference}",
        )


def identify(image: Mapping[str, Any], reference: str) -> Identity:
    """The repository digest where the image has one: it means the same on every machine."""
    repository = _split(reference)[0].partition("@")[0]
    digests = [entry.partition("@") for entry in image.get("RepoDigests") or ()]
    # An image may have been pushed to several repositories; the one that was asked for counts.
    digests.sort(key=lambda entry: entry[0] != repository)
    platform = "/".join(
        part for part in (image.get("Os"), image.get("Architecture"), image.get("Variant")) if part
    )
    return Identity(
        digest=digests[0][2] if digests else str(image["Id"]),
        reference=reference,
        platform=platform,
        details={
            "id": image["Id"],
            "size": image.get("Size"),
            "created": image.get("Created"),
        },
    )
