"""Q/DQ nodes as TensorRT wants them, and what they cost in accuracy, by ONNX Runtime."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from digits_onnx import PICTURES, pictures, write_digits
from onnx import TensorProto, helper, numpy_helper

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

import quantize
from worker import JobError

RANDOM = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


class JobIO:
    def __init__(self, folder: Path) -> None:
        self.folder, self.logs = folder, list[str]()
        folder.mkdir(exist_ok=True)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def log(self, text: str) -> None:
        self.logs.append(text)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass


def weight(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * 0.2).astype(np.float32)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, np.ndarray],
    shape: list[int],
    outputs: Mapping[str, list[Any]],
    *,
    opset: int = 17,
    elem: int = FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, ["n", *shape])],
        [helper.make_tensor_value_info(name, elem, ["n", *dims]) for name, dims in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def run(
    path: Path,
    folder: Path,
    samples: np.ndarray,
    to: str = "int8",
    method: str = "minmax",
    keep: Sequence[str] = (),
    job: JobIO | None = None,
) -> tuple[Path, dict[str, Any]]:
    np.savez(folder / "data.npz", x=samples)
    spec = {
        "data": str(folder / "data.npz"),
        "batch": None,
        "mean": None,
        "std": None,
        "scale": 1.0,
    }
    shape = list(samples.shape[1:])
    profile = {"x": {"min": [1, *shape], "opt": [4, *shape], "max": [8, *shape]}}
    step = {"do": "quantize", "to": to, "method": method}
    job = job or JobIO(folder / "out")
    made, report = quantize.quantize(str(path), step, spec, profile, job, keep)
    return Path(made), report


def output(path: Path, samples: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    # ONNX Runtime's own fusions move FP8 pairs through operators that know no FP8.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": samples})[0]
    return found


def pairs(path: Path) -> dict[str, tuple[int | None, int, int]]:
    """For each input that has a pair, as `node.index`: axis, length of the scale, type of zero point."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {node.output[0]: node for node in model.graph.node}
    consumers = [name for node in model.graph.node for name in node.input]
    found = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            second = made_by.get(name)
            if node.op_type == "QuantizeLinear" or second is None:
                continue
            if second.op_type != "DequantizeLinear":
                continue
            first = made_by[second.input[0]]
            assert first.op_type == "QuantizeLinear"
            assert list(first.input[1:]) == list(second.input[1:])
            assert consumers.count(name) == consumers.count(second.input[0]) == 1
            scale = numpy_helper.to_array(tensors[first.input[1]])
            zero = tensors[first.input[2]]
            assert np.all(scale > 0)
            assert not np.any(numpy_helper.to_array(zero).astype(np.float32))
            axis = next((entry.i for entry in first.attribute if entry.name == "axis"), None)
            found[f"{node.name}.{index}"] = (axis, scale.size, zero.data_type)
    return found


def residual(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["c"], "conv2"),
        helper.make_node("Conv", ["x", "w3"], ["d"], "side"),
        helper.make_node("Add", ["c", "d"], ["e"], "both"),
        helper.make_node("Add", ["x", "e"], ["f"], "none"),
        helper.make_node("Conv", ["f", "w3"], ["g"], "conv3"),
        helper.make_node("Add", ["g", "f"], ["h"], "one"),
        helper.make_node("Add", ["h", "b2"], ["y"], "bias"),
    ]
    weights = {"w1": weight(16, 8, 3, 3), "b1": weight(16), "w2": weight(8, 16, 1, 1)}
    weights |= {"w3": weight(8, 8, 1, 1), "b2": weight(8, 1, 1)}
    return write(path, nodes, weights, [8, 6, 6], {"y": [8, 6, 6]})


