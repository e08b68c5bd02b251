"""Tidies, checks, simplifies, compares and stamps an exported ONNX file. Python 3.6 to 3.13, onnx 1.6 on.

Owns what makes the file trustworthy: real opset, real dynamic axes, numbers equal to PyTorch's and
bytes that depend on the model alone. Nothing is called compared that was not.
"""

import importlib
import json
import os
import shutil

from export_inputs import show
from worker import JobError

# onnx.TensorProto.DataType
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
DTYPES.update({9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"})
INLINE_BYTES = int(1.9e9)  # protobuf takes no message of 2 GiB
NOISE = 1e-6  # of float32: an output that is zero but for rounding has no meaningful relative error
REFERENCE_LIMIT = 2000000  # parameters that the reference evaluator of onnx handles in seconds
ADVICE = "try another --exporter or --opset; --no-verify exports without comparing"


def opset_of(model):
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return entry.version
    return 0


def inlined(model):
    """The model without functions of its own: dynamo writes some, and TensorRT's parser wants none."""
    if not getattr(model, "functions", None):
        return model
    return importlib.import_module("onnx.inliner").inline_local_functions(model)


def tidy(model):
    """Remove what depends on the machine: source paths, stack traces, notes of the exporter."""
    messages, domains = [model.graph], {""}
    while messages:
        message = messages.pop()
        for field in ("doc_string", "metadata_props"):
            if hasattr(message, field):
                message.ClearField(field)
        for field in ("node", "input", "output", "value_info", "initializer"):
            entries = getattr(message, field, [])  # a node's inputs are mere names
            messages += [entry for entry in entries if not isinstance(entry, str)]
        if hasattr(message, "op_type"):
            domains.add(message.domain)
        for attribute in getattr(message, "attribute", []):
            attribute.ClearField("doc_string")
            messages += [attribute.g] if attribute.HasField("g") else []
            messages += list(attribute.graphs)
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    imports = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(imports)


def set_axes(model, inputs, labels, outputs, warned=""):
    """Hold the graph's dimensions against what was asked, and name them; returns unused inputs.

    `outputs` are pairs of name and, for each axis, a size or a name.
    """
    found = {value.name: value for value in model.graph.input}
    symbols = {}
    for entry in [entry for entry in inputs if entry.name in found]:
        axes = found[entry.name].type.tensor_type.shape.dim
        for axis, (dim, size) in enumerate(zip(axes, entry.sizes["opt"])):
            label = labels[entry.name].get(axis)
            if label is None and dim.HasField("dim_value") and dim.dim_value != size:
                raise frozen(entry.name, axis, dim.dim_value, size, warned)
            if label is None:
                dim.dim_value = size
            elif dim.HasField("dim_value"):
                raise frozen(entry.name, axis, dim.dim_value, label, warned)
            else:
                label = symbols.setdefault(dim.dim_param or label, label)
                dim.dim_param = label
    if [value.name for value in model.graph.output] != [name for name, _ in outputs]:
        written = ", ".join(value.name for value in model.graph.output)
        raise JobError("exporter-failed", "the exporter wrote other outputs: %s" % written)
    for value, (_, sizes) in zip(model.graph.output, outputs):
        set_output(value.type.tensor_type.shape, sizes, symbols)
    return [entry.name for entry in inputs if entry.name not in found]


def set_output(shape, sizes, symbols):
    known = len(shape.dim) == len(sizes)
    if not known:
        shape.ClearField("dim")
    for axis, size in enumerate(sizes):
        dim = shape.dim[axis] if known else shape.dim.add()
        if not isinstance(size, int):
            dim.dim_param = symbols.get(dim.dim_param, size)
        elif dim.dim_param in symbols:  # equal in every run, yet derived from a dynamic axis
            dim.dim_param = symbols[dim.dim_param]
        elif dim.dim_param:  # an exporter's invention; shape inference may know better
            dim.ClearField("dim_param")
        else:
            dim.dim_value = size


def name_unknown(model):
    """Give dimensions of outputs that nothing knows names like those of the dynamic ones."""
    for value in model.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and (not dim.dim_param or "unk__" in dim.dim_param):
                dim.dim_param = "%s_dim%d" % (value.name, axis)


def frozen(name, axis, found, asked, warned):
    return JobError(
        "frozen-dimension",
        "dimension %d of input `%s` is fixed at %d in the exported graph, asked was %s"
        % (axis, name, found, "a dynamic one" if isinstance(asked, str) else asked)
        + (": " + warned if warned else ""),
        "export with that size as the only one, or compute with tensors where forward() uses numbers",
    )


def validate(onnx, model_or_path):
    """onnx's own checker; a file too big for one message is checked by its path."""
    try:
        onnx.checker.check_model(model_or_path)
    except Exception as error:
        raise JobError("invalid-onnx", "onnx finds the exported file invalid: %s" % error, ADVICE)


def infer_shapes(model, notes):
    del model.graph.value_info[:]
    infer = importlib.import_module("onnx.shape_inference").infer_shapes
    try:
        return infer(model, check_type=True, strict_mode=True, data_prop=True)
    except TypeError:  # onnx before 1.10 has no such arguments
        return infer(model)
    except Exception as error:
        notes.append("strict shape inference failed: %s" % first_line(error))
        return infer(model)


def weight_bytes(model):
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def first_line(error):
    return (str(error).strip() or repr(error)).splitlines()[0][:500]


def save(onnx, model, path, big):
    """Write the file, weights inside or, above protobuf's limit, in one file beside it."""
    names = []
    if big:
        names = [os.path.basename(path) + ".data"]
        if os.path.exists(path + ".data"):  # onnx appends to it
            os.remove(path + ".data")
        helper = importlib.import_module("onnx.external_data_helper")
        helper.convert_model_to_external_data(
            model, all_tensors_to_one_file=True, location=names[0]
        )
    onnx.save_model(model, path)
    if not os.path.exists(path + ".data"):  # small tensors stay inside
        return []
    shutil.copymode(path, path + ".data")  # onnx lets none but the owner read it
    return names


def stamp(onnx, model, properties):
    del model.metadata_props[:]
    onnx.helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for key, value in sorted(properties.items())
        },
    )


