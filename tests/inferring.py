"""Runs the infer job in this process: small networks that tell one image from another, and images."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from runtime import infer

CARD = {"kind": "classification", "layout": "logits", "preprocess": {"resize": "stretch"}}
Shape = Sequence[int | str]


class JobIO:
    """Keeps what a job says; on_progress may interrupt it."""

    name = "infer"

    def __init__(self, out: Path, on_progress: Callable[[int], None] = lambda done: None) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.on_progress = str(out), on_progress
        self.logs, self.phases = list[str](), list[tuple[str, int | None, int | None]]()

    def path(self, name: str) -> str:
        return str(Path(self.out) / name)

    def log(self, text: str) -> None:
        self.logs.append(text)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        self.phases.append((phase, done, total))
        self.on_progress(done or 0)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any
) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()]
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def brightness(path: Path, shape: Shape = ("n", 3, 8, 8)) -> Path:
    """image -> scores Nx2: (10 x the mean pixel, 5); a grey level shows in the score."""
    dims = [shape[0], 2]
    return save(
        path,
        [
            helper.make_node("ReduceMean", ["image"], ["m"], axes=[1, 2, 3], keepdims=1),
            helper.make_node("Flatten", ["m"], ["f"]),
            helper.make_node("Gemm", ["f", "w", "b"], ["scores"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, dims)],
        w=np.array([[10, 0]], np.float32),
        b=np.array([0, 5], np.float32),
    )


def twice(path: Path, kind: int = TensorProto.FLOAT, shape: Shape = ("n", 2)) -> Path:
    """x -> y = x + x, of any type."""
    return save(
        path,
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )


def summed(path: Path) -> Path:
    """a Nx2, b Nx2, bias 2 -> sum Nx2 and total (a scalar)."""
    return save(
        path,
        [
            helper.make_node("Add", ["a", "b"], ["ab"]),
            helper.make_node("Add", ["ab", "bias"], ["sum"]),
            helper.make_node("ReduceSum", ["sum"], ["total"], keepdims=0),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "ab"]
        + [helper.make_tensor_value_info("bias", TensorProto.FLOAT, [2])],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, []),
        ],
    )


def greys(
    folder: Path, levels: Iterable[int], size: tuple[int, int] = (8, 8)
) -> list[dict[str, Any]]:
    """Files of plain grey images, as the job's sources name them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, level in enumerate(levels):
        path = folder / f"{number:05d}.png"
        Image.new("RGB", size, (level,) * 3).save(path)
        files.append(source(path))
    return files


def source(path: Path, name: str | None = None, tensor: str | None = None) -> dict[str, Any]:
    return {"name": name or path.name, "path": str(path), "input": tensor}


def parameters(model: Path, files: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    kind = more.pop("kind", "images")
    plain: dict[str, Any] = {
        "runner": {"runtime": "onnxruntime", "path": str(model), "threads": 1},
        "task": CARD if kind == "images" else None,
        "options": {"top_k": 2},
        "size": None,
        "sources": {"kind": kind, "files": files},
        "batch": None,
        "shapes": {},
        "save": ["json"],
        "threads": 2,
        "slots": 2,
    }
    return {**plain, **more}


def run(model: Path, files: list[dict[str, Any]], out: Path, **more: Any) -> dict[str, Any]:
    values = infer.run(parameters(model, files, **more), JobIO(out))
    assert isinstance(values, dict)
    return values


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def level(entry: dict[str, Any]) -> int:
    """The grey level of an image, from the probabilities of `brightness`."""
    scores = {top["class"]: top["score"] for top in entry["top"]}
    return round(255 * (5 + float(np.log(scores[0] / scores[1]))) / 10)
