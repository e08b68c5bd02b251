"""The rows of data/build/*.toml: loading them, and which of them holds for a version."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from trtenv.dialect.versions import parse_version

Row = Mapping[str, Any]
DATA = Path(__file__).parent / "data" / "build"
FIRST = {"tensorrt": "7.0", "tensorrt-rtx": "1.0"}
SOURCES = {
    "[so]": "NVIDIA/TensorRT sampleOptions.cpp",
    "[py]": "NVIDIA/TensorRT Python bindings",
    "[h]": "NvInfer.h",
    "[rtx]": "TensorRT-RTX wheels",
}


def padded(version: str) -> tuple[int, ...]:
    """8.6 stands for its last patch: (8, 6, 999)."""
    number = parse_version(version)
    return number if len(number) > 2 else (*number, *(999,) * (3 - len(number)))


def speaks_of(row: Row, key: str | None) -> bool:
    value = row.get("value")
    return value is None or (key in value if isinstance(value, list) else key == value)


def holds(row: Row, flavour: str, number: tuple[int, ...], context: frozenset[str]) -> bool:
    if row.get("flavour", "tensorrt") != flavour:
        return False
    if row.get("with", "") not in ("", *context) or row.get("unless") in context:
        return False
    until = parse_version(row.get("until", ""))
    return number >= parse_version(row.get("since", "")) and not (until and number >= until)


def span(row: Row) -> str:
    flavour = row.get("flavour", "tensorrt")
    until = f" to before {row['until']}" if "until" in row else " on"
    return f"{flavour} {row.get('since', FIRST[flavour])}{until}"


def expand(source: str) -> str:
    """`[py] [so] first in 8.4` with the names of the sources spelt out."""
    source = re.sub(r"\] (?=[^\[])", "]: ", source).replace("] [", "], [")
    for short, whole in SOURCES.items():
        source = source.replace(short, whole)
    return source


def too_new(option: str, value: Any, backend: str, number: tuple[int, ...]) -> str | None:
    """Why this version's back end does not know a type or layout in the value; None where it does.

    Words that data/words.csv does not have were there from 7.0 on.
    """
    for kind, word in words_in(option, value):
        since = first_known().get((kind, word, backend))
        if since and number < parse_version(since):
            return f"the {kind} {word} comes with TensorRT {since}"
    return None


def words_in(option: str, value: Any) -> Iterator[tuple[str, str]]:
    if option in ("input_io_formats", "output_io_formats"):
        for entry in value:
            yield from (("type", word) for word in (entry["type"],) if word)
            yield from (("layout", word) for word in entry["layouts"])
    elif option in ("layer_precisions", "layer_output_types"):
        yield from (("type", word) for text in value.values() for word in text.split("+"))


@cache
def first_known() -> Mapping[tuple[str, str, str], str]:
    import csv

    with (DATA.parent / "words.csv").open(encoding="utf-8", newline="") as handle:
        found = list(csv.DictReader(handle))
    return {(row["kind"], row["word"], row["backend"]): row["since"] for row in found}


@cache
def rows(group: str) -> Mapping[str, Sequence[Row]]:
    found = tomllib.loads((DATA / f"{group}.toml").read_text(encoding="utf-8"))
    return {name: tuple(entries) for name, entries in found.items()}
