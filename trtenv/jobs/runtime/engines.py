"""Runs TensorRT engines of 7.0 to 11.4 and of TensorRT-RTX by their Python API. Python 3.6 to 3.13."""

import contextlib
import math
import mmap
import os

import build
import steps
from worker import JobError

from runtime import memory, runners
from runtime.bindings import open_interface
from runtime.narrow import TYPES
from runtime.slots import Slot


class EngineRunner(object):
    """One engine with its slots; `device` and `interface` are theirs too.

    All calls come from one thread, or each thread calls device.use() first. params: see open_runner;
    driver: a loaded libcuda, for tests.
    """

    def __init__(self, params, io, slots=2, driver=None):
        self._io, self._params = io, params
        self._all, self._engines = [], []
        self.graphs, self._no_graphs = bool(params.get("cuda_graph")), None
        self.trt = build.load_tensorrt(params["flavour"])
        self.device = memory.open_device(
            params.get("memory", "auto"), params.get("device", 0), driver
        )
        self._logger = build.make_logger(self.trt)
        try:
            self._runtime = self._make_runtime()
            self._load_plugins(params.get("plugins", []))
            self._engines.append(self._deserialize())
            self.interface = open_interface(self.trt, self._engines[0])
            self._describe_tensors()
            while len(self._all) < slots and self._add_slot():
                pass
        except BaseException:
            self.close()
            raise
        self.slots = len(self._all)
        self._free = list(self._all)
        self._told = self._tell()
        self.forget_errors()

    def _make_runtime(self):
        try:
            runtime = self.trt.Runtime(self._logger)
        except TypeError:  # pybind11 reports a null pointer from the factory so
            self.fail("no-gpu", "TensorRT could not start its runtime")
        if hasattr(runtime, "engine_host_code_allowed"):
            # Version-compatible engines carry their own runtime; a plan is code either way.
            runtime.engine_host_code_allowed = True
        return runtime

    def _load_plugins(self, paths):
        if hasattr(self.trt, "init_libnvinfer_plugins"):
            self.trt.init_libnvinfer_plugins(self._logger, "")
        known = hasattr(self._runtime, "get_plugin_registry")
        for path in paths:
            steps.load_plugin("plugin_registry" if known else "load_libraries", path, self._runtime)

    def _deserialize(self):
        self._io.progress("loading the engine")
        plan = read_plan(self._params)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            self.fail(
                "engine",
                "TensorRT %s cannot load the engine" % self.trt.__version__,
                "`trtenv inspect` tells what built it, `trtenv check` where it runs",
            )
        return engine

    def _describe_tensors(self):
        interface, wanted = self.interface, self._params.get("profile")
        if wanted is not None and not 0 <= wanted < interface.profiles:
            raise JobError(
                "profile",
                "the engine has no profile %d; it has %d" % (wanted, interface.profiles),
                "profiles are counted from 0",
            )
        self._profiles = list(range(interface.profiles)) if wanted is None else [wanted]
        for info in interface.infos:
            check_supported(info)
        inputs = [info for info in interface.infos if info.is_input]
        self.dynamic = any(-1 in info.shape or info.values for info in inputs)
        self._ranges = {
            profile: {info.name: self._range(info, profile) for info in inputs}
            for profile in self._profiles
        }
        self.values = {
            profile: {info.name: interface.values(info, profile) for info in inputs if info.values}
            for profile in self._profiles
        }
        self.inputs = [self._tensor(info) for info in inputs]
        self.outputs = [self._tensor(info) for info in interface.infos if not info.is_input]
        self._wanted = {tensor.name: tensor for tensor in self.inputs}

    def _range(self, info, profile):
        return self.interface.shapes(info, profile) if -1 in info.shape else [info.shape] * 3

    def _tensor(self, info):
        """Of several profiles: from the smallest to the largest of all, and the optimum of the first."""
        low = best = high = None
        if info.is_input:
            ranges = [self._ranges[profile][info.name] for profile in self._profiles]
            low = [min(sizes) for sizes in zip(*(each[0] for each in ranges))]
            best = list(ranges[0][1])
            high = [max(sizes) for sizes in zip(*(each[2] for each in ranges))]
        name = TYPES[info.dtype].name
        return runners.Tensor(info.name, name, list(info.shape), low, best, high)

    def _add_slot(self):
        """False where there is no memory for another one, which is no reason to run none."""
        stream = self.device.stream()
        try:
            context, engine = self._make_context(stream)
        except JobError as error:
            stream.free()
            if not self._all or error.kind != "out-of-memory":
                raise
            self._io.log("%d slots: %s" % (len(self._all), error.message))
            return False
        self._all.append(Slot(self, engine, stream, context))
        return True

    def _make_context(self, stream):
        """An execution context and its engine: the first one, or one more where contexts share no profile.

        Up to TensorRT 8.6 a profile of dynamic shapes is one context's alone, unless the engine was built
        to share it.
        """
        context, wanted = self._context_of(self.interface, stream), self._profiles[0]
        if not self._all and not self._takes_profile(context):
            self.fail("profile", "TensorRT refused profile %d" % wanted)
        # Never ask for one that another holds: the bindings of 8.5 crash. A context begins with 0, or with
        # none where it may not share.
        if not self._all or not self.dynamic or context.profile == wanted:
            return context, self._engines[0]
        self.forget_errors()
        self._io.log("the engine is loaded once more: its contexts cannot share a profile")
        engine = self._deserialize()
        self._engines.append(engine)
        context = self._context_of(open_interface(self.trt, engine), stream)
        self._takes_profile(context)
        return context, engine

    def _context_of(self, interface, stream):
        context = interface.context(stream)
        if context is None:
            self.fail("execution", "TensorRT could not make an execution context")
        return context

    def _takes_profile(self, context):
        wanted = self._profiles[0]
        return not self.dynamic or context.profile == wanted or bool(context.set_profile(wanted))

    def choose_profile(self, shapes):
        """The profile that takes these shapes with its optimum nearest; JobError with what is taken."""
        fitting = [profile for profile in self._profiles if self._fits(profile, shapes)]
        if fitting:
            return min(fitting, key=lambda profile: self._distance(profile, shapes))
        for tensor in self.inputs:
            runners.check_shape(tensor, shapes[tensor.name])
        raise JobError(
            "shape",
            "no profile takes %s" % show_shapes(shapes),
            "they take " + "; ".join(self._show_profile(profile) for profile in self._profiles),
        )

    def _fits(self, profile, shapes):
        return all(
            len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high))
            for shape, (low, _, high) in (
                (shapes[name], found) for name, found in self._ranges[profile].items()
            )
        )

    def _distance(self, profile, shapes):
        """Of logarithms: twice the optimum is as far as half of it."""
        found = 0.0
        for name, (_, best, _) in self._ranges[profile].items():
            found += sum(abs(math.log((a + 1.0) / (b + 1.0))) for a, b in zip(shapes[name], best))
        return found

    def _show_profile(self, profile):
        return "%d: " % profile + ", ".join(
            "%s %s to %s" % (name, runners.show(low), runners.show(high))
            for name, (low, _, high) in sorted(self._ranges[profile].items())
        )

    def check_values(self, info, array, profile):
        """JobError where the values of a shape are outside of the profile."""
        found = self.values[profile][info.name]
        values = array.ravel().tolist()
        if found is None or all(a <= value <= b for a, value, b in zip(found[0], values, found[2])):
            return
        raise JobError(
            "shape",
            "input `%s` holds %s; profile %d takes %s to %s"
            % (info.name, values, profile, found[0], found[2]),
        )

    def acquire(self, shapes):
        """A free slot for inputs of these shapes; static ones need not be named.

        Only shapes that the slot did not have last are work, and only larger ones take memory. Inputs whose
        values are shapes hold the profile's usual ones. RuntimeError where no slot is free.
        """
        if not self._free:
            raise RuntimeError("all %d slots are in use" % self.slots)
        shapes = self._complete(shapes)
        slot = next((slot for slot in self._free if slot.shapes == shapes), self._free[0])
        self.device.use()
        slot.bind(shapes)
        self._free.remove(slot)
        return slot

    def _complete(self, shapes):
        found = {name: tuple(int(size) for size in shape) for name, shape in shapes.items()}
        for name, tensor in self._wanted.items():
            if name not in found and -1 not in tensor.shape:
                found[name] = tuple(tensor.shape)
        if found.keys() != self._wanted.keys():
            runners.check_names(self.inputs, list(found))
        if self.interface.implicit_batch is not None and len({s[0] for s in found.values()}) > 1:
            raise JobError(
                "shape", "the inputs of an engine have one batch: %s" % show_shapes(found)
            )
        return found

    def submit(self, slot):
        self.device.use()
        slot.submit()

    def collect(self, slot):
        self.device.use()
        return slot.collect()

    def release(self, slot):
        self._free.append(slot)

    def run(self, arrays):
        return runners.run_once(self, arrays)

    def describe(self):
        """For results, after close() too. cuda_graph: whether there is one; engines: how often it is loaded."""
        return dict(self._told, cuda_graph=self.graphs, no_cuda_graph=self._no_graphs)

    def _tell(self):
        return {
            "runtime": "engine",
            self._params["flavour"]: self.trt.__version__,
            "memory": self.device.kind,
            "device": self.device.name,
            "compute_capability": self.device.compute_capability,
            "total_memory": self.device.total_memory,
            "profiles": self.interface.profiles,
            "profile": self._params.get("profile"),
            "slots": self.slots,
            "engines": len(self._engines),
        }

    def without_graphs(self, reason):
        if self.graphs:
            self.graphs, self._no_graphs = False, reason
            self._io.log("no CUDA graph: %s" % reason)

    def raise_errors(self):
        """TensorRT reports through its logger what goes wrong after a start."""
        if self._logger.errors:
            self.fail("execution", "TensorRT failed while it ran the engine")

    def forget_errors(self):
        del self._logger.errors[:]

    def fail(self, kind, message, hint=None):
        """JobError with TensorRT's own words."""
        logger = self._logger
        reasons = "; ".join(logger.errors or logger.warnings[-1:]) or "it gives no reason"
        self.forget_errors()
        if "out of memory" in reasons.lower() or "OutOfMemory" in reasons:
            kind = "out-of-memory"
        raise JobError(kind, "%s: %s" % (message, reasons), hint)

    def close(self):
        """Give back what the GPU holds; contexts go before their engines.

        After an error of the GPU nothing can be freed, and the error was told when it came.
        """
        for slot in self._all:
            with contextlib.suppress(JobError):
                slot.free()
        self._all, self._free = [], []
        self.interface = self._engines = self._runtime = None
        self.device.close()


def read_plan(params):
    """The plan as a buffer on the file: nothing of it is copied on the host."""
    path, offset = params["path"], params.get("offset") or 0
    with open(path, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        length = params.get("length")
        end = size if length is None else offset + length
        if not offset < end <= size:
            raise JobError("engine", "%s has %d bytes, and no plan at %d" % (path, size, offset))
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    return memoryview(mapped)[offset:end]


def check_supported(info):
    """JobError where an input or output is not a plain array."""
    if info.layout != "LINEAR":
        raise JobError(
            "format",
            "`%s` has the format %s: its elements do not lie in the order of its shape"
            % (info.name, info.layout),
            "build with --input-io-formats and --output-io-formats of chw",
        )
    if info.dtype not in TYPES:
        raise JobError("dtype", "`%s` has the type %s: no array has it" % (info.name, info.dtype))


def show_shapes(shapes):
    return ", ".join(
        "%s %s" % (name, runners.show(shape)) for name, shape in sorted(shapes.items())
    )
