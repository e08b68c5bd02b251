"""The engine runner by itself on this machine's GPU: numbers, memory, graphs, host and GPU times.

docs/gpu.md tells how to run. Each engine is run with both kinds of memory where the environment has PyCUDA,
with and without CUDA graphs, and two batches in flight.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from gpu_runs import build_once, digits_data, digits_model, environments, record, reference, trtenv
from onnx import TensorProto, helper

from trtenv.runners.protocol import JOBS_FOLDER

pytestmark = pytest.mark.gpu

RUN_RUNNER = Path(__file__).parent / "run_runner.py"
PICTURES = 512
# Another machine, or one that others use, may be slower; on an idle H100 these are what is promised.
HOST_MICROSECONDS = float(os.environ.get("TRTENV_GPU_HOST_US", "15"))
GPU_RATIO = float(os.environ.get("TRTENV_GPU_RATIO", "1.02"))


class Case(NamedTuple):
    """graph: whether CUDA graphs can be had; batches: None for all rows, where rows are no batch.

    timed: the batch of the GPU times, large enough that the GPU and not the host sets the pace.
    """

    model: str
    options: tuple[str, ...]
    batches: tuple[int | None, ...]
    timed: int | None
    tolerance: float
    graph: bool = True


DIGITS = ("--shapes", "image:1x1x32x32..16x1x32x32", "--shapes", "image:17x1x32x32..512x1x32x32")
HALF = ("--precision", "fp16", "--input-io-formats", "fp16:chw", "--output-io-formats", "fp16:chw")
HALF += ("--accept-precision", "any")  # the borders are what is tested
CASES = {
    "profiles": Case("digits", (*DIGITS, "--precision", "fp32"), (1, 16, 64, 3), 512, 1e-4),
    "fp16-io": Case("digits", (*DIGITS[:2], *HALF), (1, 16, 5), None, 5e-3),
    "shape-values": Case("reshape", ("--shapes", "s:1x1..4x2..8x8"), (None,), None, 1e-6),
    "data-dependent": Case("nonzero", (), (None,), None, 1e-6, graph=False),
}


def make_model(name: str, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file, and inputs for it."""
    path = folder / f"{name}.onnx"
    if name == "digits":
        return digits_model(path, batch=None), {"image": digits_data()[0][:PICTURES]}
    x = np.arange(-3, 5, dtype=np.float32).reshape(2, 4)
    if name == "reshape":
        node = helper.make_node("Reshape", ["x", "s"], ["y"], "reshape")
        inputs = {"x": x, "s": np.array([4, 2], np.int64)}
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])
    else:
        node = helper.make_node("NonZero", ["x"], ["y"], "nonzero")
        inputs = {"x": np.maximum(x, 0)}
        output = helper.make_tensor_value_info("y", TensorProto.INT64, [2, "n"])
    types = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64}
    infos = [
        helper.make_tensor_value_info(key, types[array.dtype.type], array.shape)
        for key, array in inputs.items()
    ]
    graph = helper.make_graph([node], name, infos, [output])
    imports = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path, inputs


def run_runner(environment: str, engine: Path, spec: dict[str, Any]) -> list[dict[str, Any]]:
    (engine.parent / "spec.json").write_text(json.dumps(spec))
    done = trtenv(
        "exec", "--env", environment, "--runner", "venv", "--", "python", str(RUN_RUNNER),
        str(JOBS_FOLDER), "spec.json", cwd=engine.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@environments
@pytest.mark.parametrize("name", CASES)
def test_the_runner_keeps_what_it_promises(tmp_path: Path, environment: str, name: str) -> None:
    case = CASES[name]
    model, inputs = make_model(case.model, tmp_path)
    built = build_once(environment, model, f"runner-{name}", *case.options)
    if built.code and case.model != "digits":
        record(test="runner", case=name, environment=environment, refused=built.said[-2000:])
        pytest.skip(f"this TensorRT does not build it: {built.said[-300:]}")
    assert built.code == 0, built.said
    expected = reference(model, inputs)
    np.savez(tmp_path / "arrays.npz", **inputs, **expected)
    told = run_runner(
        environment,
        built.engine,
        {
            "engine": str(built.engine), "flavour": built.stamp["engine"]["flavour"],
            "arrays": "arrays.npz", "inputs": list(inputs), "outputs": list(expected),
            "batches": case.batches, "timed": case.timed, "device": 0,
        },
    )  # fmt: skip
    for found in told:
        record(test="runner", case=name, environment=environment, **found)
    assert {(found["memory"], found["graph"]) for found in told} >= {
        ("driver", False),
        ("driver", True),
    }
    for found in told:
        assert max(found["errors"].values()) < case.tolerance
        assert found["overlapped"]
        assert found["grown"] < 1 << 20
        assert found["runner"]["cuda_graph"] == (found["graph"] and case.graph)
        if case.timed:
            assert found["gpu_ms"]["ratio"] <= GPU_RATIO
        if found["runner"]["cuda_graph"]:
            assert found["host_us"]["enqueue"] < HOST_MICROSECONDS
