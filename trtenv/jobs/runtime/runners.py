"""What all runtimes have in common: the tensors they tell of, and how one is opened. Python 3.6 to 3.13.

A runner has `inputs` and `outputs` (Tensor), `slots` (batches that may be in flight), acquire, submit,
collect, release, run, describe and close. Types that numpy has not cross it as float32.
"""

import difflib
from typing import Any, List, NamedTuple

from worker import JobError

NARROW = ("bfloat16", "float8_e4m3fn")


class Tensor(NamedTuple):
    """An input or output of a network.

    dtype: numpy's name, or one of NARROW. shape: -1 where it is dynamic. minimum, optimum, maximum: of the
    profile in use, None where nothing is known.
    """

    name: str
    dtype: str
    shape: List[int]
    minimum: Any
    optimum: Any
    maximum: Any


def open_runner(params, io, slots=2):
    """The runner that `params` ask for; JobError where this environment or the file cannot."""
    if params["runtime"] == "engine":
        from runtime import engines

        return engines.EngineRunner(params, io, slots)
    from runtime import reference

    kinds = {"onnxruntime": reference.OnnxRuntimeRunner, "torch": reference.TorchRunner}
    return kinds[params["runtime"]](params, io, slots)


def libraries(runner):
    """Versions for probe.stamp_facts: of what the runner works with."""
    told = runner.describe()
    names = ("tensorrt", "tensorrt-rtx", "onnxruntime", "torch")
    return {name: told[name] for name in names if told.get(name)}


def numpy_dtype(name):
    import numpy as np

    return np.dtype("float32" if name in NARROW else name)


def show(shape):
    return "x".join("?" if size is None or size < 0 else str(size) for size in shape) or "scalar"


def check_names(inputs, names):
    """JobError where `names` are not those of the inputs."""
    known = [tensor.name for tensor in inputs]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or known[:1]
            raise JobError(
                "inputs",
                "the model has no input `%s`; it has %s" % (name, ", ".join(known) or "none"),
                "did you mean `%s`?" % close[0] if close else None,
            )
    for name in known:
        if name not in names:
            raise JobError(
                "inputs",
                "nothing is given for input `%s`" % name,
                "give each by name: NAME=FILE, or an .npz file with %s" % ", ".join(known),
            )


def check_shape(tensor, shape):
    """JobError where the runner cannot take an input of this shape."""
    fits = len(shape) == len(tensor.shape)
    for axis in range(len(shape) if fits else 0):
        wanted, given = tensor.shape[axis], shape[axis]
        low = tensor.minimum[axis] if tensor.minimum else 0
        high = tensor.maximum[axis] if tensor.maximum else given
        fits = fits and (given == wanted if wanted >= 0 else low <= given <= high)
    if fits:
        return
    takes = show(tensor.shape)
    if tensor.minimum and tensor.maximum:
        takes = "%s to %s" % (show(tensor.minimum), show(tensor.maximum))
    raise JobError(
        "shape", "input `%s` is %s; the model takes %s" % (tensor.name, show(shape), takes)
    )


def safe_cast(tensor, array, where="the array"):
    """The array as the input's type; JobError where that loses more than precision."""
    import numpy as np

    dtype = numpy_dtype(tensor.dtype)
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise JobError(
            "dtype",
            "%s for input `%s` is %s; the model takes %s"
            % (where, tensor.name, array.dtype, tensor.dtype),
            "save it with .astype(numpy.%s)" % dtype,
        )
    cast = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        raise JobError(
            "dtype",
            "%s for input `%s` holds numbers that %s cannot" % (where, tensor.name, dtype),
        )
    return cast


def run_once(runner, feed):
    """What runner.run does, for any runner: {name: array} in, copies of the outputs out."""
    import numpy as np

    check_names(runner.inputs, feed)
    arrays = {
        tensor.name: safe_cast(tensor, np.asarray(feed[tensor.name])) for tensor in runner.inputs
    }
    slot = runner.acquire({name: array.shape for name, array in arrays.items()})
    try:
        for name, array in arrays.items():
            slot.inputs[name][...] = array
        runner.submit(slot)
        return {name: np.array(array) for name, array in runner.collect(slot).items()}
    finally:
        runner.release(slot)
