"""Outputs whose size is known when the engine has run, as of NonZero. Python 3.6 to 3.13."""

import numpy as np
from worker import JobError

from runtime import narrow
from runtime.memory import count
from runtime.narrow import TYPES

EAGER = 64 << 20  # bytes that are had in advance for an output of unknown size


class Unsized(object):
    """An output whose size only its data tell: TensorRT asks for memory while it runs."""

    def __init__(self, slot, info, space):
        self.info, self._slot, self._space = info, slot, space
        self.error = self._shape = None

    def prepare(self, context, device):
        """Memory for the most that it can be, if that is little; else it grows as it must."""
        self._device = device
        most = context.largest(self.info)
        self._space.ask(most if 0 < most <= EAGER else 1, pinned=False)
        return context.allocate_with(self.info, self)

    def allocate(self, size):
        """Called by TensorRT, which prints and forgets what is raised: 0 ends the run."""
        try:
            self._space.ask(size, pinned=False)
            return self._space.address
        except JobError as error:
            self.error = error
            return 0

    def notify(self, shape):
        self._shape = shape

    def fetch(self):
        """Start the copy of what there is."""
        if self._shape is None:
            raise JobError("execution", "TensorRT told no shape of output `%s`" % self.info.name)
        size = count(self._shape) * np.dtype(TYPES[self.info.dtype].stored).itemsize
        self._space.ask(size)
        if size:
            self._device.copy_out(self._space.buffer, self._space.pinned, size, self._slot.stream)()

    def array(self):
        view = self._space.view(TYPES[self.info.dtype].stored, self._shape)
        if self.info.dtype not in narrow.CODECS:
            return view
        wide = np.empty(view.shape, np.float32)
        narrow.CODECS[self.info.dtype][1](view, wide)
        return wide
