"""Engines of the example models, built on this machine's GPU, run and agree with ONNX Runtime.

docs/gpu.md tells how to run, and the variables.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from gpu_runs import (
    ROOT,
    Built,
    build,
    environments,
    record,
    reference,
    relative_error,
    run,
    trtenv,
)

pytestmark = pytest.mark.gpu

# A folder with DIGITS.onnx and so on, exported elsewhere; else they are exported first.
EXPORTED = os.environ.get("TRTENV_GPU_ONNX")
SHAPES = {
    "digits": "image:1x1x32x32..4x1x32x32..16x1x32x32",
    "coins_detect": "image:1x1x128x128..4x1x128x128",
    "coins_segment": "image:1x1x128x128..4x1x128x128",
}
SAMPLES = {"digits": ["digit_0", "digit_3", "digit_5", "digit_8"], "coins_detect": ["coins"] * 4}
SAMPLES["coins_segment"] = SAMPLES["coins_detect"]
# FP16 is forced: for models this small, TF32 is often no slower, and the builder's choice.
PRECISIONS = {
    "fp32": ("--precision", "fp32"),
    "tf32": (),
    "fp16": (
        *("--precision", "fp16", "--layer-precisions", "*:fp16"),
        *("--precision-constraints", "obey"),
    ),
}
# Norm of the difference over norm of the reference: TF32 and FP16 keep 10 bits of the mantissa.
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3}


def onnx_of(example: str, environment: str, folder: Path) -> Path:
    target = folder / f"{example}.onnx"
    if EXPORTED:
        target.write_bytes(Path(EXPORTED, target.name).read_bytes())
        return target
    done = trtenv(
        "export", f"{ROOT / 'examples' / example}.py:model",
        "--weights", str(ROOT / "examples" / f"{example}.safetensors"),
        "--shapes", SHAPES[example], "--env", environment, "--runner", "venv",
        "-o", str(target), cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@environments
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("example", SHAPES)
def test_engine_agrees_with_onnx_runtime(
    tmp_path: Path, environment: str, precision: str, example: str
) -> None:
    model = onnx_of(example, environment, tmp_path)
    options = ("--shapes", SHAPES[example], *PRECISIONS[precision])
    built: Built = build(environment, model, f"{example}-{precision}", *options)
    assert built.code == 0, built.said
    image = real_input(example)
    expected = reference(model, {"image": image})
    outputs, told = run(environment, built.engine, {"image": image})
    errors = {name: relative_error(outputs[name], array) for name, array in expected.items()}
    same = [AGREEMENT[example](outputs[name], array) for name, array in expected.items()]
    found = built.stamp["engine"]["precision"]["found"]
    record(
        test="examples", case=example, environment=environment, asked=precision,
        relative_error=errors, agreement=min(same), found=found, run=told,
        seconds=built.stamp["build"]["seconds"],
    )  # fmt: skip
    assert max(errors.values()) < TOLERANCE[precision]
    assert min(same) >= 0.99
    if precision == "fp16":
        assert found["products"]["fp16"]


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


def same_digits(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found.argmax(1) == expected.argmax(1)).mean())


def mask_overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """Intersection over union of the coins' pixels."""
    first, second = found.argmax(1) == 1, expected.argmax(1) == 1
    return float((first & second).sum() / (first | second).sum())


def box_overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """The smallest IoU of a box that ONNX Runtime found with the one of the same candidate; Nx5xA.

    0 where there is no box at all, or where a clear one is missing.
    """
    sure = expected[:, 4] >= 0.5
    if not sure.any() or (found[:, 4][sure] < 0.45).any():
        return 0.0
    first, second = (array.transpose(0, 2, 1)[sure].T for array in (found, expected))
    low = np.maximum(first[:2] - first[2:4] / 2, second[:2] - second[2:4] / 2)
    high = np.minimum(first[:2] + first[2:4] / 2, second[:2] + second[2:4] / 2)
    inside = np.clip(high - low, 0, None).prod(0)
    overlap = inside / (first[2:4].prod(0) + second[2:4].prod(0) - inside)
    return float(overlap.min())


AGREEMENT = {"digits": same_digits, "coins_detect": box_overlap, "coins_segment": mask_overlap}