def describe(value):
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": DTYPES.get(tensor.elem_type, "type %d" % tensor.elem_type),
        "shape": [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in tensor.shape.dim
        ],
    }


def interface(model):
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [describe(value) for value in model.graph.input if value.name not in weights]
    return {"inputs": inputs, "outputs": [describe(value) for value in model.graph.output]}


def reference(path, parameters, notes):
    """(name, function of a feed) of what can run the file here, or None with the reasons noted."""
    try:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return "onnxruntime " + runtime.__version__, lambda feed: session.run(None, feed)
    except ImportError:
        notes.append("onnxruntime is not in this environment")
    except Exception as error:
        notes.append("onnxruntime cannot load the file: %s" % first_line(error))
    if parameters > REFERENCE_LIMIT:
        notes.append("the model is too big for onnx.reference")
        return None
    try:
        onnx = importlib.import_module("onnx")
        evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(path)
        return "onnx.reference " + onnx.__version__, lambda feed: evaluator.run(None, feed)
    except ImportError:
        notes.append("this onnx has no reference evaluator")
    except Exception as error:
        notes.append("onnx.reference cannot load the file: %s" % first_line(error))
    return None


def compare(run, names, cases, tolerance, warned=""):
    """{output: {max_abs, rel}}, the worst over all cases; JobError for what is past the tolerance.

    The first case is the one traced: what fails only at the others is a frozen dimension.
    """
    worst = {}
    for number, case in enumerate(cases):
        where = "at the %s shapes (%s)" % (case.name, case.text)
        try:
            results = run({name: value for name, value in case.feed.items() if name in names})
        except Exception as error:
            message = "the exported graph does not run %s: %s" % (where, first_line(error))
            if number == 0:
                raise JobError("invalid-onnx", message, ADVICE)
            raise JobError("frozen-dimension", message + ("; " + warned if warned else ""), ADVICE)
        for (name, expected), actual in zip(case.outputs, results):
            if tuple(expected.shape) != tuple(actual.shape):
                sizes = (name, show(actual.shape), where, show(expected.shape))
                message = "output `%s` is %s %s; in PyTorch it is %s" % sizes
                raise JobError("mismatch" if number == 0 else "frozen-dimension", message, ADVICE)
            measured = measure(expected, actual)
            verdict(name, measured, tolerance, where, largest(expected))
            old = worst.get(name, measured)
            worst[name] = {key: max(old[key], value) for key, value in measured.items()}
    return worst


def measure(expected, actual):
    """Largest absolute difference, and ||a - b|| / ||b||. Equal NaN and infinities do not count."""
    import numpy as np

    expected = np.asarray(expected, np.float64).ravel()
    actual = np.asarray(actual, np.float64).ravel()
    finite = np.isfinite(expected) & np.isfinite(actual)
    odd, other = expected[~finite], actual[~finite]
    if not np.all((odd == other) | (np.isnan(odd) & np.isnan(other))):
        return {"max_abs": float("inf"), "rel": float("inf")}
    difference = np.abs(expected[finite] - actual[finite])
    norm = float(np.linalg.norm(expected[finite]))
    relative = float(np.linalg.norm(difference)) / max(norm, 1e-30)
    return {"max_abs": float("%.3g" % largest(difference)), "rel": float("%.3g" % relative)}


def largest(array):
    import numpy as np

    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def verdict(name, measured, tolerance, where, scale=1.0):
    """Every limit that was given must hold; below the noise of float32 nothing is a difference.

    max_abs is of an output up to 1: pixels or logits in hundreds round in hundreds too.
    """
    if measured["max_abs"] <= NOISE:
        return
    if measured["max_abs"] == float("inf"):
        text = "output `%s` is NaN or infinite where PyTorch's is not, or the reverse, %s"
        raise JobError("mismatch", text % (name, where), ADVICE)
    limits = {key: limit for key, limit in tolerance.items() if limit is not None}
    if "max_abs" in limits:
        limits["max_abs"] *= max(scale, 1.0)
    past = [key for key in sorted(limits) if measured[key] > limits[key]]
    if past:
        allowed = ", ".join("%s %g" % (key, limits[key]) for key in past)
        raise JobError(
            "mismatch",
            "output `%s` differs from PyTorch's %s: max abs %g, relative %g (allowed: %s)"
            % (name, where, measured["max_abs"], measured["rel"], allowed),
            ADVICE,
        )


def simplify(wanted, onnx, model, notes):
    """The model after onnxslim, or None where it is not wanted, not there or fails."""
    if wanted is False:
        return None
    try:
        onnxslim = importlib.import_module("onnxslim")
    except Exception as error:  # absent, or broken beside this onnx
        if wanted is True:
            raise JobError(
                "missing-module",
                "the graph cannot be simplified: `import onnxslim` failed: %r" % error,
                "use --simplify auto, or choose an environment that has onnxslim",
            )
        if not isinstance(error, ImportError):
            notes.append("not simplified: `import onnxslim` failed: %r" % error)
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        slim = onnxslim.slim(copy)
        before, after = interface(model), interface(slim)
        if before != after or opset_of(slim) != opset_of(model):
            raise ValueError("inputs, outputs or opset changed")
        return slim
    except Exception as error:
        notes.append("not simplified: onnxslim failed: %s" % first_line(error))
        return None
