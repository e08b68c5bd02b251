"""The archive inside a plan: its number, and the TensorRT and GPU that its first values name.

No documentation tells of it. What is decoded was measured on real engines (archives.toml names them);
anything else, a value out of its range included, is answered with None and never guessed.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).with_name("archives.toml")
MAGIC: Final = b"ptrt"
LATER: Final = "later"

# Kinds of values by the low 15 bits of their tag. Bit 15 is set from 8.2 and clear in 7.0 to 8.0.
_KINDS: Final = {
    2: ("u8", 1),
    7: ("i32", 4),
    8: ("u64", 8),
    9: ("size", 8),
    10: ("bool", 1),
}
_MOST_VALUES: Final = 40

Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Device:
    """The GPU on which the builder ran, as the builder wrote it down."""

    compute_capability: str
    sm_count: int
    clock_khz: int
    memory_bytes: int | None
    integrated: bool | None


@dataclass(frozen=True, slots=True)
class Opening:
    """What the first values of an archive say; None where they are not there or not understood."""

    version: Version | None = None
    hardware_compatibility: int | None = None
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class _Tables:
    releases: dict[tuple[str, int], str]
    openings: tuple[tuple[tuple[str, str], ...], ...]
    targets: dict[str, tuple[str, ...]]


def release_of(flavour: str, number: int) -> str | None:
    """The release, or range of releases, whose engines carry this archive number."""
    return _tables().releases.get((flavour, number))


def rtx_targets(version: Version, mask: int) -> tuple[str, ...] | None:
    """Compute capabilities named by a TensorRT-RTX header, with `later` where newer ones may run."""
    bits = _tables().targets.get(f"{version[0]}.{version[1]}")
    if not bits or mask == 0 or mask >> len(bits):
        return None
    return tuple(name for place, name in enumerate(bits) if mask >> place & 1)


def read_opening(data: bytes, offset: int) -> Opening:
    values = _values(data, offset)
    if [kind for kind, _ in values[:4]] != ["u8"] * 4:
        return Opening()
    major, minor, patch, build = (value for _, value in values[:4])
    version = (major, minor, patch, build) if major else None
    rest = values[4:]
    kinds = [kind for kind, _ in rest]
    for wanted in _tables().openings:
        if [kind for kind, _ in wanted] == kinds[: len(wanted)]:
            named = {
                name: value for (_, name), (_, value) in zip(wanted, rest, strict=False) if name
            }
            return Opening(version, named.get("hardware_compatibility"), _device(named))
    return Opening(version)


def _values(data: bytes, offset: int) -> list[tuple[str, int]]:
    """Tagged values as (kind, value) until something else comes or the bytes end."""
    values: list[tuple[str, int]] = []
    while len(values) < _MOST_VALUES and offset + 4 <= len(data):
        tag = int.from_bytes(data[offset : offset + 4], "little")
        if tag >> 16 != 1:
            break
        kind, size = _KINDS.get(tag & 0x7FFF, ("mark", 0))
        offset += 4 + size
        if offset > len(data):
            break
        values.append((kind, int.from_bytes(data[offset - size : offset], "little")))
    return values


def _device(named: dict[str, int]) -> Device | None:
    major, minor, sm_count = named["cc_major"], named["cc_minor"], named["sm_count"]
    # A layout that merely resembles a known one would show here: 3 is the oldest GPU that any
    # TensorRT with this format drove, and no GPU has a thousand SMs.
    if not (3 <= major < 50 and minor < 10 and 0 < sm_count < 1000):
        return None
    integrated = named.get("integrated")
    return Device(
        compute_capability=f"{major}.{minor}",
        sm_count=sm_count,
        clock_khz=named["clock_khz"],
        memory_bytes=named.get("memory_bytes"),
        integrated=None if integrated is None else bool(integrated),
    )


@functools.cache
def _tables() -> _Tables:
    document = tomllib.loads(DATA.read_text(encoding="utf-8"))
    openings = []
    for row in document["opening"]:
        pairs = (item.partition(":") for item in row["values"].split())
        openings.append(tuple((kind, name) for kind, _, name in pairs))
    return _Tables(
        releases={(row["flavour"], row["number"]): row["release"] for row in document["number"]},
        openings=tuple(openings),
        targets={
            release: tuple(row["bits"])
            for row in document["targets"]
            for release in row["releases"]
        },
    )
