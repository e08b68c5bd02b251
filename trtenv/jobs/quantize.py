"""Explicit quantization: puts QuantizeLinear and DequantizeLinear into an ONNX file. Python 3.8 to 3.13.

ONNX Runtime measures the ranges on calibration data. The pairs are put where TensorRT fuses them: at
the data input and the constant weights of convolutions and matrix products, and at the residual branch
of an addition; never at their outputs or biases. Each consumer has a pair of its own, every zero point
is 0, activations have one scale, weights one for each output channel. onnxruntime.quantization's own
QDQ writer differs in the last four (residual additions get two pairs, MatMul's channel axis is 1 at
any rank) and knows no FP8 convolution.
"""

import importlib
import os
import shutil

import calibration
import keeping
import onnx_check
import ranges
from onnx_nodes import key, name_nodes
from worker import JobError

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PAIR = ("QuantizeLinear", "DequantizeLinear")
# [onnx] QuantizeLinear: `axis` from opset 13; FP8 and FP16 tensors from 19. Largest magnitude of each type.
LARGEST = {"int8": 127.0, "fp8": 448.0}
TYPE_NAMES = {"int8": "INT8", "fp8": "FLOAT8E4M3FN"}
SMALLEST = 1e-12
REPLACE = "use an environment with onnx and onnxruntime, such as rtx-1.7, or a quantized ONNX file"


def quantize(path, step, spec, profile, io, keep=()):
    """Returns the path of the quantized file and a report for the stamp.

    Nodes that `keep` names, as keeping.match takes them, get no pairs. A file that has pairs already is
    returned as it is: "state" in the report says so.
    """
    modules = load_modules(step["to"])
    onnx = modules["onnx"]
    io.progress("quantizing")
    model = onnx.load(path)
    kept = keeping.match(keep, model.graph.node)
    pairs = sum(node.op_type in PAIR for node in model.graph.node)
    if pairs:
        unused = ", and --keep-fp32 changes nothing in it" if kept else ""
        io.log("the model has %d Q/DQ nodes: it is taken as it is%s" % (pairs, unused))
        return path, {"state": "was quantized", "to": None, "nodes": pairs}
    if spec is None or spec["data"] is None:
        raise JobError(
            "calibration",
            "quantizing to %s needs data that stands for the real input" % step["to"],
            "give some hundred samples: --calibration FOLDER or .npz",
        )
    name_nodes(model.graph)  # ONNX Runtime refuses nodes that share a name
    big = onnx_check.weight_bytes(model) > onnx_check.INLINE_BYTES
    model = at_opset(onnx, model, needed_opset(onnx, model, step["to"]))
    # ONNX Runtime writes beside the file that it measures, and a user's model may lie read-only.
    folder = io.path("quantizing")
    os.makedirs(folder)
    floating = os.path.join(folder, "float.onnx")
    onnx_check.save(onnx, model, floating, big)
    importlib.import_module("onnx.shape_inference").infer_shapes_path(floating, floating)
    model = onnx.load(floating)
    graph = Graph(onnx, model.graph)
    places = graph.places(kept)
    if not places:
        raise nothing_left(kept)
    inputs = graph_inputs(model, profile, spec)
    # FP8 has 16 binades: clipping the largest values gains nothing there.
    method = step["method"] if step["to"] == "int8" else "minmax"
    wanted = {place.tensor for place in places if place.weight is None}
    measured, count, first = ranges.measure(floating, wanted, inputs, spec, method, big, io)
    silent = silent_nodes(places, measured, io)
    if silent:  # a sum's other branch may then be one that was not measured
        places = [place for place in graph.places(kept | silent) if has_range(place, measured)]
    if not places:
        raise nothing_left(silent)
    counts = count_by_type(places)
    for place in places:
        graph.quantize(place, step["to"], measured)
    graph.sort()
    target = io.path("quantized.onnx")
    onnx_check.save(onnx, model, target, big)
    difference = compare(floating, target, first, io)
    shutil.rmtree(folder)
    for name, relative in (difference or {}).items():
        text = "quantized: output `%s` differs by %.2g%% on the first batch"
        io.log(text % (name, 100 * relative))
    return target, {
        "state": "quantized",
        "to": step["to"],
        "method": method,
        "batches": count,
        "opset": onnx_check.opset_of(model),
        "nodes": counts,
        "left_alone": graph.left_alone,
        "relative_difference": difference,
        "tools": {"onnx": onnx.__version__, "onnxruntime": modules["onnxruntime"].__version__},
    }


