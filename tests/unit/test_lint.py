"""Models with one thing wrong each, and what lint says of them for each TensorRT."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtenv.dialect.versions import DATA
from trtenv.errors import ArtifactError, ModelRefused
from trtenv.pipeline.lint import (
    BLOCKED,
    FINE,
    NOTE,
    RISKY,
    Report,
    lint,
    plugins_given,
    raise_if_blocked,
)
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import OPTIONS
from trtenv.spec.shapes import parse_shapes

RELEASES = [
    (row["flavour"], row["release"])
    for row in csv.DictReader((DATA / "operators_releases.csv").read_text().splitlines())
]
Node = onnx.NodeProto
node = helper.make_node


def value(name: str, dims: Any = (1, 3, 8, 8), kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    *nodes: Node,
    weights: tuple[onnx.TensorProto, ...] = (),
    inputs: tuple[Any, ...] = (),
    outputs: tuple[Any, ...] = (),
    opset: int = 13,
    domains: tuple[str, ...] = (),
    functions: tuple[Any, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes) or [node("Relu", ["x"], ["y"], name="relu")],
        "g",
        list(inputs) or [value("x")],
        list(outputs) or [value("y", None)],
        list(weights),
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(name, 1) for name in domains]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8)


def look(
    folder: Path, made: onnx.ModelProto, version: str = "8.6.1", *shapes: str, **options: Any
) -> Report:
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    flavour = "tensorrt-rtx" if version.startswith("rtx-") else "tensorrt"
    profiles = [parse_shapes(text) for text in shapes]
    return lint(path, profiles, flavour, version.removeprefix("rtx-"), **options)


def told(report: Report) -> set[tuple[str, str]]:
    return {(item.rule, item.verdict) for item in report.findings}


def floats(name: str, *dims: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(dims, np.float32), name)


def constant(name: str, array: Any) -> Node:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.array(array)))


def quantized(zero: Any) -> onnx.ModelProto:
    scale = numpy_helper.from_array(np.float32(0.1).reshape(()), "s")
    return model(
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dq"),
        weights=(scale, numpy_helper.from_array(np.array(zero), "z")),
    )


def float8() -> onnx.ModelProto:
    made = quantized(np.int8(0))
    made.graph.initializer[1].data_type = TensorProto.FLOAT8E4M3FN
    return made


def branched() -> onnx.ModelProto:
    body = helper.make_graph([node("Det", ["x"], ["d"], name="inner")], "b", [], [value("d", None)])
    condition = numpy_helper.from_array(np.array(True), "c")
    return model(
        node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body),
        weights=(condition,),
    )


def functional() -> onnx.ModelProto:
    body = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 13)],
    )  # fmt: skip
    return model(node("Twice", ["x"], ["y"], domain="mine"), domains=("mine",), functions=(body,))


def sliced(end: int) -> onnx.ModelProto:
    return model(constant("a", [0]), constant("b", [end]), node("Slice", ["x", "a", "b"], ["y"]))


def renamed(kind: int) -> onnx.ModelProto:
    return model(inputs=(value("x", (1, 3), kind),))


def reshaped() -> onnx.ModelProto:
    sizes = value("s", (2,), TensorProto.INT64)
    return model(node("Reshape", ["x", "s"], ["y"]), inputs=(value("x", (1, 3)), sizes))


ZOO: list[tuple[str, Callable[[], onnx.ModelProto], str, str, str | None, dict[str, Any]]] = [
    # what, model, version, rule, verdict (None: no such finding), options
    ("clean", model, "8.6.1", "operator-unsupported", None, {}),
    ("unsupported", lambda: model(node("Det", ["x"], ["y"])), "8.6.1", "operator-unsupported", BLOCKED, {}),
    ("unsupported, may be a plugin", lambda: model(node("Det", ["x"], ["y"])), "8.6.1", "operator-unsupported", RISKY, {"plugins": True}),
    ("unsupported by the nearest table", lambda: model(node("Det", ["x"], ["y"])), "11.4", "operator-unsupported", RISKY, {}),
    ("unsupported by a derived table", lambda: model(node("Det", ["x"], ["y"])), "10.13", "operator-unsupported", RISKY, {}),
    ("newer than the parser", lambda: model(node("LayerNormalization", ["x", "x"], ["y"])), "8.2.1", "operator-unsupported", BLOCKED, {}),
    ("no operator at all", lambda: model(node("Relux", ["x"], ["y"])), "11.1", "operator-unsupported", RISKY, {}),
    ("a plugin in place of an operator", lambda: model(node("ScatterND", ["x", "x", "x"], ["y"])), "8.0.1", "plugin", RISKY, {}),
    ("restricted", lambda: model(node("TopK", ["x", "x"], ["y", "i"])), "8.5.1", "operator-restricted", NOTE, {}),
    ("experimental", lambda: model(node("NonMaxSuppression", ["x", "x"], ["y"])), "8.2.1", "operator-restricted", RISKY, {}),
    ("disputed", lambda: model(node("HardSwish", ["x"], ["y"])), "8.5.1", "operator-disputed", RISKY, {}),
    ("inside a branch", branched, "8.6.1", "operator-unsupported", BLOCKED, {}),
    ("control flow", branched, "8.6.1", "control-flow", NOTE, {}),
    ("custom", lambda: model(node("FusedConv", ["x"], ["y"], domain="com.microsoft")), "8.6.1", "custom-domain", BLOCKED, {}),
    ("custom, of ml", lambda: model(node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")), "8.6.1", "custom-domain", BLOCKED, {}),
    ("custom, not all importers known", lambda: model(node("FusedConv", ["x"], ["y"], domain="c")), "11.1", "custom-domain", RISKY, {}),
    ("custom, by ONNX's name", lambda: model(node("Gelu", ["x"], ["y"], domain="com.microsoft")), "10.1", "custom-domain", RISKY, {}),
    ("NVIDIA's plugin", lambda: model(node("EfficientNMS_TRT", ["x"], ["y"])), "8.6.1", "plugin", RISKY, {}),
    ("NVIDIA's own operator", lambda: model(node("TRT_FP8QuantizeLinear", ["x"], ["y"], domain="trt")), "8.6.1", "operator-disputed", NOTE, {}),
    ("idle domain", lambda: model(domains=("ai.onnx.ml",)), "8.6.1", "idle-domain", NOTE, {}),
    ("function", functional, "8.6.1", "local-function", BLOCKED, {}),
    ("function, read", functional, "9.0", "local-function", None, {}),
    ("opset too new", lambda: model(opset=18), "8.6.1", "opset", RISKY, {}),
    ("opset too old", lambda: model(opset=7), "10.0.1", "opset", RISKY, {}),
    ("opset fits", lambda: model(opset=17), "8.6.1", "opset", None, {}),
    ("dynamic without shapes", lambda: model(inputs=(value("x", ("b", 3)),)), "8.6.1", "shapes", BLOCKED, {}),
    ("no rank", lambda: model(inputs=(value("x", None),)), "8.6.1", "unknown-rank", RISKY, {}),
    ("size 0", lambda: model(inputs=(value("x", (0, 3)),)), "8.6.1", "empty-tensor", RISKY, {}),
    ("int64 input", lambda: renamed(TensorProto.INT64), "8.6.1", "input-type", NOTE, {}),
    ("int64 input, native", lambda: renamed(TensorProto.INT64), "9.0", "input-type", None, {}),
    ("uint8 input", lambda: renamed(TensorProto.UINT8), "8.4.1", "input-type", BLOCKED, {}),
    ("string input", lambda: renamed(TensorProto.STRING), "11.1", "input-type", RISKY, {}),
    ("float64 input", lambda: renamed(TensorProto.DOUBLE), "7.1", "input-type", BLOCKED, {}),
    ("slice to the end", lambda: sliced(2**63 - 1), "8.6.1", "int64-weights", None, {}),
    ("beyond int32", lambda: sliced(2**40), "8.6.1", "int64-weights", RISKY, {}),
    ("beyond int32, as a number", lambda: model(node("Constant", [], ["a"], value_int=-(2**40)), node("Relu", ["x"], ["y"])), "8.6.1", "int64-weights", RISKY, {}),
    ("beyond int32, as numbers", lambda: model(node("Constant", [], ["a"], value_ints=[1, 2**40]), node("Relu", ["x"], ["y"])), "8.6.1", "int64-weights", RISKY, {}),
    ("within int32", lambda: model(node("Constant", [], ["a"], value_ints=[-1, 2**31 - 1]), node("Relu", ["x"], ["y"])), "8.6.1", "int64-weights", None, {}),
    ("beyond int32, native", lambda: sliced(2**40), "9.0", "int64-weights", None, {}),
    ("float64 weights", lambda: model(constant("w", [1.0]), node("Relu", ["w"], ["y"])), "8.6.1", "float64-weights", NOTE, {}),
    ("float64 weights, refused", lambda: model(constant("w", [1.0]), node("Relu", ["w"], ["y"])), "7.1", "float64-weights", RISKY, {}),
    ("symmetric", lambda: quantized(np.int8(0)), "8.6.1", "quantization", None, {}),
    ("asymmetric", lambda: quantized(np.int8(3)), "8.6.1", "quantization", BLOCKED, {}),
    ("asymmetric, not read", lambda: quantized(np.int8(3)), "11.1", "quantization", RISKY, {}),
    ("unsigned", lambda: quantized(np.uint8(0)), "8.6.1", "quantization", RISKY, {}),
    ("FP8", float8, "8.6.1", "quantization", RISKY, {}),
    ("FP8, native", float8, "9.0", "quantization", None, {}),
    ("int16", lambda: quantized(np.int16(0)), "8.6.1", "quantization", RISKY, {}),
    ("names twice", lambda: model(node("Relu", ["x"], ["a"], name="n"), node("Relu", ["a"], ["y"], name="n")), "8.6.1", "node-names", NOTE, {}),
    ("DLA", lambda: model(node("Erf", ["x"], ["y"])), "8.6.2", "dla", RISKY, {"dla": True}),
    ("DLA with fallback", lambda: model(node("Erf", ["x"], ["y"])), "8.6.2", "dla", NOTE, {"dla": True, "gpu_fallback": True}),
    ("DLA takes it", model, "8.6.2", "dla", None, {"dla": True}),
    ("DLA not in the matrix", lambda: model(node("Swish", ["x"], ["y"])), "8.6.2", "dla", NOTE, {"dla": True}),
    ("RTX", lambda: model(node("Det", ["x"], ["y"])), "rtx-1.7", "operator-unsupported", BLOCKED, {}),
    ("RTX before it was asked", lambda: model(node("Det", ["x"], ["y"])), "rtx-1.3", "operator-unknown", NOTE, {}),
    ("RTX, asymmetric", lambda: quantized(np.int8(3)), "rtx-1.7", "quantization", BLOCKED, {}),
    ("RTX, string input", lambda: renamed(TensorProto.STRING), "rtx-1.4", "input-type", BLOCKED, {}),
    ("RTX, function", functional, "rtx-1.7", "local-function", None, {}),
    ("RTX, custom", lambda: model(node("FusedConv", ["x"], ["y"], domain="c")), "rtx-1.7", "custom-domain", BLOCKED, {}),
    ("RTX, custom, with plugins", lambda: model(node("FusedConv", ["x"], ["y"], domain="c")), "rtx-1.7", "custom-domain", BLOCKED, {"plugins": True}),
    ("RTX, no operator at all", lambda: model(node("Relux", ["x"], ["y"])), "rtx-1.7", "operator-unsupported", BLOCKED, {}),
    ("RTX, custom, before it was asked", lambda: model(node("FusedConv", ["x"], ["y"], domain="c")), "rtx-1.3", "custom-domain", RISKY, {}),
    ("RTX, custom, newer than the tables", lambda: model(node("FusedConv", ["x"], ["y"], domain="c")), "rtx-1.9", "custom-domain", RISKY, {}),
    ("a release that tables name", model, "8.5", "release", None, {}),
    ("a release that no table names", model, "10.99.1", "release", NOTE, {}),
    ("RTX of which little is known", model, "rtx-1.0", "release", NOTE, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "version", "rule", "verdict", "options"),
    [entry[1:] for entry in ZOO],
    ids=[entry[0] for entry in ZOO],
)
def test_the_zoo(
    tmp_path: Path,
    make: Callable[[], onnx.ModelProto],
    version: str,
    rule: str,
    verdict: str | None,
    options: dict[str, Any],
) -> None:
    report = look(tmp_path, make(), version, **options)
    found = {item.verdict for item in report.findings if item.rule == rule}
    assert found == ({verdict} if verdict else set()), report.findings
    if verdict == BLOCKED:
        assert report.title == BLOCKED
        with pytest.raises(ModelRefused) as refusal:
            raise_if_blocked(report)
        assert any(text.startswith(rule) for text in refusal.value.details)
    else:
        raise_if_blocked(
            report._replace(findings=tuple(f for f in report.findings if f.rule == rule))
        )


def test_a_clean_model_is_fine_and_nothing_more(tmp_path: Path) -> None:
    report = look(tmp_path, model())
    assert (report.title, report.findings) == (FINE, ())
    assert (report.opset, report.ir_version, report.node_count) == (13, 8, 1)


def test_nodes_are_named_with_their_branch(tmp_path: Path) -> None:
    made = branched()
    made.graph.node.append(node("Det", ["x"], ["z"]))
    found = [item for item in look(tmp_path, made).findings if item.rule == "operator-unsupported"]
    assert [item.nodes for item in found] == [("If/inner", "If/inner", "-> z")]


@pytest.mark.parametrize(
    ("dims", "given", "messages"),
    [
        (("b", 3), ["x:1x3..8x3"], []),
        (("b", 3), ["x:1x3", "x:2x3..8x3"], []),
        (("b", 3), ["2x3"], []),
        ((1, 3), ["x:2x3"], ["is fixed at 1"]),
        ((1, 3), ["x:1x3x4"], ["has rank 2"]),
        (("b", 3), ["z:1x3"], ["is dynamic", "no input `z`"]),
        (("b", 3), ["x:1x3", "x:1x4"], ["profile 1: dimension 1"]),
    ],
)
def test_shapes(tmp_path: Path, dims: Any, given: list[str], messages: list[str]) -> None:
    report = look(tmp_path, model(inputs=(value("x", dims),)), "8.6.1", *given)
    found = [item.message for item in report.findings if item.rule == "shapes"]
    assert len(found) == len(messages)
    assert all(part in text for part, text in zip(messages, found, strict=True))


def test_values_of_a_shape_are_no_sizes(tmp_path: Path) -> None:
    for values, dla in (("s:0x4", False), ("s:1x1..3x3", True)):
        report = look(tmp_path, reshaped(), "10.3", values, dla=dla)
        assert not {rule for rule, _ in told(report)} & {"shapes", "empty-tensor"}
        assert not any("range of shapes" in item.message for item in report.findings)
    assert ("shapes", BLOCKED) in told(look(tmp_path, reshaped(), "10.3", "s:1x4x4"))


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        (BuildSpec(), False),
        (BuildSpec(wishes={"native_instance_norm": True}), False),
        (BuildSpec(extra=("--fp16", "--pluginsX=a.so")), False),
        *((BuildSpec(wishes={option.name: ["a.so"]}), True) for option in OPTIONS if option.many),
        (BuildSpec(extra=("--fp16", "--plugins=a.so")), True),
        (BuildSpec(extra=("--staticPlugins=a.so",)), True),
        (BuildSpec(extra=("--dynamicPlugins=a.so",)), True),
        (BuildSpec(extra=("--setPluginsToSerialize=a.so",)), True),
    ],
)
def test_plugins_are_noticed_however_they_are_asked_for(spec: BuildSpec, given: bool) -> None:
    assert plugins_given(spec) is given


def test_an_empty_profile_and_a_range_on_a_dla(tmp_path: Path) -> None:
    made = model(inputs=(value("x", ("b", 3)),))
    assert ("empty-tensor", RISKY) in told(look(tmp_path, made, "8.6.1", "x:0x3"))
    found = look(tmp_path, made, "8.6.1", "1x3..2x3", dla=True).findings
    assert any(item.rule == "dla" and "`x` has a range" in item.message for item in found)


@pytest.mark.parametrize(
    ("location", "state"),
    [
        ("gone.bin", "missing"),
        ("/etc/hostname", "outside the model's folder"),
        ("../up.bin", "outside the model's folder"),
        ("link.bin", "a link that leaves the model's folder"),
        ("short.bin", "short by"),
        ("here.bin", None),
    ],
)
def test_external_data(tmp_path: Path, location: str, state: str | None) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, size in (("../up.bin", 64), ("here.bin", 64), ("short.bin", 8)):
        (folder / name).write_bytes(bytes(size))
    (folder / "link.bin").symlink_to(tmp_path / "up.bin")
    weights = floats("w", 4, 4)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("length", "64")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, text
    report = look(folder, model(node("Add", ["x", "w"], ["y"]), weights=(weights,)))
    found = [item.message for item in report.findings if item.rule == "external-data"]
    assert len(found) == (state is not None)
    assert all(str(state) in text for text in found)
    assert report.title == (BLOCKED if state else FINE)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_a_file_of_more_than_2_gib_is_blocked_and_not_read(tmp_path: Path) -> None:
    hole = 1 << 31
    tensor = b"\x10\x01" + b"\x42\x01w" + b"\x4a" + varint(hole)
    graph = node("Relu", ["x"], ["y"]).SerializeToString()
    graph = b"\x0a" + varint(len(graph)) + graph + b"\x2a" + varint(len(tensor) + hole) + tensor
    head = b"\x08\x08\x42\x02\x10\x0d" + b"\x3a" + varint(len(graph) + hole) + graph
    path = tmp_path / "m.onnx"
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + hole)
    report = lint(path, [], "tensorrt", "8.6.1")
    assert ("size", BLOCKED) in told(report)


def test_many_integers_are_not_looked_into(tmp_path: Path) -> None:
    many = numpy_helper.from_array(np.zeros(200_000, np.int64), "i")
    assert ("int64-weights", NOTE) in told(look(tmp_path, model(weights=(many,))))


def test_what_is_no_model_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (b"", b"engine", model().SerializeToString()[:-20]):
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            lint(path, [], "tensorrt", "8.6.1")
    with pytest.raises(ArtifactError):
        lint(tmp_path / "nothing.onnx", [], "tensorrt", "8.6.1")


OPERATORS = st.sampled_from(
    ["Conv", "Relu", "Det", "If", "Loop", "Constant", "QuantizeLinear", "EfficientNMS_TRT", "", "ü"]
)
KINDS = st.sampled_from([kind for kind in TensorProto.DataType.values() if kind])
DIMS = st.none() | st.lists(st.integers(-1, 3) | st.sampled_from(["n", ""]), max_size=4)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    domain = st.sampled_from(["", "ai.onnx", "com.microsoft", "trt"])
    nodes = [
        node(draw(OPERATORS), ["x", "s", "z"], [f"v{i}"], domain=draw(domain))
        for i in range(draw(st.integers(0, 4)))
    ]
    inner = helper.make_graph(nodes[:2], "inner", [], [])
    if draw(st.booleans()):
        nodes.append(node("If", ["x"], ["w"], then_branch=inner, else_branch=inner))
    numbers = draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
    weights = [
        numpy_helper.from_array(np.array(numbers, np.int64), "i"),
        helper.make_tensor("z", TensorProto.INT64, [len(numbers)], numbers),
        numpy_helper.from_array(np.array([0.5]), "d"),
    ]
    inputs = [value("x", draw(DIMS), draw(KINDS))]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", draw(DIMS), draw(KINDS))], weights)
    opsets = [helper.make_opsetid("", draw(st.integers(1, 30)))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=draw(st.integers(1, 13)))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(made=models(), release=st.sampled_from(RELEASES), dla=st.booleans(), shape=DIMS)
def test_any_model_and_any_release_get_a_verdict(
    tmp_path: Path, made: onnx.ModelProto, release: tuple[str, str], dla: bool, shape: Any
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    text = "x".join("1" if isinstance(size, str) else str(abs(size)) for size in shape or [1])
    for flavour, version in (release, ("tensorrt", "11.9")):
        profiles = [parse_shapes(f"x:{text or 'scalar'}")]
        report = lint(path, profiles, flavour, version, dla=dla)
        assert json.loads(json.dumps(report.to_dict()))["verdict"] in (BLOCKED, RISKY, FINE)
        assert all(item.message for item in report.findings)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    which=st.sampled_from([branched, functional, lambda: sliced(2**40), lambda: quantized(0)]),
)
def test_any_bytes_get_a_verdict_or_a_clean_error(
    tmp_path: Path, places: list[tuple[float, int]], which: Callable[[], onnx.ModelProto]
) -> None:
    data = bytearray(which().SerializeToString())
    for place, byte in places:
        data[int(place * len(data))] = byte
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    try:
        report = lint(path, [], "tensorrt", "8.6.1")
    except ArtifactError:
        return
    json.dumps(report.to_dict())


@pytest.mark.parametrize(
    ("made", "argv", "code", "text"),
    [
        (model(), ["--trt", "8.6.1"], 0, "m.onnx: fine as far as tables know, for TensorRT 8.6.1"),
        (model(), ["--trt", "rtx-1.7"], 0, "for TensorRT-RTX 1.7"),
        (model(opset=20), ["--trt", "8.6.1"], 0, "risky   opset: opset 20"),
        (model(opset=20), ["--trt", "8.6.1", "--strict"], 9, "risky"),
        (model(node("Det", ["x"], ["y"], name="n")), ["--trt", "8.6.1"], 8, "nodes: n"),
        (model(node("Det", ["x"], ["y"])), ["--trt", "8.6.1", "--plugins"], 0, "risky"),
        (model(), ["--trt", "8.6.1", "--shapes", "y:1x3"], 8, "no input `y`"),
        (model(node("Erf", ["x"], ["y"])), ["--trt", "8.6", "--use-dla-core", "0"], 0, "risky   dla"),
    ],
)  # fmt: skip
def test_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Any, argv: list[str], code: int,
    text: str,
) -> None:  # fmt: skip
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    found, out, err = run(capsys, "lint", str(path), *argv)
    assert (found, err) == (code, "")
    assert text in out
    found, out, err = run(capsys, "lint", str(path), *argv, "--json")
    assert (found, err) == (code, "")
    document = json.loads(out)
    assert set(document) == {
        "dla", "findings", "flavour", "ir_version", "model", "nodes", "opset", "verdict", "version",
    }  # fmt: skip
    for item in document["findings"]:
        assert set(item) == {"hint", "message", "nodes", "rule", "source", "verdict"}


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["nothing.onnx", "--trt", "8.6"], 7, "nothing.onnx"),
        (["m.onnx"], 2, "--trt"),
        (["m.onnx", "--trt", "new"], 2, "not a version"),
        (["m.onnx", "--trt", "12.0"], 2, "nothing is known of TensorRT 12.0"),
        (["m.onnx", "--trt", "6.0"], 2, "nothing is known of TensorRT 6.0"),
        (["m.onnx", "--trt", "8"], 2, "names several releases"),
        (["m.onnx", "--trt", "rtx"], 2, "names several releases"),
        (["m.onnx", "--trt", "8.6", "--use-dla-core", "99"], 2, "0<=x<=15"),
        ([".", "--trt", "8.6"], 7, "name the .onnx file inside it"),
        (["m.onnx", "--trt", "8.6", "--shapes", "x:8..4..1"], 2, "min <= opt <= max"),
    ],
)
def test_wrong_requests(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int, text: str
) -> None:
    found, out, err = run(capsys, "lint", *argv)
    assert (found, out) == (code, "")
    assert text in err
