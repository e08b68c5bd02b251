"""Environments made of small wheels, and a cache that real ones may share between runs."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from trtenv.catalog.model import Environment
from trtenv.runners import venvsession
from trtenv.runners.protocol import JOBS_FOLDER

HERE = Path(__file__).parent
THIS_MINOR = f"3.{sys.version_info.minor}"


@pytest.fixture
def own_python() -> Environment:
    """The Python of the tests as a user's own, that some TensorRT is said to be in."""
    return Environment(name="mine", kind="python", interpreter=sys.executable, tensorrt="8.6.1")


@pytest.fixture
def small() -> Environment:
    """A real wheel environment in seconds. The second package stands for torch and its friends."""
    return Environment(
        name="small-1.0",
        kind="wheel",
        python=(THIS_MINOR,),
        requirements=("six==1.17.0",),
        torch_requirements=("python-dateutil==2.9.0.post0",),
    )


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's worker with the jobs of these tests."""
    folder = tmp_path / "jobs"
    shutil.copytree(HERE / "jobs", folder)
    shutil.copy(JOBS_FOLDER / "worker.py", folder)
    monkeypatch.setattr(venvsession, "WORKER", folder / "worker.py")
    return folder


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging, with: é"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real environments are gigabytes: TRTENV_TEST_CACHE keeps them for the next run."""
    if named := os.environ.get("TRTENV_TEST_CACHE"):
        return Path(named)
    return tmp_path_factory.mktemp("cache")
