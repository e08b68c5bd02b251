"""What a wheel environment is made of: its recipe, its lock, the build of torch. Runs nothing."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed

__all__ = [
    "CPU_INDEX",
    "Lock",
    "Package",
    "Recipe",
    "TorchBuild",
    "build_tag",
    "cpu_requirement",
    "default_build",
    "how_to_make",
    "library_folders",
    "normalise",
    "platform_name",
    "recipe_for",
    "requirement_layers",
    "split_requirement",
    "wanted_torch_build",
    "with_cpu_torch",
]

TorchBuild = Literal["cpu", "default"]

# PyTorch's own index of builds without CUDA: 0.2 GB where the package index has 3 GB.
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
# These are built together: a CPU torch does not load a torchvision made for CUDA.
TORCH_FAMILY: Final = ("torch", "torchvision", "torchaudio")

# Bump when environments are made differently, so that older ones are not taken for new ones.
LAYOUT: Final = 1
LOCK_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what an environment holds. Equal recipes share one folder."""

    name: str
    requirements: tuple[str, ...]
    # Empty where no job exports a model.
    torch_requirements: tuple[str, ...] = ()
    # What a model needs beside torch, installed after it.
    additions: tuple[str, ...] = ()
    torch_build: TorchBuild = "default"
    python: str
    platform: str

    @property
    def base(self) -> Recipe:
        """The same without torch: what engines are built with, and what the digest speaks of."""
        return Recipe(
            name=self.name,
            requirements=self.requirements,
            python=self.python,
            platform=self.platform,
        )

    @property
    def plain(self) -> Recipe:
        """The same without additions: torch is locked once, whatever is added to it."""
        return replace(self, additions=())

    @property
    def key(self) -> str:
        """12 hex digits, the same on every machine."""
        parts: list[object] = [LAYOUT, self.python, self.platform, self.requirements]
        if self.torch_requirements:
            parts += [self.torch_requirements, self.torch_build]
        if self.additions:
            parts += [self.additions]
        return _sha256(json.dumps(parts))[:12]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.key}"


def recipe_for(
    environment: Environment,
    *,
    torch: bool,
    packages: Iterable[str] = (),
    torch_build: TorchBuild,
    python: str,
) -> Recipe:
    """`packages` are a model's, as Environment.on_demand names them."""
    if torch and not environment.has_torch:
        raise EnvironmentFailed(
            f"environment `{environment.name}` has no torch: its wheels can build and run engines, "
            "not export models",
            hint="export in another environment, or convert an ONNX file",
        )
    return Recipe(
        name=environment.name,
        requirements=environment.requirements,
        torch_requirements=environment.torch_requirements if torch else (),
        additions=environment.additions(packages) if torch else (),
        torch_build=torch_build,
        python=python,
        platform=platform_name(),
    )


def how_to_make(environment: Environment, packages: Iterable[str]) -> str:
    """The command that makes it ahead of its first use."""
    added = "".join(f" --with {name}" for name in packages if name in environment.on_demand)
    return f"trtenv env build {environment.name}{added}"


def platform_name() -> str:
    """As container images call it: `linux/amd64`."""
    machine = platform.machine()
    return f"{platform.system().lower()}/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(
        machine, machine
    )


def wanted_torch_build(*, gpu: bool, system: str, machine: str) -> TorchBuild:
    """Elsewhere the package index has no CUDA inside torch, or nothing smaller exists."""
    return "cpu" if not gpu and (system, machine) == ("Linux", "x86_64") else "default"


def split_requirement(requirement: str) -> tuple[str, str | None]:
    """Normalised name and pinned version; None where it is not exactly pinned."""
    pinned = re.fullmatch(r"\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*==\s*([^\s;,*]+)\s*", requirement)
    if pinned:
        return normalise(pinned[1]), pinned[2]
    name = re.match(r"\s*[A-Za-z0-9._-]+", requirement)
    return normalise(name[0].strip() if name else requirement), None


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def cpu_requirement(requirement: str) -> str | None:
    """`torch==2.13.0+cpu` for `torch==2.13.0`; None for what has no such build, or names one."""
    name, version = split_requirement(requirement)
    if name not in TORCH_FAMILY or version is None or "+" in version:
        return None
    return f"{name}=={version}+cpu"


def with_cpu_torch(
    requirements: Sequence[str], found: Mapping[str, str | None]
) -> tuple[str, ...] | None:
    """The requirements with CPU builds in place; None unless all of the family were found.

    `found` maps each CPU requirement to what to give pip for it.
    """
    wanted = {each: cpu_requirement(each) for each in requirements}
    if not all(found.get(cpu) for cpu in wanted.values() if cpu):
        return None
    return tuple((found[cpu] or each) if cpu else each for each, cpu in wanted.items())


