"""The two ways in which TensorRT's Python API speaks of inputs and outputs, made one. Python 3.6 to 3.13.

By numbered bindings up to 8.4, by named tensors from 8.5 on (and in TensorRT-RTX); engines with an implicit
batch dimension by bindings for as long as there are any. What an object has decides, never a version.
"""

from functools import partial
from typing import List, NamedTuple

from runtime.memory import count

# What is used of the API, class by class; tests/venvs/test_api_surface.py holds it against real bindings.
API = {
    "always": "Runtime.deserialize_cuda_engine ICudaEngine.create_execution_context "
    "ICudaEngine.num_optimization_profiles IExecutionContext.active_optimization_profile "
    "ILogger.log DataType.FLOAT DataType.HALF DataType.INT8 DataType.INT32 DataType.BOOL "
    "TensorFormat.LINEAR TensorLocation.HOST",
    "tensors": "ICudaEngine.num_io_tensors ICudaEngine.get_tensor_name ICudaEngine.get_tensor_mode "
    "ICudaEngine.get_tensor_dtype ICudaEngine.get_tensor_shape ICudaEngine.get_tensor_format "
    "ICudaEngine.get_tensor_location ICudaEngine.get_tensor_profile_shape TensorIOMode.INPUT "
    "IExecutionContext.set_input_shape IExecutionContext.get_tensor_shape "
    "IExecutionContext.set_tensor_address IExecutionContext.set_optimization_profile_async "
    "IExecutionContext.infer_shapes IExecutionContext.execute_async_v3 "
    "IExecutionContext.set_output_allocator IExecutionContext.get_max_output_size "
    "IOutputAllocator.__init__",
    "bindings": "ICudaEngine.num_bindings ICudaEngine.get_binding_name ICudaEngine.binding_is_input "
    "ICudaEngine.get_binding_dtype ICudaEngine.get_binding_shape ICudaEngine.get_binding_format "
    "ICudaEngine.get_location ICudaEngine.is_shape_binding ICudaEngine.is_execution_binding "
    "ICudaEngine.get_profile_shape ICudaEngine.get_profile_shape_input ICudaEngine.max_batch_size "
    "ICudaEngine.has_implicit_batch_dimension IExecutionContext.set_binding_shape "
    "IExecutionContext.get_binding_shape IExecutionContext.set_shape_input IExecutionContext.get_shape "
    "IExecutionContext.execute_async_v2 IExecutionContext.execute_async",
    # Used where they are; each is in some TensorRT.
    "optional": "ICudaEngine.get_tensor_profile_values IExecutionContext.is_stream_capturable "
    "Runtime.engine_host_code_allowed Runtime.get_plugin_registry DataType.UINT8 DataType.INT64 "
    "DataType.BF16 DataType.FP8",
}


class Info(NamedTuple):
    """One input or output. dtype, layout: TensorRT's names of its type and format; shape: -1 where dynamic.

    values: TensorRT reads or computes them on the host before it runs; on_gpu: where the engine reads or
    writes them.
    """

    name: str
    is_input: bool
    dtype: str
    layout: str
    shape: List[int]
    values: bool
    on_gpu: bool


def last(value):
    """DataType.HALF of the API is HALF."""
    return str(value).split(".")[-1]


def sizes(dims):
    return [int(size) for size in dims]


def open_interface(trt, engine):
    implicit = getattr(engine, "has_implicit_batch_dimension", False)
    if hasattr(engine, "num_io_tensors") and not implicit:
        return Tensors(trt, engine)
    return Bindings(engine, implicit)


class Tensors(object):
    """Of an engine. `infos` in the engine's order; `profiles`: how many it has."""

    implicit_batch = None

    def __init__(self, trt, engine):
        self.trt, self._engine = trt, engine
        self.profiles = engine.num_optimization_profiles
        self.infos = [
            self._info(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)
        ]

    def _info(self, name):
        engine = self._engine
        on_host = last(engine.get_tensor_location(name)) == "HOST"
        return Info(
            name=name,
            is_input=last(engine.get_tensor_mode(name)) == "INPUT",
            dtype=last(engine.get_tensor_dtype(name)),
            layout=last(engine.get_tensor_format(name)),
            shape=sizes(engine.get_tensor_shape(name)),
            values=on_host,
            on_gpu=not on_host,
        )

    def shapes(self, info, profile):
        """Smallest, usual and largest of a dynamic input."""
        found = self._engine.get_tensor_profile_shape(info.name, profile)
        return [sizes(shape) for shape in found]

    def values(self, info, profile):
        """The same of the values of an input on the host; None where they are not told."""
        engine = self._engine
        if hasattr(engine, "get_tensor_profile_values"):
            # The bindings call the first argument `name`, and take the profile there.
            found = engine.get_tensor_profile_values(profile, info.name)
        else:
            found = engine.get_profile_shape_input(profile, info.name)
        return checked_values(found, info)

    def context(self, stream):
        made = self._engine.create_execution_context()
        return None if made is None else TensorContext(self, made, stream)


