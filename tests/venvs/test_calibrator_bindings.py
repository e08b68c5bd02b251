"""The INT8 calibrator derives from the real TensorRT 8.5.3's classes and feeds what they ask for.

Device memory is a stand-in: there is no GPU here, and tests/gpu/test_gpu_int8.py has the real one.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trtenv.runners.protocol import JOBS_FOLDER

pytestmark = pytest.mark.venv

SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
sys.setdlopenflags(os.RTLD_LAZY)  # as the build job does
import calibrator
import numpy as np
import tensorrt as trt

class IO(object):
    def path(self, name):
        return sys.argv[3] + "/" + name
    def log(self, text):
        pass
    progress = log

class Memory(object):
    def __init__(self):
        self.held = {}
    def buffer(self, size):
        return Buffer(self.held, 4096 * (len(self.held) + 1))

class Buffer(object):
    def __init__(self, held, address):
        self.held, self.address = held, address
    def upload(self, array):
        self.held[self.address] = array.ravel().tolist()
    def free(self):
        pass

answers = {}
for method in ("entropy", "minmax"):
    spec = {"data": sys.argv[2], "cache": None, "method": method}
    entry = {"name": "x", "dtype": "float32", "shape": [2, 1]}
    memory = Memory()
    made = calibrator.make_calibrator(trt, spec, [entry], IO(), memory)
    fed = []
    while True:
        found = made.get_batch(["x"])
        if not found:
            break
        fed.append(memory.held[found[0]])
    made.write_calibration_cache(b"TRT-8503")
    answers[method] = {
        "fed": fed,
        "algorithm": str(made.get_algorithm()).split(".")[-1],
        "size": made.get_batch_size(),
        "base": isinstance(made, trt.IInt8Calibrator),
        "report": made.report,
    }
print(json.dumps(answers))
"""


def test_the_real_classes_are_fed_on_every_python(
    python: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    site = python[1]["PYTHONPATH"]
    minor = Path(python[0]).resolve().name.removeprefix("python")
    # Into the folder where TensorRT is: that interpreter is to see nothing else.
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "-q", "--target", site, "--no-deps",
            "--only-binary=:all:", "--python-version", minor, "numpy<1.24",
        ],
        check=True,
    )  # fmt: skip
    np.savez(tmp_path / "data.npz", x=np.arange(3.0)[:, None])
    argv = [python[0], "-c", SCRIPT, str(JOBS_FOLDER), str(tmp_path / "data.npz"), str(tmp_path)]
    done = subprocess.run(argv, env=python[1], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {"fed": [[0, 1], [2, 0]], "size": 1, "base": True}
    report = {"batches": 2, "cache": "written"}
    assert json.loads(done.stdout) == {
        "entropy": {
            **expected,
            "algorithm": "ENTROPY_CALIBRATION_2",
            "report": {**report, "method": "entropy"},
        },
        "minmax": {
            **expected,
            "algorithm": "MINMAX_CALIBRATION",
            "report": {**report, "method": "minmax"},
        },
    }
    assert (tmp_path / "calibration.cache").read_bytes() == b"TRT-8503"
