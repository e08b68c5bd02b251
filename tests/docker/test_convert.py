"""The main job inside containers, from the command line, as root and as an ordinary user."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from daemons import Engine

from trtenv.runners import daemon

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
MODEL = [f"{ROOT}/examples/digits.py:model", "--weights", f"{ROOT}/examples/digits.safetensors"]
SHAPES = ["--shapes", "image:1x1x32x32..8x1x32x32..16x1x32x32"]
OPTIONS = [*SHAPES, "--runner", "docker", "--env", "rtx-1.7", "--env", "rtx-1.6", "-o", "out"]


@pytest.fixture
def folder(tmp_path: Path, base_image: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Spaces and other letters in the path; a folder that another user may enter."""
    monkeypatch.setenv("TRTENV_BASE_IMAGE", base_image)
    folder = tmp_path / "mein Ordner ü"
    folder.mkdir()
    for parent in (folder, *folder.parents):
        if parent.is_relative_to(tmp_path.parents[1]):
            parent.chmod(0o755)
    return folder


@pytest.fixture
def daemon_here(base_image: str) -> Engine:
    """One daemon is enough for the long test."""
    client, url = daemon._connect()
    client.close()
    return Engine("docker", url)


def trtenv(
    *argv: str, cwd: Path, code: int = 0, python: str = sys.executable, **options: Any
) -> tuple[str, str]:
    done = subprocess.run(
        [python, "-m", "trtenv", *argv],
        cwd=cwd, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def containers_and_volumes(engine: Engine) -> list[str]:
    """Of the environments of this test: other work on this machine has containers of its own."""
    with closing(docker.DockerClient(engine.url)) as client:
        found = client.api.containers(all=True, filters={"label": "dev.trtenv.environment"})
        ours = [
            entry["Names"][0]
            for entry in found
            if entry["Labels"]["dev.trtenv.environment"].startswith("rtx-")
        ]
        return ours + [entry["Name"] for entry in client.api.volumes()["Volumes"] or ()]


def test_two_engines_in_containers_from_one_export(folder: Path, daemon_here: Engine) -> None:
    before = containers_and_volumes(daemon_here)
    out, _ = trtenv("convert", *MODEL, *OPTIONS, "--json", cwd=folder)
    outcomes = json.loads(out)["outcomes"]
    assert [entry["error"] for entry in outcomes] == [None, None, None]
    for name, version in (("rtx-1.7", "1.7.1.116"), ("rtx-1.6", "1.6.1.120")):
        stamp = json.loads((folder / "out" / f"digits.{name}.engine.json").read_text())
        assert stamp["engine"]["version"] == version
        assert stamp["environment"]["runner"] == "docker"
        assert stamp["environment"]["digest"].startswith("sha256:")
        assert stamp["source"]["model"]["torch"].startswith("2.13.0")
    assert containers_and_volumes(daemon_here) == before
    lock = json.loads((folder / "trtenv.lock").read_text())
    assert sorted(lock["environments"]) == ["rtx-1.6@docker", "rtx-1.7@docker"]

    _, again = trtenv("convert", *MODEL, *OPTIONS, "--locked", cwd=folder)
    assert again.count("is unchanged") == 3

    as_another_user(folder, daemon_here)


def as_another_user(folder: Path, engine: Engine) -> None:
    """What the container writes belongs to its caller, who is in no passwd file of the image."""
    if os.getuid() != 0:
        return
    own = folder / "own"
    own.mkdir()
    os.chown(own, 12345, 12345)
    socket = Path(engine.url.removeprefix("unix://"))
    # Root's own interpreter may lie where nobody else may go.
    packages = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(packages),
        "HOME": str(own),
        "TRTENV_CACHE_DIR": str(own / "cache"),
        "TRTENV_CONFIG_DIR": str(own / "config"),
        "DOCKER_HOST": engine.url,
    }
    group = socket.stat().st_gid
    trtenv(
        "convert", *MODEL, *SHAPES, "--env", "rtx-1.7", "--runner", "docker", "-o", "out",
        cwd=own, env=variables, user=12345, group=12345, extra_groups=[group],
        python="/usr/bin/python3",
    )  # fmt: skip
    made = [path for path in own.rglob("*") if path.is_file()]
    assert (own / "out" / "digits.rtx-1.7.engine") in made
    assert {path.stat().st_uid for path in made} == {12345}


def test_a_model_that_raises_is_told_by_its_own_words(folder: Path, daemon_here: Engine) -> None:
    before = containers_and_volumes(daemon_here)
    (folder / "bad.py").write_text("def model():\n    raise RuntimeError('no weights for you')\n")
    argv = [
        "convert",
        "bad.py:model",
        "--shapes",
        "x:1x3",
        "--runner",
        "docker",
        "--env",
        "rtx-1.7",
    ]
    _, err = trtenv(*argv, cwd=folder, code=6)
    assert "no weights for you" in err
    assert sorted(path.name for path in folder.iterdir()) == ["bad.py"]
    assert containers_and_volumes(daemon_here) == before
