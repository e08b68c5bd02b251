"""The task card on its way: what files carry, what a user adds, and that job and host agree on it."""

from __future__ import annotations

import ast
import copy
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
from commands import run
from digits_onnx import write_digits
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "trtenv" / "jobs"))

import taskcards
from worker import JobError

from trtenv.cli.jobflags import TaskFlags
from trtenv.engine.stamp import read_stamp
from trtenv.engine.taskmeta import card_of_metadata, merged
from trtenv.errors import UsageError
from trtenv.pipeline.enginestamp import restamp, task_of
from trtenv.pipeline.onnxmodel import read_onnx
from trtenv.spec import task as spec

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "task.schema.json").read_text())
CARD = {"kind": "classification", "labels": ["a", "b"], "preprocess": {"size": 32}}


def words() -> st.SearchStrategy[Any]:
    known = [*taskcards.KINDS, *taskcards.SHORT, *taskcards.LAYOUTS]
    known += [word for words in spec.WORDS.values() for word in words]
    return st.sampled_from(known)


VALUES = st.one_of(
    words(),
    st.text(max_size=3),
    st.integers(-1, 300),
    st.floats(),
    st.booleans(),
    st.lists(st.one_of(st.integers(-1, 300), st.floats(), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.integers(0, 2), st.text(max_size=3), max_size=3),
)
# Half of the values fit their key, so that whole cards are met too.
FITTING: dict[str, st.SearchStrategy[Any]] = {
    **{key: st.sampled_from(known) for key, known in spec.WORDS.items()},
    **{key: st.integers(1, 999) for key in ("size", "multiple", "pad")},
    **{key: st.lists(st.floats(0.1, 9), min_size=3, max_size=3) for key in ("mean", "std")},
    "crop": st.lists(st.integers(1, 999), min_size=2, max_size=2),
    "scale": st.floats(0, 1),
}
PIXELS = st.dictionaries(st.sampled_from(sorted(FITTING)), st.booleans(), max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries(
        {key: FITTING[key] if fits else VALUES for key, fits in keys.items()}
    )
)


@given(kind=words() | VALUES, labels=VALUES, layout=st.none() | words(), pixels=PIXELS)
def test_the_export_job_takes_what_the_host_takes(
    kind: Any, labels: Any, layout: Any, pixels: dict[str, Any]
) -> None:
    constants = {"TASK": kind, "LABELS": labels, "LAYOUT": layout, "PREPROCESS": pixels}
    stated = {"kind": kind, "labels": labels, "layout": layout, "preprocess": pixels}
    try:
        expected = spec.TaskCard.from_dict(copy.deepcopy(stated))
    except UsageError:
        with pytest.raises(JobError):
            taskcards.of_constants(constants, "net.py", [])
        return
    card = taskcards.of_constants(constants, "net.py", [])
    assert spec.TaskCard.from_dict(card) == expected
    jsonschema.validate(card, SCHEMA)
    assert card_of_metadata({"trtenv.task": json.dumps(card)}) == card


def test_the_words_of_the_export_job_are_the_hosts() -> None:
    assert spec.KINDS == taskcards.KINDS
    assert spec.SHORT == taskcards.SHORT
    assert set(spec.LAYOUTS) == set(taskcards.LAYOUTS)
    assert set(taskcards.PREPROCESS) == set(spec.Preprocess.__dataclass_fields__)
    properties = SCHEMA["properties"]
    assert set(properties["layout"]["enum"]) == {*spec.LAYOUTS, None}
    assert set(properties["preprocess"]["properties"]) == set(taskcards.PREPROCESS)
    jsonschema.validate(json.loads(json.dumps(spec.TaskCard.from_dict(CARD).to_dict())), SCHEMA)


@pytest.mark.parametrize("name", ["digits", "coins_detect", "coins_segment"])
def test_the_examples_say_what_they_are_for(name: str) -> None:
    tree = ast.parse((ROOT / "examples" / f"{name}.py").read_text())
    lines = [line for line in tree.body if isinstance(line, ast.Assign)]
    values: dict[str, Any] = {}
    exec(compile(ast.Module(lines, []), name, "exec"), values)
    card = taskcards.of_constants(values, name, [])
    assert spec.TaskCard.from_dict(card).preprocess.colour == "grey"
    assert spec.TaskCard.from_dict(card).preprocess.scale == 1 / 255


YOLO = {
    "description": "Ultralytics YOLO11n model",
    "task": "detect",
    "names": {0: "coin", 1: "hand"},
    "imgsz": [480, 640],
    "stride": 32,
    "channels": 3,
    "end2end": False,
    "args": {"nms": False, "dynamic": True},
    "head": "Detect",
}
BOXES = {"colour": "rgb", "resize": "letterbox", "pad": 114, "multiple": 32, "size": [480, 640]}
SQUARE = {"colour": "rgb", "resize": "shorter", "size": 224, "crop": [224, 224]}


@pytest.mark.parametrize(
    ("changes", "kind", "layout", "pixels"),
    [
        ({}, "detection", "yolov8", BOXES),
        ({"task": "segment"}, "segmentation", "yolov8", BOXES),
        ({"end2end": True}, "detection", "end2end", BOXES),
        ({"args": {"nms": True}}, "detection", "end2end", BOXES),
        ({"end2end": None}, "detection", None, BOXES),
        ({"channels": 1}, "detection", "yolov8", {**BOXES, "colour": "grey"}),
        ({"channels": None}, "detection", "yolov8", BOXES),
        ({"task": "classify", "imgsz": [224, 224]}, "classification", "probabilities", SQUARE),
        (
            {"task": "classify"},
            "classification",
            "probabilities",
            {"colour": "rgb", "resize": "stretch", "size": [480, 640]},
        ),
    ],
)
def test_metadata_of_ultralytics(
    changes: dict[str, Any], kind: str, layout: str | None, pixels: dict[str, Any]
) -> None:
    metadata = {key: value for key, value in {**YOLO, **changes}.items() if value is not None}
    expected = {"kind": kind, "labels": ["coin", "hand"], "preprocess": pixels}
    if layout:
        expected["layout"] = layout
    texts = {key: str(value) for key, value in metadata.items()}  # as in an ONNX file
    document = json.loads(json.dumps(metadata))  # as in front of an engine
    assert card_of_metadata(texts) == card_of_metadata(document) == expected
    assert taskcards.of_ultralytics(metadata) == expected
    spec.TaskCard.from_dict(expected)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"task": "pose", "names": "{0: 'a'}"},
        {"task": "detect", "head": "RTDETRDecoder"},
        {"task": ["detect"]},
        {"names": "{0: 'coin'}", "stride": "32"},  # YOLOv5's, whatever the task
        {"trtenv.task": "{"},
        {"trtenv.task": "[1]"},
    ],
)
def test_metadata_without_a_card(metadata: dict[str, Any]) -> None:
    assert card_of_metadata(metadata) is None


