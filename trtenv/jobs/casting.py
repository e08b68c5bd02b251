"""Types an ONNX graph FP16 or BF16 for strongly typed TensorRT. Python 3.8 to 3.13, onnx 1.13 on.

ONNX Runtime's converter (onnxruntime.transformers.float16) places the casts and types the graph. What
it leaves to its caller is here: which nodes stay FP32 and why, weights that the small type cannot
hold, chains of FP32 nodes without a detour through FP16, BF16, and the order of the nodes.
docs/precision.md says why this converter.
"""

from keeping import Selection, match
from onnx_nodes import BFLOAT16, FLOAT, FLOAT16, bodies, name_nodes, reads, rename, tensor_types
from worker import JobError

# The first opset with BF16 convolutions: onnx 1.17.
BFLOAT16_OPSET = 22
TARGETS = {"float16": FLOAT16, "bfloat16": BFLOAT16}


def lift_constants(onnx, graph):
    """Float Constant nodes become initializers, so that there is one kind of weight.

    An empty `roi` of Resize, which older exporters write, is left out: it has no BF16.
    """
    empty = {tensor.name for tensor in graph.initializer if list(tensor.dims) == [0]}
    outputs = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) > 2 and node.input[1] in empty:
            node.input[1] = ""
        tensor = constant(onnx, node)
        if tensor is None or tensor.data_type != FLOAT or node.output[0] in outputs:
            nodes.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            if list(tensor.dims) == [0]:
                empty.add(tensor.name)
    del graph.node[:]
    graph.node.extend(nodes)


def constant(onnx, node):
    if node.op_type != "Constant" or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return attribute.t
    if attribute.name == "value_float":
        return onnx.helper.make_tensor("", FLOAT, [], [attribute.f])
    if attribute.name == "value_floats":
        return onnx.helper.make_tensor("", FLOAT, [len(attribute.floats)], attribute.floats)
    return None


def cast(onnx, model, name, patterns, added, io):
    """Type `model` in place of FP32; shapes must have been inferred. Returns the model and a report.

    Notes in `added` the name of each new Cast, with the type that it casts from.
    """
    from onnxruntime import __version__ as version
    from onnxruntime.transformers.float16 import convert_float_to_float16

    target = TARGETS[name]
    small = {key for key, kind in tensor_types(model).items() if kind in (FLOAT16, BFLOAT16)}
    if target == BFLOAT16 and small:
        raise JobError(
            "unsupported",
            "the graph has FP16 or BF16 tensors already: %s" % ", ".join(sorted(small)[:5]),
            "export the model in FP32",
        )
    if target == BFLOAT16 and onnx.defs.onnx_opset_version() < BFLOAT16_OPSET:
        raise JobError(
            "missing-module",
            "onnx %s does not know which operators have BF16 (needed: 1.17)" % onnx.__version__,
            "use an environment with a newer onnx, or --precision fp16",
        )
    lift_constants(onnx, model.graph)
    asked = match(patterns, model.graph.node)  # before names that nodes share are made unique
    name_nodes(model.graph)
    selection = Selection(onnx, model, target, asked)
    kept = selection.kept
    split_weights(model.graph, kept)
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            weights[tensor.name] = type(tensor)()
            weights[tensor.name].CopyFrom(tensor)
    known = [value for value in model.graph.value_info if value.type.HasField("tensor_type")]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    total = len(model.graph.node)
    before = {node.name for node in model.graph.node}
    io.progress("casting to %s" % name)
    model = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[],
        node_block_list=sorted(kept),
    )
    graph = model.graph
    cast_captured(onnx, model, selection.types, kept)
    for node in graph.node:
        if node.name not in before:
            added[node.name] = target if node.attribute[0].i == FLOAT else FLOAT
    if target == BFLOAT16:
        retype(onnx, graph, weights)
    flushed = sum(selection.flushed.values())
    if flushed:
        text = "cast: %d values of %d weights are nearer to 0 than %s can tell"
        io.log(text % (flushed, len(selection.flushed), name))
    reasons = {}
    for reason in kept.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return model, {
        "tool": "onnxruntime.transformers.float16",
        "version": version,
        "to": name,
        "nodes": total,
        "kept_fp32": list(kept)[:50],
        "kept_reasons": reasons,
        "flushed_weights": flushed,
    }


def split_weights(graph, kept):
    """A weight that kept and cast nodes share becomes two: the kept ones need it unrounded."""
    users = {}
    for node in graph.node:
        for name in reads(node):
            users.setdefault(name, []).append(node)
    for tensor in list(graph.initializer):
        readers = users.get(tensor.name, [])
        exact = [node for node in readers if node.name in kept]
        if tensor.data_type == FLOAT and 0 < len(exact) < len(readers):
            copy = graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name += "__fp32"
            for node in exact:
                rename(node, tensor.name, copy.name)


def cast_captured(onnx, model, types, kept):
    """Bodies of control flow stay FP32: what they take from outside is cast for them."""
    now = tensor_types(model)
    nodes = []
    for node in model.graph.node:
        for name in sorted(reads(node)) if node.name in kept and any(bodies(node)) else ():
            if name in types and types[name] == FLOAT and now.get(name) == FLOAT16:
                inside = "%s__%s__fp32" % (node.name, name)
                nodes.append(onnx.helper.make_node("Cast", [name], [inside], inside, to=FLOAT))
                rename(node, name, inside)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def retype(onnx, graph, weights):
    """BF16 in place of the converter's FP16; weights are rounded from FP32, never from FP16."""
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == FLOAT16:
            node.attribute[0].i = BFLOAT16
    for tensor in graph.initializer:
        if tensor.name in weights and tensor.data_type == FLOAT16:
            rounded = to_bfloat16(onnx.numpy_helper.to_array(weights[tensor.name]))
            tensor.ClearField("int32_data")
            tensor.data_type, tensor.raw_data = BFLOAT16, rounded.tobytes()


def to_bfloat16(array):
    """The upper halves of float32 numbers, rounded to nearest even, as uint16."""
    import numpy as np

    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def shorten(graph, added):
    """Take out each pair of new casts that ends in the type it began with, and what nobody reads then."""
    producers = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    bypass = {}
    for node in graph.node:
        before = producers.get(node.input[0]) if node.name in added else None
        if before is None or before.name not in added:
            continue
        if node.attribute[0].i == added[before.name]:
            if node.output[0] in outputs:
                node.op_type = "Identity"
                del node.attribute[:]
                node.input[0] = before.input[0]
            else:
                bypass[node.output[0]] = before.input[0]
    for node in graph.node:
        for name in reads(node) & set(bypass):
            rename(node, name, bypass[name])
    for _ in range(2):  # the second cast of a pair, then the first
        read = outputs.union(*[reads(node) for node in graph.node])
        unread = [node for node in graph.node if node.name in added and not read & set(node.output)]
        for node in unread:
            graph.node.remove(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)
