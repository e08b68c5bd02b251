"""Version numbers, and what each TensorRT is known to accept: ONNX opsets and GPUs (data/*.csv).

A new version is a new row. A version without a row of its own gets what the nearest older one is
known to have, and says that it is not sure; below the oldest row nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from trtenv.errors import UsageError

__all__ = [
    "RTX",
    "HardwareFact",
    "OpsetFact",
    "buildable",
    "check_version",
    "compute_capabilities",
    "is_prefix",
    "known_releases",
    "matches_version",
    "opset_range",
    "parse_version",
    "split_flavour",
]

RTX: Final = "rtx"  # any TensorRT-RTX
RTX_PREFIX: Final = "rtx-"
DATA: Final = Path(__file__).parent / "data"
# Sources that speak of the very version. An inferred row is used but never called sure.
SURE: Final = ("stated", "measured")

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OpsetFact:
    """Inclusive; `min` is None where no source states one."""

    min: int | None
    max: int
    sure: bool
    source: str


@dataclass(frozen=True, slots=True)
class HardwareFact:
    """From the oldest to the newest GPU that works; `only`, where given, is the whole list."""

    min_sm: str | None
    max_sm: str | None
    only: tuple[str, ...]
    sure: bool
    confidence: str
    source: str

    def admits(self, compute_capability: str) -> bool:
        """False only where it is known not to work."""
        gpu = parse_version(compute_capability)
        if self.min_sm and gpu < parse_version(self.min_sm):
            return False
        if self.max_sm and gpu[:1] > parse_version(self.max_sm)[:1]:
            # Kernels run on later GPUs of their own generation and no further. A release that has
            # no row of its own may be newer than the table, and know such a GPU.
            return not self.sure
        return not self.only or compute_capability in self.only

    def describe(self) -> str:
        if self.only:
            return ", ".join(self.only)
        return f"{self.min_sm or '?'} to {self.max_sm or '?'}"


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers a version starts with: `1.13.0a0+d0d6b1f` is (1, 13, 0)."""
    leading = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def split_flavour(wanted: str) -> tuple[str, str]:
    """Flavour and version of what users type: `8.5`, or `rtx-1.7` for TensorRT-RTX.

    `rtx` alone is any TensorRT-RTX: its version is empty.
    """
    if wanted == RTX:
        return "tensorrt-rtx", ""
    rtx = wanted.startswith(RTX_PREFIX)
    return "tensorrt-rtx" if rtx else "tensorrt", wanted.removeprefix(RTX_PREFIX)


def is_prefix(wanted: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Component by component, so that 8.5 is no prefix of 8.50."""
    return found[: len(wanted)] == wanted


def matches_version(wanted: str, found: str | None, *, what: str) -> bool:
    wanted = check_version(wanted, what=what)
    if found is None:
        return False
    if re.fullmatch(r"[\d.]+", wanted):
        return is_prefix(parse_version(wanted), parse_version(found))
    # A vendor's build, such as 1.13.0a0+d0d6b1f: spelled out up to a boundary.
    return found == wanted or found.startswith((wanted + "+", wanted + "."))


def check_version(wanted: str, *, what: str) -> str:
    """The version, or a prefix of one, that a user typed. UsageError if it is neither."""
    # "2." is what a shell history or a half-typed flag leaves behind; it means 2.
    stripped = wanted.strip().removesuffix(".")
    if not re.fullmatch(r"\d+(\.[0-9a-z]+)*([a-z]+\d*)?(\+[0-9A-Za-z.]+)?", stripped):
        raise UsageError(
            f"not a version of {what}: `{wanted}`", hint="write it as in `8.5` or `8.5.3.1`"
        )
    return stripped


@cache
def known_releases(flavour: str) -> Sequence[str]:
    """The versions that the tables name, oldest first, also those of which they know little."""
    found: dict[str, None] = {}
    for table in ("onnx_opset.csv", "hardware.csv"):
        found |= dict.fromkeys(row["version"] for _, row in _rows(table, flavour, "version"))
    return tuple(sorted(found, key=parse_version))


def opset_range(flavour: str, version: str) -> OpsetFact | None:
    """The ONNX opsets that this version's parser documents."""
    found = _lookup("onnx_opset.csv", flavour, version, known="max_opset")
    if found is None:
        return None
    row, exact = found
    return OpsetFact(
        min=int(row["min_opset"]) if row["min_opset"] else None,
        max=int(row["max_opset"]),
        sure=exact and row["confidence"] in SURE,
        source=row["source"],
    )


def compute_capabilities(flavour: str, version: str) -> HardwareFact | None:
    found = _lookup("hardware.csv", flavour, version, known="max_sm")
    if found is None:
        return None
    row, exact = found
    return HardwareFact(
        min_sm=row["min_sm"] or None,
        max_sm=row["max_sm"] or None,
        only=tuple(filter(None, row["sms"].split(";"))),
        sure=exact,
        confidence=row["confidence"] if exact else "inferred",
        source=row["source"],
    )


def buildable(flavour: str, version: str) -> tuple[str, ...]:
    """The compute capabilities that an engine can be built for on any machine, where all are known.

    Empty for TensorRT, which builds for the GPU it runs on, and for what no table speaks of.
    """
    fact = compute_capabilities(flavour, version)
    return fact.only if fact and fact.sure else ()


def _lookup(table: str, flavour: str, version: str, *, known: str) -> tuple[Row, bool] | None:
    """The row that speaks for a version, and whether it speaks of that very version.

    8.5.3.1 takes the longest row that it starts with, 8.5.3. 8.5, less than any row names, takes
    the lowest row that starts with it. A row whose value is blank stands for a version of which it
    was looked for and not found; it counts as having no row.
    """
    wanted = parse_version(version)
    rows = _rows(table, flavour, known)
    if not wanted:
        return None
    if covering := [row for number, row in rows if is_prefix(number, wanted)]:
        return covering[-1], True
    if inside := [row for number, row in rows if is_prefix(wanted, number)]:
        return inside[0], len({row[known] for row in inside}) == 1
    older = [row for number, row in rows if number < wanted]
    return (older[-1], False) if older else None


@cache
def _rows(table: str, flavour: str, known: str) -> Sequence[tuple[tuple[int, ...], Row]]:
    rows = [
        (parse_version(row["version"]), row)
        for row in _table(table)
        if row["flavour"] == flavour and row[known]
    ]
    return sorted(rows, key=lambda pair: pair[0])


@cache
def _table(table: str) -> Sequence[Row]:
    import csv

    with (DATA / table).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))
