"""Turns a BuildSpec into the API steps that one TensorRT version understands. Pure; the rows are data."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trtenv.errors import UsageError
from trtenv.spec.build import BuildSpec

Row = Mapping[str, Any]
Step = dict[str, Any]
DATA = Path(__file__).parent / "data" / "build_api.toml"


@dataclass(frozen=True, slots=True)
class Translation:
    """`steps` for jobs/build.py in order; `notes` say what was put differently, with the source."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]


def translate(spec: BuildSpec, flavour: str, version: str) -> Translation:
    """UsageError where this version cannot do what is asked, naming those that can."""
    steps: list[Step] = []
    notes: list[str] = []
    for option, value in wishes(spec):
        row = find_row(option, value, flavour, version)
        steps += [_fill(step, value) for step in row["steps"]]
        if "note" in row:
            notes.append(row["note"])
    return Translation(tuple(steps), tuple(notes))


def wishes(spec: BuildSpec) -> Iterator[tuple[str, Any]]:
    """The options that are really asked for; a default that every version shares is not a wish."""
    yield "network", None
    yield "precision", spec.precision
    if spec.workspace is not None:
        yield "workspace", spec.workspace
    if spec.builder_optimization_level is not None:
        yield "builder_optimization_level", spec.builder_optimization_level
    if spec.tactic_sources:
        yield "tactic_sources", dict(spec.tactic_sources)
    if spec.compute_capabilities:
        yield "compute_capabilities", list(spec.compute_capabilities)


def find_row(option: str, value: Any, flavour: str, version: str) -> Row:
    same = [row for row in _rows() if row["option"] == option and row.get("value", value) == value]
    number = parts(version)
    for row in same:
        if row["flavour"] == flavour and _holds(row, number):
            return row
    asked = option.replace("_", " ") + (f" {value}" if any("value" in row for row in same) else "")
    able = ", ".join(_span(row) for row in same) or "no known version"
    raise UsageError(
        f"{flavour} {version} cannot do `{asked}`", hint=f"drop it, or choose from: {able}"
    )


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _holds(row: Row, number: tuple[int, ...]) -> bool:
    since, until = parts(row["since"]), parts(row.get("until", ""))
    # A version known only as 8.6 counts as 8.6.0: since "8.6" holds, since "8.6.1" does not.
    return number >= since and not (until and number >= until)


def _span(row: Row) -> str:
    until = f" to before {row['until']}" if "until" in row else " on"
    return f"{row['flavour']} {row['since']}{until}"


def _fill(step: Mapping[str, Any], value: Any) -> Step:
    return {key: value if entry == "@" else entry for key, entry in step.items()}


@cache
def _rows() -> tuple[Row, ...]:
    return tuple(tomllib.loads(DATA.read_text(encoding="utf-8"))["row"])
