"""Which Python an environment gets, and what is said where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from trtenv.errors import InterpreterMissing
from trtenv.runners import interpreters
from trtenv.runners.interpreters import Interpreter, available, require

HERE = {
    "3.9": Interpreter(Path("/usr/bin/python3.9"), "3.9.18"),
    "3.11": Interpreter(Path("/usr/bin/python3.11"), "3.11.2"),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "_find", HERE.get)


@pytest.mark.usefixtures("machine")
def test_the_best_that_is_here_wins() -> None:
    assert available(("3.12", "3.11", "3.9")) == HERE["3.11"]
    assert available(("3.9", "3.11")) == HERE["3.9"]
    assert available(("3.10",)) is None
    assert available(()) is None
    assert HERE["3.11"].minor == "3.11"


@pytest.mark.usefixtures("machine")
def test_a_missing_one_is_named_with_what_was_seen_and_how_to_get_it() -> None:
    with pytest.raises(InterpreterMissing) as caught:
        require(("3.10", "3.8"), what="environment `tensorrt-8.6.0`")
    message, hint = caught.value.message, str(caught.value.hint)
    assert message.startswith("environment `tensorrt-8.6.0` needs Python 3.10 or 3.8 for ")
    assert message.endswith("; found 3.9.18, 3.11.2")
    for remedy in ("uv python install 3.10", "pyenv install 3.10", "apt install python3.10"):
        assert remedy in hint


def test_versions_that_get_no_pip_are_not_searched_for() -> None:
    assert available(("3.8", "2.7")) is None


def test_pyenv_is_searched_in_its_folders_newest_first_and_not_by_its_shims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("3.10.4", "3.10.13", "3.11.7"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/shims:/usr/bin")
    assert interpreters._surroundings("3.10")["PATH"].split(":") == [
        "/usr/bin",
        f"{tmp_path}/versions/3.10.13/bin",
        f"{tmp_path}/versions/3.10.4/bin",
    ]


@pytest.mark.process
def test_this_python_is_found_and_is_not_one_of_a_virtual_environment() -> None:
    minor = f"3.{sys.version_info.minor}"
    found = available((minor,))
    assert found
    code = "import sys; print(sys.version.split()[0], sys.prefix == sys.base_prefix)"
    said = subprocess.run(
        [found.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [found.version, "True"]
    assert found.minor == minor


@pytest.mark.process
def test_a_program_that_only_has_the_name_of_a_python_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python3.15", "python3"):
        fake = tmp_path / name
        fake.write_text("#!/bin/sh\necho no python\nexit 3\n", encoding="utf-8")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert interpreters._find.__wrapped__("3.15") is None
