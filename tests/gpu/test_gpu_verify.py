"""`trtenv verify` of engines on a GPU: what agrees, what does not, and which node is to blame.

docs/gpu.md tells how to run. Reference and engine run in the environment that built it, which must hold
ONNX Runtime and onnx.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from digits_onnx import write_digits
from gpu_runs import (
    HELD_OUT,
    PRECISIONS,
    SHAPES,
    build_once,
    environments,
    example_engine,
    held_out_pictures,
    record,
    trtenv,
)
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.gpu

FEW = ("--shapes", "image:1x1x32x32..4x1x32x32..8x1x32x32")
AGREES, DIFFERS = 0, 12
# An environment with scikit-learn, where the tested ones have none.
REFERENCE = os.environ.get("TRTENV_GPU_REFERENCE")


def verify(environment: str, engine: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = trtenv(
        "verify", str(engine), "--env", environment, "--runner", "venv", "--json", *options,
        cwd=engine.parent,
    )  # fmt: skip
    assert done.returncode in (AGREES, DIFFERS), done.stdout + done.stderr
    found = json.loads(done.stdout)
    outputs = {entry["name"]: entry["rel"] for entry in found["outputs"]}
    record(
        test="verify", environment=environment, engine=engine.name, code=done.returncode,
        rel=outputs, metric=found["metric"], bisection=found["bisection"],
    )  # fmt: skip
    return done.returncode, found


@environments
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("example", SHAPES)
def test_an_engine_agrees_with_its_onnx_file_and_its_stamp_says_so(
    environment: str, example: str, precision: str, tmp_path: Path
) -> None:
    engine = example_engine(environment, example, precision, tmp_path)
    stamp = engine.with_name(engine.name + ".json")
    before = json.loads(stamp.read_text())
    code, found = verify(environment, engine)
    assert code == AGREES, found["reasons"]
    assert found["inputs"]["batches"] == 12
    after = json.loads(stamp.read_text())
    assert after["verified"]["verdict"] == "agrees"
    assert after["verified"]["against"]["name"] == f"{example}.onnx"
    assert after["sha256"] == before["sha256"]


@environments
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_labelled_pictures_go_through_both(
    environment: str, precision: str, tmp_path: Path
) -> None:
    engine = example_engine(environment, "digits", precision, tmp_path)
    labels = held_out_pictures(tmp_path / "pictures")
    rows = [f"{number:04d}.png,{label}" for number, label in enumerate(labels)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    options = ["--inputs", "pictures", "--task", "classify", "--labels", "labels.csv"]
    options += ["--against-env", REFERENCE] if REFERENCE else []
    code, found = verify(environment, engine, *options, "--max-drop", "1")
    assert code == AGREES, found["reasons"]
    assert found["inputs"]["items"] == HELD_OUT
    assert found["outputs"][0]["top1"] > 0.99


@environments
def test_bisection_finds_the_node_whose_weights_are_damaged(
    environment: str, tmp_path: Path
) -> None:
    """The engine is built from the damaged file, and held against the sound one."""
    sound = write_digits(tmp_path / "sound.onnx")
    model = onnx.load(sound)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            weights = numpy_helper.to_array(tensor).copy()
            weights[3] *= 2
            tensor.CopyFrom(numpy_helper.from_array(weights, "w2"))
    onnx.save(model, tmp_path / "damaged.onnx")
    built = build_once(environment, tmp_path / "damaged.onnx", "damaged", *FEW)
    assert built.code == 0, built.said
    code, found = verify(environment, built.engine, "--against", str(sound), "--bisect")
    assert code == DIFFERS
    first = found["bisection"]["first"]
    assert (first["tensor"], first["node"], first["op"]) == ("c2", "conv2", "Conv")
    assert found["bisection"]["notes"]


@environments
def test_bisection_finds_where_fp16_overflows(environment: str, tmp_path: Path) -> None:
    """x * 3000 * 3000 is 9e6, which FP32 holds and FP16 does not; the last product brings it back."""
    matrix = np.eye(64, dtype=np.float32)
    weights = [
        numpy_helper.from_array(matrix * factor, name)
        for name, factor in (("w0", 3000), ("w1", 3000), ("w2", 1e-6))
    ]
    nodes = []
    for number, name in enumerate(("x", "t0", "t1")):
        last = ("t0", "t1", "y")[number]
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"m{number}"], f"m{number}"))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [last], f"relu{number}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, 64]) for name in "xy"]
    graph = helper.make_graph(nodes, "overflow", ends[:1], ends[1:], weights)
    imports = [helper.make_opsetid("", 17)]
    path = tmp_path / "overflow.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    built = build_once(environment, path, "overflow", *PRECISIONS["fp16"])
    assert built.code == 0, built.said
    code, found = verify(environment, built.engine, "--bisect")
    assert code == DIFFERS
    # Infinity times 0 of the next product is NaN, of which the last ReLU makes 0.
    assert found["outputs"][0]["rel"] == 1
    assert found["bisection"]["first"]["tensor"] in ("m1", "t1")
