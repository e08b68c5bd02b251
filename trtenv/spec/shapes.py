"""Input shapes in trtexec's own grammar, and ranges of them.

image:1x3x640x640,scale_factor:1x2            fixed
image:1x3x224x224..16x3x224x224               a range; the optimum is its maximum
image:1x3x224x224..8x3x224x224..16x3x224x224  minimum, optimum, maximum
1x3x224x224                                   the model's only input
sizes:1x4                                     values, where the input is two integers (check_shapes)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trtenv.errors import UsageError

Dims = tuple[int, ...]
ONLY_INPUT = ""
INTEGERS = ("int32", "int64")  # the types that TensorRT has for values that are shapes
EXAMPLE = "image:1x3x224x224, or image:1x3x224x224..16x3x224x224 for a range"


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Minimum, optimum and maximum of one input; equal ranks, min <= opt <= max in each dimension.

    `values_of`: they are the values of a tensor of this shape, such as the new shape of a Reshape,
    and no sizes.
    """

    min: Dims
    opt: Dims
    max: Dims
    values_of: Dims | None = None

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise UsageError(f"the shapes of one input differ in rank: {self}", hint=EXAMPLE)
        for low, best, high in zip(self.min, self.opt, self.max, strict=True):
            if not low <= best <= high:
                raise UsageError(
                    f"min <= opt <= max does not hold for {self}",
                    hint="order the shapes from the smallest to the largest",
                )

    @property
    def dynamic(self) -> bool:
        return self.min != self.max

    @property
    def only_values(self) -> bool:
        """Values, and not at the same time the tensor's own shape, as `1` is of a vector of one."""
        return self.values_of is not None and (self.dynamic or self.opt != self.values_of)

    def __str__(self) -> str:
        if not self.dynamic:
            return render(self.opt)
        return "..".join(render(dims) for dims in (self.min, self.opt, self.max))

    def to_dict(self) -> dict[str, list[int]]:
        found = {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}
        return found if self.values_of is None else {**found, "values_of": list(self.values_of)}


Shapes = Mapping[str, ShapeRange]


def render(dims: Sequence[int]) -> str:
    return "x".join(str(size) for size in dims)


def parse_dims(text: str, whole: str) -> Dims:
    if text == "scalar":  # trtexec's word for a tensor of rank 0
        return ()
    if not re.fullmatch(r"\d+(x\d+)*", text, flags=re.ASCII):
        raise UsageError(
            f"`{text}` in `{whole}` is no shape",
            hint=f"give sizes joined by x, as in {EXAMPLE}",
        )
    dims = tuple(int(size) for size in text.split("x"))
    if max(dims) >= 2**31:  # Dims32 and a 32-bit protobuf dimension hold no more
        raise UsageError(f"`{text}` in `{whole}` has a dimension of 2^31 or more")
    return dims


def parse_shapes(text: str) -> dict[str, ShapeRange]:
    """Parse one --shapes value; UsageError names the part that is wrong."""
    found: dict[str, ShapeRange] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, dims = split_name(item)
        parts = [parse_dims(part, item) for part in dims.split("..")]
        if len(parts) > 3:
            raise UsageError(f"`{item}` has more than three shapes in its range", hint=EXAMPLE)
        if name in found:
            raise UsageError(f"input `{name}` is given twice in `{text}`")
        low, high = parts[0], parts[-1]
        found[name] = ShapeRange(low, parts[1] if len(parts) == 3 else high, high)
    if not found:
        raise UsageError(f"`{text}` names no input", hint=f"give {EXAMPLE}")
    return found


def split_name(item: str) -> tuple[str, str]:
    """trtexec splits at the last colon, so that names like `input:0` work; quotes are allowed."""
    name, _, dims = item.rpartition(":")
    return name.strip().strip("'\""), dims.strip()


def merge_profile(
    shapes: str | None, minimum: str | None, optimum: str | None, maximum: str | None
) -> dict[str, ShapeRange]:
    """--shapes, or --min-shapes, --opt-shapes and --max-shapes; trtexec's rules for leaving one out.

    Like trtexec, a missing optimum takes the maximum's place, a missing minimum or maximum the optimum's.
    """
    parts = {"min": minimum, "opt": optimum, "max": maximum}
    given = {key: parse_shapes(text) for key, text in parts.items() if text}
    if shapes and given:
        raise UsageError(
            "--shapes and --min-shapes, --opt-shapes or --max-shapes exclude each other",
            hint="put the range into --shapes: " + EXAMPLE,
        )
    if shapes:
        return parse_shapes(shapes)
    names = {name: None for shapes_of in given.values() for name in shapes_of}
    return {name: _range_of(name, given) for name in names}


def merge_profiles(
    shapes: Sequence[str],
    minimum: Sequence[str] = (),
    optimum: Sequence[str] = (),
    maximum: Sequence[str] = (),
) -> tuple[dict[str, ShapeRange], ...]:
    """One profile for each time that an option was given; all must be given equally often."""
    counts = {len(given) for given in (shapes, minimum, optimum, maximum) if given}
    if len(counts) > 1:
        raise UsageError(
            "--min-shapes, --opt-shapes and --max-shapes make one profile each time they are given, "
            "and one of them is given more often than another"
        )
    count = counts.pop() if counts else 0
    found = []
    for index in range(count):
        own = [given[index] if given else None for given in (shapes, minimum, optimum, maximum)]
        found.append(merge_profile(*own))
    if len({frozenset(profile) for profile in found}) > 1:
        raise UsageError("the profiles name different inputs", hint="name each in every --shapes")
    return tuple(found)


