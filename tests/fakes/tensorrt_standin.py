"""Stands in for TensorRT's Python bindings, which cannot run an engine without a GPU; tests/gpu has the real.

One module for each way the API has spoken: of numbered bindings ("7.0", "8.0"), of both ("8.5"), of named
tensors ("10.0", "rtx"). An engine is a JSON document; its model computes with numpy on the memory of
libcuda.c. It refuses what TensorRT refuses: shapes outside the profile, addresses of other memory, a second
context on one profile up to 8.6, a capture before the first run.
"""

import ctypes
import enum
import json
import types
from collections.abc import Callable
from typing import Any

import numpy as np

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
STYLES = ("7.0", "8.0", "8.5", "10.0", "rtx")
VERSIONS = {
    "7.0": "7.0.0.11",
    "8.0": "8.0.1.6",
    "8.5": "8.5.3.1",
    "10.0": "10.0.1",
    "rtx": "1.4.0.76",
}


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)


class TensorFormat(enum.Enum):
    LINEAR, CHW2, HWC8, CHW4 = range(4)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


STORED = {"FLOAT": "f4", "HALF": "f2", "INT8": "i1", "INT32": "i4", "BOOL": "?", "UINT8": "u1"}
STORED |= {"FP8": "u1", "BF16": "u2", "INT64": "i8"}
Arrays = dict[str, np.ndarray]


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError


class IOutputAllocator:
    def __init__(self) -> None:
        pass


# Shapes of the outputs from shapes and host values of the inputs, -1 where data tell; and the outputs.
MODELS: dict[str, tuple[Callable[[Any, Any], dict[str, Any]], Callable[[Arrays], Arrays]]] = {
    "same": (lambda s, _: {"y": s["x"]}, lambda a: {"y": a["x"]}),
    "affine": (lambda s, _: {"y": s["x"]}, lambda a: {"y": a["x"] * 2 + 1}),
    "sum": (lambda s, _: {"y": s["x"]}, lambda a: {"y": a["x"] + a["z"]}),
    "positive": (lambda s, _: {"y": (-1,)}, lambda a: {"y": a["x"][a["x"] > 0]}),
    "reshape": (
        lambda _, v: {"y": tuple(v["s"]), "t": (len(v["s"]),)},
        lambda a: {"y": a["x"].reshape(a["s"]), "t": a["s"][::-1]},
    ),
}


def tensor(name: str, dtype: str, *shape: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "host": False, "format": "LINEAR", **more}  # fmt: skip


def plan(model: str, inputs: list[Any], outputs: list[Any], profiles: list[Any], **more: Any) -> bytes:  # fmt: skip
    """profiles: {input: [smallest, usual, largest]} of each; more: behaviour, see Engine."""
    return json.dumps(
        {"model": model, "inputs": inputs, "outputs": outputs, "profiles": profiles, **more}
    ).encode()


class Engine:
    """What both ways of speaking have in common.

    Of the plan: max_batch (implicit batch), sharing (profiles of contexts), uncapturable, fails_later.
    """

    def __init__(self, module: Any, logger: ILogger, document: dict[str, Any]) -> None:
        self.module, self.logger, self.plan = module, logger, document
        self.tensors = document["inputs"] + document["outputs"]
        self.names = [each["name"] for each in self.tensors]
        self.num_optimization_profiles = max(len(document["profiles"]), 1)
        self.dynamic = any(-1 in each["shape"] for each in document["inputs"])
        self.taken: dict[int, Any] = {}
        self.sharing = document.get("sharing", module.style in ("10.0", "rtx"))

    def error(self, text: str) -> bool:
        self.logger.log(ILogger.Severity.ERROR, text)
        return False

    def create_execution_context(self) -> Any:
        if self.plan.get("no_context"):
            self.error("[executionContext.cpp] Error Code 2: OutOfMemory (no further information)")
            return None
        return self.context_class(self)

    context_class: Any = None

    def range(self, name: str, profile: int) -> list[Any]:
        found: list[Any] = self.plan["profiles"][profile][name]
        return found


