"""Which TensorRT a user means, and what it takes whatever is asked of it: ONNX opsets and GPUs."""

from __future__ import annotations

from typing import Any, NamedTuple

from trtenv.dialect.rows import FIRST, padded
from trtenv.dialect.trtexec import NEWEST
from trtenv.dialect.versions import (
    RTX,
    HardwareFact,
    OpsetFact,
    check_version,
    compute_capabilities,
    is_prefix,
    known_releases,
    opset_range,
    parse_version,
    split_flavour,
)
from trtenv.errors import UsageError

PRODUCTS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
MEASURED_RTX = (1, 4)  # the first wheels that were asked


class Release(NamedTuple):
    """`version` is what was asked for, `patch` what is looked up in tables that know patches."""

    flavour: str
    version: str
    patch: str
    notes: tuple[str, ...] = ()

    @property
    def number(self) -> tuple[int, ...]:
        return padded(self.version)

    @property
    def title(self) -> str:
        return f"{PRODUCTS[self.flavour]} {self.version}"

    @property
    def short(self) -> str:
        return f"rtx-{self.version}" if self.flavour == "tensorrt-rtx" else self.version

    def to_dict(self) -> dict[str, Any]:
        return {
            "flavour": self.flavour,
            "version": self.version,
            "looked_up": self.patch,
            "notes": list(self.notes),
        }


class Facts(NamedTuple):
    """None where no table knows it."""

    opset: OpsetFact | None
    hardware: HardwareFact | None

    def to_dict(self) -> dict[str, Any]:
        return {"opset": opset_dict(self.opset), "compute_capabilities": sm_dict(self.hardware)}


def release(wanted: str) -> Release:
    """UsageError for what is no release, or one that nothing is known of."""
    flavour, text = split_flavour(wanted.strip())
    version = "" if wanted.strip() == RTX else check_version(text, what=PRODUCTS[flavour])
    note, number = release_note(flavour, version), parse_version(version)
    if len(number) < 2:
        raise UsageError(
            f"`{wanted}` names several releases", hint=f"name one of {_minors(flavour)}"
        )
    inside = [known for known in known_releases(flavour) if is_prefix(number, parse_version(known))]
    notes = [note] if note else []
    if inside and inside[-1] != version:
        notes.append(f"{version} stands for its last patch in the tables, {inside[-1]}")
    if flavour == "tensorrt" and number[:2] > NEWEST:
        newest = ".".join(map(str, NEWEST))
        notes.append(f"trtexec's source is public up to {newest}: its flags are checked against it")
    return Release(flavour, version, inside[-1] if inside else version, tuple(notes))


def release_note(flavour: str, version: str) -> str | None:
    """Why what is known of a version may be wrong of it; None where tables speak of that version.

    UsageError where nothing is known: below the oldest table, and of generations after the newest.
    """
    product, number = PRODUCTS[flavour], parse_version(version)
    if not number:
        return f"its version is not known: it is taken to be like the newest {product}"
    listed = known_releases(flavour)
    numbers = [parse_version(known) for known in listed]
    if padded(version) < parse_version(FIRST[flavour]) or number[:1] > numbers[-1][:1]:
        rtx = parse_version(known_releases("tensorrt-rtx")[-1])[:1]
        written = flavour == "tensorrt" and number[:1] == rtx
        raise UsageError(
            f"nothing is known of {product} {version}",
            hint=f"TensorRT-RTX is written rtx-{version}"
            if written
            else f"known: {_minors(flavour)}",
        )
    notes = []
    if not any(is_prefix(known, number) or is_prefix(number, known) for known in numbers):
        older = [known for known in listed if parse_version(known) < number]
        notes.append(f"no table names {product} {version}: it is taken to be like {older[-1]}")
    if flavour == "tensorrt-rtx" and number[:2] < MEASURED_RTX:
        notes.append("what TensorRT-RTX takes was measured with 1.4 and newer, not with this one")
    return "; ".join(notes) or None


def _minors(flavour: str) -> str:
    found = (".".join(known.split(".")[:2]) for known in known_releases(flavour))
    return ", ".join(dict.fromkeys(found))


def facts(release: Release) -> Facts:
    asked = (release.flavour, release.patch)
    return Facts(opset_range(*asked), compute_capabilities(*asked))


def opset_dict(fact: OpsetFact | None) -> dict[str, Any] | None:
    if fact is None:
        return None
    return {"min": fact.min, "max": fact.max, "sure": fact.sure, "source": fact.source}


def sm_dict(fact: HardwareFact | None) -> dict[str, Any] | None:
    if fact is None:
        return None
    return {
        "min": fact.min_sm,
        "max": fact.max_sm,
        "only": list(fact.only),
        "sure": fact.sure,
        "confidence": fact.confidence,
        "source": fact.source,
    }