@pytest.mark.parametrize(
    ("to", "method", "opset", "limit"),
    [("int8", "minmax", 17, 0.03), ("int8", "entropy", 17, 0.2), ("fp8", "minmax", 19, 0.08)],
)
def test_convolutions_and_residual_branches_get_pairs_of_their_own(
    tmp_path: Path, to: str, method: str, opset: int, limit: float
) -> None:
    samples = RANDOM.standard_normal((10, 8, 6, 6)).astype(np.float32)
    path = residual(tmp_path / "m.onnx")
    made, report = run(path, tmp_path, samples, to, method)
    zero = TensorProto.INT8 if to == "int8" else TensorProto.FLOAT8E4M3FN
    assert pairs(made) == {
        "conv1.0": (None, 1, zero),
        "conv1.1": (0, 16, zero),
        "conv2.0": (None, 1, zero),
        "conv2.1": (0, 8, zero),
        "side.0": (None, 1, zero),
        "side.1": (0, 8, zero),
        "conv3.0": (None, 1, zero),
        "conv3.1": (0, 8, zero),
        "both.0": (None, 1, zero),
        "one.1": (None, 1, zero),
    }
    assert report["nodes"] == {"Conv": 4, "Add": 2}
    assert report["left_alone"] == []
    assert (report["method"], report["batches"], report["opset"]) == (method, 3, opset)
    exact, found = output(path, samples), output(made, samples)
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < limit
    assert 0 < report["relative_difference"]["y"] < limit
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["quantized.onnx"]


@pytest.mark.parametrize(
    ("node", "weights", "axis", "scales"),
    [
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "n"), weight(6, 5), 1, 5),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "n", transB=1), weight(5, 6), 0, 5),
        (helper.make_node("MatMul", ["x", "w"], ["y"], "n"), weight(6, 5), 1, 5),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], "n"), weight(6, 5, 2, 2), 1, 5),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], "n", group=2), weight(6, 5, 2, 2), None, 1),
        (helper.make_node("MatMul", ["x", "w"], ["y"], "n"), weight(3, 6, 5), 2, 5),
        (helper.make_node("Conv", ["x", "w"], ["y"], "n", group=6), weight(6, 1, 2, 2), 0, 6),
    ],
    ids=["Gemm", "Gemm-transB", "MatMul", "ConvTranspose", "grouped", "batched", "depthwise"],
)  # fmt: skip
def test_weights_have_one_scale_for_each_output_channel(
    tmp_path: Path, node: onnx.NodeProto, weights: np.ndarray, axis: int | None, scales: int
) -> None:
    convolution = "Conv" in node.op_type
    shape = [6, 4, 4] if convolution else [3, 4, 6] if weights.ndim == 3 else [6]
    named = {"w": weights, "b": weight(5)} if node.op_type == "Gemm" else {"w": weights}
    dims = [None] * 3 if len(shape) == 3 else [5]
    path = write(tmp_path / "m.onnx", [node], named, shape, {"y": dims})
    made, _ = run(path, tmp_path, RANDOM.standard_normal((4, *shape)).astype(np.float32))
    assert pairs(made) == {
        "n.0": (None, 1, TensorProto.INT8),
        "n.1": (axis, scales, TensorProto.INT8),
    }


def test_products_without_constant_weights_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight(6, 6))),
        helper.make_node("MatMul", ["x", "w"], ["a"], "projected"),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "t"], ["y"], "scores"),
    ]
    path = write(tmp_path / "m.onnx", nodes, {}, [4, 6], {"y": [4, 4]})
    made, report = run(path, tmp_path, RANDOM.standard_normal((4, 4, 6)).astype(np.float32))
    assert set(pairs(made)) == {"projected.0", "projected.1"}
    assert report["left_alone"] == ["scores"]


@pytest.mark.parametrize(
    ("keep", "alone", "changed"),
    [
        (["conv2"], ["conv2"], {"conv2.0", "conv2.1"}),
        # The sum is fused with the product that is left: the branch is the other one.
        (["side"], ["side"], {"side.0", "side.1", "both.0", "both.1"}),
        (["both", "relu"], ["both"], {"both.0"}),
        (
            ["o*", "con?[13]"],
            ["conv1", "conv3"],
            {"conv1.0", "conv1.1", "conv3.0", "conv3.1", "one.1"},
        ),
    ],
)
def test_named_nodes_get_no_pairs(
    tmp_path: Path, keep: list[str], alone: list[str], changed: set[str]
) -> None:
    samples = RANDOM.standard_normal((8, 8, 6, 6)).astype(np.float32)
    path = residual(tmp_path / "m.onnx")
    every = set(pairs(run(path, tmp_path, samples)[0]))
    (tmp_path / "kept").mkdir()
    made, report = run(path, tmp_path / "kept", samples, keep=keep)
    assert report["left_alone"] == alone
    assert every ^ set(pairs(made)) == changed


def test_names_of_nodes_to_keep_are_checked(tmp_path: Path) -> None:
    samples = RANDOM.standard_normal((4, 8, 6, 6)).astype(np.float32)
    path = residual(tmp_path / "m.onnx")
    with pytest.raises(
        JobError, match=r"no node of the graph is named `conv_2`; near: .*conv2"
    ) as caught:
        run(path, tmp_path, samples, keep=["conv_2"])
    assert caught.value.kind == "unknown-node"
    with pytest.raises(JobError, match=r"nothing to quantize: .* beside those that stay") as caught:
        run(path, tmp_path, samples, keep=["*"])
    assert "keep fewer nodes" in str(caught.value.hint)


def test_kept_nodes_are_known_by_shared_and_missing_names_through_a_new_opset(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "n"),
        helper.make_node("Conv", ["a", "v"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], "n"),
        helper.make_node("Conv", ["c", "v"], ["y"], "last"),
    ]
    weights = {"w": weight(4, 3, 1, 1), "v": weight(4, 4, 1, 1)}
    path = write(tmp_path / "m.onnx", nodes, weights, [3, 5, 5], {"y": [4, 5, 5]}, opset=11)
    samples = RANDOM.standard_normal((4, 3, 5, 5)).astype(np.float32)
    made, report = run(path, tmp_path, samples, keep=["n", "Conv_b"])
    assert report["left_alone"] == ["n", "Conv_b", "n_2"]
    assert set(pairs(made)) == {"last.0", "last.1"}


def test_a_quantized_model_is_taken_as_it_is(tmp_path: Path) -> None:
    samples = RANDOM.standard_normal((4, 8, 6, 6)).astype(np.float32)
    made, _ = run(residual(tmp_path / "m.onnx"), tmp_path, samples)
    io = JobIO(tmp_path / "again")
    step = {"do": "quantize", "to": "int8", "method": "minmax"}
    assert quantize.quantize(str(made), step, None, {}, io) == (
        str(made),
        {"state": "was quantized", "to": None, "nodes": 20},
    )
    assert "20 Q/DQ nodes" in io.logs[0]
    quantize.quantize(str(made), step, None, {}, io, ["conv*"])
    assert "--keep-fp32 changes nothing" in io.logs[1]


@pytest.mark.parametrize(("to", "elem", "opset"), [("int8", FLOAT, 13), ("int8", 10, 19), ("fp8", FLOAT, 19)])  # fmt: skip
def test_the_opset_is_raised_to_what_the_pairs_need(
    tmp_path: Path, to: str, elem: int, opset: int
) -> None:
    dtype = np.float16 if elem == TensorProto.FLOAT16 else np.float32
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "n")]
    weights = {"w": weight(4, 3, 1, 1).astype(dtype)}
    path = write(
        tmp_path / "m.onnx", nodes, weights, [3, 5, 5], {"y": [4, 5, 5]}, opset=11, elem=elem
    )
    made, report = run(path, tmp_path, RANDOM.standard_normal((4, 3, 5, 5)).astype(dtype), to)
    assert report["opset"] == opset
    assert len(pairs(made)) == 2
    assert output(made, np.ones((1, 3, 5, 5), dtype)).dtype == dtype


