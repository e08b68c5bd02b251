"""Commands as a user types them, as far as they go without starting anything."""

import json
from pathlib import Path

import pytest
from commands import run

from trtenv import __version__


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_version_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"trtenv {__version__}\n", "")


@pytest.mark.parametrize("argv", [["-h"], ["convert", "-h"], ["env", "-h"], ["exec", "--help"]])
def test_help_needs_nothing(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert "Usage: trtenv" in out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["fly"], 2, "No such command"),
        (["convert", "nothing.onnx"], 2, "model file `nothing.onnx` does not exist"),
        (["convert", "net.h5"], 2, "is no model"),
        (["convert", "torchvision:resnet18", "--shapes", "x:1xx"], 2, "is no shape"),
        (["convert", "torchvision:resnet18", "--precision", "fp12"], 2, "--precision: `fp12`"),
        (["convert", "torchvision:resnet18", "--workspace", "much"], 2, "is no size"),
        (["convert", "torchvision:resnet18", "--sm", "ampere"], 2, "is no compute capability"),
        (["convert", "torchvision:resnet18", "--runner", "lxc"], 2, "runner `lxc`"),
        (["convert", "torchvision:resnet18", "--mount", "/nowhere:/x"], 2, "does not exist"),
        (["convert", "torchvision:resnet18", "-e", "X"], 2, "is no variable"),
        (["convert", "torchvision:resnet18", "--runner", "venv", "--env", "rtx1.7"], 2, "rtx1.7"),
        (["convert", "torchvision:resnet18", "--runner", "venv", "--trt", "8.7"], 3, "`8.7`"),
        (["convert", "torchvision:resnet18", "--runner", "venv", "--trt", "x"], 2, "not a version"),
        (["env", "show", "ngc-pytorch-20.13"], 2, "ngc-pytorch-20.13"),
        (["exec", "--env", "a", "--trt", "8", "--", "true"], 2, "exclude each other"),
        (["inspect", "nothing.engine"], 7, "nothing.engine"),
        (["build", "nothing.onnx"], 2, "does not exist"),
    ],
)
def test_wrong_requests_are_one_clear_error(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    found, out, err = run(capsys, *argv)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("argv", [["build", "x.onnx", "--bogus"], ["lint", "x.onnx"], ["inspect"]])
def test_json_is_one_document_also_for_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    code, out, err = run(capsys, *argv, "--json")
    assert (code, json.loads(out)["error"]["exit_code"]) == (2, 2)
    assert err


def test_unknown_environment_says_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "env", "show", "rtx1.7")
    assert "hint: did you mean `rtx-1.7`" in err


def test_env_list_answers_on_stdout_and_narrows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "env", "list", "--trt", "8.5", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["environments"]
    assert all(env["tensorrt"].startswith("8.5") for env in found)
    assert "tensorrt-8.5.3" in [env["name"] for env in found]


def test_env_show_prints_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "env", "show", "ngc-pytorch-20.12")
    assert code == 0
    assert "7.2.2.1" in out
    assert "[1] " in out
    assert "docs.nvidia.com" in out


def test_damaged_lock_is_named_and_kept(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    (empty_folder / "trtenv.lock").write_text("{")
    code, _, err = run(capsys, "env", "list")
    assert code == 2
    assert "trtenv.lock" in err
    assert (empty_folder / "trtenv.lock").read_text() == "{"


def test_locked_refuses_what_the_lock_does_not_hold(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    (empty_folder / "m.py").write_text("def model(): ...")
    code, _, err = run(
        capsys, "convert", "m.py:model", "--env", "rtx-1.7", "--runner", "venv", "--locked"
    )
    assert code == 5
    assert "is not in" in err


def test_dry_run_prints_the_job_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    (empty_folder / "m.py").write_text("def model(): ...")
    code, out, _ = run(
        capsys, "convert", "m.py:model", "--env", "rtx-1.7", "--runner", "venv", "--shapes",
        "x:1x3", "--sm", "8.6", "--dry-run", "--json",
    )  # fmt: skip
    assert code == 0
    document = json.loads(out)
    assert [job["kind"] for job in document["jobs"]] == ["export", "build"]
    steps = document["jobs"][1]["params"]["steps"]
    assert {"do": "compute_capabilities", "value": ["8.6"]} in steps
    assert sorted(path.name for path in empty_folder.iterdir()) == ["m.py"]
