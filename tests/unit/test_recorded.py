"""What the build job made on an H100 with TensorRT 8.5.3.1 and 8.6.0: engines, stamps, logs, errors.

docs/gpu.md has the commands; tests/gpu makes them again on any GPU.
"""

import json
from pathlib import Path

import pytest

from trtenv.engine.inspect import inspect

H100 = Path(__file__).parents[1] / "data" / "engines" / "h100"
ENGINES = sorted(H100.glob("*.engine"))
# Norm of the difference to ONNX Runtime over the norm of its output.
LIMITS = {"fp32": 1e-4, "tf32": 2e-3, "fp16": 2e-3}


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.stem)
def test_stamp_and_header_tell_the_same_story(path: Path) -> None:
    found = inspect(path)
    assert found.plan
    assert found.stamp
    assert found.stamp.document
    assert found.stamp.sha256 == "matches"
    stamp = found.stamp.document
    engine, gpu = stamp["engine"], stamp["gpu"]
    assert isinstance(engine, dict)
    assert isinstance(gpu, dict)
    assert found.plan.version == engine["version"]
    assert found.plan.device
    assert found.plan.device.compute_capability == gpu["compute_capability"] == "9.0"
    assert found.plan.device.sm_count == gpu["sm_count"] == 132
    assert found.gpu
    assert found.gpu.family == "sm90"
    assert engine["precision"] == {"asked": "fp16", "found": None}


def test_every_engine_agreed_with_onnx_runtime() -> None:
    lines = (H100 / "results.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    assert len(results) == 18
    for result in results:
        assert max(result["relative_error"].values()) < LIMITS[result["precision"]]


@pytest.mark.parametrize("log", sorted((H100 / "logs").glob("*.log")), ids=lambda log: log.stem)
def test_logs_keep_tensorrts_own_words(log: Path) -> None:
    text = log.read_text()
    assert "[TensorRT INFO] Detected 1 inputs and 1 output network tensors." in text
    assert "[TensorRT ERROR]" not in text
