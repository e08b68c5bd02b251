"""Prints which quantized graphs a TensorRT-RTX builds, for each compute capability that it knows.

trtenv exec --env rtx-1.7 --runner venv -- python tools/quantized_builds.py

Each line: operator, type, compute capability, bytes of the engine or the reason why there is none. The
graphs are two products or convolutions of 1024x1024 and 512x256x3x3 weights with a residual addition, as
jobs/quantize.py quantizes them. Needs tensorrt_rtx, onnx and onnxruntime; no GPU.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "trtenv" / "jobs"))
sys.setdlopenflags(os.RTLD_LAZY)

import numpy as np
import onnx
import quantize
import tensorrt_rtx as trt
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)
# Operator: shapes of the weights, of a sample, and what a node needs besides.
GRAPHS = {
    "MatMul": ([(1024, 1024), (1024, 1024)], [16, 1024], {}),
    "Conv": ([(512, 256, 3, 3), (256, 512, 3, 3)], [256, 16, 16], {"pads": [1, 1, 1, 1]}),
}
BATCH = 4


class Job:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, name: str) -> str:
        return str(Path(self.folder, name))

    def log(self, text: str) -> None:
        print(text, file=sys.stderr)

    def progress(self, *_: object) -> None:
        pass


class Logger(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors = list[str]()

    def log(self, severity: object, text: str) -> None:
        if "ERROR" in str(severity):
            self.errors.append(text)


def write(operator: str, path: str) -> None:
    weights, sample, attributes = GRAPHS[operator]
    nodes = [
        helper.make_node(operator, ["x", "w0"], ["a"], "first", **attributes),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node(operator, ["b", "w1"], ["c"], "second", **attributes),
        helper.make_node("Add", ["c", "x"], ["y"], "add"),
    ]
    shape = [BATCH, *sample]
    graph = helper.make_graph(
        nodes,
        operator,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(RANDOM.standard_normal(size).astype(np.float32), f"w{number}")
            for number, size in enumerate(weights)
        ],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)


def quantized(operator: str, to: str, folder: str) -> str:
    path, data = str(Path(folder, "model.onnx")), str(Path(folder, "data.npy"))
    write(operator, path)
    if to == "fp32":
        return path
    shape = [BATCH, *GRAPHS[operator][1]]
    np.save(data, RANDOM.standard_normal(shape).astype(np.float32))
    spec = {"data": data, "batch": None, "mean": None, "std": None, "scale": 1.0}
    profile = {"x": {"min": shape, "opt": shape, "max": shape}}
    step = {"do": "quantize", "to": to, "method": "minmax"}
    return str(quantize.quantize(path, step, spec, profile, Job(folder))[0])


def build(path: str, capability: str | None) -> str:
    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        return f"not parsed: {parser.get_error(0)}"
    config = builder.create_builder_config()
    if capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan = builder.build_serialized_network(network, config)
    return str(plan.nbytes) if plan is not None else " | ".join(logger.errors)[:200]


def main() -> None:
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    known.sort(key=lambda name: int(name[2:]))
    for operator in GRAPHS:
        for to in ("fp32", "int8", "fp8"):
            with tempfile.TemporaryDirectory() as folder:
                path = quantized(operator, to, folder)
                for capability in (None, *known):
                    print(
                        trt.__version__, operator, to, capability or "any", build(path, capability)
                    )


if __name__ == "__main__":
    main()
