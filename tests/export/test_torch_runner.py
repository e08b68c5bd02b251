"""PyTorch as a runner of infer, verify and bench, by the torch under test."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from digits_onnx import EXAMPLES, pictures, write_digits
from exporting import HERE, WORKER

pytestmark = pytest.mark.venv

TWO = """
import torch

class Model(torch.nn.Module):
    def forward(self, ids, mask):
        return {"a": ids * mask, "b": ids.sum()}

model = Model
"""
NAMED = [
    {"name": "tokens", "dtype": "int64", "shape": [-1, 4]},
    {"name": "weights", "dtype": "float32", "shape": [-1, 4]},
]


def run(
    python: str, folder: Path, model: dict[str, Any], feed: dict[str, Any], **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {"kind": "python", "factory": None, **model}
    params = {"runtime": "torch", "model": spec, "inputs": None, "outputs": None, **more}
    (folder / "params.json").write_text(json.dumps(params))
    np.savez(folder / "in.npz", **feed)
    argv = [python, HERE / "run_torch.py", WORKER.parent, folder / "params.json"]
    argv += [folder / "in.npz", folder]
    said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    told = json.loads(said)
    assert not list(folder.glob(".work-*"))
    if "error" in told:
        return told, {}
    with np.load(folder / "out.npz") as found:
        return told, dict(found)


def test_it_computes_what_the_exported_file_does(torch_python: str, tmp_path: Path) -> None:
    model = {
        "path": str(EXAMPLES / "digits.py"),
        "weights": str(EXAMPLES / "digits.safetensors"),
    }
    feed = {"image": pictures()}
    told, found = run(torch_python, tmp_path, model, feed)
    assert told == {
        "inputs": [["image", "float32", [-1, 1, 32, 32]]],
        "outputs": [["logits", "float32", [-1, 10]]],
        "runtime": "torch",
    }
    session = onnxruntime.InferenceSession(write_digits(tmp_path / "digits.onnx"))
    (expected,) = session.run(None, feed)
    assert found["logits"] == pytest.approx(expected, abs=1e-3)


def test_it_takes_the_names_and_types_of_an_engine(torch_python: str, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(TWO)
    names = {"inputs": NAMED, "outputs": ["product", "sum"]}
    feed = {"tokens": np.full((3, 4), 2), "weights": np.full((3, 4), 0.5, np.float32)}
    told, found = run(torch_python, tmp_path, {"path": str(path)}, feed, **names)
    assert [entry[0] for entry in told["inputs"]] == ["tokens", "weights"]
    assert told["outputs"] == [["product", "float32", [-1, 4]], ["sum", "int64", []]]
    assert (found["product"] == 1).all()
    assert found["sum"] == 24
    feed["weights"] = feed["weights"][:2]
    assert "forward" in run(torch_python, tmp_path, {"path": str(path)}, feed, **names)[0]["error"]
