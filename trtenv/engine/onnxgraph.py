"""Reads the graph of an ONNX file: its nodes and tensors, those of subgraphs and functions too.

Beside onnxfile.py, which is all that most commands need. Weights are stepped over here as well; only
tensors of 64-bit integers and zero points are looked into, and only up to a limit. Field numbers:
onnx/onnx, onnx.proto.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from sys import byteorder
from typing import Final, NamedTuple

from trtenv.engine.protobuf import BYTES, VARINT, Field, Malformed, Reader, Source

__all__ = ["Graph", "Node", "Tensor", "beyond_int32", "is_zero", "read_graph"]

# TensorProto.DataType of onnx 1.23, by number.
INT64: Final = 7
# Attributes that may hold graphs or tensors that matter here; others are stepped over.
_CONSTANT: Final = "Constant"
_QUANTIZED: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_WITH_GRAPHS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
# A large attribute of any other node is opened too: custom operators nest graphs as well.
_LARGE_ATTRIBUTE: Final = 256
_DEEPEST_GRAPH: Final = 16
_MOST_VALUES: Final = 1 << 20
_LEAST: Final = -(1 << 31)
_MOST: Final = (1 << 31) - 1


class Node(NamedTuple):
    """`output`, its first one's name, is read of a Constant and of a node without a name,
    `zero_point` of a Q/DQ node. `scope`: the function it is in, and the operators of its subgraphs.
    """

    op: str
    domain: str
    name: str
    output: str
    zero_point: str
    scope: str

    @property
    def label(self) -> str:
        """Its name, or what identifies a node without one."""
        name = self.name or (f"-> {self.output}" if self.output else "(no name)")
        return f"{self.scope}/{name}" if self.scope else name


class Tensor(NamedTuple):
    """An initializer, or a Constant's value. `data` are the fields of its values, unread."""

    name: str
    type: int
    dims: tuple[int, ...]
    external: bool
    data: tuple[Field, ...]


@dataclass(slots=True)
class Graph:
    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    # (domain, name) of the model's own functions.
    functions: set[tuple[str, str]] = field(default_factory=set)
    domains: dict[str, int] = field(default_factory=dict)


def read_graph(source: Source) -> tuple[Graph, Reader]:
    """Malformed for damaged bytes. The reader is for beyond_int32 and is_zero."""
    reader, graph = Reader(source), Graph()
    for part in reader.fields(0, source.size):
        if part.number == 7:
            _graph(reader, part, graph, "", 0)
        elif part.number == 25:
            _function(reader, part, graph)
        elif part.number == 8:
            _opset(reader, part, graph)
    return graph, reader


def _opset(reader: Reader, part: Field, graph: Graph) -> None:
    domain, version = "", 0
    for item in reader.of(part):
        if item.number == 1:
            domain = reader.text(item)
        elif item.number == 2:
            version = item.signed
    graph.domains[domain] = version


def _function(reader: Reader, part: Field, graph: Graph) -> None:
    name, domain, nodes = "", "", []
    for item in reader.of(part):
        if item.number == 1:
            name = reader.text(item)
        elif item.number == 7:
            nodes.append(item)
        elif item.number == 10:
            domain = reader.text(item)
    graph.functions.add((domain, name))
    for node in nodes:
        _node(reader, node, graph, name, 0)


def _graph(reader: Reader, part: Field, graph: Graph, scope: str, depth: int) -> None:
    if depth > _DEEPEST_GRAPH:
        raise Malformed(f"graphs nested deeper than {_DEEPEST_GRAPH}")
    for item in reader.of(part):
        if item.number == 1:
            _node(reader, item, graph, scope, depth)
        elif item.number == 5:
            graph.tensors.append(_tensor(reader, item))


