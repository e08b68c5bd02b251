"""Texts of Docker, Podman, registries and the NVIDIA toolkit, and the errors they become. Pure.

The first row that matches wins, so narrow rows stand before wide ones. A text that no row knows is
passed on whole. Each row has a test with the real text in tests/unit/test_daemon_errors.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from trtenv.errors import (
    DaemonUnavailable,
    EnvironmentFailed,
    GpuUnavailable,
    HostError,
    TrtenvError,
    UsageError,
)

__all__ = ["cannot_give_gpus", "explain", "refuses_ulimits"]

TOOLKIT_PAGE = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit"
NGC_HOST = "nvcr.io"


class Known(NamedTuple):
    """`message` and `hint` may use {image}, {login}, {host} and the pattern's own groups."""

    pattern: str
    error: type[TrtenvError]
    message: str
    hint: str


DAEMON = (
    Known(
        r"FileNotFoundError\(2,",
        DaemonUnavailable,
        "no container daemon: the socket does not exist",
        "install Docker (https://docs.docker.com/engine/install) or Podman, or work in Python "
        "environments: --runner venv",
    ),
    Known(
        r"ConnectionRefusedError\(111,|\[Errno 111\]",
        DaemonUnavailable,
        "the container daemon does not run: its socket refuses connections",
        "start it: sudo systemctl start docker",
    ),
    Known(
        r"PermissionError\(13,",
        DaemonUnavailable,
        "no permission to use the container daemon's socket",
        "join its group: sudo usermod -aG docker $USER, then log in anew or run `newgrp docker`; "
        "or use your own Podman: systemctl --user start podman.socket",
    ),
    Known(
        r"Read timed out",
        DaemonUnavailable,
        "the container daemon does not answer",
        "see what it does: sudo journalctl -u docker; restart it: sudo systemctl restart docker",
    ),
    Known(
        r"ConnectionResetError\(104,|RemoteDisconnected|BrokenPipeError\(32,",
        DaemonUnavailable,
        "the container daemon went away in the middle of a request",
        "see why it ended: sudo journalctl -u docker",
    ),
    Known(
        r"Failed to resolve '(?P<name>[^']+)'",
        DaemonUnavailable,
        "the container daemon's host `{name}` is not known",
        "correct DOCKER_HOST, or unset it",
    ),
    Known(
        r"client version (?P<ours>[\d.]+) is too (?:old|new)\. (?P<limit>M\w+ supported API "
        r"version is [\d.]+)",
        DaemonUnavailable,
        "the container daemon does not speak API {ours}: {limit}",
        "unset DOCKER_API_VERSION, or update Docker and trtenv",
    ),
)

# The daemon lacks what one way to a GPU needs.
NO_SUCH_WAY = (
    Known(
        r'could not select device driver "(?:nvidia)?" with capabilities: \[\[',
        GpuUnavailable,
        "Docker cannot give a GPU to containers: the NVIDIA Container Toolkit is not installed",
        f"install it ({TOOLKIT_PAGE}) and restart Docker; on a machine without an NVIDIA GPU: "
        "--gpus none",
    ),
    Known(
        r'could not select device driver "cdi"',
        GpuUnavailable,
        "this Docker does not know CDI devices (needs Docker 25 or newer)",
        "update Docker, or ask for GPUs without CDI: --gpus all, without --gpu-mode cdi",
    ),
    Known(
        r"(?:unknown or invalid runtime name:|Unknown runtime specified|OCI runtime) "
        r"\"?(?P<runtime>[\w.-]+)(?:$|\"? not found|\.)",
        HostError,
        "the container daemon has no runtime `{runtime}`",
        "register it: sudo nvidia-ctk runtime configure --runtime=docker, then "
        "sudo systemctl restart docker; or leave out --container-runtime: --gpus needs none",
    ),
    Known(
        r"unresolvable CDI devices (?P<devices>\S+)",
        GpuUnavailable,
        "no CDI description of the device {devices} on this machine",
        "write it: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; on a machine "
        "without an NVIDIA GPU: --gpus none",
    ),
)

GPU = (
    Known(
        r"unsatisfied condition: (?P<what>[a-z]+) ?>= ?(?P<version>[\d.]+)",
        GpuUnavailable,
        "the driver of this machine is too old for image `{image}`: it needs {what} {version} or "
        "newer, and the driver offers less",
        "see what the driver offers: nvidia-smi; update it, or choose an environment for an older "
        "CUDA: trtenv env list --runnable",
    ),
    Known(
        r"libnvidia-ml\.so\.1: cannot open shared object file|nvml error: driver not loaded",
        GpuUnavailable,
        "the NVIDIA Container Toolkit finds no NVIDIA driver on this machine",
        "install the driver until `nvidia-smi` works, or do without a GPU: --gpus none",
    ),
    Known(
        r"nvml error: driver/library version mismatch",
        GpuUnavailable,
        "the NVIDIA driver was updated and its kernel module is still the old one",
        "restart the machine",
    ),
    Known(
        r"nvidia-container-cli: device error: (?P<device>\S+): unknown device",
        GpuUnavailable,
        "this machine has no GPU `{device}`",
        "list them: nvidia-smi -L",
    ),
)

