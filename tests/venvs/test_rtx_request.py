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
        (("--layer-precisions", "conv0:fp16"), "types are the graph's"),
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