def load_modules(target):
    try:
        import onnx
        import onnxruntime
        import onnxruntime.quantization
    except ImportError as error:
        message = "a model cannot be quantized in this environment: %s" % error
        raise JobError("missing-module", message, REPLACE)
    if not hasattr(onnx.TensorProto, TYPE_NAMES[target]):
        message = "onnx %s knows no FP8 (needed: 1.14)" % onnx.__version__
        raise JobError("missing-module", message, REPLACE)
    return {"onnx": onnx, "onnxruntime": onnxruntime}


def needed_opset(onnx, model, target):
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return 19 if half or target == "fp8" else 13


def at_opset(onnx, model, needed):
    found = onnx_check.opset_of(model)
    if found >= needed:
        return model
    converter = importlib.import_module("onnx.version_converter")
    try:
        return converter.convert_version(model, needed)
    except Exception as error:
        raise JobError(
            "unsupported",
            "quantizing needs opset %d; the model has %d and cannot be converted: %s"
            % (needed, found, onnx_check.first_line(error)),
            "export it again with --opset %d" % needed,
        )


def nothing_left(kept):
    return JobError(
        "unsupported",
        "there is nothing to quantize: no %s of FP32 or FP16 with constant weights%s"
        % (", ".join(WEIGHTED), " beside those that stay" if kept else ""),
        "build it with --precision fp16" + (", or keep fewer nodes" if kept else ""),
    )


def silent_nodes(places, measured, io):
    """Keys of the nodes that read only zeros, as behind a ReLU that never fires: a range of nothing."""
    found = set()
    for place in places:
        if place.weight is None and not measured[place.tensor]:
            found.add(key(place.node))
            text = "not quantized: `%s` (%s) reads `%s`, which is 0 in all of the calibration data"
            io.log(text % (place.node.name, place.node.op_type, place.tensor))
    return found


def has_range(place, measured):
    return place.weight is not None or bool(measured.get(place.tensor))


def graph_inputs(model, profile, spec):
    weights = {tensor.name for tensor in model.graph.initializer}
    described = [
        onnx_check.describe(value) for value in model.graph.input if value.name not in weights
    ]
    pairs = [(entry["name"], entry["dtype"]) for entry in described]
    return calibration.describe_inputs(pairs, profile, spec["batch"])


class Place(object):
    """One pair to be put in: before input `index` of `node`. Weights have an array and an axis or None."""

    def __init__(self, node, index, weight=None, axis=None):
        self.node, self.index, self.weight, self.axis = node, index, weight, axis
        self.tensor = node.input[index]


