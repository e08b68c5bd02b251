"""A daemon that is killed in the middle of a job: an error at once, and nothing left in the end."""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from daemons import Dockerd, containers, wait_for

from trtenv.catalog.model import Environment
from trtenv.errors import JobFailed
from trtenv.runners.docker import DockerRunner
from trtenv.runners.protocol import Job, RunOptions

pytestmark = pytest.mark.docker


@pytest.fixture
def dockerd(
    base_archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dockerd]:
    if not shutil.which("dockerd") or os.getuid() != 0:
        pytest.skip("only root with dockerd can start a second one")
    (tmp_path / "d").mkdir()
    started = Dockerd(tmp_path / "d")
    monkeypatch.setenv("DOCKER_HOST", started.url)
    try:
        with closing(docker.DockerClient(started.url)) as client:
            client.api.load_image(base_archive, quiet=True)
        yield started
    finally:
        started.stop()


# docker-py leaves a socket open whose connect was refused; collected here, it troubles no other.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_daemon(
    dockerd: Dockerd,
    environment: Environment,
    jobs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def kill_it(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            dockerd.kill()

    runner = DockerRunner()
    with (
        pytest.raises(JobFailed, match="was lost in the middle of a job") as failed,
        runner.session(environment, RunOptions(), tmp_path / "staging") as session,
    ):
        session.run(Job("misbehave", {"how": "sleep"}), kill_it)
    assert "trtenv clean" in (failed.value.hint or "")
    assert "hint: docker rm --force --volumes trtenv-" in capsys.readouterr().err

    dockerd.start()  # which ends what still runs
    wait_for(lambda: [entry.state for entry in runner.leftovers(everything=True)] == ["exited"])
    assert len(runner.clean(everything=True)) == 1
    assert containers(runner) == []
    runner.client.close()
    del failed
    gc.collect()
