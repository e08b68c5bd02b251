"""Ranges of tensors, measured on calibration data by ONNX Runtime. Python 3.8 to 3.13."""

import os

import calibration
from worker import JobError

# Of a range in ONNX Runtime's entropy method; its default of 128 leaves it nothing to choose from.
BINS = 1024


def measure(path, wanted, inputs, spec, method, big, io):
    """{tensor: largest magnitude to be represented}, the number of batches, and the first of them.

    `path` is the model with inferred shapes; files are written beside it. JobError for data that says
    nothing: infinite results, inputs that are always 0.
    """
    from onnxruntime.quantization import calibrate

    class OneBatch(calibrate.CalibrationDataReader):
        def __init__(self, batch):
            self._batch = batch

        def get_next(self):
            batch, self._batch = self._batch, None
            return batch

    calibrator = make_range_calibrator(calibrate, path, wanted, method, big)
    count, alive, first = 0, set(), None
    for batch in calibration.batches(spec, inputs, io):
        count += 1
        first = first or batch
        alive.update(name for name, array in batch.items() if array.any())
        # All batches at once would keep every activation of every batch in memory.
        calibrator.collect_data(OneBatch(batch))
        io.progress("measuring ranges, batch %d" % count)
    io.progress("choosing ranges")
    found = calibrator.compute_data()
    found = dict(found.items()) if hasattr(found, "items") else found
    ranges = {name: magnitude(name, found[name]) for name in sorted(wanted)}
    silent = [entry["name"] for entry in inputs if entry["name"] not in alive]
    blank = silent if len(silent) == len(inputs) else [name for name in silent if name in ranges]
    if not any(ranges.values()):
        blank = blank or sorted(ranges)
    if blank:
        raise JobError(
            "calibration",
            "the calibration data says nothing of the range of `%s`: it is always 0" % blank[0],
            "give data that is what the model is fed with, or leave what reads it in FP32: --keep-fp32 NODES",
        )
    return ranges, count, first


def magnitude(name, found):
    import numpy as np

    low, high = getattr(found, "range_value", found)[:2]
    largest = max(abs(float(np.asarray(low).min())), abs(float(np.asarray(high).max())))
    if not np.isfinite(largest):
        raise JobError(
            "calibration",
            "`%s` becomes NaN or infinite with this calibration data" % name,
            "look at the data: is it what the model is fed with?",
        )
    return largest


def make_range_calibrator(calibrate, path, wanted, method, big):
    """ONNX Runtime's own, told to look at these tensors alone."""
    kind = calibrate.EntropyCalibrater if method == "entropy" else calibrate.MinMaxCalibrater

    class Chosen(kind):
        def select_tensors_to_calibrate(self, model):
            return wanted, super(Chosen, self).select_tensors_to_calibrate(model)[1]

    options = {"num_bins": BINS} if method == "entropy" else {}
    calibrator = Chosen(
        path,
        augmented_model_path=os.path.join(os.path.dirname(path), "augmented.onnx"),
        use_external_data_format=big,
        **options,
    )
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator
