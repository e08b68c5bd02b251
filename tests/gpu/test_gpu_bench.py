"""`trtenv bench` on a GPU: what it measures, and that others who measure the same agree.

docs/gpu.md tells how to run. TRTENV_GPU_POLYGRAPHY: a folder with Polygraphy unpacked.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_runs import ROOT, Built, build_once, digits_model, environments, record, trtenv

pytestmark = pytest.mark.gpu

# So many of the small digits keep a GPU busy for longer than the host needs to enqueue them.
MANY = 4096
POLYGRAPHY = os.environ.get("TRTENV_GPU_POLYGRAPHY")
Build = Callable[[str, int | None], Built]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Engines by environment and batch, None for a range of 1 to 16; each is built once."""
    found: dict[tuple[str, int | None], Built] = {}

    def make(environment: str, batch: int | None) -> Built:
        key = environment, batch
        if key not in found:
            folder = tmp_path_factory.mktemp(environment)
            model = digits_model(folder / "digits.onnx", batch)
            size = "1x1x32x32..4x1x32x32..16x1x32x32" if batch is None else f"{batch}x1x32x32"
            name = f"digits-bench-{batch or 'range'}"
            found[key] = build_once(environment, model, name, "--shapes", f"image:{size}")
        assert found[key].code == 0, found[key].said
        return found[key]

    return make


def bench(environment: str, engine: Path, *options: str, codes: tuple[int, ...] = (0,)) -> Any:
    done = trtenv(
        *("bench", str(engine), "--env", environment, "--runner", "venv", "--json"),
        *("--duration", "0.5", *options),
        cwd=engine.parent,
    )
    assert done.returncode in codes, done.stdout + done.stderr
    document = json.loads(done.stdout)
    record(test="bench", environment=environment, options=options, answer=document)
    return document


@environments
def test_rows_of_an_engine(made: Build, environment: str) -> None:
    (engine,) = bench(environment, made(environment, None).engine, "--batch", "1,4,16")["engines"]
    assert engine["runner"]["device"] == engine["gpu"]["name"]
    assert [row["batch"] for row in engine["rows"]] == [1, 4, 16]
    for row in engine["rows"]:
        assert row["gpu_ms"]["n"] >= 10
        assert 0 < row["gpu_ms"]["min"] <= row["gpu_ms"]["median"] < row["latency_ms"]["median"]
        assert row["conditions"]["sm_mhz"]["max"] <= engine["gpu"]["max_sm_mhz"]
        assert row["ratio"] == {"gpu_ms": 1.0, "latency_ms": 1.0, "throughput": 1.0}


@environments
def test_the_onnx_file_beside_it(made: Build, environment: str) -> None:
    engine = made(environment, None).engine
    first, onnx = bench(environment, engine, "--onnx", "--batch", "16", codes=(0, 3))["engines"]
    if onnx["error"]:
        pytest.skip(onnx["error"]["message"])
    assert first["rows"][0]["shapes"] == onnx["rows"][0]["shapes"]
    assert onnx["rows"][0]["ratio"]["latency_ms"] > 0


@environments
def test_gpu_time_is_that_of_a_bare_loop_within_two_percent(made: Build, environment: str) -> None:
    built = made(environment, MANY)
    script = [sys.executable, str(ROOT / "benchmarks" / "polygraphy_run.py"), str(built.engine)]
    script += ["--env", environment, "--shapes", f"image:{MANY}x1x32x32", "--rounds", "2"]
    script += ["--polygraphy", POLYGRAPHY] if POLYGRAPHY else []
    done = subprocess.run(
        script, cwd=built.engine.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    record(test="bench against others", environment=environment, answer=found)
    assert found["ratios"]["gpu_to_bare"] == pytest.approx(1, abs=0.02)
    if POLYGRAPHY:
        assert found["ratios"]["latency_to_polygraphy"] < 1.1


@environments
def test_a_cuda_graph_makes_the_host_faster_and_the_gpu_no_slower(
    made: Build, environment: str
) -> None:
    engine = made(environment, None).engine
    (plain,) = bench(environment, engine, "--batch", "1")["engines"]
    (graph,) = bench(environment, engine, "--batch", "1", "--cuda-graph")["engines"]
    before, after = plain["rows"][0], graph["rows"][0]
    assert after["enqueue_ms"]["median"] < before["enqueue_ms"]["median"]
    assert after["gpu_ms"]["median"] < 1.1 * before["gpu_ms"]["median"]


@environments
def test_without_copies_there_is_no_latency_and_more_throughput(
    made: Build, environment: str
) -> None:
    engine = made(environment, MANY).engine
    (whole,) = bench(environment, engine, "--streams", "2")["engines"]
    (bare,) = bench(environment, engine, "--streams", "2", "--no-data-transfers")["engines"]
    assert bare["rows"][0]["latency_ms"] is None
    rates = [entry["rows"][0]["throughput"]["images_per_second"] for entry in (whole, bare)]
    assert rates[1] > 0.95 * rates[0]
