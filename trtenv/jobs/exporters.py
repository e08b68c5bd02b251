"""Chooses among torch's ONNX exporters, runs one and explains its failures. Python 3.6 to 3.13.

What an exporter accepts is read from its signature and torch's own constants, never from a version.
"""

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import warnings

import models
from worker import JobError

UNSUPPORTED = (
    r"[Ee]xporting the operator '?([\w:.]+)'? to ONNX",  # TorchScript-based, torch 1.x and 2.x
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'",  # dynamo
    r"No decompositions registered for the (?:real|complex)-valued input.*?op='([\w.]+)'",
)


def opset_ranges(torch):
    """{exporter: (oldest, newest opset)} of the exporters that this torch really has."""
    arguments = inspect.signature(torch.onnx.export).parameters
    constants = constants_of("torch.onnx._constants")
    helper = constants_of("torch.onnx.symbolic_helper")
    stable = constants.get("onnx_stable_opsets") or helper.get("_onnx_stable_opsets") or [7]
    main = constants.get("onnx_main_opset") or helper.get("_onnx_main_opset") or max(stable)
    oldest = constants.get("ONNX_MIN_OPSET", min(stable))
    newest = constants.get("ONNX_MAX_OPSET", main)
    ranges = {"torchscript": (oldest, constants.get("ONNX_TORCHSCRIPT_EXPORTER_MAX_OPSET", newest))}
    dims = getattr(getattr(torch, "export", None), "Dim", None)
    if "dynamic_shapes" in arguments and hasattr(dims, "DYNAMIC"):
        if importlib.util.find_spec("onnxscript"):
            ranges["dynamo"] = (oldest, newest)
    return ranges


def constants_of(name):
    try:
        return vars(importlib.import_module(name))
    except ImportError:
        return {}


def plan(ranges, params, known, scripted, program):
    """[(exporter, opset)] to try in order. `known` is the newest opset that the onnx package knows."""
    asked, exporter = params.get("opset"), params.get("exporter") or "auto"
    ceiling = min(params.get("max_opset") or known, known)
    order = ["torchscript", "dynamo"]
    if program or ("dynamo" in ranges and (asked or ceiling) >= 18 and not scripted):
        order = ["dynamo", "torchscript"]
    if scripted:
        if exporter == "dynamo":
            raise JobError(
                "exporter",
                "the dynamo exporter takes no TorchScript",
                "use --exporter torchscript, or give the Python code of the model",
            )
        order = ["torchscript"]
    if exporter != "auto":
        if exporter not in ranges:
            raise JobError(
                "exporter",
                "this environment has no %s exporter" % exporter,
                "it needs torch 2.6 or newer and onnxscript; use --exporter torchscript",
            )
        order = [exporter]
    chosen = []
    for name in [name for name in order if name in ranges]:
        oldest, newest = ranges[name]
        opset = asked or min(ceiling, newest)
        if oldest <= opset <= min(newest, known):
            chosen.append((name, opset))
    if not chosen:
        raise no_opset(asked or ceiling, ranges, order, known)
    return chosen


def no_opset(opset, ranges, order, known):
    able = "; ".join("%s %d to %d" % ((name,) + ranges[name]) for name in order if name in ranges)
    return JobError(
        "opset",
        "opset %d cannot be written here: %s; the onnx package knows up to %d"
        % (opset, able, known),
        "choose an opset in that range, or an environment with a newer torch",
    )


def export_torchscript(task, tensors, path, opset):
    torch, module = task.torch, task.callable
    axes = {name: dict(labels) for name, labels in task.labels.items() if labels}
    axes.update((name, labels) for name, labels in task.output_axes().items() if labels)
    optional = {
        "dynamo": False,
        "do_constant_folding": True,
        "use_external_data_format": task.weight_bytes() > task.limit,
        "example_outputs": task.example,  # torch before 1.10 wants them with TorchScript
    }
    accepted = inspect.signature(torch.onnx.export).parameters
    optional = {key: value for key, value in optional.items() if key in accepted}
    torch.onnx.export(
        module,
        tuple(tensors),
        path,
        input_names=[entry.name for entry in task.inputs],
        output_names=task.names,
        opset_version=opset,
        dynamic_axes=axes,
        **optional,
    )


