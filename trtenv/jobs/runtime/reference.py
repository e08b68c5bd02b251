"""ONNX Runtime and PyTorch as runners: the references that engines are held against. Python 3.6 to 3.13."""

import importlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

from worker import JobError

from runtime import runners
from runtime.runners import Tensor

# onnxruntime's words for types, which are those of C++.
TYPES = {"float": "float32", "float16": "float16", "double": "float64", "bool": "bool"}
TYPES.update((name, name) for name in ("int8", "int16", "int32", "int64"))
TYPES.update((name, name) for name in ("uint8", "uint16", "uint32", "uint64"))


def required(name, why):
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise JobError(
            "missing-module",
            "`import %s` failed in this environment: %s" % (name, error),
            "%s; choose an environment that has it" % why,
        )


class Slot(object):
    """Buffers for one batch; `inputs` are views of them in the shapes last asked for."""

    def __init__(self):
        self.inputs, self._buffers = {}, {}
        self.busy, self.future = False, None

    def shape(self, tensor, shape):
        import numpy as np

        count = int(np.prod(shape, dtype=np.int64))
        buffer = self._buffers.get(tensor.name)
        if buffer is None or buffer.size < count:
            buffer = np.zeros(count, runners.numpy_dtype(tensor.dtype))
            self._buffers[tensor.name] = buffer
        self.inputs[tensor.name] = buffer[:count].reshape(shape)


class ReferenceRunner(object):
    """Slots, and one thread that computes; subclasses set `inputs`, `outputs` and have compute(feed)."""

    def __init__(self, slots):
        self.slots = slots
        self._slots = [Slot() for _ in range(slots)]
        self._thread = ThreadPoolExecutor(max_workers=1)

    def acquire(self, shapes):
        runners.check_names(self.inputs, shapes)
        for tensor in self.inputs:
            runners.check_shape(tensor, shapes[tensor.name])
        slot = next((slot for slot in self._slots if not slot.busy), None)
        if slot is None:
            raise RuntimeError("all %d slots are in use" % self.slots)
        for tensor in self.inputs:
            slot.shape(tensor, tuple(shapes[tensor.name]))
        slot.busy = True
        return slot

    def submit(self, slot):
        slot.future = self._thread.submit(self.compute, slot.inputs)

    def collect(self, slot):
        return slot.future.result()

    def release(self, slot):
        if slot.future is not None and not slot.future.cancel():
            slot.future.exception()  # waits: until then the buffers are in use
        slot.busy, slot.future = False, None

    def run(self, feed):
        return runners.run_once(self, feed)

    def close(self):
        self._thread.shutdown()


class OnnxRuntimeRunner(ReferenceRunner):
    """On the GPU where this build of onnxruntime can, else on the CPU."""

    def __init__(self, params, io, slots=2):
        runtime = required("onnxruntime", "it runs ONNX files")
        self._name = os.path.basename(params["path"])
        self._version = runtime.__version__
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = params.get("threads") or 0
        # Its threads would else wait for work by spinning, on the cores that decode images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        known = runtime.get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in known]
        try:
            self._session = runtime.InferenceSession(params["path"], options, providers=providers)
        except Exception as error:
            raise self._failed("load", error)
        optimum = params.get("optimum") or {}
        self.inputs = [
            self._tensor(value, optimum.get(value.name)) for value in self._session.get_inputs()
        ]
        self.outputs = [self._tensor(value) for value in self._session.get_outputs()]
        self._names = [tensor.name for tensor in self.outputs]
        super(OnnxRuntimeRunner, self).__init__(slots)

    def _failed(self, what, error):
        text = str(error).strip()
        kind = "out-of-memory" if "allocate memory" in text else "runtime"
        words = "onnxruntime %s cannot %s `%s`: %s" % (self._version, what, self._name, text)
        return JobError(kind, words)

    def _tensor(self, value, optimum=None):
        """optimum: what the file was exported for, where its shape allows that."""
        inner = value.type[len("tensor(") : -1] if value.type.startswith("tensor(") else None
        if inner not in TYPES:
            raise JobError(
                "dtype",
                "`%s` of `%s` is %s, which numpy has not" % (value.name, self._name, value.type),
            )
        shape = [size if isinstance(size, int) and size >= 0 else -1 for size in value.shape]
        if optimum is not None and (
            len(optimum) != len(shape) or any(a not in (-1, b) for a, b in zip(shape, optimum))
        ):
            optimum = None
        return Tensor(value.name, TYPES[inner], shape, None, optimum, None)

    def compute(self, feed):
        try:
            return dict(zip(self._names, self._session.run(self._names, feed)))
        except Exception as error:
            raise self._failed("run", error)

    def describe(self):
        provider = self._session.get_providers()[0]
        return {
            "runtime": "onnxruntime",
            "onnxruntime": self._version,
            "device": "cuda" if provider.startswith("CUDA") else "cpu",
        }


