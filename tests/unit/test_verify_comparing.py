"""How differences are measured and judged: against numpy, in one go and in turns."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from runtime.comparing import Comparison, pair
from runtime.feeds import Batch
from worker import JobError

LIMITS: dict[str, Any] = {"float": {"rel": 1e-2}, "integer": {"equal": 1.0}, "asked": {}}


def batch(number: int, rows: int) -> Batch:
    items = [f"{number}-{row}.png" for row in range(rows)]
    return Batch(number, f"batch {number}", items, {"x": np.zeros((rows, 3), np.float32)})


def compare(
    found: list[np.ndarray], expected: list[np.ndarray], limits: dict[str, Any] = LIMITS
) -> dict[str, Any]:
    """The summary of the only output, `y`."""
    comparison = Comparison.start(["y"], ["y"], None)
    for number, (own, other) in enumerate(zip(found, expected, strict=True)):
        comparison.add(batch(number, len(own)), {"y": own}, {"y": other}, limits)
    (output,) = comparison.summary(limits)["outputs"]
    return output


def arrays(seed: int, noise: float, count: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    expected = [random.normal(size=(4, 10)).astype(np.float32) for _ in range(count)]
    found = [array + noise * random.normal(size=array.shape).astype("f4") for array in expected]
    return found, expected


@given(st.integers(0, 1000), st.sampled_from((0.0, 1e-4, 0.1, 10.0)))
def test_measures_are_those_of_numpy(seed: int, noise: float) -> None:
    found, expected = arrays(seed, noise)
    output = compare(found, expected)
    own, other = (np.concatenate(each).astype(np.float64) for each in (found, expected))
    rels = [
        np.linalg.norm(np.float64(a) - b) / np.linalg.norm(np.float64(b))
        for a, b in zip(found, expected, strict=True)
    ]
    assert output["max_abs"] == pytest.approx(np.abs(own - other).max(), rel=1e-5)
    assert output["mean_abs"] == pytest.approx(np.abs(own - other).mean(), rel=1e-5)
    assert output["rel"] == pytest.approx(max(rels), rel=1e-5)
    assert output["top1"] == pytest.approx((own.argmax(1) == other.argmax(1)).mean(), rel=1e-5)
    assert output["agrees"] is bool(max(rels) <= 1e-2)
    assert output["cosine"] <= 1 + 1e-9
    place = output["max_abs_at"]
    if noise:
        number, row = place["item"].removesuffix(".png").split("-")
        index = (int(number) * 4 + int(row), place["index"][1])
        assert abs(own - other)[index] == np.abs(own - other).max()


@given(st.integers(0, 1000), st.integers(1, 4))
def test_turns_measure_what_one_run_measures(seed: int, turns: int) -> None:
    found, expected = arrays(seed, 0.1, count=4)
    whole = Comparison.start(["y"], ["y"], None)
    parts = Comparison.start(["y"], ["y"], None)
    for number in range(4):
        pair_ = ({"y": found[number]}, {"y": expected[number]})
        whole.add(batch(number, 4), *pair_, LIMITS)
        if number % turns == 0:
            parts = Comparison.resume(parts.state())
        parts.add(batch(number, 4), *pair_, LIMITS)
    assert parts.summary(LIMITS) == whole.summary(LIMITS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted_and_located(value: float) -> None:
    found, expected = arrays(0, 0.0)
    found[1][2, 7] = value
    found[1][3, 1] = value
    output = compare(found, expected)
    assert not output["agrees"]
    assert output["nonfinite"]["count"] == 2
    first = output["nonfinite"]["first"]
    assert (first["item"], first["index"], first["batch"]) == ("1-2.png", [2, 7], 1)
    assert first["found"] == str(value)
    assert "NaN or infinite" in output["problems"][0]


def test_the_same_infinities_agree_and_are_told() -> None:
    found, expected = arrays(0, 0.0)
    for both in (found, expected):
        both[0][0, 0], both[0][1, 1] = np.inf, np.nan
    output = compare(found, expected)
    assert output["agrees"]
    assert output["nonfinite"] == {"count": 0, "same": 2, "first": None}


def test_what_is_finite_is_measured_beside_what_is_not() -> None:
    found, expected = arrays(0, 0.0)
    whole = compare([array * 1.5 for array in found], expected)
    found[1][2, 7] = expected[1][2, 7] = np.nan
    found[1][3, 1] = np.nan
    output = compare([array * 1.5 for array in found], expected)
    assert output["rel"] == pytest.approx(0.5) == whole["rel"]
    assert output["mean_abs"] > 0
    found, expected = arrays(0, 0.0, count=1)
    output = compare([found[0] * np.nan], expected)
    measures = ("rel", "max_abs", "mean_abs", "max_rel", "cosine", "max_abs_at")
    assert [output[key] for key in measures] == [None] * 6


def test_a_nan_is_equal_to_a_nan() -> None:
    both = [np.array([[1, np.nan, np.inf, 2]], "f4")]
    limits = {**LIMITS, "asked": {"": {"equal": 1.0}}}
    assert compare(both, both, limits)["equal"] == 1


def summary(outputs: dict[str, Any], asked: dict[str, Any] | None = None) -> dict[str, Any]:
    """Of outputs that both runs have."""
    comparison = Comparison.start(list(outputs), list(outputs), None)
    limits = {**LIMITS, "asked": asked or {}}
    comparison.check(limits)
    comparison.add(batch(0, 2), outputs, outputs, limits)
    return comparison.summary(limits)


def test_what_is_empty_in_both_is_a_note_unless_it_is_all_there_is() -> None:
    empty, scores = np.zeros((0, 4), np.int64), np.ones((2, 3), "f4")
    found = summary({"boxes": empty, "scores": scores})
    assert found["agrees"]
    assert found["outputs"][0]["equal"] is None
    assert found["notes"] == ["`boxes` is empty in both: nothing of it was compared"]
    for nothing in (empty, scores * np.nan):
        found = summary({"y": nothing})
        assert not found["agrees"]
        assert found["outputs"][0]["problems"] == ["nothing finite was compared"]


def test_limits_that_nothing_can_be_held_to_do_not_pass() -> None:
    outputs = {"y": np.ones((2, 3), "f4"), "count": np.ones(2, "i4")}
    assert summary(outputs, {"": {"top1": 0.9}})["agrees"]
    found = summary(outputs, {"count": {"top1": 0.9}})
    assert found["outputs"][1]["problems"] == ["top1 is asked for, and it has none"]
    assert not found["agrees"]
    with pytest.raises(JobError, match="no output `x` to compare; there is `y`, `count`"):
        summary(outputs, {"x": {"rel": 0.1}})


def test_a_mirrored_infinity_does_not_agree() -> None:
    found, expected = arrays(0, 0.0)
    found[0][0, 0], expected[0][0, 0] = np.inf, -np.inf
    assert not compare(found, expected)["agrees"]


def test_zeros_but_for_rounding_agree() -> None:
    zeros = [np.zeros((2, 3), np.float32)]
    assert compare([zeros[0] + 1e-9], zeros)["agrees"]
    assert not compare([zeros[0] + 1e-3], zeros)["agrees"]


def test_one_bad_batch_among_many_good_ones_is_not_averaged_away() -> None:
    found, expected = arrays(0, 0.0, count=50)
    found[17] = found[17] * 1.05
    output = compare(found, expected)
    assert output["rel"] == pytest.approx(0.05, rel=1e-3)
    assert output["rel_at"] == "batch 17"
    assert not output["agrees"]


@pytest.mark.parametrize(
    ("shape", "problem", "note"),
    [((4, 9), "its shape is [4, 9]", False), ((4, 10, 1, 1), "", True)],
    ids=["other size", "other axes"],
)
def test_shapes(shape: tuple[int, ...], problem: str, note: bool) -> None:
    expected = np.ones((4, 10), np.float32)
    comparison = Comparison.start(["y"], ["y"], None)
    comparison.add(batch(0, 4), {"y": np.ones(shape, "f4")}, {"y": expected}, LIMITS)
    summary = comparison.summary(LIMITS)
    assert problem in "".join(summary["outputs"][0]["problems"])
    assert summary["agrees"] is note
    assert bool(summary["notes"]) is note


def test_what_has_no_limit_may_have_another_size() -> None:
    """As boxes after NMS, which labels are there to judge."""
    comparison = Comparison.start(["y"], ["y"], None)
    limits = {**LIMITS, "asked": {"y": {"rel": None}}}
    arrays_ = ({"y": np.ones((3, 4), "f4")}, {"y": np.ones((2, 4), "f4")})
    comparison.add(batch(0, 2), *arrays_, limits)
    comparison.add(batch(1, 2), {"y": np.ones((2, 4), "f4")}, arrays_[1], limits)
    found = comparison.summary(limits)
    assert found["agrees"]
    assert "`y` is [3, 4], and [2, 4] in the reference" in found["notes"][0]
    assert not comparison.summary(LIMITS)["agrees"]


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool", "uint8"])
def test_whole_numbers_are_equal_or_not(dtype: str) -> None:
    expected = [np.arange(40).reshape(4, 10).astype(dtype)]
    found = [expected[0].copy()]
    assert compare(found, expected)["equal"] == 1
    found[0][0, 0] = not found[0][0, 0]
    output = compare(found, expected)
    assert output["equal"] == pytest.approx(39 / 40)
    assert output["problems"] == ["equal 0.975, wanted 1"]
    loose = {**LIMITS, "integer": {"equal": 0.9}}
    assert compare(found, expected, loose)["agrees"]


def test_what_a_user_says_of_one_output_beats_what_is_said_of_all() -> None:
    found, expected = arrays(0, 0.1)
    asked = {"": {"rel": 0.5, "max_abs": 1e-9}, "y": {"max_abs": None, "top1": 0.1}}
    output = compare(found, expected, {**LIMITS, "asked": asked})
    assert output["limits"] == {"rel": 0.5, "top1": 0.1}
    assert output["agrees"]


def test_classes_are_told_of_scores_alone() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype("f4")
    for kind, rows in ((None, 0), ("detection", 0), ("segmentation", 32)):
        comparison = Comparison.start(["y"], ["y"], kind)
        comparison.add(batch(0, 2), {"y": maps}, {"y": maps}, LIMITS)
        assert comparison.outputs[0].sums["rows"] == rows


@pytest.mark.parametrize(
    ("found", "expected", "pairs", "notes"),
    [
        (["a", "b"], ["b", "a"], [("a", "a"), ("b", "b")], 0),
        (["a", "x"], ["y", "a"], [("a", "a"), ("x", "y")], 1),
        (["x", "y"], ["u", "v"], [("x", "u"), ("y", "v")], 2),
        (["a", "x"], ["a"], [("a", "a")], 1),
        (["a"], ["a", "y"], [("a", "a")], 1),
    ],
)
def test_pairs(
    found: list[str], expected: list[str], pairs: list[tuple[str, str]], notes: int
) -> None:
    made, told = pair(found, expected)
    assert made == pairs
    assert len(told) == notes


def test_nothing_to_pair() -> None:
    with pytest.raises(JobError, match="no output can be compared"):
        pair(["a"], ["x", "y"])