IMAGE = (
    Known(
        r"no space left on device",
        EnvironmentFailed,
        "the disk that holds the container images is full",
        "see what uses it: docker system df; free it: docker system prune; or move data-root to a "
        "larger disk in /etc/docker/daemon.json",
    ),
    Known(
        r"no matching manifest for (?P<platform>\S+)|does not match the specified platform",
        EnvironmentFailed,
        "image `{image}` is not published for this machine's processor",
        "choose an environment that is: trtenv env list --runnable",
    ),
    Known(
        r"toomanyrequests|pull rate limit",
        EnvironmentFailed,
        "the registry {host} refuses image `{image}` for now: too many pulls from this address",
        "log in for a higher limit: {login}; or try again later",
    ),
    Known(
        r"no basic auth credentials|unauthorized|401 Unauthorized|(?<!permission )denied: |DENIED"
        r"|Authorization Required|pull access denied",
        EnvironmentFailed,
        "the registry {host} does not give image `{image}`: it wants a login, or the image does "
        "not exist",
        "log in: {login}",
    ),
    Known(
        r"manifest unknown|manifest for \S+ not found|repository name not known to registry"
        r"|name unknown",
        EnvironmentFailed,
        "the registry {host} has no image `{image}`",
        "check name and tag; `trtenv env list` shows the known ones",
    ),
    Known(
        r"invalid reference format",
        UsageError,
        "`{image}` is no image reference",
        "write it as in `nvcr.io/nvidia/pytorch:20.12-py3`: the name in lower case, without spaces",
    ),
    Known(
        r"[Nn]o such image|image not known",
        EnvironmentFailed,
        "image `{image}` is not on this machine",
        "pull or build it: trtenv env pull NAME",
    ),
    Known(
        r"x509: (?P<why>.+)",
        HostError,
        "the registry {host} shows a certificate that the container daemon does not trust: {why}",
        "behind a company proxy, give the daemon its CA: /etc/docker/certs.d/{host}/ca.crt",
    ),
    Known(
        r"(?:dial tcp|proxyconnect|lookup|TLS handshake|request canceled|Client\.Timeout"
        r"|i/o timeout|connection reset by peer|unexpected EOF).*",
        HostError,
        "the container daemon cannot reach the registry {host}: {text}",
        "check the network, and the daemon's proxy: https://docs.docker.com/engine/daemon/proxy",
    ),
)

CONTAINER = (
    Known(
        r"container name \"/?(?P<name>[^\"]+)\" is already in use",
        UsageError,
        "a container is already called `{name}`",
        "remove it: docker rm -f {name}; or choose another --name",
    ),
    Known(
        r"exec: \"(?P<program>[^\"]+)\": (?:executable file not found|stat .*no such file)"
        r"|executable file `(?P<crun>[^`]+)` not found",
        EnvironmentFailed,
        "image `{image}` has no `{program}{crun}`",
        "jobs need Python 3 as `python3` in the image's PATH; a command may need its full path",
    ),
    Known(
        r"exec: \"(?P<program>[^\"]+)\": permission denied",
        EnvironmentFailed,
        "`{program}` of image `{image}` is no program that this user may run",
        "name a program: trtenv exec --env NAME -- PROGRAM ARGUMENTS",
    ),
    Known(
        r"exec format error|exec user process caused",
        EnvironmentFailed,
        "image `{image}` is for another processor than this machine's",
        "choose an environment for this machine: trtenv env list --runnable",
    ),
    Known(
        r"bind source path does not exist: (?P<path>.+)"
        r"|statfs (?P<podman>.+): no such file or directory"
        r"|The path (?P<desktop>.+) is not shared from the host",
        HostError,
        "the container daemon does not see `{path}{podman}{desktop}`",
        "it works on another file system (Docker in a container, as a snap, Docker Desktop, or "
        "on another machine): use a folder that both see",
    ),
    Known(
        r"stat(?:fs)? (?P<path>/.+): permission denied",
        HostError,
        "the container daemon may not read `{path}`",
        "network and FUSE file systems often shut out the daemon's root: use a folder on a local "
        "disk",
    ),
    Known(
        r"Duplicate mount point: (?P<target>.+)|(?P<podman>/\S+): duplicate mount destination",
        UsageError,
        "two mounts have the same target `{target}{podman}`",
        "give each mount its own target",
    ),
)  # fmt: skip

TABLE = (*DAEMON, *NO_SUCH_WAY, *GPU, *CONTAINER, *IMAGE)


def explain(text: str, *, image: str = "") -> TrtenvError:
    """The error that a text of the daemon stands for."""
    text = text.strip()
    for known in TABLE:
        if match := re.search(known.pattern, text):
            host = registry(image)
            words = {
                **{key: value or "" for key, value in match.groupdict().items()},
                "image": image,
                "host": host,
                "login": login(host),
                "text": text,
            }
            message = known.message.format_map(words)
            # The text itself may hold what the row leaves out; -v shows it, and so do details.
            return known.error(message, hint=known.hint.format_map(words), details=(text,))
    return EnvironmentFailed(f"the container daemon says: {text}")


def cannot_give_gpus(error: TrtenvError) -> bool:
    """Whether this way to a GPU is not there; another may be. Not so for a GPU that is not there."""
    text = "\n".join(error.details)
    return any(re.search(known.pattern, text) for known in NO_SUCH_WAY)


def refuses_ulimits(text: str) -> bool:
    """Whether a container did not start because the daemon may not raise its limits."""
    return "error setting rlimit" in text


def registry(image: str) -> str:
    """The host part of a reference; Docker Hub where there is none."""
    first, slash, _ = image.partition("/")
    return (
        first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
    )


def login(host: str) -> str:
    """The exact command. At NVIDIA's registry the user name is the same for everybody."""
    if host == NGC_HOST:
        return (
            f"docker login {NGC_HOST} --username '$oauthtoken', and give an NGC API key "
            "(https://org.ngc.nvidia.com/setup/api-key) as the password"
        )
    return f"docker login {host}" if host != "docker.io" else "docker login"