def hull(profiles: Sequence[Shapes]) -> dict[str, ShapeRange]:
    """The least ranges that hold all profiles: what an export must leave dynamic."""
    if not profiles:
        return {}
    found = dict(profiles[0])
    for profile in profiles[1:]:
        for name, shape in profile.items():
            old = found[name]
            if len(old.opt) != len(shape.opt):
                raise UsageError(f"the profiles give input `{name}` different ranks")
            low = tuple(map(min, old.min, shape.min))
            high = tuple(map(max, old.max, shape.max))
            found[name] = ShapeRange(low, old.opt, high)
    return found


def _range_of(name: str, given: Mapping[str, Mapping[str, ShapeRange]]) -> ShapeRange:
    sizes = {key: shapes[name] for key, shapes in given.items() if name in shapes}
    if any(shape.dynamic for shape in sizes.values()):
        raise UsageError(f"a range for `{name}` belongs into --shapes, not into --min-shapes")
    if len(sizes) < len(given):
        missing = ", ".join(f"--{key}-shapes" for key in given if key not in sizes)
        raise UsageError(f"input `{name}` is missing in {missing}")
    high = sizes.get("max") or sizes.get("opt") or sizes["min"]
    best = sizes.get("opt") or high
    low = sizes.get("min") or best
    return ShapeRange(low.opt, best.opt, high.opt)


@dataclass(frozen=True, slots=True)
class InputInfo:
    """An input as the ONNX file declares it; None stands for a dynamic dimension, dims None for no rank."""

    name: str
    dtype: str
    dims: tuple[int | None, ...] | None


def check_shapes(shapes: Shapes, inputs: Sequence[InputInfo]) -> dict[str, ShapeRange]:
    """Hold the wanted shapes against the model before anything is built.

    Returns one range per input. trtexec builds 1x1x... for a misspelt name and says PASSED; here a
    wrong name, a wrong rank, another size for a static dimension and a dynamic input without a
    shape are UsageErrors.

    trtexec takes the numbers of an input whose values are a shape for these values. Only TensorRT
    knows which inputs those are, once it has parsed the model; what they look like is known here.
    """
    wanted = dict(shapes)
    if ONLY_INPUT in wanted:
        if len(inputs) != 1:
            names = ", ".join(f"`{entry.name}`" for entry in inputs)
            raise UsageError(
                f"a shape without a name needs a model of one input; this one has {names}",
                hint=f"name the input: {inputs[0].name}:{wanted[ONLY_INPUT]}" if inputs else None,
            )
        wanted[inputs[0].name] = wanted.pop(ONLY_INPUT)
    known = {entry.name: entry for entry in inputs}
    for name in wanted:
        if name not in known:
            _unknown_name(name, list(known))
    return {entry.name: _check_input(entry, wanted.get(entry.name)) for entry in inputs}


def _unknown_name(name: str, known: Sequence[str]) -> None:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    listed = ", ".join(f"`{entry}`" for entry in known)
    raise UsageError(
        f"the model has no input `{name}`; its inputs are {listed}",
        hint=f"did you mean `{close[0]}`?" if close else None,
    )


def reads_as_values(entry: InputInfo, wanted: ShapeRange) -> bool:
    """Integers of a static shape, at most a vector, given with one number for each of them.

    `1` for a vector of one is both its shape and a value. It is read as the value: as a shape it
    says no more than the model.
    """
    dims = entry.dims
    if entry.dtype not in INTEGERS or dims is None or len(dims) > 1 or None in dims:
        return False
    return len(wanted.opt) == (dims[0] if dims else 1)


def _check_input(entry: InputInfo, wanted: ShapeRange | None) -> ShapeRange:
    if entry.dims is None:
        if wanted is None:
            raise UsageError(
                f"input `{entry.name}` has no known rank", hint="give it with --shapes"
            )
        return wanted
    declared = "x".join("?" if size is None else str(size) for size in entry.dims) or "scalar"
    if wanted is None:
        fixed = tuple(size for size in entry.dims if size is not None)
        if len(fixed) != len(entry.dims):
            example = "x".join("1" if size is None else str(size) for size in entry.dims)
            raise UsageError(
                f"input `{entry.name}` is dynamic ({declared}) and has no shape",
                hint=f"add --shapes {entry.name}:{example}, or a range {example}..<max>",
            )
        return ShapeRange(fixed, fixed, fixed)
    if reads_as_values(entry, wanted):
        static = tuple(size for size in entry.dims if size is not None)
        return replace(wanted, values_of=static)
    if len(wanted.opt) != len(entry.dims):
        raise UsageError(
            f"input `{entry.name}` has rank {len(entry.dims)} ({declared}); "
            f"the given shape {wanted} has rank {len(wanted.opt)}"
        )
    for axis, size in enumerate(entry.dims):
        if size is not None and not wanted.min[axis] == wanted.max[axis] == size:
            raise UsageError(
                f"dimension {axis} of input `{entry.name}` is fixed at {size} in the model "
                f"({declared}); the given shape is {wanted}",
                hint="export the model with that dimension dynamic, or give its fixed size",
            )
    return wanted
