"""The task card and its grammar: what may be said of a network's images and outputs."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.errors import UsageError
from trtenv.spec.task import KINDS, Preprocess, TaskCard, as_labels, parse_preprocess, read_labels

WHOLE = {
    "kind": "detection",
    "labels": ["coin", "button"],
    "layout": "yolov8",
    "preprocess": {
        "resize": "letterbox",
        "size": [480, 640],
        "crop": None,
        "interpolation": "bilinear",
        "colour": "bgr",
        "scale": 0.5,
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 2.0, 3.0],
        "pad": 0,
        "multiple": 32,
        "layout": "nhwc",
    },
}


def test_a_card_survives_json() -> None:
    card = TaskCard.from_dict(WHOLE)
    assert json.loads(json.dumps(card.to_dict())) == WHOLE
    assert TaskCard.from_dict(card.to_dict()) == card


@pytest.mark.parametrize(
    ("word", "kind"), [*zip(("classify", "detect", "segment"), KINDS, strict=True)]
)
def test_kinds_go_by_the_words_of_others_too(word: str, kind: str) -> None:
    assert TaskCard.from_dict({"kind": word}).kind == kind


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "pose"}, "pose"),
        ({"kind": None}, "None"),
        ({"layout": "yolov99"}, "yolov99"),
        ({"labels": []}, "0 labels"),
        ({"labels": [1]}, "labels are"),
        ({"labels": {"0": "a", "2": "b"}}, "gaps"),
        ({"colour": "rgb"}, "colour"),
        ({"preprocess": []}, "mapping"),
        ({"preprocess": {"resize": "squeeze"}}, "squeeze"),
        ({"preprocess": {"size": [1]}}, "size"),
        ({"preprocess": {"size": 0}}, "size"),
        ({"preprocess": {"size": True}}, "size"),
        ({"preprocess": {"crop": 224}}, "crop"),
        ({"preprocess": {"std": [0]}}, "divided"),
        ({"preprocess": {"mean": [1, 2]}}, "each channel"),
        ({"preprocess": {"scale": float("nan")}}, "finite"),
        ({"preprocess": {"scale": 10**400}}, "finite"),
        ({"preprocess": {"pad": 256}}, "grey level"),
        ({"preprocess": {"multiple": 0}}, "multiple"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str) -> None:
    document = {**WHOLE, **change}
    if change.get("preprocess") == []:
        document["preprocess"] = [1]
    with pytest.raises(UsageError, match=named):
        TaskCard.from_dict(document)


def test_labels_come_as_text_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\n dog \n\n")
    (tmp_path / "b.json").write_text('{"1": "dog", "0": "cat"}')
    assert read_labels(tmp_path / "a.txt") == read_labels(tmp_path / "b.json") == ("cat", "dog")
    (tmp_path / "c.json").write_text("{")
    for name in ("c.json", "none"):
        with pytest.raises(UsageError):
            read_labels(tmp_path / name)


def test_preprocessing_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"mean": [0.5]}')
    assert parse_preprocess(str(tmp_path / "p.json")) == {"mean": [0.5]}
    (tmp_path / "p.json").write_text("[1]")
    with pytest.raises(UsageError):
        parse_preprocess(str(tmp_path / "p.json"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*WHOLE, "other"]), VALUES), st.sampled_from(KINDS))
def test_any_document_is_a_card_or_is_refused(document: dict[str, Any], kind: str) -> None:
    try:
        card = TaskCard.from_dict({"kind": kind, **document})
    except UsageError:
        return
    assert TaskCard.from_dict(card.to_dict()) == card


@given(st.dictionaries(st.sampled_from(list(WHOLE["preprocess"])), VALUES))  # type: ignore[call-overload]
def test_any_preprocessing_is_one_or_is_refused(document: dict[str, Any]) -> None:
    try:
        found = Preprocess.from_dict(document)
    except UsageError:
        return
    assert found.scale == found.scale


def test_null_is_the_default() -> None:
    nulls = dict.fromkeys(WHOLE["preprocess"])  # type: ignore[call-overload]
    assert Preprocess.from_dict(nulls) == Preprocess()


def test_the_most_labels() -> None:
    with pytest.raises(UsageError, match="at most"):
        as_labels(["x"] * 100_001)
