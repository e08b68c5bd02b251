"""INT8 engines of the digits example, made each way, answer as the FP32 model does.

docs/gpu.md tells how to run.
"""

from pathlib import Path

import numpy as np
import pytest
from gpu_runs import (
    HELD_OUT,
    TRAINING,
    accuracy,
    build,
    digits_data,
    digits_model,
    environments,
    record,
    reference,
    relative_error,
    run,
)

pytestmark = pytest.mark.gpu

# Calibrated layers are INT8 only where that is fastest, unless it is asked for layer by layer.
FORCED = ("--layer-precisions", "*:int8", "--precision-constraints", "prefer")
CASES = {
    "calibration-entropy": ("--quantization", "calibration", "--accept-precision", "any"),
    "calibration-minmax": (
        "--quantization", "calibration", "--calibration-method", "minmax", *FORCED,
    ),
    "qdq-entropy": ("--quantization", "qdq"),
    "qdq-minmax": ("--quantization", "qdq", "--calibration-method", "minmax"),
    "folder": FORCED,
}  # fmt: skip
# Entropy calibration clips, and makes up to 0.1 of the norm of the scores in ONNX Runtime too.
TOLERANCE, POINTS = 0.25, 0.02


def write_images(folder: Path, images: np.ndarray) -> Path:
    from PIL import Image

    folder.mkdir()
    for index, image in enumerate(np.round(images[:, 0] * 255).astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{index:04}.png")
    return folder


@environments
@pytest.mark.parametrize("name", CASES)
def test_an_int8_engine_is_as_accurate(tmp_path: Path, environment: str, name: str) -> None:
    images, labels = digits_data()
    model = digits_model(tmp_path / "digits.onnx")
    if name == "folder":
        data = write_images(tmp_path / "pictures", images[:HELD_OUT])
    else:
        data = tmp_path / "data.npz"
        np.savez(data, image=images[:TRAINING])
    options = ("--precision", "int8", "--calibration", str(data), *CASES[name])
    built = build(environment, model, f"int8-{name}", *options)
    if built.code and "cannot be quantized in this environment" in built.said:
        pytest.skip("this environment has no onnx and onnxruntime")
    if built.code == 2 and "cannot do" in built.said:
        pytest.skip(built.said.strip().splitlines()[0])
    assert built.code == 0, built.said
    images, labels = images[TRAINING:], labels[TRAINING:]
    outputs, told = run(environment, built.engine, {"image": images})
    expected = reference(model, {"image": images})["logits"]
    error = relative_error(outputs["logits"], expected)
    lost = accuracy(expected, labels) - accuracy(outputs["logits"], labels)
    found = built.stamp["engine"]["precision"]["found"]
    record(
        test="int8", case=name, environment=environment, relative_error=error, lost=lost,
        accuracy=accuracy(outputs["logits"], labels), found=found, run=told,
        seconds=built.stamp["build"]["seconds"], quantized=built.stamp["build"]["quantized"],
        calibration=built.stamp["build"]["calibration"],
    )  # fmt: skip
    assert lost <= POINTS
    assert error < TOLERANCE
    if "any" not in CASES[name]:
        assert found["products"]["int8"]
