"""Inputs that two runs are to share: seeded random numbers, arrays, images. Python 3.6 to 3.13.

A source knows its batches before it reads any of them, so that a later job can go on where one ended.
"""

import os

from worker import JobError

from runtime import runners, sources

CASES = ("optimum", "minimum", "maximum")
KEYS = {"optimum": "opt", "minimum": "min", "maximum": "max"}
MOST_ROWS = 8  # of a batch where nothing says how many


class Batch(object):
    """arrays: {input: array}, whose rows beyond `items` repeat the last one.

    Of images, one for each item: what is known of it, how it was placed in the network's input, and
    (height, width) of the file.
    """

    def __init__(self, number, title, items, arrays, truths=None, placements=None, sizes=None):
        self.number, self.title, self.items, self.arrays = number, title, items, arrays
        self.truths, self.placements, self.sizes = truths, placements, sizes

    def rows(self):
        return max([array.shape[0] for array in self.arrays.values() if array.ndim] or [1])

    def item(self, index, shape):
        """The name of what an element of an output belongs to."""
        if len(self.items) == 1 or not index:
            return self.items[0]
        if shape is None or not shape or shape[0] != self.rows():
            return self.title
        return self.items[min(index[0], len(self.items) - 1)]

    def place(self, index, shape):
        index = [int(i) for i in index]
        return {"item": self.item(index, shape), "index": index}


def open_source(spec, inputs, task, io):
    """`spec`: {"kind": "random", "seed", "samples", "shapes"} or {"kind": "arrays" | "images", "files":
    [{"name", "path", "input", "truth"}], "samples", "shapes"} or {"kind": "recorded", "path"}.

    shapes: {input: {"min", "opt", "max"[, "values_of"]}} for what the runner does not know.
    """
    shapes = by_input(spec.get("shapes", {}), inputs)
    known = [Range(tensor, shapes.get(tensor.name)) for tensor in inputs]
    if spec["kind"] == "random":
        return Random(known, spec)
    if spec["kind"] == "recorded":
        return Recorded(known, spec)
    if spec["kind"] == "arrays":
        return Arrays(known, spec)
    return Images(known, spec, task, io)


def by_input(shapes, inputs):
    """{input: what `shapes` say of it}; an empty name stands for the only input. JobError where none is
    called so."""
    named = dict(shapes)
    if "" in named and len(inputs) == 1:
        named[inputs[0].name] = named.pop("")
    names = [tensor.name for tensor in inputs]
    for name in sorted(set(named) - set(names)):
        listed = ", ".join("`%s`" % known for known in names)
        told = "no input is called `%s`" % name if name else "a shape names none of several inputs"
        raise JobError("shape", "%s; there are %s" % (told, listed))
    return named


class Range(object):
    """An input and the shapes that it may have; sizes are None where nothing tells."""

    def __init__(self, tensor, asked):
        self.tensor, self.name, self.dtype = tensor, tensor.name, tensor.dtype
        self.values = None
        self.sizes = {}
        static = None if -1 in tensor.shape else [int(size) for size in tensor.shape]
        if asked and asked.get("values_of") is not None:
            static = [int(size) for size in asked["values_of"]]
            self.values = {case: asked[KEYS[case]] for case in CASES}
            asked = None
        for case in CASES:
            own = getattr(tensor, case)
            own = None if own is None or -1 in own else [int(size) for size in own]
            # A shape that does not fit is the runner's to refuse.
            self.sizes[case] = (asked[KEYS[case]] if asked else None) or static or own
        if static == []:
            self.sizes = {case: [] for case in CASES}

    def need(self, case):
        if self.sizes[case] is None:
            shape = "x".join("?" if size < 0 else str(size) for size in self.tensor.shape)
            raise JobError(
                "shape",
                "input `%s` is dynamic (%s), and nothing says at which shapes it runs"
                % (self.name, shape),
                "add --shapes %s:%s..MAX"
                % (self.name, "x".join(str(max(size, 1)) for size in self.tensor.shape)),
            )
        return self.sizes[case]

    def batch(self):
        """Rows of one batch, and the fewest: the optimum's, within what the runtime takes."""
        if self.sizes["optimum"]:
            return self.sizes["optimum"][0], self.sizes["minimum"][0]
        return MOST_ROWS, 1


def sample(random, entry, case):
    """Random values that a model can take.

    Floats are uniform in [0, 1): as pixels are, and no number is large. Whole numbers are 0 and 1, since
    most are indices, which must lie in a range that only the model knows; bytes are pixels.
    """
    import numpy as np

    shape, kind = entry.need(case), runners.numpy_dtype(entry.dtype)
    if entry.values is not None:
        return np.asarray(entry.values[case], kind).reshape(shape)
    if kind.kind == "f":
        return random.random_sample(shape).astype(kind)
    high = 256 if kind == np.dtype("uint8") else 2
    return np.asarray(random.randint(0, high, shape)).astype(kind)


