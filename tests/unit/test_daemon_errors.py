"""Every row of the table, with the text it was written for.

Texts without a comment were seen: Docker 20.10.24, Podman 4.3.1, docker-registry 2.8.2, docker-py 7.2.
"""

import pytest

from trtenv.errors import (
    DaemonUnavailable,
    EnvironmentFailed,
    GpuUnavailable,
    HostError,
    TrtenvError,
    UsageError,
)
from trtenv.runners.daemon_errors import TABLE, explain, login, refuses_ulimits, registry

VERSION_CHECK = "Error while fetching server API version: "
RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
PODMAN_PULL = "initializing source docker://127.0.0.1:5055/base:1: "
IMAGE = "nvcr.io/nvidia/pytorch:20.12-py3"

SEEN = [
    (
        VERSION_CHECK + "('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))",
        DaemonUnavailable,
        "the socket does not exist",
        "install Docker",
    ),
    (
        VERSION_CHECK + "('Connection aborted.', ConnectionRefusedError(111, 'Connection refused'))",
        DaemonUnavailable,
        "does not run",
        "systemctl start docker",
    ),
    (
        VERSION_CHECK + "HTTPConnectionPool(host='127.0.0.1', port=2399): Max retries exceeded with "
        "url: /version (Caused by NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=2399): "
        'Failed to establish a new connection: [Errno 111] Connection refused"))',
        DaemonUnavailable,
        "does not run",
        "systemctl start docker",
    ),
    (
        VERSION_CHECK + "('Connection aborted.', PermissionError(13, 'Permission denied'))",
        DaemonUnavailable,
        "no permission",
        "sudo usermod -aG docker $USER",
    ),
    (
        VERSION_CHECK + "UnixHTTPConnectionPool(host='localhost', port=None): Read timed out. "
        "(read timeout=2)",
        DaemonUnavailable,
        "does not answer",
        "journalctl",
    ),
    (
        "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
        DaemonUnavailable,
        "went away",
        "journalctl",
    ),
    (
        VERSION_CHECK + "HTTPConnectionPool(host='nosuch.host.invalid', port=2399): Max retries "
        "exceeded with url: /version (Caused by NameResolutionError(\"HTTPConnection(host='nosuch."
        "host.invalid', port=2399): Failed to resolve 'nosuch.host.invalid' ([Errno -2] Name or "
        'service not known)"))',
        DaemonUnavailable,
        "`nosuch.host.invalid` is not known",
        "DOCKER_HOST",
    ),
    # Docker 29 to an old client, moby/moby api/server/middleware/version.go.
    (
        ("client version 1.24 is too old. Minimum supported API version is 1.44, please upgrade your "
        "client to a newer version"),
        DaemonUnavailable,
        "API 1.24: Minimum supported API version is 1.44",
        "DOCKER_API_VERSION",
    ),
    (
        'could not select device driver "" with capabilities: [[gpu]]',
        GpuUnavailable,
        "NVIDIA Container Toolkit is not installed",
        "--gpus none",
    ),
    (
        'could not select device driver "cdi" with capabilities: []',
        GpuUnavailable,
        "does not know CDI",
        "--gpus all",
    ),
    ("Unknown runtime specified nvidia", HostError, "no runtime `nvidia`", "nvidia-ctk runtime"),
    # Docker 23 and newer, moby/moby daemon/runtime_unix.go.
    (
        "unknown or invalid runtime name: nvidia",
        HostError,
        "no runtime `nvidia`",
        "nvidia-ctk runtime",
    ),
    (
        'default OCI runtime "nvidia" not found: invalid argument',
        HostError,
        "no runtime `nvidia`",
        "nvidia-ctk runtime",
    ),
    # SyneRBI/PETRIC2, issue "unsatisfied condition: cuda>=12.8".
    (
        RUNC + "error during container init: error running prestart hook #0: exit status 1, stdout: , "
        "stderr: Auto-detected mode as 'legacy'\nnvidia-container-cli: requirement error: unsatisfied "
        "condition: cuda>=12.8, please update your driver to a newer version, or use an earlier cuda "
        "container",
        GpuUnavailable,
        f"too old for image `{IMAGE}`: it needs cuda 12.8 or newer",
        "nvidia-smi",
    ),
    # NVIDIA/nvidia-docker, issue "Unsatisfied condition: cuda >= 9.0": an older spelling.
    (
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda >= 9.0\\n",
        GpuUnavailable,
        "it needs cuda 9.0 or newer",
        "nvidia-smi",
    ),
    # NVIDIA/libnvidia-container, issue of the same title.
    (
        ("nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot "
        "open shared object file: no such file or directory: unknown"),
        GpuUnavailable,
        "finds no NVIDIA driver",
        "--gpus none",
    ),
    # NVIDIA/nvidia-docker, the FAQ's texts of libnvidia-container.
    (
        "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
        GpuUnavailable,
        "finds no NVIDIA driver",
        "nvidia-smi",
    ),
    (
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
        GpuUnavailable,
        "kernel module is still the old one",
        "restart",
    ),
    (
        "nvidia-container-cli: device error: 7: unknown device: unknown",
        GpuUnavailable,
        "no GPU `7`",
        "nvidia-smi -L",
    ),
    (
        "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
        GpuUnavailable,
        "nvidia.com/gpu=all",
        "nvidia-ctk cdi generate",
    ),
    (
        ('Conflict. The container name "/mine" is already in use by container "e37ee8b4d27a2d39". You '
        "have to remove (or rename) that container to be able to reuse that name."),
        UsageError,
        "already called `mine`",
        "docker rm -f mine",
    ),
    (
        ('container create: creating container storage: the container name "mine" is already in use by '
        "d4df2690317f. You have to remove that container to be able to reuse that name: that name is "
        "already in use"),
        UsageError,
        "already called `mine`",
        "docker rm -f mine",
    ),
    (
        RUNC + 'exec: "python3": executable file not found in $PATH: unknown',
        EnvironmentFailed,
        f"image `{IMAGE}` has no `python3`",
        "Python 3",
    ),
    (
        RUNC + 'exec: "/nothere/x": stat /nothere/x: no such file or directory: unknown',
        EnvironmentFailed,
        "has no `/nothere/x`",
        "full path",
    ),
    # Podman with crun, containers/crun src/libcrun/container.c.
    (
        ("crun: executable file `python3` not found in $PATH: No such file or directory: OCI runtime "
        "attempted to invoke a command that was not found"),
        EnvironmentFailed,
        "has no `python3`",
        "Python 3",
    ),
    (
        RUNC + 'exec: "/etc": permission denied: unknown',
        EnvironmentFailed,
        "`/etc`",
        "trtenv exec",
    ),
    ("exec /x: exec format error\n", EnvironmentFailed, "another processor", "env list"),
    # runc before 1.1, opencontainers/runc standard_init_linux.go.
    (
        "standard_init_linux.go:228: exec user process caused: exec format error",
        EnvironmentFailed,
        "another processor",
        "env list",
    ),
    (
        'invalid mount config for type "bind": bind source path does not exist: /nowhere/a b',
        HostError,
        "does not see `/nowhere/a b`",
        "a folder that both see",
    ),
    # Docker Desktop, docker/for-mac.
    (
        "Mounts denied: \nThe path /data is not shared from the host and is not known to Docker.",
        HostError,
        "does not see `/data`",
        "a folder that both see",
    ),
    # A home directory on NFS with root_squash, moby/moby volume/mounts/linux_parser.go.
    (
        'invalid mount config for type "bind": stat /home/ann/out: permission denied',
        HostError,
        "may not read `/home/ann/out`",
        "local disk",
    ),
    ("Duplicate mount point: /x", UsageError, "same target `/x`", "its own target"),
    (
        "fill out specgen: /x: duplicate mount destination",
        UsageError,
        "same target `/x`",
        "its own target",
    ),
    (
        (
            "failed to register layer: ApplyLayer exit status 1 stdout:  stderr: write "
            "/usr/share/ca-certificates/mozilla/Certum_Trusted_Root_CA.crt: no space left on device"
        ),
        EnvironmentFailed,
        "is full",
        "docker system df",
    ),
    # moby/moby daemon/internal/distribution/pull_v2.go.
    (
        "no matching manifest for linux/arm64/v8 in the manifest list entries",
        EnvironmentFailed,
        "not published for this machine's processor",
        "env list --runnable",
    ),
    # Docker Hub's own words, docs.docker.com/docker-hub/usage.
    (
        ("toomanyrequests: You have reached your pull rate limit. You may increase the limit by "
        "authenticating and upgrading: https://www.docker.com/increase-rate-limit"),
        EnvironmentFailed,
        "too many pulls",
        "log in",
    ),
    (
        'Head "http://127.0.0.1:5055/v2/base/manifests/1": no basic auth credentials',
        EnvironmentFailed,
        "wants a login",
        "docker login nvcr.io --username '$oauthtoken'",
    ),
    (
        "unauthorized: authentication required",
        EnvironmentFailed,
        f"registry nvcr.io does not give image `{IMAGE}`",
        "NGC API key",
    ),
    (
        PODMAN_PULL + "reading manifest 1 in 127.0.0.1:5055/base: unauthorized: authentication required",
        EnvironmentFailed,
        "wants a login",
        "docker login",
    ),
    # NVlabs/alpasim, issue "Access Denied".
    (
        ("Head 'https://nvcr.io/v2/nvidian/nre/manifests/25.7.9': denied: "
        '{"errors": [{"code": "DENIED", "message": "Access Denied"}]}'),
        EnvironmentFailed,
        "wants a login",
        "docker login nvcr.io",
    ),
    # moby/moby daemon/internal/distribution/errors.go; the same for absent and for private ones.
    (
        ("pull access denied for nosuch, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"),
        EnvironmentFailed,
        "or the image does not exist",
        "docker login",
    ),
    (
        "manifest for 127.0.0.1:5056/base:nope not found: manifest unknown: manifest unknown",
        EnvironmentFailed,
        f"has no image `{IMAGE}`",
        "check name and tag",
    ),
    (
        PODMAN_PULL + "reading manifest 1 in 127.0.0.1:5055/base: manifest unknown: manifest unknown",
        EnvironmentFailed,
        f"has no image `{IMAGE}`",
        "check name and tag",
    ),
    ("No such image: nosuchimage:x", EnvironmentFailed, "not on this machine", "env pull"),
    (
        "no such image: docker.io/library/nosuchimage:x: image not known",
        EnvironmentFailed,
        "not on this machine",
        "env pull",
    ),
    (
        "invalid reference format: repository name must be lowercase",
        UsageError,
        "no image reference",
        "lower case",
    ),
    # moby/moby, issues on private registries.
    (
        'Get "https://registry.company/v2/": x509: certificate signed by unknown authority',
        HostError,
        "certificate signed by unknown authority",
        "/etc/docker/certs.d/nvcr.io/ca.crt",
    ),
    (
        'Get "https://nvcr.io/v2/": dial tcp: lookup nvcr.io on 10.255.255.53:53: no such host',
        HostError,
        "cannot reach the registry nvcr.io",
        "proxy",
    ),
    (
        'Get "http://127.0.0.1:5999/v2/": dial tcp 127.0.0.1:5999: connect: connection refused',
        HostError,
        "connection refused",
        "check the network",
    ),
    # Go's net/http, as moby/moby passes it on.
    (
        ('Get "https://nvcr.io/v2/": net/http: request canceled while waiting for connection '
        "(Client.Timeout exceeded while awaiting headers)"),
        HostError,
        "cannot reach the registry",
        "check the network",
    ),
    (
        'Get "https://nvcr.io/v2/": net/http: TLS handshake timeout',
        HostError,
        "cannot reach the registry",
        "check the network",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "message", "hint"), SEEN)
