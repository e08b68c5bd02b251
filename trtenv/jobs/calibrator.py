"""TensorRT's own INT8 calibration, of TensorRT 7 to 10: it asks for batches in device memory.

Python 3.6 to 3.13. The classes to derive from are gone in 11.0, so ours are made when they are asked for.
"""

import os

import calibration
import cuda
from worker import JobError

PARENTS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


def make_calibrator(trt, spec, inputs, io, memory=None):
    """A calibrator of TensorRT 7 to 10, for inputs as calibration.describe_inputs returns them.

    `error` holds what ended it; TensorRT prints and forgets what a callback raises. `memory` makes
    device buffers as cuda.Device does.
    """
    parent = getattr(trt, PARENTS[spec["method"]], None)
    if parent is None:
        raise JobError(
            "unsupported",
            "TensorRT %s has no %s: it calibrates nothing itself"
            % (trt.__version__, PARENTS[spec["method"]]),
            "quantize the graph instead: --quantization qdq",
        )

    class Calibrator(parent):
        def __init__(self):
            parent.__init__(self)
            self.error = None
            self.report = {"method": spec["method"], "batches": 0, "cache": None}
            self._batches = None
            self._memory = memory
            self._buffers = {}

        def get_batch_size(self):
            return 1  # what explicit batch counts as: the batch is a dimension of the shape

        def get_batch(self, asked, *_):
            try:
                return self._next(asked)
            except Exception as error:  # TensorRT would say no more than that get_batch failed
                self.error = error
                return None

        def _next(self, asked):
            if self._batches is None:
                self._batches = calibration.batches(spec, inputs, io)
            batch = next(self._batches, None)
            if batch is None:
                self.close()
                return None
            self._memory = self._memory or cuda.Device()
            for name, array in batch.items():
                if name not in self._buffers:
                    self._buffers[name] = self._memory.buffer(array.nbytes)
                self._buffers[name].upload(array)
            self.report["batches"] += 1
            io.progress("calibrating, batch %d" % self.report["batches"])
            return [self._buffers[name].address for name in asked]

        def read_calibration_cache(self):
            if not spec["cache"] or not os.path.exists(spec["cache"]):
                return None
            with open(spec["cache"], "rb") as handle:
                self.report["cache"] = "read"
                return handle.read()

        def write_calibration_cache(self, cache):
            with open(io.path("calibration.cache"), "wb") as handle:
                handle.write(bytes(cache))
            self.report["cache"] = self.report["cache"] or "written"

        def close(self):
            for buffer in self._buffers.values():
                buffer.free()
            self._buffers = {}

    return Calibrator()


def set_calibrator(trt, builder, config, network, spec, profile, io):
    """Calibrate during the build; the calibrator that is returned must outlive it.

    A network with dynamic inputs is calibrated at shapes of its own, one for each input.
    """
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    pairs = [(tensor.name, str(tensor.dtype).split(".")[-1].lower()) for tensor in tensors]
    inputs = calibration.describe_inputs(pairs, profile, spec["batch"])
    calibrator = make_calibrator(trt, spec, inputs, io)
    config.int8_calibrator = calibrator
    if any(-1 in tuple(tensor.shape) for tensor in tensors):
        shapes = builder.create_optimization_profile()
        for tensor, entry in zip(tensors, inputs):
            put = shapes.set_shape_input if tensor.is_shape_tensor else shapes.set_shape
            put(tensor.name, entry["shape"], entry["shape"], entry["shape"])
        if not config.set_calibration_profile(shapes):
            raise calibration.failed("TensorRT refused the calibration shapes %s" % inputs)
    return calibrator