class Random(object):
    def __init__(self, inputs, spec):
        self.inputs, self.seed = inputs, spec["seed"]
        self.cases = []
        for case in CASES:
            sizes = [(entry.need(case), entry.values and entry.values[case]) for entry in inputs]
            if all(sizes != other for _, other in self.cases):
                self.cases.append((case, sizes))
        self.samples = spec["samples"]

    def __len__(self):
        return self.samples * len(self.cases)

    def read(self, number):
        import numpy as np

        case, turn = self.cases[number % len(self.cases)][0], number // len(self.cases)
        random = np.random.RandomState((self.seed + number) % 2**32)
        title = "random batch %d at the %s shapes" % (turn + 1, KEYS[case])
        arrays = {entry.name: sample(random, entry, case) for entry in self.inputs}
        return Batch(number, title, [title], arrays)


class Recorded(object):
    """One batch that an earlier run kept: an .npz with i0, i1, ... in the order of the inputs."""

    def __init__(self, inputs, spec):
        self.inputs, self.path = inputs, spec["path"]

    def __len__(self):
        return 1

    def read(self, number):
        import numpy as np

        with np.load(self.path, allow_pickle=False) as kept:
            arrays = {entry.name: kept["i%d" % i] for i, entry in enumerate(self.inputs)}
        return Batch(number, "the worst batch", ["the worst batch"], arrays)


class Arrays(object):
    """Rows of .npz files, one array per input, or of .npy files."""

    def __init__(self, inputs, spec):
        self.tensors = [entry.tensor for entry in inputs]
        self.sets = sources.group("arrays", spec["files"], self.tensors)
        dynamic = [entry for entry in inputs if entry.tensor.shape[:1] == [-1]]
        rows = min([entry.batch()[0] for entry in dynamic] or [MOST_ROWS])
        self._open = None
        self.batches, left = [], spec["samples"]
        for number in range(len(self.sets)):
            cut, pieces = sources.pieces(self.tensors, self._arrays(number), rows)
            for piece in pieces:
                count = piece.count if left is None else min(piece.count, left)
                if count:
                    self.batches.append((number, cut, piece, count))
                    left = None if left is None else left - count

    def _arrays(self, number):
        """Of one set; the one before is let go."""
        if self._open is None or self._open[0] != number:
            self._open = None
            files = self.sets[number][1]
            self._open = (number, sources.read("arrays", files, self.tensors, {}))
        return self._open[1]

    def __len__(self):
        return len(self.batches)

    def read(self, number):
        import numpy as np

        which, cut, piece, count = self.batches[number]
        made = {}
        for name, array in self._arrays(which).items():
            rows = array
            if name in cut:
                rows = filled(array[piece.first : piece.first + count], self._low(name))
            made[name] = np.ascontiguousarray(rows)
        name = self.sets[which][0]
        items = ["%s[%d]" % (name, piece.first + i) for i in range(count)]
        return Batch(number, span(items), items, made)

    def _low(self, name):
        """Rows that a batch must have."""
        (tensor,) = [tensor for tensor in self.tensors if tensor.name == name]
        return sources.limits([tensor], 1)[0]


def filled(rows, fewest):
    """At least `fewest` rows: what is missing repeats the last one."""
    import numpy as np

    if not rows.ndim or len(rows) >= fewest:
        return rows
    return rows[np.minimum(np.arange(fewest), len(rows) - 1)]


def span(items):
    return items[0] if len(items) == 1 else "%s to %s" % (items[0], items[-1])


class Images(object):
    """Image files, prepared by the task card; what cannot be read is left out and told."""

    def __init__(self, inputs, spec, task, io):
        self.task, self.io = task, io
        files = spec["files"][: spec["samples"]]
        (self.input,) = [entry for entry in inputs if entry.name == task.input]
        for sizes in filter(None, self.input.sizes.values()):
            runners.check_shape(self.input.tensor, sizes)
        batched = len(self.input.tensor.shape) == 4
        self.rows, self.fewest = self.input.batch() if batched else (1, 1)
        self.chunks = [files[i : i + self.rows] for i in range(0, len(files), self.rows)]
        self.left_out, self.total = [], len(files)

    def __len__(self):
        return len(self.chunks)

    def read(self, number):
        """None where none of the batch's images can be read."""
        import numpy as np
        from vision import images

        files, rows, placements, sizes = [], [], [], []
        for file in self.chunks[number]:
            try:
                picture = images.decode(file["path"])
                shape = self.task.shape(1, self.task.frame(picture))
                row = np.zeros(shape, runners.numpy_dtype(self.input.dtype))
                placements.append(self.task.prepare(picture, row[0] if len(shape) == 4 else row))
            except images.BadImage as error:
                self._leave_out(file, error)
                continue
            files.append(file)
            rows.append(row)
            sizes.append(list(picture.shape[:2]))
        if not files:
            return None
        made = np.concatenate(rows) if rows[0].ndim == 4 else rows[0]
        arrays = {self.input.name: filled(made, self.fewest)}
        items = [file["name"] for file in files]
        truths = [file.get("truth") for file in files]
        return Batch(number, span(items), items, arrays, truths, placements, sizes)

    def _leave_out(self, file, error):
        self.left_out.append(os.path.basename(file["path"]))
        reason = getattr(error, "reason", error)
        self.io.log("%s is left out: %s" % (file["name"], reason))
        if 2 * len(self.left_out) > self.total:
            raise JobError(
                "inputs",
                "more than half of the %d images cannot be read: %s"
                % (self.total, ", ".join(self.left_out[:5])),
            )