def _node(reader: Reader, part: Field, graph: Graph, scope: str, depth: int) -> None:
    op, domain, name = "", "", ""
    inputs, outputs, attributes = [], [], []
    for item in reader.of(part):
        match item.number:
            case 1:
                inputs.append(item)
            case 2:
                outputs.append(item)
            case 3:
                name = reader.text(item)
            case 4:
                op = reader.text(item)
            case 5:
                attributes.append(item)
            case 7:
                domain = reader.text(item)
            case _:
                pass
    # Names of tensors are most of a large graph's text: only those that are asked for are read.
    zero_point = reader.text(inputs[2]) if op in _QUANTIZED and len(inputs) > 2 else ""
    output = reader.text(outputs[0]) if outputs and (op == _CONSTANT or not name) else ""
    node = Node(op, domain, name, output, zero_point, scope)
    graph.nodes.append(node)
    inner = f"{scope}/{op}" if scope else op
    for attribute in attributes:
        large = attribute.end - attribute.start > _LARGE_ATTRIBUTE
        if op == _CONSTANT or op in _WITH_GRAPHS or large:
            _attribute(reader, attribute, graph, node, inner, depth)


def _attribute(
    reader: Reader, part: Field, graph: Graph, node: Node, scope: str, depth: int
) -> None:
    for item in reader.of(part):
        match item.number:
            case 5:  # t
                tensor = _tensor(reader, item)
                name = node.output if node.op == _CONSTANT else tensor.name
                graph.tensors.append(tensor._replace(name=name))
            case 6 | 11:  # g, graphs
                _graph(reader, item, graph, scope, depth + 1)
            case 3 | 8 if node.op == _CONSTANT and node.output:  # i, ints: value_int, value_ints
                graph.tensors.append(Tensor(node.output, INT64, (), False, (item,)))
            case _:
                pass


def _tensor(reader: Reader, part: Field) -> Tensor:
    name, kind, external = "", 0, False
    dims: list[int] = []
    data = []
    for item in reader.of(part):
        match item.number:
            case 1:
                dims += _integers(reader, item)
            case 2:
                kind = item.value
            case 4 | 5 | 6 | 7 | 9 | 10 | 11:
                data.append(item)
            case 8:
                name = reader.text(item)
            case 14:
                external = item.value == 1
            case _:
                pass
    return Tensor(name, kind, tuple(dims), external, tuple(data))


def beyond_int32(reader: Reader, tensor: Tensor) -> list[int] | None:
    """Which of a tensor's 64-bit integers are; None where they are too many, or in another file."""
    if tensor.external or sum(item.end - item.start for item in tensor.data) > _MOST_VALUES:
        return None
    found: list[int] = []
    for item in tensor.data:
        values = _raw_int64(reader, item) if item.number == 9 else list(_integers(reader, item))
        if values and not _LEAST <= min(values) <= max(values) <= _MOST:
            found += [value for value in values if not _LEAST <= value <= _MOST]
    return found


def _raw_int64(reader: Reader, item: Field) -> array[int]:
    raw = reader.raw(item, _MOST_VALUES)
    values = array("q", raw[: len(raw) // 8 * 8])
    if byteorder == "big":  # raw_data is little-endian
        values.byteswap()
    return values


def is_zero(reader: Reader, tensor: Tensor) -> bool | None:
    """Whether all its values are zero; None where that is not known."""
    if tensor.external or sum(item.end - item.start for item in tensor.data) > _MOST_VALUES:
        return None
    for item in tensor.data:
        if item.wire == BYTES:
            # A zero is a zero byte in raw_data and in packed integers alike.
            if reader.raw(item, _MOST_VALUES).strip(b"\0"):
                return False
        elif item.value:
            return False
    return True


def _integers(reader: Reader, item: Field) -> Iterator[int]:
    """Of a repeated integer field: packed, as proto3 writes it, or one at a time, as proto2 does."""
    if item.wire == VARINT:
        yield item.signed
        return
    value = shift = 0
    for byte in reader.raw(item, _MOST_VALUES):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            value &= 0xFFFFFFFFFFFFFFFF
            yield value - (1 << 64) if value >> 63 else value
            value = shift = 0
        elif shift > 63:
            raise Malformed(f"byte {item.start}: a number of more than ten bytes")
