"""Reads what an ONNX file says about itself: opsets, inputs, outputs, where its weights are.

The file is walked, not parsed: weights are stepped over unread and external data is never opened, so
a model of many gigabytes costs a few kilobytes per tensor. Field numbers: onnx/onnx, onnx.proto.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from trtenv.engine.protobuf import BYTES, VARINT, Field, Malformed, Reader, Source
from trtenv.engine.source import state_of_named
from trtenv.errors import ArtifactError

Dim = int | str | None

# ModelProto: what may stand at the top of a file, with its wire type. Anything else is no ONNX.
_MODEL: Final = {
    1: VARINT,  # ir_version
    2: BYTES,  # producer_name
    3: BYTES,  # producer_version
    4: BYTES,  # domain
    5: VARINT,  # model_version
    6: BYTES,  # doc_string
    7: BYTES,  # graph
    8: BYTES,  # opset_import
    14: BYTES,  # metadata_props
    20: BYTES,  # training_info
    25: BYTES,  # functions
    26: BYTES,  # configuration
}
# TensorProto.DataType of onnx 1.23, by number.
_TYPES: Final = (
    "undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string",
    "bool", "float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16",
    "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "uint4", "int4",
    "float4e2m1", "float8e8m0", "uint2", "int2", "float6e2m3", "float6e3m2",
)  # fmt: skip
_CONTAINERS: Final = {4: "sequence", 5: "map", 7: "opaque", 8: "sparse tensor", 9: "optional"}
# TensorProto fields that hold values: float, int32, string, int64, raw, double and uint64 data.
_DATA: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
_EP_CONTEXT: Final = b"EPContext"
_LOCATION: Final = b"location"
# A node below this size is searched for the two words; a larger one holds tensors and is walked.
_SMALL_NODE: Final = 65_536
_DEEPEST_GRAPH: Final = 16
_MOST_IR: Final = 99
# Protobuf's own limit for one message, which every ONNX parser meets.
MOST_PROTOBUF: Final = (1 << 31) - 1


class TensorInfo(NamedTuple):
    """An input or output. A dim is a number, a name, or None; `dims` is None for an unknown rank."""

    name: str
    type: str
    dims: tuple[Dim, ...] | None


class ExternalFile(NamedTuple):
    """A file of weights that the model names; `state` is `present` or says what is wrong."""

    location: str
    tensors: int
    needed_bytes: int
    state: str


class EpContext(NamedTuple):
    """A compiled engine that ONNX Runtime keeps in a node: inside the file, or in `cache_file`."""

    source: str
    embedded: bool
    offset: int | None
    length: int | None
    cache_file: str | None
    hardware_architecture: str | None
    sdk_version: str | None


class OnnxFile(NamedTuple):
    ir_version: int
    opsets: dict[str, int]
    producer: str
    graph: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    node_count: int
    initializer_count: int
    initializer_bytes: int
    external: tuple[ExternalFile, ...]
    ep_contexts: tuple[EpContext, ...]
    metadata: dict[str, str]
    findings: tuple[str, ...]


class NotOnnx(ValueError):
    """The bytes are something else."""


class _Found:
    """What the walk has met so far; counts are of the main graph, external data of all graphs."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.opsets: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.graphs = 0
        self.name = ""
        self.inputs: list[TensorInfo] = []
        self.outputs: list[TensorInfo] = []
        self.nodes = 0
        self.initializers: set[str] = set()
        self.initializer_count = 0
        self.initializer_bytes = 0
        self.external: dict[str, tuple[int, int]] = {}
        self.contexts: list[EpContext] = []


def read_onnx(source: Source, folder: Path) -> OnnxFile:
    """NotOnnx for anything else; ArtifactError for a model that is cut short or damaged."""
    reader, found = Reader(source), _Found()
    try:
        for part in reader.fields(0, source.size):
            if _MODEL.get(part.number) != part.wire:
                raise NotOnnx(f"field {part.number}")
            _model_part(reader, part, found)
    except Malformed as error:
        # A file cut short breaks off in the graph, which is nearly all of it.
        in_graph = found.graphs or error.number == 7
        if not (in_graph and 0 < found.numbers.get(1, 0) <= _MOST_IR):
            raise NotOnnx(str(error)) from error
        state = f"cut short by {error.missing} bytes or more" if error.missing else "damaged"
        raise ArtifactError(
            f"an ONNX model that is {state} ({error})",
            hint="copy the file again, or export the model again",
        ) from error
    if not (found.graphs and found.opsets):
        raise NotOnnx("no graph or no opset")
    return _facts(found, source.size, folder)


def _model_part(reader: Reader, part: Field, found: _Found) -> None:
    match part.number:
        case 1 | 5:
            found.numbers[part.number] = part.signed
        case 2 | 3:
            found.texts[part.number] = reader.text(part)
        case 7:
            found.graphs += 1
            _graph(reader, part, found, 0)
        case 8:
            domain, version = "", 0
            for item in reader.of(part):
                if item.number == 1:
                    domain = reader.text(item)
                elif item.number == 2:
                    version = item.signed
            found.opsets[domain or "ai.onnx"] = version
        case 14:
            key, value = _pair(reader, part)
            found.metadata[key] = value
        case _:
            pass


def _graph(reader: Reader, part: Field, found: _Found, depth: int) -> None:
    if depth > _DEEPEST_GRAPH:
        raise Malformed(f"graphs nested deeper than {_DEEPEST_GRAPH}")
    for item in reader.of(part):
        match item.number:
            case 1:
                found.nodes += depth == 0
                if reader.scan(item, (_EP_CONTEXT, _LOCATION), _SMALL_NODE):
                    _node(reader, item, found, depth)
            case 2 if depth == 0:
                found.name = reader.text(item)
            case 5:
                name, size = _tensor(reader, item, found)
                if depth == 0:
                    found.initializer_count += 1
                    found.initializer_bytes += size
                    found.initializers.add(name)
            case 11 if depth == 0:
                found.inputs.append(_value_info(reader, item))
            case 12 if depth == 0:
                found.outputs.append(_value_info(reader, item))
            case _:
                pass


