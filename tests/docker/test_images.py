"""Images: pulled with progress, refused without a login, told apart, removed."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemons import answers, volumes, wait_for

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed, HostError, UsageError
from trtenv.runners import daemon
from trtenv.runners.docker import DockerRunner
from trtenv.runners.protocol import Job, RunOptions

pytestmark = [
    pytest.mark.docker,
    pytest.mark.parametrize("engine", ["docker"], indirect=True, scope="session"),
]

# tester:secret, bcrypt with the least cost.
HTPASSWD = "tester:$2b$04$SrbrPVUL3AGQu04z8IZa3uvEFCEGV9WAEiMD5eV86V3ZBUVdcYBla\n"
OPEN, CLOSED, NOBODY = 5056, 5055, 5057


@contextmanager
def registry(folder: Path, port: int, *, login: bool) -> Iterator[str]:
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    folder.mkdir()
    (folder / "htpasswd").write_text(HTPASSWD)
    configuration = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **(
            {"auth": {"htpasswd": {"realm": "x", "path": str(folder / "htpasswd")}}}
            if login
            else {}
        ),
    }
    (folder / "config.yml").write_text(json.dumps(configuration))  # JSON is YAML
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: answers(("127.0.0.1", port)))
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def pushed(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image in a registry that asks nobody who they are."""
    with registry(tmp_path_factory.mktemp("open") / "r", OPEN, login=False) as host:
        client = daemon.connect()
        client.api.load_image(empty_image(f"{host}/base:1", client.version()["Arch"]))
        client.api.push(f"{host}/base", tag="1")
        client.api.remove_image(f"{host}/base:1")
        client.close()
        yield f"{host}/base:1"


def named(image: str) -> Environment:
    return Environment(name="pulled", image=image)


def test_pull_and_remove(
    runner: DockerRunner, pushed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console.Step, "update", lambda _, text: lines.append(text))
    environment = named(pushed)
    assert not runner.is_present(environment)
    identity = runner.prepare(environment, RunOptions())
    assert identity.reference == pushed
    assert identity.digest.startswith("sha256:")
    assert identity.digest != identity.details["id"]
    assert any("layers" in line for line in lines)
    by_digest = named(f"{pushed.rpartition(':')[0]}@{identity.digest}")
    assert runner.prepare(by_digest, RunOptions(pull=False)).digest == identity.digest
    assert runner.pull(environment).digest == identity.digest
    assert runner.remove(environment) == [pushed]
    assert not runner.is_present(environment)


@pytest.mark.parametrize("absent", ["base:nope", "nothing:1", "base@sha256:" + "0" * 64])
def test_what_the_registry_does_not_have(runner: DockerRunner, pushed: str, absent: str) -> None:
    host = pushed.partition("/")[0]
    with pytest.raises(
        EnvironmentFailed, match=f"the registry {host} has no image `{host}/{absent}`"
    ):
        runner.prepare(named(f"{host}/{absent}"), RunOptions())


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_registry_that_wants_a_login(
    runner: DockerRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    log_in(tmp_path, monkeypatch, password)
    with (
        registry(tmp_path / "r", CLOSED, login=True) as host,
        pytest.raises(EnvironmentFailed, match="wants a login") as failed,
    ):
        runner.prepare(named(f"{host}/base:1"), RunOptions())
    assert failed.value.hint == f"log in: docker login {host}"


def test_the_login_of_docker_is_used(
    runner: DockerRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, monkeypatch, "secret")
    with (
        registry(tmp_path / "r", CLOSED, login=True) as host,
        pytest.raises(EnvironmentFailed, match="has no image"),
    ):
        runner.prepare(named(f"{host}/base:1"), RunOptions())


def log_in(folder: Path, monkeypatch: pytest.MonkeyPatch, password: str | None) -> None:
    auth = base64.b64encode(f"tester:{password}".encode()).decode()
    auths = {f"127.0.0.1:{CLOSED}": {"auth": auth}} if password else {}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_a_registry_that_does_not_answer(runner: DockerRunner) -> None:
    with pytest.raises(HostError, match=f"cannot reach the registry 127.0.0.1:{NOBODY}"):
        runner.prepare(named(f"127.0.0.1:{NOBODY}/base:1"), RunOptions())


def test_no_reference_at_all(runner: DockerRunner) -> None:
    with pytest.raises(UsageError, match="`Not A Reference` is no image reference"):
        runner.prepare(named("Not A Reference"), RunOptions())


def test_another_processor(runner: DockerRunner) -> None:
    foreign = "arm64" if runner.facts.architecture == "amd64" else "amd64"
    reference = "trtenv-test-foreign:1"
    runner.client.api.load_image(empty_image(reference, foreign))
    try:
        with pytest.raises(EnvironmentFailed, match=f"is for linux/{foreign}"):
            runner.prepare(named(reference), RunOptions())
    finally:
        runner.client.api.remove_image(reference)


def empty_image(reference: str, architecture: str) -> bytes:
    """As `docker save` writes it."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    configuration = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    files = {
        "layer.tar": layer.getvalue(),
        "config.json": json.dumps(configuration).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return image.getvalue()


def test_volumes_of_the_image_go_with_the_container(
    runner: DockerRunner, base_image: str, staging: Path
) -> None:
    api = runner.client.api
    made = api.create_container_from_config({"Image": base_image, "Cmd": ["true"]})
    api.commit(made, "trtenv-test-volume", "1", changes=["VOLUME /data"])
    api.remove_container(made)
    before = volumes(runner)
    try:
        with runner.session(named("trtenv-test-volume:1"), RunOptions(), staging) as session:
            session.run(Job("probe", {}), lambda _: None)
            assert len(volumes(runner) - before) == 1
        assert volumes(runner) == before
    finally:
        api.remove_image("trtenv-test-volume:1")


def test_an_environment_without_an_image(runner: DockerRunner) -> None:
    environment = Environment(name="jetson", not_pullable="only a moving tag is known")
    with pytest.raises(EnvironmentFailed, match="has no image: only a moving tag is known"):
        runner.prepare(environment, RunOptions())


def test_facts(runner: DockerRunner) -> None:
    facts = daemon.daemon_facts()
    assert facts.reachable
    assert facts.name == "docker"
    assert facts.url.startswith(("unix://", "tcp://"))
    assert facts.version
    assert facts.memory
    assert "runc" in facts.runtimes
    assert facts.architecture in ("amd64", "arm64")
    assert facts.to_dict()["reachable"] is True
    if Path(facts.data_root).is_dir():
        assert facts.free_bytes
