"""Engines built on this machine's GPU run, and agree with ONNX Runtime.

TRTENV_GPU_ENVIRONMENTS names the environments (comma-separated), TRTENV_GPU_OPTIONS holds further
options for `trtenv convert`, TRTENV_GPU_KEEP a folder that receives engines, stamps and logs.
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

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
RUN_ENGINE = Path(__file__).parent / "run_engine.py"
ENVIRONMENTS = [name for name in os.environ.get("TRTENV_GPU_ENVIRONMENTS", "").split(",") if name]
OPTIONS = shlex.split(os.environ.get("TRTENV_GPU_OPTIONS", ""))
EXAMPLES = {
    "digits": "image:1x1x32x32..8x1x32x32..16x1x32x32",
    "coins_detect": "image:1x1x128x128..4x1x128x128",
    "coins_segment": "image:1x1x128x128..4x1x128x128",
}
SAMPLES = {"digits": ["digit_0", "digit_3", "digit_5", "digit_8"], "coins_detect": ["coins"] * 4}
SAMPLES["coins_segment"] = SAMPLES["coins_detect"]
# Norm of the difference over norm of the reference: TF32 keeps 10 bits of the mantissa.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "fp16": 2e-3}


def trtenv(*argv: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "trtenv", *argv]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("environment", ENVIRONMENTS or ["none named"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_engine_agrees_with_onnx_runtime(
    tmp_path: Path, environment: str, precision: str, example: str
) -> None:
    assert ENVIRONMENTS, "name environments in TRTENV_GPU_ENVIRONMENTS"
    import onnxruntime

    model = f"{ROOT / 'examples' / example}.py:model"
    weights = str(ROOT / "examples" / f"{example}.safetensors")
    answer = trtenv(
        "convert", model, "--weights", weights, "--shapes", EXAMPLES[example], "--env", environment,
        "--precision", precision, "--runner", "venv", "--json", *OPTIONS, cwd=tmp_path,
    )  # fmt: skip
    onnx, engine = (Path(tmp_path, entry["output"]) for entry in json.loads(answer)["outcomes"])
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    image = real_input(example)
    expected = session.run(None, {"image": image})
    np.savez(tmp_path / "in.npz", image=image)
    timing = trtenv(
        "exec", "--env", environment, "--runner", "venv", "--", "python", str(RUN_ENGINE),
        str(engine), "in.npz", "out.npz", cwd=tmp_path,
    )  # fmt: skip
    found = np.load(tmp_path / "out.npz")
    errors = {}
    for output, reference in zip(session.get_outputs(), expected, strict=True):
        difference = found[output.name].astype(np.float64) - reference
        errors[output.name] = float(np.linalg.norm(difference) / np.linalg.norm(reference))
    report = {"example": example, "environment": environment, "precision": precision}
    print(json.dumps({**report, **json.loads(timing.splitlines()[-1]), "relative_error": errors}))
    keep(tmp_path, f"{example}-{environment}-{precision}")
    assert max(errors.values()) < TOLERANCE[precision]


def real_input(example: str) -> np.ndarray:
    """Four held-out images; noise says little of a trained model: its outputs nearly cancel."""
    from PIL import Image

    folder = ROOT / "examples" / "data"
    images = [
        np.asarray(Image.open(folder / f"{name}.png").convert("L")) for name in SAMPLES[example]
    ]
    turned = [
        np.rot90(image, turns) if example != "digits" else image
        for turns, image in enumerate(images)
    ]
    return np.stack(turned)[:, None].astype(np.float32) / 255


def keep(folder: Path, name: str) -> None:
    target = os.environ.get("TRTENV_GPU_KEEP")
    if target:
        for path in [
            *folder.glob("*.engine"),
            *folder.glob("*.engine.json"),
            *folder.glob("*.log"),
        ]:
            Path(target).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, Path(target) / f"{name}{''.join(path.suffixes[-2:])}")
