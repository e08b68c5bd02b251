"""Interpreters older than any library of ours starts on."""

import os
import shutil
from pathlib import Path

import pytest


def interpreter(minor: str) -> str:
    """From PATH or pyenv; no library of ours starts on 3.6, so the discovery of trtenv does not."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for folder in sorted((root / "versions").glob(f"{minor}.*"), reverse=True):
        return str(folder / "bin" / "python")
    found = shutil.which(f"python{minor}")
    if found is None:
        pytest.skip(f"no Python {minor}")
    return found
