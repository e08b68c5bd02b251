"""In what precision the layers of an engine compute, by what TensorRT itself tells of them.

The engine inspector tells most (TensorRT 8.2; types need ProfilingVerbosity.DETAILED), the builder's
verbose log the types of each layer's tensors, and where a network is typed (TensorRT-RTX, TensorRT
11, strongly typed 10.x) the network itself. A summary is

    {"source":   "inspector", "log", "inspector+log" (types of dynamic shapes) or "network",
     "layers":   {"fp16": 20, ...}    layers that compute, by the precision they compute in,
     "products": {"fp16": 18, ...}    those of them that are convolutions and matrix products,
     "weights":  {"fp16": 0.99, ...}  share of the weights of such layers, or None: not told,
     "other":    layers that only move, reshape or convert data,
     "unknown":  layers whose precision is not told,
     "total":    all three together}

fp32 in a summary may be TF32 where no kernel is named: in logs, in networks and for cuBLAS.
"""

import json
import re
import sys

from precisions import INTEGERS, PRECISIONS, PRODUCTS, Layer, to_precision

LOG_LAYER = re.compile(r"Layer\((\w+)\): (.*?), Tactic: (-?\w+),? (.*)")
LOG_TENSOR = re.compile(r"[\[(](%s)[\[(:]" % "|".join(PRECISIONS), re.IGNORECASE)
LOG_KERNEL = re.compile(r"Set Tactic Name: (\S+)")  # on the line of its tactic's number, or above
LOG_TACTIC = re.compile(r" Tactic: (-?\w+) [Tt]ime")
LINE_LAYER = re.compile(
    r"Name: (.*), LayerType: (\w+), Inputs: \[(.*?)\], Outputs: \[(.*?\}|)\](.*)"
)
LINE_TENSOR = re.compile(r"Dimensions: \[([^\]]*)\].*?Data[Tt]ype: ([^}]*)")
LINE_WEIGHTS = re.compile(r'\bWeights: \{"Type": "(\w+)", "Count": (\d+)')
LINE_KERNEL = re.compile(r"TacticName: ([^,]+)")
RESHAPES = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")  # of trt.LayerType


def summarize(layers, source):
    counts, products, weights, other, unknown = {}, {}, {}, 0, 0
    for layer in layers:
        precision = None if layer.moves() else layer.precision()
        if layer.moves():
            other += 1
        elif precision is None:
            unknown += 1
        else:
            counts[precision] = counts.get(precision, 0) + 1
            if layer.is_product():
                products[precision] = products.get(precision, 0) + 1
        if layer.weights and layer.count:
            weights[layer.weights] = weights.get(layer.weights, 0) + layer.count
    total = sum(weights.values())
    return {
        "source": source,
        "layers": counts,
        "products": products,
        "weights": {k: round(n / float(total), 4) for k, n in weights.items()} if total else None,
        "other": other,
        "unknown": unknown,
        "total": sum(counts.values()) + other + unknown,
    }


def inspector_layers(text):
    """None where `text` is not what the inspector writes."""
    try:
        # Names of ONNX nodes are separated by raw control characters in 8.6 and 10.x.
        document = json.loads(text, strict=False)
    except (ValueError, TypeError, RecursionError):
        return None
    listed = document.get("Layers") if isinstance(document, dict) else None
    return [inspector_layer(entry) for entry in listed] if isinstance(listed, list) else None


def inspector_layer(entry):
    if not isinstance(entry, dict):  # a bare name: the engine was not built with DETAILED
        return Layer(str(entry), "")
    weights = entry.get("Weights", entry.get("ConvWeights"))
    weights = weights if isinstance(weights, dict) else {}
    count = weights.get("Count")
    return Layer(
        str(entry.get("Name")),
        str(entry.get("LayerType", "")),
        str(entry.get("TacticName", "")),
        (to_precision(weights.get("Type")), count if isinstance(count, int) and count > 0 else 0),
        inspector_tensors(entry.get("Inputs")),
        inspector_tensors(entry.get("Outputs")),
    )


