"""Job scripts run on the Python of the environment: 3.6 to 3.13, each that this machine has."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from exporting import HERE, WORKER

pytestmark = pytest.mark.venv
PURE = HERE.parent / "unit" / "test_jobs_export_pure.py"
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
COMPILE = "import sys; [compile(open(name).read(), name, 'exec') for name in sys.argv[1:]]"


def interpreter(version: str) -> str:
    found = sorted(PYENV.glob(f"{version}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python{version}")
    if path is None:
        pytest.skip(f"this machine has no Python {version}")
    return path


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(6, 14)])
def test_the_pure_parts_work(version: str) -> None:
    done = subprocess.run(
        [interpreter(version), "-B", str(PURE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" passed\n")


def test_every_job_script_compiles_on_the_oldest_python() -> None:
    scripts = [str(path) for path in sorted(WORKER.parent.glob("*.py"))]
    subprocess.run([interpreter("3.6"), "-B", "-c", COMPILE, *scripts], check=True)
