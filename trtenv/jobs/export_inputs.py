"""What goes into and comes out of a model: names, ranges of shapes, samples. Python 3.6 to 3.13.

Owns the export's view of tensors and refuses what does not fit the model's forward().
"""

import difflib
import re

from worker import JobError

CASES = ("opt", "min", "max")


class Input(object):
    """One input of the graph: `parameter` is its name in forward(), `name` that in the ONNX file."""

    def __init__(self, name, parameter, dtype, sizes):
        self.name = name
        self.parameter = parameter
        self.dtype = dtype
        self.sizes = sizes

    def dynamic_axes(self):
        pairs = zip(self.sizes["min"], self.sizes["max"])
        return [axis for axis, (low, high) in enumerate(pairs) if low != high]

    def traced(self):
        """The optimum, with 2 for a dynamic 1: tracers take a size of 1 for a broadcast, for good."""
        dynamic = self.dynamic_axes()
        best = enumerate(self.sizes["opt"])
        return [max(size, 2) if axis in dynamic else size for axis, size in best]


def parse_shapes(text):
    """The host's grammar (spec/shapes.py), for the SHAPES constant of a model file."""
    found = {}
    for item in [part.strip() for part in text.split(",") if part.strip()]:
        name, _, dims = item.rpartition(":")
        parts = [parse_dims(part, item) for part in dims.split("..")]
        if len(parts) > 3:
            raise JobError("shapes", "`%s` has more than three shapes in its range" % item)
        middle = parts[1] if len(parts) == 3 else parts[-1]
        found[name.strip()] = {"min": parts[0], "opt": middle, "max": parts[-1]}
    return found


def parse_dims(text, whole):
    text = text.strip()
    if text == "scalar":
        return []
    if not re.match(r"[0-9]+(x[0-9]+)*$", text):
        raise JobError(
            "shapes",
            "`%s` in SHAPES `%s` of the model file is no shape" % (text, whole),
            "write sizes joined by x, as in image:1x3x224x224",
        )
    return [int(size) for size in text.split("x")]


def show(dims):
    return "x".join(str(size) for size in dims) or "scalar"


def wanted_shapes(given, constant):
    """Shapes asked for, and those of the model file's SHAPES for the inputs that are not mentioned."""
    default = parse_shapes(constant) if isinstance(constant, str) else {}
    for name, sizes in given.items():
        if len({len(sizes[case]) for case in CASES}) > 1:
            raise JobError("wrong-rank", "the shapes of input `%s` differ in rank" % name)
        if not all(a <= b <= c for a, b, c in zip(sizes["min"], sizes["opt"], sizes["max"])):
            raise JobError("shapes", "min <= opt <= max does not hold for input `%s`" % name)
    return dict(default, **given) if set(given) <= set(default) else dict(given or default)


def other_rank(inputs, constant):
    """What the model file's SHAPES says where an input was given another rank, else None."""
    default = parse_shapes(constant) if isinstance(constant, str) else {}
    for entry in inputs:
        expected = default.get(entry.name, entry.sizes)["opt"]
        if len(expected) != len(entry.sizes["opt"]):
            sizes = (show(entry.sizes["opt"]), entry.name, show(expected))
            return "shape %s of input `%s` has another rank than the model file's %s" % sizes
    return None


def make_inputs(signature, shapes, dtypes, names):
    """Match shapes and names with forward()'s parameters; returns Inputs in forward's order."""
    parameters = signature.parameters(names or list(shapes))
    names = onnx_names(parameters, names, signature)
    if "" in shapes:
        shapes = unnamed_shape(shapes, names, signature)
    for key in list(shapes) + list(dtypes):
        if key not in names:
            unknown_input(key, names, signature)
    made = []
    for name, parameter in zip(names, parameters):
        if name in shapes:
            made.append(Input(name, parameter, dtypes.get(name, "float32"), shapes[name]))
        elif parameter in signature.required:
            raise JobError(
                "no-shape",
                "input `%s` of the model has no shape" % name,
                "add --shapes %s:1x3x224x224, or SHAPES to the model file" % name,
            )
    return made


def onnx_names(parameters, names, signature):
    if not names or set(names) <= set(parameters):
        return parameters
    if len(names) > len(parameters):
        raise JobError(
            "unknown-input",
            "%d input names are given (%s), but forward() takes %s"
            % (len(names), ", ".join(names), signature.text()),
        )
    return list(names) + parameters[len(names) :]


def unnamed_shape(shapes, names, signature):
    """A shape without a name is that of the model's only input."""
    if len(shapes) > 1 or len(signature.required) > 1 or not names:
        raise JobError(
            "unknown-input",
            "a shape without a name needs a model of one input; forward() takes "
            + signature.text(),
            "name the inputs, as in %s:%s"
            % (names[0] if names else "input", show(shapes[""]["opt"])),
        )
    return {names[0]: shapes[""]}


def unknown_input(name, names, signature):
    close = difflib.get_close_matches(name, names, n=1)
    hint = (
        "did you mean `%s`?" % close[0]
        if close
        else "INPUT_NAMES in the model file renames inputs, in order"
    )
    listed = ", ".join("`%s`" % entry for entry in names) or "none"
    text = "the model has no input `%s`; its inputs are %s" % (name, listed)
    if names != signature.names:
        text += "; forward() takes " + signature.text()
    raise JobError("unknown-input", text, hint)


