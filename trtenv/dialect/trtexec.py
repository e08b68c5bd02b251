"""Every flag of trtexec by version (data/trtexec_flags.csv), to check raw ones before they run.

An unknown flag is fatal in every version, and so is a value after a space: only --flag=value is read.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from trtenv.dialect.rows import padded
from trtenv.dialect.versions import parse_version
from trtenv.errors import UsageError

DATA = Path(__file__).parent / "data" / "trtexec_flags.csv"
NEWEST = (11, 1)  # the last release whose trtexec is public
# Raw flags that trtexec reads again and again, and since when.
REPEATABLE = {
    **dict.fromkeys(("--profile", "--minShapes", "--optShapes", "--maxShapes"), "9.0"),
    **dict.fromkeys(("--refPair", "--loadInputs"), "11.1"),
}
# What is not passed through, and what to do instead: what trtenv gives itself, files that must be
# brought inside and be part of what an engine is known by, and what builds nothing.
OWN = {
    **dict.fromkeys(("--onnx", "--saveEngine", "--loadEngine"), "drop it: trtenv gives it"),
    **dict.fromkeys(("--model", "--uff", "--deploy"), "give an ONNX file"),
    **dict.fromkeys(("--plugins", "--staticPlugins"), "--static-plugins FILE"),
    "--dynamicPlugins": "--dynamic-plugins FILE",
    "--setPluginsToSerialize": "--plugins-to-serialize FILE",
    "--timingCacheFile": "--timing-cache FILE",
    "--exportLayerInfo": "--export-layer-info FILE",
    "--calib": "--calibration DATA, whose cache trtenv keeps",
    **dict.fromkeys(("--help", "-h"), "it builds nothing: see `trtenv build --help`"),
}


class Flag(NamedTuple):
    """Known for since <= version < until; `deprecated` still works and warns."""

    name: str
    since: str
    deprecated: str | None
    until: str | None
    instead: str | None
    notes: str
    source: str

    def known_to(self, number: tuple[int, ...]) -> bool:
        return number >= parse_version(self.since) and not (
            self.until and number >= parse_version(self.until)
        )

    def deprecated_in(self, number: tuple[int, ...]) -> bool:
        return bool(self.deprecated) and number >= parse_version(self.deprecated or "")


@cache
def flags() -> Mapping[str, Flag]:
    with DATA.open(encoding="utf-8", newline="") as handle:
        return {
            row["flag"]: Flag(
                name=row["flag"],
                since=row["since"],
                deprecated=row["deprecated"] or None,
                until=row["until"] or None,
                instead=row["instead"] or None,
                notes=row["notes"],
                source=row["source"],
            )
            for row in csv.DictReader(handle)
        }


def check_extra(extra: Sequence[str], flavour: str, version: str) -> tuple[str, ...]:
    """Notes on raw flags that will run; UsageError for one that would end trtexec."""
    if flavour != "tensorrt":
        raise UsageError(
            f"flags after -- are trtexec's; {flavour} has none",
            hint="say it with the options of `trtenv build --help`",
        )
    number, notes = padded(version), []
    for text in extra:
        name, equals, _ = text.partition("=")
        flag = flags().get(name)
        if not name.startswith("-"):
            raise UsageError(
                f"`{text}` is no flag: trtexec reads --flag=value, never a value after a space",
                hint="join it to its flag with =",
            )
        if name in OWN:
            raise UsageError(f"{name} is not passed through to trtexec", hint=OWN[name])
        if flag is None:
            close = difflib.get_close_matches(name, flags(), n=1)
            hint = f"did you mean {close[0]}?" if close else "see `trtenv dialect show VERSION`"
            raise UsageError(f"no known trtexec has the flag {name}", hint=hint)
        if not flag.known_to(number):
            raise UsageError(f"trtexec {version} {_absence(flag, number)}", hint=_instead(flag))
        if flag.deprecated_in(number):
            notes.append(f"{name} is deprecated since {flag.deprecated}; {_instead(flag)}")
        if equals and text.endswith("="):
            raise UsageError(f"`{text}` has no value")
    if number[:2] > NEWEST:
        notes.append(f"the flags of trtexec {version} are not public: checked against 11.1")
    return tuple(notes)


def check_twice(flags: Sequence[str], extra: Sequence[str], number: tuple[int, ...]) -> None:
    """UsageError for what trtexec would end at: a flag's second mention is an unknown option to it."""
    said = {text.partition("=")[0] for text in flags}
    seen: set[str] = set()
    for text in extra:
        name = text.partition("=")[0]
        again = REPEATABLE.get(name)
        repeats = name in seen and not (again and number >= parse_version(again))
        if name in said or repeats:
            raise UsageError(
                f"{name} is given twice, which ends trtexec",
                hint="drop it after --, or the option that says the same",
            )
        seen.add(name)


def _absence(flag: Flag, number: tuple[int, ...]) -> str:
    if flag.until and number >= parse_version(flag.until):
        return f"has no {flag.name}: gone since {flag.until}"
    return f"has no {flag.name} yet: it comes with {flag.since}"


def _instead(flag: Flag) -> str:
    return f"instead: {flag.instead}" if flag.instead else "drop it"