class NamedEngine(Engine):
    """8.5 and later."""

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def find(self, name: str) -> dict[str, Any]:
        return next(each for each in self.tensors if each["name"] == name)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        known = [each["name"] for each in self.plan["inputs"]]
        return TensorIOMode.INPUT if name in known else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.find(name)["dtype"]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.find(name)["shape"])

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self.find(name)["format"]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if self.find(name)["host"] else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        return self.range(name, profile)


class NewEngine(NamedEngine):
    def get_tensor_profile_values(self, profile: int, name: str) -> list[Any]:
        """The arguments as the bindings take them, whatever they call them."""
        return self.range(name, profile)


class BindingEngine(Engine):
    """Up to 8.6."""

    @property
    def has_implicit_batch_dimension(self) -> bool:
        return "max_batch" in self.plan

    @property
    def max_batch_size(self) -> int:
        return int(self.plan.get("max_batch", 1))

    @property
    def num_bindings(self) -> int:
        return len(self.tensors) * self.num_optimization_profiles

    def at(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.tensors[index % len(self.tensors)]
        return found

    def get_binding_name(self, index: int) -> str:
        profile = index // len(self.tensors)
        suffix = f" [profile {profile}]" if profile else ""
        return str(self.at(index)["name"]) + suffix

    def binding_is_input(self, index: int) -> bool:
        return self.at(index) in self.plan["inputs"]

    def get_binding_dtype(self, index: int) -> DataType:
        return DataType[self.at(index)["dtype"]]

    def get_binding_shape(self, index: int) -> tuple[int, ...]:
        return tuple(self.at(index)["shape"])

    def get_binding_format(self, index: int) -> TensorFormat:
        return TensorFormat[self.at(index)["format"]]

    def get_location(self, index: int) -> TensorLocation:
        return TensorLocation.HOST if self.at(index)["host"] else TensorLocation.DEVICE

    def is_shape_binding(self, index: int) -> bool:
        return bool(self.at(index)["host"])

    def is_execution_binding(self, index: int) -> bool:
        return not self.at(index)["host"]

    def get_profile_shape(self, profile: int, binding: int) -> list[Any]:
        return self.range(self.at(binding)["name"], profile)

    def get_profile_shape_input(self, profile: int, binding: int | str) -> list[Any]:
        name = binding if isinstance(binding, str) else self.at(binding)["name"]
        found = self.range(name, profile)
        # 8.0 takes the number of dimensions for that of the values.
        short = self.module.style in ("7.0", "8.0") and self.plan.get("values_bug")
        return [values[:1] for values in found] if short else found


class BothEngine(NamedEngine, BindingEngine):
    """8.5 and 8.6."""


class Context:
    """Of an engine: shapes, values, addresses, and a run."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.lib = engine, engine.module.driver
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.values: dict[str, list[int]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.started: set[Any] = set()
        self.kept: list[Any] = []
        self.profile = -1
        if self.is_free(0):
            self.take_profile(0)

    def is_free(self, index: int) -> bool:
        engine = self.engine
        return not engine.dynamic or engine.sharing or engine.taken.get(index, self) is self

    def take_profile(self, index: int) -> bool:
        engine = self.engine
        # The bindings of 8.5.3.1 log an error and end by SIGSEGV.
        assert self.is_free(index), f"profile {index} has been chosen by another context"
        engine.taken = {at: by for at, by in engine.taken.items() if by is not self}
        engine.taken[index] = self
        self.profile, self.shapes, self.values, self.addresses = index, {}, {}, {}
        return True

    @property
    def active_optimization_profile(self) -> int:
        return self.profile

    def set_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.range(name, self.profile)
        if any(not a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            return bool(self.engine.error(f"{name}: {shape} is not in the profile"))
        self.shapes[name] = tuple(shape)
        return True

    def set_values(self, name: str, values: list[int]) -> bool:
        self.values[name] = values
        return True

    def complete(self, batch: int | None) -> dict[str, tuple[int, ...]]:
        found = {}
        for each in self.engine.plan["inputs"]:
            static = tuple(each["shape"]) if batch is None else (batch, *each["shape"])
            found[each["name"]] = self.shapes.get(each["name"], static)
        return found

    def output_shapes(self, batch: int | None = None) -> dict[str, tuple[int, ...]]:
        shape, _ = MODELS[self.engine.plan["model"]]
        return shape(self.complete(batch), self.values)

    def run(self, stream: int, batch: int | None = None) -> bool:
        """On the stream: it is captured where the stream is captured."""
        engine, capturing = self.engine, self.lib.standin_capturing(stream)
        inputs, outputs = self.complete(batch), self.output_shapes(batch)
        if capturing and engine.plan.get("uncapturable"):
            self.lib.cuStreamSynchronize(stream)
            return bool(engine.error("operation not permitted when stream is capturing"))
        key = (tuple(inputs.items()), str(self.values))
        if capturing and key not in self.started:
            return bool(engine.error("the first enqueue at a shape cannot be captured"))
        self.started.add(key)
        sizes = {}
        for each in engine.tensors:
            name = each["name"]
            shape = inputs.get(name) or outputs[name]
            if each["host"] or -1 in shape:
                continue
            sizes[name] = size = int(np.prod(shape)) * np.dtype(STORED[each["dtype"]]).itemsize
            if self.lib.standin_holds(self.addresses.get(name, 0), max(size, 1)) != 1:
                return bool(engine.error(f"{name}: {size} bytes are not at its address"))
        arrays = {
            each["name"]: self.array(each, self.addresses.get(each["name"], 0), inputs[each["name"]])
            for each in engine.plan["inputs"]
        }  # fmt: skip
        if any(-1 in shape for shape in outputs.values()):
            return self.run_unsized(arrays)
        targets = [
            (each["name"], self.array(each, self.addresses[each["name"]], outputs[each["name"]]))
            for each in engine.plan["outputs"]
            if each["name"] in sizes or engine.module.style not in ("7.0", "8.0")
        ]

        def work(_: Any) -> None:
            made = MODELS[engine.plan["model"]][1](arrays)
            for name, target in targets:
                target[...] = made[name]
            if engine.plan.get("fails_later"):
                engine.error("[convolutionRunner] Error Code 1: Cuda Runtime (misaligned address)")

        self.kept.append(WORK(work))
        return self.lib.standin_launch(stream, self.kept[-1], None) == 0

    def run_unsized(self, arrays: Arrays) -> bool:
        for name, made in MODELS[self.engine.plan["model"]][1](arrays).items():
            allocator, each = self.allocators[name], self.engine.find(name)
            address = allocator.reallocate_output(name, 0, max(made.nbytes, 1), 256)
            if not address:
                return bool(self.engine.error(f"{name}: no memory from its allocator"))
            allocator.notify_shape(name, made.shape)
            self.array(each, address, made.shape)[...] = made
        return True

    def array(self, each: dict[str, Any], address: int, shape: tuple[int, ...]) -> np.ndarray:
        """On the memory at the address; on the values of what is on the host and has none."""
        dtype = np.dtype(STORED[each["dtype"]])
        if not address:
            return np.array(self.values[each["name"]], dtype).reshape(shape)
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


class NamedContext(Context):
    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return self.take_profile(index)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self.set_shape(name, shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def infer_shapes(self) -> list[str]:
        missing = []
        for each in self.engine.plan["inputs"]:
            name = each["name"]
            if each["host"]:
                self.values[name] = self.array(each, self.addresses[name], each["shape"]).tolist()
            elif -1 in each["shape"] and name not in self.shapes:
                missing.append(name)
        elements = [np.prod(each) for each in (*self.shapes.values(), *self.values.values())]
        if self.engine.plan["model"] == "reshape" and len(set(elements)) > 1:
            raise RuntimeError("reshape changes volume")
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {**self.complete(None), **self.output_shapes()}[name]

    def set_output_allocator(self, name: str, allocator: IOutputAllocator) -> bool:
        self.allocators[name] = allocator
        return True

    def get_max_output_size(self, name: str) -> int:
        return int(self.engine.plan.get("largest", -1))

    def execute_async_v3(self, stream: int) -> bool:
        return self.run(stream)


class RtxContext(NamedContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return not self.engine.plan.get("says_uncapturable")


class OldContext(Context):
    """7.0: profiles by an attribute."""

    @property
    def active_optimization_profile(self) -> int:
        return self.profile

    @active_optimization_profile.setter
    def active_optimization_profile(self, index: int) -> None:
        self.take_profile(index)

    def name_of(self, binding: int) -> str:
        profile, index = divmod(binding, len(self.engine.tensors))
        assert profile == self.profile, "a binding of another profile"
        return str(self.engine.names[index])

    def set_binding_shape(self, binding: int, shape: tuple[int, ...]) -> bool:
        return self.set_shape(self.name_of(binding), shape)

    def get_binding_shape(self, binding: int) -> tuple[int, ...]:
        return self.output_shapes()[self.name_of(binding)]

    def set_shape_input(self, binding: int, values: list[int]) -> bool:
        return self.set_values(self.name_of(binding), values)

    def get_shape(self, binding: int) -> list[int]:
        return list(reversed(self.values["s"]))

    def execute_async_v2(self, bindings: list[int], stream: int) -> bool:
        assert not self.engine.has_implicit_batch_dimension
        return self.run_bindings(bindings, stream, None)

    def execute_async(self, batch: int, bindings: list[int], stream: int) -> bool:
        assert self.engine.has_implicit_batch_dimension
        return self.run_bindings(bindings, stream, batch)

    def run_bindings(self, bindings: list[int], stream: int, batch: int | None) -> bool:
        assert len(bindings) == self.engine.num_bindings
        first = max(self.profile, 0) * len(self.engine.tensors)
        self.addresses = dict(zip(self.engine.names, bindings[first:], strict=False))
        return self.run(stream, batch)


class BindingContext(OldContext):
    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return self.take_profile(index)


class BothContext(NamedContext, BindingContext):
    pass


CLASSES = {
    "7.0": (BindingEngine, OldContext),
    "8.0": (BindingEngine, BindingContext),
    "8.5": (BothEngine, BothContext),
    "10.0": (NewEngine, NamedContext),
    "rtx": (NewEngine, RtxContext),
}


def make_tensorrt(style: str, driver: ctypes.CDLL) -> Any:
    """The module that `import tensorrt` would give."""
    driver.standin_launch.argtypes = [ctypes.c_void_p, WORK, ctypes.c_void_p]
    driver.standin_holds.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
    driver.standin_capturing.argtypes = [ctypes.c_void_p]
    driver.cuStreamSynchronize.argtypes = [ctypes.c_void_p]
    module: Any = types.ModuleType("tensorrt")
    module.__version__, module.style, module.driver = VERSIONS[style], style, driver
    module.ILogger, module.DataType, module.TensorFormat = ILogger, DataType, TensorFormat
    module.TensorLocation = TensorLocation
    module.plugins = []
    module.init_libnvinfer_plugins = lambda *argv: module.plugins.append(argv[1])
    engine_class, context_class = CLASSES[style]

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: Any) -> Any:
            try:
                document = json.loads(bytes(data))
            except ValueError:
                text = "[runtime.cpp] Error Code 1: Serialization (magicTag does not match)"
                self.logger.log(ILogger.Severity.ERROR, text)
                return None
            engine = engine_class(module, self.logger, document)
            engine.context_class = context_class
            return engine

    module.Runtime = Runtime
    if style not in ("7.0", "8.0"):
        module.TensorIOMode, module.IOutputAllocator = TensorIOMode, IOutputAllocator
    return module
