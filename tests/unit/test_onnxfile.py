from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtenv.engine.onnxfile import ExternalFile, NotOnnx, OnnxFile, TensorInfo, read_onnx
from trtenv.errors import ArtifactError


class Memory:
    """A source that counts what is taken; `holes` stand for bytes that nobody should read."""

    def __init__(self, data: bytes, *, hole: tuple[int, int] = (0, 0)) -> None:
        self.data, self.hole = data, hole
        self.size = len(data) + hole[1]
        self.taken = 0

    def read_at(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        self.taken += length
        at, gap = self.hole
        before = self.data[offset : min(at, offset + length)] if offset < at else b""
        zeros = max(0, min(offset + length, at + gap) - max(offset, at))
        start = max(offset - gap, at)
        return before + bytes(zeros) + self.data[start : start + length - len(before) - zeros]


def value(name: str, shape: list[int | str | None] | None, kind: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, kind, shape)


def model(**changes: object) -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [value("x", ["batch", 3])],
        [value("y", ["batch", 4])],
        [weights],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
        producer_name="pytorch",
        producer_version="2.1.0",
    )
    for name, item in changes.items():
        setattr(made, name, item)
    return made


def read(made: onnx.ModelProto, folder: Path = Path()) -> OnnxFile:
    return read_onnx(Memory(made.SerializeToString()), folder)


def test_a_model_says_what_it_is() -> None:
    made = model()
    helper.set_model_props(made, {"trtenv.source": "coins", "other": "ü"})
    facts = read(made)
    assert facts.ir_version == 8
    assert facts.opsets == {"ai.onnx": 17, "com.microsoft": 1}
    assert (facts.producer, facts.graph) == ("pytorch 2.1.0", "small")
    assert facts.inputs == (TensorInfo("x", "float32", ("batch", 3)),)
    assert facts.outputs == (TensorInfo("y", "float32", ("batch", 4)),)
    assert (facts.node_count, facts.initializer_count, facts.initializer_bytes) == (1, 1, 48)
    assert facts.metadata == {"trtenv.source": "coins", "other": "ü"}
    assert facts.findings == ()


def test_every_tensor_type_is_named() -> None:
    made = model()
    del made.graph.input[:]
    numbers = [number for number in TensorProto.DataType.values() if number]
    made.graph.input.extend(value(f"x{number}", [None, -1], number) for number in numbers)
    kinds = {item.name: item.type for item in read(made).inputs}
    assert len(set(kinds.values())) == len(numbers)
    names = {number: name.lower() for name, number in TensorProto.DataType.items()}
    names |= {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
    assert kinds == {f"x{number}": names[number] for number in numbers}


def test_dims_are_numbers_names_or_unknown() -> None:
    made = model()
    del made.graph.input[:]
    made.graph.input.extend([value("a", ["N", None, 3, -1, 0]), value("b", None), value("c", [])])
    dims = {item.name: item.dims for item in read(made).inputs}
    assert dims == {"a": ("N", None, 3, -1, 0), "b": None, "c": ()}


def test_sequences_and_optionals_are_named() -> None:
    made = model()
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    for name, kind in (
        ("s", helper.make_sequence_type_proto(tensor)),
        ("o", helper.make_optional_type_proto(tensor)),
        ("m", helper.make_map_type_proto(TensorProto.INT64, tensor)),
    ):
        made.graph.output.append(helper.make_value_info(name, kind))
    assert [item.type for item in read(made).outputs] == ["float32", "sequence", "optional", "map"]


def test_an_initializer_that_is_listed_as_input_is_none() -> None:
    made = model(ir_version=3)
    made.graph.input.append(value("w", [3, 4]))
    assert [item.name for item in read(made).inputs] == ["x"]


def test_a_tensor_in_a_node_hides_no_input() -> None:
    made = model()
    constant = numpy_helper.from_array(np.zeros(40_000, np.float32), "x")
    made.graph.node.append(helper.make_node("Constant", [], ["c"], value=constant))
    assert [item.name for item in read(made).inputs] == ["x"]
    assert read(made).node_count == 2


def external(location: str, **entries: int) -> onnx.ModelProto:
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, item in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(item))
    return made


@pytest.mark.parametrize(
    ("size", "state"), [(148, "present"), (200, "present"), (100, "short by 48 bytes")]
)
def test_external_data_is_measured_and_not_read(tmp_path: Path, size: int, state: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(size))
    (tmp_path / "w.bin").chmod(0)
    facts = read(external("w.bin", offset=100, length=48), tmp_path)
    assert facts.external == (ExternalFile("w.bin", 1, 148, state),)
    assert facts.initializer_bytes == 0