def test_unusable_parts_of_ultralytics_metadata_are_left_out() -> None:
    found = card_of_metadata({"task": "detect", "names": "{0: 1}", "imgsz": "x", "stride": "-3"})
    pixels = {"colour": "rgb", "resize": "letterbox", "pad": 114, "multiple": 32}
    assert found == {"kind": "detection", "preprocess": pixels}


@given(st.dictionaries(st.sampled_from([*YOLO, "trtenv.task"]), VALUES.map(str) | VALUES))
def test_no_metadata_break_the_reader(metadata: dict[str, Any]) -> None:
    card = card_of_metadata({**metadata, "task": metadata.get("task", "detect")})
    if card and "trtenv.task" not in metadata:
        spec.TaskCard.from_dict(card)


@pytest.mark.parametrize(
    ("card", "wish"),
    [
        (CARD, {}),
        (CARD, {"labels": ["c"]}),
        (CARD, {"preprocess": {"pad": 0}}),
        (CARD, {"kind": "detection"}),
        (CARD, {"kind": "classification", "layout": "logits"}),
        (None, {"kind": "detection", "labels": ["c"]}),
    ],
)
def test_the_job_merges_as_the_host_does(card: dict[str, Any] | None, wish: dict[str, Any]) -> None:
    assert taskcards.merged(card, wish) == merged(card, wish)


def test_both_refuse_in_the_same_words() -> None:
    with pytest.raises(UsageError) as of_host:
        merged(None, {"labels": ["c"]})
    with pytest.raises(JobError) as of_job:
        taskcards.merged(None, {"labels": ["c"]})
    assert of_job.value.message == of_host.value.message
    assert of_job.value.hint == of_host.value.hint


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_digits(Path("digits.onnx"))


