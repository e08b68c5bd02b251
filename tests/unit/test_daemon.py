"""Finding a daemon: absent, down, forbidden, hanging, too old. Local sockets, no daemon."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trtenv.errors import DaemonUnavailable
from trtenv.runners import daemon

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(daemon, "CONNECT_TIMEOUT", 1)


@contextmanager
def listening(path: Path, *answers: dict[str, object]) -> Iterator[str]:
    """A daemon that gives these answers, one a request, and then hangs."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            for answer in answers:
                # Whoever asks nothing only knocks.
                while not (client := server.accept()[0]).recv(65536):
                    client.close()
                body = json.dumps(answer).encode()
                head = (
                    f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                client.sendall(head.encode() + body)
                client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{path}"
        thread.join(timeout=5)


def unavailable() -> DaemonUnavailable:
    with pytest.raises(DaemonUnavailable) as failed:
        daemon.connect()
    return failed.value


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    problem = unavailable()
    assert "the socket does not exist" in problem.message
    assert problem.details == (f"tried unix://{tmp_path}/none.sock: {problem.message}",)


def test_a_daemon_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "dead.sock"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    assert "does not run" in unavailable().message


def test_no_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the kernel says it; root, who runs these tests, is never told so."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/x.sock")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    problem = unavailable()
    assert "no permission" in problem.message
    assert "usermod -aG docker" in (problem.hint or "")


def test_a_daemon_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with listening(tmp_path / "hung.sock") as url:
        monkeypatch.setenv("DOCKER_HOST", url)
        started = time.monotonic()
        facts = daemon.daemon_facts()
    assert time.monotonic() - started < 3
    assert not facts.reachable
    assert "does not answer" in (facts.reason or "")


def test_a_daemon_that_hangs_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with listening(tmp_path / "hung.sock", {"ApiVersion": "1.43"}) as url:
        monkeypatch.setenv("DOCKER_HOST", url)
        facts = daemon.daemon_facts()
    assert "does not answer" in (facts.reason or "")


def test_a_daemon_that_is_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with listening(tmp_path / "old.sock", {"ApiVersion": "1.40"}) as url:
        monkeypatch.setenv("DOCKER_HOST", url)
        problem = unavailable()
    assert "speaks API 1.40, needed is 1.41" in problem.message
    assert "Docker 20.10" in (problem.hint or "")


def test_what_a_daemon_says_of_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rootless Docker 28 with CDI devices, on a machine whose disk is not ours."""
    version = {"ApiVersion": "1.50", "Version": "28.3.0", "Arch": "arm64", "Components": []}
    info = {
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"],
        "CgroupVersion": "2",
        "Runtimes": {"runc": {}, "nvidia": {}},
        "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}],
        "DockerRootDir": "/nowhere/docker",
        "MemTotal": 2**33,
        "PidsLimit": True,
        "MemoryLimit": False,
    }
    with listening(tmp_path / "docker.sock", version, version, info) as url:
        monkeypatch.setenv("DOCKER_HOST", url)
        facts = daemon.daemon_facts()
    assert facts == daemon.DaemonFacts(
        url=url,
        name="docker",
        version="28.3.0",
        api="1.50",
        architecture="arm64",
        rootless=True,
        limits_memory=False,
        cgroup_version="2",
        runtimes=("nvidia", "runc"),
        cdi_devices=("nvidia.com/gpu=all",),
        data_root="/nowhere/docker",
        free_bytes=None,
        memory=2**33,
    )


def test_the_users_own_daemons_are_found(tmp_path: Path) -> None:
    (tmp_path / "docker.sock").touch()
    (tmp_path / "podman").mkdir()
    (tmp_path / "podman" / "podman.sock").touch()
    found = [url for url, _ in daemon._addresses()]
    assert found[:3] == [
        "unix:///var/run/docker.sock",
        f"unix://{tmp_path}/docker.sock",
        f"unix://{tmp_path}/podman/podman.sock",
    ]


def test_a_wish_is_the_only_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker.sock").touch()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert [url for url, _ in daemon._addresses()] == ["tcp://127.0.0.1:2375"]


def test_a_docker_context_is_a_wish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from docker.context.config import get_context_id

    folder = tmp_path / "contexts" / "meta" / get_context_id("mine")
    folder.mkdir(parents=True)
    endpoint = {"Host": "unix:///run/mine.sock", "SkipTLSVerify": False}
    meta = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (folder / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert list(daemon._addresses()) == [("unix:///run/mine.sock", {"tls": False})]
    monkeypatch.setenv("DOCKER_CONTEXT", "nosuch")
    with pytest.raises(DaemonUnavailable, match="no Docker context `nosuch`"):
        daemon.connect()


@pytest.mark.parametrize("host", ["foo://x", "tcp://"])
def test_a_wish_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert "DOCKER_HOST" in (unavailable().hint or "")


def test_free_space_of_a_disk_that_is_here() -> None:
    assert daemon._free_bytes(str(Path.cwd()))
    assert daemon._free_bytes("/nowhere") is None
    assert daemon._free_bytes("") is None