class Signature(object):
    """forward()'s parameters: names in order, which are required, and whether it takes any number."""

    def __init__(self, names, required=None, variadic=False, keyword_only=()):
        self.names = list(names)
        self.required = set(names if required is None else required)
        self.variadic = variadic
        self.keyword_only = keyword_only

    def leading(self, given):
        """How many of the given parameters, in order, can be passed by position."""
        expected = self.parameters(given)
        pairs = enumerate(zip(given, expected))
        odd = (i for i, (a, b) in pairs if a != b or a in self.keyword_only)
        return next(odd, len(given))

    def parameters(self, wanted):
        extra = wanted[len(self.names) :] if self.variadic else []
        return self.names + extra

    def text(self):
        listed = ["`%s`" % name for name in self.names] + (["*args"] if self.variadic else [])
        return ", ".join(listed) or "no input"


def read_signature(forward):
    """A Python function's parameters."""
    import inspect

    names, required, keyword_only, variadic = [], [], [], False
    for name, entry in inspect.signature(forward).parameters.items():
        if entry.kind == entry.VAR_POSITIONAL:
            variadic = True
        elif entry.kind != entry.VAR_KEYWORD:
            names.append(name)
            if entry.default is entry.empty:
                required.append(name)
            if entry.kind == entry.KEYWORD_ONLY:
                keyword_only.append(name)
    return Signature(names, required, variadic, keyword_only)


def axis_labels(inputs):
    """{input: {axis: name}} of the dynamic axes; inputs with the same range of axis 0 share `batch`."""
    batch = None
    labels = {}
    for entry in inputs:
        labels[entry.name] = {}
        for axis in entry.dynamic_axes():
            sizes = [entry.sizes[case][axis] for case in CASES]
            if axis == 0 and batch in (None, sizes):
                batch = sizes
                labels[entry.name][axis] = "batch"
            else:
                labels[entry.name][axis] = "%s_dim%d" % (entry.name, axis)
    return labels


def output_labels(shapes):
    """{output: {axis: name}} of axes that changed between runs; `shapes` holds one dict for each run.

    Exporters before torch 1.10 write the traced size of an output whatever it depends on.
    """
    batches = [case["batch"] for case in shapes]
    labels = {}
    for name in shapes[0]["outputs"]:
        runs = [case["outputs"][name] for case in shapes]
        labels[name] = {}
        for axis, sizes in enumerate(zip(*runs)):
            if len(set(sizes)) > 1:
                batch = axis == 0 and list(sizes) == batches
                labels[name][axis] = "batch" if batch else "%s_dim%d" % (name, axis)
    return labels


def sample(inputs, case, seed):
    """One array for each input, the same for the same seed."""
    import numpy as np

    random = np.random.RandomState(seed)
    arrays = []
    for entry in inputs:
        dims = entry.traced() if case == "traced" else entry.sizes[case]
        try:
            dtype = np.dtype(entry.dtype)
        except TypeError:
            text = "`%s` of input `%s` is no type of an input" % (entry.dtype, entry.name)
            raise JobError("dtype", text, "float32, float16, int64, int32, uint8 and bool are")
        if dtype.kind == "f":
            arrays.append(np.asarray(random.random_sample(dims), dtype))
        else:  # 0 and 1 are valid as token ids, class numbers, masks and flags alike
            arrays.append(np.asarray(random.randint(0, 2, dims), dtype))
    return arrays


def flatten(value, is_tensor, name=""):
    """[(name, tensor)] of whatever forward() returns; what is no tensor is left out."""
    if is_tensor(value):
        return [(name or "output", value)]
    if hasattr(value, "keys"):
        items = [(str(key), value[key]) for key in value.keys()]
    elif hasattr(value, "_fields"):
        items = list(zip(value._fields, value))
    elif hasattr(value, "__dataclass_fields__"):
        items = [(key, getattr(value, key)) for key in value.__dataclass_fields__]
    elif isinstance(value, (list, tuple)):
        items = [("" if len(value) == 1 else str(i), entry) for i, entry in enumerate(value)]
        if not name:
            items = [("output" + key, entry) for key, entry in items]
    else:
        return []
    found = []
    for key, entry in items:
        found += flatten(entry, is_tensor, "_".join(part for part in (name, key) if part))
    return found


def output_names(found, asked, inputs):
    """Names for the flattened outputs: those asked for, else their own, made unique."""
    if asked:
        if len(asked) != len(found):
            raise JobError(
                "output-names",
                "%d output names are given (%s), but the model returns %d tensors (%s)"
                % (len(asked), ", ".join(asked), len(found), ", ".join(found)),
            )
        return list(asked)
    names, taken = [], {entry.name for entry in inputs}
    for name in found:
        first = name + "_out" if name in taken else name
        unique, number = first, 2
        while unique in taken or unique in names:
            unique, number = "%s_%d" % (first, number), number + 1
        names.append(unique)
    return names
