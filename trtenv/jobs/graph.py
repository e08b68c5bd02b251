"""Rewrites an ONNX file before TensorRT reads it: precision, and types of inputs and outputs.

Strongly typed TensorRT (11 and newer, TensorRT-RTX) takes every type from the graph. Python 3.8 to
3.13; needs onnx and ONNX Runtime.
"""

import importlib
import os

import casting
import keeping
import onnx_check
import onnx_nodes
import rounding
from worker import JobError

TYPES = {
    "fp32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "fp16": 10,
    "bf16": 16,
}
FLOATS = {1, 10, 16}
WHOLE = {2, 3, 6, 7}
# ONNX lets Q/DQ have FP16 and BF16 scales from this opset on; with FP32 scales TensorRT cannot fuse them.
QUANTIZED_OPSET = 19


def transform(path, steps, io, profile=None, calibration=None):
    """(path of the new file, report) after the steps cast, keep_fp32, input_types and output_types.

    `profile` {input: {"min", "opt", "max"}} and `calibration` (see build.py) say on what the result is
    compared with the file at `path`. Without steps that ask for a change the file stays as it is and the
    report is None.
    """
    wanted = read_steps(steps)
    if not wanted:
        return path, None
    onnx = load_modules()
    io.progress("reading the graph")
    model = load(onnx, path, "to" in wanted)
    added = {}
    report = {"tool": "onnx", "version": onnx.__version__, "nodes": len(model.graph.node)}
    report.update({"to": None, "kept_fp32": [], "kept_reasons": {}, "flushed_weights": 0})
    if "to" in wanted:
        kept = wanted.get("keep_fp32", [])
        model, told = casting.cast(onnx, model, wanted["to"], kept, added, io)
        report.update(told)
    for field, key in (("input", "input_types"), ("output", "output_types")):
        if key in wanted:
            set_types(onnx, model.graph, field, wanted[key], added)
    casting.shorten(model.graph, added)
    onnx_nodes.sort(model.graph)
    del model.graph.value_info[:]
    target = io.path("typed.onnx")
    onnx_check.save(onnx, model, target, onnx_check.weight_bytes(model) > onnx_check.INLINE_BYTES)
    types = check(onnx, target)
    report["casts"] = sum(node.op_type == "Cast" for node in model.graph.node)
    report.update(rounding.compare(onnx, path, target, types, profile, calibration, io))
    return target, report


def read_steps(steps):
    """{"to": type, "keep_fp32": [...], "input_types": [...], "output_types": [...]}, what was asked for.

    Where nothing is cast, keep_fp32 belongs to quantize.py.
    """
    wanted = {}
    for step in steps:
        if step["do"] == "cast":
            if step["to"] not in casting.TARGETS or wanted.get("to", step["to"]) != step["to"]:
                raise JobError("protocol", "the graph cannot be cast to `%s`" % step["to"])
            wanted["to"] = step["to"]
        elif step["do"] == "keep_fp32":
            wanted.setdefault("keep_fp32", []).extend(step["value"])
        elif step["do"] in ("input_types", "output_types"):
            if any(name is not None for name in step["value"]):
                wanted[step["do"]] = step["value"]
        else:
            raise JobError("protocol", "unknown graph step `%s`" % step["do"])
    if "to" not in wanted:
        wanted.pop("keep_fp32", None)
    return wanted


def load_modules():
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.numpy_helper")
        importlib.import_module("onnxruntime.transformers.float16")
    except ImportError as error:
        raise JobError(
            "missing-module",
            "the graph cannot be typed in this environment: %s" % error,
            "use an environment with onnx and onnxruntime, such as rtx-1.7, or an ONNX file that has "
            "the wanted types",
        )
    return onnx


