"""What engines did on an H100, with TensorRT 8.5.3.1 and 8.6.0: runs, comparisons and measurements.

docs/gpu.md has the commands; tests/gpu makes them again on any GPU.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from trtenv.dialect.diagnosis import explain

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "data" / "engines" / "h100" / "run"
RESULTS = [json.loads(line) for line in (RUN / "results.jsonl").read_text().splitlines()]
VERSIONS = ("local-8.5.3.1", "local-8.6.0")


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def results(test: str, environment: str) -> list[dict[str, Any]]:
    found = [each for each in RESULTS if (each["test"], each["environment"]) == (test, environment)]
    assert found
    return found


@pytest.mark.parametrize("path", sorted(RUN.glob("*.json")), ids=lambda path: path.name)
def test_answers_have_the_form_that_is_promised(path: Path) -> None:
    schemas = {each.name: document(each) for each in (ROOT / "docs" / "schemas").iterdir()}
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in schemas.items()
    )
    schema = schemas[path.name.partition("-")[0] + ".schema.json"]
    jsonschema.Draft202012Validator(schema, registry=registry).validate(document(path))


@pytest.mark.parametrize("environment", VERSIONS)
def test_infer_saw_what_onnx_runtime_saw(environment: str) -> None:
    digits = results("infer-digits", environment)
    assert {(each["runner"]["memory"], each["runner"]["cuda_graph"]) for each in digits} == {
        ("pycuda", False),
        ("pycuda", True),
        ("driver", False),
    }
    assert all(each["same"] == 1 and each["accuracy"] > 0.98 for each in digits)
    for kind in ("detect", "segment"):
        assert all(each["least"] > 0.99 for each in results(f"infer-coins-{kind}", environment))
    (resnet,) = results("infer-resnet18", environment)
    assert resnet["same"] == 1
    assert resnet["relative_error"] < 2e-3


@pytest.mark.parametrize("environment", VERSIONS)
def test_verify_found_agreement_and_where_it_ends(environment: str) -> None:
    for each in results("verify", environment):
        rel = max(each["rel"].values())
        if each["code"] == 0:
            assert rel < (1e-5 if "fp32" in each["engine"] else 2e-3), each
        if each["metric"]:
            assert each["metric"]["subject"]["top1"] > 0.98
        if each["engine"] == "overflow.engine":
            assert each["code"] == 12
            assert each["bisection"]["first"]["node"] == "m1"


def test_the_runner_kept_what_it_promises() -> None:
    runs = [each for each in results("runner", "local-8.5.3.1") if "refused" not in each]
    assert len(runs) == 12
    for each in runs:
        assert max(each["errors"].values()) < 1e-3
        assert each["overlapped"]
        assert each["grown"] == 0
        if each["graph"]:
            assert each["host_us"]["submit"] < 15
        if each["gpu_ms"]:
            assert each["gpu_ms"]["ratio"] < 1.02


@pytest.mark.parametrize("environment", VERSIONS)
def test_an_engine_of_another_version_is_explained(environment: str) -> None:
    (found,) = results("infer-other-version", environment)
    told = explain(found["said"])
    assert told is not None
    assert told.name == "not-an-engine"


@pytest.mark.parametrize("name", ["bench-resnet18", "bench-resnet18-graph"])
def test_bench_measured_an_idle_gpu_at_a_steady_clock(name: str) -> None:
    engines = [each for each in document(RUN / f"{name}.json")["engines"] if each["gpu"]]
    assert [each["environment"]["name"] for each in engines] == list(VERSIONS)
    for engine in engines:
        assert {note["kind"] for note in engine["notes"]} <= {"host-bound"}
        for row in engine["rows"]:
            assert row["conditions"]["sm_mhz"]["min"] == row["conditions"]["sm_mhz"]["max"]
            assert row["gpu_ms"]["median"] < row["latency_ms"]["median"]
            assert row["enqueue_ms"]["median"] < (0.015 if "graph" in name else 0.25)
