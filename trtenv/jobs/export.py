"""Exports a PyTorch model to a checked, compared and stamped ONNX file. Python 3.6 to 3.13, torch 1.4 on.

The model is run in PyTorch at every shape asked for, exported by the first exporter that manages,
and compared with PyTorch at the same shapes. Always on the CPU: an export needs no GPU.
"""

import gc
import importlib
import os
import random
import shutil
import sys
import tempfile

import export_inputs
import exporters
import model_runs
import models
import onnx_check
import probe
import taskcards
from worker import JobError

DEFAULT_TOLERANCE = {"rel": 1e-4}


class Task(object):
    """What all steps of one export share."""

    def __init__(self, torch, onnx, params, io, work):
        self.torch, self.onnx, self.params, self.io, self.work = torch, onnx, params, io, work
        self.notes = []
        path = params["model"].get("path")
        self.folder = os.path.dirname(os.path.abspath(path)) if path else None
        self.loaded = self.inputs = self.labels = self.names = self.callable = self.example = None
        self.card = None
        self.cases = []

    @property
    def limit(self):
        return self.params.get("external_above") or onnx_check.INLINE_BYTES

    def weight_bytes(self):
        tensors = list(self.loaded.module.parameters()) + list(self.loaded.module.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def parameters(self):
        return sum(tensor.numel() for tensor in self.loaded.module.parameters())

    def output_axes(self):
        """Axes of outputs that differ between the runs, with a name each."""
        first = self.inputs[0].name if self.inputs else None
        batch = next((name for name, axes in self.labels.items() if axes.get(0) == "batch"), first)
        runs = [
            {
                "batch": case.feed[batch].shape[0] if batch and case.feed[batch].shape else None,
                "outputs": {name: value.shape for name, value in case.outputs},
            }
            for case in self.cases
        ]
        return export_inputs.output_labels(runs)


def required(name, why):
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise JobError(
            "missing-module",
            "`import %s` failed in this environment: %s" % (name, error),
            "%s; choose an environment that has it" % why,
        )


def seed_everything(torch, seed):
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def load_model(task):
    """Load the model and settle its inputs: names, dtypes, ranges."""
    params, spec = task.params, task.params["model"]
    task.loaded = loaded = models.load(
        task.torch, spec, params.get("shapes") or {}, task.work, task.notes
    )
    shapes = export_inputs.wanted_shapes(params.get("shapes") or {}, loaded.constants.get("SHAPES"))
    dtypes = dict(loaded.constants.get("DTYPES") or {}, **(params.get("dtypes") or {}))
    names = list(params.get("input_names") or [])
    preset = list(loaded.constants.get("INPUT_NAMES") or loaded.input_names or [])
    if not names and ("" in shapes or set(shapes) & set(preset)):
        names = preset
    task.inputs = export_inputs.make_inputs(loaded.signature, shapes, dtypes, names)
    task.labels = export_inputs.axis_labels(task.inputs)
    card, images = loaded.card, [entry for entry in task.inputs if len(entry.sizes["opt"]) == 4]
    if card and images and not loaded.card_stated:
        card = taskcards.for_input(card, list(images[0].sizes["opt"][2:]))
    task.card = taskcards.merged(card, params.get("task") or {})


def check_labels(task):
    if task.card:
        said = task.loaded.card_stated or "labels" in (task.params.get("task") or {})
        shapes = [value.shape for _, value in task.cases[0].outputs]
        task.card = taskcards.with_fitting_labels(task.card, said, shapes, task.notes)


def attempt(task, exporter, opset):
    """Export, check and compare with one exporter; returns the finished file's facts."""
    onnx, params = task.onnx, task.params
    folder = os.path.join(task.work, exporter)
    os.makedirs(folder)
    path = os.path.join(folder, params["output"])
    task.io.progress("exporting")
    warned = exporters.run_exporter(task, exporter, opset, path)
    model = onnx_check.inlined(onnx.load(path))
    os.remove(path)
    written = onnx_check.opset_of(model)
    if written > opset or (params.get("opset") and written != opset):
        words = "the %s exporter wrote opset %d; asked was %d" % (exporter, written, opset)
        raise JobError("opset", words, "use --exporter torchscript, or that opset")
    task.io.progress("checking")
    onnx_check.tidy(model)
    labels = task.output_axes()
    shapes = {name: value.shape for name, value in task.cases[0].outputs}
    outputs = [
        (name, [labels[name].get(axis, size) for axis, size in enumerate(shapes[name])])
        for name in task.names
    ]
    for name in onnx_check.set_axes(model, task.inputs, task.labels, outputs, warned):
        task.notes.append(
            "input `%s` does not reach any output; the graph has none of that name" % name
        )
    big = onnx_check.weight_bytes(model) > task.limit
    if not big:
        onnx_check.validate(onnx, model)
        model = onnx_check.infer_shapes(model, task.notes)
    onnx_check.name_unknown(model)
    facts = {"exporter": exporter, "opset": written, "simplified": False, "warned": warned}
    facts = finish(task, facts, model, path, big)
    return simpler(task, facts, model, folder) if not big else facts


def finish(task, facts, model, path, big):
    """Stamp and write the file, then compare what was written."""
    onnx, params = task.onnx, task.params
    facts = dict(facts, path=path, ir_version=model.ir_version, nodes=len(model.graph.node))
    facts.update(onnx_check.interface(model))
    properties = dict(task.loaded.metadata)
    properties.update(params.get("metadata") or {})
    for key in ("exporter", "opset", "inputs", "outputs"):
        properties["trtenv." + key] = facts[key]
    if task.card:
        properties["trtenv.task"] = task.card
    properties["trtenv.torch"] = str(task.torch.__version__)
    properties["trtenv.shapes"] = {entry.name: entry.sizes for entry in task.inputs}
    onnx_check.stamp(onnx, model, properties)
    facts["external_data"] = onnx_check.save(onnx, model, path, big)
    if big:
        onnx_check.validate(onnx, path)
    facts.update(comparison=None, compared=None, reference=None)
    if not params.get("verify", True):
        return facts
    task.io.progress("comparing")
    found = onnx_check.reference(path, task.parameters(), task.notes)
    if found is None:
        task.notes.append("the file was not compared with PyTorch: nothing here can run it")
        return facts
    facts["reference"], run_file = found
    tolerance = params.get("tolerance") or DEFAULT_TOLERANCE
    names = [entry["name"] for entry in facts["inputs"]]
    facts["comparison"] = onnx_check.compare(
        run_file, names, task.cases, tolerance, facts["warned"]
    )
    facts["compared"] = [case.name for case in task.cases]
    return facts


def simpler(task, facts, model, folder):
    """The simplified file's facts, or those of the file as it is where simplifying breaks it."""
    wanted = task.params.get("simplify", "auto")
    slim = onnx_check.simplify(wanted, task.onnx, model, task.notes)
    if slim is None:
        return facts
    folder = os.path.join(folder, "simplified")
    os.makedirs(folder)
    try:
        onnx_check.tidy(slim)
        onnx_check.validate(task.onnx, slim)
        path = os.path.join(folder, task.params["output"])
        return finish(task, dict(facts, simplified=True), slim, path, False)
    except JobError as error:
        task.io.log("the simplified graph is dropped: %s" % error.message)
        task.notes.append("not simplified: onnxslim broke the graph")
        return facts


def attempt_safely(task, exporter, opset):
    try:
        return attempt(task, exporter, opset), None
    except JobError as error:
        return None, error


def export(task):
    """The first exporter whose file passes everything; a failure is told, never hidden."""
    params, loaded = task.params, task.loaded
    ranges = exporters.opset_ranges(task.torch)
    known = task.onnx.defs.onnx_opset_version()
    attempts = exporters.plan(ranges, params, known, loaded.scripted, loaded.program is not None)
    failures = []
    for name, opset in attempts:
        facts, error = attempt_safely(task, name, opset)
        if facts:
            return facts
        failures.append(error)
        if len(failures) < len(attempts):
            words = "the %s exporter was tried first: %s" % (name, error.message.splitlines()[0])
            task.io.log(words)
            task.notes.append(words)
    first = failures[0]
    if len(failures) == 1:
        raise first
    raise JobError(first.kind, "\n".join(error.message for error in failures), first.hint)


def publish(task, facts):
    """Move the files to the output folder; returns the job's values."""
    import numpy as np

    source = os.path.dirname(facts["path"])
    for name in [task.params["output"]] + facts["external_data"]:
        os.replace(os.path.join(source, name), task.io.path(name))
    if task.params.get("save_samples"):
        best = next((case for case in task.cases if case.name == "opt"), task.cases[0])
        arrays = {"input/" + name: array for name, array in best.feed.items()}
        arrays.update(("output/" + name, array) for name, array in best.outputs)
        np.savez(task.io.path("samples.npz"), **arrays)
    values = {key: value for key, value in facts.items() if key not in ("path", "warned")}
    libraries = {"torch": str(task.torch.__version__), "onnx": task.onnx.__version__}
    for name in ("torchvision", "ultralytics"):
        if name in sys.modules:  # of what the model was made with, not of all that is installed
            libraries[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    values.update(
        onnx=task.params["output"],
        torch=libraries["torch"],
        samples="samples.npz" if task.params.get("save_samples") else None,
        shapes={entry.name: entry.sizes for entry in task.inputs},
        parameters=task.parameters(),
        task=task.card,
        notes=sorted(set(task.notes), key=task.notes.index),
        environment=probe.stamp_facts(libraries),
    )
    return values


def run(params, io):
    # onnx first: beside torch 1.4, onnx 1.6 crashes in its checker when torch came before it.
    required("numpy", "inputs are made with it")
    onnx = required("onnx", "exported files are checked with it")
    torch = required("torch", "exports run PyTorch")
    io.progress("loading model")
    gc.collect()  # what a job before this one leaves in its traceback; torch 1.4 trips over its graph
    work = tempfile.mkdtemp(prefix=".work-", dir=io.out)
    task = Task(torch, onnx, params, io, work)
    try:
        with models.own_imports(models.folders_of(params["model"])) as source_files:
            seed_everything(torch, params.get("seed") or 0)
            load_model(task)
            model_runs.run_cases(task)
            check_labels(task)
            facts = export(task)
            values = publish(task, facts)
            values["source_files"] = source_files()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return values