def load(onnx, path, cast):
    """The model with the type of every tensor that ONNX can infer; weights come after the inference,
    which takes no message of 2 GiB."""
    try:
        model = onnx_check.inlined(onnx.load(path, load_external_data=False))
        quantized = any(node.op_type in keeping.DIVIDING[1:] for node in model.graph.node)
        if cast and quantized and onnx_check.opset_of(model) < QUANTIZED_OPSET:
            model = onnx.load(path)
            convert = importlib.import_module("onnx.version_converter").convert_version
            model = convert(model, QUANTIZED_OPSET)
        infer = importlib.import_module("onnx.shape_inference").infer_shapes
        model = infer(model)
        onnx.external_data_helper.load_external_data_for_model(model, os.path.dirname(path))
    except Exception as error:
        raise JobError(
            "invalid-onnx", "onnx cannot read the graph: %s" % onnx_check.first_line(error)
        )
    return model


def set_types(onnx, graph, field, names, added):
    """Give the graph's inputs or outputs the named types, in order; casts inside.

    One name stands for all, as trtexec has it; None leaves a type as it is.
    """
    weights = {tensor.name for tensor in graph.initializer}
    values = [value for value in getattr(graph, field) if value.name not in weights]
    listed = ", ".join(value.name for value in values)
    if len(names) == 1:
        names = names * len(values)
    if len(names) != len(values):
        raise JobError(
            "types",
            "%d %s types for %d %ss: %s" % (len(names), field, len(values), field, listed),
            "name one type for each, in this order, or one for all",
        )
    for value, name in zip(values, names):
        if name is None:
            continue
        if name not in TYPES:
            raise JobError(
                "types", "unknown type `%s`" % name, "known are " + ", ".join(sorted(TYPES))
            )
        old, new = value.type.tensor_type.elem_type, TYPES[name]
        if old == new:
            continue
        if not any({old, new} <= kinds for kinds in (FLOATS, WHOLE)):
            raise JobError(
                "types",
                "%s `%s` is %s and cannot become %s by a cast"
                % (field, value.name, onnx_check.DTYPES.get(old, "of type %d" % old), name),
                "fp32, fp16 and bf16 change among themselves, and so do int8, uint8, int32 and int64; "
                "name one type for each %s, in order: %s" % (field, listed),
            )
        inside = "%s__%s" % (value.name, onnx_check.DTYPES[old])
        for node in graph.node:
            onnx_nodes.rename(node, value.name, inside)
            if field == "output":
                for index, output in enumerate(node.output):
                    node.output[index] = inside if output == value.name else output
        ends = (value.name, inside) if field == "input" else (inside, value.name)
        kinds = (new, old) if field == "input" else (old, new)
        node = onnx.helper.make_node("Cast", ends[:1], ends[1:], inside + "__cast", to=kinds[1])
        graph.node.append(node)
        added[node.name] = kinds[0]
        value.type.tensor_type.elem_type = new


def check(onnx, path):
    """Types of all tensors of the finished file, after onnx's checker and a look at every node."""
    try:
        onnx.checker.check_model(path)
        model = onnx.load(path, load_external_data=False)
        model = importlib.import_module("onnx.shape_inference").infer_shapes(
            model, strict_mode=True
        )
    except Exception as error:
        raise JobError(
            "invalid-onnx", "the typed graph is not valid: %s" % onnx_check.first_line(error)
        )
    types = onnx_nodes.tensor_types(model)
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    for node in model.graph.node:
        try:
            schema = onnx.defs.get_schema(
                node.op_type, opset[node.domain or "ai.onnx"], node.domain
            )
        except (KeyError, onnx.defs.SchemaError):
            continue  # a plugin's node
        found = {}
        for index, name in enumerate(node.input):
            formal = schema.inputs[min(index, len(schema.inputs) - 1)]
            homogeneous = formal.is_homogeneous or index < len(schema.inputs) - 1
            if name in types and homogeneous:
                first = found.setdefault(formal.type_str, (name, types[name]))
                if first[1] != types[name]:
                    raise JobError(
                        "invalid-onnx",
                        "node `%s` (%s) would read `%s` and `%s` of different types"
                        % (node.name, node.op_type, first[0], name),
                        "--keep-fp32 '%s'" % node.name,
                    )
    return types
