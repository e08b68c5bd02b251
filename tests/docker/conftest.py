"""Real daemons: Docker as it is found, and a Podman started for the tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
from daemons import Engine, containers, podman_service, volumes, wait_for

from trtenv.catalog.model import Environment
from trtenv.runners import container, daemon
from trtenv.runners.docker import DockerRunner

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def base_archive(base_image: str) -> bytes:
    """The base image, for daemons of our own."""
    with closing(daemon.connect()) as client:
        return b"".join(client.api.get_image(base_image))


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("podman", marks=[pytest.mark.docker, pytest.mark.podman]),
    ],
)
def engine(
    request: pytest.FixtureRequest, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    if request.param == "docker":
        client, url = daemon._connect()
        client.close()
        yield Engine("docker", url)
        return
    if not shutil.which("podman") or os.getuid() != 0:
        pytest.skip("needs podman, and root to start it apart from the user's own")
    archive = request.getfixturevalue("base_archive")
    with podman_service(tmp_path_factory.mktemp("podman")) as address:
        with closing(docker.DockerClient(address)) as client:
            client.api.load_image(archive, quiet=True)
        yield Engine("podman", address)


@pytest.fixture
def runner(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerRunner]:
    """A runner on that engine; whatever the test does, no container and no volume may stay."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    found = DockerRunner()
    before = volumes(found)
    yield found
    try:
        wait_for(lambda: not containers(found), 10)
        assert volumes(found) == before
    finally:
        found.clean(everything=True)
        found.client.close()


@pytest.fixture
def environment(base_image: str) -> Environment:
    return Environment(name="test", image=base_image)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's worker with the jobs of these tests, in the place of the package's jobs."""
    folder = tmp_path / "jobs"
    shutil.copytree(HERE / "jobs", folder)
    shutil.copy(container.JOBS_FOLDER / "worker.py", folder)
    monkeypatch.setattr(container, "JOBS_FOLDER", folder)
    return folder


@pytest.fixture
def staging(tmp_path: Path, engine: Engine) -> Path:
    """A path with all that ever broke a mount; Podman cannot mount comma and colon together."""
    name = "space, comma: colon, é" if engine.name == "docker" else "space, comma, é"
    folder = tmp_path / name
    folder.mkdir()
    return folder
