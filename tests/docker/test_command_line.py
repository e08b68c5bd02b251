"""The line that --dry-run prints makes the same container as the request that is sent."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trtenv.catalog.model import Environment
from trtenv.runners import container as plan
from trtenv.runners import docker as docker_runner
from trtenv.runners.docker import DockerRunner
from trtenv.runners.protocol import Mount, RunOptions

pytestmark = [
    pytest.mark.docker,
    pytest.mark.parametrize("engine", ["docker"], indirect=True, scope="session"),
]


@pytest.mark.parametrize(
    "argv", [["echo", "a b", "$HOME"], [*plan.WORKER, "/trtenv/session/1-build", "/trtenv/out"]]
)
def test_both_ways_make_the_same_container(
    runner: DockerRunner,
    environment: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
) -> None:
    if not shutil.which("docker"):
        pytest.skip("needs Docker's command line")
    strange = tmp_path / 'a, "b" c:d é'
    strange.mkdir()
    options = RunOptions(
        gpus="0,1",
        shm_size=3 * 2**29,
        memory=2**30,
        mounts=[Mount(source=strange), Mount(source=tmp_path, target="/x y", read_only=False)],
        variables={"QUOTED": "a 'b' \"c\" $d"},
        network="bridge",
    )
    bodies: list[dict[str, Any]] = []

    def remember(body: dict[str, Any], name: str | None) -> list[str]:
        bodies.append(body)
        return render(body, name)

    render = docker_runner.docker_run
    monkeypatch.setattr(docker_runner, "docker_run", remember)
    line = shlex.join(runner.command_line(environment, options, argv))
    created = f"docker create {line.removeprefix('docker run --rm ')}"
    typed = subprocess.run(["sh", "-c", created], check=True, capture_output=True, text=True)
    api = runner.client.api
    sent = api.create_container_from_config(bodies[0])["Id"]
    try:
        assert essence(api.inspect_container(typed.stdout.strip())) == essence(
            api.inspect_container(sent)
        )
    finally:
        for made in (typed.stdout.strip(), sent):
            api.remove_container(made, v=True)


def essence(found: dict[str, Any]) -> dict[str, Any]:
    """What both ways decide, in one spelling."""
    config = {key: found["Config"][key] for key in ("Cmd", "Entrypoint", "User", "WorkingDir")}
    config["Env"] = sorted(found["Config"]["Env"])
    config["StdinOnce"] = found["Config"]["StdinOnce"]
    host = {key: value for key, value in found["HostConfig"].items() if value}
    host["CapAdd"] = [name.removeprefix("CAP_") for name in host.get("CapAdd", ())]
    del host["RestartPolicy"]  # "no", or nothing, which means the same
    for mount in host["Mounts"]:
        mount.setdefault("ReadOnly", False)
    for request in host.get("DeviceRequests", ()):
        request["Options"] = request["Options"] or {}
    return {"Config": config, "HostConfig": host}