def _node(reader: Reader, part: Field, found: _Found, depth: int) -> None:
    """Only nodes that may hold an engine, external data or much else come here."""
    operator, attributes = "", []
    for item in reader.of(part):
        if item.number == 4:
            operator = reader.text(item)
        elif item.number == 5:
            attributes.append(item)
    if operator == _EP_CONTEXT.decode():
        found.contexts.append(_ep_context(reader, attributes))
        return
    for attribute in attributes:
        for item in reader.of(attribute):
            if item.number in {5, 10}:  # t, tensors
                _tensor(reader, item, found)
            elif item.number in {6, 11}:  # g, graphs
                _graph(reader, item, found, depth + 1)


def _ep_context(reader: Reader, attributes: list[Field]) -> EpContext:
    """ONNX Runtime, core/providers/tensorrt/onnx_ctx_model_helper.h: embed_mode 1 embeds it."""
    values: dict[str, Field] = {}
    for attribute in attributes:
        name, value = "", None
        for item in reader.of(attribute):
            if item.number == 1:
                name = reader.text(item)
            elif item.number in {3, 4}:  # i, s
                value = item
        if value is not None:
            values[name] = value

    def text(name: str) -> str | None:
        value = values.get(name)
        return reader.text(value) if value is not None and value.wire == BYTES else None

    mode, context = values.get("embed_mode"), values.get("ep_cache_context")
    # The operator's own default is 1.
    embedded = context is not None and context.wire == BYTES and (mode is None or mode.value == 1)
    return EpContext(
        source=text("source") or "",
        embedded=embedded,
        offset=context.start if context and embedded else None,
        length=context.end - context.start if context and embedded else None,
        cache_file=None if embedded else text("ep_cache_context"),
        hardware_architecture=text("hardware_architecture"),
        sdk_version=text("ep_sdk_version"),
    )


def _tensor(reader: Reader, part: Field, found: _Found) -> tuple[str, int]:
    name, external, size = "", False, 0
    entries: dict[str, str] = {}
    for item in reader.of(part):
        if item.number == 8:
            name = reader.text(item)
        elif item.number in _DATA:
            size += item.end - item.start
        elif item.number == 13:
            key, value = _pair(reader, item)
            entries[key] = value
        elif item.number == 14:
            external = item.value == 1
    if external:
        location = entries.get("location", "")
        tensors, needed = found.external.get(location, (0, 0))
        end = _whole_number(entries.get("offset")) + _whole_number(entries.get("length"))
        found.external[location] = (tensors + 1, max(needed, end))
    return name, size


def _value_info(reader: Reader, part: Field) -> TensorInfo:
    name, kind = "", "unknown"
    dims: tuple[Dim, ...] | None = None
    for item in reader.of(part):
        if item.number == 1:
            name = reader.text(item)
        elif item.number == 2:
            for choice in reader.of(item):
                if choice.number == 1:
                    kind, dims = _tensor_type(reader, choice)
                elif choice.number in _CONTAINERS:
                    kind = _CONTAINERS[choice.number]
    return TensorInfo(name, kind, dims)


def _tensor_type(reader: Reader, part: Field) -> tuple[str, tuple[Dim, ...] | None]:
    number = 0
    dims: list[Dim] | None = None
    for item in reader.of(part):
        if item.number == 1:
            number = item.value
        elif item.number == 2:
            dims = []
            for dim in reader.of(item):
                size: Dim = None
                for choice in reader.of(dim):
                    if choice.number == 1:
                        size = choice.signed
                    elif choice.number == 2:
                        size = reader.text(choice) or None
                dims.append(size)
    kind = _TYPES[number] if number < len(_TYPES) else f"type {number}"
    return kind, None if dims is None else tuple(dims)


def _pair(reader: Reader, part: Field) -> tuple[str, str]:
    """StringStringEntryProto."""
    texts = {item.number: reader.text(item) for item in reader.of(part) if item.wire == BYTES}
    return texts.get(1, ""), texts.get(2, "")


def _whole_number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else 0


def _facts(found: _Found, size: int, folder: Path) -> OnnxFile:
    external = tuple(
        ExternalFile(location, tensors, needed, state_of_named(folder, location, needed))
        for location, (tensors, needed) in sorted(found.external.items())
    )
    findings = [
        f"external data `{item.location}` is {item.state}"
        for item in external
        if item.state != "present"
    ]
    if size > MOST_PROTOBUF:
        findings.append("larger than 2 GiB: no ONNX parser loads it, its weights must be external")
    if found.graphs > 1:
        findings.append(f"{found.graphs} graphs, where a model has one")
    return OnnxFile(
        ir_version=found.numbers.get(1, 0),
        opsets=found.opsets,
        producer=f"{found.texts.get(2, '')} {found.texts.get(3, '')}".strip(),
        graph=found.name,
        # Up to IR version 3 every initializer is listed as an input too.
        inputs=tuple(item for item in found.inputs if item.name not in found.initializers),
        outputs=tuple(found.outputs),
        node_count=found.nodes,
        initializer_count=found.initializer_count,
        initializer_bytes=found.initializer_bytes,
        external=external,
        ep_contexts=tuple(found.contexts),
        metadata=found.metadata,
        findings=tuple(findings),
    )
