"""The trtexec back end of the build job.

trtexec comes with no wheel and runs only on a GPU: a script stands in for it, which prints what the
real one does (samples/trtexec of NVIDIA/TensorRT) and keeps its argv.
"""

import os
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "trtenv" / "jobs"
sys.path.insert(0, str(JOBS))

import trtexec
from worker import JobError

pytestmark = pytest.mark.process
SCRIPT = """#!{python}
import sys
print("&&&& RUNNING TensorRT.trtexec # " + " ".join(sys.argv))
print("[11/23/2026-10:00:00] [W] --plugins flag has been deprecated, use --staticPlugins flag instead.")
print("[11/23/2026-10:00:00] [V] [TRT] Layer(Scale): x, Tactic: 0x0")
target = [a for a in sys.argv if a.startswith("--saveEngine=")][0].partition("=")[2]
if "--fp61" in sys.argv:
    print("[11/23/2026-10:00:00] [E] Unknown option: --fp61 ")
    sys.exit(1)
if "--empty" not in sys.argv:
    open(target, "wb").write(b"plan")
for flag in sys.argv:
    if flag.startswith("--exportLayerInfo="):
        open(flag.partition("=")[2], "w").write("{{}}")
"""


class IO:
    def __init__(self, out: Path) -> None:
        self.out = str(out)

    def log(self, text: str) -> None:
        pass


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(SCRIPT.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return program


def test_the_argv_is_the_hosts_and_relative_files_land_in_the_out_folder(
    installed: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.engine"
    flags = ["--fp16", "--exportLayerInfo=layers.json"]
    argv, lines = trtexec.build("m.onnx", str(target), flags, IO(tmp_path))
    assert argv == [str(installed), "--onnx=m.onnx", f"--saveEngine={target}", *flags]
    assert target.read_bytes() == b"plan"
    assert (tmp_path / "layers.json").exists()
    assert trtexec.warnings(lines) == [
        "--plugins flag has been deprecated, use --staticPlugins flag instead."
    ]


def test_verbose_is_asked_for_and_shown(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, _ = trtexec.build("m.onnx", str(tmp_path / "x"), [], IO(tmp_path), verbose=True)
    assert argv[-1] == "--verbose"
    assert "[V]" in capsys.readouterr().err
    trtexec.build("m.onnx", str(tmp_path / "x"), [], IO(tmp_path))
    assert "[V]" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"), [("--fp61", "Unknown option: --fp61"), ("--empty", "RUNNING")]
)
def test_without_an_engine_its_own_words_are_the_error(
    installed: Path, tmp_path: Path, flag: str, words: str
) -> None:
    with pytest.raises(JobError, match="trtexec made no engine") as caught:
        trtexec.build("m.onnx", str(tmp_path / "x.engine"), [flag], IO(tmp_path))
    assert words in str(caught.value)


def test_where_there_is_none_the_other_back_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="no trtexec") as caught:
        trtexec.build("m.onnx", "x.engine", [], IO(tmp_path))
    assert "--builder api" in caught.value.hint
