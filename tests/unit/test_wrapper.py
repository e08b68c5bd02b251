"""strip and wrap: engines laid out as Ultralytics' exporter writes them, and bare plans."""

from __future__ import annotations

import hashlib
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from trtenv.engine import wrapper
from trtenv.errors import ArtifactError, UsageError
from trtenv.pipeline import wrapping

ENGINES = Path(__file__).parents[1] / "data" / "engines"
PLAN = (ENGINES / "trt8531_sm90.engine").read_bytes()
RTX = (ENGINES / "rtx17_sm89_sm120.engine").read_bytes()
# The keys of ultralytics/engine/exporter.py, in its order; json.dumps turns the indices into text.
DETECT: dict[str, Any] = {
    "description": "Ultralytics YOLO11n model trained on /usr/src/ultralytics/cfg/coco.yaml",
    "author": "Ultralytics",
    "date": "2025-06-01T12:00:00.123456",
    "version": "8.3.150",
    "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    "docs": "https://docs.ultralytics.com",
    "stride": 32,
    "task": "detect",
    "batch": 1,
    "imgsz": [640, 640],
    "names": {0: "person", 1: "bicycle", 2: "Fußgänger"},
    "args": {"batch": 1, "half": True, "int8": False, "dynamic": False, "nms": False},
    "channels": 3,
}
SAMPLES = {
    "detect": DETECT,
    "8.4": {**DETECT, "head": "Detect", "end2end": True},
    "dla": {**DETECT, "dla": "0"},
    "pose": {**DETECT, "task": "pose", "names": {0: "person"}, "kpt_shape": [17, 3]},
    "classify": {**DETECT, "task": "classify", "stride": 1, "imgsz": [224, 224]},
    "old": {key: DETECT[key] for key in ("stride", "task", "batch", "imgsz", "names")},
}
FULL = ["--task", "detect", "--names", "names.txt", "--imgsz", "480x640", "--stride", "32"]


def laid_out(text: str, plan: bytes = PLAN) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, byteorder="little", signed=True) + raw + plan


def loaded(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What Ultralytics' AutoBackend makes of the file: its metadata, and what goes to TensorRT."""
    end = 4 + int.from_bytes(data[:4], byteorder="little")
    return json.loads(data[4:end].decode("utf-8")), data[end:]


def stamp_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return found


def stamped(path: Path, data: bytes, **more: Any) -> Path:
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    stamp = {"trtenv": "0", "kind": "engine", "format": 1, "sha256": sha256, **more}
    Path(f"{path}.json").write_text(json.dumps(stamp), encoding="utf-8")
    return path


def engine_facts(name: str = "images", *, dynamic: bool = False) -> dict[str, Any]:
    low, high = [1, 3, 320, 320], [16, 3, 640, 480]
    return {
        "flavour": "tensorrt",
        "version": "8.5.3.1",
        "inputs": [
            {"name": name, "dtype": "float32", "shape": [-1, 3, -1, -1] if dynamic else high}
        ],
        "profiles": [{name: {"min": low, "opt": low, "max": high}}] if dynamic else [],
    }


def onnx_file(path: Path, metadata: dict[str, Any]) -> Path:
    tensor = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])
    node = helper.make_node("Relu", ["images"], ["output0"])
    graph = helper.make_graph([node], "g", [tensor], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "work"
    found.mkdir()
    monkeypatch.chdir(found)
    return found


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_strip_then_wrap_gives_the_same_bytes(
    folder: Path, sample: dict[str, Any], ascii_only: bool
) -> None:
    whole = laid_out(json.dumps(sample, ensure_ascii=ascii_only))
    engine = folder / "yolo.engine"
    engine.write_bytes(whole)
    made = wrapping.strip(engine, folder / "bare.plan")
    assert made.output.read_bytes() == PLAN
    assert made.to_dict()["metadata"]["names"] == {str(k): v for k, v in sample["names"].items()}
    again = wrapping.wrap(made.output, folder / "again.engine", {})
    assert again.output.read_bytes() == whole == engine.read_bytes()
    assert stamp_of(again.output)["sha256"] == hashlib.sha256(whole).hexdigest()
    assert stamp_of(again.output)["wrapper"]["from"]["name"] == "bare.plan"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), JSON), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_any_metadata_survives_the_round_trip(
    metadata: dict[str, Any], ascii_only: bool, indent: int | str | None
) -> None:
    whole = laid_out(json.dumps(metadata, ensure_ascii=ascii_only, indent=indent), RTX)
    with tempfile.TemporaryDirectory() as name:
        engine, bare, again = (Path(name) / part for part in ("a.engine", "b.plan", "c.engine"))
        engine.write_bytes(whole)
        wrapping.strip(engine, bare)
        assert bare.read_bytes() == RTX
        wrapping.wrap(bare, again, {})
        assert again.read_bytes() == whole


