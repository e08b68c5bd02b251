"""The shape of the package: imports go one way, start-up stays light, modules stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trtenv

PACKAGE = Path(trtenv.__file__).parent
# A folder may import from itself and from those before it.
LAYERS = [
    "errors",
    "paths",
    "console",
    "spec",
    "dialect",
    "catalog",
    "engine",
    "runners",
    "pipeline",
    "cli",
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)
HEAVY = {"docker", "onnx", "jinja2", "rich", "numpy", "virtualenv", "pynvml"}
HEAVY |= {"concurrent", "email", "filelock", "http", "ssl"}
EXAMPLE = PACKAGE.parent / "examples" / "digits.py"


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = layer(path)
    if own in ("jobs", "__init__", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "trtenv" and len(parts) > 1:
                assert parts[1] in LAYERS[: LAYERS.index(own) + 1], f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_job_scripts_import_nothing_of_trtenv_and_modules_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 360
    if layer(path) == "jobs":
        assert "import trtenv" not in text
        assert "from trtenv" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno < 70, f"{node.name} is too long"


@pytest.mark.process
@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["env", "list"],
        ["inspect", "nothing"],
        # Imports what an unchanged re-run does.
        ["convert", f"{EXAMPLE}:model", "--env", "rtx-1.7", "--runner", "venv", "--dry-run"],
    ],
)
def test_start_up_imports_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys\nfrom trtenv.cli import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stderr.strip().splitlines()[-1]))
    assert loaded & HEAVY == set()
