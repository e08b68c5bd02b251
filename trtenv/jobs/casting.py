"""Types an ONNX graph FP16 or BF16 for strongly typed TensorRT. Python 3.8 to 3.13, onnx 1.13 on.

ONNX Runtime's converter (onnxruntime.transformers.float16) places the casts and types the graph. What
it leaves to its caller is here: which nodes stay FP32 and why, weights that the small type cannot
hold, chains of FP32 nodes without a detour through FP16, BF16, and the order of the nodes.
docs/precision.md says why this converter.
"""

import fnmatch

from worker import JobError

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
TARGETS = {"float16": FLOAT16, "bfloat16": BFLOAT16}
# The operators for which PyTorch's automatic mixed precision computes in FP32, in ONNX's words, and the
# mean that follows a square in a norm: https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
# Softmax is left out: it subtracts the maximum first, and TensorRT fuses attention only in one type.
OVERFLOWING = (
    "Acos Asin Cosh CumSum Exp GroupNormalization InstanceNormalization LayerNormalization Log "
    "LogSoftmax LpNormalization MeanVarianceNormalization Pow RMSNormalization Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Sinh Softplus Tan"
).split()
# Steps between such an operator and the root or quotient that brings its result back into range.
AFTER = ("Add", "Max", "Clip", "Sqrt", "Identity")
# Whole numbers and fresh values, which ONNX Runtime's converter blocks too or would have to retype.
SOURCES = (
    "Bernoulli ConstantOfShape EyeLike Multinomial RandomNormal RandomNormalLike RandomUniform "
    "RandomUniformLike Range"
).split()
# What the parser or the builder of TensorRT-RTX 1.4.0.76 or 1.7.1.116 refuses in this type and takes in
# FP32: benchmarks/casts.py --operators.
REFUSED = {
    FLOAT16: ("GRU", "RNN"),
    BFLOAT16: ("Celu", "ConvTranspose", "GRU", "HardSwish", "Mish", "RNN"),
}
# A value out of range may still be out of range behind these.
PASSING = (
    "Add Clip Concat ConstantOfShape Expand Flatten Gather Identity Max Mul Neg Pad Reshape Slice Sqrt "
    "Squeeze Sub Tile Transpose Unsqueeze Where"
).split()
# A single zero in these makes infinities.
DIVIDING = ("Div", "QuantizeLinear", "DequantizeLinear")
# Half of the smallest number above 0 and the first number that becomes infinite: IEEE 754 binary16, and
# the upper half of binary32.
LIMITS = {FLOAT16: (2.0**-25, 65520.0), BFLOAT16: (2.0**-134, 3.3961775e38)}


def bodies(node):
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        for graph in attribute.graphs:
            yield graph


