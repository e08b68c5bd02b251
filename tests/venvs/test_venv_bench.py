"""bench from the command line, on a machine without a GPU: by ONNX Runtime."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from digits_onnx import write_digits

pytestmark = pytest.mark.venv

HERE = ["--runner", "venv", "--env", "rtx-1.7"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    for name in ("digits.onnx", "again.onnx"):
        write_digits(tmp_path / name)
    return tmp_path


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "trtenv", "bench", *argv, *HERE]


def test_two_models_side_by_side(folder: Path) -> None:
    options = ["--batch", "1,8", "--duration", "0.1", "-o", "speed.json"]
    done = subprocess.run(
        command("digits.onnx", "again.onnx", *options), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert "TIMES AS FAST" in header
    assert [line.split()[2] for line in lines] == ["1x1x32x32", "8x1x32x32"] * 2
    first, second = json.loads((folder / "speed.json").read_text())["engines"]
    for row, other in zip(first["rows"], second["rows"], strict=True):
        assert row["ratio"]["latency_ms"] == 1
        rate = row["latency_ms"]["median"] / other["latency_ms"]["median"]
        assert other["ratio"]["latency_ms"] == pytest.approx(rate, abs=1e-3)


@pytest.mark.process
def test_ctrl_c_keeps_the_rows_that_are_done(folder: Path) -> None:
    batches = ",".join(map(str, range(1, 40)))
    options = ["--batch", batches, "--duration", "0.1", "-o", "speed.json", "--json"]
    process = subprocess.Popen(
        command("digits.onnx", "again.onnx", *options),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr
    while "measuring again.onnx" not in (line := process.stderr.readline()):
        assert line, "it ended by itself"
    os.killpg(process.pid, signal.SIGINT)
    answer, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    document = json.loads(answer)
    assert document == json.loads((folder / "speed.json").read_text())
    assert document["interrupted"]
    first, second = document["engines"]
    assert len(first["rows"]) == 39
    assert len(second["rows"]) < 39
