"""Creates wheel environments in the user's cache folder, whole or not at all.

An environment is made at its final path, because pip writes that path into every console script;
the marker file comes last, and a folder without it is a remainder that the next run replaces.
All variants share one lock of the base packages: an engine is built with the same ones either way.
Those with torch start from one lock of torch.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from trtenv import console
from trtenv.errors import EnvironmentFailed
from trtenv.runners import pip
from trtenv.runners.interpreters import Interpreter
from trtenv.runners.protocol import LOG_TAIL_LINES
from trtenv.runners.wheels import (
    Lock,
    Recipe,
    build_tag,
    cpu_requirement,
    default_build,
    split_requirement,
    with_cpu_torch,
)

__all__ = ["Venv", "create", "find", "leftovers", "remove"]

MARKER: Final = "trtenv.json"
# https://bford.info/cachedir/: backup programs skip the folder.
CACHEDIR_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by trtenv.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Venv:
    """A whole environment on disk. `torch` is the lock of all that an export needs on top."""

    folder: Path
    base: Lock
    torch: Lock | None
    python_version: str

    @classmethod
    def planned(cls, cache: Path, recipe: Recipe) -> Self:
        """Where it would be; nothing is there yet."""
        nothing = Lock(python=recipe.python, platform=recipe.platform, packages=())
        folder = cache / "venvs" / recipe.folder
        return cls(folder=folder, base=nothing, torch=None, python_version=recipe.python)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


def find(cache: Path, recipe: Recipe) -> Venv | None:
    """The environment if it is whole. One whose interpreter was removed is not."""
    folder = cache / "venvs" / recipe.folder
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        base, torch = (_parse(marker[part]) for part in ("base", "torch"))
        version = marker["python_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if base is None:
        return None
    found = Venv(folder=folder, base=base, torch=torch, python_version=version)
    return found if found.python.exists() else None


def create(cache: Path, recipe: Recipe, interpreter: Interpreter) -> Venv:
    """Make it, unless another process just did. EnvironmentFailed where it cannot be made."""
    (cache / "venvs").mkdir(parents=True, exist_ok=True)
    (cache / "locks").mkdir(exist_ok=True)
    if not (tag := cache / "CACHEDIR.TAG").exists():
        tag.write_text(CACHEDIR_TAG, encoding="utf-8")
    with _alone(cache, recipe.name):
        if found := find(cache, recipe):
            return found
        folder = cache / "venvs" / recipe.folder
        if folder.exists():
            console.say(f"{folder} is incomplete, or its Python is gone; making it again")
            _discard(folder)
        try:
            with console.Step(f"Creating {recipe.name} with Python {interpreter.version}") as step:
                _make_empty(cache, recipe, folder, interpreter)
                _fill(cache, recipe, folder, interpreter, step)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    found = find(cache, recipe)
    assert found
    return found


def remove(cache: Path, name: str) -> list[Path]:
    """Remove every variant. Locks stay: made again, the environment is the same."""
    folders = [folder for folder in _folders(cache) if _name(folder) == name]
    if folders:
        with _alone(cache, name):
            for folder in folders:
                _discard(folder)
    return folders


def leftovers(cache: Path, *, clean: bool = False) -> list[Path]:
    """What a killed process left half-made. What one is making at this moment is not among it."""
    found = []
    for folder in _folders(cache):
        if not (folder / MARKER).exists():
            with suppress(BlockingIOError), _alone(cache, _name(folder), wait=False):
                found.append(folder)
                if clean:
                    _discard(folder)
    return found


def _folders(cache: Path) -> list[Path]:
    return [folder for folder in sorted((cache / "venvs").glob("*-*")) if folder.is_dir()]


def _name(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


@contextmanager
def _alone(cache: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """One process at a time for all variants of a name, as they share the base lock."""
    from filelock import FileLock, Timeout

    guard = FileLock(cache / "locks" / f"{name}.guard")
    try:
        guard.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise BlockingIOError(str(guard.lock_file)) from None
        console.say(f"waiting for another trtenv that is creating {name}")
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


def _discard(folder: Path) -> None:
    # The marker first: a removal that is cut short must not leave what looks whole.
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _make_empty(cache: Path, recipe: Recipe, folder: Path, interpreter: Interpreter) -> None:
    """virtualenv rather than venv: it brings its own pip, which a bare Debian lacks."""
    command = [sys.executable, "-m", "virtualenv", "--python", str(interpreter.executable)]
    command += ["--no-download", "--no-periodic-update", "--no-setuptools"]
    command += ["--app-data", str(cache / "virtualenv"), "--prompt", recipe.name, str(folder)]
    console.command(shlex.join(command))
    # The user's own defaults for virtualenv (system packages, other seeds) are not for this one.
    variables = {key: value for key, value in os.environ.items() if "VIRTUALENV_" not in key}
    made = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=variables | {"VIRTUALENV_CONFIG_FILE": os.devnull},
    )
    if made.returncode:
        raise EnvironmentFailed(
            f"virtualenv could not make {folder} with Python {interpreter.version}",
            hint=f"does `{interpreter.executable} -m sysconfig` work, and is the disk writable?",
            details=(made.stdout + made.stderr).splitlines()[-LOG_TAIL_LINES:],
        )


def _fill(
    cache: Path, recipe: Recipe, folder: Path, interpreter: Interpreter, step: console.Step
) -> None:
    python = folder / "bin" / "python"
    base_lock, torch_lock, lock = (
        cache / "locks" / f"{each.folder}.json" for each in (recipe.base, recipe.plain, recipe)
    )
    if _read(base_lock) is None:  # what torch needed beside other base packages
        torch_lock.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)
    base = _install(python, recipe.base, recipe.requirements, base_lock, step)
    torch = None
    if recipe.additions and _read(lock):
        torch = _install(python, recipe, (), lock, step)
    elif recipe.torch_requirements:
        wanted = recipe.torch_requirements
        if recipe.torch_build == "cpu" and _read(torch_lock) is None:
            wanted = _prefer_cpu(python, recipe, step)
        # torch's own wishes must not move what engines are built with.
        torch = _install(python, recipe, wanted, torch_lock, step, keep=base)
        if recipe.additions:
            torch = _add(python, recipe, base, torch, step)
            _write(lock, torch.to_json())
    marker = {
        "base": json.loads(base.to_json()),
        "python_version": interpreter.version,
        "torch": torch and json.loads(torch.to_json()),
    }
    _write(folder / MARKER, json.dumps(marker, indent=1, sort_keys=True) + "\n")


def _prefer_cpu(python: Path, recipe: Recipe, step: console.Step) -> tuple[str, ...]:
    step.update("looking for PyTorch's CPU build")
    wanted = [cpu for each in recipe.torch_requirements if (cpu := cpu_requirement(each))]
    found = {each: pip.find_cpu_build(python, each) for each in wanted}
    chosen = with_cpu_torch(recipe.torch_requirements, found)
    if chosen is None:
        console.say(
            "note: no source within reach has PyTorch's CPU build; installing the default "
            "build, which is some gigabytes larger"
        )
    return chosen or recipe.torch_requirements


def _add(python: Path, recipe: Recipe, base: Lock, torch: Lock, step: console.Step) -> Lock:
    """Install the additions; returns the lock of torch with them."""
    held = {each.name: f"{each.name}=={each.version}" for each in base.updated(torch).packages}
    wanted, pair = [*recipe.additions], list[str]()
    if "torchvision" in wanted:
        vision, *pair = _matching_torchvision(python, recipe, held, torch, step)
        wanted[wanted.index("torchvision")] = vision
    for requirement in pair:
        del held[split_requirement(requirement)[0]]
    report = pip.install(python, [*pair, *wanted], step, keep=held.values())
    return torch.updated(Lock.from_report(report, recipe))


def _matching_torchvision(
    python: Path, recipe: Recipe, held: Mapping[str, str], torch: Lock, step: console.Step
) -> tuple[str, ...]:
    """What to ask pip for: torchvision of torch's own build and, where there is none, the default
    build of torch to go with it.

    Which version fits torch, pip finds; of builds it knows nothing.
    """
    report = pip.install(python, ["torchvision"], step, keep=held.values(), dry=True)
    vision = Lock.from_report(report, recipe).version_of("torchvision")
    if vision is None:  # installed with torch
        return ("torchvision",)
    build = torch.version_of("torch") or ""
    if build_tag(vision) == build_tag(build):
        return (f"torchvision=={vision}",)
    cpu = cpu_requirement(f"torchvision=={vision.partition('+')[0]}")
    if build_tag(build) == "cpu" and cpu and (found := pip.find_cpu_build(python, cpu)):
        return (found,)
    console.say(
        "note: no source within reach has torchvision's CPU build; installing the default build "
        "of torch beside it, which is some gigabytes larger"
    )
    return (default_build("torchvision", vision), default_build("torch", build))


def _install(
    python: Path,
    recipe: Recipe,
    requirements: tuple[str, ...],
    lock_file: Path,
    step: console.Step,
    keep: Lock | None = None,
) -> Lock:
    """Exactly what was locked; where nothing was, what pip chooses now, which is then locked."""
    if lock := _read(lock_file):
        exact = [each.requirement for each in lock.packages]
        pip.install_locked(python, exact, step, lock=lock_file)
        return lock
    pins = [f"{each.name}=={each.version}" for each in keep.packages] if keep else []
    report = pip.install(python, requirements, step, keep=pins)
    lock = Lock.from_report(report, recipe)
    _write(lock_file, lock.to_json())
    return lock


def _read(file: Path) -> Lock | None:
    try:
        return Lock.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse(document: Any) -> Lock | None:
    return document and Lock.from_json(json.dumps(document))


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
