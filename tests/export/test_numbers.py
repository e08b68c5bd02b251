"""Comparing and tidying an ONNX file, with onnx and onnxruntime of this interpreter."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from exporting import WORKER
from onnx import TensorProto, helper


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(WORKER.parent))
    return importlib.import_module("onnx_check")


def doubling(batch: int | str) -> onnx.ModelProto:
    """y = x + x, with what exporters leave behind of the machine they ran on."""
    node = helper.make_node("Add", ["x", "x"], ["y"], doc_string="/home/me/net.py(3)")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/net.py")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([node], "graph", [x], [y], doc_string="/home/me")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def entry(name: str, sizes: list[int]) -> Any:
    return SimpleNamespace(name=name, sizes={"opt": sizes})


@pytest.mark.parametrize(
    ("expected", "actual", "largest", "relative"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0, 0.0),
        ([3.0, 4.0], [3.0, 4.5], 0.5, 0.1),
        ([0.0], [0.25], 0.25, 0.25 / 1e-30),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0, 0.0),
        ([np.inf, -np.inf], [np.inf, -np.inf], 0.0, 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf, np.inf),
        ([np.inf], [-np.inf], np.inf, np.inf),
        ([1.0], [np.nan], np.inf, np.inf),
        ([], [], 0.0, 0.0),
        ([True, False], [True, True], 1.0, 1.0),
    ],
)
def test_differences(
    check: ModuleType, expected: Any, actual: Any, largest: float, relative: float
) -> None:
    found = check.measure(np.array(expected), np.array(actual))
    assert found["max_abs"] == pytest.approx(largest)
    assert found["rel"] == pytest.approx(relative)


def test_what_depends_on_the_machine_is_removed(check: ModuleType) -> None:
    model = doubling(2)
    branch = helper.make_graph([doubling(2).graph.node[0]], "branch", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("body", branch, doc_string="/home"))
    model.opset_import.append(helper.make_opsetid("unused", 1))
    check.tidy(model)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert b"/home" not in model.SerializeToString()
    assert b"stack_trace" not in model.SerializeToString()


def test_functions_of_the_file_are_inlined(check: ModuleType) -> None:
    opset = helper.make_opsetid("", 17)
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model = doubling(2)
    model.graph.node[0].CopyFrom(helper.make_node("Twice", ["x"], ["y"], domain="own"))
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model = check.inlined(model)
    check.tidy(model)
    assert [(node.domain, node.op_type) for node in model.graph.node] == [("", "Add")]
    assert len(model.functions) == 0
    onnx.checker.check_model(model)


def test_symbols_of_the_exporter_become_our_names(check: ModuleType) -> None:
    model = doubling("s0")
    outputs = [("y", ["batch", 3])]
    assert check.set_axes(model, [entry("x", [2, 3])], {"x": {0: "batch"}}, outputs) == []
    assert check.interface(model) == {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
    }


def test_a_dimension_fixed_by_the_exporter_is_an_error(check: ModuleType) -> None:
    with pytest.raises(Exception, match="dimension 0 of input `x` is fixed at 2") as caught:
        check.set_axes(doubling(2), [entry("x", [2, 3])], {"x": {0: "batch"}}, [("y", [2, 3])])
    assert caught.value.kind == "frozen-dimension"  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="fixed at 2 in the exported graph, asked was 5"):
        check.set_axes(doubling(2), [entry("x", [5, 3])], {"x": {}}, [("y", [2, 3])])


def test_outputs_are_compared_at_every_shape(check: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(doubling("batch"), path)
    notes: list[str] = []
    name, run = check.reference(str(path), 10, notes)
    assert name.startswith("onnxruntime ")
    assert notes == []
    cases = []
    for size in (2, 1):
        x = np.ones((size, 3), np.float32)
        cases.append(
            SimpleNamespace(name=f"n{size}", text="x", feed={"x": x}, outputs=[("y", x + x)])
        )
    assert check.compare(run, ["x"], cases, {"rel": 1e-3}) == {"y": {"max_abs": 0.0, "rel": 0.0}}
    cases[1].outputs = [("y", np.full((1, 3), 3, np.float32))]
    with pytest.raises(Exception, match=r"at the n1 shapes .* max abs 1, relative 0.333") as caught:
        check.compare(run, ["x"], cases, {"rel": 1e-3})
    assert caught.value.kind == "mismatch"  # type: ignore[attr-defined]
    cases[1].outputs = [("y", np.ones((3, 3), np.float32))]
    with pytest.raises(Exception, match=r"output `y` is 1x3 at .* in PyTorch it is 3x3"):
        check.compare(run, ["x"], cases, {"rel": 1e-3})


def test_without_onnxruntime_the_reference_of_onnx_runs_small_models(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(doubling("batch"), path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    notes: list[str] = []
    name, run = check.reference(str(path), 10, notes)
    assert name.startswith("onnx.reference ")
    assert run({"x": np.ones((1, 3), np.float32)})[0].tolist() == [[2, 2, 2]]
    assert check.reference(str(path), 10**9, notes) is None
    assert notes[-2:] == [
        "onnxruntime is not in this environment",
        "the model is too big for onnx.reference",
    ]


def test_a_stamp_replaces_what_the_exporter_wrote_and_is_sorted(check: ModuleType) -> None:
    model = doubling(2)
    model.metadata_props.add(key="old", value="x")
    check.stamp(onnx, model, {"b": "text", "a": [1, {"z": 1, "y": 2}]})
    found = [(prop.key, prop.value) for prop in model.metadata_props]
    assert found == [("a", '[1, {"y": 2, "z": 1}]'), ("b", "text")]
