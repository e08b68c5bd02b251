"""Runs jobs in a Python environment of this machine: wheels in the cache, or a user's own Python.

The embedded default where no container engine answers. It keeps versions apart and isolates
nothing: model code runs as the user, with the user's files and network.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Final

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed, InterpreterMissing, UsageError
from trtenv.paths import cache_folder
from trtenv.runners import interpreters, venvbuild
from trtenv.runners.gpus import read_gpus
from trtenv.runners.pip import LEAKS, clean_variables
from trtenv.runners.protocol import Identity, RunOptions
from trtenv.runners.venvsession import Place, VenvSession, place_variables
from trtenv.runners.wheels import (
    TorchBuild,
    how_to_make,
    platform_name,
    recipe_for,
    split_requirement,
    wanted_torch_build,
)

__all__ = ["VenvRunner", "VenvSession"]

# What a user's own interpreter holds, read without importing TensorRT. Python 3.6 and newer.
LOOK: Final = r"""
import hashlib, importlib.util, json, os, sys
found = {}
for name in sys.argv[1:]:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        continue
    with open(spec.origin, "rb") as handle:
        seen = hashlib.sha256(handle.read())
    folder = os.path.dirname(spec.origin)
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry)
        if os.path.isfile(path):
            seen.update(("%s %d\n" % (entry, os.path.getsize(path))).encode())
    found[name] = seen.hexdigest()
print(json.dumps({"modules": found, "version": sys.version}))
"""


class VenvRunner:
    name = "venv"

    def __init__(
        self, cache: Path | None = None, *, has_gpu: Callable[[], bool] | None = None
    ) -> None:
        self._cache = cache or cache_folder()
        self._has_gpu = has_gpu or gpu_present

    def prepare(self, environment: Environment, options: RunOptions) -> Identity:
        if environment.kind == "python":
            return _identity_of_python(environment, options)
        venv = self._venv(environment, options)
        details = {
            "python": venv.python_version,
            "torch": venv.torch and venv.torch.version_of("torch"),
            "torch_digest": venv.torch and venv.torch.digest,
        }
        for requirement in environment.additions(options.needs_packages):
            name = split_requirement(requirement)[0]
            details[name] = venv.torch and venv.torch.version_of(name)
        return Identity(
            digest=venv.base.digest,
            reference=f"wheels:{environment.requirements[0]}",
            platform=platform_name(),
            details={key: value for key, value in details.items() if value},
        )

    def session(
        self, environment: Environment, options: RunOptions, staging: Path
    ) -> AbstractContextManager[VenvSession]:
        return VenvSession(self._place(environment, options), options, staging)

    def execute(self, environment: Environment, options: RunOptions, argv: Sequence[str]) -> int:
        """Empty argv: the user's shell."""
        place = self._place(environment, options)
        argv = place.argv(argv or [os.environ.get("SHELL", "/bin/sh")])
        console.command(shlex.join(argv))
        variables = place_variables(os.environ, place, options)
        # The terminal's Ctrl-C reaches the command too: how it ends is the command's affair, from
        # the moment it exists. (A handler, unlike SIG_IGN, is not inherited by the command.)
        interrupt = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
        try:
            code = subprocess.run(argv, env=variables, cwd=options.workdir, check=False).returncode
        except FileNotFoundError as error:
            raise UsageError(
                f"environment `{environment.name}` has no `{error.filename}`",
                hint=f"its own programs are in {place.programs}",
            ) from error
        finally:
            signal.signal(signal.SIGINT, interrupt)
        return code if code >= 0 else 128 - code

    def command_line(
        self,
        environment: Environment,
        options: RunOptions,
        argv: Sequence[str],
        staging: Path | None = None,  # noqa: ARG002  a venv sees the host's folders as they are
    ) -> list[str]:
        place = self._place(environment, options, dry=True)
        settings = place_variables({}, place, options)
        del settings["PATH"]  # argv names its program in full
        unset = [part for name in LEAKS for part in ("-u", name)]
        pairs = [f"{key}={value}" for key, value in sorted(settings.items())]
        return ["env", *unset, *pairs, *place.argv(argv or [os.environ.get("SHELL", "/bin/sh")])]

    def remove(self, environment: Environment) -> list[str]:
        """Remove what was created for it; returns what that was."""
        if environment.kind != "wheel":
            return []
        return [str(folder) for folder in venvbuild.remove(self._cache, environment.name)]

    def leftovers(self) -> list[Path]:
        """Environments that a killed process left half-made."""
        return venvbuild.leftovers(self._cache)

    def clean(self) -> list[Path]:
        """Remove those."""
        return venvbuild.leftovers(self._cache, clean=True)

    def _place(self, environment: Environment, options: RunOptions, *, dry: bool = False) -> Place:
        """`dry` names the environment that would be used, and creates none."""
        if environment.kind == "python":
            return Place(python=_own_python(environment), variables=dict(environment.variables))
        venv = self._venv(environment, options, dry=dry)
        return Place(python=venv.python, venv=venv.folder)

    def _venv(
        self, environment: Environment, options: RunOptions, *, dry: bool = False
    ) -> venvbuild.Venv:
        if environment.kind != "wheel":
            raise UsageError(
                f"environment `{environment.name}` is a container image; the venv runner has none",
                hint="leave out `--runner venv`, or choose an environment made of wheels",
            )
        interpreter = interpreters.require(
            environment.python, what=f"environment `{environment.name}`"
        )
        variants: list[tuple[bool, Sequence[str]]] = [(True, options.needs_packages)]
        if not options.needs_torch:  # with torch, or more, does as well where none is needed
            more = [(name,) for name in environment.on_demand]
            variants = [(False, ()), *((environment.has_torch, each) for each in ((), *more))]
        wanted, *others = [
            recipe_for(
                environment,
                torch=torch,
                packages=packages,
                torch_build=self._torch_build,
                python=interpreter.minor,
            )
            for torch, packages in variants
        ]
        for recipe in (wanted, *others):
            if found := venvbuild.find(self._cache, recipe):
                return found
        if dry:
            return venvbuild.Venv.planned(self._cache, wanted)
        if not options.pull:
            raise EnvironmentFailed(
                f"environment `{environment.name}` is not on this machine",
                hint=how_to_make(environment, options.needs_packages),
            )
        return venvbuild.create(self._cache, wanted, interpreter)

    @cached_property
    def _torch_build(self) -> TorchBuild:
        return wanted_torch_build(
            gpu=self._has_gpu(), system=platform.system(), machine=platform.machine()
        )


