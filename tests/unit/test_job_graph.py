"""Typing a graph FP16 or BF16: what stays FP32, what is refused, and that the numbers hold."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

import casting
import graph
import onnx_nodes
import rounding
from worker import JobError

SMALL = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# Numbers of the type near 1 are this far apart, relatively.
STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
both = pytest.mark.parametrize("to", SMALL)


class IO:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: list[str] = []

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass

    def log(self, text: str) -> None:
        self.logs.append(text)


@pytest.fixture
def io(tmp_path: Path) -> IO:
    (tmp_path / "out").mkdir()
    return IO(tmp_path / "out")


def write(
    folder: Path,
    body: str,
    weights: dict[str, Any] | None = None,
    inputs: str = "float[1, 4] x",
    outputs: str = "float[1, 4] out",
    opset: int = 17,
) -> str:
    """An ONNX file of `body`, in ONNX's text syntax; each node is named after its first output."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(f"{head} g ({inputs}) => ({outputs}) {{ {body} }}")
    for name, value in (weights or {}).items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = node.output[0]
    path = folder / "model.onnx"
    onnx.save(model, path)
    return str(path)


def cast(
    path: str, io: IO, to: str, *steps: dict[str, Any], **given: Any
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    target, report = graph.transform(path, [{"do": "cast", "to": to}, *steps], io, **given)
    assert report is not None
    return onnx.load(target), report


def node_types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of the first output of each node, by the node's name."""
    types = onnx_nodes.tensor_types(onnx.shape_inference.infer_shapes(model))
    return {node.name: types[node.output[0]] for node in model.graph.node}


def refused(path: str, io: IO, *steps: dict[str, Any], **given: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        graph.transform(path, list(steps), io, **given)
    return caught.value


@both
def test_a_graph_is_typed_and_keeps_the_types_of_its_ends(tmp_path: Path, io: IO, to: str) -> None:
    path = write(
        tmp_path, "a = MatMul(x, w) b = Relu(a) out = MatMul(b, w)", {"w": np.eye(4) + 0.1}
    )
    model, report = cast(path, io, to)
    types = node_types(model)
    assert [types[name] for name in ("a", "b", "out")] == [SMALL[to]] * 3
    assert [
        value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)
    ] == [1, 1]
    assert [each.data_type for each in model.graph.initializer] == [SMALL[to]]
    assert report["casts"] == 2
    assert report["nodes"] == 3
    assert report["kept_fp32"] == []
    assert 0 < report["max_rel_error"] < 4 * STEP[to]
    assert report["tool"] == "onnxruntime.transformers.float16"
    assert not Path(io.path("comparing")).exists()


@both
@pytest.mark.parametrize(
    ("pattern", "kept"),
    [("first", ["first"]), ("*st", ["first", "last"]), ("[fl]*", ["first", "last"])],
)
def test_named_nodes_stay_fp32_with_unrounded_weights(
    tmp_path: Path, io: IO, to: str, pattern: str, kept: list[str]
) -> None:
    body = "first = MatMul(x, w) mid = MatMul(first, w) last = MatMul(mid, w) out = Relu(last)"
    weight = np.full((4, 4), 1 / 3, np.float32)
    model, report = cast(
        write(tmp_path, body, {"w": weight}), io, to, {"do": "keep_fp32", "value": [pattern]}
    )
    types = node_types(model)
    assert [name for name in ("first", "mid", "last", "out") if types[name] == 1] == kept
    assert report["kept_fp32"] == kept
    assert report["kept_reasons"] == {"asked": len(kept)}
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.name in kept:
            np.testing.assert_array_equal(weights[node.input[1]], weight)


def test_neighbours_that_stay_fp32_do_not_pass_through_fp16(tmp_path: Path, io: IO) -> None:
    body = (
        "p = Pow(x, two) m = ReduceMean <axes = [1]> (p) v = Add(m, eps) s = Sqrt(v) "
        "d = Div(x, s) out = MatMul(d, w)"
    )
    weights = {"two": 2.0, "eps": 1e-5, "w": np.eye(4)}
    path = write(tmp_path, body, weights)
    model, report = cast(path, io, "float16")
    assert report["kept_fp32"] == ["p", "m", "v", "s"]
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    chain = [node for node in model.graph.node if node.name in ("p", "m", "v")]
    assert [readers[node.output[0]] for node in chain] == ["ReduceMean", "Add", "Sqrt"]
    # The square of 900 is no FP16 number; the quotient is.
    feed = {"x": np.array([[900, -800, 1000, 700]], np.float32)}
    types = onnx_nodes.tensor_types(onnx.shape_inference.infer_shapes(model))
    emulated = tmp_path / "rounded.onnx"
    onnx.save(rounding.rounded(onnx, model, types), emulated)
    expected, actual = rounding.run(path, feed)["out"], rounding.run(str(emulated), feed)["out"]
    np.testing.assert_allclose(actual, expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("body", "weights", "kept"),
    [
        ("a = Mul(x, k) b = Mul(a, l) out = Relu(b)", {"k": 1e6, "l": 1e-6}, ["a", "b", "out"]),
        ("a = Abs(x) b = Add(a, k) out = Div(x, b)", {"k": 1e-12}, ["b", "out"]),
        (
            "a = Mul(x, l) b = Div(a, k) out = Relu(b)",
            {"l": 1e-4, "k": [1.0, 2e-8, 1.0, 1.0]},
            ["b"],
        ),
        (
            "a = Mul(m, k) b = Add(x, a) out = Softmax(b)",
            {"k": -3.4e38, "m": [0.0, 1.0, 0.0, 0.0]},
            ["a", "b", "out"],
        ),
        ("a = Constant <value = float {1e9}> () b = Mul(x, a) out = Softmax(b)", {}, ["b", "out"]),
        ("a = Add(x, k) out = Softmax(a)", {"k": [0.0, -np.inf, 0.0, 0.0]}, []),
        ("a = MatMul(x, k) out = Relu(a)", {"k": np.diag([1.0, 1e-9, 1.0, 1.0])}, []),
    ],
    ids=["large", "epsilon", "divisor", "mask", "constant", "infinite already", "one small weight"],
)
def test_weights_that_fp16_cannot_hold_keep_their_readers_in_fp32(
    tmp_path: Path, io: IO, body: str, weights: dict[str, Any], kept: list[str]
) -> None:
    _, report = cast(write(tmp_path, body, weights), io, "float16")
    assert report["kept_fp32"] == kept
    assert report["max_rel_error"] < 4 * STEP["float16"]
    told = [text for text in io.logs if "nearer to 0" in text]
    assert len(told) == (report["flushed_weights"] > 0)


@both
def test_arithmetic_of_shapes_stays_fp32(tmp_path: Path, io: IO, to: str) -> None:
    body = (
        "s = Shape(x) f = Cast <to = 1> (s) h = Mul(f, half) g = Floor(h) i = Cast <to = 7> (g) "
        "y = Relu(x) r = Reshape(y, i) out = Relu(r)"
    )
    # 4098 / 2 is no FP16 number: a shape computed in FP16 would not fit.
    path = write(tmp_path, body, {"half": [0.5, 2.0]}, "float[2, 4098] x", "float[1, 8196] out")
    model, report = cast(path, io, to)
    assert report["kept_reasons"] == {"shapes and indices": 4}
    assert node_types(model)["r"] == SMALL[to]
    assert report["not_compared"] is None


@both
def test_bodies_of_if_stay_fp32_and_read_what_they_read(tmp_path: Path, io: IO, to: str) -> None:
    body = (
        "y = MatMul(x, w) k = Cast <to = 9> (n) "
        "z = If (k) <then_branch = t () => (float[1, 4] u) { u = Add(y, w0) }, "
        "else_branch = e () => (float[1, 4] v) { v = Sub(x, y) }> out = MatMul(z, w)"
    )
    weights = {"w": np.eye(4), "w0": [1.0, 2.0, 3.0, 4.0], "n": np.array(1)}
    model, report = cast(write(tmp_path, body, weights), io, to)
    assert report["kept_reasons"]["control flow"] == 1
    assert report["max_rel_error"] < 4 * STEP[to]
    assert node_types(model)["y"] == SMALL[to]


@both
def test_resize_with_an_empty_region_is_typed(tmp_path: Path, io: IO, to: str) -> None:
    body = 'out = Resize <mode = "linear"> (x, roi, scales)'
    weights = {"roi": np.zeros(0, np.float32), "scales": [1.0, 1.0, 2.0, 2.0]}
    model, report = cast(
        write(tmp_path, body, weights, "float[1, 2, 4, 4] x", "float[1, 2, 8, 8] out"), io, to
    )
    assert report["kept_fp32"] == []
    assert {each.name: each.data_type for each in model.graph.initializer} == {"scales": 1}


@both
@pytest.mark.parametrize(
    ("body", "weights", "shape", "reason"),
    [
        ("c = Conv(x, w) out = BatchNormalization(c, s, s, s, s)", {"w": np.ones((2, 2, 1, 1)), "s": [1.0, 2.0]}, "[1, 2, 3, 3]", None),
        ("out = LayerNormalization(x, s)", {"s": [1.0, 2.0, 3.0]}, "[1, 2, 3, 3]", "overflow-prone"),
        ("i = Gather <axis = 1> (x, k) out = Concat <axis = 1> (i, x)", {"k": np.array([1])}, "[N, 2, 3, 3]", None),
        ("out = ConvTranspose(x, w)", {"w": np.ones((2, 2, 1, 1))}, "[1, 2, 3, 3]", "TensorRT refuses the type"),
    ],
    ids=["batch norm", "layer norm", "indices", "deconvolution"],
)  # fmt: skip
def test_what_stays_fp32_depends_on_the_operator(
    tmp_path: Path,
    io: IO,
    to: str,
    body: str,
    weights: dict[str, Any],
    shape: str,
    reason: str | None,
) -> None:
    outputs = "float[a, b, c, d] out"
    _, report = cast(write(tmp_path, body, weights, f"float{shape} x", outputs), io, to)
    only_bfloat16 = reason == "TensorRT refuses the type"
    expected = [] if reason is None or (only_bfloat16 and to == "float16") else [reason]
    assert list(report["kept_reasons"]) == expected
    assert report["max_rel_error"] < 4 * STEP[to]


def test_an_overflow_is_an_error_that_names_the_first_node(tmp_path: Path, io: IO) -> None:
    body = "a = Mul(x, k) square = Mul(a, a) root = Sqrt(square) out = Relu(root)"
    path = write(tmp_path, body, {"k": 1000.0})
    error = refused(path, io, {"do": "cast", "to": "float16"})
    assert error.kind == "overflow"
    assert "first node is `square` (Mul)" in error.message
    assert "--keep-fp32 'square'" in str(error.hint)
    _, report = cast(path, io, "bfloat16")
    assert report["max_rel_error"] < 4 * STEP["bfloat16"]
    model, _ = cast(path, io, "float16", {"do": "keep_fp32", "value": ["square", "root"]})
    assert node_types(model)["a"] == TensorProto.FLOAT16


def test_calibration_data_finds_what_random_numbers_do_not(tmp_path: Path, io: IO) -> None:
    path = write(tmp_path, "square = Mul(x, x) out = Relu(square)")
    assert cast(path, io, "float16")[1]["max_rel_error"] < 0.01
    np.savez(tmp_path / "data.npz", x=np.full((3, 4), 300, np.float32))
    spec = {"data": str(tmp_path / "data.npz"), "batch": 1, "mean": None, "std": None, "scale": 1.0}
    profile = {"x": {"min": [1, 4], "opt": [1, 4], "max": [1, 4]}}
    step = {"do": "cast", "to": "float16"}
    error = refused(path, io, step, profile=profile, calibration=spec)
    assert "`square`" in error.message


@pytest.mark.parametrize(
    ("steps", "kind", "text"),
    [
        ([{"do": "cast", "to": "float16"}, {"do": "keep_fp32", "value": ["last"]}], "unknown-node", "near: lost"),
        ([{"do": "cast", "to": "int8"}], "protocol", "int8"),
        ([{"do": "dance"}], "protocol", "dance"),
        ([{"do": "input_types", "value": ["fp16", None, None]}], "types", "3 input types for 2 inputs: x, n"),
        ([{"do": "input_types", "value": ["fp16"]}], "types", "`n` is int64 and cannot become fp16"),
        ([{"do": "input_types", "value": ["uint8", None]}], "types", "`x` is float32 and cannot become uint8"),
        ([{"do": "input_types", "value": ["int64", None]}], "types", "`x` is float32 and cannot become int64"),
        ([{"do": "input_types", "value": ["fp16", "fp16"]}], "types", "`n` is int64"),
        ([{"do": "output_types", "value": ["half"]}], "types", "half"),
        ([{"do": "output_types", "value": ["uint8"]}], "types", "`out` is float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    tmp_path: Path, io: IO, steps: list[dict[str, Any]], kind: str, text: str
) -> None:
    body = "lost = Gather <axis = 1> (x, n) out = Relu(lost)"
    path = write(tmp_path, body, None, "float[1, 4] x, int64[4] n")
    error = refused(path, io, *steps)
    assert error.kind == kind
    assert text in error.message


@both
def test_a_graph_with_small_types_of_its_own(tmp_path: Path, io: IO, to: str) -> None:
    body = "h = Cast <to = 10> (x) r = Relu(h) f = Cast <to = 1> (r) out = MatMul(f, w)"
    path = write(tmp_path, body, {"w": np.eye(4)})
    if to == "bfloat16":
        assert refused(path, io, {"do": "cast", "to": to}).kind == "unsupported"
    else:
        assert cast(path, io, to)[1]["max_rel_error"] < 4 * STEP[to]


@pytest.mark.parametrize(
    ("steps", "kinds", "casts"),
    [
        ([("input_types", ["fp16", "int32"]), ("output_types", ["bf16"])], [10, 6, 16], 3),
        ([("input_types", [None, "int64"]), ("output_types", ["fp16"])], [1, 7, 10], 1),
        ([("input_types", ["bf16", None]), ("output_types", [None])], [16, 7, 1], 1),
        ([("input_types", ["fp32", "int64"])], [1, 7, 1], 0),
        (
            [("cast", "float16"), ("input_types", ["fp16", "int64"]), ("output_types", ["fp16"])],
            [10, 7, 10],
            0,
        ),
        ([("cast", "bfloat16"), ("output_types", ["fp16"])], [1, 7, 10], 3),
    ],
)
def test_inputs_and_outputs_take_the_types_asked_for(
    tmp_path: Path, io: IO, steps: list[tuple[str, Any]], kinds: list[int], casts: int
) -> None:
    body = "g = Gather <axis = 1> (x, n) out = Relu(g)"
    path = write(tmp_path, body, None, "float[1, 4] x, int64[4] n")
    asked = [{"do": do, "to" if do == "cast" else "value": value} for do, value in steps]
    target, report = graph.transform(path, asked, io)
    model = onnx.load(target)
    ends = (*model.graph.input, *model.graph.output)
    assert [value.type.tensor_type.elem_type for value in ends] == kinds
    assert [value.name for value in ends] == ["x", "n", "out"]
    assert report is not None
    assert report["casts"] == casts
    assert report["not_compared"] is None


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"do": "keep_fp32", "value": ["quantize.py heeds it"]}],
        [{"do": "input_types", "value": [None, None]}, {"do": "output_types", "value": [None]}],
    ],
    ids=["none", "only nodes to keep", "types stay"],
)
def test_without_a_change_the_file_is_left_alone(io: IO, steps: list[dict[str, Any]]) -> None:
    assert graph.transform("/nowhere.onnx", steps, io) == ("/nowhere.onnx", None)