def build_tag(version: str) -> str:
    """`cpu` of `2.13.0+cpu`: builds that belong together have the same."""
    return version.partition("+")[2]


def default_build(name: str, version: str) -> str:
    """A requirement that no CPU build meets: `==2.13.0` would take 2.13.0+cpu, and prefer it."""
    return f"{name}==={version.partition('+')[0]}"


def requirement_layers(
    environment: Environment,
    *,
    torch: bool,
    packages: Iterable[str] = (),
    extras: Iterable[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Image layers, largest and least often changed first."""
    rest = list(environment.requirements)
    if torch:
        rest += environment.torch_requirements
    named = {each: split_requirement(each)[0] for each in rest}
    tensorrt = tuple(e for e, name in named.items() if name.startswith(("tensorrt", "nvidia-")))
    family = tuple(e for e, name in named.items() if name in TORCH_FAMILY)
    others = tuple(e for e in named if e not in tensorrt + family)
    added = environment.additions(packages) if torch else ()
    layers = {
        "TensorRT": tensorrt,
        "torch": family,
        "rest": others,
        "torchvision": tuple(each for each in added if each in TORCH_FAMILY),
        "additions": tuple(each for each in added if each not in TORCH_FAMILY),
        "extras": tuple(extras),
    }
    return {title: members for title, members in layers.items() if members}


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Package:
    """`direct` packages come from `url` itself; all others from whatever index the user has."""

    name: str
    version: str
    sha256: str
    url: str
    direct: bool = False

    @property
    def requirement(self) -> str:
        exact = f"{self.name}=={self.version}"
        if self.direct:
            exact = f"{self.name} @ {self.url}"
        elif self.name in TORCH_FAMILY and not build_tag(self.version):
            exact = default_build(self.name, self.version)
        return f"{exact} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Every package of an environment, exactly. Sorted; the digest ignores where files came from,
    so that a mirror makes no difference."""

    python: str
    platform: str
    packages: tuple[Package, ...]

    @property
    def digest(self) -> str:
        content = {
            "packages": [[each.name, each.version, each.sha256] for each in self.packages],
            "platform": self.platform,
            "python": self.python,
        }
        return "sha256:" + _sha256(json.dumps(content, sort_keys=True, separators=(",", ":")))

    def version_of(self, name: str) -> str | None:
        return next((each.version for each in self.packages if each.name == name), None)

    def to_json(self) -> str:
        fields = Package.__dataclass_fields__
        packages = [{key: getattr(each, key) for key in fields} for each in self.packages]
        document = {
            "format": LOCK_FORMAT,
            "packages": packages,
            "platform": self.platform,
            "python": self.python,
        }
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """ValueError, KeyError or TypeError where it is no lock of this format."""
        document = json.loads(text)
        if document["format"] != LOCK_FORMAT:
            raise ValueError(document["format"])
        return cls(
            python=document["python"],
            platform=document["platform"],
            packages=tuple(sorted(Package(**each) for each in document["packages"])),
        )

    def updated(self, newer: Self) -> Self:
        """With what was installed, or replaced, later."""
        packages = {each.name: each for each in (*self.packages, *newer.packages)}
        return replace(self, packages=tuple(sorted(packages.values())))

    @classmethod
    def from_report(cls, report: Mapping[str, Any], recipe: Recipe) -> Self:
        """From pip's own account of what it installed (`--report`)."""
        packages = sorted(_package(each) for each in report["install"])
        return cls(python=recipe.python, platform=recipe.platform, packages=tuple(packages))


def _package(item: Mapping[str, Any]) -> Package:
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    archive = item["download_info"].get("archive_info", {})
    sha256 = archive.get("hashes", {}).get("sha256")
    if sha256 is None:
        raise EnvironmentFailed(
            f"{name} {version} cannot be pinned: pip names no sha256 of what it installed",
            hint="install it from an index or a wheel file, not from a folder or repository",
        )
    return Package(
        name=normalise(name),
        version=version,
        sha256=sha256,
        url=_without_credentials(item["download_info"]["url"]),
        direct=bool(item["is_direct"]),
    )


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def library_folders(site_packages: Path) -> list[Path]:
    """Where the wheels keep shared libraries, for LD_LIBRARY_PATH.

    TensorRT opens cuDNN, cuBLAS and its own builder resources by name, and the loader looks
    into no Python package by itself.
    """
    folders = [*site_packages.glob("nvidia/*/lib"), *site_packages.glob("tensorrt*")]
    return sorted(folder for folder in folders if any(folder.glob("lib*.so*")))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
