"""Environments made of small wheels, and a cache that real ones may share between runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pythons import interpreter

from trtenv.catalog.model import Environment
from trtenv.runners import venvsession
from trtenv.runners.gpus import read_gpus
from trtenv.runners.protocol import JOBS_FOLDER

HERE = Path(__file__).parent
LIBRARIES = ("libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8")
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


@pytest.fixture(scope="session", params=["3.6", "3.8", "3.10"])
def python(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, str]]:
    """An interpreter and the variables that let it import the real TensorRT 8.5.3.1.

    cuBLAS and cuDNN are a gigabyte that no job calls on a machine without a GPU: empty libraries of
    their names satisfy the loader, as the linker would see them.
    """
    if read_gpus()[1]:
        pytest.skip("this machine has a GPU: tests/gpu builds on it")
    if not shutil.which("gcc"):
        pytest.skip("no gcc for the stand-ins of cuBLAS and cuDNN")
    folder = tmp_path_factory.mktemp("tensorrt")
    found, site, libraries = interpreter(request.param), folder / "site", folder / "lib"
    tag = request.param.replace(".", "")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site),
            "--only-binary=:all:", "--python-version", request.param, "--implementation", "cp",
            "--abi", f"cp{tag}", "--abi", f"cp{tag}m", "--abi", "none",
            "--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64",
            "--platform", "manylinux1_x86_64",
            "tensorrt==8.5.3.1", "nvidia-cuda-runtime-cu11==11.8.89",
        ],
        check=True,
    )  # fmt: skip
    libraries.mkdir()
    for name in LIBRARIES:
        gcc = ["gcc", "-shared", "-o", str(libraries / name), f"-Wl,-soname,{name}", "-x", "c"]
        subprocess.run([*gcc, "/dev/null"], check=True)
    folders = [libraries, site / "tensorrt", site / "nvidia" / "cuda_runtime" / "lib"]
    path = ":".join(str(folder) for folder in folders)
    return found, {"LD_LIBRARY_PATH": path, "PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