def test_one_type_stands_for_all_inputs(tmp_path: Path, io: IO) -> None:
    path = write(tmp_path, "out = Add(x, y)", None, "float[1, 4] x, float[1, 4] y")
    target, _ = graph.transform(path, [{"do": "input_types", "value": ["fp16"]}], io)
    assert [value.type.tensor_type.elem_type for value in onnx.load(target).graph.input] == [10, 10]


@both
def test_weights_beside_the_file_are_found_and_written_beside(
    tmp_path: Path, io: IO, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path, "a = MatMul(x, w) out = MatMul(a, v)", {"w": np.eye(4), "v": np.ones((4, 4))}
    )
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="model.bin", size_threshold=0)
    monkeypatch.setattr("onnx_check.INLINE_BYTES", 40)
    monkeypatch.setattr(
        "onnx.external_data_helper.convert_model_to_external_data.__defaults__",
        (True, None, 0, False),
    )
    cast_model, report = cast(path, io, to)
    assert Path(io.path("typed.onnx.data")).stat().st_size >= 64
    assert {each.data_type for each in cast_model.graph.initializer} == {SMALL[to]}
    assert report["max_rel_error"] < 4 * STEP[to]


def test_scales_of_quantized_graphs_are_typed(tmp_path: Path, io: IO) -> None:
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) out = Relu(d)"
    path = write(tmp_path, body, {"s": 0.05, "z": np.array(0, np.int8)}, opset=13)
    model, report = cast(path, io, "float16")
    assert report["kept_fp32"] == []
    assert model.opset_import[0].version == 19
    assert node_types(model)["d"] == TensorProto.FLOAT16
    _, report = cast(
        write(tmp_path, body, {"s": 1e-9, "z": np.array(0, np.int8)}, opset=13), io, "float16"
    )
    assert set(report["kept_fp32"]) >= {"q", "d"}


