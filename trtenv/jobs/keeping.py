"""Which nodes of an ONNX graph stay FP32 when the rest becomes FP16 or BF16, and why."""

import fnmatch

from onnx_nodes import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    bodies,
    key,
    name_of,
    reads,
    tensor_types,
    unique_names,
)
from worker import JobError

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


def match(patterns, nodes):
    """Keys (onnx_nodes.key) of the nodes that the names or wildcards mean; one that means none is an error.

    A name that several nodes share means all of them, and each goes by its unique name too.
    """
    import difflib

    found = set()
    unique = unique_names(nodes)
    for pattern in patterns:
        hits = [
            key(node)
            for node, own in zip(nodes, unique)
            if any(
                name == pattern or fnmatch.fnmatchcase(name, pattern)
                for name in (own, name_of(node))
            )
        ]
        if not hits:
            near = difflib.get_close_matches(pattern, unique, 5, 0.4)
            raise JobError(
                "unknown-node",
                "no node of the graph is named `%s`" % pattern
                + ("; near: %s" % ", ".join(near) if near else ""),
                "--keep-fp32 takes names of nodes or wildcards such as '*norm*'",
            )
        found.update(hits)
    return found


class Selection(object):
    """Which nodes stay FP32: {name: reason} in `kept`, in the order of the graph; `asked` holds keys."""

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
            (key(node) in self.asked, "asked"),
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
