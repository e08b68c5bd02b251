"""Compares what types an ONNX graph FP16 or BF16: the table of docs/precision.md.

    python benchmarks/casts.py digits.onnx vit.onnx [--to bfloat16] [--build OTHER/bin/python] [--operators]

Runs every tool that the interpreter can import on small graphs with one trap each and on the given
files. Each result is run as TensorRT would at best: every node in FP32, rounded to its type. --build
names an interpreter with tensorrt_rtx that parses and builds the results; --operators does so with one
small graph for each of some operators, typed whole, in place of the comparison.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

# ruff: noqa: ARG001 - the tools have one signature
sys.path.insert(0, str(Path(__file__).parent.parent / "trtenv" / "jobs"))
import graph
import keeping
import onnx_nodes
import rounding

# Arguments: the file, the type, nodes to keep in FP32, an input. Not every tool takes each.
Tool = Callable[[Path, str, list[str], dict[str, Any]], onnx.ModelProto]
TOLERANCE = {"float16": 0.01, "bfloat16": 0.08}
BUILD = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("parse: " + str(parser.get_error(0)))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
for index in range(network.num_inputs):
    tensor = network.get_input(index)
    if not tensor.is_shape_tensor:
        shape = [(128 if axis > 1 else 2) if n < 0 else n for axis, n in enumerate(tensor.shape)]
        profile.set_shape(tensor.name, shape, shape, shape)
config.add_optimization_profile(profile)
if builder.build_serialized_network(network, config) is None:
    sys.exit("build")
"""
HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
# name: (graph, input, weights). A trap is passed when the outputs are right.
TRAPS: dict[str, tuple[str, list[float], dict[str, Any]]] = {
    "named node kept": (
        "y = MatMul(x, w) keep = MatMul(y, w) z = Relu(keep)",
        [0.1, 0.2, 0.3, 0.4],
        {},
    ),
    "weight of 1e6": (
        "y = MatMul(x, w) z = Mul(y, big) out = Mul(z, small)",
        [1, 2, 3, 4],
        {"big": 1e6, "small": 1e-6},
    ),
    "epsilon of 1e-12": (
        "a = Abs(x) b = Add(a, tiny) out = Div(x, b)",
        [0, 0, 1, 2],
        {"tiny": 1e-12},
    ),
    "mean of squares": (
        "p = Pow(x, two) m = ReduceMean <axes = [1]> (p) e = Add(m, small) r = Sqrt(e) out = Div(x, r)",
        [900, -800, 1000, 700],
        {"two": 2.0, "small": 1e-5},
    ),
    "exp of 12, then log": ("e = Exp(x) out = Log(e)", [12, 11, 10, 9], {}),
    "size 4099 as float": (
        (
            "l = ConstantOfShape(n) s = Shape(l) f = Cast <to = 1> (s) h = Mul(f, half) g = Floor(h) "
            "i = Cast <to = 7> (g) o = Cast <to = 1> (i) d = Sub(f, o) q = Sub(d, o) out = Add(x, q)"
        ),
        [1, 2, 3, 4],
        {"half": 0.5},
    ),
    "If reads from outside": (
        (
            "y = MatMul(x, w) c = Greater(y, x) k = Cast <to = 6> (c) m = ReduceMax <keepdims = 0> (k) b = Cast <to = 9> (m) "
            "out = If (b) <then_branch = t () => (float[1, 4] u) { u = Add(y, x) }, "
            "else_branch = e () => (float[1, 4] v) { v = Sub(y, x) }>"
        ),
        [1, 2, 3, 4],
        {},
    ),
    "mask of -3.4e38": (
        "s = MatMul(x, w) m = Mul(mask, low) a = Add(s, m) out = Softmax(a)",
        [1, 2, 3, 4],
        {"mask": [0.0, 1.0, 0.0, 1.0], "low": -3.4028235e38},
    ),
}