def test_nodes_of_plugins_stay_fp32_with_what_follows(tmp_path: Path, io: IO) -> None:
    path = write(
        tmp_path, "a = MatMul(x, w) b = Relu(a) c = Relu(b) out = Relu(c)", {"w": np.eye(4)}
    )
    model = onnx.load(path)
    model.graph.node[1].domain = "my.plugins"
    model.opset_import.append(helper.make_opsetid("my.plugins", 1))
    onnx.save(model, path)
    cast_model, report = cast(path, io, "float16")
    assert report["kept_fp32"] == ["b", "c", "out"]
    assert report["max_rel_error"] is None
    assert "my.plugins" in report["not_compared"]
    assert cast_model.graph.node[1].op_type == "MatMul"


def test_nodes_without_names_can_be_named(tmp_path: Path, io: IO) -> None:
    path = write(tmp_path, "a = Relu(x) out = Relu(a)")
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = "" if node.name == "a" else node.name
    onnx.save(model, path)
    assert cast(path, io, "float16", {"do": "keep_fp32", "value": ["Relu_a"]})[1]["kept_fp32"] == [
        "Relu_a"
    ]


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [("n", ["n", "n_2"]), ("n_2", ["n_2"]), ("n_3", ["n_3"]), ("n*", ["n", "n_2", "n_3"])],
)
def test_nodes_that_share_a_name_are_all_meant_by_it(
    tmp_path: Path, io: IO, pattern: str, kept: list[str]
) -> None:
    path = write(tmp_path, "a = Relu(x) b = Relu(a) c = Relu(b) out = Relu(c)")
    model = onnx.load(path)
    for node, name in zip(model.graph.node, ("n", "n", "n_3", "out"), strict=True):
        node.name = name
    onnx.save(model, path)
    typed, report = cast(path, io, "float16", {"do": "keep_fp32", "value": [pattern]})
    assert report["kept_reasons"] == {"asked": len(kept)}
    assert report["not_compared"] is None
    assert [name for name, kind in node_types(typed).items() if kind == 1 and name in kept] == kept


