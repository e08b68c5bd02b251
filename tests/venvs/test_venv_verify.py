"""verify from the command line, in real environments: ONNX Runtime stands in the engine's place, since no
TensorRT runs without a GPU; an engine is rebuilt for a bisection by TensorRT-RTX, which builds without."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from digits_onnx import EXAMPLES, PICTURES, write_digits
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from trtenv.catalog.load import default_catalog
from trtenv.catalog.resolve import Wish
from trtenv.pipeline.bisect import rebuild
from trtenv.pipeline.place import Place, Settings
from trtenv.pipeline.running import read_subject
from trtenv.pipeline.staging import staging_folder
from trtenv.runners.protocol import Job

pytestmark = pytest.mark.venv

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "verify.schema.json").read_text())
SHAPES = ["--shapes", "image:1x1x32x32..4x1x32x32..8x1x32x32"]
HERE = ["--runner", "venv", "--env", "rtx-1.7"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    folder = tmp_path / "mein Ordner ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def verify(*argv: str, code: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "trtenv", "verify", *argv, *HERE, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert found["verdict"] == ("differs" if code else "agrees")
    return found


def damaged(path: Path, target: Path) -> Path:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            weights = numpy_helper.to_array(tensor).copy()
            weights[3] *= 2
            tensor.CopyFrom(numpy_helper.from_array(weights, "w2"))
    target.parent.mkdir(exist_ok=True)
    onnx.save(model, target)
    return target


def write(path: Path, nodes: list[onnx.NodeProto], ends: list[Any], weights: dict[str, Any]) -> str:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in ends]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    imports = [helper.make_opsetid("", 17)]
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return str(path)


def test_an_onnx_file_agrees_with_its_pytorch_model(folder: Path) -> None:
    write_digits(folder / "digits.onnx")
    torch = [
        "--against",
        f"{EXAMPLES}/digits.py:model",
        "--weights",
        f"{EXAMPLES}/digits.safetensors",
    ]
    found = verify("digits.onnx", *torch, *SHAPES)
    assert found["outputs"][0]["rel"] < 1e-5
    assert found["reference"]["ran"]["runtime"] == "torch"
    pictures = [f"{EXAMPLES}/data/digit_{digit}.png" for digit in PICTURES]
    inputs = [part for path in pictures for part in ("--inputs", path)]
    shown = verify("digits.onnx", *torch, *inputs, "--task", "classify")
    assert (shown["inputs"]["items"], shown["outputs"][0]["top1"]) == (4, 1)


@pytest.mark.parametrize("target", ["damaged.onnx", "other/sound.onnx"], ids=["one", "two"])
def test_bisection_finds_the_damaged_node(folder: Path, target: str) -> None:
    """In one session, and in two: files of one name would take each other's place."""
    sound = write_digits(folder / "sound.onnx")
    bad = damaged(sound, folder / target)
    found = verify(str(bad), "--against", str(sound), *SHAPES, "--bisect", code=12)
    first = found["bisection"]["first"]
    assert (first["tensor"], first["node"], first["op"]) == ("c2", "conv2", "Conv")
    assert not found["bisection"]["vanished"]
    loose = verify(str(bad), "--against", str(sound), *SHAPES, "--tolerance", "rel=0.5", "--bisect")
    assert loose["bisection"] is None


def test_accuracy_of_classes(folder: Path) -> None:
    sound = write_digits(folder / "sound.onnx")
    model = onnx.load(sound)
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # every class is taken for another
    for tensor in model.graph.initializer:
        if tensor.name in "wb":
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array[order].copy(), tensor.name))
    onnx.save(model, folder / "wrong.onnx")
    for digit in PICTURES:
        (folder / "pictures" / str(digit)).mkdir(parents=True)
        shutil.copy(EXAMPLES / "data" / f"digit_{digit}.png", folder / "pictures" / str(digit))
    given = ["--against", str(sound), "--task", "classify", "--labels", "pictures"]
    given += ["--tolerance", "rel=none", "--max-drop", "1"]
    right = verify("sound.onnx", *given)["metric"]
    assert right["subject"] == right["reference"] == {"top1": 1, "top5": 1}
    wrong = verify("wrong.onnx", *given, code=12)
    assert wrong["metric"]["subject"]["top1"] == 0
    assert wrong["reasons"] == ["top1 drops by 100 points, allowed 1"]


def detector(path: Path, shift: float) -> str:
    """YOLOv8's layout: two sure boxes of two classes, whatever the image; `shift` in pixels."""
    rows = [[8, 8, 8, 8, 0.9, 0], [24, 24, 8, 8, 0.1, 0.8], [8, 24, 4, 4, 0, 0], [1, 1, 1, 1, 0, 0]]
    boxes = np.array(rows, np.float32).T[None].copy()
    boxes[:, 0] += shift
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["m"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["m", "axis"], ["s"]),
        helper.make_node("Mul", ["s", "zero"], ["z"]),
        helper.make_node("Add", ["z", "boxes"], ["predictions"]),
    ]
    weights = {"axis": np.array([3]), "zero": np.float32(0), "boxes": boxes}
    ends = [("image", ["n", 3, 32, 32]), ("predictions", ["n", 6, 4])]
    return write(path, nodes, ends, weights)


