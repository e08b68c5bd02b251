"""Runs a typed graph on the CPU, beside the FP32 one that it was made from, and says where it overflows.

ONNX Runtime has few FP16 and no BF16 kernels for the CPU. So each node is computed in FP32 and its
result rounded to the type that the graph gives it, which is what TensorRT's kernels do at best.
"""

import importlib
import os
import shutil

import calibration as samples
import onnx_check
import onnx_nodes
from worker import JobError

SMALL = {10, 16}
NUMPY = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}


def compare(onnx, path, typed, types, profile, calibration, io):
    """{"max_rel_error": largest |a - b| / largest |a| of an output, or None, "not_compared": why not}.

    JobError for outputs that are infinite or NaN only in the typed graph, with the first node.
    """
    io.progress("comparing with FP32")
    folder = io.path("comparing")
    os.makedirs(folder)
    try:
        if not rounds(onnx, folder):
            return {"max_rel_error": None, "not_compared": "this onnxruntime takes roundings out"}
        path = distinct(onnx, path, folder)
        feeds = list(inputs_for(onnx, path, profile, calibration, io))
        emulated = os.path.join(folder, "rounded.onnx")
        write(onnx, rounded(onnx, onnx.load(typed), types), emulated)
        try:
            pairs = [(run(path, feed), run(emulated, feed)) for feed in feeds]
        except Exception as error:  # an operator that ONNX Runtime does not know, for one
            io.log("not compared with FP32: %s" % onnx_check.first_line(error))
            return {"max_rel_error": None, "not_compared": onnx_check.first_line(error)}
        worst = 0.0
        for feed, (expected, actual) in zip(feeds, pairs):
            for name in expected:
                if newly_broken(expected[name], actual[name]):
                    raise overflow(onnx, path, emulated, feed, name, folder)
                worst = max(worst, relative_error(expected[name], actual[name]))
        return {"max_rel_error": float("%.3g" % worst), "not_compared": None}
    finally:
        shutil.rmtree(folder)


def distinct(onnx, path, folder):
    """`path`, or that of a copy where nodes share a name: ONNX Runtime refuses such a file."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    names = [node.name for node in nodes if node.name]
    if len(set(names)) == len(names):
        return path
    model = onnx.load(path)
    onnx_nodes.name_nodes(model.graph)
    path = os.path.join(folder, "exact.onnx")
    write(onnx, model, path)
    return path


def inputs_for(onnx, path, profile, calibration, io):
    """One random input and, where there is data, the first batch of it, as the FP32 file takes them."""
    import numpy as np

    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    random = np.random.RandomState(0)
    feed = {}
    for value in values:
        kind = np.dtype(NUMPY.get(value.type.tensor_type.elem_type, "float16"))
        sizes = (profile or {}).get(value.name, {}).get("opt")
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        shape = shape if sizes is None else sizes
        if kind.kind == "f":
            feed[value.name] = random.standard_normal(shape).astype(kind)
        else:  # indices must lie in range
            feed[value.name] = random.randint(0, 2, shape).astype(kind)
    yield feed
    if calibration and calibration.get("data"):
        pairs = [
            (value.name, onnx_check.DTYPES[value.type.tensor_type.elem_type]) for value in values
        ]
        wanted = samples.describe_inputs(pairs, profile, calibration.get("batch"))
        yield next(iter(samples.batches(calibration, wanted, io)))


def run(path, feed):
    """{output: array}. The optimizer is off: it would take the rounding out again."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {value.name: value.type for value in session.get_inputs()}
    cast = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(int64)": "int64"}
    feed = {
        name: array.astype(cast.get(kinds[name], array.dtype))
        for name, array in feed.items()
        if name in kinds
    }
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed)))


def rounds(onnx, folder):
    """Whether a cast to FP16 and back is carried out: ONNX Runtime 1.16 takes it for nothing."""
    import numpy as np

    make, path = onnx.helper, os.path.join(folder, "cast.onnx")
    nodes = [
        make.make_node("Relu", ["x"], ["a"]),
        make.make_node("Cast", ["a"], ["b"], to=onnx_nodes.FLOAT16),
        make.make_node("Cast", ["b"], ["c"], to=onnx_nodes.FLOAT),
        make.make_node("Relu", ["c"], ["y"]),
    ]
    ends = [make.make_tensor_value_info(name, onnx_nodes.FLOAT, [1]) for name in "xy"]
    graph = make.make_graph(nodes, "cast", ends[:1], ends[1:])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.save(model, path)
    third = np.full(1, 1 / 3, np.float32)
    return bool(run(path, {"x": third})["y"][0] != third[0])


def rounded(onnx, model, types):
    """The typed model in FP32, with Cast to the small type and back behind each node that had it."""
    graph = model.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type in SMALL:
            array = onnx.numpy_helper.to_array(tensor).astype("float32")
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    for values in (graph.input, graph.output):
        for value in values:
            if value.type.tensor_type.elem_type in SMALL:
                value.type.tensor_type.elem_type = onnx_nodes.FLOAT
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            kind = types.get(name)
            if kind not in SMALL:
                continue
            exact, small = name + "__exact", name + "__small"
            if node.op_type == "Cast":
                node.attribute[0].i, small = kind, exact
            else:
                nodes.append(onnx.helper.make_node("Cast", [exact], [small], to=kind))
            node.output[index] = exact
            nodes.append(onnx.helper.make_node("Cast", [small], [name], to=onnx_nodes.FLOAT))
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def write(onnx, model, path):
    onnx_check.save(onnx, model, path, onnx_check.weight_bytes(model) > onnx_check.INLINE_BYTES)


def newly_broken(expected, actual):
    import numpy as np

    if expected.dtype.kind != "f":
        return False
    return bool(np.any(np.isfinite(expected) & ~np.isfinite(actual)))


def relative_error(expected, actual):
    import numpy as np

    if expected.dtype.kind != "f" or expected.shape != actual.shape:
        return 0.0
    finite = np.isfinite(expected) & np.isfinite(actual)
    if not finite.any():
        return 0.0
    expected, actual = (array[finite].astype("float64") for array in (expected, actual))
    return float(np.abs(expected - actual).max() / max(np.abs(expected).max(), 1e-30))


def overflow(onnx, path, emulated, feed, output, folder):
    """The error that names the first node whose result is finite in FP32 and no longer here."""
    exact, small = onnx.load(path), onnx.load(emulated)
    known = {name for node in exact.graph.node for name in node.output}
    wanted = [name for node in small.graph.node for name in node.output if name in known]
    results = []
    for number, model in enumerate((exact, small)):
        found = [value.name for value in model.graph.output]
        for name in wanted:
            if name not in found:
                model.graph.output.add().name = name
        target = os.path.join(folder, "all-%d.onnx" % number)
        write(onnx, model, target)
        results.append(run(target, feed))
    name = next(each for each in wanted if newly_broken(results[0][each], results[1][each]))
    node = next(node for node in exact.graph.node if name in node.output)
    import numpy as np

    largest = float(np.nanmax(np.abs(results[0][name])))
    return JobError(
        "overflow",
        "output `%s` becomes infinite or NaN: the first node is `%s` (%s), whose result reaches %.3g in FP32"
        % (output, onnx_nodes.name_of(node), node.op_type, largest),
        "--keep-fp32 '%s', or --precision bf16" % onnx_nodes.name_of(node),
    )