def test_known_text(text: str, kind: type[TrtenvError], message: str, hint: str) -> None:
    problem = explain(text, image=IMAGE)
    assert type(problem) is kind
    assert message in problem.message
    assert hint in (problem.hint or "")
    assert text.strip() in (*problem.details, problem.message)


def test_every_row_has_its_text() -> None:
    hints = {explain(text, image=IMAGE).hint for text, *_ in SEEN}
    words = {"image": IMAGE, "host": "nvcr.io", "login": login("nvcr.io"), "name": "mine"}
    assert [known for known in TABLE if known.hint.format_map(words) not in hints] == []


def test_an_unknown_text_is_passed_on_whole() -> None:
    problem = explain("the moon is in the wrong house", image=IMAGE)
    assert type(problem) is EnvironmentFailed
    assert problem.message == "the container daemon says: the moon is in the wrong house"


def test_refused_limits_are_told_from_other_failures() -> None:
    docker = RUNC + (
        "error during container init: error setting rlimits for ready process: error setting rlimit "
        "type 8: operation not permitted: unknown"
    )
    podman = (
        "preparing container d4df2690 for attach: runc: runc create failed: unable to start container "
        "process: error during container init: error setting rlimits for ready process: error setting "
        "rlimit type 7: operation not permitted: OCI permission denied"
    )
    assert refuses_ulimits(explain(docker).message)
    assert refuses_ulimits(explain(podman).message)
    assert not refuses_ulimits(explain("no space left on device").message)


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("nvcr.io/nvidia/tensorrt:22.08-py3", "nvcr.io"),
        ("127.0.0.1:5000/base", "127.0.0.1:5000"),
        ("localhost/base", "localhost"),
        ("ultralytics/ultralytics:latest", "docker.io"),
        ("ubuntu", "docker.io"),
    ],
)
def test_registry_of_a_reference(image: str, host: str) -> None:
    assert registry(image) == host


def test_login_line() -> None:
    assert login("nvcr.io").startswith("docker login nvcr.io --username '$oauthtoken'")
    assert login("ghcr.io") == "docker login ghcr.io"
    assert login("docker.io") == "docker login"