def with_card(path: Path, text: str) -> Path:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"trtenv.task": text})
    onnx.save(model, path)
    return path


def test_inspect_shows_the_card(capsys: pytest.CaptureFixture[str], digits: Path) -> None:
    assert json.loads(run(capsys, "inspect", str(digits), "--json")[1])["task"] is None
    pixels = {"resize": "shorter", "size": 256, "crop": [224, 224], "mean": [0.5], "multiple": 8}
    with_card(digits, json.dumps({**CARD, "labels": list("abcdefg"), "preprocess": pixels}))
    lines = run(capsys, "inspect", str(digits))[1].splitlines()
    assert "task: classification, 7 labels: a, b, c, d, e, ..." in lines
    text = "shorter to 256, centre 224x224, pixel / 255, mean 0.5, multiples of 8"
    assert f"preprocessing: {text}" in lines
    assert not [line for line in lines if line.startswith("metadata: trtenv.task")]
    document = json.loads(run(capsys, "inspect", str(digits), "--json")[1])
    assert document["task"]["preprocess"]["crop"] == [224, 224]
    jsonschema.validate(document["task"], SCHEMA)


def test_inspect_shows_a_card_that_is_none_as_it_is(
    capsys: pytest.CaptureFixture[str], digits: Path
) -> None:
    with_card(digits, '{"kind": "pose"}')
    lines = run(capsys, "inspect", str(digits))[1].splitlines()
    assert 'metadata: trtenv.task = {"kind": "pose"}' in lines
    assert "finding: what it says of its task is unusable: task `pose` is not known" in lines
    (finding,) = json.loads(run(capsys, "inspect", str(digits), "--json")[1])["findings"]
    assert "pose" in finding


def test_the_engine_stamp_gets_the_onnx_files_card(
    capsys: pytest.CaptureFixture[str], digits: Path
) -> None:
    assert task_of(read_onnx(digits)) is None
    assert task_of(read_onnx(with_card(digits, json.dumps(CARD)))) == CARD
    assert task_of(read_onnx(with_card(digits, '{"kind": "pose"}'))) is None
    assert "is not used: task `pose` is not known" in capsys.readouterr().err


def test_a_stamps_card_changes_and_nothing_else(digits: Path) -> None:
    stamp = {"trtenv": "0", "kind": "engine", "key": "k", "task": None}
    path = digits.with_name("digits.onnx.json")
    path.write_text(json.dumps(stamp))
    assert restamp(digits, CARD) == read_stamp(digits) == {**stamp, "task": CARD}
    written = path.stat().st_mtime_ns
    restamp(digits, CARD)
    assert path.stat().st_mtime_ns == written
    assert not list(digits.parent.glob(".trtenv-*"))


def test_what_the_options_say(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("coin\nhand\n")
    flags = TaskFlags(
        task="detect", labels=tmp_path / "names.txt", layout="yolov8", preprocess='{"pad": 0}'
    )
    assert flags.wish() == {
        "kind": "detection",
        "labels": ["coin", "hand"],
        "layout": "yolov8",
        "preprocess": {"pad": 0},
    }
    assert TaskFlags().wish() == {}
    for wrong in (TaskFlags(task="pose"), TaskFlags(layout="yolo")):
        with pytest.raises(UsageError, match="is not known"):
            wrong.wish()


@pytest.mark.parametrize("command", ["build", "convert"])
def test_labels_alone_say_no_task(
    capsys: pytest.CaptureFixture[str], digits: Path, command: str
) -> None:
    Path("names.txt").write_text("coin\n")
    line = [command, str(digits), "--labels", "names.txt", "--env", "rtx-1.7", "--runner", "venv"]
    code, _, err = run(capsys, *line)
    assert code == 2
    assert "does not say which task it is for" in err
    assert "add --task: classification" in err


def test_an_export_is_told_what_the_user_says(
    capsys: pytest.CaptureFixture[str], digits: Path
) -> None:
    Path("m.py").write_text("def model(): ...")
    line = "export m.py:model --env rtx-1.7 --runner venv --dry-run --json --shapes x:1x3"
    (plain,) = json.loads(run(capsys, *line.split())[1])["jobs"]
    assert plain["params"]["task"] == {}
    (told,) = json.loads(run(capsys, *line.split(), "--task", "detect")[1])["jobs"]
    assert told["params"] == {**plain["params"], "task": {"kind": "detection"}}
