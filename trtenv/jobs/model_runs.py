"""Runs the model in PyTorch at every shape asked for: what the exported file is held against.

Owns the names of outputs and the form in which exporters get the module. Python 3.6 to 3.13.
"""

import re

import export_inputs
import models
from worker import JobError


class Case(object):
    """One run of the model in PyTorch: shapes, what went in and what came out."""

    def __init__(self, name, inputs, arrays):
        self.name = name
        self.text = " ".join(
            "%s:%s" % (i.name, export_inputs.show(a.shape)) for i, a in zip(inputs, arrays)
        )
        self.arrays = arrays
        self.feed = {entry.name: array for entry, array in zip(inputs, arrays)}
        self.outputs = []


def call(task, module, tensors):
    """forward() with tensors in order; what follows an optional parameter left out goes by keyword."""
    given = [entry.parameter for entry in task.inputs]
    count = task.loaded.signature.leading(given)
    return module(*tensors[:count], **dict(zip(given[count:], tensors[count:])))


def run_cases(task):
    """Run the model in PyTorch at all shapes; settles the outputs' names. The traced shape is first."""
    import numpy as np

    task.io.progress("running in PyTorch")
    wanted = (
        ("traced", "opt", "min", "max") if task.params.get("verify", True) else ("traced", "min")
    )
    for name in wanted:
        arrays = export_inputs.sample(task.inputs, name, task.params.get("seed") or 0)
        sizes = [array.shape for array in arrays]
        if any(sizes == [array.shape for array in case.arrays] for case in task.cases):
            continue
        best = all(list(size) == i.sizes["opt"] for size, i in zip(sizes, task.inputs))
        case = Case("opt" if best else name, task.inputs, arrays)
        result = forward(task, case)
        found = export_inputs.flatten(result, task.torch.is_tensor)
        if task.names is None:
            task.names = name_outputs(task, found)
            task.callable = exportable(task, result)
            task.example = result if task.loaded.scripted else None
        case.outputs = [(out, to_numpy(value)) for out, (_, value) in zip(task.names, found)]
        task.cases.append(case)
        for out, value in case.outputs:
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                text = "output `%s` holds NaN or infinity in PyTorch at the %s shapes"
                task.notes.append(text % (out, case.name))


def forward(task, case):
    tensors = [task.torch.from_numpy(array.copy()) for array in case.arrays]
    try:
        with task.torch.no_grad():
            return call(task, task.loaded.module, tensors)
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        text = str(error)
        if "allocate memory" in text or "not enough memory" in text:
            raise JobError("out-of-memory", "forward() ran out of memory at %s" % case.text)
        hint = None
        if re.search(r"scalar type|dtype|indices|type Long|LongTensor", text):
            hint = 'inputs are float32 unless the model file says otherwise: DTYPES = {"NAME": "int64"}'
        rank = export_inputs.other_rank(task.inputs, task.loaded.constants.get("SHAPES"))
        where = "forward() fails at the %s shapes (%s): " % (case.name, case.text)
        words = where + models.model_trace(error, task.folder)
        raise JobError("wrong-rank" if rank else "forward-failed", words, rank or hint)


def name_outputs(task, found):
    if not found:
        raise JobError("not-a-module", "forward() returned no tensor")
    asked = task.params.get("output_names")
    preset = task.loaded.constants.get("OUTPUT_NAMES") or task.loaded.output_names
    if not asked and preset and len(preset) == len(found):
        asked = preset
    elif not asked and preset:
        text = "OUTPUT_NAMES %s is not used: the model returns %d tensors"
        task.notes.append(text % (", ".join(preset), len(found)))
    return export_inputs.output_names([name for name, _ in found], asked, task.inputs)


def to_numpy(tensor):
    import numpy as np

    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # numpy has none
        tensor = tensor.float()
    return np.array(tensor.numpy())


def exportable(task, result):
    """The module itself where exporters take it as it is, else one that calls it and flattens."""
    torch, module = task.torch, task.loaded.module
    given = [entry.parameter for entry in task.inputs]
    if task.loaded.scripted:
        return module
    straight = task.loaded.signature.leading(given) == len(given)
    entries = result if isinstance(result, (list, tuple)) else [result]
    if (
        straight
        and task.loaded.program is None
        and all(torch.is_tensor(entry) for entry in entries)
    ):
        return module

    class Flat(torch.nn.Module):
        def __init__(self):
            super(Flat, self).__init__()
            self.model = module

        def forward(self, *tensors):
            result = call(task, self.model, tensors)
            found = export_inputs.flatten(result, torch.is_tensor)
            return tuple(value for _, value in found)

        def train(self, mode=True):  # exporters call it, and an exported program refuses
            return self

    flat = Flat()
    flat.training = False
    return flat