def inspector_tensors(tensors):
    listed = [one for one in tensors if isinstance(one, dict)] if isinstance(tensors, list) else []
    # TensorRT 11 writes format and type apart, and spells the second in two ways.
    told = [one.get("Format/Datatype", one.get("Datatype", one.get("DataType"))) for one in listed]
    sizes = [one.get("Dimensions") for one in listed]
    return [to_precision(text) for text in without_scalars(told, sizes)]


def without_scalars(told, sizes):
    """Alpha and beta of a GEMM are FP32 in any precision: single numbers do not count, if others do."""
    return [one for one, size in zip(told, sizes) if size not in ([], [1], "", "1")] or told


def log_layers(lines):
    """The last table of layers in the log; messages may hold many lines. None where there is none."""
    tables, kernels, named = [], {}, None
    for line in "\n".join(lines).splitlines():
        kernel, tactic = LOG_KERNEL.search(line), LOG_TACTIC.search(line)
        layer = log_layer(line, kernels) if tables else None
        if kernel:
            named = kernel.group(1)
        elif tactic and named:
            kernels[tactic.group(1)] = named
            named = None
        elif line.rstrip().endswith(("Engine Layer Information:", "Layers:")):
            tables.append([])
        elif layer:
            tables[-1].append(layer)
    return next((table for table in reversed(tables) if table), None)


def log_layer(line, kernels):
    row = LOG_LAYER.search(line)
    if row:
        kind, name, tactic, tensors = row.groups()
        # Tactics of other runners are small numbers that mean different kernels in each.
        kernel = kernels.get(tactic, "") if kind.startswith("Cask") else ""
        inputs, _, outputs = tensors.rpartition(" -> ")
        types = [[to_precision(x) for x in LOG_TENSOR.findall(side)] for side in (inputs, outputs)]
        return Layer(name, kind, kernel, (None, 0), *types)
    row = LINE_LAYER.search(line)
    if not row:
        return None
    name, kind, inputs, outputs, rest = row.groups()
    weights, kernel = LINE_WEIGHTS.search(rest), LINE_KERNEL.search(rest)
    weights = (to_precision(weights.group(1)), int(weights.group(2))) if weights else (None, 0)
    kernel = kernel.group(1) if kernel else ""
    return Layer(name, kind, kernel, weights, line_tensors(inputs), line_tensors(outputs))


def line_tensors(text):
    sizes, told = zip(*LINE_TENSOR.findall(text)) if LINE_TENSOR.search(text) else ((), ())
    return [to_precision(one) for one in without_scalars(told, sizes)]


def network_layers(network):
    """Layers of a typed network: what the builder must keep to, whatever kernels it takes."""
    listed = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {}
    for layer in listed:
        for index in range(layer.num_outputs):
            made_by[layer.get_output(index).name] = layer
    return [network_layer(layer, made_by) for layer in listed]


def network_layer(layer, made_by):
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    inputs = [tensor for tensor in tensors if tensor is not None]
    types = [to_precision(tensor.dtype) for tensor in inputs]
    quantized = [dequantized_from(tensor, made_by) for tensor in inputs[:2]]
    # Both factors quantized: the product is. One alone is weight-only quantization.
    if PRODUCTS.search(kind_of(layer)) and quantized and all(quantized):
        types = quantized
    outputs = [to_precision(layer.get_output(i).dtype) for i in range(layer.num_outputs)]
    return Layer(layer.name, kind_of(layer), "", (None, 0), types, outputs)


def kind_of(layer):
    return str(layer.type).split(".")[-1]


def dequantized_from(tensor, made_by):
    """The type that a tensor was dequantized from, also through reshapes; else None."""
    maker = made_by.get(tensor.name)
    while maker is not None:
        kind = kind_of(maker)
        source = maker.get_input(0) if maker.num_inputs else None
        if kind == "DEQUANTIZE":
            return to_precision(source.dtype)
        if source is None or kind not in RESHAPES:
            return None
        maker = made_by.get(source.name)
    return None


