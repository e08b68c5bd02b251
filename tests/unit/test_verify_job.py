"""The verification job with ONNX Runtime on both sides: inputs, roles, labels, damage."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from digits_onnx import EXAMPLES, PICTURES, write_digits
from onnx import TensorProto, helper, numpy_helper

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from runtime import feeds, metrics, truths, verify
from runtime.runners import Tensor
from worker import JobError

LIMITS: dict[str, Any] = {"float": {"rel": 1e-4}, "integer": {"equal": 1.0}, "asked": {}}
SIZES = {"min": [1, 1, 32, 32], "opt": [4, 1, 32, 32], "max": [8, 1, 32, 32]}
CARD: dict[str, Any] = {
    "kind": "classification", "labels": None, "layout": None, "preprocess": {},
}  # fmt: skip


class IO:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.out = str(folder)
        self.logs: list[str] = []

    def path(self, name: str) -> str:
        return f"{self.out}/{name}"

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass

    def log(self, text: str) -> None:
        self.logs.append(text)


@pytest.fixture
def io(tmp_path: Path) -> IO:
    return IO(tmp_path / "out")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "sound.onnx")


def damaged(path: Path, name: str, change: Any) -> Path:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            weights = numpy_helper.to_array(tensor).copy()
            change(weights)
            tensor.CopyFrom(numpy_helper.from_array(weights, name))
    target = path.with_name("damaged.onnx")
    onnx.save(model, target)
    return target


def double(weights: np.ndarray) -> None:
    weights[3] *= 2


def params(subject: Path, reference: Path, **more: Any) -> dict[str, Any]:
    return {
        "role": "both",
        "subject": {"runtime": "onnxruntime", "path": str(subject)},
        "reference": {"runtime": "onnxruntime", "path": str(reference)},
        "inputs": {"kind": "random", "seed": 0, "samples": 2, "shapes": {"image": SIZES}},
        "task": None,
        "labels": None,
        "tolerance": LIMITS,
        "keep_worst": False,
        **more,
    }


def pictures() -> list[dict[str, Any]]:
    names = [f"digit_{digit}.png" for digit in PICTURES]
    return [{"name": name, "path": str(EXAMPLES / "data" / name), "input": None} for name in names]


def test_a_model_agrees_with_itself(sound: Path, io: IO) -> None:
    found = verify.run(params(sound, sound), io)
    assert found["agrees"]
    (output,) = found["outputs"]
    assert output["max_abs"] == 0
    assert output["top1"] == 1
    assert found["batches"] == 6  # two at each of three shapes
    assert found["ran"]["subject"]["runtime"] == "onnxruntime"
    json.dumps(found, allow_nan=False)


def test_damaged_weights_are_seen_and_the_worst_batch_is_kept(sound: Path, io: IO) -> None:
    bad = damaged(sound, "w2", double)
    found = verify.run(params(bad, sound, keep_worst=True), io)
    assert not found["agrees"]
    with np.load(io.path("worst.npz")) as kept:
        assert kept["i0"].shape[0] in (1, 4, 8)
    again = {"kind": "recorded", "path": io.path("worst.npz"), "shapes": {"image": SIZES}}
    once = verify.run(params(bad, sound, inputs=again), io)
    assert once["outputs"][0]["rel"] == found["outputs"][0]["rel"]


def test_nan_is_located_by_item_and_index(sound: Path, io: IO) -> None:
    bad = damaged(sound, "b", lambda weights: weights.__setitem__(7, np.nan))
    found = verify.run(
        params(
            bad, sound, inputs={"kind": "images", "files": pictures(), "samples": None}, task=CARD
        ),
        io,
    )
    first = found["first_nonfinite"]
    assert (first["output"], first["item"], first["index"]) == ("logits", "digit_0.png", [0, 7])
    assert found["outputs"][0]["nonfinite"]["count"] == len(PICTURES)
    json.dumps(found, allow_nan=False)


INPUTS = ["random", "arrays", "images"]


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("budget", [1, 30_000, 10**9])
def test_turns_say_what_one_job_says(sound: Path, tmp_path: Path, kind: str, budget: int) -> None:
    rows = np.random.default_rng(0).random((11, 1, 32, 32), np.float32)
    np.savez(tmp_path / "x.npz", image=rows)
    files = {
        "random": [],
        "arrays": [{"name": "x.npz", "path": str(tmp_path / "x.npz"), "input": None}],
        "images": pictures(),
    }[kind]
    inputs = {
        "kind": kind, "seed": 1, "samples": 3 if kind == "random" else None,
        "files": files, "shapes": {"image": {**SIZES, "opt": [2, 1, 32, 32]}},
    }  # fmt: skip
    bad = damaged(sound, "w2", double)
    wanted = params(bad, sound, inputs=inputs, task=CARD, keep_worst=True)
    whole = verify.run(wanted, IO(tmp_path / "whole"))
    state, start, turn, worst = None, 0, 0, None
    while start is not None:
        folder = IO(tmp_path / f"recorded-{turn}")
        made = verify.run({**wanted, "role": "record", "start": start, "budget": budget}, folder)
        start = made["next"]
        out = IO(tmp_path / f"compared-{turn}")
        role = {"role": "compare", "recorded": folder.out, "state": state, "last": start is None}
        found = verify.run({**wanted, **role}, out)
        worst = out.path("worst.npz") if found["worst_kept"] else worst
        state, turn = out.path("state.json"), turn + 1
    apart = ("ran", "environment", "worst_kept")
    assert {key: found[key] for key in found if key not in apart} == {
        key: whole[key] for key in whole if key not in apart
    }
    assert turn == {1: whole["batches"], 10**9: 1}.get(budget, turn)
    assert whole["items"] == {"random": 9, "arrays": 11, "images": 4}[kind]
    with np.load(worst) as kept, np.load(tmp_path / "whole" / "worst.npz") as same:
        assert np.array_equal(kept["i0"], same["i0"])


def test_names_that_differ_are_matched_by_order(tmp_path: Path, sound: Path, io: IO) -> None:
    other = write_digits(tmp_path / "other.onnx", name="picture")
    model = onnx.load(other)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, other)
    found = verify.run(params(sound, other), io)
    assert found["agrees"]
    assert found["outputs"][0]["reference"] == "scores"
    assert found["notes"] == [
        "`logits` is held against `scores`, by order",
        "input `image` goes into `picture` of the reference, by order",
    ]


@pytest.mark.parametrize(
    ("names", "wanted", "pairs"),
    [
        ("ab", "ba", ["aa", "bb"]),
        ("ab", "bc", ["bb", "ac"]),  # by name first: not a into b
        ("ab", "b", ["bb"]),
        ("ab", "cd", ["ac", "bd"]),
    ],
)
def test_inputs_go_by_name_and_the_rest_by_order(names: str, wanted: str, pairs: list[str]) -> None:
    def runner(inputs: str) -> Any:
        return SimpleNamespace(inputs=[tensor(name, "float32", 1) for name in inputs])

    described = {"inputs": [{"name": name} for name in names]}
    found = verify.input_names(described, runner(wanted))
    assert sorted(found) == sorted(tuple(pair) for pair in pairs)
    with pytest.raises(JobError, match="the reference takes"):
        verify.input_names(described, runner("xyz"))


def test_shapes_tell_the_size_that_images_get(tmp_path: Path, io: IO) -> None:
    """Of a model whose height and width are open; of others they are refused."""
    for name, side in (("open", None), ("fixed", 32)):
        ends = [
            helper.make_tensor_value_info(end, TensorProto.FLOAT, [None, 1, side, side])
            for end in "xy"
        ]
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])], name, ends[:1], ends[1:]
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / name)
    shape = {key: [2, 1, 24, 40] for key in ("min", "opt", "max")}
    inputs = {"kind": "images", "files": pictures(), "samples": None, "shapes": {"": shape}}
    card = {**CARD, "kind": "segmentation"}
    given = params(tmp_path / "open", tmp_path / "open", inputs=inputs, task=card)
    assert verify.run(given, io)["outputs"][0]["shape"] == [2, 1, 24, 40]
    given = params(tmp_path / "fixed", tmp_path / "fixed", inputs=inputs, task=card)
    with pytest.raises(JobError, match="2x1x24x40; the model takes"):
        verify.run(given, io)


def test_outputs_of_another_task_are_refused(sound: Path, io: IO) -> None:
    labels = {"kind": "segmentation", "format": "masks", "path": None}
    inputs = {"kind": "images", "files": pictures(), "samples": None}
    card = {**CARD, "kind": "segmentation"}
    with pytest.raises(JobError, match="are not those of a segmentation"):
        verify.run(params(sound, sound, inputs=inputs, task=card, labels=labels), io)


def test_unreadable_images_are_left_out_and_too_many_are_an_error(
    sound: Path, tmp_path: Path, io: IO
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    broken = {"name": "broken.png", "path": str(tmp_path / "broken.png"), "input": None}
    inputs = {"kind": "images", "files": [*pictures(), broken], "samples": None}
    found = verify.run(params(sound, sound, inputs=inputs, task=CARD), io)
    assert found["items"] == 4
    assert any("broken.png" in text for text in io.logs)
    inputs["files"] = [broken]
    with pytest.raises(JobError, match="more than half of the 1 images"):
        verify.run(params(sound, sound, inputs=inputs, task=CARD), io)


def test_dynamic_inputs_without_shapes_are_refused(sound: Path, io: IO) -> None:
    wanted = params(sound, sound)
    wanted["inputs"]["shapes"] = {}
    with pytest.raises(JobError, match="nothing says at which shapes") as caught:
        verify.run(wanted, io)
    assert caught.value.hint == "add --shapes image:1x1x32x32..MAX"


def test_shapes_name_inputs_or_mean_the_only_one() -> None:
    entry = tensor("x", "float32", -1, 3)
    sizes = {key: [2, 3] for key in ("min", "opt", "max")}
    assert source([entry], shapes={"": sizes}).read(0).arrays["x"].shape == (2, 3)
    with pytest.raises(JobError, match="no input is called `y`; there are `x`"):
        source([entry], shapes={"y": sizes})
    with pytest.raises(JobError, match="a shape names none"):
        source([entry, tensor("y", "float32", 1)], shapes={"": sizes})
    # One that the model does not take is for the runner to refuse, and not left aside.
    assert source([tensor("x", "f4", 1, 3)], shapes={"x": sizes}).cases[0][1][0][0] == [2, 3]


def source(tensors: list[Tensor], **spec: Any) -> Any:
    wanted = {"kind": "random", "seed": 3, "samples": 1, "shapes": {}, **spec}
    return feeds.open_source(wanted, tensors, None, None)


def tensor(name: str, dtype: str, *shape: int, ranges: list[list[int]] | None = None) -> Tensor:
    return Tensor(name, dtype, list(shape), *(ranges or [None] * 3))


@pytest.mark.parametrize(
    ("dtype", "high"),
    [("float32", 1), ("float16", 1), ("bfloat16", 1), ("int32", 1), ("int64", 1), ("bool", 1),
     ("uint8", 255), ("int8", 1)],
)  # fmt: skip
def test_random_values_suit_the_type(dtype: str, high: int) -> None:
    made = source([tensor("x", dtype, 50, 40)]).read(0).arrays["x"]
    assert made.dtype == ("float32" if dtype == "bfloat16" else dtype)
    assert made.min() >= 0
    assert high / 2 < made.max() <= high
    same = source([tensor("x", dtype, 50, 40)]).read(0).arrays["x"]
    assert np.array_equal(made, same)
    other = source([tensor("x", dtype, 50, 40)], seed=4).read(0).arrays["x"]
    assert not np.array_equal(made, other)


def test_random_batches_have_the_profiles_shapes_once_each() -> None:
    entry = tensor("x", "float32", -1, 3, ranges=[[1, 3], [4, 3], [8, 3]])
    made = source([entry], samples=2)
    assert [made.read(i).arrays["x"].shape[0] for i in range(len(made))] == [4, 1, 8, 4, 1, 8]
    assert len(source([tensor("x", "float32", 2, 3)], samples=2)) == 2
    asked = {"x": {"min": [2, 3], "opt": [2, 3], "max": [2, 3]}}
    assert source([entry], shapes=asked).read(0).arrays["x"].shape == (2, 3)


def test_inputs_whose_values_are_shapes_get_those_of_the_profile() -> None:
    values = {"size": {"min": [1, 2], "opt": [3, 4], "max": [5, 6], "values_of": [2]}}
    made = source([tensor("x", "float32", 4), tensor("size", "int32", 2)], shapes=values)
    found = [made.read(i).arrays["size"].tolist() for i in range(len(made))]
    assert found == [[3, 4], [1, 2], [5, 6]]


def test_arrays_are_cut_by_the_optimum_and_filled_up(tmp_path: Path) -> None:
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.savez(tmp_path / "x.npz", x=rows, scale=np.ones((1, 2), np.float32))
    entry = tensor("x", "float32", -1, 2, ranges=[[2, 2], [3, 2], [8, 2]])
    files = [{"name": "x.npz", "path": str(tmp_path / "x.npz"), "input": None}]
    made = source(
        [entry, tensor("scale", "float32", 1, 2)], kind="arrays", files=files, samples=None
    )
    batches = [made.read(i) for i in range(len(made))]
    assert [batch.arrays["x"][:, 0].tolist() for batch in batches] == [
        [0, 2, 4], [6, 8, 10], [12, 12],
    ]  # fmt: skip
    assert all(batch.arrays["scale"].shape == (1, 2) for batch in batches)
    assert batches[2].items == ["x.npz[6]"]
    assert batches[1].place((2, 0), (3, 9))["item"] == "x.npz[5]"
    few = source([entry, tensor("scale", "float32", 1, 2)], kind="arrays", files=files, samples=4)
    assert [len(few.read(i).items) for i in range(len(few))] == [3, 1]


def test_coco_boxes_by_name_and_class(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 5, "file_name": "a/x.png"}, {"id": 6, "file_name": "y.png"}],
        "annotations": [{"image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 9, "name": "coin"}, {"id": 2, "name": "note"}],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    notes: list[str] = []
    named = truths.Coco(str(path), ["coin", "note"], notes)
    assert named.key("photos/x.png") == "a/x.png"
    assert named.key("z.png") is None
    assert named.boxes["a/x.png"] == [
        {"category_id": 0, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    ]
    by_order = truths.Coco(str(path), ["thing"], notes)
    assert by_order.boxes["a/x.png"][0]["category_id"] == 1
    assert len(notes) == 1
    named.check_size("y.png", 40, 30)  # nothing is told of it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no COCO file"),
        ({"box": {"category_id": 8}}, "annotation 1 has category_id 8, which is not listed"),
        ({"box": {"image_id": 8}}, "annotation 1 has image_id 8, which is not listed"),
        ({"box": {"bbox": [1, 2]}}, "no COCO file of detections"),
        ({"box": {"bbox": None}}, "no COCO file of detections"),
        ({"categories": [{"id": 1}]}, "no 'name'"),
    ],
)
def test_coco_files_that_are_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], **change.get("box", {})}
    document = {
        "images": [{"id": 1, "file_name": "x.png"}], "annotations": [box],
        "categories": [{"id": 1, "name": "coin"}], **change,
    }  # fmt: skip
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    with pytest.raises(JobError, match=message):
        truths.Coco(str(path), None, [])


def test_images_of_a_coco_file_are_told_apart(tmp_path: Path) -> None:
    sizes = {"width": 40, "height": 30}
    images = [{"id": n, "file_name": f"{n}/x.png", **sizes} for n in (1, 2)]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    coco = truths.Coco(str(path), None, [])
    assert coco.key("2/x.png") == "2/x.png"
    with pytest.raises(JobError, match=r"could be 1/x\.png or 2/x\.png"):
        coco.key("x.png")
    coco.check_size("1/x.png", 30, 40)  # turned
    with pytest.raises(JobError, match="is 80x60, and the COCO file has its boxes at 40x30"):
        coco.check_size("1/x.png", 80, 60)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 300 20 10 10", "is no share of the image"),
        ("0 nan .5 .1 .1", "is no share of the image"),
        ("2 .5 .5 .1 .1", "class 2 of 2"),
        ("-1 .5 .5 .1 .1", "class -1"),
        ("0 .5 .5", "3 numbers"),
    ],
)
def test_lines_of_yolo_that_are_wrong(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(line)
    with pytest.raises(JobError, match=message):
        list(truths.yolo_boxes(str(path), 40, 80, ["a", "b"]))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(JobError, match="no file of YOLO labels"):
        list(truths.yolo_boxes(str(path), 40, 80))


def test_top_5_counts_no_class_that_was_not_guessed() -> None:
    """Where scores are NaN there are fewer guesses than five, or none."""
    spec = {"kind": "classification", "format": "indices", "path": None}
    metric = metrics.open_metric(spec, [str(n) for n in range(10)])
    guesses = [[9, 1, 2, 3, 4], [3], []]
    for truth, found in zip([4, 9, 8], guesses, strict=True):
        for side in metric.sides:
            metric.count(side, truth, SimpleNamespace(indices=found), "x.png")
    assert metric.measured("subject") == {"top1": 0, "top5": pytest.approx(1 / 3)}


def test_masks_hold_classes_of_the_model_at_the_size_of_the_image(tmp_path: Path) -> None:
    from PIL import Image

    spec = {"kind": "segmentation", "format": "masks", "path": None}
    metric = metrics.open_metric(spec, ["none", "coin"])
    for pixels, size, message in (
        ([[0, 200]], (1, 2), "has class 200, and the model has 2"),
        ([[0, 1]], (2, 1), "is 1x2, its image 2x1"),
    ):
        Image.fromarray(np.array(pixels, np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(JobError, match=message):
            metric.read(str(tmp_path / "m.png"), size)


def test_yolo_boxes_are_shares_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("0 0.5 0.5 0.5 0.25\n\n2 0.1 0.1 0.5 0.1 0.5 0.3\n")
    first, second = truths.yolo_boxes(str(path), 40, 80)
    assert first == {"category_id": 0, "bbox": [20, 15, 40, 10], "area": 400, "iscrowd": 0}
    assert second["category_id"] == 2
    assert second["bbox"] == pytest.approx([8, 4, 32, 8])
    assert list(truths.yolo_boxes("", 40, 80)) == []
    path.write_text("cat 1 2 3 4\n")
    with pytest.raises(JobError, match="no file of YOLO labels"):
        list(truths.yolo_boxes(str(path), 40, 80))


def test_masks_are_indices(tmp_path: Path) -> None:
    from PIL import Image

    mask = np.array([[0, 1], [2, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert truths.read_mask(str(tmp_path / "m.png")).tolist() == mask.tolist()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(JobError, match="coloured image"):
        truths.read_mask(str(tmp_path / "m.png"))


def test_a_model_of_two_inputs_takes_no_images(tmp_path: Path, io: IO) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "abo"]
    node = helper.make_node("Add", ["a", "b"], ["o"])
    graph = helper.make_graph([node], "g", ends[:2], ends[2:])
    path = tmp_path / "two.onnx"
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    inputs = {"kind": "images", "files": pictures(), "samples": None}
    with pytest.raises(JobError, match="images are one input"):
        verify.run(params(path, path, inputs=inputs, task=CARD), io)
