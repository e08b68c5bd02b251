"""INT8 engines of the digits example, made either way, answer as ONNX Runtime does.

Reads the variables that docs/gpu.md explains; prints what it measured as JSON.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digits_onnx import pictures, write_digits

pytestmark = pytest.mark.gpu

RUN_ENGINE = Path(__file__).parent / "run_engine.py"
ENVIRONMENTS = [name for name in os.environ.get("TRTENV_GPU_ENVIRONMENTS", "").split(",") if name]
OPTIONS = shlex.split(os.environ.get("TRTENV_GPU_OPTIONS", ""))
BATCH = 32
# Of the answers; and of the norm of the difference to the norm of the scores: entropy calibration
# clips, and makes up to 0.1 of it in ONNX Runtime too.
AGREEMENT, TOLERANCE = 0.95, 0.25


def samples(count: int, seed: int) -> np.ndarray:
    """The four held-out digits, each time moved by up to two pixels and made a little darker."""
    random, originals = np.random.default_rng(seed), pictures()
    found = [
        np.roll(originals[index % 4], random.integers(-2, 3, 2), (1, 2)) * random.uniform(0.7, 1)
        for index in range(count)
    ]
    return np.stack(found).astype(np.float32)


def trtenv(*argv: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "trtenv", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("environment", ENVIRONMENTS or ["none named"])
@pytest.mark.parametrize("quantization", ["calibration", "qdq", "auto"])
@pytest.mark.parametrize("method", ["entropy", "minmax"])
def test_int8_engine_agrees_with_onnx_runtime(
    tmp_path: Path, environment: str, quantization: str, method: str
) -> None:
    assert ENVIRONMENTS, "name environments in TRTENV_GPU_ENVIRONMENTS"
    import onnxruntime

    onnx = write_digits(tmp_path / "digits.onnx")
    np.savez(tmp_path / "data.npz", image=samples(8 * BATCH, seed=1))
    built = trtenv(
        "build", onnx.name, "--env", environment, "--runner", "venv", "--precision", "int8",
        "--shapes", f"image:1x1x32x32..{BATCH}x1x32x32..{BATCH}x1x32x32",
        "--calibration", "data.npz", "--quantization", quantization,
        "--calibration-method", method, "-o", "digits.engine", *OPTIONS, cwd=tmp_path,
    )  # fmt: skip
    keep(tmp_path, f"digits-{environment}-int8-{quantization}-{method}")
    said = built.stdout + built.stderr
    if built.returncode and "cannot be quantized in this environment" in said:
        pytest.skip("this environment has no onnx and onnxruntime")
    if built.returncode and quantization == "calibration" and "has no calibrator" in said:
        pytest.skip("this environment's TensorRT does not calibrate")
    assert built.returncode == 0, said
    image = samples(BATCH, seed=2)
    np.savez(tmp_path / "in.npz", image=image)
    timing = trtenv(
        "exec", "--env", environment, "--runner", "venv", "--", "python", str(RUN_ENGINE),
        "digits.engine", "in.npz", "out.npz", cwd=tmp_path,
    )  # fmt: skip
    assert timing.returncode == 0, timing.stdout + timing.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        found = outputs["logits"].astype(np.float64)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": image})[0]
    agreement = float((found.argmax(1) == expected.argmax(1)).mean())
    relative = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    stamp = json.loads((tmp_path / "digits.engine.json").read_text())
    report = {
        "environment": environment,
        "quantization": quantization,
        "method": method,
        "agreement": agreement,
        "relative_error": relative,
        "precision": stamp["engine"]["precision"],
        **json.loads(timing.stdout.splitlines()[-1]),
    }
    print(json.dumps(report))
    assert agreement >= AGREEMENT
    assert relative < TOLERANCE


def keep(folder: Path, name: str) -> None:
    target = os.environ.get("TRTENV_GPU_KEEP")
    if not target:
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    for path in folder.glob("digits.engine*"):
        shutil.copy(path, Path(target) / path.name.replace("digits", name, 1))
