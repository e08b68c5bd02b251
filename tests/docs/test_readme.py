"""The README's main command, pasted into a clean checkout."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def block(name: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", text, flags=re.DOTALL)
    assert found
    return found[1]


def checkout(target: Path) -> Path:
    """What a clone would hold, with the changes that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).exists():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    return target


@pytest.mark.venv
def test_main_command_makes_a_stamped_engine(tmp_path: Path) -> None:
    clone = checkout(tmp_path / "clone")
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(["bash", "-euc", block("main")], cwd=clone, env=variables, check=True)
    engine = clone / "out" / "digits.rtx-1.7.engine"
    stamp = json.loads(engine.with_name(engine.name + ".json").read_text())
    assert engine.stat().st_size == stamp["size"]
    assert stamp["engine"]["version"] == "1.7.1.116"
    assert stamp["source"]["model"]["model"] == "digits.py:model"
    again = subprocess.run(
        ["bash", "-euc", block("main")],
        cwd=clone,
        env=variables,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "digits.rtx-1.7.engine is unchanged" in again.stderr
    looked = subprocess.run(
        [clone / ".venv/bin/trtenv", "inspect", engine], check=True, capture_output=True, text=True
    )
    assert "TensorRT-RTX 1.7.1.116" in looked.stdout
    assert "sha256 matches" in looked.stdout


def test_every_command_in_the_readme_and_docs_exists() -> None:
    from trtenv.cli import COMMANDS

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    used = set(re.findall(r"(?:bin/|`)trtenv ([a-z]+)", text))
    assert used <= set(COMMANDS)