def export_dynamo(task, tensors, path, opset):
    torch, module = task.torch, task.callable
    dims = [dict.fromkeys(i.dynamic_axes(), torch.export.Dim.DYNAMIC) for i in task.inputs]
    shapes = (tuple(dims),) if module is not task.loaded.module else tuple(dims)
    optional = {"optimize": True, "fallback": False, "verbose": False}
    accepted = inspect.signature(torch.onnx.export).parameters
    optional = {key: value for key, value in optional.items() if key in accepted}
    if task.loaded.program is not None:
        module, shapes = task.loaded.program, None
    torch.onnx.export(
        module,
        tuple(tensors),
        path,
        dynamo=True,
        input_names=[entry.name for entry in task.inputs],
        output_names=task.names,
        opset_version=opset,
        dynamic_shapes=shapes,
        external_data=task.weight_bytes() > task.limit,
        **optional,
    )


def run_exporter(task, exporter, opset, path):
    """Export to path; returns the tracer's warnings on what it took for constant."""
    tensors = [task.torch.from_numpy(array.copy()) for array in task.cases[0].arrays]
    export = {"torchscript": export_torchscript, "dynamo": export_dynamo}[exporter]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with plain_attention(task.torch), task.torch.no_grad():
                export(task, tensors, path, opset)
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise exporter_error(task, exporter, opset, error)
    traced = [entry for entry in caught if entry.category.__name__ == "TracerWarning"]
    for entry in traced:
        sys.stderr.write("%s:%d: %s\n" % (entry.filename, entry.lineno, entry.message))
    inside = [entry for entry in traced if task.folder and entry.filename.startswith(task.folder)]
    return "; ".join(
        "%s:%d %s" % (os.path.basename(e.filename), e.lineno, str(e.message).split(". ")[0])
        for e in inside[:2]
    )


@contextlib.contextmanager
def plain_attention(torch):
    """Transformers take a fused operator in inference, for which ONNX has no name."""
    mha = getattr(torch.backends, "mha", None)
    if not hasattr(mha, "set_fastpath_enabled"):
        yield
        return
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


def exporter_error(task, exporter, opset, error):
    chain, text = error, ""
    while chain is not None:
        text += "%s: %s\n" % (type(chain).__name__, chain)
        chain = chain.__cause__ or chain.__context__
    hint = "try another --exporter or --opset, or rewrite that part of forward()"
    message = "the %s exporter cannot write operator `%s` in opset %d"
    for pattern in UNSUPPORTED:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return JobError(
                "unsupported-operator", message % (exporter, found.group(1), opset), hint
            )
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, KeyError) and "onnx" in frames[-1][0]:  # torch 1.4 looks it up in a table
        return JobError("unsupported-operator", message % (exporter, error.args[0], opset), hint)
    found = re.search(
        r"^.*(?:specialized.* to be a constant|inferred a static shape).*$", text, re.M
    )
    if found:
        message = "forward() fixes a dimension that was asked to be dynamic: %s"
        return JobError("frozen-dimension", message % found.group(0).strip(" -"), hint)
    if re.search(r"[Uu]nsupported (ONNX opset|onnx_opset_)version", text):
        return JobError("opset", "this torch does not write opset %d: %s" % (opset, error))
    sys.stderr.write(text)
    while error.__cause__ is not None:  # dynamo wraps what happened in advice for its developers
        error = error.__cause__
    words = models.model_trace(error, task.folder)
    return JobError(
        "exporter-failed", "the %s exporter failed: %s" % (exporter, words[:3000]), hint
    )