class TorchRunner(ReferenceRunner):
    """The model as the export job loads it; the names of inputs and outputs are those of its ONNX file."""

    def __init__(self, params, io, slots=2):
        import export

        required("numpy", "tensors come and go as arrays")
        torch = required("torch", "it runs PyTorch models")
        self._torch = torch
        # A model may ask for the environment's own onnx while it loads, which must come before torch 1.4.
        work = tempfile.mkdtemp(prefix=".work-", dir=io.out)
        self._task = task = export.Task(torch, None, self._as_export(params), io, work)
        try:
            self._load(export, params["model"])
        finally:
            shutil.rmtree(work, ignore_errors=True)
        gpu = torch.cuda.is_available() and task.loaded.program is None
        self._device = "cuda" if gpu else "cpu"
        if gpu:
            task.loaded.module.to(self._device)
        self.inputs = [self._tensor(entry) for entry in task.inputs]
        self.outputs = self._find_outputs(params.get("outputs"))
        self.task = getattr(task, "card", None)  # what the model's own file says it is for
        super(TorchRunner, self).__init__(slots)

    def _load(self, export, spec):
        import models

        with models.own_imports(models.folders_of(spec)):
            export.seed_everything(
                self._torch, 0
            )  # as the export job does: random weights are equal
            export.load_model(self._task)

    @staticmethod
    def _as_export(params):
        """Parameters of the export job; dynamic axes of the inputs asked for are 1 in its shapes."""
        given = params.get("inputs") or []
        known = {"model": params["model"], "input_names": [entry["name"] for entry in given]}
        known["dtypes"] = {entry["name"]: entry["dtype"] for entry in given}
        known["shapes"] = dict(params.get("shapes") or {})
        for entry in given:
            dims = [1 if size is None or size < 0 else size for size in entry["shape"]]
            known["shapes"][entry["name"]] = {"min": dims, "opt": dims, "max": dims}
        return dict(known, output_names=params.get("outputs"), given=given)

    def _tensor(self, entry):
        """As asked for; else the first axis is the batch, and others are what the model's file says."""
        for given in self._task.params["given"]:
            if given["name"] == entry.name:
                shape = [-1 if size is None else size for size in given["shape"]]
                return Tensor(entry.name, given["dtype"], shape, None, None, None)
        low, best, high = [list(entry.sizes[case]) for case in ("min", "opt", "max")]
        shape = [a if a == b and axis else -1 for axis, (a, b) in enumerate(zip(low, high))]
        if low == high:
            return Tensor(entry.name, entry.dtype, shape, None, None, None)
        return Tensor(entry.name, entry.dtype, shape, low, best, high)

    def _find_outputs(self, asked):
        """By one run on zeros; its batch is 2, so that an axis of 1 is not taken for it."""
        import export_inputs
        import numpy as np

        self._names, found = None, None
        for batch in (2, 1):
            feed = {}
            for tensor, entry in zip(self.inputs, self._task.inputs):
                shape = list(tensor.optimum or entry.sizes["opt"])
                if tensor.shape and tensor.shape[0] == -1 and not tensor.optimum:
                    shape[0] = batch
                feed[tensor.name] = np.zeros(shape, runners.numpy_dtype(tensor.dtype))
            try:
                found = self._forward(feed)
                break
            except JobError:
                if batch == 1:
                    raise
        names = [name for name, _ in found]
        preset = self._task.loaded.constants.get("OUTPUT_NAMES") or self._task.loaded.output_names
        if not asked and preset and len(preset) == len(found):
            asked = preset
        self._names = export_inputs.output_names(names, asked, self._task.inputs)
        dynamic = any(-1 in tensor.shape[1:] for tensor in self.inputs)
        rows = max([array.shape[0] for array in feed.values() if array.ndim] or [1])
        described = []
        for name, (_, array) in zip(self._names, found):
            shape = [-1 if dynamic else size for size in array.shape]
            if array.ndim and array.shape[0] == rows:
                shape[0] = -1
            described.append(Tensor(name, str(array.dtype), shape, None, None, None))
        return described

    def _forward(self, feed):
        import export_inputs
        import model_runs
        import models

        torch, task = self._torch, self._task
        quiet = getattr(torch, "inference_mode", torch.no_grad)
        try:
            with quiet():
                tensors = [
                    torch.from_numpy(feed[entry.name]).to(self._device) for entry in task.inputs
                ]
                result = model_runs.call(task, task.loaded.module, tensors)
                found = export_inputs.flatten(result, torch.is_tensor)
                return [(name, model_runs.to_numpy(value)) for name, value in found]
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:
            memory = "allocate memory" in str(error) or "out of memory" in str(error)
            shapes = ", ".join(
                "%s:%s" % (name, runners.show(array.shape)) for name, array in feed.items()
            )
            words = "forward() fails at %s: %s" % (shapes, models.model_trace(error, task.folder))
            raise JobError("out-of-memory" if memory else "forward-failed", words)

    def compute(self, feed):
        found = self._forward(feed)
        if len(found) != len(self._names):
            raise JobError(
                "forward-failed",
                "the model returned %d tensors, and %d before" % (len(found), len(self._names)),
            )
        return {name: array for name, (_, array) in zip(self._names, found)}

    def describe(self):
        torch = self._torch
        device = torch.cuda.get_device_name(0) if self._device == "cuda" else "cpu"
        return {
            "runtime": "torch",
            "torch": str(torch.__version__),
            "device": device,
            "notes": list(self._task.notes),
        }
