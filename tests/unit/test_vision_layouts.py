"""Which output means what: told from shapes, names and types, or asked for; never guessed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import layouts
from worker import JobError

COCO = [str(index) for index in range(80)]
COIN = ["coin"]


def outputs(**shapes: Any) -> dict[str, np.ndarray]:
    """Of float32, or of int32 where a shape is given as a list."""
    return {
        name: np.zeros(shape, np.int32 if isinstance(shape, list) else np.float32)
        for name, shape in shapes.items()
    }


def told(
    kind: str, found: Any, labels: Any = None, frame: Any = (640, 640), declared: Any = None
) -> Any:
    return layouts.told(kind, declared, found, labels, frame)


@pytest.mark.parametrize(
    ("shape", "labels", "frame", "expected"),
    [
        ((1, 84, 8400), None, (640, 640), "yolov8"),
        ((1, 84, 8400), COCO, (640, 640), "yolov8"),
        ((2, 84, 6300), None, (480, 640), "yolov8"),
        ((1, 84, 33600), None, (1280, 1280), "yolov8"),  # four levels
        ((1, 5, 256), COIN, (128, 128), "yolov8"),  # the example: one level
        ((1, 5, 256), None, (128, 128), "yolov8"),
        ((1, 5, 16), None, (32, 32), "yolov8"),
        ((1, 605, 84), [""] * 601, (64, 64), "yolov8"),  # more classes than candidates
        ((1, 25200, 85), None, (640, 640), "yolov5"),
        ((1, 25200, 85), COCO, (640, 640), "yolov5"),
        ((1, 25200, 6), None, (640, 640), "yolov5"),  # one class: as wide as end-to-end
        ((1, 102000, 85), None, (1280, 1280), "yolov5"),
        ((1, 8400, 85), COCO, (640, 640), "yolov5"),  # YOLOX: one anchor
        ((1, 252, 605), [""] * 600, (64, 64), "yolov5"),
        ((1, 300, 6), None, (640, 640), "end2end"),
        ((1, 300, 6), COCO, (640, 640), "end2end"),
        ((4, 100, 6), COIN, (640, 640), "end2end"),
        ((1, 777, 84), COCO[:79], (640, 640), "yolov5"),  # own strides: the labels decide
    ],
)
def test_yolo_is_told_from_its_shape(shape: Any, labels: Any, frame: Any, expected: str) -> None:
    layout = told("detection", outputs(output0=shape), labels, frame)
    assert layout == layouts.Layout(expected, {"candidates": "output0"}, 0)


@pytest.mark.parametrize(
    ("shape", "labels", "frame"),
    [
        ((1, 300, 84), COCO, (640, 640)),  # neither 85 nor rows of 84: another family
        ((1, 300, 84), None, (640, 640)),
        ((1, 100, 100), None, (640, 640)),
        ((1, 5, 6), None, (16, 24)),
        ((1, 300, 6), None, (128, 160)),  # 100 cells of three anchors, or 300 final boxes
        ((1, 84, 8400), ["a", "b"], (640, 640)),
        ((1, 3, 2), None, (640, 640)),
        ((1, 80, 80, 255), None, (640, 640)),
    ],
)
def test_what_is_not_clear_is_asked_for(shape: Any, labels: Any, frame: Any) -> None:
    with pytest.raises(JobError, match="cannot be read as a detection") as caught:
        told("detection", outputs(output0=shape), labels, frame)
    assert caught.value.kind == "layout"
    assert "--layout yolov8, yolov5, end2end" in str(caught.value.hint)
    assert str(list(shape)) in caught.value.message


def test_a_declared_layout_is_taken_where_it_can_be() -> None:
    found = outputs(output0=(1, 300, 6))
    for declared in ("yolov5", "end2end", "yolov8"):
        assert told("detection", found, None, (128, 160), declared).name == declared
    with pytest.raises(JobError, match="300x84 is not of layout end2end"):
        told("detection", outputs(output0=(1, 300, 84)), None, declared="end2end")
    with pytest.raises(JobError, match="80 classes here, and there are 1 labels"):
        told("detection", outputs(output0=(1, 84, 8400)), COIN, declared="yolov8")


@pytest.mark.parametrize(
    ("shape", "labels", "expected"),
    [
        ((1, 116, 8400), None, "yolov8"),
        ((1, 37, 8400), COIN, "yolov8"),
        ((1, 25200, 117), COCO, "yolov5"),
        ((1, 300, 38), COCO, "end2end"),
    ],
)
@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_prototypes_are_masks(shape: Any, labels: Any, expected: str, kind: str) -> None:
    layout = told(kind, outputs(output1=(1, 32, 160, 160), output0=shape), labels)
    roles = {"candidates": "output0", "prototypes": "output1"}
    assert layout == layouts.Layout(expected, roles, 32)


def test_raw_heads_beside_the_candidates_are_left_alone() -> None:
    heads = {f"head{side}": (1, 3, side, side, 85) for side in (80, 40, 20)}
    layout = told("detection", outputs(output=(1, 25200, 85), **heads))
    assert layout.roles == {"candidates": "output"}


LISTS = {
    "plugin": outputs(
        num_dets=[1, 1], det_boxes=(1, 100, 4), det_scores=(1, 100), det_classes=[1, 100]
    ),
    "one box": outputs(num=[1, 1], box=(1, 1, 4), score=(1, 1), cls=[1, 1]),
    "float classes": outputs(
        num_detections=[2, 1], nmsed_boxes=(2, 20, 4), nmsed_scores=(2, 20), nmsed_classes=(2, 20)
    ),
    "unnamed": outputs(a=[1, 1], b=(1, 100, 4), c=(1, 100), d=[1, 100]),
}


@pytest.mark.parametrize("found", LISTS.values(), ids=LISTS)
def test_efficient_nms(found: dict[str, np.ndarray]) -> None:
    layout = told("detection", found)
    assert layout.name == "efficient-nms"
    roles = ("count", "boxes", "scores", "classes")
    assert [layout.roles[role] for role in roles] == list(found)


@pytest.mark.parametrize("masks", [{}, {"masks": (7, 1, 28, 28)}])
@pytest.mark.parametrize("names", [("boxes", "labels", "scores"), ("0", "1", "2")])
def test_torchvisions_lists(names: tuple[str, ...], masks: Any) -> None:
    found = outputs(**dict(zip(names, ((7, 4), [7], (7,)), strict=True)), **masks)
    layout = told("detection", found)
    assert layout.name == "boxes-labels-scores"
    assert [layout.roles[role] for role in ("boxes", "classes", "scores")] == list(names)
    assert layout.roles.get("masks") == ("masks" if masks else None)
    if masks:
        assert told("segmentation", found).roles == layout.roles


def test_lists_that_are_not_clear_are_asked_for() -> None:
    with pytest.raises(JobError, match="which are scores and which are classes"):
        told("detection", outputs(a=(7, 4), b=(7,), c=(7,)))
    with pytest.raises(JobError, match="none is a list of boxes"):
        told("detection", outputs(a=(7,), b=(7,), c=(7,)))
    lists = outputs(boxes=(1, 9, 4), scores=(1, 9), classes=[1, 9])
    with pytest.raises(JobError, match="number of detections"):
        told("detection", lists, declared="efficient-nms")


@pytest.mark.parametrize(
    ("found", "labels", "name"),
    [
        (outputs(out=(4, 1000)), None, "out"),
        (outputs(out=(4, 1000, 1, 1)), None, "out"),
        (outputs(out=(1000,)), None, "out"),
        (outputs(a=(4, 512), b=(4, 10)), [""] * 10, "b"),
        (outputs(features=(4, 10), logits=(4, 10)), None, "logits"),
        (outputs(top=[4, 5], out=(4, 10)), None, "out"),
    ],
)
def test_classification(found: Any, labels: Any, name: str) -> None:
    assert told("classification", found, labels).roles == {"scores": name}


def test_classification_that_is_not_clear_is_asked_for() -> None:
    with pytest.raises(JobError, match="2 outputs may hold the scores"):
        told("classification", outputs(a=(4, 10), b=(4, 10)))
    with pytest.raises(JobError, match="none has shape NxC"):
        told("classification", outputs(a=(4, 10, 7)))


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (outputs(x=(1, 21, 64, 64)), "x"),
        (outputs(x=[1, 64, 64]), "x"),
        (outputs(x=(64, 64)), "x"),
        (outputs(out=(1, 21, 64, 64), aux=(1, 21, 64, 64)), "out"),
        (outputs(main=(1, 21, 64, 64), aux=(1, 21, 64, 64)), "main"),
    ],
)
def test_segmentation(found: Any, name: str) -> None:
    assert told("segmentation", found).roles == {"map": name}


def test_segmentation_that_is_not_clear_is_asked_for() -> None:
    with pytest.raises(JobError, match="2 outputs may be the map"):
        told("segmentation", outputs(a=(1, 21, 64, 64), b=(1, 21, 64, 64)))
