"""Candidates become detections: each layout, suppression held against its definition, damaged numbers."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import boxes, layouts, tasks

RNG = np.random.default_rng(2)


def by_definition(
    found: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float
) -> list[int]:
    """One pair after the other."""
    kept: list[int] = []
    for one in sorted(range(len(scores)), key=lambda place: -scores[place]):
        for other in kept:
            a, b = found[one], found[other]
            width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
            height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
            shared = max(width, np.float32(0)) * max(height, np.float32(0))
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
            total = areas[0] + areas[1] - shared
            if classes[one] == classes[other] and total > 0 and shared / total > threshold:
                break
        else:
            kept.append(one)
    return kept


def crowd(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 200, (count, 2))
    sizes = random.integers(0, 90, (count, 2))
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 90),
    kinds=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.45, 0.5, 1.0]),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([3, 10**6]),  # few levels: many equal scores
)
def test_suppression_is_what_it_is_defined_as(
    count: int, kinds: int, threshold: float, seed: int, levels: int
) -> None:
    random, found = np.random.default_rng(seed), crowd(count, seed)
    scores = (random.integers(0, levels, count) / levels).astype(np.float32)
    classes = random.integers(0, kinds, count)
    wanted = by_definition(found, scores, classes, threshold)
    assert boxes.suppress(found, scores, classes, threshold).tolist() == wanted
    anyhow = by_definition(found, scores, classes * 0, threshold)
    assert boxes.suppress(found, scores, None, threshold).tolist() == anyhow
    assert boxes.suppress(found, scores, None, threshold, 3).tolist() == anyhow[:3]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    found, scores = crowd(700, 5), RNG.random(700).astype(np.float32)
    whole = boxes.suppress(found, scores, None, 0.4)
    monkeypatch.setattr(boxes, "BLOCK", 16)
    assert np.array_equal(boxes.suppress(found, scores, None, 0.4), whole)


def test_many_candidates_stay_within_memory_and_time() -> None:
    found, scores = crowd(boxes.MOST_CANDIDATES, 6), RNG.random(boxes.MOST_CANDIDATES)
    assert len(boxes.suppress(found, scores, None, 0.7, 300)) == 300


def best(name: str, arrays: dict[str, Any], extra: int = 0, **options: Any) -> boxes.Found:
    layout = layouts.Layout(name, {}, extra)
    arrays = {role: np.asarray(array)[None] for role, array in arrays.items()}
    return boxes.best_of(layout, arrays, 0, {**tasks.OPTIONS, **options})


# centre x, centre y, width, height; scores of two classes
ROWS = np.array(
    [
        [50, 50, 20, 20, 0.1, 0.8],
        [51, 50, 20, 20, 0.9, 0.1],  # over the first, of another class
        [50, 52, 20, 20, 0.2, 0.7],  # over the first, of its class
        [90, 20, 10, 40, 0.24, 0.1],  # too unsure
        [20, 80, 10, 10, 0.0, 0.3],
    ],
    np.float32,
)
CORNERS = [[41, 40, 61, 60], [40, 40, 60, 60], [15, 75, 25, 85]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("name", ["yolov8", "yolov5"])
def test_yolo_layouts(name: str, dtype: str) -> None:
    table = ROWS.T
    if name == "yolov5":
        table = np.insert(ROWS, 4, 0.5, axis=1)
        table[:, 5:] *= 2
        table[4, 4:] = [0.2, 0.0, 1.0]  # its objectness alone is too low
    found = best(name, {"candidates": table.astype(dtype)})
    wanted = CORNERS[: 3 if name == "yolov8" else 2]
    assert found.boxes.tolist() == wanted
    assert found.classes.tolist() == [0, 1, 1][: len(wanted)]
    assert np.allclose(found.scores, [0.9, 0.8, 0.3][: len(wanted)], atol=1e-3)
    agnostic = best(name, {"candidates": table}, class_agnostic=True)
    assert agnostic.boxes.tolist() == [wanted[0], *wanted[2:]]
    assert best(name, {"candidates": table}, max_detections=1).boxes.tolist() == wanted[:1]
    assert best(name, {"candidates": table}, confidence=0.95).boxes.shape == (0, 4)
    assert len(best(name, {"candidates": table}, iou=1.0).boxes) == len(wanted) + 1


def test_coefficients_follow_their_candidates() -> None:
    table = np.concatenate([ROWS, np.arange(10).reshape(5, 2)], axis=1)
    found = best("yolov8", {"candidates": table.T}, extra=2)
    assert found.coefficients is not None
    assert found.coefficients.tolist() == [[2, 3], [0, 1], [8, 9]]
    assert found.boxes.tolist() == CORNERS


def test_final_lists() -> None:
    rows = [[1, 2, 3, 4, 0.3, 7], [1, 2, 3, 4, 0.9, 2], [1, 2, 3, 4, 0.2, 1], [0, 0, 0, 0, 0, -1]]
    found = best("end2end", {"candidates": rows})
    assert found.classes.tolist() == [2, 7]
    table = np.array(rows)
    lists = {"boxes": table[:, :4], "scores": table[:, 4], "classes": table[:, 5].astype(np.int32)}
    assert best("boxes-labels-scores", lists).classes.tolist() == [2, 7]
    for count, wanted in ((1, [7]), (0, []), (-3, []), (99, [2, 7])):
        assert best("efficient-nms", {**lists, "count": [count]}).classes.tolist() == wanted


def test_damaged_candidates_are_dropped_and_counted() -> None:
    rows = np.repeat(ROWS[4:], 6, axis=0)
    rows[:, 0] = np.arange(6) * 100
    rows[0, 4], rows[1, 0], rows[2, 2], rows[3, 5] = np.nan, np.inf, np.nan, np.inf
    found = best("yolov8", {"candidates": rows.T})
    assert found.boxes[:, 0].tolist() == [395, 495]
    assert found.dropped == 4
    final = np.array([[1, 2, 3, 4, 0.5, np.nan], [1, 2, 3, 4, np.nan, 1], [1, 2, 3, 4, 0.5, -1.0]])
    assert best("end2end", {"candidates": final}).dropped == 3


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38, -1e38, 0.5, 300.0, 1e-40]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["yolov8", "yolov5", "end2end", "boxes-labels-scores", "efficient-nms"]),
    count=st.integers(0, 8),
    dtype=st.sampled_from(["float32", "float16"]),
    data=st.data(),
)
def test_no_numbers_crash_it(name: str, count: int, dtype: str, data: st.DataObject) -> None:
    def numbers(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        values = data.draw(st.lists(st.sampled_from(SPECIAL), min_size=size, max_size=size))
        with np.errstate(over="ignore"):
            return np.array(values, np.float32).astype(dtype).reshape(shape)

    if name in layouts.YOLO:
        width = {"yolov8": 6, "yolov5": 7, "end2end": 6}[name]
        table = numbers(count, width)
        arrays = {"candidates": table.T if name == "yolov8" else table}
    else:
        arrays = {"boxes": numbers(count, 4), "scores": numbers(count), "classes": numbers(count)}
        if name == "efficient-nms":
            arrays["count"] = numbers(1)
    found = best(name, arrays)
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.scores).all()
    assert (found.classes >= 0).all()
    assert len(found.boxes) + found.dropped <= count
