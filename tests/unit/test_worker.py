"""The inside's half of the job protocol, on every Python that environments have."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pythons import interpreter

import trtenv

pytestmark = pytest.mark.process

JOBS = Path(trtenv.__file__).parent / "jobs"
MINORS = ["3.6", "3.8", "3.10", "3.12", "3.13"]


@pytest.fixture(params=MINORS)
def python(request: pytest.FixtureRequest) -> str:
    return interpreter(request.param)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """The real worker and probe, beside scripts that misbehave."""
    folder = tmp_path / "jobs"
    shutil.copytree(JOBS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = {
        "noisy": "import os\ndef run(params, io):\n    print('to nobody')\n    os.write(1, b'raw\\n')\n"
        "    io.log('heard: \\u00fc')\n    return {'sum': sum(params['numbers'])}\n",
        "raises": "def run(params, io):\n    raise ValueError('no good')\n",
        "exits": "import sys\ndef run(params, io):\n    sys.exit(3)\n",
        "told": "from worker import JobError\ndef run(params, io):\n"
        "    raise JobError('kind', 'what failed', 'do this')\n",
        "sleeps": "import time\ndef run(params, io):\n    io.log('sleeping')\n    time.sleep(60)\n",
    }
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def prepare(folder: Path, kind: str, params: dict[str, object] | None = None) -> dict[str, str]:
    job, out = folder / f"1-{kind}", folder / f"out-{kind}"
    job.mkdir()
    out.mkdir()
    (job / "job.json").write_text(json.dumps({"kind": kind, "params": params or {}}))
    return {"folder": str(job), "out": str(out)}


def result_of(request: dict[str, str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(request["out"], "result.json").read_text())
    return found


def test_two_jobs_over_stdin_share_a_worker(python: str, jobs: Path, tmp_path: Path) -> None:
    requests = [prepare(tmp_path, "noisy", {"numbers": [1, 2]}), prepare(tmp_path, "probe")]
    with subprocess.Popen(
        [python, str(jobs / "worker.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    ) as worker:  # fmt: skip
        assert worker.stdin
        assert worker.stdout
        assert worker.stderr
        events = [json.loads(worker.stdout.readline())]
        for request in requests:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            while events[-1]["event"] != "result" or not result_exists(request):
                events.append(json.loads(worker.stdout.readline()))
        worker.stdin.close()
        assert worker.wait(timeout=10) == 0
        assert worker.stderr.read().splitlines()[:2] == ["to nobody", "raw"]
    assert events[0]["event"] == "ready"
    assert {"event": "log", "job": "1-noisy", "text": "heard: ü"} in events
    assert result_of(requests[0])["values"] == {"sum": 3}


def result_exists(request: dict[str, str]) -> bool:
    return Path(request["out"], "result.json").exists()


def test_jobs_on_the_command_line_end_with_their_success(
    python: str, jobs: Path, tmp_path: Path
) -> None:
    request = prepare(tmp_path, "probe")
    done = subprocess.run(
        [python, str(jobs / "worker.py"), request["folder"], request["out"]], check=False
    )
    assert done.returncode == 0
    values = result_of(request)["values"]
    assert isinstance(values, dict)
    assert values["python"].startswith(Path(python).parts[-3][:3] if "pyenv" in python else "3.")
    assert values["machine"] == os.uname().machine


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("raises", {"kind": "raised", "message": "ValueError: no good"}),
        ("exits", {"kind": "raised", "message": "SystemExit: 3"}),
        ("told", {"kind": "kind", "message": "what failed", "hint": "do this"}),
        ("absent", {"kind": "raised"}),
    ],
)
def test_failures_are_results(
    python: str, jobs: Path, tmp_path: Path, kind: str, expected: dict[str, str]
) -> None:
    request = prepare(tmp_path, kind)
    done = subprocess.run(
        [python, str(jobs / "worker.py"), request["folder"], request["out"]],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    result = result_of(request)
    assert result["ok"] is False
    error = result["error"]
    assert isinstance(error, dict)
    assert expected.items() <= error.items()


def test_the_end_of_stdin_ends_a_running_job_at_once(
    python: str, jobs: Path, tmp_path: Path
) -> None:
    request = prepare(tmp_path, "sleeps")
    with subprocess.Popen(
        [python, str(jobs / "worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        while "sleeping" not in worker.stdout.readline():
            pass
        worker.stdin.close()
        assert worker.wait(timeout=10) == 9


@pytest.mark.parametrize("minor", MINORS)
def test_every_job_script_compiles(minor: str, tmp_path: Path) -> None:
    target = tmp_path / "jobs"
    shutil.copytree(JOBS, target, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([interpreter(minor), "-m", "compileall", "-q", str(target)], check=True)
