"""Machines by name, from data/*.csv: Jetson devices by JetPack, other GPUs by model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.catalog.model import Environment

DATA: Final = Path(__file__).parent / "data"
# What a driver adds to the name of a model: vendor, form, memory. A word that is not here, such as
# Laptop, tells another model.
_ADDED: Final = re.compile(
    r"nvidia|geforce|tesla|pcie|sxm\d?|nvl|hbm\w+|generation|edition|gpu|\d+gb|jetson"
)


class Target(NamedTuple):
    """`gpu` is None where the name stands for several models, `tensorrt` where nothing fixes it."""

    name: str
    gpu: str | None
    compute_capability: str
    arch: str
    jetson: bool
    tensorrt: str | None
    source: str

    def to_dict(self) -> dict[str, object]:
        return dict(sorted(self._asdict().items()))


def find_target(name: str) -> Target:
    """`orin-jp6` is the newest JetPack 6, `orin-jp6.0` that one. UsageError for an unknown name."""
    from difflib import get_close_matches

    known = every_target()
    wanted = name.strip().lower()
    if wanted in known:
        return known[wanted]
    close = get_close_matches(wanted, known, n=3)
    raise UsageError(
        f"target `{name}` is not known",
        hint=(f"did you mean {', '.join(close)}? " if close else "")
        + "`trtenv check --list-targets` shows them all",
    )


@cache
def every_target() -> dict[str, Target]:
    """By name: Jetsons, then other GPUs from the newest generation on."""
    found = {}
    for row in _rows("jetsons.csv"):
        for jetpack in _rows("jetpacks.csv"):
            if row["compute_capability"] in jetpack["compute_capabilities"].split(";"):
                # The files go from the oldest to the newest: the last of a generation stays.
                for version in (jetpack["jetpack"].partition(".")[0], jetpack["jetpack"]):
                    name = f"{row['target']}-jp{version}"
                    found[name] = Target(
                        name=name,
                        gpu=row["gpu"] or None,
                        compute_capability=row["compute_capability"],
                        arch="aarch64",
                        jetson=True,
                        tensorrt=jetpack["tensorrt"],
                        source=f"{row['source']}; {jetpack['source']}",
                    )
    for row in _rows("gpus.csv"):
        found[row["target"]] = Target(
            name=row["target"],
            gpu=row["gpu"],
            compute_capability=row["compute_capability"],
            arch=row["arch"],
            jetson=False,
            tensorrt=None,
            source=row["source"],
        )
    return found


def builder_for(target: Target, catalog: Iterable[Environment]) -> str | None:
    """The environment of this JetPack with its TensorRT: others of that version are for servers."""
    generation = target.name.partition("-jp")[2].partition(".")[0]
    patch = ".".join((target.tensorrt or "").split(".")[:3])
    able = [
        env
        for env in catalog
        if (env.jetpack or "").partition(".")[0] == generation
        and env.matches_trt(patch)
        and not (env.serving or env.not_pullable)
    ]
    best = max(
        able,
        key=lambda env: (env.name.startswith("l4t-jetpack"), env.version, env.has_torch, env.name),
        default=None,
    )
    return best.name if best else None


def same_model(built: str, there: str) -> bool:
    """Whether both are one model: two names by a driver must be equal, memory and form included; the
    name of a target, H100, leaves these open."""
    named = {entry.gpu for entry in every_target().values()}
    if there in named:
        return _words(built) == _words(there) != ()
    return built.removeprefix("NVIDIA ") == there.removeprefix("NVIDIA ")


def is_jetson(compute_capability: str) -> bool:
    """Compute capabilities that only Jetson modules have."""
    return any(row["compute_capability"] == compute_capability for row in _rows("jetsons.csv"))


def _words(name: str) -> tuple[str, ...]:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return tuple(word for word in words if not _ADDED.fullmatch(word))


@cache
def _rows(table: str) -> tuple[dict[str, str], ...]:
    import csv

    with (DATA / table).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))