def reads(node):
    """Names that a node reads, those that its bodies take from outside included."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        for inner in body.node:
            names |= reads(inner) - own
            own.update(inner.output)
        names |= {value.name for value in body.output} - own
    return names


def rename(node, old, new):
    """Read `new` where the node, or a body of it, reads `old`."""
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
    for body in bodies(node):
        for inner in body.node:
            rename(inner, old, new)
        for value in body.output:
            if value.name == old:
                value.name = new


def tensor_types(model):
    """Element type of each tensor of the outer graph that is known."""
    graph = model.graph
    types = {}
    for values in (graph.value_info, graph.output, graph.input):
        for value in values:
            if value.type.tensor_type.elem_type:
                types[value.name] = value.type.tensor_type.elem_type
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return types


def name_nodes(graph):
    """Every node gets a name of its own: they are how a node is kept, and how an error names it."""
    taken = set()
    for node in graph.node:
        name = node.name or "%s_%s" % (node.op_type, next(filter(None, node.output), ""))
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = "%s_%d" % (name, number)
        node.name = unique
        taken.add(unique)


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


def match(patterns, nodes):
    """Names of nodes that the wildcards mean; a wildcard that means nothing is an error."""
    import difflib

    names = [node.name for node in nodes]
    found = set()
    for pattern in patterns:
        hits = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            near = difflib.get_close_matches(pattern, names, 5, 0.4)
            raise JobError(
                "unknown-node",
                "no node of the graph is named `%s`" % pattern
                + ("; near: %s" % ", ".join(near) if near else ""),
                "--keep-fp32 takes names of nodes or wildcards such as '*norm*'",
            )
        found.update(hits)
    return found


class Selection(object):
    """Which nodes stay FP32: {name: reason} in `kept`, in the order of the graph."""

    def __init__(self, onnx, model, target, asked):
        self.onnx, self.target, self.asked = onnx, target, asked
        self.types = tensor_types(model)
        self.opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.extreme, self.flushed = set(), {}
        for tensor in model.graph.initializer:
            self.weigh(tensor)
        self.sizes = set()  # tensors that follow from shapes alone
        self.follows = set()  # results of overflow-prone operators, not yet back in range
        self.kept = {}
        for node in model.graph.node:
            reason = self.judge(node)
            if reason and self.has_floats(node):
                self.kept[node.name] = reason

    def weigh(self, tensor):
        """Note weights that are too large or vanish whole, and count the numbers that vanish."""
        import numpy as np

        if tensor.data_type != FLOAT:
            return
        values = np.abs(self.onnx.numpy_helper.to_array(tensor))
        smallest, largest = LIMITS[self.target]
        flushed = int(np.count_nonzero((values > 0) & (values <= smallest)))
        if flushed:
            self.flushed[tensor.name] = flushed
        too_large = np.any(np.isfinite(values) & (values >= largest))
        if too_large or (flushed and flushed == np.count_nonzero(values)):
            self.extreme.add(tensor.name)

    def has_floats(self, node):
        names = [name for name in list(node.input) + list(node.output) if name]
        return any(self.types.get(name, FLOAT) == FLOAT for name in names) or any(bodies(node))

    def judge(self, node):
        """Why this node stays FP32, or None."""
        if node.op_type == "Constant":
            self.constants.update(node.output)
            return None
        data = [name for name in reads(node) if name not in self.constants]
        extreme = any(name in self.extreme for name in node.input) or self.has_extreme(node)
        if extreme and node.op_type in PASSING:
            self.extreme.update(node.output)
        zero = node.op_type in DIVIDING and any(name in self.flushed for name in node.input)
        of_sizes = data and self.sizes.issuperset(data)
        if of_sizes or node.op_type in ("Shape", "Size"):
            self.sizes.update(node.output)
        overflowing = node.op_type in OVERFLOWING
        after = node.op_type in AFTER and len(data) == 1 and data[0] in self.follows
        if overflowing or after:
            self.follows.update(node.output)
        reasons = (
            (node.name in self.asked, "asked"),
            (any(bodies(node)), "control flow"),
            (of_sizes or node.op_type in SOURCES, "shapes and indices"),
            (extreme or zero, "weights out of range"),
            (overflowing or after, "overflow-prone"),
            (node.op_type in REFUSED[self.target], "TensorRT refuses the type"),
            (not self.can_be_small(node), "ONNX has no such type"),
        )
        return next((reason for holds, reason in reasons if holds), None)

    def has_extreme(self, node):
        import numpy as np

        tensors = [a.t for a in node.attribute if a.HasField("t") and a.t.data_type == FLOAT]
        arrays = [np.abs(self.onnx.numpy_helper.to_array(tensor)) for tensor in tensors]
        limit = LIMITS[self.target][1]
        return any(np.any(np.isfinite(array) & (array >= limit)) for array in arrays)

    def can_be_small(self, node):
        """By ONNX's schema. BF16 by the newest one: TensorRT's parser does not ask the opset for it."""
        if any(name and name not in self.types for name in list(node.input) + list(node.output)):
            return False
        try:
            arguments = [node.op_type, self.opset[node.domain or "ai.onnx"], node.domain]
            if self.target == BFLOAT16:
                arguments[1] = self.onnx.defs.onnx_opset_version()
            schema = self.onnx.defs.get_schema(*arguments)
        except (KeyError, self.onnx.defs.SchemaError):
            return False
        wanted = {FLOAT16: "tensor(float16)", BFLOAT16: "tensor(bfloat16)"}[self.target]
        allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for index, name in enumerate(names):
                formal = formals[min(index, len(formals) - 1)]
                fixed = (
                    node.op_type == "Resize" and formal.name == "scales"
                )  # known to the converter
                if name and self.types[name] == FLOAT and not fixed:
                    if wanted not in allowed.get(formal.type_str, [formal.type_str]):
                        return False
        return True


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
    name_nodes(model.graph)
    lift_constants(onnx, model.graph)
    selection = Selection(onnx, model, target, match(patterns, model.graph.node))
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
    read = set()
    for node in graph.node:
        read |= reads(node)
    unread = lambda node: node.name in added and not (read | outputs).intersection(node.output)
    for again in range(2):  # the second cast of a pair, then the first
        nodes = [node for node in graph.node if not unread(node)]
        del graph.node[:]
        graph.node.extend(nodes)
        read = set().union(*[reads(node) for node in graph.node])
    weights = [tensor for tensor in graph.initializer if tensor.name in read | outputs]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def sort(graph):
    """Each node behind those that it reads from: the converter appends its casts."""
    producers = {name: node for node in graph.node for name in node.output}
    done, ordered = set(), []

    for wanted in graph.node:
        waiting = [wanted]
        while waiting:
            node = waiting[-1]
            sources = [producers[name] for name in reads(node) if name in producers]
            missing = [each for each in sources if id(each) not in done]
            if id(node) in done or not missing:
                waiting.pop()
                if id(node) not in done:
                    done.add(id(node))
                    ordered.append(node)
            else:
                waiting += missing
    nodes = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(nodes)
