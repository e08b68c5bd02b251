"""infer on this machine's GPU: the example models see what ONNX Runtime sees, from files to files.

docs/gpu.md tells how to run, and the variables.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_runs import (
    ENVIRONMENTS,
    ROOT,
    environments,
    example_engine,
    held_out_pictures,
    record,
    relative_error,
    trtenv,
)
from PIL import Image

pytestmark = pytest.mark.gpu

DATA = ROOT / "examples" / "data"
# TensorRT says why it does not load an engine; trtenv says what to do. The words of 8.5 and 8.6.
EXPLAINED = re.compile("error: .*(another generation|another version)")


def infer(engine: Path, source: str, name: str, *options: str, code: int = 0) -> str:
    done = trtenv(
        "infer", str(engine), "-i", source, "-o", name, "--runner", "venv", "--force", *options,
        cwd=engine.parent,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def speed(folder: Path) -> float:
    return float(json.loads((folder / "infer.json").read_text())["run"]["images_per_second"])


def classes(folder: Path) -> np.ndarray:
    return np.array([entry["top"][0]["class"] for entry in results(folder)])


@environments
@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("fp32", ()),
        ("fp16", ()),
        ("fp16", ("--cuda-graph",)),
        ("fp16", ("--device-memory", "driver")),
    ],
    ids=["fp32", "fp16", "graph", "driver"],
)
def test_digits_from_files(
    tmp_path: Path, environment: str, precision: str, options: tuple[str, ...]
) -> None:
    """599 pictures in batches of 32: the last one is of 23."""
    engine = example_engine(environment, "digits", precision, tmp_path)
    labels = np.array(held_out_pictures(tmp_path / "in"))
    flags = ("--task", "classify", "--save", "json", "--batch", "32")
    infer(engine, "in", "engine", *flags, *options)
    infer(engine, "in", "onnx", *flags, "--runtime", "onnxruntime", "--env", environment)
    found, expected = classes(tmp_path / "engine"), classes(tmp_path / "onnx")
    told = json.loads((tmp_path / "engine" / "infer.json").read_text())
    record(
        test="infer-digits", case=precision, environment=environment, options=list(options),
        accuracy=float((found == labels).mean()), same=float((found == expected).mean()),
        images_per_second=speed(tmp_path / "engine"), runner=told["run"]["runner"],
    )  # fmt: skip
    assert (found == labels).mean() >= (expected == labels).mean() - 0.01
    assert (found == expected).mean() > 0.99
    assert told["environment"]["name"] == environment


def overlap(one: list[float], other: list[float]) -> float:
    left, top, right, bottom = (
        np.maximum(one, other)[:2].tolist() + np.minimum(one, other)[2:].tolist()
    )
    inner = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return inner / (sum(areas) - inner)


@environments
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["detect", "segment"])
def test_coins_from_files(tmp_path: Path, environment: str, kind: str, precision: str) -> None:
    engine = example_engine(environment, f"coins_{kind}", precision, tmp_path)
    flags = ("--task", kind, "--size", "128x128", "--save", "json,pictures,sheet")
    said = infer(engine, str(DATA / "coins*.png"), "engine", *flags)
    more = ("--runtime", "onnxruntime", "--env", environment)
    infer(engine, str(DATA / "coins*.png"), "onnx", *flags, *more)
    pairs = zip(results(tmp_path / "engine"), results(tmp_path / "onnx"), strict=True)
    for found, expected in pairs:
        if kind == "detect":
            boxes = [[box["box"] for box in entry["detections"]] for entry in (found, expected)]
            assert len(boxes[0]) == len(boxes[1])
            least = min(map(overlap, *boxes))
        else:
            shares = [[part["share"] for part in entry["classes"]] for entry in (found, expected)]
            least = 1 - float(np.abs(np.subtract(*shares)).max())
        record(
            test=f"infer-coins-{kind}", case=precision, environment=environment,
            file=found["file"], least=least,
        )  # fmt: skip
        assert least > 0.98, said
    assert (tmp_path / "engine" / "sheet.png").is_file()


@environments
def test_resnet18_from_files(tmp_path: Path, environment: str) -> None:
    """Random weights: what counts is that both say the same of noise in many colours and sizes."""
    engine = example_engine(environment, "resnet18", "fp16", tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(40):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        size = (260 + 9 * number, 300 + 5 * number)
        coarse.resize(size).save(tmp_path / "in" / f"{number:02d}.jpg")
    flags = ("--task", "classify", "--save", "json,npz")
    infer(engine, "in", "engine", *flags)
    infer(engine, "in", "onnx", *flags, "--runtime", "onnxruntime", "--env", environment)
    errors = []
    for path in (tmp_path / "engine").rglob("*.npz"):
        arrays = [
            np.load(tmp_path / name / path.relative_to(tmp_path / "engine"))["logits"]
            for name in ("engine", "onnx")
        ]
        errors.append(relative_error(*arrays))
    same = float((classes(tmp_path / "engine") == classes(tmp_path / "onnx")).mean())
    record(test="infer-resnet18", environment=environment, same=same, relative_error=max(errors))
    assert len(errors) == 40
    assert max(errors) < 5e-3
    assert same > 0.9


def test_an_engine_of_another_version(tmp_path: Path) -> None:
    """check refuses it before anything is started; --unchecked has TensorRT's words explained."""
    if len(ENVIRONMENTS) < 2:
        pytest.skip("one environment is no other")
    for environment, other in (ENVIRONMENTS[:2], ENVIRONMENTS[1::-1]):
        folder = tmp_path / environment
        folder.mkdir()
        engine = example_engine(environment, "digits", "fp32", folder)
        flags = ("--task", "classify", "--env", other)
        picture = str(DATA / "digit_3.png")
        refused = infer(engine, picture, "refused", *flags, code=7)
        assert "will not run" in refused
        assert "trtenv build" in refused
        explained = infer(engine, picture, "tried", *flags, "--unchecked", code=6)
        record(test="infer-other-version", environment=environment, other=other, said=explained)
        assert EXPLAINED.search(explained)
