"""A real PyTorch for the export job, and the worker that runs the job in it.

TRTENV_TEST_TORCH_PYTHON names an interpreter with torch, onnx and onnxruntime, of any version that the
job supports; without it a venv is made once and kept in pytest's cache.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from exporting import HERE, WORKER, Worker

PACKAGES = ("torch==2.13.0", "numpy", "onnx", "onnxruntime", "onnxscript", "onnxslim")


@pytest.fixture(scope="session")
def torch_python(request: pytest.FixtureRequest) -> str:
    if named := os.environ.get("TRTENV_TEST_TORCH_PYTHON"):
        return named
    venv = Path(request.config.cache.mkdir("torch")) / "venv"  # type: ignore[union-attr]
    python = str(venv / "bin" / "python")
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (venv / "ready").touch()
    return python


@pytest.fixture(scope="session")
def torch_version(torch_python: str, files: Path) -> tuple[int, ...]:
    text = (files / "version").read_text()
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])


@pytest.fixture(scope="session")
def files(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and models in every form, written by the torch under test."""
    folder = tmp_path_factory.mktemp("files")
    argv = [torch_python, str(HERE / "make_files.py"), str(folder)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    (folder / "version").write_text(done.stdout)
    return folder


@pytest.fixture(scope="session")
def worker(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("jobs")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [torch_python, str(WORKER)],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        with process:
            yield Worker(process, folder)
            assert process.stdin
            process.stdin.close()