@pytest.mark.parametrize(
    ("location", "state"),
    [
        ("gone.bin", "missing"),
        ("../w.bin", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("", "outside the model's folder"),
        ("link.bin", "a link that leaves the model's folder"),
        ("loop.bin", "missing"),
        ("a\0b", "missing"),
        ("x" * 5000, "missing"),
        ("folder", "missing"),
    ],
)
def test_external_data_that_is_not_there_is_a_finding(
    tmp_path: Path, location: str, state: str
) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(bytes(48))
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    facts = read(external(location, length=48), folder)
    assert [item.state for item in facts.external] == [state]
    assert facts.findings == (f"external data `{location}` is {state}",)


def test_external_data_in_a_branch_is_found(tmp_path: Path) -> None:
    inner = external("branch.bin", length=48).graph
    node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=model().graph)
    made = model()
    made.graph.node.append(node)
    assert [item.location for item in read(made, tmp_path).external] == ["branch.bin"]


def test_ep_context_with_an_engine_inside_says_where() -> None:
    made = model()
    engine = b"ftrt" + bytes(100_000)
    node = helper.make_node(
        "EPContext",
        ["x"],
        ["y"],
        domain="com.microsoft",
        embed_mode=1,
        ep_cache_context=engine,
        hardware_architecture="90",
        source="TensorrtExecutionProvider",
    )
    made.graph.node.append(node)
    (context,) = read(made).ep_contexts
    assert context.embedded
    assert context.offset is not None
    assert context.length == len(engine)
    assert made.SerializeToString()[context.offset :].startswith(engine)
    assert (context.source, context.hardware_architecture) == ("TensorrtExecutionProvider", "90")


def test_ep_context_with_an_engine_beside_names_the_file() -> None:
    made = model()
    made.graph.node.append(
        helper.make_node("EPContext", ["x"], ["y"], embed_mode=0, ep_cache_context="m.engine")
    )
    (context,) = read(made).ep_contexts
    assert (context.embedded, context.cache_file, context.offset) == (False, "m.engine", None)


def length_first(number: int, length: int) -> bytes:
    head = bytes([number << 3 | 2])
    while length > 0x7F:
        head += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + bytes([length])


def test_weights_of_three_gigabytes_are_stepped_over() -> None:
    gap = 3 << 30
    name = b"\x42\x01w"
    tensor = len(name) + len(length_first(9, gap)) + gap
    graph = len(length_first(5, tensor)) + tensor
    head = b"\x08\x08" + length_first(7, graph) + length_first(5, tensor) + name
    head += length_first(9, gap)
    source = Memory(head + b"\x42\x02\x10\x11", hole=(len(head), gap))
    facts = read_onnx(source, Path())
    assert (facts.initializer_bytes, facts.opsets) == (gap, {"ai.onnx": 17})
    assert source.taken < 20_000
    assert facts.findings == (
        "larger than 2 GiB: no ONNX parser loads it, its weights must be external",
    )


def test_a_thousand_tensors_cost_a_block_each() -> None:
    made = model()
    for number in range(1000):
        made.graph.initializer.append(
            numpy_helper.from_array(np.zeros(2500, np.float32), f"w{number}")
        )
    source = Memory(made.SerializeToString())
    assert read_onnx(source, Path()).initializer_count == 1001
    assert source.taken < 1002 * 4096 + 10_000


def test_a_model_cut_short_says_how_much_is_missing() -> None:
    made = model()
    made.graph.initializer[0].raw_data = bytes(10_000)
    made.ClearField("opset_import")  # so that the graph comes last
    data = made.SerializeToString()
    with pytest.raises(ArtifactError, match="cut short by 5000 bytes or more"):
        read_onnx(Memory(data[:-5000]), Path())


def test_a_model_cut_anywhere_is_refused() -> None:
    made = model()
    del made.opset_import[1]
    data = made.SerializeToString()
    for length in range(len(data)):
        with pytest.raises((ArtifactError, NotOnnx)):
            read_onnx(Memory(data[:length]), Path())


def test_deep_graphs_are_refused() -> None:
    graph = model().graph
    for _ in range(20):
        outer = model().graph
        outer.node.append(helper.make_node("Loop", [], ["z"], body=graph, pad=bytes(70_000)))
        graph = outer
    made = model()
    made.graph.CopyFrom(graph)
    with pytest.raises(ArtifactError, match="nested deeper"):
        read(made)


def test_endless_empty_fields_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtenv.engine.protobuf._MOST_FIELDS", 1000)
    body = length_first(5, 0) * 2000
    with pytest.raises(ArtifactError, match="more than 1000 fields"):
        read_onnx(Memory(b"\x08\x08" + length_first(7, len(body)) + body), Path())


def test_endless_text_is_refused() -> None:
    made = model()
    for _ in range(3):
        made.metadata_props.add(key="k", value="v" * (8 << 20))
    with pytest.raises(ArtifactError, match="bytes of names and text"):
        read(made)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x08\x08", b"\x08\x08\x3a\x20\x0a\x10"]))
def test_arbitrary_bytes_are_read_or_refused(data: bytes, start: bytes) -> None:
    with contextlib.suppress(ArtifactError, NotOnnx):
        read_onnx(Memory(start + data), Path("/nowhere"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated_models_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(model().SerializeToString())
    for offset, item in changes:
        data[offset % len(data)] = item
    with contextlib.suppress(ArtifactError, NotOnnx):
        read_onnx(Memory(bytes(data)), Path("/nowhere"))
