"""Which TensorRT loads what another one built: exact versions, and the ranges of version-compatible engines."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from trtenv.dialect.versions import is_prefix, parse_version

DATA: Final = Path(__file__).parent / "data" / "version_compatible.csv"
# NvInfer.h of 8.6: BuilderFlag::kVERSION_COMPATIBLE and HardwareCompatibilityLevel came with it.
FIRST: Final = (8, 6)
# Runtimes up to 8.4 name three numbers where they refuse an engine, later ones four.
PATCH: Final = 3

Version = tuple[int, ...]


class Span(NamedTuple):
    """The versions that an engine may be of: from `low` to any that starts with `high`."""

    low: Version
    high: Version

    @property
    def exact(self) -> bool:
        return self.low == self.high and len(self.low) >= PATCH

    @property
    def before_compatibility(self) -> bool:
        """Whether no such engine can be version-compatible or hardware-compatible."""
        return self.high[:2] < FIRST


class Later(NamedTuple):
    """`yes`, `no`, `disputed` where sources contradict each other, or `unknown` without one."""

    answer: str
    source: str | None


def span(version: str | None, release: str | None) -> Span | None:
    """From an exact version, else from `8.5` or `10.0 to 10.1`; None where neither says anything."""
    if version and (number := parse_version(version)):
        return Span(number, number)
    first, _, last = (release or "").partition(" to ")
    low, high = parse_version(first), parse_version(last or first)
    return Span(low, high) if low and high else None


def compare(built: Span, runtime: Version) -> str:
    """The runtime beside what built the engine: `same`, `older`, `newer`, or `unknown`.

    `same` where the patch is, and the build number too where both are known.
    """
    shorter = min(len(built.low), len(runtime))
    if built.low == built.high and built.low[:shorter] == runtime[:shorter]:
        return "same" if shorter >= PATCH else "unknown"
    if runtime < built.low and not is_prefix(runtime, built.low):
        return "older"
    if runtime > built.high and not is_prefix(built.high, runtime):
        return "newer"
    return "unknown"


def loads_later(built: Span, runtime: Version) -> Later:
    """Whether this newer runtime loads a version-compatible engine."""
    for row in _rows():
        if _within(built.low, row, "built") and _within(runtime, row, "runtime"):
            return Later(row["answer"], row["source"])
    return Later("unknown", None)


def _within(version: Version, row: dict[str, str], what: str) -> bool:
    return parse_version(row[f"{what}_from"]) <= version < parse_version(row[f"{what}_before"])


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with DATA.open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))
