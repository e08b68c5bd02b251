"""verify on the host: what is asked, where it runs, what labels say, the verdict and the stamp."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import run
from digits_onnx import write_digits
from onnx import TensorProto, helper, save
from referencing import Registry, Resource

from trtenv.catalog.host import Gpu
from trtenv.catalog.load import default_catalog
from trtenv.engine.digests import file_digest
from trtenv.errors import UsageError, VerifyFailed
from trtenv.pipeline.comparison import Places, VerifySpec, choose_places
from trtenv.pipeline.inputs import Source, find_sources
from trtenv.pipeline.place import Place, Settings
from trtenv.pipeline.running import Subject, place_for, read_subject
from trtenv.pipeline.tolerances import TABLE, Tolerance, parse_limits, tolerance_for
from trtenv.pipeline.truth import Truth, find_truth
from trtenv.pipeline.verify import Report, judge, with_difference, write_verdict
from trtenv.spec.task import TaskCard

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "tests" / "data" / "engines" / "h100" / "digits-local-8.6.0-fp16.engine"
CLASSES = TaskCard(kind="classification", labels=("cat", "dog"))
BARE = TaskCard(kind="classification")
HERE = ["--env", "rtx-1.7", "--runner", "venv"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "work"
    found.mkdir()
    monkeypatch.chdir(found)
    return found


@pytest.fixture
def engine(folder: Path) -> Path:
    for path in ENGINE.parent.glob(ENGINE.name + "*"):
        shutil.copy(path, folder)
    return folder / ENGINE.name


# What is asked


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["rel=0.1", "cosine=1"], {"": {"rel": 0.1, "cosine": 1.0}}),
        (["boxes:rel=none", "a:b:top1=0.9"], {"boxes": {"rel": None}, "a:b": {"top1": 0.9}}),
    ],
)
def test_limits(texts: list[str], expected: dict[str, Any]) -> None:
    assert parse_limits(texts) == expected


@pytest.mark.parametrize(
    "text",
    ["rel", "rel=x", "rel=-1", "rel=inf", "rel=nan", "error=1", "=1", "equal=99", "top1=1.1"],
)
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        parse_limits([text])


def built(found: dict[str, int] | None, asked: str | None = None) -> Subject:
    layers = None if found is None else {"layers": found}
    return Subject(
        "e.engine", "engine", path=Path("e.engine"),
        stamp={"engine": {"precision": {"asked": asked, "found": layers}}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("subject", "precision"),
    [
        (built({"fp32": 9}), "fp32"),
        (built({"fp32": 2, "fp16": 1, "int32": 5}), "fp16"),
        (built({"fp16": 3, "int8": 1}), "int8"),
        (built({"bf16": 3, "fp16": 1}), "bf16"),
        (built({"fp16": 0, "tf32": 1}), "tf32"),
        (built(None, "fp16"), "fp16"),
        (built(None, "best"), "int8"),
        (built(None), "tf32"),
        (Subject("e.engine", "engine"), "tf32"),
    ],
)
def test_the_tolerance_is_that_of_the_coarsest_precision(
    subject: Subject, precision: str, folder: Path
) -> None:
    reference = read_subject(str(write_digits(folder / "d.onnx")))
    found = tolerance_for(subject, reference, {})
    assert found.precision == precision
    assert found.params()["float"] == {"rel": TABLE[precision].rel}


def test_tolerances_grow_as_precisions_get_coarser() -> None:
    rows = list(TABLE.values())
    assert [row.rel for row in rows] == sorted((row.rel for row in rows), reverse=True)
    assert [row.equal for row in rows] == sorted(row.equal for row in rows)


@pytest.mark.parametrize(
    ("to", "node", "expected"),
    [
        (TensorProto.FLOAT, "Relu", "fp32"),
        (TensorProto.FLOAT16, "Relu", "fp16"),
        (TensorProto.BFLOAT16, "Relu", "bf16"),
        (TensorProto.FLOAT, "DequantizeLinear", "int8"),
        (TensorProto.FLOAT8E4M3FN, "DequantizeLinear", "fp8"),
    ],
)
def test_the_precision_of_an_onnx_file_is_that_of_its_weights(
    folder: Path, to: int, node: str, expected: str
) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    weights = [helper.make_tensor("w", to, [4], [0.0] * 4)]
    graph = helper.make_graph(
        [helper.make_node(node, ["x"], ["y"])], "g", ends[:1], ends[1:], weights
    )
    save(helper.make_model(graph), folder / "m.onnx")
    subject = read_subject("m.onnx")
    assert tolerance_for(subject, subject, {}).precision == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["d.onnx"], "nothing tells what `d.onnx` was made from"),
        (["d.onnx", "--weights", "w.pt"], "--weights are a PyTorch reference's"),
        (["m.py:model"], "is a PyTorch model: it is what others are held against"),
        (["d.onnx", "--against", "d.onnx", "--max-drop", "1"], "--max-drop is about accuracy"),
        (["d.onnx", "--against", "d.onnx", "--min-metric", "0.9", "--labels", "l.csv"], "in percent"),
        (["d.onnx", "--against", "d.onnx", "--labels", "empty"], "holds no images"),
        (["d.onnx", "--against", "d.onnx", "--labels", "l.csv"], "--labels are of images"),
        (["d.onnx", "--against", "d.onnx", "--labels", "empty", "--task", "segment"], "--labels are of"),
        (["d.onnx", "--against", "d.onnx", "-i", "x.npy", "--labels", "l.csv"], "--labels are of images"),
        (["d.onnx", "--against", "d.onnx", "-i", "p.png"], "nothing tells how images become the input"),
        (["d.onnx", "--against", "d.onnx", "--profile", "1"], "--profile is of an engine"),
        (["d.onnx", "--against", "m.py:model", "--bisect"], "--bisect looks into an ONNX file"),
        (["d.onnx", "--against", "d.onnx", "--tolerance", "x=1"], "--tolerance"),
    ],
)  # fmt: skip
def test_requests_that_are_wrong(
    argv: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(folder / "d.onnx")
    (folder / "empty").mkdir()
    for name in ("m.py", "x.npy", "p.png", "l.csv"):
        (folder / name).touch()
    code, _, err = run(capsys, "verify", *argv, *HERE)
    assert code == 2
    assert message in err


def test_an_engine_without_its_onnx_file_beside_it(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "verify", str(engine), *HERE)
    assert code == 2
    assert "which it was built from, is not beside it" in err
    assert "--against" in err
    assert "--onnx" not in err
    assert "--onnx FILE" not in run(capsys, "bench", str(engine), "--onnx", *HERE)[2]
    write_digits(engine.with_name("digits.onnx"))
    code, _, err = run(capsys, "verify", str(engine), *HERE)
    assert code == 7
    assert "changed since" in err
    assert "--against" in err


def test_a_dry_run_starts_nothing_and_shows_both_jobs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(folder / "d.onnx")
    (folder / "other").mkdir()
    write_digits(folder / "other" / "e.onnx")
    write_digits(folder / "other" / "d.onnx")
    shapes = ["--shapes", "image:1x1x32x32..8x1x32x32", "--dry-run", "--json"]
    schemas = {
        path.name: json.loads(path.read_text()) for path in (ROOT / "docs" / "schemas").iterdir()
    }
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas.items()
    )
    check = jsonschema.Draft202012Validator(schemas["dry-run.schema.json"], registry=registry)
    for against, roles in (("e", ["both"]), ("d", ["record", "compare"])):
        reference = f"other/{against}.onnx"
        code, out, _ = run(capsys, "verify", "d.onnx", "--against", reference, *HERE, *shapes)
        assert code == 0
        document = json.loads(out)
        check.validate(document)
        assert [job["params"]["role"] for job in document["jobs"]] == roles
    assert not (folder / "trtenv.lock").exists()


# Where it runs


def settings(folder: Path, *, gpu: bool = True) -> Settings:
    made = Settings(catalog=default_catalog(), runner="venv", lock=folder / "trtenv.lock")
    gpus = (Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-1", "9.0", 80 << 30),) if gpu else ()
    host = made.host._replace(gpus=gpus, driver="580.1", pythons=frozenset({"3.10", "3.11"}))
    made.__dict__["host"] = host
    made.host_for = lambda candidates: host  # type: ignore[method-assign]
    return made


def spec(subject: Subject, reference: Subject, **more: Any) -> VerifySpec:
    return VerifySpec(subject, reference, Tolerance("fp32", "", {}), **more)


def placed(
    subject: Subject, reference: Subject, folder: Path, against: str | None = None, **more: Any
) -> Places:
    made = settings(folder)
    env = "tensorrt-8.6.0" if subject.runtime == "engine" else "rtx-1.7"
    place = place_for(subject, made, env=env)
    return choose_places(spec(subject, reference, **more), made, place, against)


def test_the_reference_runs_beside_the_engine_where_it_can(folder: Path, engine: Path) -> None:
    onnx = read_subject(str(write_digits(folder / "d.onnx")))
    places = placed(read_subject(str(engine)), onnx, folder)
    assert places.one
    assert places.subject.environment.name == "tensorrt-8.6.0"
    assert places.subject.options.needs_gpu
    assert engine in [mount.source for mount in places.subject.options.mounts]


def test_a_pytorch_reference_runs_where_torch_is(folder: Path, engine: Path) -> None:
    (folder / "m.py").touch()
    places = placed(read_subject(str(engine)), read_subject("m.py:model"), folder)
    assert not places.one
    assert places.reference.environment.has_torch
    assert places.reference.options.needs_torch
    assert not places.reference.options.needs_gpu
    assert not places.subject.options.needs_torch


def test_a_metric_takes_an_environment_that_can_count(folder: Path, engine: Path) -> None:
    onnx = read_subject(str(write_digits(folder / "d.onnx")))
    shutil.copy(ROOT / "examples" / "data" / "digit_0.png", folder / "p.png")
    (folder / "l.csv").write_text("p.png,0\n")
    sources = find_sources(["p.png"])
    truth = find_truth(Path("l.csv"), BARE, sources.files)
    places = placed(read_subject(str(engine)), onnx, folder, sources=sources, truth=truth)
    assert not places.one
    assert places.reference.options.needs_packages == ("metrics",)
    assert places.subject.options.needs_packages == ()


def test_two_files_of_one_name_need_two_sessions(folder: Path) -> None:
    (folder / "other").mkdir()
    pair = [read_subject(str(write_digits(folder / name))) for name in ("d.onnx", "other/d.onnx")]
    assert not placed(*pair, folder).one
    assert placed(pair[0], pair[0]._replace(path=folder / "e.onnx"), folder).one


# What labels say


def sources(folder: Path, *names: str) -> list[Source]:
    found = []
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found.append(Source(path, name))
    return found


def test_a_table_names_files_and_classes(folder: Path) -> None:
    listed = sources(folder, "a.png", "b/c.png", "d.png")
    (folder / "l.csv").write_text("file,label\na.png,dog\nb/c.png,0,more\n\n")
    truth = find_truth(folder / "l.csv", CLASSES, listed)
    assert truth.by_name == {"a.png": 1, "b/c.png": 0, "d.png": None}
    assert truth.notes == ("1 of 3 images have no label and do not count: d.png",)
    assert truth.format == "indices"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,bird\n", "the label `bird`"),
        ("a.png\n", "line 1 has no label"),
        ("z.png,0\n", "none of"),
        ("file,label\n\na.png,0\na.png,1\n", "line 4 gives `a.png` another label"),
        ("a.png,2\n", "the label `2` is none of the model's 2 labels"),
    ],
)
def test_tables_that_are_wrong(folder: Path, text: str, message: str) -> None:
    (folder / "l.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        find_truth(folder / "l.csv", CLASSES, sources(folder, "a.png"))


def test_one_label_for_two_images_is_refused(folder: Path) -> None:
    (folder / "l.csv").write_text("1.png,0\nb/2.png,1\n")
    (folder / "labels").mkdir()
    (folder / "labels" / "1.txt").touch()
    listed = sources(folder, "a/1.png", "b/1.png")
    for path, card in (
        (folder / "l.csv", CLASSES),
        (folder / "labels", TaskCard(kind="detection")),
    ):
        with pytest.raises(UsageError, match=r"could be of `a/1\.png` or of `b/1\.png`"):
            find_truth(path, card, listed)
        assert find_truth(path, card, listed[:1]).by_name


def test_folders_are_classes(folder: Path) -> None:
    listed = sources(folder, "dog/1.png", "cat/1.png", "2.png")
    truth = find_truth(folder / "images", CLASSES, listed)
    assert truth.by_name == {"dog/1.png": 1, "cat/1.png": 0, "2.png": None}
    counted = find_truth(folder / "images", BARE, sources(folder, "b/1.png", "a/1.png"))
    assert counted.by_name == {"b/1.png": 1, "a/1.png": 0}
    assert "alphabetical order" in counted.notes[0]
    digits = find_truth(folder / "images", BARE, sources(folder, "3/1.png", "10/1.png"))
    assert digits.by_name == {"3/1.png": 3, "10/1.png": 10}
    with pytest.raises(UsageError, match="the label `bird`"):
        find_truth(folder / "images", CLASSES, sources(folder, "bird/1.png"))


@pytest.mark.parametrize(("kind", "suffix"), [("detection", ".txt"), ("segmentation", ".png")])
def test_files_beside_images(folder: Path, kind: str, suffix: str) -> None:
    labels = folder / "labels"
    (labels / "b").mkdir(parents=True)
    for name in ("a", "b/c", "e"):
        (labels / name).with_suffix(suffix).touch()
    truth = find_truth(
        labels, TaskCard(kind=kind), sources(folder, "a.jpg", "b/c.jpg", "x/e.jpg", "d.jpg")
    )
    missing = "" if kind == "detection" else None
    assert [value and Path(str(value)).name for value in truth.by_name.values()] == [
        f"a{suffix}", f"c{suffix}", f"e{suffix}", missing,
    ]  # fmt: skip
    assert len(truth.notes) == 1
    with pytest.raises(UsageError, match="for any of the 1 images"):
        find_truth(labels, TaskCard(kind=kind), sources(folder, "z.jpg"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("classification", "l.json"), ("detection", "l.csv"), ("segmentation", "l.json")],
)
def test_labels_of_another_kind(folder: Path, kind: str, name: str) -> None:
    (folder / name).touch()
    with pytest.raises(UsageError, match=f"holds no labels for {kind}"):
        find_truth(folder / name, TaskCard(kind=kind), sources(folder, "a.png"))
    with pytest.raises(UsageError, match="do not exist"):
        find_truth(folder / "nowhere", TaskCard(kind=kind), sources(folder, "a.png"))


# The verdict


OUTPUT: dict[str, Any] = {
    "name": "y", "rel": 1e-6, "max_abs": 1e-6, "cosine": 1.0, "top1": None, "equal": None,
    "problems": [], "agrees": True,
}  # fmt: skip


def metric(own: float, other: float) -> dict[str, Any]:
    return {
        "kind": "classification", "main": "top1", "samples": 10, "notes": [],
        "subject": {"top1": own}, "reference": {"top1": other},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("own", "other", "limits", "reasons"),
    [
        (0.98, 0.99, {"max_drop": 1.0}, 0),
        (0.97, 0.99, {"max_drop": 1.0}, 1),
        (0.7 + 0.1, 0.9, {"max_drop": 10.0}, 0),  # not by the last bit
        (0.99, 0.5, {"max_drop": 0.0}, 0),
        (0.98, 0.99, {"min_metric": 98.5}, 1),
        (0.98, 0.99, {"min_metric": 98.5, "max_drop": 0.5}, 2),
        (0.1, 0.9, {}, 0),
        (0.29, 0.29, {"min_metric": 29}, 0),
        (0.0, 0.0, {"max_drop": 1}, 1),  # the labels are others
        (0.0, 0.0, {}, 0),
    ],
)
def test_accuracy_counts_where_a_limit_is_set(
    own: float, other: float, limits: dict[str, float], reasons: int
) -> None:
    truth = Truth("classification", "indices", {})
    values = {"outputs": [OUTPUT], "metric": with_difference(metric(own, other))}
    made = VerifySpec(
        Subject("e", "engine"), Subject("o", "onnxruntime"), Tolerance("fp32", "", {}),
        truth=truth, **limits,
    )  # type: ignore[arg-type]  # fmt: skip
    assert len(list(judge(made, values))) == reasons


def report(subject: Subject, reference: Subject, folder: Path, **output: Any) -> Report:
    made = settings(folder)
    place = place_for(subject, made, env="tensorrt-8.6.0")
    entry = {**OUTPUT, **output}
    values = {
        "outputs": [entry], "metric": None, "notes": [], "items": 12, "batches": 12,
        "worst": "batch 1", "first_nonfinite": None, "ran": {"subject": {}, "reference": {}},
    }  # fmt: skip
    wanted = spec(subject, reference)
    return Report(wanted, _fixed(place), values, tuple(judge(wanted, values)))


class _Identity:
    digest = "sha256:0"


def _fixed(place: Place) -> Places:
    place.__dict__["identity"] = _Identity()
    return Places(place, place)


def test_the_verdict_goes_into_the_stamp_and_the_engine_stays(folder: Path, engine: Path) -> None:
    before = json.loads(engine.with_name(engine.name + ".json").read_text())
    digest = file_digest(engine)
    subject = read_subject(str(engine))
    onnx = read_subject(str(write_digits(folder / "d.onnx")))
    assert write_verdict(report(subject, onnx, folder))
    after = json.loads(engine.with_name(engine.name + ".json").read_text())
    verified = after.pop("verified")
    assert after == before
    assert file_digest(engine) == digest
    assert verified["verdict"] == "agrees"
    assert verified["against"] == {
        "name": "d.onnx", "runtime": "onnxruntime", "sha256": file_digest(folder / "d.onnx"),
    }  # fmt: skip
    assert str(folder) not in json.dumps(verified)
    problems = ["rel 0.5, allowed 0.0001"]
    worse = report(subject, onnx, folder, problems=problems, agrees=False)
    assert write_verdict(worse)
    again = json.loads(engine.with_name(engine.name + ".json").read_text())
    assert again["verified"]["verdict"] == "differs"
    failure = worse.failure()
    assert isinstance(failure, VerifyFailed)
    assert failure.exit_code == 12
    assert "output `y`: rel 0.5" in failure.message
    assert sorted(path.name for path in folder.glob(".trtenv-*")) == []


def test_a_stamp_that_cannot_be_written_is_a_note(
    folder: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = read_subject(str(write_digits(folder / "d.onnx")))
    made = report(read_subject(str(engine)), onnx, folder)
    stamp = engine.with_name(engine.name + ".json")
    document = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**document, "sha256": "0" * 64}))
    assert not write_verdict(made)
    assert "changed meanwhile" in capsys.readouterr().err
    stamp.unlink()
    stamp.mkdir()
    assert not write_verdict(made)
    assert "the verdict is not in" in capsys.readouterr().err
