"""Wheel environments as images, built for real: what is in them, and what must not be."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from daemons import Engine, wait_for
from wheelhouse import make_wheel

from trtenv.catalog.load import load_catalog
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed, TrtenvError
from trtenv.paths import images_folder
from trtenv.runners import daemon, imagebuild, pip
from trtenv.runners.docker import DockerRunner
from trtenv.runners.imagebuild import ImagePlan, build_image, ensure_image
from trtenv.runners.imagecontext import ca_bundle
from trtenv.runners.protocol import Job, RunOptions

SECRET = "s3cret-of-the-mirror"
SMALL = Environment(
    name="small-1.0",
    kind="wheel",
    tensorrt="1.0",
    python=("3.11", "3.12", "3.13"),
    requirements=("six==1.17.0",),
    torch_requirements=("idna==3.10",),
)


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    with closing(docker.DockerClient(engine.url)) as found:
        yield found


@pytest.fixture
def plan(client: docker.DockerClient, base_image: str) -> Iterator[ImagePlan]:
    """Whatever a test builds of it is removed, the cache of its stages too."""
    # The host's network: a machine of tests may well have no bridge.
    yield ImagePlan(environment=SMALL, base=base_image, torch=False, network="host", chosen=True)
    for image in client.api.images(filters={"label": "dev.trtenv.environment=small-1.0"}):
        client.api.remove_image(image["Id"], force=True)

    def removed() -> bool:
        """An interrupted build may hold its last stage for a moment."""
        imagebuild.remove_stages(client, SMALL.name)
        return not client.api.images(filters={"label": "dev.trtenv.build=small-1.0"})

    wait_for(removed)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own settings of pip, plus a secret that must not leave the first stage."""
    found = pip.user_settings()
    found["trusted-host"] = [f"{SECRET}.example"]
    monkeypatch.setattr(pip, "user_settings", lambda: found)


def run(client: docker.DockerClient, image: str, *argv: str) -> str:
    output = client.containers.run(image, list(argv), remove=True, network_mode="none")
    assert isinstance(output, bytes)
    return output.decode()


@pytest.mark.usefixtures("settings")
def test_an_image_holds_the_environment_and_nothing_of_the_host(
    client: docker.DockerClient, plan: ImagePlan
) -> None:
    tag = build_image(plan, client)
    code = "import six, sys, os; print(six.__version__, sys.prefix, os.getuid(), os.getcwd())"
    assert run(client, tag, "python3", "-c", code).split() == [
        "1.17.0", "/opt/trtenv", "10001", "/home/trtenv",
    ]  # fmt: skip
    labels = client.api.inspect_image(tag)["Config"]["Labels"]
    assert labels["dev.trtenv.environment"] == "small-1.0"
    assert labels["dev.trtenv.hash"] == plan.hash
    assert "dev.trtenv.build" not in labels
    assert client.api.inspect_image("trtenv/small-1.0")["Id"] == client.api.inspect_image(tag)["Id"]
    history = "\n".join(entry["CreatedBy"] for entry in client.api.history(tag))
    for word in ("/build", "PIP_CERT", "SSL_CERT_FILE", SECRET):
        assert word not in history
    bundle = ca_bundle(pip.user_settings(), os.environ)
    lines = [line for line in bundle.splitlines() if line and not line.startswith((b"-", b"#"))]
    forbidden = [SECRET.encode(), bundle] if bundle else [SECRET.encode()]
    added = files_above(client, tag, plan.base)
    assert any(name.endswith("six.py") for name in added)
    for name, content in added.items():
        assert not name.startswith(("build", "opt/trtenv/build"))
        assert not any(word in content for word in forbidden), name
    # Of the bundle's certificates, pip's own list of public ones is gone with pip.
    assert not any(lines and lines[0] in content for content in added.values())


def files_above(client: docker.DockerClient, image: str, base: str) -> dict[str, bytes]:
    """Every file of every layer that the base image does not have."""
    known = set(client.api.inspect_image(base)["RootFS"]["Layers"])
    archive = io.BytesIO(b"".join(client.api.get_image(image)))
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=archive) as outer:
        for member in outer:
            content = outer.extractfile(member) if member.isfile() else None
            if content is None or member.name.endswith(".json"):
                continue
            data = content.read()
            try:
                layer = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115
            except tarfile.ReadError:
                continue
            if digest(data) in known:
                continue
            for entry in layer:
                if entry.isfile() and (inner := layer.extractfile(entry)):
                    found[entry.name] = inner.read()
    return found


def digest(data: bytes) -> str:
    import hashlib

    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_an_equal_request_finds_it_built(client: docker.DockerClient, plan: ImagePlan) -> None:
    tag = build_image(plan, client)
    options = RunOptions(pull=False)
    # Podman names the registry that it takes for granted.
    assert ensure_image(SMALL, client, options).removeprefix("docker.io/") == tag
    with pytest.raises(EnvironmentFailed, match="no image on this machine"):
        ensure_image(SMALL, client, RunOptions(pull=False, needs_torch=True))
    larger = build_image(dataclasses.replace(plan, torch=True), client)
    found = ensure_image(SMALL, client, RunOptions(pull=False, needs_torch=True))
    assert found.removeprefix("docker.io/") == larger


