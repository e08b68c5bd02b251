"""What every session promises, on Docker and on Podman."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from daemons import Engine, containers

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed, GpuUnavailable, JobFailed, OutOfMemory, UsageError
from trtenv.runners import docker as docker_runner
from trtenv.runners.docker import DockerRunner
from trtenv.runners.protocol import Job, Mount, RunOptions

pytestmark = pytest.mark.docker

CAP_DAC_OVERRIDE = 1 << 1


def ignore(event: dict[str, Any]) -> None:
    pass


def misbehave(how: str) -> Job:
    return Job("misbehave", {"how": how})


def test_a_second_job_shares_the_container(
    runner: DockerRunner, environment: Environment, staging: Path
) -> None:
    events: list[dict[str, Any]] = []
    with runner.session(environment, RunOptions(), staging) as session:
        first = session.run(Job("probe", {}), events.append)
        assert len(containers(runner)) == 1
        second = session.run(Job("probe", {}), ignore)
    assert first.values["python"].startswith("3.")
    assert first.values == second.values
    assert [event["event"] for event in events] == ["ready", "start", "progress", "result"]
    assert (first.out.name, second.out.name) == ("1-probe", "2-probe")


def test_what_a_job_sees(
    runner: DockerRunner, environment: Environment, staging: Path, jobs: Path, tmp_path: Path
) -> None:
    model, folder = tmp_path / "modèle, 1.onnx", tmp_path / "data"
    model.write_text("weights", encoding="utf-8")
    folder.mkdir()
    (folder / "x").write_text("x")
    options = RunOptions(
        mounts=[Mount(source=model), Mount(source=folder, target="/data set")],
        variables={"MINE": "ours, yours: é"},
        shm_size=32 * 2**20,
        name="trtenv-test-name",
    )
    with runner.session(environment, options, staging) as session:
        assert containers(runner) == ["trtenv-test-name"]
        inside = session.inside(model)
        job = Job("look", {"read": [inside, "/data set/x"], "write": [inside, "/data set/y"]})
        seen = session.run(job, ignore).values
    assert (seen["uid"], seen["gid"]) == (os.getuid(), os.getgid())
    assert seen["user"] == ("trtenv" if os.getuid() else "root")
    assert seen["home"] == seen["cwd"] == "/trtenv/home"
    assert seen["home_error"] is None
    assert inside == "/trtenv/in/0/modèle, 1.onnx"
    assert seen["inputs"] == {inside: "weights", "/data set/x": "x"}
    assert seen["write_errors"] == ["OSError", "OSError"]  # a read-only file system
    assert seen["network_error"] == "OSError"  # network is unreachable
    assert int(seen["capabilities"], 16) == (0 if os.getuid() else CAP_DAC_OVERRIDE)
    assert seen["no_new_privileges"] == "1"
    assert seen["shm"] == 32 * 2**20
    assert seen["environment"]["MINE"] == "ours, yours: é"
    made = staging / "out" / "1-look" / "made by the job, é.txt"
    assert (made.stat().st_uid, made.stat().st_gid) == (os.getuid(), os.getgid())


def test_output_that_is_no_event_and_no_utf8(
    runner: DockerRunner,
    environment: Environment,
    staging: Path,
    jobs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.set_verbose(on=True)
    events: list[dict[str, Any]] = []
    try:
        with runner.session(environment, RunOptions(), staging) as session:
            assert session.run(misbehave("noise"), events.append).values == {"noisy": True}
    finally:
        console.set_verbose(on=False)
    texts = [event["text"] for event in events if event["event"] == "log"]
    assert texts == ["� no event", "{half of é and the rest}"]
    assert session.log.read_bytes() == b"\xff\xfe no UTF-8\nno newline at the end"
    assert "    �� no UTF-8\n" in capsys.readouterr().err


def test_a_worker_that_exits_by_itself(
    runner: DockerRunner, environment: Environment, staging: Path, jobs: Path
) -> None:
    with (
        pytest.raises(JobFailed, match="exit code 7") as failed,
        runner.session(environment, RunOptions(), staging) as session,
    ):
        session.run(misbehave("exit_7"), ignore)
    assert failed.value.details == ("last words",)


def test_a_crash_is_named(
    runner: DockerRunner, environment: Environment, staging: Path, jobs: Path
) -> None:
    with (
        pytest.raises(JobFailed, match="SIGSEGV"),
        runner.session(environment, RunOptions(), staging) as session,
    ):
        session.run(misbehave("crash"), ignore)


def test_a_dead_worker_takes_no_second_job(
    runner: DockerRunner, environment: Environment, staging: Path, jobs: Path
) -> None:
    with runner.session(environment, RunOptions(), staging) as session:
        for _ in range(2):
            with pytest.raises(JobFailed, match="exit code 7"):
                session.run(misbehave("exit_7"), ignore)


def test_out_of_memory_names_the_limit(
    runner: DockerRunner, environment: Environment, staging: Path, jobs: Path
) -> None:
    with (
        pytest.raises(OutOfMemory, match="limit of 64 MiB") as failed,
        runner.session(environment, RunOptions(memory=64 * 2**20), staging) as session,
    ):
        session.run(misbehave("eat_memory"), ignore)
    assert failed.value.hint == "raise --memory"


def test_an_error_of_the_caller_passes_and_nothing_stays(
    runner: DockerRunner, environment: Environment, staging: Path
) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        runner.session(environment, RunOptions(), staging),
    ):
        _ = 1 / 0
    assert containers(runner) == []
    shutil.rmtree(staging)


def test_a_container_that_somebody_else_removed(
    runner: DockerRunner, environment: Environment, staging: Path
) -> None:
    with runner.session(environment, RunOptions(), staging) as session:
        runner.clean(everything=True)
        with pytest.raises(JobFailed, match="the container was lost"):
            session.run(Job("probe", {}), ignore)


def test_labels_say_whose_it_is(
    runner: DockerRunner, environment: Environment, staging: Path
) -> None:
    with runner.session(environment, RunOptions(), staging):
        (entry,) = runner.client.api.containers(filters={"label": "dev.trtenv.kind=session"})
        assert entry["Labels"]["dev.trtenv.pid"] == str(os.getpid())
        assert entry["Labels"]["dev.trtenv.environment"] == "test"
        assert runner.leftovers() == []  # its client is alive


def test_a_taken_name(runner: DockerRunner, environment: Environment, tmp_path: Path) -> None:
    options = RunOptions(name="trtenv-test-name")
    with runner.session(environment, options, tmp_path / "first") as first:
        with (
            pytest.raises(UsageError, match="already called `trtenv-test-name`") as failed,
            runner.session(environment, options, tmp_path / "second"),
        ):
            pass
        assert failed.value.hint == (
            "remove it: docker rm -f trtenv-test-name; or choose another --name"
        )
        first.run(Job("probe", {}), ignore)  # and the first one lives on


def test_a_missing_mount_source_is_refused_and_not_created(
    runner: DockerRunner, environment: Environment, staging: Path, tmp_path: Path
) -> None:
    typo = tmp_path / "modle.onnx"
    with (
        pytest.raises(UsageError, match="does not exist"),
        runner.session(environment, RunOptions(mounts=[Mount(source=typo)]), staging),
    ):
        pass
    assert not typo.exists()


def test_a_daemon_that_does_not_see_the_jobs(
    runner: DockerRunner,
    environment: Environment,
    staging: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(docker_runner.plan, "JOBS_FOLDER", empty)
    with (
        pytest.raises(Exception, match="sees another file system"),
        runner.session(environment, RunOptions(), staging) as session,
    ):
        session.run(Job("probe", {}), ignore)


def test_an_image_without_python(
    runner: DockerRunner,
    environment: Environment,
    staging: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(docker_runner.plan, "WORKER", ("python9", "/trtenv/jobs/worker.py"))
    with (
        pytest.raises(EnvironmentFailed, match="has no `python9`"),
        runner.session(environment, RunOptions(), staging),
    ):
        pass


def test_a_gpu_without_the_toolkit(
    runner: DockerRunner, environment: Environment, staging: Path, engine: Engine
) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    expected = "Toolkit is not installed" if engine.name == "docker" else "drops the wish|no CDI"
    with (
        pytest.raises(GpuUnavailable, match=expected) as failed,
        runner.session(environment, RunOptions(gpus="all"), staging),
    ):
        pass
    assert "--gpus none" in (failed.value.hint or "")


def test_a_missing_image(runner: DockerRunner, staging: Path) -> None:
    absent = Environment(name="absent", image="trtenv-nosuch:1")
    assert not runner.is_present(absent)
    with pytest.raises(EnvironmentFailed, match="pulling is off"):
        runner.prepare(absent, RunOptions(pull=False))
    with (
        pytest.raises(EnvironmentFailed, match="`trtenv-nosuch:1` is not on this machine"),
        runner.session(absent, RunOptions(), staging),
    ):
        pass


def test_a_local_image_needs_no_registry(runner: DockerRunner, environment: Environment) -> None:
    assert runner.is_present(environment)
    identity = runner.prepare(environment, RunOptions())
    assert identity.digest.startswith("sha256:")
    assert identity.platform.startswith("linux/")
    assert identity.details["size"] > 0
