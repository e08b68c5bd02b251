"""An environment made ready for jobs: runner, identity, lock. What every command goes through."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trtenv import console
from trtenv.catalog.host import Host
from trtenv.catalog.load import Catalog
from trtenv.catalog.lock import LockEntry, check_digest, check_locked, read_lock, update_lock
from trtenv.catalog.model import Environment
from trtenv.catalog.resolve import Choice, Wish, asked_for, resolve
from trtenv.pipeline.host import available_pythons, read_host
from trtenv.runners.protocol import Identity, Runner, RunOptions, Session
from trtenv.spec.build import BuildSpec


@dataclass(kw_only=True)
class Settings:
    """What every command that runs jobs shares; the host is looked at once, when first needed."""

    catalog: Catalog
    runner: str = "auto"
    options: RunOptions = field(default_factory=RunOptions)
    lock: Path
    locked: bool = False
    force: bool = False
    dry_run: bool = False

    @property
    def always(self) -> bool:
        """Whether nothing counts as unchanged: what lies in a user's own mounts is not looked at."""
        return self.force or bool(self.options.mounts)

    @property
    def gpu_names(self) -> list[str]:
        """The GPUs that a build may time its kernels on, as --gpus chooses them."""
        chosen = (self.options.gpus or "all").split(",")
        return [
            f"{gpu.name} {gpu.compute_capability}"
            for gpu in self.host.gpus
            if chosen == ["all"] or str(gpu.index) in chosen or gpu.uuid in chosen
        ]

    @cached_property
    def host(self) -> Host:
        return read_host(daemon=self.runner != "venv")

    def host_for(self, candidates: Iterable[Environment]) -> Host:
        """The host with the interpreters that these need: looking for all of them takes a while."""
        wheels = [env for env in candidates if env.kind == "wheel" and self.runner != "docker"]
        return self.host._replace(pythons=available_pythons({env.python for env in wheels}))

    def resolve(self, wish: Wish) -> Choice:
        wish = wish._replace(runner=self.runner)
        host = self.host_for(asked_for(wish, self.catalog))
        return resolve(wish, self.catalog, host, lenient=self.dry_run)


@dataclass
class Place:
    """One chosen environment; preparing it and checking it against the lock happen once."""

    choice: Choice
    settings: Settings
    options: RunOptions

    @property
    def environment(self) -> Environment:
        return self.choice.environment

    @property
    def target(self) -> tuple[str, str]:
        return self.environment.flavour, self.environment.tensorrt or ""

    def engine_name(self, stem: str, spec: BuildSpec) -> str:
        """NAME.<env>[.sm86].engine: nothing in the name that the engine does not depend on."""
        found = spec.compute_capabilities
        if self.environment.flavour == "tensorrt" and self.settings.host.compute_capability:
            found = (self.settings.host.compute_capability,)
        tag = ".sm" + "_".join(part.replace(".", "") for part in found) if found else ""
        return f"{stem}.{self.environment.name}{tag}.engine"

    @cached_property
    def runner(self) -> Runner:
        return make_runner(self.choice.runner)

    @property
    def lock_name(self) -> str:
        """A wheel environment is another thing as an image than as a venv, and with torchvision than
        without: each has its own entry, such as `rtx-1.7@docker+torchvision`."""
        env = self.environment
        parts = ["docker"] if env.kind == "wheel" and self.choice.runner == "docker" else []
        parts += [name for name in env.on_demand if name in self.options.needs_packages]
        return env.name + ("@" + "+".join(parts) if parts else "")

    @cached_property
    def locked_entry(self) -> LockEntry | None:
        """What the lock holds; NotLocked where --locked demands an entry and there is none."""
        lock = read_lock(self.settings.lock)
        if self.settings.locked:
            return check_locked(lock, self.lock_name, self.settings.lock)
        return lock.get(self.lock_name)

    @cached_property
    def pinned(self) -> Environment:
        """The environment by the digest that the lock holds: a tag may have moved since."""
        entry = self.locked_entry
        if entry and self.environment.kind == "image" and "@sha256:" in entry.reference:
            return replace(self.environment, image=entry.reference)
        return self.environment

    @cached_property
    def identity(self) -> Identity:
        """Prepares what is missing. NotLocked where --locked and the lock disagree."""
        entry = self.locked_entry
        found = self.runner.prepare(self.pinned, self.options)
        if entry and self.settings.locked:
            check_digest(entry, found.digest, self.lock_name, self.settings.lock)
            torch = entry.measured.get("torch_digest")
            if torch and self.torch_digest(found) not in (None, torch):
                check_digest(
                    entry._replace(digest=torch),
                    str(self.torch_digest(found)),
                    f"{self.lock_name} with torch",
                    self.settings.lock,
                )
        return found

    @staticmethod
    def torch_digest(identity: Identity) -> str | None:
        """Of all packages with torch, where torch is apart from the rest: wheel environments."""
        digest = identity.details.get("torch_digest")
        return str(digest) if digest else None

    @contextmanager
    def session(self, staging: Path) -> Iterator[Session]:
        identity = self.identity
        console.command(f"# {self.environment.name}: {identity.reference} {identity.digest}")
        with self.runner.session(self.pinned, self.options, staging) as session:
            yield session

    def record(self, measured: Mapping[str, Any]) -> None:
        """Write the lock at first use; what a job measured inside is part of it."""
        if self.settings.locked:
            return
        found, entry = self.identity, read_lock(self.settings.lock).get(self.lock_name)
        known = {key: value for key, value in measured.items() if value and key != "devices"}
        if torch := self.torch_digest(found):
            known["torch_digest"] = torch
        same = entry is not None and entry.digest == found.digest
        if entry and same and known.items() <= entry.measured.items():
            return
        if entry and same:
            known = {**entry.measured, **known}
        elif entry:
            console.say(
                f"note: `{self.lock_name}` was another in {self.settings.lock}; it is now this one"
            )
        fresh = LockEntry(
            digest=found.digest,
            reference=repository_reference(found),
            platform=found.platform,
            date=now(),
            measured=known,
        )
        update_lock(self.settings.lock, self.lock_name, fresh)


def repository_reference(identity: Identity) -> str:
    """`repository@digest` where a registry has it under that digest, else the name it goes by here."""
    name, digest = identity.reference, identity.digest
    if "id" not in identity.details or identity.details["id"] == digest or "@" in name:
        return name
    last = name.rpartition("/")[2]
    return f"{name.removesuffix(':' + last.partition(':')[2])}@{digest}"


def make_runner(name: str) -> Runner:
    if name == "docker":
        from trtenv.runners.docker import DockerRunner

        return DockerRunner()
    from trtenv.runners.venv import VenvRunner

    return VenvRunner()


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