def test_a_model_too_big_for_one_file_keeps_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = RANDOM.standard_normal((4, 8, 6, 6)).astype(np.float32)
    path = residual(tmp_path / "m.onnx")
    exact = output(path, samples)
    monkeypatch.setattr(quantize.onnx_check, "INLINE_BYTES", 1000)
    made, _ = run(path, tmp_path, samples)
    names = ["quantized.onnx", "quantized.onnx.data"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == names
    np.testing.assert_allclose(output(made, samples), exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("method", ["minmax", "entropy"])
@pytest.mark.parametrize("first", ["Conv", "Sub"])
def test_data_that_is_always_zero_says_nothing(tmp_path: Path, method: str, first: str) -> None:
    samples = np.zeros((8, 8, 6, 6), np.float32)
    path = residual(tmp_path / "m.onnx")
    if first == "Sub":  # what is measured is not 0 then
        model = onnx.load(path)
        model.graph.node[0].input[0] = model.graph.node[3].input[0] = "centred"
        model.graph.node.insert(0, helper.make_node("Sub", ["x", "b2"], ["centred"], "centre"))
        onnx.save(model, path)
    with pytest.raises(
        JobError, match="says nothing of the range of `x`: it is always 0"
    ) as caught:
        run(path, tmp_path, samples, method=method)
    assert caught.value.kind == "calibration"


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_a_node_behind_a_relu_that_never_fires_is_left_alone(tmp_path: Path, method: str) -> None:
    samples = RANDOM.standard_normal((8, 8, 6, 6)).astype(np.float32)
    path = residual(tmp_path / "m.onnx")
    model = onnx.load(path)
    next(each for each in model.graph.initializer if each.name == "b1").CopyFrom(
        numpy_helper.from_array(np.full(16, -1000, np.float32), "b1")
    )
    onnx.save(model, path)
    job = JobIO(tmp_path / "out")
    made, report = run(path, tmp_path, samples, method=method, job=job)
    assert "`conv2` (Conv) reads `r`, which is 0" in job.logs[0]
    assert "`both` (Add) reads `c`, which is 0" in job.logs[1]
    assert report["left_alone"] == ["conv2", "both"]
    assert {name.split(".")[0] for name in pairs(made)} == {"conv1", "side", "conv3", "one"}
    limit = 0.2 if method == "entropy" else 0.03
    assert report["relative_difference"]["y"] < limit
    assert "output `y` differs by" in job.logs[2]
    assert "% on the first batch" in job.logs[2]


@pytest.mark.filterwarnings("ignore:All-NaN")  # of numpy, on the way to the error
def test_what_cannot_be_quantized_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = RANDOM.standard_normal((4, 8, 6, 6)).astype(np.float32)
    path = residual(tmp_path / "m.onnx")
    step = {"do": "quantize", "to": "int8", "method": "minmax"}
    with pytest.raises(JobError, match="needs data"):
        quantize.quantize(str(path), step, None, {}, JobIO(tmp_path / "a"))
    plain = write(
        tmp_path / "plain.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, [8], {"y": [8]}
    )
    with pytest.raises(JobError, match="nothing to quantize"):
        run(plain, tmp_path, samples[:, :, 0, 0])
    (tmp_path / "b").mkdir()
    with pytest.raises(JobError, match="becomes NaN or infinite"):
        run(path, tmp_path / "b", np.full_like(samples, 3e38))
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(JobError, match="cannot be quantized in this environment") as caught:
        run(path, tmp_path, samples)
    assert caught.value.kind == "missing-module"


@pytest.mark.parametrize(("to", "method"), [("int8", "minmax"), ("int8", "entropy"), ("fp8", "minmax")])  # fmt: skip
def test_a_trained_model_still_knows_its_digits(tmp_path: Path, to: str, method: str) -> None:
    samples, known = pictures(), list(PICTURES)
    path = write_digits(tmp_path / "digits.onnx", name="x")
    assert output(path, samples).argmax(1).tolist() == known
    made, report = run(path, tmp_path, samples, to, method)
    assert output(made, samples).argmax(1).tolist() == known
    assert report["nodes"] == {"Conv": 4, "Gemm": 1}
    assert 0 < report["relative_difference"]["logits"] < 0.15


def test_the_size_of_the_kernel_is_told_where_weights_are_dequantized(tmp_path: Path) -> None:
    # TensorRT 8.5.3.1 and 8.6.0: "The input tensor shape misaligns with the input kernel shape."
    path = residual(tmp_path / "m.onnx")
    made, _ = run(path, tmp_path, RANDOM.standard_normal((8, 8, 6, 6)).astype(np.float32))
    for node in onnx.load(made).graph.node:
        if node.op_type == "Conv":
            told = {entry.name: list(entry.ints) for entry in node.attribute}
            assert told["kernel_shape"] == ([3, 3] if node.name == "conv1" else [1, 1])