def test_wrap_then_strip_keeps_the_story_of_the_build(folder: Path) -> None:
    build = {"seconds": 3.5}
    engine = stamped(folder / "m.engine", PLAN, engine=engine_facts(), build=build, date="then")
    wishes = {"task": "detect", "names": {"0": "coin"}, "stride": 32}
    made = wrapping.wrap(engine, folder / "w.engine", wishes)
    metadata, plan = loaded(made.output.read_bytes())
    assert plan == PLAN
    assert made.notes == ()
    assert metadata["imgsz"] == [640, 480]
    assert (metadata["batch"], metadata["channels"], metadata["names"]) == (16, 3, {"0": "coin"})
    assert stamp_of(made.output)["build"] == build
    bare = wrapping.strip(made.output, folder / "bare.engine")
    assert bare.output.read_bytes() == PLAN
    assert stamp_of(bare.output)["engine"] == engine_facts()
    assert stamp_of(bare.output)["key"] != stamp_of(made.output)["key"]


def test_dynamic_engines_count_with_their_largest_shapes(folder: Path) -> None:
    engine = stamped(folder / "m.engine", PLAN, engine=engine_facts("image", dynamic=True))
    wishes = {"task": "segment", "names": {"0": "coin"}, "stride": 32}
    made = wrapping.wrap(engine, folder / "w.engine", wishes)
    metadata, _ = loaded(made.output.read_bytes())
    assert metadata["imgsz"] == [640, 480]
    assert metadata["args"] == {"batch": 16, "dynamic": True}
    assert any("`image`" in note for note in made.notes)


