"""What texts of TensorRT, its parser, trtexec and CUDA mean, and what mends it: data/diagnosis.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from trtenv.errors import TrtenvError

__all__ = ["Diagnosis", "diagnosed", "explain"]

TABLE: Final = Path(__file__).parent / "data" / "diagnosis.toml"
_OF_TENSORRT: Final = re.compile("TensorRT|trtexec|builder")
_LOGGED_ERROR: Final = re.compile(r"^\[TensorRT (?:INTERNAL_)?ERROR\]|\[E\]")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`cause` is a sentence without a full stop; `warning` means that the build goes on all the same."""

    name: str
    cause: str
    remedy: str
    source: str
    warning: bool


def explain(text: str, log: str = "", *, warnings: bool = True) -> Diagnosis | None:
    """The first row that knows the text; `log` only fills in what the text leaves out."""
    both = f"{text}\n{log}"
    for row in _rows():
        if row.warning and not warnings:
            continue
        matches = [match for pattern in row.patterns if (match := pattern.search(text))]
        if not matches or (row.when and not row.when.search(both)):
            continue
        if row.unless and row.unless.search(both):
            continue
        matches += [match for pattern in row.details if (match := pattern.search(both))]
        words: dict[str, str] = {}
        for match in matches:
            for key, value in match.groupdict().items():
                if value and value.strip():
                    words.setdefault(key, value.strip())
        return Diagnosis(
            row.name, _fill(row.cause, words), _fill(row.remedy, words), row.source, row.warning
        )
    return None


def diagnosed(error: TrtenvError) -> TrtenvError:
    """The error with cause and remedy in front, where they are known; its own words become details.

    The job's message is asked first; where it has none of TensorRT's words, the errors of its log are.
    """
    log = "\n".join(error.details)
    found = explain(error.message, log, warnings=False)
    if found is None and _OF_TENSORRT.search(error.message):
        told = [line for line in error.details if _LOGGED_ERROR.search(line)]
        found = explain("\n".join(told), log, warnings=False)
    if found is None:
        return error
    own = (error.message, *([f"hint: {error.hint}"] if error.hint else []))
    return type(error)(found.cause, hint=found.remedy, details=(*own, *error.details))


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    patterns: tuple[re.Pattern[str], ...]
    details: tuple[re.Pattern[str], ...]
    when: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    cause: str
    remedy: str
    source: str
    warning: bool


@cache
def _rows() -> tuple[_Row, ...]:
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))["row"]
    return tuple(_row(entry) for entry in table)


def _row(entry: Mapping[str, Any]) -> _Row:
    def compiled(key: str) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(text, re.MULTILINE) for text in entry.get(key, ()))

    def optional(key: str) -> re.Pattern[str] | None:
        return re.compile(entry[key]) if key in entry else None

    return _Row(
        name=entry["name"],
        patterns=compiled("patterns"),
        details=compiled("details"),
        when=optional("when"),
        unless=optional("unless"),
        cause=entry["cause"],
        remedy=entry["remedy"],
        source=entry["source"],
        warning=entry.get("warning", False),
    )


def _fill(template: str, words: Mapping[str, str]) -> str:
    """[[...]] stays where all its {words} are known; elsewhere an unknown word reads as `?`."""

    def optional(match: re.Match[str]) -> str:
        part = match[1]
        return part if set(re.findall(r"\{(\w+)\}", part)) <= set(words) else ""

    text = re.sub(r"\[\[(.*?)\]\]", optional, template)
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], "?"), text)
