"""Marks tensors inside an ONNX graph as its outputs, so that runs can be compared inside. Python 3.6 to 3.13.

Needs onnx. What is an output cannot be fused away: a marked graph is another graph to an optimizer.
"""

import importlib
import os

import onnx_check
import onnx_nodes
from worker import JobError

FLOATS = (1, 10, 11, 16)  # float32, float16, float64, bfloat16: what rounding changes


def run(params, io):
    """Lists the tensors that can be marked, in the graph's order, and writes one file with `mark` marked.

    params: "onnx", "mark" (names, or None to list alone), "output".
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise JobError(
            "missing-module",
            "the graph cannot be looked into in this environment: %s" % error,
            "take an environment with onnx, such as rtx-1.7: --against-env NAME",
        )
    io.progress("reading the graph")
    try:
        model = onnx_check.inlined(onnx.load(params["onnx"], load_external_data=False))
        model = importlib.import_module("onnx.shape_inference").infer_shapes(model)
    except Exception as error:
        raise JobError("invalid-onnx", "onnx cannot read it: %s" % onnx_check.first_line(error))
    found, notes = candidates(model)
    if params["mark"] is not None:
        mark(model, params["mark"], found)
        onnx.external_data_helper.load_external_data_for_model(
            model, os.path.dirname(params["onnx"])
        )
        big = onnx_check.weight_bytes(model) > onnx_check.INLINE_BYTES
        onnx_check.save(onnx, model, io.path(params["output"]), big)
    return {"tensors": [entry for entry, _ in found.values()], "notes": notes}


def candidates(model):
    """({tensor: (what is told of it, its ValueInfo)}, notes), in topological order.

    Tensors of floating point that depend on an input. Without a known type nothing can be an output.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    depends = {value.name for value in graph.input if value.name not in weights}
    known = {value.name: value for value in list(graph.value_info) + list(graph.output)}
    found, unknown = {}, 0
    for node in graph.node:
        if not depends.intersection(onnx_nodes.reads(node)):
            continue
        depends.update(node.output)
        for name in node.output:
            value = known.get(name)
            kind = value.type.tensor_type.elem_type if value is not None else 0
            unknown += not kind and bool(name)
            if kind in FLOATS:
                entry = {"tensor": name, "node": onnx_nodes.name_of(node), "op": node.op_type}
                found[name] = (entry, value)
    notes = []
    if unknown:
        notes.append("%d tensors have no type that onnx can tell, and are not looked at" % unknown)
    return found, notes


def mark(model, names, found):
    """The graph's own outputs stay: without them an optimizer would drop what comes after."""
    graph = model.graph
    own = {value.name for value in graph.output}
    graph.output.extend(found[name][1] for name in names if name not in own)
    del graph.value_info[:]
