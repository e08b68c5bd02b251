"""Wheel environments made for real from the package index: whole, locked, one at a time."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from commands import run
from filelock import FileLock
from wheelhouse import make_wheel, served

from trtenv.catalog.load import load_catalog
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed
from trtenv.paths import cache_folder, images_folder
from trtenv.runners import pip
from trtenv.runners.protocol import Job, RunOptions
from trtenv.runners.venv import VenvRunner

pytestmark = pytest.mark.venv

TORCH = RunOptions(needs_torch=True)
# What a client process does in these tests: make the environment `small` of conftest.py.
CLIENT = """
import sys
from trtenv.catalog.model import Environment
from trtenv.runners.protocol import RunOptions
from trtenv.runners.venv import VenvRunner
environment = Environment(name="small-1.0", kind="wheel", python=(sys.argv[1],),
                          requirements=("six==1.17.0",))
print(VenvRunner(has_gpu=lambda: False).prepare(environment, RunOptions()).digest)
"""


@pytest.fixture
def runner() -> VenvRunner:
    return VenvRunner(has_gpu=lambda: False)


def folders() -> list[Path]:
    return sorted(path for path in (cache_folder() / "venvs").iterdir() if path.is_dir())


def client(environment: Environment) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, environment.python[0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_variants_hold_the_same_base_and_the_larger_serves_for_both(
    runner: VenvRunner, small: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    with_torch = runner.prepare(small, TORCH)
    assert runner.prepare(small, RunOptions()) == with_torch
    assert len(folders()) == 1
    assert capsys.readouterr().err.count("Creating small-1.0") == 2  # its start and its end
    marker = json.loads((folders()[0] / "trtenv.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in marker["base"]["packages"]] == ["six"]
    assert [each["name"] for each in marker["torch"]["packages"]] == ["python-dateutil"]
    shutil.rmtree(folders()[0])
    alone = runner.prepare(small, RunOptions())
    assert alone.digest == with_torch.digest
    assert alone.reference == "wheels:six==1.17.0"


def test_made_again_it_is_the_same_though_the_index_moved_on(
    runner: VenvRunner, small: Environment
) -> None:
    loose = dataclasses.replace(small, requirements=("six",))
    first = runner.prepare(loose, RunOptions())
    lock = next((cache_folder() / "locks").glob("small-1.0-*.json"))
    older = json.loads(lock.read_text(encoding="utf-8"))
    # As if the lock had been written when 1.16.0 was the newest.
    older["packages"][0] |= {
        "version": "1.16.0",
        "sha256": "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254",
    }
    lock.write_text(json.dumps(older), encoding="utf-8")
    made = folders()
    assert runner.remove(loose) == [str(folder) for folder in made]
    assert folders() == []
    again = runner.prepare(loose, RunOptions())
    assert again.digest != first.digest
    code = "import six; assert six.__version__ == '1.16.0', six.__version__"
    assert runner.execute(loose, RunOptions(), ["python", "-c", code]) == 0


def test_another_file_under_a_locked_version_is_refused(
    runner: VenvRunner, small: Environment
) -> None:
    runner.prepare(small, RunOptions())
    lock = next((cache_folder() / "locks").glob("small-1.0-*.json"))
    text = lock.read_text(encoding="utf-8")
    sha256 = json.loads(text)["packages"][0]["sha256"]
    lock.write_text(text.replace(sha256, "0" * 64), encoding="utf-8")
    runner.remove(small)
    with pytest.raises(EnvironmentFailed, match="HASHES") as caught:
        runner.prepare(small, RunOptions())
    assert str(lock) in str(caught.value.hint)
    with pytest.raises(EnvironmentFailed, match="not on this machine"):
        runner.prepare(small, RunOptions(pull=False))


def test_a_client_killed_in_the_middle_leaves_nothing_that_looks_whole(
    runner: VenvRunner, small: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    process = client(small)
    venvs = cache_folder() / "venvs"
    deadline = time.monotonic() + 60
    while not list(venvs.glob("small-1.0-*/lib/python*/site-packages/pip")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert runner.leftovers() == folders() != []
    with pytest.raises(EnvironmentFailed, match="not on this machine"):
        runner.prepare(small, RunOptions(pull=False))
    runner.prepare(small, RunOptions())
    assert "is incomplete, or its Python is gone; making it again" in capsys.readouterr().err


def test_leftovers_are_cleaned_and_what_is_being_made_is_left_alone(
    runner: VenvRunner, small: Environment
) -> None:
    runner.prepare(small, RunOptions())
    (whole,) = folders()
    for name in ("other-1.0-0123456789ab", "busy-1.0-0123456789ab"):
        (whole.parent / name / "bin").mkdir(parents=True)
    with FileLock(cache_folder() / "locks" / "busy-1.0.guard"):
        assert runner.clean() == [whole.parent / "other-1.0-0123456789ab"]
    assert folders() == [whole.parent / "busy-1.0-0123456789ab", whole]


def test_of_two_processes_the_second_waits_and_says_so(small: Environment) -> None:
    both = [client(small), client(small)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    errors = "".join(err for _, err in said)
    assert errors.count("waiting for another trtenv that is creating small-1.0") == 1
    assert errors.count("Creating small-1.0 with Python") == 2


def test_nothing_of_the_callers_python_and_pip_settings_reaches_it(
    runner: VenvRunner, small: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in ("six.py", "pip.py"):
        (poison / name).write_text("raise SystemExit('leaked')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(poison))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("VIRTUALENV_SYSTEM_SITE_PACKAGES", "1")
    runner.prepare(small, RunOptions())
    code = "import six, sys; sys.exit(not six.__file__.startswith(sys.prefix))"
    assert runner.execute(small, RunOptions(), ["python", "-c", code]) == 0
    text = (folders()[0] / "pyvenv.cfg").read_text(encoding="utf-8")
    assert "include-system-site-packages = false" in text


def test_console_scripts_work_where_they_are(runner: VenvRunner, small: Environment) -> None:
    assert runner.execute(small, RunOptions(), ["pip", "--version"]) == 0
    line = runner.command_line(small, RunOptions(), ["pip", "list"])
    assert line[-2:] == [str(folders()[0] / "bin" / "pip"), "list"]
    assert f"VIRTUAL_ENV={folders()[0]}" in line


def test_a_dry_run_names_the_environment_and_makes_none(
    runner: VenvRunner, small: Environment
) -> None:
    line = runner.command_line(small, RunOptions(), ["python3", "worker.py"])
    assert line[-2].startswith(str(cache_folder() / "venvs" / "small-1.0-"))
    assert not (cache_folder() / "venvs").exists()


def test_the_cache_is_marked_as_one(runner: VenvRunner, small: Environment) -> None:
    runner.prepare(small, RunOptions())
    tag = (cache_folder() / "CACHEDIR.TAG").read_text(encoding="utf-8")
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_what_no_index_has_is_told_with_pips_words(runner: VenvRunner, small: Environment) -> None:
    nothing = dataclasses.replace(small, requirements=("six==0.0.0.1",))
    with pytest.raises(
        EnvironmentFailed, match=r"No matching distribution found for six"
    ) as caught:
        runner.prepare(nothing, RunOptions())
    assert "package index" in str(caught.value.hint)


# PyTorch's index of CPU builds, played on loopback.


@pytest.fixture
def cpu_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Has torch 2.13.7+cpu, and a tempting six that must never be taken."""
    root = tmp_path / "index"
    for name, version in (("torch", "2.13.7+cpu"), ("six", "1.17.0+evil")):
        make_wheel(root / "whl" / "cpu" / name, name, version)
    with served(root) as address:
        index = f"{address}/whl/cpu"
        monkeypatch.setattr(pip.find_cpu_build, "__defaults__", (index,))
        yield index


