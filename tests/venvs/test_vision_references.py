"""The image code beside the libraries whose models it serves: torchvision and Ultralytics, for real."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from trtenv.catalog.model import Environment
from trtenv.runners.protocol import JOBS_FOLDER, RunOptions
from trtenv.runners.venv import VenvRunner

pytestmark = pytest.mark.venv

SCRIPT = Path(__file__).with_name("vision_references.py")


def test_it_is_what_torchvision_and_ultralytics_do(
    tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 GB where no source within reach has CPU builds of torch 2.14.1 and torchvision."""
    shared_cache.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(shared_cache).free < 10**10:
        pytest.skip(f"needs 10 GB on the disk of {shared_cache}")
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    environment = Environment(
        name="vision-1.0",
        kind="wheel",
        python=(f"3.{sys.version_info.minor}",),
        requirements=("six==1.17.0",),
        torch_requirements=("torch==2.14.1",),
    )
    runner, target = VenvRunner(has_gpu=lambda: False), tmp_path / "measured.json"
    options = RunOptions(needs_torch=True, needs_packages=("ultralytics",))
    (tmp_path / "constraints.txt").write_text("torchvision==0.29.1\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    runner.prepare(environment, options)
    command = ["python", str(SCRIPT), str(JOBS_FOLDER), str(target)]
    assert runner.execute(environment, options, command) == 0
    measured = json.loads(target.read_text(encoding="utf-8"))
    assert measured["presets"] < 1e-6
    assert measured["suppressions"] == 0
    assert measured["detections"] < 1e-4
    assert measured["opencv"]["levels"] == 0
    assert measured["pillow"]["levels"] <= 1  # where OpenCV is absent
    assert measured["opencv"]["boxes"] < 1e-3
    assert measured["instances"]["pixels"] == 0
    # process_mask_native enlarges in two steps where the padding is no multiple of 4.
    assert measured["instances"]["least"] > 0.98
    assert measured["instances"]["mean"] > 0.999
    assert measured["maps"] == 0
