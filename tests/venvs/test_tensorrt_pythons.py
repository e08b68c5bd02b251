"""The build and probe jobs with the real TensorRT 8.5.3 on each Python that JetPack and NGC images have.

cuBLAS and cuDNN are a gigabyte that no job calls on a machine without a GPU: empty libraries of their
names satisfy the loader, as the linker would see them.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pythons import interpreter

from trtenv.runners.gpus import read_gpus
from trtenv.runners.protocol import JOBS_FOLDER

pytestmark = pytest.mark.venv

LIBRARIES = ("libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8")


@pytest.fixture(params=["3.6", "3.8", "3.10"])
def python(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """An interpreter and the variables that let it import TensorRT 8.5.3.1."""
    if read_gpus()[1]:
        pytest.skip("this machine has a GPU: tests/gpu builds on it")
    if not shutil.which("gcc"):
        pytest.skip("no gcc for the stand-ins of cuBLAS and cuDNN")
    found, site, libraries = interpreter(request.param), tmp_path / "site", tmp_path / "lib"
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


def run_job(
    python: tuple[str, dict[str, str]], folder: Path, kind: str, params: dict[str, object]
) -> dict[str, object]:
    job, out = folder / kind, folder / f"{kind}-out"
    job.mkdir()
    out.mkdir()
    (job / "job.json").write_text(json.dumps({"kind": kind, "params": params}))
    argv = [python[0], str(JOBS_FOLDER / "worker.py"), str(job), str(out)]
    subprocess.run(argv, env=python[1], check=False, capture_output=True)
    result: dict[str, object] = json.loads((out / "result.json").read_text())
    return result


def test_probe_reads_it_and_build_says_that_it_needs_a_gpu(
    python: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    probed = run_job(python, tmp_path, "probe", {})["values"]
    assert isinstance(probed, dict)
    assert probed["tensorrt"] == "8.5.3.1"
    params = {
        **{"flavour": "tensorrt", "onnx": "none.onnx", "output": "e", "builder": "api"},
        **{"graph": [], "steps": [], "flags": [], "profiles": [{}], "verbose": False},
        **{"asked": "tf32", "calibration": None, "timing_cache": None},
    }
    built = run_job(python, tmp_path, "build", params)["error"]
    assert isinstance(built, dict)
    assert built["kind"] == "no-gpu", built
    assert "CUDA initialization failure" in built["message"]