def gpu_present() -> bool:
    return bool(read_gpus()[1])


def _own_python(environment: Environment) -> Path:
    named = str(Path(environment.interpreter or "python3").expanduser())
    if found := shutil.which(named):
        return Path(found).absolute()
    raise InterpreterMissing(
        f"environment `{environment.name}` names the interpreter `{named}`, which does not run",
        hint="correct `interpreter` in its TOML file; a path of your own may start with ~",
    )


def _identity_of_python(environment: Environment, options: RunOptions) -> Identity:
    place = Place(python=_own_python(environment), variables=dict(environment.variables))
    names = sorted({"tensorrt", "tensorrt_rtx", "torch"} | environment.holds)
    looked = subprocess.run(
        [str(place.python), "-c", LOOK, *names],
        capture_output=True,
        text=True,
        check=False,
        env=place_variables(clean_variables(os.environ), place, options),
    )
    if looked.returncode:
        raise EnvironmentFailed(
            f"{place.python} cannot say what it holds (exit code {looked.returncode})",
            details=looked.stderr.splitlines()[-5:],
        )
    answer = json.loads(looked.stdout)
    # What the TOML says the interpreter holds must be there, under either flavour's name.
    found = {name.removesuffix("_rtx") for name in answer["modules"]}
    if missing := environment.holds - found:
        raise EnvironmentFailed(
            f"{place.python} has no {' and no '.join(sorted(missing))}",
            hint="install it there, or correct `interpreter` or `holds` in the environment's TOML file",
        )
    content = json.dumps([answer, str(place.python)], sort_keys=True)
    return Identity(
        digest="sha256:" + hashlib.sha256(content.encode()).hexdigest(),
        # No path: it may name the user, and stamps travel.
        reference=f"python:{environment.name}",
        platform=platform_name(),
        details={"python": answer["version"].split()[0]},
    )