@given(st.lists(st.sampled_from(["", "n", "n_2", "n_2_2", "m"])))
def test_every_node_has_a_name_of_its_own_and_keeps_the_first(names: list[str]) -> None:
    nodes = [helper.make_node("Relu", ["x"], [f"y{i}"], name) for i, name in enumerate(names)]
    unique = onnx_nodes.unique_names(nodes)
    assert len(set(unique)) == len(nodes)
    assert {name for name in names if name} <= set(unique)
    assert all(
        own.startswith(node.name or "Relu_y") for own, node in zip(unique, nodes, strict=True)
    )


@given(st.lists(st.floats(width=32), min_size=1))
@example([1.0, 1.00390625, 1.01171875, 3.4e38, -0.0, float("nan"), float("-inf"), 1e-40])
def test_weights_are_rounded_to_bfloat16_as_ml_dtypes_rounds(values: list[float]) -> None:
    import ml_dtypes

    array = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        expected = array.astype(ml_dtypes.bfloat16)
    actual = casting.to_bfloat16(array).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(actual.astype(np.float32), expected.astype(np.float32))


OPERATORS = ("Relu", "Neg", "Sigmoid", "Exp", "Softmax", "Add", "Mul", "MatMul")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(sorted(SMALL)))
def test_any_graph_stays_valid_and_close(tmp_path: Path, data: st.DataObject, to: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    names, lines = ["x"], []
    for number in range(data.draw(st.integers(1, 6))):
        operator = data.draw(st.sampled_from(OPERATORS))
        reads = [data.draw(st.sampled_from(names))]
        if operator in ("Add", "Mul", "MatMul"):
            reads.append("w" if operator == "MatMul" else data.draw(st.sampled_from([*names, "w"])))
        bounded = f"n{number} = Tanh(m{number})"  # so that numbers do not run away
        lines.append(f"m{number} = {operator}({', '.join(reads)}) {bounded}")
        names += [f"m{number}", f"n{number}"] if operator != "Exp" else [f"n{number}"]
    kept = data.draw(st.lists(st.sampled_from(names[1:]), max_size=3, unique=True))
    body = " ".join(lines) + f" out = Identity({names[-1]})"
    path = write(tmp_path, body, {"w": np.eye(4) / 3}, "float[4, 4] x", "float[4, 4] out")
    steps = [{"do": "keep_fp32", "value": kept}] if kept else []
    model, report = cast(path, IO(folder), to, *steps)
    types = node_types(model)
    assert all(types[name] == TensorProto.FLOAT for name in kept)
    assert report["max_rel_error"] < 64 * STEP[to]
