"""What an environment is: a named, pinned place in which one TensorRT lives. Data, no I/O."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from trtenv.dialect.versions import (
    RTX,
    check_version,
    matches_version,
    parse_version,
    split_flavour,
)

__all__ = [
    "ADDITIONS",
    "FLAVOURS",
    "KINDS",
    "Environment",
    "Fact",
    "name_key",
]

KINDS: Final = ("image", "wheel", "python")
FLAVOURS: Final = ("tensorrt", "tensorrt-rtx")

# What wheel environments with torch are given for models of these. torchvision is not pinned here:
# which one fits torch, its own metadata tells pip.
ADDITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "torchvision": ("torchvision",),
    # Under its name without OpenCV's windows: those want libGL, which slim images and servers lack.
    "ultralytics": ("torchvision", "ultralytics-opencv-headless==8.4.190"),
    # What `verify --labels` counts with: accuracy and confusion matrices, and COCO's own mAP. Versions
    # with wheels for the Pythons and the numpy of those environments.
    "metrics": ("scikit-learn==1.9.1", "pycocotools==2.0.11"),
}

# What `env show` lists, in its order. Everything else says how to start the environment.
FACT_KEYS: Final = (
    "tensorrt", "cuda", "cudnn", "torch", "python", "ubuntu", "driver", "driver_alternatives",
    "compute_capabilities", "jetpack", "l4t", "base", "arch",
)  # fmt: skip


class Fact(NamedTuple):
    key: str
    value: str
    source: str | None
    confidence: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One row of the catalogue. Facts are declared, not measured: the lock knows better."""

    name: str
    kind: str = "image"
    flavour: str = "tensorrt"
    # What is inside, as far as jobs need it: "tensorrt"; "torch" for an export; "onnxruntime" for the
    # reference; "torchvision", "ultralytics" and "yolov5" (its repository) for models of these.
    holds: frozenset[str] = frozenset({"tensorrt"})

    tensorrt: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    torch: str | None = None
    # One version in an image; for wheels the acceptable interpreters, best first.
    python: tuple[str, ...] = ()
    ubuntu: str | None = None
    # The oldest driver, and the older data-centre branches that NVIDIA's page lets through.
    driver: str | None = None
    driver_alternatives: str | None = None
    compute_capabilities: str | None = None
    jetpack: str | None = None
    l4t: str | None = None
    base: str | None = None
    arch: tuple[str, ...] = ()

    # kind "image": no reference where only a moving tag is known; `not_pullable` then says why.
    image: str | None = None
    not_pullable: str | None = None
    moving_tag: str | None = None
    # Made to serve engines: never chosen unless named.
    serving: bool = False
    # kind "wheel": always installed, and what an export needs on top.
    requirements: tuple[str, ...] = ()
    torch_requirements: tuple[str, ...] = ()
    # kind "python": the user's own interpreter, with what its loader needs.
    interpreter: str | None = None
    variables: tuple[tuple[str, str], ...] = ()

    source: str | None = None
    # Of the TensorRT version: "measured", "stated" by a source for this very place, "inferred"
    # from a sibling, or "doubtful" where sources disagree or are weak.
    confidence: str | None = None
    notes: str | None = None
    origin: str = ""

    @property
    def version(self) -> tuple[int, ...]:
        """TensorRT's version as numbers; empty where no source names it."""
        return parse_version(self.tensorrt or "")

    @property
    def has_torch(self) -> bool:
        """Whether a model can be exported in it: torch is inside or can be added."""
        return "torch" in self.holds or bool(self.torch_requirements)

    @property
    def on_demand(self) -> tuple[str, ...]:
        """Packages, beside torch, that are installed once a model needs them."""
        able = self.kind == "wheel" and self.torch_requirements
        return tuple(name for name in ADDITIONS if able and name not in self.holds)

    def provides(self, package: str) -> bool:
        if package == "torch":
            return self.has_torch
        pinned = (requirement.partition("==")[0] for requirement in self.requirements)
        return package in self.holds or package in self.on_demand or package in pinned

    def additions(self, needs: Iterable[str]) -> tuple[str, ...]:
        """What pip is asked for, beyond torch, so that it holds what a model needs."""
        added = (each for name in needs if name in self.on_demand for each in ADDITIONS[name])
        return tuple(dict.fromkeys(added))

    def matches_trt(self, wanted: str) -> bool:
        """`8.5` is any 8.5.x of TensorRT, `rtx-1.7` any 1.7.x of TensorRT-RTX, `rtx` any of it."""
        flavour, version = split_flavour(wanted)
        if wanted == RTX:
            return self.flavour == flavour
        if self.flavour != flavour:
            check_version(version, what="TensorRT")  # nonsense is refused, whatever the flavour
            return False
        return matches_version(version, self.tensorrt, what="TensorRT")

    def matches_torch(self, wanted: str) -> bool:
        versions = [self.torch]
        for requirement in self.torch_requirements:
            package, _, version = requirement.partition("==")
            if package.strip() == "torch":
                versions.append(version.strip())
        # A list, not any(): every candidate checks that `wanted` is a version at all.
        return True in [matches_version(wanted, version, what="torch") for version in versions]

    def runs_on(self, compute_capability: str) -> bool | None:
        """What the stated text says about a GPU; None where it says nothing that can be read."""
        text = self.compute_capabilities or ""
        if at_least := re.match(r"(\d+\.\d+)\+", text):
            # NVIDIA states a minimum only: whether a newer GPU works depends on TensorRT.
            older = parse_version(compute_capability) < parse_version(at_least[1])
            return False if older else None
        if re.fullmatch(r"\d+\.\d+(;\d+\.\d+)*", text):
            return compute_capability in text.split(";")
        return None

    def facts(self) -> Iterator[Fact]:
        for key in FACT_KEYS:
            value = getattr(self, key)
            if not value:
                continue
            text = ", ".join(value) if isinstance(value, tuple) else value
            yield Fact(key, text, self.source, self.confidence if key == "tensorrt" else None)

    def to_dict(self) -> dict[str, Any]:
        """Every field, for `--json`: keys are stable and unknown facts are null."""
        values: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        values["holds"] = sorted(self.holds)
        values["on_demand"] = list(self.on_demand)
        values["variables"] = dict(self.variables)
        for key in ("python", "arch", "requirements", "torch_requirements"):
            values[key] = list(values[key])
        return values


def name_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names as people read them: 8.6 before 10.3."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", name)
    )
