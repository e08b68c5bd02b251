"""docs/schemas against what the commands really answer, and against stamps that real builds wrote."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from trtenv.catalog.lock import LockEntry
from trtenv.cli import main
from trtenv.errors import ArtifactError, DaemonUnavailable
from trtenv.pipeline import doctor
from trtenv.pipeline.convert import Outcome
from trtenv.runners import daemon

ROOT = Path(__file__).parents[2]
SCHEMAS = {path.name: path for path in sorted((ROOT / "docs" / "schemas").iterdir())}
DATA = ROOT / "tests" / "data"
ENGINES = DATA / "engines"
RTX = ENGINES / "rtx17_sm89_sm120.engine"
STAMPS = sorted([*(DATA / "stamps").glob("*.json"), *ENGINES.glob("**/*.engine.json")])
Validate = Callable[[str, Any], None]


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validate() -> Validate:
    schemas = {name: document(path) for name, path in SCHEMAS.items()}
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas.items()
    )

    def check(name: str, answer: Any) -> None:
        schema = schemas[f"{name}.schema.json"]
        jsonschema.Draft202012Validator(schema, registry=registry).validate(answer)

    return check


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "work"
    found.mkdir()
    monkeypatch.chdir(found)
    return found


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    with contextlib.suppress(SystemExit):  # a refusal is an answer too
        main([*argv, *(() if "--json" in argv else ("--json",))])
    return json.loads(capsys.readouterr().out)


def no_daemon(url: str) -> None:
    raise DaemonUnavailable(f"nothing answers at {url}")


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    for value in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(value, dict | list):
            yield from objects(value)
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
        yield schema


@pytest.mark.parametrize("path", SCHEMAS.values(), ids=SCHEMAS)
def test_schemas_are_schemas_and_closed_at_the_top(path: Path) -> None:
    schema = document(path)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for found in objects(schema):
        assert set(found.get("required", ())) <= set(found["properties"])


@pytest.mark.parametrize("path", STAMPS, ids=lambda path: path.name)
def test_recorded_stamps(validate: Validate, path: Path) -> None:
    stamp = document(path)
    validate(f"{stamp['kind']}-stamp", stamp)


@pytest.mark.parametrize("key", ["sha256", "engine", "format"])
def test_a_stamp_without_a_promised_key_is_none(validate: Validate, key: str) -> None:
    stamp = document(DATA / "stamps" / "digits.rtx-1.7.engine.json")
    del stamp[key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        validate("engine-stamp", stamp)


def test_a_stamp_with_a_key_that_nobody_knows_is_none(validate: Validate) -> None:
    stamp = document(DATA / "stamps" / "digits.onnx.json")
    with pytest.raises(jsonschema.ValidationError, match="host"):
        validate("onnx-stamp", {**stamp, "host": "gpu-7"})


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ("env-list", "env list"),
        ("env-show", "env show rtx-1.7"),
        ("env-show", "env show ngc-pytorch-20.12"),
        ("dialect-show", "dialect show 8.5"),
        ("dialect-show", "dialect show 7.0"),
        ("dialect-show", "dialect show 11.1"),
        ("dialect-show", "dialect show rtx-1.7"),
        ("dialect-diff", "dialect diff 8.6 11.1"),
        ("dialect-diff", "dialect diff 8.6 8.6"),
        ("dialect-diff", "dialect diff rtx-1.7 10.0"),
        ("inspect", f"inspect {RTX}"),
        ("inspect", f"inspect {ENGINES / 'trt8531_sm90.engine'}"),
        ("inspect", f"inspect {ENGINES / 'h100' / 'digits-local-8.6.0-fp16.engine'}"),
        ("inspect", f"inspect {ENGINES / 'rtx17_none.head'}"),
        ("check", f"check {RTX} --target rtx-4090"),
        ("check", f"check {ENGINES / 'trt8531_sm90.engine'} --trt 8.6"),
        ("check", f"check {ENGINES / 'h100' / 'digits-local-8.6.0-fp16.engine'} --host"),
        ("targets", "check --list-targets"),
        ("removed", "env remove rtx-1.4 --runner venv"),
        ("error", "inspect nothing.engine"),
        ("error", "env show rtx1.7"),
        ("error", "build nothing.onnx"),
        ("error", "build x.onnx --bogus"),
        ("error", "convert torchvision:resnet18 --precision fp12"),
        ("outcomes", "convert torchvision:resnet18 --runner venv --trt 8.7"),
        ("dry-run", "build x.onnx --trt 7.2 --precision fp16 --shapes x:1x3 --dry-run"),
        ("dry-run", "build x.onnx --trt 7.2 --trt 8.7 --precision fp8 --dry-run"),
        ("dry-run", "build x.onnx --trt 8.7 --runner venv --dry-run"),
        ("dry-run", "build x.onnx --env rtx-1.7 --runner venv --shapes x:1x3..8x3 --dry-run"),
        ("dry-run", "convert m.py:model --env rtx-1.7 --runner venv --shapes x:1x3 --dry-run"),
        ("exec-dry-run", "exec --env rtx-1.7 --runner venv --dry-run --json -- true"),
        ("dry-run", "export m.py:model --env rtx-1.7 --runner venv --shapes x:1x3 --dry-run"),
    ],
)
def test_answers(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    validate: Validate,
    folder: Path,
    schema: str,
    line: str,
) -> None:
    monkeypatch.setattr(daemon, "_knock", no_daemon)
    (folder / "m.py").write_text("def model(): ...")
    validate(schema, run(capsys, *line.split()))


@pytest.mark.parametrize("trt", ["7.0", "8.5", "rtx-1.7"])
def test_answers_about_a_model(
    capsys: pytest.CaptureFixture[str], validate: Validate, folder: Path, trt: str
) -> None:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("NonZero", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "g", [tensor], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    validate("lint", run(capsys, "lint", "m.onnx", "--trt", trt))
    validate("inspect", run(capsys, "inspect", "m.onnx"))
    flags = ("--shapes", "x:1x4", "--runner", "venv", "--dry-run")
    validate("dry-run", run(capsys, "build", "m.onnx", "--env", "rtx-1.7", *flags))


def test_answers_of_strip_and_wrap(
    capsys: pytest.CaptureFixture[str], validate: Validate, folder: Path
) -> None:
    (folder / "names.txt").write_text("coin\n")
    line = (
        f"wrap {RTX} -o w.engine --task detect --names names.txt --imgsz 64 --stride 32 --batch 1"
    )
    validate("wrapped", run(capsys, *line.split()))
    validate("wrapped", run(capsys, "strip", "w.engine", "-o", "b.engine"))
    validate("inspect", run(capsys, "inspect", "w.engine"))
    for name in ("w.engine.json", "b.engine.json"):
        validate("engine-stamp", document(folder / name))


def test_outcomes_of_builds_that_went_well_and_badly(validate: Validate) -> None:
    error = ArtifactError("no FP16 layer", hint="ask for FP32", details=["1 of 1 layers is fp32"])
    outcomes = [
        Outcome(target="x", error=error),
        *(
            Outcome(target="x", output=path, stamp=document(path), reason="named")
            for path in STAMPS
        ),
    ]
    validate("outcomes", {"outcomes": [outcome.to_dict() for outcome in outcomes]})


def test_answers_of_doctor_and_of_a_lock(validate: Validate) -> None:
    states = [doctor.Finding("GPU", state, "text", "remedy") for state in ("ok", "problem")]
    states.append(doctor.Finding("GPU", "absent", "text"))
    validate("doctor", {"findings": [finding.to_dict() for finding in states]})
    entry = document(DATA / "stamps" / "digits.rtx-1.7.engine.json")["environment"]
    kept = {key: entry[key] for key in ("digest", "measured", "platform", "reference")}
    locked = {"rtx-1.7": LockEntry(date="2026-01-01T00:00:00Z", **kept).to_dict()}
    schema = document(SCHEMAS["env-show.schema.json"])["properties"]["locked"]
    jsonschema.Draft202012Validator(schema).validate(locked)
