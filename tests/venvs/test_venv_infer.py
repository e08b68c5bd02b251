"""infer from the command line, on a machine without a GPU: by ONNX Runtime and by PyTorch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from digits_onnx import EXAMPLES, PICTURES, write_digits

pytestmark = pytest.mark.venv

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "infer.schema.json").read_text())
HERE = ["--runner", "venv", "--env", "rtx-1.7"]
DIGITS = str(EXAMPLES / "data" / "digit_*.png")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    folder = tmp_path / "mein Ordner ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_digits(folder / "digits.onnx")
    return folder


def infer(*argv: str, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "trtenv", "infer", *argv, *HERE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_digits_are_read_and_everything_asked_for_is_kept(folder: Path) -> None:
    saved = "json,csv,npz,npy,pictures,sheet"
    said, _ = infer("digits.onnx", "-i", DIGITS, "--task", "classify", "--save", saved, "--json")
    answer = json.loads(said)
    jsonschema.validate(answer, SCHEMA)
    made = folder / "digits-results"
    assert json.loads((made / "infer.json").read_text()) == answer
    assert answer["run"]["images"] == 4
    assert [entry["top"][0]["class"] for entry in results(made)] == list(PICTURES)
    assert len((made / "results.csv").read_text().splitlines()) == 1 + 4 * 5
    assert {path.name for path in made.iterdir()} >= {"outputs", "pictures", "sheet.png"}
    assert not list(folder.glob(".trtenv-*"))


def test_the_model_itself_reads_them_the_same(folder: Path) -> None:
    infer("digits.onnx", "-i", DIGITS, "--task", "classify")
    model, weights = f"{EXAMPLES}/digits.py:model", f"{EXAMPLES}/digits.safetensors"
    infer(model, "--weights", weights, "-i", DIGITS)
    by_onnx = results(
        folder / "digits-results"
    )  # both are called digits: the later one replaced it
    infer("digits.onnx", "-i", DIGITS, "--task", "classify", "-o", "other")
    for one, other in zip(by_onnx, results(folder / "other"), strict=True):
        assert one["top"][0]["class"] == other["top"][0]["class"]
        assert one["top"][0]["score"] == pytest.approx(other["top"][0]["score"], abs=1e-4)


def test_a_broken_image_is_told_and_the_exit_code_says_so(folder: Path) -> None:
    shutil.copytree(EXAMPLES / "data", folder / "in", ignore=shutil.ignore_patterns("coins*"))
    (folder / "in" / "digit_4.png").write_bytes((folder / "in" / "digit_3.png").read_bytes()[:99])
    said, told = infer("digits.onnx", "-i", "in", "--task", "classify", code=13)
    assert "digit_4.png" in said
    assert "1 could not be read" in told
    found = results(folder / "digits-results")
    assert [bool(entry.get("error")) for entry in found] == [False, False, True, False, False]


def test_what_is_no_result_of_ours_is_not_replaced(folder: Path) -> None:
    (folder / "digits-results").mkdir()
    (folder / "digits-results" / "thesis.txt").write_text("years of work")
    argv = ["digits.onnx", "-i", DIGITS, "--task", "classify"]
    assert "no results of trtenv" in infer(*argv, code=2)[1]
    assert (folder / "digits-results" / "thesis.txt").read_text() == "years of work"
    infer(*argv, "--force")
    assert not (folder / "digits-results" / "thesis.txt").exists()


def test_arrays_go_in_and_come_out(folder: Path) -> None:
    import numpy as np
    from digits_onnx import pictures

    np.savez(folder / "in.npz", image=pictures())
    infer("digits.onnx", "-i", "in.npz", "--save", "npz", "-o", "out")
    with np.load(folder / "out" / "outputs" / "in.npz") as found:
        assert found["logits"].argmax(1).tolist() == list(PICTURES)


@pytest.mark.process
def test_ctrl_c_keeps_what_is_done(folder: Path) -> None:
    (folder / "in").mkdir()
    source = (EXAMPLES / "data" / "digit_3.png").read_bytes()
    for number in range(6000):
        (folder / "in" / f"{number}.png").write_bytes(source)
    command = [sys.executable, "-m", "trtenv", "infer", "digits.onnx", "-i", "in", *HERE]
    command += ["--task", "classify", "--batch", "4", "--save", "json,pictures"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(folder.glob(".trtenv-*/out/*/pictures/*.png")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    made = folder / "digits-results"
    found = results(made)  # every line is whole
    assert 0 < len(found) < 6000
    assert json.loads((made / "infer.json").read_text())["interrupted"]
    assert not list(made.rglob("*.part"))
    assert not list(folder.glob(".trtenv-*"))