@pytest.mark.parametrize("given_by", ["beside", "option"])
def test_metadata_comes_from_the_onnx_file(folder: Path, given_by: str) -> None:
    path = onnx_file(folder / "yolo.onnx", {**SAMPLES["8.4"], "trtenv.version": "1", "device": "x"})
    source = {"onnx": {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    engine = stamped(folder / "m.engine", PLAN, source=source if given_by == "beside" else {})
    named = path if given_by == "option" else None
    made = wrapping.wrap(engine, folder / "w.engine", {"batch": 4}, onnx=named)
    metadata, _ = loaded(made.output.read_bytes())
    expected = json.loads(json.dumps({**SAMPLES["8.4"], "batch": 4}))
    assert metadata == expected


def test_unusable_metadata_of_an_onnx_file_can_be_overruled(folder: Path) -> None:
    path = onnx_file(folder / "yolo.onnx", {**DETECT, "names": "{0: open('x')}"})
    engine = folder / "m.engine"
    engine.write_bytes(PLAN)
    with pytest.raises(ArtifactError, match="`names` is unusable"):
        wrapping.wrap(engine, folder / "w.engine", {}, onnx=path)
    made = wrapping.wrap(engine, folder / "w.engine", {"names": {"0": "coin"}}, onnx=path)
    assert loaded(made.output.read_bytes())[0]["names"] == {"0": "coin"}


def test_another_onnx_file_than_the_stamp_names_is_not_believed(folder: Path) -> None:
    path = onnx_file(folder / "yolo.onnx", DETECT)
    source = {"onnx": {"name": path.name, "sha256": "0" * 64}}
    engine = stamped(folder / "m.engine", PLAN, source=source)
    with pytest.raises(UsageError, match="not known of this engine: task, names"):
        wrapping.wrap(engine, folder / "w.engine", {})
    with pytest.raises(UsageError, match="built from another file"):
        wrapping.wrap(engine, folder / "w.engine", {}, onnx=path)


@pytest.mark.parametrize("name", ["/", "..", "", 7, None, "a\0b", "names.txt"])
def test_an_onnx_file_that_is_none_is_passed_over(folder: Path, name: object) -> None:
    (folder / "names.txt").write_text("coin")
    engine = stamped(folder / "m.engine", PLAN, source={"onnx": {"name": name}})
    made = wrapping.wrap(engine, folder / "w.engine", SAMPLES["old"] | {"names": ["coin"]})
    assert loaded(made.output.read_bytes())[0]["names"] == {"0": "coin"}


def test_options_change_single_values_of_what_was_kept(folder: Path) -> None:
    engine = folder / "yolo.engine"
    engine.write_bytes(laid_out(json.dumps(DETECT)))
    bare = wrapping.strip(engine, folder / "bare.plan").output
    made = wrapping.wrap(bare, folder / "again.engine", {"batch": 8})
    expected = json.loads(json.dumps({**DETECT, "batch": 8}))
    assert loaded(made.output.read_bytes())[0] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": "{}"}, "metadata in the stamp of .* was changed"),
        ({"metadata": None}, "metadata in the stamp of .* was changed"),
    ],
)
def test_metadata_that_was_edited_in_the_stamp_is_noticed(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    engine = folder / "yolo.engine"
    engine.write_bytes(laid_out(json.dumps(DETECT)))
    bare = wrapping.strip(engine, folder / "bare.plan").output
    stamp = stamp_of(bare)
    stamp["wrapper"] |= change
    Path(f"{bare}.json").write_text(json.dumps(stamp))
    with pytest.raises(ArtifactError, match=message):
        wrapping.wrap(bare, folder / "again.engine", {})


WRAPPED = laid_out(json.dumps(DETECT))


@pytest.mark.parametrize(
    ("command", "data", "message"),
    [
        ("strip", PLAN, "is a bare plan already"),
        ("strip", WRAPPED[:-1], "not whole"),
        ("strip", WRAPPED + b"\0", "not whole"),
        ("strip", laid_out("[1]"), "metadata is unusable"),
        ("strip", laid_out("{")[:-20], "not whole"),
        ("strip", laid_out("{"), "metadata is unusable"),
        ("strip", (1).to_bytes(4, "little") + b"\xff" + PLAN, "metadata is unusable"),
        ("strip", laid_out(json.dumps(DETECT), b""), "with no plan behind them"),
        ("strip", laid_out(json.dumps(DETECT), b"x" * 99), "with no plan behind them"),
        ("strip", b"PK\x03\x04" + bytes(40), "a zip archive"),
        ("strip", b"", "is empty"),
        ("wrap", WRAPPED, "in a wrapper already: ultralytics"),
        ("wrap", PLAN[:-1], "not whole"),
        ("wrap", b"some text that is no engine", "neither a TensorRT engine nor"),
    ],
)
def test_what_is_no_plan_or_no_wrapper_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, command: str, data: bytes, message: str
) -> None:
    (folder / "in.engine").write_bytes(data)
    code, out, err = run(capsys, command, "in.engine", "-o", "out.engine")
    assert (code, out) == (7, "")
    assert message in err
    assert [path.name for path in folder.iterdir()] == ["in.engine"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "not known of this engine: task, names, imgsz, stride, batch"),
        (FULL, "not known of this engine: batch"),
        ([*FULL, "--batch", "0"], "--batch: `0` is no positive number"),
        ([*FULL, "--batch", "1", "--task", "dance"], "`dance` is not known"),
        ([*FULL, "--imgsz", "640x640x3"], "`640x640x3` is no size"),
        ([*FULL, "--names", "coco.yaml"], "is YAML"),
        ([*FULL, "--batch", "1", "--names", "gap.json"], "indices of 2 class names"),
        ([*FULL, "--batch", "1", "--names", "wrong.json"], "`3` is no class name"),
        ([*FULL, "--batch", "1", "--names", "cut.json"], "are no JSON"),
        ([*FULL, "--batch", "1", "--names", "empty.txt"], "there are no class names"),
        ([*FULL, "--batch", "1", "-o", "in.engine"], "input and output at once"),
        ([*FULL, "--batch", "1", "-o", "foreign.engine"], "trtenv did not make it"),
    ],
)
def test_wrong_requests_write_nothing(
    capsys: pytest.CaptureFixture[str], folder: Path, argv: list[str], message: str
) -> None:
    files = {
        "in.engine": PLAN,
        "foreign.engine": b"mine",
        "names.txt": b"coin\nhand\n",
        "gap.json": b'{"0": "a", "2": "b"}',
        "wrong.json": b'["a", 3]',
        "cut.json": b'["a", ',
        "empty.txt": b"\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    code, out, err = run(capsys, "wrap", "in.engine", "-o", "out.engine", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    "text", ["coin\r\n hand \n", '["coin", "hand"]', '{"1":"hand","0":"coin"}']
)
def test_wrap_and_strip_as_typed(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str
) -> None:
    (folder / "in.engine").write_bytes(PLAN)
    (folder / "names.txt").write_text("\ufeff" + text, encoding="utf-8")
    argv = [*FULL, "--batch", "2", "--json"]
    code, out, err = run(capsys, "wrap", "in.engine", "-o", "new/out.engine", *argv)
    assert (code, err) == (0, "")
    metadata, plan = loaded((folder / "new/out.engine").read_bytes())
    assert plan == PLAN
    assert {key: metadata[key] for key in wrapper.NEEDED} == {
        "task": "detect",
        "names": {"0": "coin", "1": "hand"},
        "imgsz": [480, 640],
        "stride": 32,
        "batch": 2,
    }
    answer = json.loads(out)
    assert answer["metadata"] == metadata
    assert answer["stamp"] == stamp_of(folder / "new/out.engine")
    code, out, _ = run(capsys, "strip", "new/out.engine", "-o", "bare.engine")
    assert (code, out.split(":")[0]) == (0, "bare.engine")
    assert (folder / "bare.engine").read_bytes() == PLAN
    code, out, _ = run(capsys, "inspect", "bare.engine", "--json")
    assert json.loads(out)["stamp"]["sha256"] == "matches"


