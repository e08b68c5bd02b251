"""Maps and masks in the original's size, held against sampling pixel by pixel."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import masks
from vision.preprocess import Placement
from vision.results import Detection, run_lengths

RNG = np.random.default_rng(3)


def placed(original: Any, frame: Any, content: Any = None) -> Placement:
    top, left, bottom, right = content or (0, 0, *frame)
    scale = (bottom - top) / original[0], (right - left) / original[1]
    return Placement(original, frame, *scale, top, left, (top, left, bottom, right))


def sampled(values: np.ndarray, placement: Placement) -> np.ndarray:
    """Bilinear between the centres of pixels, within the part that shows the image."""
    height, width = values.shape
    ratio = height / placement.frame[0], width / placement.frame[1]
    top, left, bottom, right = placement.content
    rows = int(top * ratio[0]), math.ceil(bottom * ratio[0]) - 1
    columns = int(left * ratio[1]), math.ceil(right * ratio[1]) - 1
    result = np.empty(placement.original)
    for y in range(placement.original[0]):
        for x in range(placement.original[1]):
            v = ((y + 0.5) * placement.scale_y + placement.top) * ratio[0] - 0.5
            u = ((x + 0.5) * placement.scale_x + placement.left) * ratio[1] - 0.5
            v, u = min(max(v, rows[0]), rows[1]), min(max(u, columns[0]), columns[1])
            b, a = int(v), int(u)
            d, c = min(b + 1, rows[1]), min(a + 1, columns[1])
            upper = values[b, a] * (1 - u + a) + values[b, c] * (u - a)
            lower = values[d, a] * (1 - u + a) + values[d, c] * (u - a)
            result[y, x] = upper * (1 - v + b) + lower * (v - b)
    return result


PLACES = [
    placed((40, 60), (8, 8)),
    placed((4, 3), (16, 16)),
    placed((30, 60), (16, 16), (4, 0, 12, 16)),
    placed((9, 9), (32, 32), (0, 8, 32, 24)),
    placed((1, 1), (8, 8)),
]


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (4, 8)])
def test_scores_are_enlarged_before_the_decision(placement: Placement, shape: Any) -> None:
    scores = RNG.normal(size=(3, *shape)).astype(np.float32)
    wanted = np.stack([sampled(channel, placement) for channel in scores])
    top = np.sort(wanted, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    found = masks.decided(scores, placement)
    assert found.shape == placement.original
    assert np.array_equal(found[clear], wanted.argmax(0)[clear])
    found = masks.decided(scores[:1], placement, 0.25)
    clear = abs(wanted[0] - 0.25) > 1e-5
    assert np.array_equal(found[clear], (wanted[0] > 0.25)[clear])


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, placement = RNG.normal(size=(5, 16, 16)), PLACES[2]
    whole = masks.decided(scores, placement)
    monkeypatch.setattr(masks, "STRIP", 1)
    assert np.array_equal(masks.decided(scores, placement), whole)


def test_too_much_work_is_decided_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, placement = RNG.normal(size=(5, 16, 16)), PLACES[2]
    monkeypatch.setattr(masks, "MOST_WORK", 1)
    found = masks.decided(scores, placement)
    assert np.array_equal(found, masks.nearest(scores.argmax(0), placement))


def test_classes_are_those_of_the_pixel_below() -> None:
    classes = np.arange(64).reshape(8, 8)
    assert np.array_equal(
        masks.nearest(classes, placed((16, 24), (8, 8))), classes.repeat(2, 0).repeat(3, 1)
    )
    inside = masks.nearest(classes, placed((4, 8), (8, 8), (2, 0, 6, 8)))
    assert np.array_equal(inside, classes[2:6])


@pytest.mark.parametrize("placement", PLACES)
def test_masks_of_prototypes_lie_within_their_boxes(placement: Placement) -> None:
    prototypes = RNG.normal(size=(4, 8, 8)).astype(np.float32)
    weights = RNG.normal(size=(3, 4)).astype(np.float32)
    height, width = placement.original
    boxes = np.array([[0, 0, width, height], [0.4, 0.6, width - 0.5, height - 0.2], [0, 0, 0, 0]])
    crops = masks.of_prototypes(weights, prototypes, boxes, placement)
    found = Detection(boxes, np.ones(3), np.zeros(3, int), placement.original, crops).masks
    assert found is not None
    x, y = np.arange(width), np.arange(height)[:, None]
    for mask, weight, box in zip(found, weights, boxes, strict=True):
        values = sampled(np.tensordot(weight, prototypes, 1), placement)
        inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        clear = abs(values) > 1e-5
        assert np.array_equal(mask[clear], (inside & (values > 0))[clear])


def test_infinite_prototypes_are_outside() -> None:
    prototypes = np.full((2, 8, 8), np.inf, np.float32)
    crops = masks.of_prototypes(
        np.array([[1.0, -1.0]], np.float32), prototypes, np.array([[0, 0, 40, 60]]), PLACES[0]
    )
    assert not crops[0][2].any()


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    place=st.tuples(*[st.integers(0, 6)] * 4),
    seed=st.integers(0, 99),
)
def test_run_lengths_are_those_of_coco(size: Any, place: Any, seed: int) -> None:
    top, left = min(place[0], size[0]), min(place[1], size[1])
    shape = min(place[2], size[0] - top), min(place[3], size[1] - left)
    crop = np.random.default_rng(seed).integers(0, 2, shape).astype(bool)
    document = run_lengths((top, left, crop), size)
    values = [index % 2 for index in range(len(document["counts"]))]
    assert all(document["counts"][1:])
    decoded = np.repeat(values, document["counts"]).reshape(size[::-1]).T
    wanted = np.zeros(size, int)
    wanted[top : top + shape[0], left : left + shape[1]] = crop
    assert document["size"] == list(size)
    assert np.array_equal(decoded, wanted)
