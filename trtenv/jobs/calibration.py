"""Calibration data: what stands for the real inputs while ranges are measured. Python 3.6 to 3.13.

Data is a folder of images (below it too, sorted by path), an .npz file with one array per input, or an
.npy file for a model of one input. It is read batch by batch. Images become (value * scale - mean) / std,
channel by channel; arrays are taken as they are. The last batch is filled up from the first.
"""

import contextlib
import os
import zipfile

from worker import JobError

HINT = "see docs/int8.md for what --calibration takes"
# Names of trt.DataType and of ONNX, as numpy calls them.
NUMPY = {"float": "float32", "half": "float16"}


def failed(message, hint=HINT):
    return JobError("calibration", message, hint)


def describe_inputs(inputs, profile, batch=None):
    """[{name, dtype, shape}] with the shapes to calibrate at, from pairs of name and dtype.

    The shape is the optimum of the profile; `batch` takes the place of its first dimension where the
    profile leaves that open.
    """
    import numpy as np

    found = []
    for name, dtype in inputs:
        try:
            np.dtype(NUMPY.get(dtype, dtype))
        except TypeError:
            raise failed("input `%s` is %s, which no calibration data can be" % (name, dtype))
        sizes = profile[name]
        shape = [int(size) for size in sizes.get("values_of", sizes["opt"])]
        if batch and shape and "values_of" not in sizes and sizes["min"][0] != sizes["max"][0]:
            shape[0] = int(batch)
        found.append({"name": name, "dtype": NUMPY.get(dtype, dtype), "shape": shape})
    return found


def batches(spec, inputs, io):
    """Yields a dict of name -> contiguous array for each batch; JobError for data that does not fit.

    `inputs` as describe_inputs returns them.
    """
    path = spec["data"]
    if os.path.isdir(path):
        return image_batches(path, spec, inputs, io)
    kind = os.path.splitext(path)[1].lower()
    if kind in (".npz", ".npy"):
        return array_batches(path, kind, inputs)
    raise failed("calibration data `%s` is neither a folder nor .npz nor .npy" % path)


def image_batches(folder, spec, inputs, io):
    if len(inputs) != 1:
        raise failed(
            "a folder of images calibrates a model of one input; this one has %s"
            % ", ".join(entry["name"] for entry in inputs),
            "put one array per input into an .npz file",
        )
    entry = inputs[0]
    picture = Picture(entry, spec)
    first, current = [], []
    for array in pictures(folder, picture, io):
        current.append(array)
        if len(current) == entry["shape"][0]:
            first = first or current
            yield {entry["name"]: stacked(current, entry)}
            current = []
    if current:
        first = first or current
        missing = entry["shape"][0] - len(current)
        current += [first[index % len(first)] for index in range(missing)]
        yield {entry["name"]: stacked(current, entry)}


def stacked(arrays, entry):
    import numpy as np

    return np.ascontiguousarray(np.stack(arrays), dtype=entry["dtype"])


class Picture(object):
    """How one image becomes one sample of an input N x C x H x W or N x H x W x C."""

    def __init__(self, entry, spec):
        import numpy as np

        shape = entry["shape"]
        channels_first = len(shape) == 4 and shape[1] in (1, 3)
        if not channels_first and not (len(shape) == 4 and shape[3] in (1, 3)):
            raise failed(
                "images do not fit input `%s` of shape %s: it is no picture of 1 or 3 channels"
                % (entry["name"], "x".join(str(size) for size in shape)),
                "put an array of it into an .npz file",
            )
        self.first = channels_first
        self.channels = shape[1] if channels_first else shape[3]
        self.size = tuple(shape[2:] if channels_first else shape[1:3])
        self.scale = float(spec["scale"])
        self.mean = per_channel("mean", spec["mean"], self.channels, 0.0)
        self.std = per_channel("std", spec["std"], self.channels, 1.0)
        if not self.std.all():
            raise failed("a standard deviation of 0 in `std`")
        plain = self.scale == 1.0 and not self.mean.any() and (self.std == 1.0).all()
        if np.dtype(entry["dtype"]).kind in "iu" and not plain:
            raise failed(
                "input `%s` takes whole numbers (%s): pixels go in as they are, without scale, mean "
                "or std" % (entry["name"], entry["dtype"])
            )

    def read(self, path):
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            whole = image.convert("L" if self.channels == 1 else "RGB")
        fitting = whole.resize((self.size[1], self.size[0]), Image.BILINEAR)
        pixels = np.asarray(fitting, np.float32).reshape((*self.size, self.channels))
        pixels = (pixels * self.scale - self.mean) / self.std
        return pixels.transpose(2, 0, 1) if self.first else pixels


def per_channel(name, values, channels, default):
    import numpy as np

    values = [default] if values is None else values
    if len(values) not in (1, channels):
        raise failed("`%s` has %d values for %d channels" % (name, len(values), channels))
    return np.asarray(values, np.float32)


