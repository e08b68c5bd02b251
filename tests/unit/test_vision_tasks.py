"""The three tasks from image to result, on what the example models said of the example images.

tests/data/examples_outputs.npz: the outputs of `trtenv convert examples/NAME.py:model` in ONNX Runtime
for digit_{0,3,5,8}.png and coins.png of examples/data.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import images, tasks
from worker import JobError

ROOT = Path(trtenv.__file__).parents[1]
EXAMPLES = ROOT / "examples" / "data"


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: list[int]
    minimum: list[int] | None = None
    optimum: list[int] | None = None
    maximum: list[int] | None = None


def tensor(*shape: int) -> Tensor:
    return Tensor("image", "float32", list(shape))


def make(kind: str, wanted: Tensor, **card: Any) -> tasks.Task:
    options = card.pop("options", {})
    return tasks.make_task({"kind": kind, **card}, wanted, card.pop("outputs", []), options)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "data" / "examples_outputs.npz") as archive:
        return {name: archive[name] for name in archive.files}


def placed(task: tasks.Task, *names: str) -> list[Any]:
    found = [images.decode(str(EXAMPLES / name)) for name in names]
    batch = np.empty(task.shape(len(found), task.frame(found[0])), np.float32)
    return [task.prepare(image, out) for image, out in zip(found, task.views(batch), strict=True)]


def test_digits(recorded: dict[str, np.ndarray]) -> None:
    task = make("classification", tensor(-1, 1, 32, 32), labels=[f"d{i}" for i in range(10)])
    placements = placed(task, *(f"digit_{number}.png" for number in (0, 3, 5, 8)))
    results = task.finish({"logits": recorded["digits.logits"]}, placements)
    top = [result.to_dict(task.labels)["top"] for result in results]
    assert [entry[0]["label"] for entry in top] == ["d0", "d3", "d5", "d8"]
    assert all(len(entry) == 5 and entry[0]["score"] > 0.8 for entry in top)
    padded = np.concatenate([recorded["digits.logits"], np.full((3, 10), np.nan, np.float32)])
    assert len(task.finish({"logits": padded}, placements)) == 4


def test_coins(recorded: dict[str, np.ndarray]) -> None:
    """The two models were trained apart, and agree."""
    task = make("detection", tensor(-1, 1, 128, 128), labels=["coin"])
    placements = placed(task, "coins.png")
    found = task.finish({"predictions": recorded["coins_detect.predictions"]}, placements)[0]
    assert len(found.boxes) == 4
    assert found.scores.min() > 0.9
    assert [entry["label"] for entry in found.to_dict(task.labels)["detections"]] == ["coin"] * 4
    assert found.masks is None

    task = make("segmentation", tensor(-1, 1, 128, 128), labels=["background", "coin"])
    result = task.finish({"mask": recorded["coins_segment.mask"]}, placed(task, "coins.png"))[0]
    inside = np.zeros((128, 128), bool)
    for left, top, right, bottom in np.rint(found.boxes).astype(int):
        inside[top:bottom, left:right] = True
        assert 0.6 < result.mask[top:bottom, left:right].mean() < 0.9  # a disc in a square: 0.785
    assert (result.mask[~inside] == 1).mean() < 0.02
    assert result.to_dict(task.labels)["classes"][1]["label"] == "coin"
    assert sum(result.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("declared", "scores", "expected"),
    [
        (None, [[0.1, 0.2, 0.7]], [0.7, 0.2, 0.1]),
        (None, [[1.0, 2.0, 3.0]], [0.6652, 0.2447, 0.09]),
        ("logits", [[0.1, 0.2, 0.7]], [0.4640, 0.2814, 0.2546]),
        ("probabilities", [[0.2, 0.2, 0.9]], [0.9, 0.2, 0.2]),
        (None, [[1000.0, 0.0, -1000.0]], [1, 0, 0]),
        (None, [[np.inf, np.nan, 0.0]], [1, 0]),
        (None, [[np.nan, np.nan, np.nan]], []),
        (None, [[-np.inf, -np.inf, 0.0]], [1, 0, 0]),
        (None, [[0.0]], [0.5, 0.5]),
        ("probabilities", [[0.9]], [0.9, 0.1]),
        (None, [[-900.0]], [1, 0]),
    ],
)
@pytest.mark.parametrize("shape", [(1, -1), (1, -1, 1, 1)])
def test_scores(declared: Any, scores: Any, expected: list[float], shape: Any) -> None:
    task = make("classification", tensor(1, 1, 32, 32), layout=declared)
    result = task.finish(
        {"out": np.array(scores, np.float32).reshape(shape)}, placed(task, "digit_0.png")
    )[0]
    assert result.scores.tolist() == pytest.approx(expected, abs=2e-4)
    assert result.dropped == np.isnan(scores).sum()
    json.dumps(result.to_dict(), allow_nan=False)


def test_top_k_is_bounded() -> None:
    task = make("classification", tensor(1, 1, 32, 32), options={"top_k": 2})
    result = task.finish({"out": np.arange(9, dtype="f4")[None]}, placed(task, "digit_0.png"))[0]
    assert result.indices.tolist() == [8, 7]


MAP = np.array([[0, 1], [2, 1]])


@pytest.mark.parametrize(
    "output",
    [
        np.eye(3, dtype=np.float32)[MAP].transpose(2, 0, 1)[None],  # NxCxHxW
        MAP.astype(np.int64)[None],
        MAP.astype(np.uint8)[None, None],
        MAP.astype(np.float32)[None],  # classes in a tensor of floats
        MAP[None].astype(np.int32),
    ],
)
def test_maps_of_every_kind(output: np.ndarray) -> None:
    task = make("segmentation", tensor(1, 1, 32, 32))
    result = task.finish({"out": output}, placed(task, "digit_0.png"))[0]
    assert np.array_equal(result.mask[[0, 0, -1, -1], [0, -1, 0, -1]], MAP.ravel())
    assert result.mask.shape == (32, 32)
    assert set(result.shares) == {0, 1, 2}


def test_channels_may_be_last() -> None:
    output = np.eye(3, dtype=np.float32)[MAP][None]
    for wanted, labels in ((tensor(1, 32, 32, 1), None), (tensor(1, 1, 32, 32), ["a", "b", "c"])):
        if labels:
            output = np.repeat(np.repeat(output, 2, 1), 3, 2)  # 4x6, so that 3 can only be classes
        task = make("segmentation", wanted, labels=labels)
        result = task.finish({"out": output}, placed(task, "digit_0.png"))[0]
        assert result.mask[0, 0] == 0
        assert result.mask[-1, 0] == 2


@pytest.mark.parametrize(
    ("declared", "values", "expected"),
    [
        (None, [[0.2, 0.6]], [0, 1]),
        (None, [[-3.0, 3.0]], [0, 1]),
        ("logits", [[0.2, 0.6]], [1, 1]),
        ("probabilities", [[0.2, 0.6]], [0, 1]),
    ],
)
def test_binary_maps(declared: Any, values: Any, expected: list[int]) -> None:
    task = make("segmentation", tensor(1, 1, 32, 32), layout=declared)
    output = np.array(values, np.float32)[None, None]
    result = task.finish({"out": output}, placed(task, "digit_0.png"))[0]
    assert result.mask[0, [0, -1]].tolist() == expected


def test_instances_of_a_segmentation_have_masks() -> None:
    task = make("segmentation", tensor(1, 1, 32, 32), labels=["a", "b"])
    candidates = np.zeros((1, 4 + 2 + 3, 21), np.float32)
    candidates[0, :, 7] = [16, 16, 20, 10, 0.1, 0.9, 1, 0, 0]
    candidates[0, :, 9] = [16, 16, 20, 10, 0.6, 0.1, -1, 0, 0]  # its mask is empty
    prototypes = np.ones((1, 3, 8, 8), np.float32)
    outputs = {"protos": prototypes, "boxes": candidates}
    result = task.finish(outputs, placed(task, "digit_0.png"))[0]
    assert result.boxes.tolist() == [[6, 11, 26, 21]]
    assert result.masks is not None
    assert result.masks.shape == (1, 32, 32)
    assert result.masks.sum() == 200
    entry = result.to_dict(task.labels)["detections"][0]
    assert (entry["label"], entry["area"]) == ("b", 200)
    assert sum(entry["mask"]["counts"][1::2]) == 200


def test_lists_without_a_batch_as_torchvision_exports_them() -> None:
    task = make("detection", tensor(1, 32, 32))
    outputs = {
        "boxes": np.array([[1, 2, 11, 12], [3, 4, 50, -6.0]], np.float32),
        "labels": np.array([3, 1]),
        "scores": np.array([0.5, 0.9], np.float32),
        "masks": np.ones((2, 1, 32, 32), np.float32),
    }
    result = task.finish(outputs, placed(task, "digit_0.png"))[0]
    assert result.boxes.tolist() == [[1, 2, 11, 12]]  # the other has no height, hence no mask
    del outputs["masks"]
    result = task.finish(outputs, placed(task, "digit_0.png"))[0]
    assert result.classes.tolist() == [1, 3]
    assert result.boxes[0].tolist() == [3, 4, 32, 0]


def test_outputs_of_fewer_images_than_went_in_are_refused() -> None:
    task = make("classification", tensor(2, 1, 32, 32))
    with pytest.raises(JobError, match="fewer images than the 2"):
        task.finish({"out": np.zeros((1, 10), "f4")}, placed(task, "digit_0.png", "digit_3.png"))


def test_maps_of_no_classes_are_refused() -> None:
    task = make("segmentation", tensor(1, 1, 32, 32))
    with pytest.raises(JobError, match="no classes"):
        task.finish({"out": np.full((1, 4, 4), -1)}, placed(task, "digit_0.png"))


@pytest.mark.parametrize("kind", tasks.LAYOUTS)
def test_layouts_of_other_tasks_are_refused(kind: str) -> None:
    layout = "logits" if kind == "detection" else "efficient-nms"
    with pytest.raises(JobError, match="is none of a"):
        make(kind, tensor(1, 3, 64, 64), layout=layout)


SHAPES = {
    "classification": [(1, 10), (1, 1), (1, 3, 1, 1)],
    "detection": [(1, 5, 16), (1, 60, 7), (1, 9, 6), (1, 0, 6)],
    "segmentation": [(1, 2, 4, 4), (1, 1, 4, 4), (1, 4, 4), (1, 21, 1, 1)],
}
DECLARED = {(1, 5, 16): "yolov8", (1, 60, 7): "yolov5", (1, 9, 6): "end2end", (1, 0, 6): "end2end"}


@settings(max_examples=200, deadline=None)
@given(
    case=st.sampled_from([(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]),
    special=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e38, -1e38]), max_size=9),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 999),
)
def test_no_output_crashes_a_task(case: Any, special: list[float], dtype: str, seed: int) -> None:
    kind, shape = case
    random = np.random.default_rng(seed)
    output = random.normal(0, 3, shape).astype(np.float32)
    if output.size:
        with np.errstate(over="ignore"):
            output.ravel()[random.integers(0, output.size, len(special))] = special
            output = output.astype(dtype)
    task = make(kind, tensor(1, 1, 32, 32), layout=DECLARED.get(shape))
    result = task.finish({"out": output}, placed(task, "digit_0.png"))[0]
    json.dumps(result.to_dict(), allow_nan=False)
    if kind == "classification":
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
    if kind == "segmentation":
        assert result.dropped == np.isnan(output).sum()


@pytest.mark.parametrize(("labels", "scores", "fits"), [
    (["a", "b"], [[1.0, 2.0]], True), (["no", "yes"], [[1.0]], True),
    (["a", "b", "c"], [[1.0, 2.0]], False), (["a"], [[1.0, 2.0]], False),
])  # fmt: skip
def test_labels_are_as_many_as_classes(labels: list[str], scores: Any, fits: bool) -> None:
    task = make("classification", tensor(1, 1, 32, 32), labels=labels)
    outputs, placements = {"out": np.array(scores, np.float32)}, placed(task, "digit_0.png")
    if fits:
        assert task.finish(outputs, placements)[0].to_dict(labels)["top"][0]["label"] == labels[1]
        return
    with pytest.raises(JobError, match="the model has 2 classes"):
        task.finish(outputs, placements)


def test_an_input_too_large_for_any_image_is_refused() -> None:
    with pytest.raises(JobError, match="67 million pixels"):
        make("detection", tensor(1, 3, -1, -1), preprocess={"size": [99999, 99999]})