class Quiet:
    """The part of a worker's voice that the jobs use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass

    def log(self, text: str) -> None:
        pass


def with_trtenv(path: Path, to: str, kept: list[str], feed: dict[str, Any]) -> onnx.ModelProto:
    steps: list[dict[str, Any]] = [{"do": "cast", "to": to}]
    if kept:
        steps.append({"do": "keep_fp32", "value": kept})
    profile = {name: {"opt": list(array.shape)} for name, array in feed.items()}
    with tempfile.TemporaryDirectory() as folder:
        return onnx.load(graph.transform(str(path), steps, Quiet(Path(folder)), profile)[0])


def with_onnxruntime(path: Path, to: str, kept: list[str], feed: dict[str, Any]) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    only_float16(to)
    return convert_float_to_float16(onnx.load(path), keep_io_types=True, node_block_list=kept)


def with_common(path: Path, to: str, kept: list[str], feed: dict[str, Any]) -> onnx.ModelProto:
    from onnxconverter_common.float16 import convert_float_to_float16

    only_float16(to)
    return convert_float_to_float16(onnx.load(path), keep_io_types=True, node_block_list=kept)


def with_common_auto(path: Path, to: str, kept: list[str], feed: dict[str, Any]) -> onnx.ModelProto:
    from onnxconverter_common.auto_mixed_precision import auto_convert_mixed_precision

    only_float16(to)
    return auto_convert_mixed_precision(
        onnx.load(path), feed, rtol=0.01, atol=0.01, keep_io_types=True
    )


def with_autocast(path: Path, to: str, kept: list[str], feed: dict[str, Any]) -> onnx.ModelProto:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "calibration.npz")
        np.savez(data, **feed)
        return convert_to_mixed_precision(
            str(path),
            low_precision_type={"float16": "fp16", "bfloat16": "bf16"}[to],
            nodes_to_exclude=kept,
            keep_io_types=True,
            calibration_data=str(data),
        )


TOOLS: dict[str, Tool] = {
    "trtenv": with_trtenv,
    "onnxruntime": with_onnxruntime,
    "onnxconverter-common": with_common,
    "auto_mixed_precision": with_common_auto,
    "AutoCast": with_autocast,
}


def only_float16(to: str) -> None:
    if to != "float16":
        raise NotImplementedError("FP16 only")


def trap(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    body, values, weights = TRAPS[name]
    last = body.split("} ")[-1].split(" = ")[-2].split()[-1] if "If (" not in body else "out"
    text = f"{HEADER} trap (float[1, 4] x) => (float[1, 4] {last}) {{ {body} }}"
    model = parse_model(text)
    constants = {"w": np.eye(4) + 0.25, **weights}
    read = set().union(*[onnx_nodes.reads(node) for node in model.graph.node])
    for key, value in constants.items():
        if key in read:
            tensor = numpy_helper.from_array(np.asarray(value, np.float32), key)
            model.graph.initializer.append(tensor)
    if "n" in read:
        model.graph.initializer.append(numpy_helper.from_array(np.array([4099], np.int64), "n"))
    for node in model.graph.node:
        node.name = node.output[0]
    path = folder / f"{name.replace(' ', '-')}.onnx"
    onnx.save(model, path)
    return path, {"x": np.array([values], np.float32)}


def outcome(
    tool: Tool, path: Path, to: str, feed: dict[str, Any], target: Path, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """Casts, error and seconds of one conversion, or what failed."""
    started = time.perf_counter()
    try:
        model = tool(path, to, list(kept), feed)
    except Exception as error:  # noqa: BLE001 - any failure of a tool is its result
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:90]}"}
    result: dict[str, Any] = {"seconds": time.perf_counter() - started}
    onnx.save(model, target)
    try:
        onnx.checker.check_model(str(target))
        result["valid"] = True
    except onnx.checker.ValidationError:
        result["valid"] = False
    source = onnx.load(path)
    kinds = [
        [value.type.tensor_type.elem_type for value in (*each.graph.input, *each.graph.output)]
        for each in (source, model)
    ]
    result["io"] = kinds[0] == kinds[1]
    result["casts"] = sum(node.op_type == "Cast" for node in model.graph.node)
    try:
        inferred = onnx.shape_inference.infer_shapes(onnx.load(target))
        types = onnx_nodes.tensor_types(inferred)
        result["kept"] = all(
            types.get(node.output[0]) == TensorProto.FLOAT
            for node in model.graph.node
            if node.name in kept
        )
        emulated = target.with_suffix(".rounded.onnx")
        onnx.save(rounding.rounded(onnx, onnx.load(target), types), emulated)
        expected = rounding.run(str(path), feed)
        try:
            actual = rounding.run(str(emulated), feed)
        except Exception:  # noqa: BLE001 - small types inside control flow, which is not rewritten
            actual = rounding.run(str(target), feed)
        pairs = list(zip(expected.values(), actual.values(), strict=True))
        broken = any(rounding.newly_broken(*pair) for pair in pairs)
        result["error"] = (
            float("inf") if broken else max(rounding.relative_error(*pair) for pair in pairs)
        )
    except Exception as error:  # noqa: BLE001
        result["failed"] = f"does not run: {str(error).strip().splitlines()[0][-90:]}"
    return result


def verdict(result: dict[str, Any], to: str) -> str:
    if "failed" in result:
        return str(result["failed"])
    if not result["kept"]:
        return "cast"
    wrong = result["error"] > TOLERANCE[to]
    return (
        f"wrong: {result['error']:.2g}"
        if wrong
        else "right" + ("" if result["valid"] else ", nodes unsorted")
    )


def build(python: str, path: Path) -> str:
    done = subprocess.run(
        [python, "-c", BUILD, str(path)], capture_output=True, text=True, check=False
    )
    return (
        "builds" if done.returncode == 0 else "fails: " + done.stderr.strip().splitlines()[-1][:160]
    )


def compare_traps(to: str, folder: Path) -> Iterator[str]:
    for name in TRAPS:
        path, feed = trap(name, folder)
        kept = ["keep"] if name == "named node kept" else []
        for tool, function in TOOLS.items():
            result = outcome(function, path, to, feed, folder / f"{tool}-{path.name}", kept)
            yield f"| {name} | {tool} | {verdict(result, to)} |"


def compare_models(
    paths: Sequence[Path], to: str, pythons: Sequence[str], folder: Path
) -> Iterator[str]:
    for path in paths:
        shapes = [value.type.tensor_type.shape.dim for value in onnx.load(path).graph.input]
        sizes = {
            value.name: {
                "opt": [dim.dim_value or (128 if axis > 1 else 2) for axis, dim in enumerate(dims)]
            }
            for value, dims in zip(onnx.load(path).graph.input, shapes, strict=True)
        }
        feed = next(iter(rounding.inputs_for(onnx, str(path), sizes, None, None)))
        for tool, function in TOOLS.items():
            target = folder / f"{tool}-{path.name}"
            result = outcome(function, path, to, feed, target)
            if "failed" in result:
                yield f"| {path.stem} | {tool} | {result['failed']} |"
                continue
            cells = [
                path.stem,
                tool,
                str(result["casts"]),
                f"{result['error']:.2g}",
                "yes" if result["io"] else "no",
            ]
            cells += ["yes" if result["valid"] else "no", f"{result['seconds']:.1f}"]
            cells += [build(python, target) for python in pythons]
            yield "| " + " | ".join(cells) + " |"


def single_operators() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Relu, the operator, and the casts around both; float weights of 0.5."""
    plain = "Relu Sigmoid Tanh Erf HardSigmoid HardSwish Elu Selu Celu Mish Gelu LeakyRelu Softsign Softmax Floor Round Sqrt"
    cases: list[tuple[str, list[list[int]], dict[str, Any], list[int]]] = [
        *((name, [], {}, [1, 8, 16, 16]) for name in plain.split()),
        ("Conv", [[4, 8, 3, 3]], {}, [1, 8, 16, 16]),
        ("ConvTranspose", [[8, 4, 2, 2]], {"strides": [2, 2]}, [1, 8, 16, 16]),
        ("BatchNormalization", [[8]] * 4, {}, [1, 8, 16, 16]),
        ("MatMul", [[16, 8]], {}, [1, 8, 16, 16]),
        ("Gemm", [[16, 8]], {}, [4, 16]),
        ("PRelu", [[8, 1, 1]], {}, [1, 8, 16, 16]),
        ("MaxPool", [], {"kernel_shape": [2, 2]}, [1, 8, 16, 16]),
        ("AveragePool", [], {"kernel_shape": [2, 2]}, [1, 8, 16, 16]),
        ("GlobalAveragePool", [], {}, [1, 8, 16, 16]),
        ("GridSample", [[1, 4, 4, 2]], {}, [1, 8, 16, 16]),
        ("LRN", [], {"size": 3}, [1, 8, 16, 16]),
        ("DepthToSpace", [], {"blocksize": 2}, [1, 8, 16, 16]),
        ("LSTM", [[1, 32, 16], [1, 32, 8]], {"hidden_size": 8}, [4, 2, 16]),
        ("GRU", [[1, 24, 16], [1, 24, 8]], {"hidden_size": 8}, [4, 2, 16]),
        ("RNN", [[1, 8, 16], [1, 8, 8]], {"hidden_size": 8}, [4, 2, 16]),
    ]
    for name, weights, attributes, shape in cases:
        tensors = [
            numpy_helper.from_array(np.full(size, 0.5, np.float32), f"w{number}")
            for number, size in enumerate(weights)
        ]
        nodes = [
            helper.make_node("Relu", ["x"], ["before"]),
            helper.make_node(
                name, ["before", *[each.name for each in tensors]], ["y"], name, **attributes
            ),
        ]
        ends = (
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [onnx.ValueInfoProto(name="y")],
        )
        body = helper.make_graph(nodes, name, *ends, tensors)
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        yield name, onnx.shape_inference.infer_shapes(model, strict_mode=True)


def try_operators(to: str, pythons: Sequence[str], folder: Path) -> Iterator[str]:
    keeping.REFUSED = dict.fromkeys(keeping.REFUSED, ())  # that is what is to be found out
    for name, model in single_operators():
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        typed = folder / f"{name}-{to}.onnx"
        onnx.save(with_trtenv(path, to, [], {}), typed)
        for python in pythons:
            yield f"| {name} | {python} | FP32 {build(python, path)} | {to} {build(python, typed)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--to", choices=sorted(TOLERANCE), default="float16")
    parser.add_argument("--build", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--operators", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.operators:
            lines = [try_operators(options.to, options.build, folder)]
        else:
            models = compare_models(options.models, options.to, options.build, folder)
            lines = [compare_traps(options.to, folder), models]
        for table in lines:
            for line in table:
                print(line, flush=True)


if __name__ == "__main__":
    main()
