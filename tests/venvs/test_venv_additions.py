"""What a model needs beside torch: found for the torch that is there, of its build, installed once."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wheelhouse import make_wheel, served

from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed
from trtenv.paths import cache_folder, images_folder
from trtenv.runners import pip
from trtenv.runners.protocol import Identity, RunOptions
from trtenv.runners.venv import VenvRunner

pytestmark = pytest.mark.venv

PLAIN = RunOptions(needs_torch=True)
VISION = RunOptions(needs_torch=True, needs_packages=("torchvision",))


@pytest.fixture
def runner() -> VenvRunner:
    return VenvRunner(has_gpu=lambda: False)


@pytest.fixture
def environment(small: Environment) -> Environment:
    return dataclasses.replace(small, torch_requirements=("torch==99.0.7",))


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The default builds of torch 99.0.7 with the torchvision made for it, and of a newer pair; what
    is asked for as CPU builds, in PyTorch's index or in one of the user's own."""
    mine, root = tmp_path / "mine", tmp_path / "index"
    for torch, vision in (("99.0.7", "99.1.7"), ("99.1.0", "99.2.0")):
        make_wheel(mine, "torch", torch)
        make_wheel(mine, "torchvision", vision, f"torch=={torch}", "idna==3.10")
    monkeypatch.setenv("PIP_FIND_LINKS", str(mine))

    def make(*names: str, own: bool = False) -> None:
        for name in names:
            version, *requires = {
                "torch": ["99.0.7+cpu"],
                "torchvision": ["99.1.7+cpu", "torch==99.0.7", "idna==3.10"],
            }[name]
            folder = mine if own else root / "whl" / "cpu" / name
            make_wheel(folder, name, version, *requires)

    (root / "whl" / "cpu").mkdir(parents=True)
    with served(root) as address:
        monkeypatch.setattr(pip.find_cpu_build, "__defaults__", (f"{address}/whl/cpu",))
        yield make


def versions(identity: Identity) -> tuple[str, str]:
    return identity.details["torch"], identity.details["torchvision"]


def folders() -> list[Path]:
    return sorted(path for path in (cache_folder() / "venvs").iterdir() if path.is_dir())


CPU = ("99.0.7+cpu", "99.1.7+cpu")
DEFAULT = ("99.0.7", "99.1.7")


@pytest.mark.parametrize(
    ("offered", "own", "expected"),
    [
        (("torch", "torchvision"), False, CPU),
        # A CPU torch alone is worth nothing: both are the default build then.
        (("torch",), False, DEFAULT),
        (("torch",), True, DEFAULT),
    ],
    ids=["both", "torch alone", "torch alone in an own index"],
)
def test_torchvision_is_of_torchs_build(
    runner: VenvRunner,
    environment: Environment,
    offer: Callable[..., None],
    offered: tuple[str, ...],
    own: bool,
    expected: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer(*offered, own=own)
    first = runner.prepare(environment, VISION)
    assert versions(first) == expected
    code = (
        "import torch, torchvision, idna;"
        f"assert (torch.__version__, torchvision.__version__) == {expected!r}"
    )
    assert runner.execute(environment, VISION, ["python", "-c", code]) == 0
    assert ("some gigabytes larger" in capsys.readouterr().err) is (expected == DEFAULT)
    # Made again, from the lock alone.
    runner.remove(environment)
    assert runner.prepare(environment, VISION) == first
    assert runner.execute(environment, VISION, ["python", "-c", code]) == 0


def test_with_a_gpu_an_own_index_of_cpu_builds_breaks_no_pair(
    environment: Environment, offer: Callable[..., None]
) -> None:
    offer("torch", own=True)  # pip prefers it: 99.0.7+cpu is the larger version
    identity = VenvRunner(has_gpu=lambda: True).prepare(environment, VISION)
    assert versions(identity) == DEFAULT


def test_it_is_a_variant_of_its_own_with_the_same_base_and_torch(
    runner: VenvRunner,
    environment: Environment,
    offer: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer("torch", "torchvision")
    vision = runner.prepare(environment, VISION)
    assert runner.prepare(environment, RunOptions()).digest == vision.digest
    assert len(folders()) == 1  # a build uses it as it is
    plain = runner.prepare(environment, PLAIN)
    assert plain.digest == vision.digest
    assert plain.details["torch_digest"] != vision.details["torch_digest"]
    assert len(folders()) == 2
    assert "torchvision" not in plain.details
    capsys.readouterr()
    again = runner.prepare(environment, VISION), runner.prepare(environment, PLAIN)
    assert again == (vision, plain)
    assert capsys.readouterr().err == ""  # nothing ran, nothing was said
    assert runner.remove(environment) != []
    assert folders() == []


def test_half_of_it_is_nothing(
    runner: VenvRunner, environment: Environment, offer: Callable[..., None], tmp_path: Path
) -> None:
    offer("torch", "torchvision")
    for wheel in tmp_path.glob("**/torchvision-*.whl"):
        wheel.unlink()
    (tmp_path / "constraints.txt").write_text("torchvision==99.1.7\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
        with pytest.raises(EnvironmentFailed, match="pip could not install"):
            runner.prepare(environment, VISION)
    assert folders() == []
    runner.prepare(environment, PLAIN)
    with pytest.raises(EnvironmentFailed, match="not on this machine") as caught:
        runner.prepare(environment, dataclasses.replace(VISION, pull=False))
    assert caught.value.hint == "trtenv env build small-1.0 --with torchvision"


def test_torchvision_model_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, with a torch of one's own choice, in a cache of its own: 6 GB that no other test wants."""
    if shutil.disk_usage(tmp_path).free < 10**10:
        pytest.skip(f"needs 10 GB on the disk of {tmp_path}")
    monkeypatch.chdir(tmp_path)
    wheels = (images_folder() / "wheels.toml").read_text(encoding="utf-8")
    own = tmp_path / "images" / "own.toml"  # replaces environments of the same names
    own.parent.mkdir()
    own.write_text(wheels.replace("torch==2.13.0", "torch==2.14.1"), encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("torchvision==0.29.1\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))

    command = [sys.executable, "-m", "trtenv", "convert", "torchvision:resnet18"]
    command += ["--shapes", "x:1x3x64x64", "--env", "rtx-1.7", "--runner", "venv"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    stamp = json.loads(Path("resnet18.onnx.json").read_text(encoding="utf-8"))
    assert stamp["comparison"]["reference"].startswith("onnxruntime")
    assert stamp["comparison"]["outputs"]["output"]["rel"] < 1e-5
    measured = stamp["environment"]["measured"]
    assert measured["torch"].startswith("2.14.1")
    assert measured["torchvision"].startswith("0.29.1")
    engine = json.loads(Path("resnet18.rtx-1.7.engine.json").read_text(encoding="utf-8"))
    assert engine["source"]["model"]["model"] == "torchvision:resnet18"
    entries = json.loads(Path("trtenv.lock").read_text(encoding="utf-8"))["environments"]
    assert list(entries) == ["rtx-1.7@torchvision"]
    again = subprocess.run([*command, "--locked"], capture_output=True, text=True, check=True)
    assert again.stderr.count("is unchanged") == 2
    assert len(folders()) == 1
    subprocess.run([*command[:3], "env", "remove", "rtx-1.7", "--runner", "venv"], check=True)
    assert folders() == []
