"""The main job in the embedded runner, from the command line: what is made, kept, refused and left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.venv

ROOT = Path(__file__).parents[2]
MODEL = [f"{ROOT}/examples/digits.py:model", "--weights", f"{ROOT}/examples/digits.safetensors"]
SHAPES = ["--shapes", "image:1x1x32x32..8x1x32x32..16x1x32x32"]
HERE = ["--runner", "venv", "--env", "rtx-1.7"]
SLOW = "import time\n\n\ndef model():\n    print('slow', flush=True)\n    time.sleep(120)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    folder = tmp_path / "mein Ordner ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def trtenv(*argv: str, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "trtenv", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_convert_then_nothing_to_do_then_what_changed(folder: Path) -> None:
    trtenv("convert", *MODEL, *SHAPES, *HERE)
    assert sorted(path.name for path in folder.iterdir()) == [
        "digits.onnx", "digits.onnx.json", "digits.onnx.log", "digits.rtx-1.7.engine",
        "digits.rtx-1.7.engine.json", "digits.rtx-1.7.engine.log", "trtenv.lock",
    ]  # fmt: skip
    stamp = json.loads((folder / "digits.rtx-1.7.engine.json").read_text())
    assert str(folder) not in json.dumps(stamp)
    assert str(ROOT) not in json.dumps(stamp)
    assert stamp["source"]["model"]["sources"].keys() == {"digits.py"}
    onnx = json.loads((folder / "digits.onnx.json").read_text())
    assert onnx["comparison"]["outputs"]["logits"]["rel"] < 1e-5

    _, again = trtenv("convert", *MODEL, *SHAPES, *HERE, "--locked")
    assert again.count("is unchanged") == 2
    _, fp16 = trtenv("convert", *MODEL, *SHAPES, *HERE, "--precision", "fp16", "--sm", "8.6,8.9")
    assert "digits.onnx is unchanged" in fp16
    typed = json.loads((folder / "digits.rtx-1.7.sm86_89.engine.json").read_text())
    assert typed["engine"]["precision"]["found"]["layers"]["fp16"] > 0
    assert typed["targets"]["compute_capabilities"] == ["8.6", "8.9"]
    (folder / "digits.rtx-1.7.engine").write_bytes(b"damaged")
    _, mended = trtenv("convert", *MODEL, *SHAPES, *HERE)
    assert "building digits.rtx-1.7.engine" in mended


def test_one_bad_target_does_not_stop_the_other(folder: Path) -> None:
    out, _err = trtenv(
        "convert", *MODEL, *SHAPES, "--runner", "venv", "--env", "tensorrt-8.6.0", "--env", "rtx-1.7",
        "--json", code=3,
    )  # fmt: skip
    outcomes = {entry["target"]: entry for entry in json.loads(out)["outcomes"]}
    assert outcomes["rtx-1.7"]["error"] is None
    assert "NVIDIA GPU" in outcomes["tensorrt-8.6.0"]["error"]["message"]
    assert (folder / "digits.rtx-1.7.engine").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_nothing(folder: Path, number: signal.Signals, code: int) -> None:
    client = start_slow(folder)
    client.send_signal(number)
    assert client.wait(timeout=30) == code
    assert sorted(path.name for path in folder.iterdir()) == ["slow.onnx.log", "slow.py"]


def test_second_run_on_the_same_output_is_refused(folder: Path) -> None:
    client = start_slow(folder)
    _, err = trtenv("export", "slow.py:model", "--shapes", "x:1x3", *HERE, code=4)
    assert "another trtenv is writing `slow.onnx`" in err
    client.send_signal(signal.SIGINT)
    client.wait(timeout=30)


def start_slow(folder: Path) -> "subprocess.Popen[str]":
    """A client whose model takes its time, once it does."""
    (folder / "slow.py").write_text(SLOW)
    argv = ["export", "slow.py:model", "--shapes", "x:1x3", *HERE]
    client = subprocess.Popen([sys.executable, "-m", "trtenv", *argv], text=True)
    end = time.monotonic() + 300
    while not any("slow" in log.read_text() for log in folder.glob(".trtenv-*/*.log")):
        assert client.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    return client


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a full disk")
def test_full_disk_is_said_and_leaves_nothing(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine allows no mount")
    try:
        _, err = trtenv("convert", *MODEL, *SHAPES, *HERE, "-o", str(disk), code=6)
        assert "No space left on device" in err
        assert "Traceback" not in err
        assert [path.name for path in disk.iterdir() if path.suffix != ".log"] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
