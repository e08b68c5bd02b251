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


@pytest.mark.parametrize(
    ("version", "summed"),
    [("8.5.3.1", {"fp32": 8, "tf32": 8}), ("8.6.0", {"fp32": 9, "tf32": 7})],
)
def test_dynamic_shapes_and_two_profiles_hide_no_kernel(
    version: str, summed: dict[str, int]
) -> None:
    found = products(f"{version}-profiles")
    assert len(found) == 10
    assert {name for name in found if name.endswith(" [profile 1]")} == {
        f"{name} [profile 1]" for name in [*CONVOLUTIONS, "classifier"]
    }
    assert set(found.values()) == {"fp32", "tf32"}
    text = (H100 / "layers" / f"{version}-profiles.json").read_text(encoding="utf-8")
    summary = layers.from_inspector(text)
    assert summary["layers"] == summed
    assert summary["unknown"] == 0


@pytest.mark.parametrize(
    ("log", "row"),
    [
        ("8.5.3.1-kernel", "no-formats"),
        ("8.6.0-kernel", "no-formats"),
        ("8.6.0-lean", "no-lean-runtime"),
        # Loads: an engine of the other version, and the first 200000 bytes of one of its own.
        ("8.5.3.1-loads-8.6.0", "not-an-engine"),
        ("8.6.0-loads-8.5.3.1", "not-an-engine"),
        ("8.6.0-loads-half", "engine-cut"),
        ("8.5.3.1-loads-half", "engine-cut"),
        ("8.6.0-refit-engine", "refit-engine"),
    ],
)
def test_errors_of_real_builds_and_loads_are_explained(log: str, row: str) -> None:
    lines = (H100 / "errors" / f"{log}.log").read_text().splitlines()
    # What reading a timing cache said came before the build, and is not its reason.
    started = max((i for i, line in enumerate(lines) if "timing cache in use" in line), default=0)
    found = explain("; ".join(line for line in lines[started:] if "[TensorRT ERROR]" in line))
    assert found
    assert found.name == row


@pytest.mark.parametrize(
    "result",
    RESULTS,
    ids=lambda row: "-".join(str(row.get(k)) for k in ("environment", "test", "case", "asked")),
)
def test_every_engine_was_as_accurate_as_it_must_be(result: dict[str, Any]) -> None:
    if result["test"] in ("reproducible", "timing"):
        assert result["results"] == ["miss", "hit"]
        assert result["seconds"][0] >= 3 * result["seconds"][1]
        assert result.get("equal", True)
        return
    if result["test"] == "examples":
        lost, asked = result["reference"] - result["score"], result["asked"]
        assert lost <= {"fp32": 0.001, "fp16": 0.01, "int8": 0.02}[asked]
        assert set(result["products"]) == {asked}
        limit = {"fp32": 1e-6, "fp16": 5e-3, "int8": 0.25}[asked]
    else:
        limit = {"int8": 0.25, "request": 5e-3, "profiles": 5e-3}[result["test"]]
        assert result.get("lost", 0) <= (0.02 if result["test"] == "int8" else 0.01)
    assert result["relative_error"] < (1e-6 if result.get("case") == "fp32" else limit)
    if result["test"] == "int8":
        assert max(result["products"], key=result["products"].__getitem__) == "int8"