class TensorContext(object):
    """Of an execution context on a stream."""

    def __init__(self, interface, context, stream):
        self._interface, self._context, self._stream = interface, context, stream
        self._keep = {}

    @property
    def profile(self):
        return self._context.active_optimization_profile

    def set_profile(self, index):
        """False where another context holds it, as up to 8.6 unless the engine was built to share."""
        return self._context.set_optimization_profile_async(index, self._stream.handle)

    def set_shape(self, info, shape):
        return self._context.set_input_shape(info.name, tuple(shape))

    def set_values(self, info, array):
        """They are read where they lie: the address is enough."""
        return self.bind(info, array.ctypes.data)

    def missing(self):
        """Names of inputs that TensorRT lacks something of; RuntimeError where shapes cannot be."""
        return list(self._context.infer_shapes())

    def shape(self, info):
        return sizes(self._context.get_tensor_shape(info.name))

    def computed_values(self, info):
        """None: they are written where the output lies."""

    def bind(self, info, address):
        return self._context.set_tensor_address(info.name, address)

    def allocate_with(self, info, allocator):
        """For an output whose size only its data tell: allocator(size) -> address, and .shape(sizes)."""
        self._keep[info.name] = made = self._make_allocator(allocator)
        return self._context.set_output_allocator(info.name, made)

    def _make_allocator(self, allocator):
        base = self._interface.trt.IOutputAllocator

        class Allocator(base):
            def __init__(self):
                base.__init__(self)

            def reallocate_output(self, _name, _memory, size, _alignment):
                return allocator.allocate(size)

            def notify_shape(self, _name, shape):
                allocator.notify(sizes(shape))

        return Allocator()

    def largest(self, info):
        """Bytes that an output may have at these shapes; -1 where that is unknown."""
        return self._context.get_max_output_size(info.name)

    def enqueuer(self):
        return partial(self._context.execute_async_v3, self._stream.handle)

    def capturable(self):
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(self._stream.handle))


class Bindings(object):
    """The same by numbers. Each profile has numbers of its own, one row of all inputs and outputs."""

    def __init__(self, engine, implicit):
        self._engine = engine
        self.implicit_batch = engine.max_batch_size if implicit else None
        self.profiles = 1 if implicit else engine.num_optimization_profiles
        self.per_profile = engine.num_bindings // self.profiles
        self.infos = [self._info(index) for index in range(self.per_profile)]
        self.numbers = {info.name: number for number, info in enumerate(self.infos)}

    def _info(self, index):
        engine = self._engine
        shape = sizes(engine.get_binding_shape(index))
        return Info(
            name=engine.get_binding_name(index),
            is_input=engine.binding_is_input(index),
            dtype=last(engine.get_binding_dtype(index)),
            layout=last(engine.get_binding_format(index)),
            shape=shape if self.implicit_batch is None else [-1, *shape],
            values=engine.is_shape_binding(index),
            on_gpu=last(engine.get_location(index)) != "HOST",
        )

    def shapes(self, info, profile):
        if self.implicit_batch is not None:
            return [[batch, *info.shape[1:]] for batch in (1, *[self.implicit_batch] * 2)]
        found = self._engine.get_profile_shape(profile, self.numbers[info.name])
        return [sizes(shape) for shape in found]

    def values(self, info, profile):
        found = self._engine.get_profile_shape_input(profile, self.numbers[info.name])
        return checked_values(found, info)

    def is_executed(self, info):
        return self._engine.is_execution_binding(self.numbers[info.name])

    def context(self, stream):
        made = self._engine.create_execution_context()
        return None if made is None else BindingContext(self, made, stream)


class BindingContext(object):
    def __init__(self, interface, context, stream):
        self._interface, self._context, self._stream = interface, context, stream
        self._addresses = [0] * (interface.per_profile * interface.profiles)
        self._batch = None

    @property
    def profile(self):
        return 0 if self._interface.implicit_batch is not None else self._active()

    def _active(self):
        return self._context.active_optimization_profile

    def set_profile(self, index):
        self._addresses[:] = [0] * len(self._addresses)
        if hasattr(self._context, "set_optimization_profile_async"):
            return self._context.set_optimization_profile_async(index, self._stream.handle)
        self._context.active_optimization_profile = index
        return self._active() == index

    def _number(self, info):
        return self._interface.numbers[info.name] + self._interface.per_profile * self.profile

    def set_shape(self, info, shape):
        if self._interface.implicit_batch is not None:
            self._batch = shape[0]
            return True
        return self._context.set_binding_shape(self._number(info), tuple(shape))

    def set_values(self, info, array):
        return self._context.set_shape_input(self._number(info), array.ravel().tolist())

    def missing(self):
        return []  # what was set or refused one by one

    def shape(self, info):
        if self._interface.implicit_batch is not None:
            return [self._batch, *info.shape[1:]]
        return sizes(self._context.get_binding_shape(self._number(info)))

    def computed_values(self, info):
        return list(self._context.get_shape(self._number(info)))

    def bind(self, info, address):
        """What only shapes are made from needs no address, and may be refused one."""
        number = self._number(info)
        self._addresses[number] = address if self._interface.is_executed(info) else 0
        return True

    def enqueuer(self):
        handle = self._stream.handle
        if self._interface.implicit_batch is not None:
            return partial(self._context.execute_async, self._batch, list(self._addresses), handle)
        return partial(self._context.execute_async_v2, list(self._addresses), handle)

    def capturable(self):
        return True


def checked_values(found, info):
    """TensorRT 8.0's bindings tell as many values as the tensor has dimensions: too few are none."""
    found = [sizes(values) for values in found]
    complete = len(found) == 3 and all(len(values) == count(info.shape) for values in found)
    return found if complete else None
