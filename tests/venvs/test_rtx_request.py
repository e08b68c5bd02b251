"""Real TensorRT-RTX builds, all four releases: every precision, dynamic shapes, two profiles, borders."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits_onnx import pictures, write_digits

pytestmark = pytest.mark.venv

SHAPES = ("--shapes", "image:1x1x32x32..8x1x32x32..16x1x32x32")
SECOND = ("--shapes", "image:16x1x32x32..32x1x32x32")
RELEASES = {"rtx-1.4": "1.4.0.76", "rtx-1.5": "1.5.0.114", "rtx-1.6": "1.6.1.120", "rtx-1.7": "1.7.1.116"}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "digits.onnx")
    shifted = [np.roll(pictures(), shift, 3) for shift in range(-2, 3)]
    np.savez(tmp_path / "samples.npz", image=np.concatenate(shifted).astype(np.float32))
    return tmp_path


def build(release: str, *options: str, code: int = 0) -> dict[str, Any]:
    """The stamp, or the error, of `trtenv build digits.onnx`."""
    command = [
        *(sys.executable, "-m", "trtenv", "build", "digits.onnx", "--env", release),
        *("--runner", "venv", "-o", "x.engine", "--force", "--json", *options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)["outcomes"][0]
    return outcome["error"] if code else outcome["stamp"]


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_builds_what_is_asked_for(folder: Path, release: str) -> None:
    plain = build(release, *SHAPES, *SECOND, "--precision", "fp32", "--workspace", "1G")
    assert plain["engine"]["version"] == RELEASES[release]
    assert len(plain["engine"]["profiles"]) == 2
    assert set(plain["engine"]["precision"]["found"]["layers"]) == {"fp32"}

    half = build(release, *SHAPES, "--precision", "fp16", "--keep-fp32", "classifier")
    found = half["engine"]["precision"]["found"]
    assert found["products"] == {"fp16": 4, "fp32": 1}
    assert half["engine"]["inputs"][0]["dtype"] == "float32"

    brain = build(release, *SHAPES, "--precision", "bf16")
    assert brain["engine"]["precision"]["found"]["products"] == {"bf16": 5}

    borders = build(
        release, *SHAPES, "--precision", "fp16",
        "--input-io-formats", "fp16:chw", "--output-io-formats", "fp16:chw",
    )  # fmt: skip
    assert borders["engine"]["inputs"][0]["dtype"] == "float16"
    assert borders["engine"]["outputs"][0]["dtype"] == "float16"

    assert not list(folder.glob(".trtenv-*"))


def test_int8_and_fp8_are_quantized_graphs(folder: Path) -> None:
    data = ("--calibration", "samples.npz")
    for precision, count in (("int8", 4), ("fp8", 1)):
        made = build("rtx-1.7", *SHAPES, "--precision", precision, *data)
        assert made["engine"]["precision"]["found"]["layers"][precision] >= count
        assert made["build"]["quantized"]["state"] == "quantized"
    for release in ("rtx-1.5", "rtx-1.6"):  # they build quantized matrix products alone
        error = build(release, *SHAPES, "--precision", "int8", *data, code=6)
        assert "graph compiler failed" in error["message"]
    error = build("rtx-1.4", *SHAPES, "--precision", "fp8", *data, code=2)
    assert "--trt rtx-1.7" in error["hint"]


def test_what_tensorrt_rtx_cannot_do_is_refused_before_anything_starts(folder: Path) -> None:
    for options, reason in (
        (("--precision", "best"), "strongly typed"),
        (("--precision", "fp16", "--layer-precisions", "conv0:fp16"), "types are the graph's"),
        (("--version-compatible",), "release that built them"),
        (("--batch", "4"), "no implicit batch"),
        (("--builder", "trtexec"), "no trtexec"),
    ):
        error = build("rtx-1.7", *SHAPES, *options, code=2)
        assert reason in error["message"], error
        assert error["hint"]
    error = build("rtx-1.7", *SHAPES, "--precision", "fp16", "--keep-fp32", "clasifier", code=6)
    assert "classifier" in error["message"] + error["hint"]
    assert not (folder / "x.engine").exists()


def test_a_model_that_tensorrt_rtx_cannot_take_is_blocked_before_anything_starts(
    folder: Path,
) -> None:
    error = build("rtx-1.7", "--shapes", "imgae:1x1x32x32", code=2)
    assert "imgae" in error["message"]


def test_a_dry_run_can_be_pasted(folder: Path) -> None:
    command = [
        *(sys.executable, "-m", "trtenv", "build", "digits.onnx", "--env", "rtx-1.7", *SHAPES),
        *("--runner", "venv", "-o", "x.engine", "--precision", "int8", "--dry-run", "--json"),
        *("--calibration", "samples.npz"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    job = json.loads(done.stdout)["jobs"][0]
    for name, source in job["files"].items():
        target = folder / "trtenv-job" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source == "this job":
            target.write_text(json.dumps({"kind": job["kind"], "params": job["params"]}))
        else:
            target.write_bytes(Path(source).read_bytes())
    out = folder / "trtenv-job" / "out" / "1-build"
    out.mkdir(parents=True)
    subprocess.run(job["argv"], check=True)
    assert json.loads((out / "result.json").read_text())["ok"]
    assert (out / "x.engine").stat().st_size > 1000


def test_an_engine_that_was_accepted_once_is_not_what_was_asked_for(folder: Path) -> None:
    kept = (*SHAPES, "--precision", "fp16", "--keep-fp32", "*")
    refused = build("rtx-1.7", *kept, code=7)
    assert "asked for fp16" in refused["message"]
    assert not (folder / "x.engine").exists()
    build("rtx-1.7", *kept, "--accept-precision", "any")
    command = [
        *(sys.executable, "-m", "trtenv", "build", "digits.onnx", "--env", "rtx-1.7", *kept),
        *("--runner", "venv", "-o", "x.engine"),
    ]
    assert subprocess.run([*command, "--accept-precision", "any"], check=False).returncode == 0
    assert subprocess.run(command, check=False).returncode == 7


def test_shapes_that_are_values(folder: Path) -> None:
    """An integer input of rank 1 that a Reshape reads: what is given for it are its values."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"], "reshape")],
        "reshape",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2]),
            helper.make_tensor_value_info("s", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), "digits.onnx")
    stamp = build("rtx-1.7", "--shapes", "s:1x4")
    assert stamp["engine"]["profiles"][0]["s"]["opt"] == [1, 4]
    wrong = build("rtx-1.7", "--shapes", "s:3x3", code=6)
    assert "Reshap" in wrong["message"] + str(wrong["details"])