class Graph(object):
    """The main graph of a model with inferred types; what lies in its branches and loops stays."""

    def __init__(self, onnx, graph):
        self.onnx, self.graph = onnx, graph
        self.left_alone = []
        self._new = {}  # key of a node -> nodes to stand before it
        self._names = set()
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            self._names.update(node.output)
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value":
                    self._constants[node.output[0]] = attribute.t
        values = list(graph.input) + list(graph.value_info) + list(graph.output)
        self._types = {value.name: value.type.tensor_type.elem_type for value in values}
        self._types.update((name, tensor.data_type) for name, tensor in self._constants.items())

    def places(self, kept):
        """Data and weights of each node that is quantized, then the residual branches; `kept` are keys.

        The others that could have pairs are told in `left_alone`.
        """
        found, outputs, left = [], set(), set()
        for node in self.graph.node:
            if node.op_type in WEIGHTED and node.domain in ("", "ai.onnx"):
                if key(node) not in kept and self._fits(node):
                    weight = self.onnx.numpy_helper.to_array(self._constants[node.input[1]])
                    found.append(Place(node, 0))
                    found.append(Place(node, 1, weight, channel_axis(node, weight)))
                    outputs.add(node.output[0])
                else:
                    left.add(key(node))
        for node in self.graph.node:
            index = self._residual(node, outputs) if node.op_type == "Add" else None
            if index is not None and key(node) in kept:
                left.add(key(node))
            elif index is not None:
                found.append(Place(node, index))
        self.left_alone = [node.name for node in self.graph.node if key(node) in left]
        return found

    def _floating(self, name):
        types = (self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.FLOAT16)
        return self._types.get(name) in types

    def _fits(self, node):
        data, weight = node.input[0], node.input[1]
        return (
            weight in self._constants
            and data not in self._constants
            and self._floating(data)
            and self._floating(weight)
            and len(self._constants[weight].dims) > 1
        )

    def _residual(self, node, outputs):
        """Which input of an addition is the other branch; None where it is no residual addition."""
        if any(name in self._constants or not self._floating(name) for name in node.input):
            return None
        summed = [name in outputs for name in node.input]
        # Of two products the second is fused with the addition, and takes the first as a term.
        return 0 if summed[1] else 1 if summed[0] else None

    def quantize(self, place, target, measured):
        import numpy as np

        helper, node = self.onnx.helper, place.node
        if place.weight is None:
            largest = np.asarray(measured[place.tensor])
        else:
            axes = [axis for axis in range(place.weight.ndim) if axis != place.axis]
            largest = np.abs(place.weight.astype(np.float32)).max(axis=tuple(axes))
            self._tell_kernel(node, place.weight)
        scale = np.maximum(largest / LARGEST[target], SMALLEST)
        half = self._types[place.tensor] == self.onnx.TensorProto.FLOAT16
        scale = np.maximum(scale, 2.0**-24).astype(np.float16) if half else scale.astype(np.float32)
        base = self._name("%s_at_%s" % (place.tensor, node.name or node.output[0]))
        zero = helper.make_tensor(
            base + "_zero_point",
            getattr(self.onnx.TensorProto, TYPE_NAMES[target]),
            scale.shape,
            np.zeros(scale.shape, np.int8).ravel().tolist(),
        )
        constants = [self.onnx.numpy_helper.from_array(scale, base + "_scale"), zero]
        self.graph.initializer.extend(constants)
        both = [constant.name for constant in constants]
        axis = {} if place.axis is None else {"axis": place.axis}
        self._new.setdefault(key(node), []).extend(
            helper.make_node(kind, [source, *both], [result], name=result, **axis)
            for kind, source, result in (
                (PAIR[0], place.tensor, base + "_quantized"),
                (PAIR[1], base + "_quantized", base + "_dequantized"),
            )
        )
        node.input[place.index] = base + "_dequantized"

    def _tell_kernel(self, node, weight):
        """TensorRT 8.5 and 8.6 read the kernel's size off a constant, but not off what was dequantized."""
        told = any(attribute.name == "kernel_shape" for attribute in node.attribute)
        if node.op_type in ("Conv", "ConvTranspose") and not told:
            shape = self.onnx.helper.make_attribute("kernel_shape", weight.shape[2:])
            node.attribute.append(shape)

    def _name(self, wish):
        name, number = wish, 1
        while name in self._names:
            number += 1
            name = "%s_%d" % (wish, number)
        self._names.add(name)
        return name

    def sort(self):
        """Put the new nodes before those that they feed."""
        nodes = [new for node in self.graph.node for new in [*self._new.get(key(node), []), node]]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)


def channel_axis(node, weight):
    """The axis of the output channels; None for one scale for all."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":  # groups share one axis for their channels
        return 1 if attributes.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB") else 1
    return weight.ndim - 1


def count_by_type(places):
    counts = {}
    for place in places:
        if place.weight is not None or place.node.op_type == "Add":
            counts[place.node.op_type] = counts.get(place.node.op_type, 0) + 1
    return counts


def compare(floating, quantized, batch, io):
    """{output: norm of the difference over norm of the output}."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # What is to be seen is the rounding that was put in, not what ONNX Runtime fuses of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    results = []
    try:
        for path in (floating, quantized):
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            results.append(session.run(None, batch))
    except Exception as error:
        io.log("not compared with ONNX Runtime: %s" % onnx_check.first_line(error))
        return None
    names = [value.name for value in session.get_outputs()]
    return {
        name: onnx_check.measure(expected, actual)["rel"]
        for name, expected, actual in zip(names, *results)
    }
