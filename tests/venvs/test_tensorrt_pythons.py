"""The build and probe jobs with the real TensorRT 8.5.3 on each Python that JetPack and NGC images have."""

import json
import subprocess
from pathlib import Path

import pytest

from trtenv.runners.protocol import JOBS_FOLDER

pytestmark = pytest.mark.venv


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
        "flavour": "tensorrt",
        "onnx": "none.onnx",
        "output": "e",
        "builder": "api",
        "graph": [],
        "steps": [],
        "flags": [],
        "profiles": [{}],
        "verbose": False,
        "asked": "tf32",
        "calibration": None,
        "timing_cache": None,
    }
    built = run_job(python, tmp_path, "build", params)["error"]
    assert isinstance(built, dict)
    assert built["kind"] == "no-gpu", built
    assert "CUDA initialization failure" in built["message"]