def pictures(folder, picture, io):
    """One array per readable image; JobError once more than half of them are not."""
    try:
        from PIL import Image
    except ImportError as error:
        raise JobError(
            "missing-module",
            "images cannot be read here: `import PIL` failed: %s" % error,
            "use an environment with Pillow, or calibrate with an .npz file",
        )
    Image.init()
    paths = [path for path in files_below(folder) if suffix(path) in Image.EXTENSION]
    if not paths:
        raise failed("there are no images in `%s`" % folder)
    unreadable = []
    for number, path in enumerate(paths):
        io.progress("reading calibration data", number + 1, len(paths))
        try:
            if not os.path.isfile(path):  # opening a FIFO waits for a writer
                raise OSError("it is no regular file")
            array = picture.read(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unreadable.append(os.path.relpath(path, folder))
            io.log("calibration: %s is left out: %s" % (unreadable[-1], error))
            if 2 * len(unreadable) > len(paths):
                raise failed(
                    "more than half of the %d images in `%s` cannot be read: %s"
                    % (len(paths), folder, ", ".join(unreadable[:5]))
                )
            continue
        yield array


def suffix(path):
    return os.path.splitext(path)[1].lower()


def files_below(folder):
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


class ArrayFile(object):
    """Rows of one array in the .npy format, read as they are needed."""

    def __init__(self, handle, name, path):
        from numpy.lib import format as npy

        self.name, self.path, self._handle = name, path, handle
        try:
            version = npy.read_magic(handle)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, fortran, self.dtype = read(handle)
        except ValueError as error:
            raise failed("`%s` holds no array `%s`: %s" % (path, name, error))
        if (fortran and len(self.shape) > 1) or self.dtype.hasobject:
            raise failed(
                "array `%s` of `%s` is in Fortran order or holds Python objects" % (name, path),
                "save it again through numpy.ascontiguousarray",
            )

    def rows(self, count):
        """The next `count` rows, fewer at the end; JobError where the file ends too early."""
        import numpy as np

        row = self.dtype.itemsize
        for size in self.shape[1:]:
            row *= size
        data = self._handle.read(count * row)
        if row and len(data) % row:
            raise failed("`%s` is cut short in array `%s`" % (self.path, self.name))
        return np.frombuffer(data, self.dtype).reshape((-1, *self.shape[1:]))


def array_batches(path, kind, inputs):
    if kind == ".npy" and len(inputs) != 1:
        raise failed("an .npy file calibrates a model of one input", "use an .npz file")
    try:
        with contextlib.ExitStack() as stack:
            if kind == ".npy":
                name = inputs[0]["name"]
                arrays = {name: ArrayFile(stack.enter_context(open(path, "rb")), name, path)}
            else:
                archive = stack.enter_context(zipfile.ZipFile(path))
                arrays = open_arrays(archive, path, inputs, stack)
            for batch in slices(arrays, inputs):
                yield batch
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise failed("calibration data `%s` cannot be read: %s" % (path, error))


def open_arrays(archive, path, inputs, stack):
    stored = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
    missing = [entry["name"] for entry in inputs if entry["name"] not in stored]
    if missing:
        raise failed(
            "`%s` has no array for input `%s`; it has %s"
            % (path, missing[0], ", ".join("`%s`" % name for name in stored) or "none"),
            "save one array per input: numpy.savez(path, **{input: array})",
        )
    found = {}
    for entry in inputs:
        member = stack.enter_context(archive.open(entry["name"] + ".npy"))
        found[entry["name"]] = ArrayFile(member, entry["name"], path)
    return found


def slices(arrays, inputs):
    """Batches of all inputs at once; every array must hold the same number of batches."""
    import numpy as np

    counts = {}
    for entry in inputs:
        array, shape = arrays[entry["name"]], entry["shape"]
        check_array(array, entry)
        counts[entry["name"]] = -(-array.shape[0] // shape[0])
    if len(set(counts.values())) > 1:
        raise failed(
            "the arrays of the inputs hold different numbers of batches: %s"
            % ", ".join("%s %d" % item for item in sorted(counts.items()))
        )
    first = {}
    for _ in range(min(counts.values())):
        batch = {}
        for entry in inputs:
            name, size = entry["name"], entry["shape"][0]
            rows = arrays[name].rows(size)
            first.setdefault(name, rows)
            if len(rows) < size:
                missing = np.resize(first[name], (size - len(rows), *rows.shape[1:]))
                rows = np.concatenate([rows, missing])
            batch[name] = np.ascontiguousarray(rows, dtype=entry["dtype"])
            if batch[name].dtype.kind == "f" and not np.isfinite(batch[name]).all():
                raise failed("array `%s` holds values that are NaN or infinite" % name)
        yield batch


def check_array(array, entry):
    import numpy as np

    shape, wanted = tuple(array.shape), tuple(entry["shape"])
    if len(shape) != len(wanted) or shape[1:] != wanted[1:] or not shape or not shape[0]:
        raise failed(
            "array `%s` has shape %s; the model is calibrated at %s, any number of rows"
            % (array.name, show(shape), show(("N", *wanted[1:]))),
            "give the shape with --shapes: the optimum is what is calibrated at",
        )
    if not np.can_cast(array.dtype, np.dtype(entry["dtype"]), "same_kind"):
        raise failed(
            "array `%s` is %s; the input is %s" % (array.name, array.dtype, entry["dtype"]),
            "save it with .astype(numpy.%s)" % entry["dtype"],
        )


def show(shape):
    return "x".join(str(size) for size in shape) or "scalar"