def test_an_extra_package_leaves_the_layers_before_it_alone(
    client: docker.DockerClient, plan: ImagePlan
) -> None:
    build_image(plan, client)
    started = time.time()
    tag = build_image(dataclasses.replace(plan, extras=("idna==3.9",)), client)
    assert run(client, tag, "python3", "-c", "import idna, six; print(idna.__version__)") == "3.9\n"
    stages = client.api.images(filters={"label": "dev.trtenv.build=small-1.0"}, all=True)
    fresh = [image for image in stages if image["Created"] >= int(started)]
    # The extra package, and the step after it; the four steps before come from the cache.
    assert len(fresh) <= 2 < len(stages)


@pytest.mark.parametrize(
    "engine", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True
)
def test_torchvision_is_added_to_the_torch_that_is_there(
    client: docker.DockerClient, plan: ImagePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path, "torch", "99.0.7+cpu")
    for build in ("", "+cpu"):
        make_wheel(tmp_path, "torchvision", f"99.1.7{build}", "torch==99.0.7")
        make_wheel(tmp_path, "torchvision", f"99.2.0{build}", "torch==99.1.0")
    found = pip.user_settings() | {"find-links": [str(tmp_path)]}
    monkeypatch.setattr(pip, "user_settings", lambda: found)
    environment = dataclasses.replace(SMALL, torch_requirements=("torch==99.0.7",))
    plain = dataclasses.replace(plan, environment=environment, torch=True)
    vision = dataclasses.replace(plain, packages=("torchvision",))
    build_image(plain, client)
    tag = build_image(vision, client)
    code = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    assert run(client, tag, "python3", "-c", code) == "99.0.7+cpu 99.1.7+cpu\n"
    options = RunOptions(pull=False, needs_torch=True)
    needs = dataclasses.replace(options, needs_packages=("torchvision",))
    assert ensure_image(environment, client, needs).removeprefix("docker.io/") == tag
    assert ensure_image(environment, client, options).removeprefix("docker.io/") == plain.tag


def test_what_pip_says_reaches_the_user(client: docker.DockerClient, plan: ImagePlan) -> None:
    with pytest.raises(EnvironmentFailed, match=r"was not built: step \d+/\d+ failed") as caught:
        build_image(dataclasses.replace(plan, extras=("idna==0.0.0.1",)), client)
    assert "No matching distribution found for idna==0.0.0.1" in "\n".join(caught.value.details)
    assert "package index" in str(caught.value.hint)


def test_a_base_with_another_python_is_refused(
    client: docker.DockerClient, plan: ImagePlan
) -> None:
    old = dataclasses.replace(SMALL, python=("3.9", "3.10"))
    with pytest.raises(EnvironmentFailed) as caught:
        build_image(dataclasses.replace(plan, environment=old), client)
    details = "\n".join(caught.value.details)
    assert "small-1.0 needs one of: 3.9 3.10" in details


def test_a_base_that_cannot_be_had_is_named(client: docker.DockerClient, plan: ImagePlan) -> None:
    with pytest.raises(TrtenvError, match="localhost:1"):
        build_image(dataclasses.replace(plan, base="localhost:1/no/such/base:1"), client)


def test_ctrl_c_stops_the_build(
    client: docker.DockerClient, plan: ImagePlan, engine: Engine
) -> None:
    large = "nvidia-cudnn-cu12==8.9.0.131"
    code = f"""
import docker
from trtenv.catalog.model import Environment
from trtenv.runners.imagecontext import ca_bundle
from trtenv.runners.imagebuild import ImagePlan, build_image
small = Environment(name="small-1.0", kind="wheel", python=("3.11", "3.12", "3.13"),
                    requirements=("six==1.17.0",))
plan = ImagePlan(
    environment=small, base={plan.base!r}, torch=False, extras=({large!r},), network="host"
)
build_image(plan, docker.DockerClient({engine.url!r}))
"""

    def at_work() -> list[Any]:
        found = subprocess.run(
            ["pgrep", "-f", f"/build/pip.whl/pip install .*{large}"],
            capture_output=True,
            check=False,
        )
        return found.stdout.split()

    builder = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: bool(at_work()), 120)
    builder.send_signal(signal.SIGINT)
    assert builder.wait(30) != 0
    wait_for(lambda: not at_work(), 30)


# Once is enough for 2 GB.
@pytest.mark.parametrize(
    "engine", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True
)
def test_tensorrt_rtx_with_torch_runs_the_probe(
    client: docker.DockerClient,
    runner: DockerRunner,
    staging: Path,
    base_image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRTENV_BASE_IMAGE", base_image)
    monkeypatch.setenv("TRTENV_BUILD_NETWORK", "host")
    environment = load_catalog([images_folder()])["rtx-1.7"]
    options = RunOptions(needs_torch=True)
    tag = imagebuild.plan_image(environment, options).tag
    known = daemon.find_image(client, tag)
    try:
        with runner.session(environment, options, staging) as session:
            found = session.run(Job("probe", {}), lambda _: None).values
        assert found["tensorrt-rtx"] == "1.7.1.116"
        assert found["torch"] == "2.13.0+cpu"
        assert ensure_image(environment, client, options) == tag
    finally:
        # Not left behind: later commands would take it for one that was asked for.
        if known is None and (made := daemon.find_image(client, tag)):
            client.api.remove_image(made["Id"], force=True)
            imagebuild.remove_stages(client, environment.name)