@pytest.mark.parametrize("labels", ["yolo", "coco.json"])
def test_accuracy_of_boxes(folder: Path, labels: str) -> None:
    reference = detector(folder / "d.onnx", 0)
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "yolo").mkdir()
    listed, boxes = [], []
    for number in range(4):
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        listed.append({"id": 10 + number, "file_name": f"{number}.png"})
        if number == 3:  # nothing is in it: both find two boxes too many
            continue
        text = "0 .25 .25 .25 .25\n1 .75 .75 .25 .25\n"
        (folder / "yolo" / f"{number}.txt").write_text(text)
        for kind, corner in ((3, 4), (7, 20)):
            box = {"image_id": 10 + number, "category_id": kind, "bbox": [corner, corner, 8, 8]}
            boxes.append({"id": len(boxes) + 1, **box})
    kinds = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]
    document = {"images": listed, "annotations": boxes, "categories": kinds}
    (folder / "coco.json").write_text(json.dumps(document))
    given = ["--inputs", "images", "--task", "detect", "--labels", labels]
    given += ["--against", reference, "--tolerance", "rel=none", "--max-drop", "1"]
    same = verify(reference, *given)["metric"]
    assert same["samples"] == 4
    assert same["subject"] == same["reference"]
    assert same["subject"]["map50"] == same["subject"]["map50_95"] > 0.7
    # Moved by 1 of 8 pixels, boxes overlap by 7/9: right at 0.5 to 0.75, wrong from 0.8 on.
    moved = verify(detector(folder / "moved" / "d.onnx", 1), *given, code=12)["metric"]
    assert moved["difference"]["map50"] == 0
    assert moved["subject"]["map50_95"] == pytest.approx(
        0.6 * same["subject"]["map50_95"], abs=1e-6
    )


def test_accuracy_of_masks(folder: Path) -> None:
    def model(name: str, level: float) -> str:
        nodes = [
            helper.make_node("Sub", ["image", "level"], ["b"]),
            helper.make_node("Neg", ["b"], ["a"]),
            helper.make_node("Concat", ["a", "b"], ["mask"], axis=1),
        ]
        ends = [("image", ["n", 1, 16, 16]), ("mask", ["n", 2, 16, 16])]
        return write(folder / name, nodes, ends, {"level": np.float32(level)})

    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    right = total = 0
    for number in range(5):
        pixels = random.integers(0, 256, (16, 16), np.uint8)
        truth = (pixels > 127).astype(np.uint8)
        truth[0] = 255  # not labelled
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(truth).save(folder / "masks" / f"{number}.png")
        right += int(((pixels[1:] / 255 > 0.8) == truth[1:]).sum())
        total += truth[1:].size
    given = ["--inputs", "images", "--task", "segment", "--labels", "masks"]
    given += ["--tolerance", "rel=none", "--against", model("s.onnx", 0.5)]
    found = verify(model("t.onnx", 0.8), *given)["metric"]
    assert found["reference"] == {"miou": 1, "pixel_accuracy": 1}
    assert found["subject"]["pixel_accuracy"] == pytest.approx(right / total)
    verify("t.onnx", *given, "--min-metric", "90", code=12)


def test_an_engine_is_rebuilt_with_marked_tensors(folder: Path) -> None:
    write_digits(folder / "digits.onnx")
    build = ["build", "digits.onnx", *SHAPES, *HERE, "--precision", "fp16", "-o", "d.engine"]
    subprocess.run([sys.executable, "-m", "trtenv", *build], check=True)
    subject = read_subject("d.engine")
    settings = Settings(catalog=default_catalog(), runner="venv", lock=folder / "trtenv.lock")
    place = Place(settings.resolve(Wish(environment="rtx-1.7")), settings, settings.options)
    with staging_folder(folder) as staging, place.session(staging) as session:
        mark = {"onnx": str(folder / "digits.onnx"), "mark": ["r0", "c2"], "output": "m.onnx"}
        made = session.run(Job("runtime.marking", mark), lambda event: None)
        target = session.staging / "jobs" / "look-1" / "marked.engine"
        target.parent.mkdir(parents=True)
        rebuild(subject, place, made.out / "m.onnx", target, session)
        stamp = json.loads(target.with_name("marked.engine.json").read_text())
    outputs = [entry["name"] for entry in stamp["engine"]["outputs"]]
    assert outputs == ["logits", "r0", "c2"]
    assert stamp["build"]["wishes"] == {"accept_precision": "any", "precision": "fp16"}
    assert stamp["engine"]["profiles"] == subject.stamp["engine"]["profiles"]
