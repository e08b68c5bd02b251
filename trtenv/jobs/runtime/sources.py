"""Tensors from files: .npy, .npz and raw bytes, and how their rows become batches. Python 3.6 to 3.13."""

import zipfile
from typing import NamedTuple

from worker import JobError

from runtime import runners


class Piece(NamedTuple):
    """The rows first:first + count of a set, filled up to `rows` by repeating the last one."""

    first: int
    count: int
    rows: int


def group(kind, files, inputs):
    """[(name, {input: file})], one entry for each run; {None: file} for an .npz, which has all inputs."""
    sets, parts = [], {}
    known = [tensor.name for tensor in inputs]
    for file in files:
        if kind == "arrays" and file["path"].lower().endswith(".npz"):
            sets.append((file["name"], {None: file}))
        elif len(known) == 1:
            if file.get("input"):
                runners.check_names(inputs, [file["input"]])
            sets.append((file["name"], {known[0]: file}))
        elif not file.get("input"):
            raise JobError(
                "inputs",
                "`%s` does not say which input it is for; the model has %s"
                % (file["name"], ", ".join(known)),
                "name it: --input %s=FILE, or save all inputs in one .npz file" % known[0],
            )
        else:
            parts.setdefault(file["input"], []).append(file)
    if parts:
        runners.check_names(inputs, parts)
        if len({len(found) for found in parts.values()}) > 1:
            raise JobError(
                "inputs",
                "the inputs have different numbers of files: %s"
                % ", ".join("%s %d" % (name, len(parts[name])) for name in known),
            )
        rows = zip(*(parts[name] for name in known))
        sets.extend((row[0]["name"], dict(zip(known, row))) for row in rows)
    return sets


def read(kind, files, inputs, shapes):
    """{input: array} of one set, of the inputs' types; JobError for what does not fit.

    .npy files stay on disk until their rows are used.
    """
    import numpy as np

    found = {}
    for tensor in inputs:
        file = files.get(tensor.name) or files[None]
        try:
            if kind == "raw":
                array = read_raw(file, tensor, shapes.get(tensor.name))
            else:
                array = np.load(file["path"], mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                with array as archive:
                    runners.check_names(inputs, archive.files)
                    array = archive[tensor.name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise JobError("inputs", "`%s` cannot be read: %s" % (file["name"], error))
        found[tensor.name] = fitted(tensor, array, file["name"])
    return found


def read_raw(file, tensor, shape):
    """Bytes in the input's type and the shape given, or its own where at most one axis is open."""
    import numpy as np

    dtype = runners.numpy_dtype(tensor.dtype)
    shape = list(shape or tensor.shape)
    data = np.fromfile(file["path"], dtype=np.uint8)
    if shape.count(-1) > 1:
        raise JobError(
            "shape",
            "the shape of `%s` is not known: input `%s` is %s"
            % (file["name"], tensor.name, runners.show(shape)),
            "give it: --shapes %s:%s" % (tensor.name, "x".join(str(max(n, 1)) for n in shape)),
        )
    row = dtype.itemsize
    for size in shape:
        row *= size if size >= 0 else 1
    if row and (data.size % row if -1 in shape else data.size != row):
        raise JobError(
            "shape",
            "`%s` has %d bytes; %s of %s are %d"
            % (file["name"], data.size, runners.show(shape), tensor.dtype, row),
        )
    return data.view(dtype).reshape(shape)


def fitted(tensor, array, where):
    """The array as the input takes it: cast where that is safe, with a batch axis where it has none."""
    if array.dtype.hasobject or array.dtype.kind not in "biuf":
        raise JobError("dtype", "`%s` holds %s, which is no tensor" % (where, array.dtype))
    if array.ndim == len(tensor.shape) - 1 and tensor.shape[0] in (-1, 1):
        array = array[None]
    if array.ndim != len(tensor.shape):
        raise JobError(
            "shape",
            "the array for input `%s` in `%s` is %s; the model takes %s"
            % (tensor.name, where, runners.show(array.shape), runners.show(tensor.shape)),
        )
    return runners.safe_cast(tensor, array, "`%s`" % where)


def rowed(inputs, arrays):
    """Names of the inputs whose first axis is the batch; others go whole into each batch."""
    dynamic = [tensor.name for tensor in inputs if tensor.shape and tensor.shape[0] == -1]
    if dynamic:
        return dynamic
    sizes = {t.shape[0] for t in inputs if t.shape and t.shape[0] != arrays[t.name].shape[0]}
    return [tensor.name for tensor in inputs if tensor.shape and tensor.shape[0] in sizes]


def pieces(inputs, arrays, batch=None):
    """(names of the inputs that are cut, [Piece]) for one set; JobError where rows do not agree."""
    names = rowed(inputs, arrays)
    if not names:
        return names, [Piece(0, 1, 1)]
    counts = {name: arrays[name].shape[0] for name in names}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise JobError(
            "inputs",
            "the arrays must have as many rows as each other, and some: %s"
            % ", ".join("%s %d" % pair for pair in sorted(counts.items())),
        )
    total = counts[names[0]]
    low, high = limits([tensor for tensor in inputs if tensor.name in names], batch or total)
    starts = range(0, total, high)
    found = [(start, min(high, total - start)) for start in starts]
    return names, [Piece(start, count, max(count, low)) for start, count in found]


def limits(tensors, wanted):
    """(fewest, most) rows of a batch that all of these inputs take; at most `wanted`."""
    low, high = 1, wanted
    for tensor in tensors:
        if tensor.shape[0] >= 0:
            low, high = tensor.shape[0], tensor.shape[0]
            break
        low = max(low, tensor.minimum[0] if tensor.minimum else 1)
        high = min(high, tensor.maximum[0] if tensor.maximum else high)
    return low, max(high, low)


def gather(parts):
    """The outputs of a set from those of its pieces [(piece, outputs)]: rows that were filled up are dropped."""
    import numpy as np

    found = {}
    for name in parts[0][1]:
        arrays = [trimmed(outputs[name], piece) for piece, outputs in parts]
        if len(arrays) == 1:
            found[name] = arrays[0]
        elif arrays[0].ndim:
            found[name] = np.concatenate(arrays)
        else:
            found[name] = np.stack(arrays)
    return found


def trimmed(array, piece):
    filled = piece.rows > piece.count and array.ndim and array.shape[0] == piece.rows
    return array[: piece.count] if filled else array
