"""What builds on an H100 told of their layers, with TensorRT 8.5.3.1 and 8.6.0, and their results.

docs/gpu.md has the commands; tests/gpu makes them again on any GPU.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trtenv.dialect.diagnosis import explain

sys.path.insert(0, str(Path(__file__).parents[2] / "trtenv" / "jobs"))

import layers

H100 = Path(__file__).parents[1] / "data" / "engines" / "h100"
RESULTS = [json.loads(line) for line in (H100 / "request.jsonl").read_text().splitlines()]
CONVOLUTIONS = [f"conv{index} + node_of_r{index}" for index in range(4)]


def products(name: str) -> dict[str, str | None]:
    text = (H100 / "layers" / f"{name}.json").read_text(encoding="utf-8")
    found = layers.inspector_layers(text)
    assert found
    return {
        layer.name: layer.precision() for layer in found if layer.is_product() and not layer.moves()
    }


@pytest.mark.parametrize(
    ("name", "precisions"),
    [
        ("8.6.0-fp32", ["fp32"] * 5),  # --precision fp32
        ("8.6.0-ampere", [*["tf32"] * 4, "fp32"]),  # --hardware-compatible ampere+
        # --precision fp16 --layer-precisions conv2:fp32,*:fp16; 8.5 has the classifier's FP16 data
        # multiplied by FP32 instructions: sm80_xmma_gemm_f16f16_f32f32_f32_..._ffma_...
        ("8.5.3.1-layer-precisions", ["fp16", "fp16", "tf32", "fp16", "fp32"]),
        ("8.6.0-layer-precisions", ["fp16", "fp16", "tf32", "fp16", "fp16"]),
    ],
)
def test_the_inspector_tells_each_products_precision(name: str, precisions: list[str]) -> None:
    assert products(name) == dict(zip([*CONVOLUTIONS, "classifier"], precisions, strict=True))


def test_dynamic_shapes_and_two_profiles_hide_no_kernel() -> None:
    found = products("8.5.3.1-profiles")
    assert len(found) == 10
    assert {name for name in found if name.endswith(" [profile 1]")} == {
        f"{name} [profile 1]" for name in [*CONVOLUTIONS, "classifier"]
    }
    assert {found[name] for name in CONVOLUTIONS} == {"tf32"}
    text = (H100 / "layers" / "8.5.3.1-profiles.json").read_text(encoding="utf-8")
    summary = layers.from_inspector(text)
    assert summary["layers"] == {"fp32": 8, "tf32": 8}
    assert summary["unknown"] == 0


@pytest.mark.parametrize(
    ("log", "row"),
    [
        ("8.5.3.1-kernel", "no-formats"),
        ("8.6.0-kernel", "no-formats"),
        ("8.6.0-lean", "no-lean-runtime"),
    ],
)
def test_errors_of_real_builds_are_explained(log: str, row: str) -> None:
    lines = (H100 / "errors" / f"{log}.log").read_text().splitlines()
    started = max(index for index, line in enumerate(lines) if "timing cache in use" in line)
    # What reading a timing cache said came before the build, and is not its reason.
    found = explain("; ".join(line for line in lines[started:] if "[TensorRT ERROR]" in line))
    assert found
    assert found.name == row


@pytest.mark.parametrize(
    "result", RESULTS, ids=lambda row: f"{row['environment']}-{row['test']}-{row.get('case')}"
)
def test_every_engine_was_as_accurate_as_it_must_be(result: dict[str, Any]) -> None:
    if result["test"] == "reproducible":
        assert result["results"] == ["miss", "hit"]
        assert result["equal"]
        return
    limit = {"int8": 0.25, "request": 5e-3, "profiles": 5e-3}[result["test"]]
    assert result["relative_error"] < (1e-6 if result.get("case") == "fp32" else limit)
    assert result.get("lost", 0) <= (0.02 if result["test"] == "int8" else 0.01)
    if result["test"] == "int8":
        assert set(result["products"]) == {"int8"}