def network_weights(trt, network):
    """Shares of the weights by type; the API shows them only behind a layer's own class."""
    classes = {"CONSTANT": "IConstantLayer", "CONVOLUTION": "IConvolutionLayer",
               "DECONVOLUTION": "IDeconvolutionLayer"}  # fmt: skip
    found, readers = {}, {}
    listed = [network.get_layer(index) for index in range(network.num_layers)]
    for layer in listed:
        for index in range(layer.num_inputs):
            if layer.get_input(index) is not None:
                readers.setdefault(layer.get_input(index).name, []).append((layer, index))
    for layer in listed:
        kind = kind_of(layer)
        if kind in classes:
            layer.__class__ = getattr(trt, classes[kind])
            weights = layer.weights if kind == "CONSTANT" else layer.kernel
            precision = to_precision(weights.dtype)
            if kind == "CONSTANT":
                precision = read_as(layer.get_output(0), precision, readers)
            # One number is a scale, say.
            if precision is not None and precision not in INTEGERS and weights.size > 1:
                found[precision] = found.get(precision, 0) + int(weights.size)
    total = float(sum(found.values()))
    return {name: round(count / total, 4) for name, count in found.items()} if total else None


def read_as(tensor, precision, readers):
    """The type that a constant has for its readers: Q makes FP32 weights INT8 or FP8, the builder folds it.

    None for what is but the scale or zero point of Q or DQ.
    """
    types = set()
    for layer, index in readers.get(tensor.name, ()):
        kind = kind_of(layer)
        if kind in RESHAPES and index == 0:
            types.add(read_as(layer.get_output(0), precision, readers))
        elif kind == "QUANTIZE" and index == 0:
            types.add(to_precision(layer.get_output(0).dtype))
        elif kind not in ("QUANTIZE", "DEQUANTIZE") or index == 0:
            types.add(precision)
        else:
            types.add(None)
    return types.pop() if len(types) == 1 else precision


def from_inspector(text):
    layers = inspector_layers(text)
    return None if layers is None else summarize(layers, "inspector")


def from_log(lines):
    layers = log_layers(lines)
    return None if layers is None else summarize(layers, "log")


def from_network(trt, network):
    summary = summarize(network_layers(network), "network")
    summary["weights"] = network_weights(trt, network)
    return summary


def is_typed(trt, network):
    """Whether the network's types bind the builder: always where there are no precision flags."""
    if not hasattr(trt.BuilderFlag, "FP16"):
        return True
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return flag is not None and hasattr(network, "get_flag") and bool(network.get_flag(flag))


def inspect(trt, plan, logger):
    """The inspector's text for a serialized engine; None before 8.2 and where the engine does not load."""
    if not hasattr(trt, "EngineInspector"):
        return None
    runtime = trt.Runtime(logger)
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # version-compatible engines; built a moment ago
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


def found(trt, flavour, plan_bytes, network, logger_lines, logger=None):
    """The best summary that can be had, or None. Never raises: the engine is built already.

    trt and network may be None (trtexec built); logger_lines are verbose messages, or trtexec's lines.
    """
    try:
        if (
            flavour == "tensorrt-rtx"
        ):  # its engines hold no kernels: they are compiled where they run
            return from_network(trt, network) if network is not None else None
        text = inspect(trt, plan_bytes, logger or trt.Logger(trt.Logger.ERROR)) if trt else None
        return merged(inspector_layers(text), log_layers(logger_lines)) or (
            from_network(trt, network) if network is not None and is_typed(trt, network) else None
        )
    except Exception as error:
        sys.stderr.write("layers of the engine: %s: %s\n" % (type(error).__name__, error))
        return None


def merged(inspected, logged):
    """One summary of both: with dynamic shapes the inspector of 8.x and 10.x tells no tensor types."""
    found_by = [("inspector", inspected), ("inspector+log", None), ("log", logged)]
    if inspected and logged:
        named = {layer.name: layer for layer in logged}
        found_by[1] = ("inspector+log", [completed(one, named.get(one.name)) for one in inspected])
    summaries = [summarize(layers, source) for source, layers in found_by if layers]
    known = [summary for summary in summaries if summary["unknown"] < summary["total"]]
    return min(known, key=lambda summary: summary["unknown"]) if known else None


def completed(layer, told):
    if told is None or layer.moves() or layer.precision():
        return layer
    kernel, weights = layer.kernel, (layer.weights, layer.count)
    return Layer(layer.name, told.kind, kernel, weights, told.inputs, told.outputs)
