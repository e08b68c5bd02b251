"""What lint looks for in a model's file, types and shapes. lintops.py looks at its operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from trtenv.dialect.operators import feature
from trtenv.dialect.release import PRODUCTS, release_note
from trtenv.dialect.versions import RTX_PREFIX, opset_range
from trtenv.engine.onnxfile import MOST_PROTOBUF, OnnxFile, TensorInfo
from trtenv.engine.onnxgraph import INT64, Graph, beyond_int32
from trtenv.engine.protobuf import Malformed, Reader
from trtenv.errors import UsageError
from trtenv.spec.shapes import ONLY_INPUT, InputInfo, Shapes, check_shapes, reads_as_values

BLOCKED: Final = "blocked"
RISKY: Final = "risky"
NOTE: Final = "note"

FLOAT64: Final = 11
# What exporters write for "to the end" in a Slice; the parser clamps it, and nothing changes.
_ENDS: Final = frozenset({2**63 - 1, 2**63 - 2, -(2**63), -(2**63) + 1, 2**31})
_DLA_SHAPES: Final = (
    "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-dla.html"
)


class Finding(NamedTuple):
    """One thing that is known of this model and this TensorRT. `nodes`: names, or what is as good."""

    rule: str
    verdict: str
    message: str
    nodes: tuple[str, ...] = ()
    hint: str | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "nodes": list(self.nodes)}


class Target(NamedTuple):
    flavour: str
    version: str
    profiles: tuple[Shapes, ...] = ()
    dla: bool = False
    gpu_fallback: bool = False
    plugins: bool = False

    def __str__(self) -> str:
        return f"{PRODUCTS[self.flavour]} {self.version}"

    @property
    def asked(self) -> str:
        """As --trt takes it."""
        return (RTX_PREFIX if self.flavour == "tensorrt-rtx" else "") + self.version


class Model(NamedTuple):
    """`unread` says why the graph could not be walked, where that is so."""

    onnx: OnnxFile
    graph: Graph
    reader: Reader
    size: int
    unread: str


def inputs_of(model: Model) -> list[InputInfo]:
    return [InputInfo(entry.name, entry.type, _sizes(entry)) for entry in model.onnx.inputs]


def _sizes(entry: TensorInfo) -> tuple[int | None, ...] | None:
    """A named dimension is dynamic, and so is a negative one of old exporters."""
    if entry.dims is None:
        return None
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in entry.dims)


def release(_: Model, target: Target) -> Iterator[Finding]:
    if note := release_note(target.flavour, target.version):
        yield Finding("release", NOTE, note)


def opset(model: Model, target: Target) -> Iterator[Finding]:
    found = model.onnx.opsets.get("ai.onnx")
    if found is None:
        yield Finding("opset", RISKY, "the model imports no opset of ai.onnx")
        return
    limit = opset_range(target.flavour, target.version)
    if limit is None:
        yield Finding("opset", NOTE, f"which opsets {target} takes is not known")
        return
    sure = "documents" if limit.sure else "is thought to take"
    if found > limit.max:
        hint = f"export with --opset {limit.max}, or choose a newer TensorRT"
        text = f"opset {found}: {target} {sure} up to {limit.max}"
        yield Finding("opset", RISKY, text, (), hint, limit.source)
    elif limit.min and found < limit.min:
        text = f"opset {found}: {target} {sure} {limit.min} and later"
        yield Finding("opset", RISKY, text, (), "export with a newer opset", limit.source)


def whole(model: Model, _: Target) -> Iterator[Finding]:
    if model.size > MOST_PROTOBUF:
        text = f"the file has {model.size:,} bytes, and no ONNX parser loads 2 GiB or more"
        yield Finding("size", BLOCKED, text, (), "save it with external data")
    if model.unread:
        text = f"the graph was not looked at: {model.unread}"
        yield Finding("graph", RISKY, text)
    elif not model.graph.nodes:
        yield Finding("graph", RISKY, "the graph has no nodes: there is nothing to build")
    if any("graphs, where" in text for text in model.onnx.findings):
        yield Finding("graph", RISKY, "the file has more than one graph; a parser merges them")
    if model.onnx.ir_version < 3:
        text = f"IR version {model.onnx.ir_version}; opsets are imported from version 3 on"
        yield Finding("ir-version", RISKY, text, (), "export the model again")


def external(model: Model, _: Target) -> Iterator[Finding]:
    for item in model.onnx.external:
        if item.state != "present":
            hint = "keep a model and its weights together, as they were exported"
            text = f"external data `{item.location}`, of {item.tensors} tensors, is {item.state}"
            yield Finding("external-data", BLOCKED, text, (), hint)


def types(model: Model, target: Target) -> Iterator[Finding]:
    for word, tensors in (("input", model.onnx.inputs), ("output", model.onnx.outputs)):
        for entry in tensors:
            fact = feature(target.flavour, target.version, "type", entry.type)
            if fact is None:
                if target.flavour == "tensorrt" and entry.type != "unknown":
                    text = f"{word} `{entry.name}` is {entry.type}, of which nothing is known"
                    yield Finding(f"{word}-type", NOTE, text)
            elif fact.how == "refused":
                verdict = BLOCKED if fact.sure and word == "input" else RISKY
                text = f"{word} `{entry.name}` is {entry.type}, which {target}'s parser refuses"
                hint = "cast it inside the model, and export again"
                yield Finding(f"{word}-type", verdict, text, (), hint, fact.source)
            elif fact.how != "native":
                text = f"{word} `{entry.name}` is {entry.type}: it becomes {fact.how} in the engine"
                yield Finding(f"{word}-type", NOTE, text, (), None, fact.source)


def weights(model: Model, target: Target) -> Iterator[Finding]:
    """64-bit weights, where this parser makes 32 bits of them."""
    double = feature(target.flavour, target.version, "type", "float64")
    names = tuple(item.name for item in model.graph.tensors if item.type == FLOAT64)
    if names and double and double.how != "native":
        refused = double.how == "refused"
        text = f"{len(names)} float64 tensors: " + (
            f"{target} has no float64" if refused else f"the parser makes {double.how} of them"
        )
        verdict = RISKY if refused else NOTE
        yield Finding("float64-weights", verdict, text, names, None, double.source)
    long = feature(target.flavour, target.version, "type", "int64")
    if not long or long.how == "native":
        return
    beyond, unread = [], []
    for item in model.graph.tensors:
        if item.type == INT64:
            try:
                values = beyond_int32(model.reader, item)
            except Malformed:
                values = None
            if values is None:
                unread.append(item.name)
            elif not _ENDS.issuperset(values):
                beyond.append(item.name)
    if beyond:
        text = f"{len(beyond)} int64 tensors hold values beyond int32, and the parser clamps them"
        hint = "keep such values out of the model, or choose TensorRT 9 or later"
        yield Finding("int64-weights", RISKY, text, tuple(beyond), hint, long.source)
    if unread:
        text = f"{len(unread)} int64 tensors were not looked into; the parser clamps them to int32"
        yield Finding("int64-weights", NOTE, text, tuple(unread), None, long.source)


def shapes(model: Model, target: Target) -> Iterator[Finding]:
    inputs = inputs_of(model)
    for number, profile in enumerate(target.profiles or ({},)):
        where = f"profile {number}: " if len(target.profiles) > 1 else ""
        for error in _wrong_shapes(profile, inputs):
            yield Finding("shapes", BLOCKED, where + error.message, (), error.hint)
        for given, wanted in profile.items():
            name = given or (inputs[0].name if inputs else "")
            if any(entry.name == name and reads_as_values(entry, wanted) for entry in inputs):
                continue
            if 0 in (*wanted.opt, *wanted.max):
                text = f"{where}the shape {wanted} of `{name}` is that of an empty tensor"
                yield Finding("empty-tensor", RISKY, text, (), "give a size of 1 or more")
            if target.dla and wanted.dynamic:
                text = f"{where}`{name}` has a range of shapes ({wanted}), which no DLA takes"
                yield Finding("dla", RISKY, text, (), "give one fixed shape", _DLA_SHAPES)
    for entry in inputs:
        if entry.dims is None:
            fact = feature(target.flavour, target.version, "unknown rank")
            read = "; the parser takes it for a scalar" if fact else ""
            text = f"input `{entry.name}` has no known rank{read}"
            source = fact.source if fact else None
            yield Finding("unknown-rank", RISKY, text, (), "export it with its rank", source)
        elif 0 in entry.dims:
            text = f"input `{entry.name}` has a dimension of size 0"
            yield Finding("empty-tensor", RISKY, text, (), "export with a real example input")


def _wrong_shapes(profile: Shapes, inputs: list[InputInfo]) -> Iterator[UsageError]:
    """Each input by itself, so that one mistake does not hide the next."""
    known = {entry.name for entry in inputs}
    strangers = [{name: wanted} for name, wanted in profile.items() if name not in known]
    parts: list[tuple[Shapes, list[InputInfo]]] = [(profile, inputs)]
    if ONLY_INPUT not in profile:
        parts = [
            ({name: profile[name]} if (name := entry.name) in profile else {}, [entry])
            for entry in inputs
        ]
        parts += [(stranger, inputs) for stranger in strangers]
    for part, of in parts:
        try:
            check_shapes(part, of)
        except UsageError as error:
            yield error


FILE_RULES: Final[tuple[Callable[[Model, Target], Iterator[Finding]], ...]] = (
    release,
    whole,
    opset,
    external,
    types,
    weights,
    shapes,
)