def test_a_plan_of_tensorrt_rtx_is_noted(folder: Path) -> None:
    (folder / "in.engine").write_bytes(RTX)
    wishes = {**SAMPLES["old"], "names": {"0": "coin"}}
    made = wrapping.wrap(folder / "in.engine", folder / "out.engine", wishes)
    assert "TensorRT-RTX" in made.notes[0]


def test_an_engine_that_changes_meanwhile_is_not_put_in_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = folder / "in.engine"
    engine.write_bytes(WRAPPED)
    look = wrapping.look

    def then_changed(path: Path) -> Any:
        found = look(path)
        path.write_bytes(WRAPPED[:-1] + bytes([WRAPPED[-1] ^ 1]))
        return found

    monkeypatch.setattr(wrapping, "look", then_changed)
    with pytest.raises(ArtifactError, match="changed while it was read"):
        wrapping.strip(engine, folder / "out.engine")
    assert [path.name for path in folder.iterdir()] == ["in.engine"]


def test_a_large_engine_is_never_whole_in_memory(folder: Path) -> None:
    head = bytearray(PLAN[:8192])
    size = 64 << 20
    head[16:24] = (size - 24).to_bytes(8, "little")  # counted from behind its first section
    engine = folder / "in.engine"
    prefix = laid_out(json.dumps(DETECT), b"")
    with engine.open("wb") as sink:
        sink.write(prefix + head)
        sink.truncate(len(prefix) + size)
    tracemalloc.start()
    wrapping.strip(engine, folder / "out.plan")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (folder / "out.plan").stat().st_size == size
    assert peak < 8 << 20


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_of_names_is_read_or_refused(text: str) -> None:
    try:
        found = wrapper.read_names(text)
    except UsageError:
        return
    assert list(found) == [str(i) for i in range(len(found))]


@given(st.dictionaries(st.sampled_from(["stride", "names", "imgsz", "args", "x"]), st.text()))
def test_any_metadata_of_an_onnx_file_is_read_or_refused(properties: dict[str, str]) -> None:
    try:
        found = wrapper.from_onnx(properties)
    except ArtifactError:
        return
    json.dumps(found, allow_nan=False)


@given(JSON, JSON)
def test_any_stamp_is_survived(inputs: Any, profiles: Any) -> None:
    engine = {"inputs": inputs, "profiles": profiles}
    assert set(wrapper.from_stamp(engine)) <= {"batch", "channels", "imgsz", "args"}
    wrapper.input_names(engine)
