"""One batch on its way through an engine: memory, an execution context, a stream. Python 3.6 to 3.13.

All is prepared when shapes change, so that starting a batch is a row of prepared calls, or the launch of
one CUDA graph of them.
"""

import contextlib

import numpy as np
from worker import JobError

from runtime import narrow
from runtime.memory import Graph, Space, count
from runtime.narrow import TYPES
from runtime.unsized import Unsized


class Launch(object):
    """The calls of a batch, in order. go() makes them, or one graph of them once they have been made."""

    def __init__(self, slot, calls):
        self._slot, self._calls, self._graph = slot, calls, None
        self.go = self._first if slot.graphs else self._plain

    def _plain(self):
        for call in self._calls:
            call()

    def _first(self):
        """TensorRT allocates and loads kernels when it is first started at a shape: no capture may."""
        self._plain()
        self.go = self._capture

    def _capture(self):
        try:
            self._graph = self._slot.capture(self._plain)
        except JobError as error:
            self._slot.give_up_graphs(error.message)
            self.go = self._plain
        else:
            self.go = self._graph.launch
        self.go()

    def free(self):
        if self._graph is not None:
            self._graph.free()


class Slot(object):
    """inputs: arrays to fill, in pinned memory. enqueue, upload and download only start; stream is theirs."""

    def __init__(self, runner, engine, stream, context):
        self.inputs, self.stream = {}, stream
        self.graphs = runner.graphs
        self._runner, self._engine, self._context = runner, engine, context
        self._device = runner.device
        self._spaces = {
            info.name: Space(self._device, info.on_gpu) for info in runner.interface.infos
        }
        self.shapes = self._values = self._profile = None
        self._all = self._compute = None
        self._written, self._outputs, self._unsized = [], {}, []
        self._uploads, self._downloads, self._narrowed, self._widened = [], [], [], []

    def bind(self, shapes):
        """Prepare for inputs of these shapes, {name: sizes} of all; nothing to do where they are the last."""
        if shapes == self.shapes:
            return
        profile = self._runner.choose_profile(shapes)
        self.shapes = None  # until all is done: what fails in between is begun anew
        self._forget_launches()
        self._select(profile)
        self.inputs, self._written, self._uploads, self._narrowed = {}, [], [], []
        for info in self._runner.interface.infos:
            if info.is_input:
                self._bind_input(info, shapes[info.name])
        self._values = None
        if not self._written:
            self._settle()
        elif self._fill_values():
            self._try_to_settle()
        self._runner.forget_errors()  # what was grave is raised by now
        self.shapes = shapes

    def _select(self, profile):
        if self._runner.dynamic and profile != self._context.profile:
            if not self._context.set_profile(profile):
                self._runner.fail(
                    "profile", "TensorRT refused its optimization profile %d" % profile
                )
            self.stream.synchronize()
        self._profile = profile

    def _bind_input(self, info, shape):
        space, stored = self._spaces[info.name], np.dtype(TYPES[info.dtype].stored)
        size = count(shape) * stored.itemsize
        space.ask(size)
        if -1 in info.shape and not self._context.set_shape(info, shape):
            self._runner.fail("shape", "TensorRT refused the shape %s of `%s`" % (shape, info.name))
        self._give(info, space)
        view = space.view(stored, shape)
        if info.dtype in narrow.CODECS:
            self.inputs[info.name] = np.zeros(shape, np.float32)
            self._narrowed.append((narrow.CODECS[info.dtype][0], self.inputs[info.name], view))
        else:
            self.inputs[info.name] = view
        if info.values:
            self._written.append(info)
        if info.on_gpu and size:
            self._uploads.append(
                self._device.copy_in(space.buffer, space.pinned, size, self.stream)
            )

    def _give(self, info, space):
        if not self._context.bind(info, space.address):
            self._runner.fail("execution", "TensorRT refused the memory of `%s`" % info.name)

    def _fill_values(self):
        """The profile's usual values for a start; False where they are not known."""
        usual = {info.name: self._runner.values[self._profile][info.name] for info in self._written}
        if any(found is None for found in usual.values()):
            return False
        for name, (_, optimum, _) in usual.items():
            self.inputs[name].ravel()[...] = optimum
        self._read_values()
        return True

    def _read_values(self):
        """Tell TensorRT the values that lie in host inputs, where they differ from the last ones."""
        values = b"".join(self.inputs[info.name].tobytes() for info in self._written)
        if values == self._values:
            return False
        for info in self._written:
            array = self.inputs[info.name]
            self._runner.check_values(info, array, self._profile)
            if not self._context.set_values(info, array):
                self._runner.fail(
                    "shape", "TensorRT refused the values %s of `%s`" % (array.tolist(), info.name)
                )
        self._values = values
        return True

    def _settle(self):
        """All inputs are known: size the outputs and prepare the calls."""
        self._forget_launches()
        try:
            missing = self._context.missing()
        except RuntimeError as error:
            self._runner.fail("shape", "no outputs can be computed at these shapes: %s" % error)
        if missing:
            raise JobError("shape", "TensorRT misses something of %s" % ", ".join(missing))
        self._outputs, self._downloads, self._widened, self._unsized = {}, [], [], []
        for info in self._runner.interface.infos:
            if not info.is_input:
                self._bind_output(info)
        if self.graphs:
            self._look_for_obstacles()
        self._prepare()

    def _try_to_settle(self):
        """The usual values need not go with these shapes; those to come are seen to when they are there."""
        try:
            self._settle()
        except JobError:
            self._forget_launches()

    def _bind_output(self, info):
        shape, space = self._context.shape(info), self._spaces[info.name]
        if any(size < 0 for size in shape):
            self._bind_unsized(info, space)
            return
        stored = np.dtype(TYPES[info.dtype].stored)
        size = count(shape) * stored.itemsize
        space.ask(size)
        self._give(info, space)
        self._outputs[info.name] = self._widen(info, space.view(stored, shape))
        values = self._context.computed_values(info) if info.values else None
        if values is not None:
            self._outputs[info.name].ravel()[...] = values
        elif info.on_gpu and size:
            self._downloads.append(
                self._device.copy_out(space.buffer, space.pinned, size, self.stream)
            )

    def _bind_unsized(self, info, space):
        if not hasattr(self._context, "allocate_with"):
            raise JobError(
                "shape",
                "the size of output `%s` is not known before the engine runs" % info.name,
                "the bindings of this TensorRT cannot give memory for it: take 8.5 or newer",
            )
        output = Unsized(self, info, space)
        if not output.prepare(self._context, self._device):
            self._runner.fail("execution", "TensorRT refused an allocator for `%s`" % info.name)
        self._unsized.append(output)
        self._outputs[info.name] = None

    def _widen(self, info, view):
        """The array that a caller sees; what numpy has no type for is converted after each batch."""
        if info.dtype not in narrow.CODECS:
            return view
        wide = np.zeros(view.shape, np.float32)
        self._widened.append((narrow.CODECS[info.dtype][1], view, wide))
        return wide

    def _look_for_obstacles(self):
        if self._unsized:
            self.give_up_graphs("the size of `%s` depends on data" % self._unsized[0].info.name)
        elif not self._context.capturable():
            self.give_up_graphs("TensorRT says that this engine cannot be captured")

    def _prepare(self):
        start, fail = self._context.enqueuer(), self._runner.fail

        def execute():
            if not start():
                self._raise_allocation()
                fail("execution", "TensorRT could not start the engine")

        self._compute = Launch(self, [execute])
        self._all = Launch(self, [*self._uploads, execute, *self._downloads])

    def _raise_allocation(self):
        """TensorRT says no more than that it got no memory."""
        for output in self._unsized:
            error, output.error = output.error, None
            if error is not None:
                self._runner.forget_errors()
                raise error

    def capture(self, work):
        try:
            return Graph(self._device.driver, self.stream, work)
        finally:
            self._runner.forget_errors()  # a failed capture is no failed batch

    def give_up_graphs(self, reason):
        self.graphs = False
        self._runner.without_graphs(reason)

    def _forget_launches(self):
        for launch in (self._all, self._compute):
            if launch is not None:
                launch.free()
        self._all = self._compute = None

    def _ready(self):
        if self._written and (self._read_values() or self._all is None):
            self._settle()
        for encode, wide, stored in self._narrowed:
            encode(wide, stored)

    def submit(self):
        if self._written or self._narrowed:
            self._ready()
        self._all.go()

    def enqueue(self):
        """Start the engine alone, on what upload() brought."""
        self._compute.go()

    def upload(self):
        self._ready()
        for copy in self._uploads:
            copy()

    def download(self):
        for copy in self._downloads:
            copy()

    def synchronize(self):
        """Wait for all that was started; JobError for what TensorRT or the GPU found wrong meanwhile."""
        self.stream.synchronize()
        self._runner.raise_errors()

    def collect(self):
        self.synchronize()
        if self._unsized:
            for output in self._unsized:
                output.fetch()
            self.stream.synchronize()
            for output in self._unsized:
                self._outputs[output.info.name] = output.array()
        for decode, stored, wide in self._widened:
            decode(stored, wide)
        return self._outputs

    def free(self):
        with contextlib.suppress(JobError):  # of what ran last, if nobody waited for it
            self.stream.synchronize()
        self._forget_launches()
        self._context = self._engine = None
        for space in self._spaces.values():
            space.free()
        self.stream.free()