def test_torch_alone_comes_from_pytorchs_index(
    runner: VenvRunner, small: Environment, cpu_index: str
) -> None:
    environment = dataclasses.replace(
        small, requirements=("idna==3.10",), torch_requirements=("torch==2.13.7", "six==1.17.0")
    )
    first = runner.prepare(environment, TORCH)
    assert first.details["torch"] == "2.13.7+cpu"
    marker = json.loads((folders()[0] / "trtenv.json").read_text(encoding="utf-8"))
    six, torch = marker["torch"]["packages"]
    assert six["version"] == "1.17.0"
    assert torch["direct"]
    assert torch["url"].startswith(cpu_index)
    wheel = next(Path(folders()[0].parents[2]).glob("index/whl/cpu/torch/*.whl"))
    assert torch["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    # Once more, from the lock alone.
    runner.remove(environment)
    assert runner.prepare(environment, TORCH) == first


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers: a firewall's way to say no."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/whl/cpu"


def test_an_index_that_does_not_answer_costs_seconds(
    runner: VenvRunner, small: Environment, silent: str
) -> None:
    runner.prepare(small, RunOptions())
    python = folders()[0] / "bin" / "python"
    for index in ("http://127.0.0.1:9/whl/cpu", silent):
        started = time.monotonic()
        assert pip.find_cpu_build(python, "six==1.17.0+cpu", index) is None
        assert time.monotonic() - started < 15


# The real ones.


def real(name: str) -> Environment:
    return load_catalog([images_folder()])[name]


def probe(
    environment: Environment, options: RunOptions, cache: Path, staging: Path
) -> dict[str, object]:
    runner = VenvRunner(cache, has_gpu=lambda: False)
    runner.prepare(environment, options)
    with runner.session(environment, options, staging) as session:
        return session.run(Job("probe", {}), lambda _: None).values


def need_space(folder: Path, gigabytes: int) -> None:
    if shutil.disk_usage(folder).free < gigabytes * 10**9:
        pytest.skip(f"needs {gigabytes} GB on the disk of {folder}")


def test_tensorrt_rtx(shared_cache: Path, staging: Path) -> None:
    found = probe(real("rtx-1.7"), RunOptions(), shared_cache, staging)
    assert found["tensorrt-rtx"] == "1.7.1.116"


@pytest.mark.parametrize(("command", "schema"), [("probe", "env-probe"), ("pull", "env-made")])
def test_answers_keep_to_their_schemas(
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    schema: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(shared_cache))
    code, answer, said = run(capsys, "env", command, "rtx-1.7", "--runner", "venv", "--json")
    assert code == 0, said
    path = Path(__file__).parents[2] / "docs" / "schemas" / f"{schema}.schema.json"
    jsonschema.validate(json.loads(answer), json.loads(path.read_text(encoding="utf-8")))


def test_tensorrt_rtx_with_torch(shared_cache: Path, staging: Path) -> None:
    """PyTorch's index may be out of reach: torch is a CPU build wherever any source has one."""
    need_space(shared_cache, 4)
    found = probe(real("rtx-1.7"), TORCH, shared_cache, staging)
    assert found["tensorrt-rtx"] == "1.7.1.116"
    assert found["torch"] == "2.13.0+cpu"


def test_tensorrt_8_finds_its_libraries_in_other_wheels(shared_cache: Path, staging: Path) -> None:
    """No GPU is needed to load them: TensorRT opens cuBLAS and cuDNN by name."""
    need_space(shared_cache, 7)
    environment = real("tensorrt-8.6.0")
    found = probe(environment, RunOptions(), shared_cache, staging)
    assert found["tensorrt"] == "8.6.0"
    assert found["cudnn"] == "8.9.0"
    code = "import ctypes; ctypes.CDLL('libcublas.so.12'); ctypes.CDLL('libnvinfer_plugin.so.8')"
    runner = VenvRunner(shared_cache)
    assert runner.execute(environment, RunOptions(), ["python", "-c", code]) == 0
