"""What came, was deprecated and went in TensorRT's Python API, and what changed its meaning.

api_changes.csv: `old` was there from `since` on (blank: from the first version of the tables), is
`deprecated`, and is `removed`; `new`, which takes its place or stands alone, was `introduced`
(blank: it was always there, or is no name of the API). behaviour.csv: what is said the same and is
not the same; a row holds until the next of its name, and a blank one says that it is no more.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from trtenv.dialect.versions import DATA, parse_version

Version = tuple[int, ...]
ABSENT, DEPRECATED, PRESENT = range(3)


class ApiFact(NamedTuple):
    """A row of api_changes.csv; "" where nothing is said."""

    flavour: str
    area: str
    old: str
    since: str
    new: str
    introduced: str
    deprecated: str
    removed: str
    notes: str
    source: str

    def old_in(self, number: Version) -> int:
        if not self.old or number < parse_version(self.since) or _reached(self.removed, number):
            return ABSENT
        return DEPRECATED if _reached(self.deprecated, number) else PRESENT

    def new_in(self, number: Version) -> str:
        """`new`, or what has taken its place since; "" where it is not there yet."""
        if number < parse_version(self.introduced):
            return ""
        later = _by_old().get((self.flavour, self.new))
        return later.new_in(number) if later and _reached(later.removed, number) else self.new


class ApiChange(NamedTuple):
    """replaced, gone, new, deprecated or undeprecated.

    instead: what there is besides or in its place; at: the version with which it changed;
    deprecated: the older of the two still works, and is deprecated.
    """

    kind: str
    area: str
    what: str
    instead: str
    at: str
    deprecated: bool
    notes: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def api_changes(flavour: str, here: Version, there: Version) -> list[ApiChange]:
    """Between two versions in either direction, without what came and went in between."""
    found = (_change(fact, here, there) for fact in _facts() if fact.flavour == flavour)
    return [change for change in found if change]


def _change(fact: ApiFact, here: Version, there: Version) -> ApiChange | None:
    before, after = fact.old_in(here), fact.old_in(there)
    had, has = fact.new_in(here), fact.new_in(there)
    lost = [*([had] if had and not has else []), *([fact.old] if before and not after else [])]
    won = [*([has] if has and not had else []), *([fact.old] if after and not before else [])]
    if won and (lost or before > after):
        kind, what, instead = "replaced", (lost or [fact.old])[0], won[0]
    elif lost and before < after:
        kind, what, instead = "replaced", lost[0], fact.old
    elif lost:
        kind, what, instead = "gone", lost[0], has or (fact.old if after else "")
    elif won:
        kind, what, instead = "new", won[0], had or (fact.old if before else "")
    elif before != after:
        kind = "deprecated" if before > after else "undeprecated"
        what, instead = fact.old, has
    else:
        return None
    upwards = kind if here < there else {"gone": "new", "new": "gone"}.get(kind, kind)
    if upwards == "new":
        at = fact.since if what == fact.old else fact.introduced
    else:
        at = fact.removed if ABSENT in (before, after) else fact.deprecated
    return ApiChange(
        kind,
        fact.area,
        what,
        instead,
        at,
        deprecated=after == DEPRECATED and kind != "gone",
        notes=fact.notes,
        source=fact.source,
    )


def behaviours(flavour: str, number: Version) -> Mapping[str, tuple[str, str]]:
    """What -> how it is in this version, and the source. Known of TensorRT only."""
    found: dict[str, tuple[str, str]] = {}
    for row in _read("behaviour.csv") if flavour == "tensorrt" else ():
        if number >= parse_version(row["since"]):
            found[row["what"]] = (row["behaviour"], row["source"])
    return {what: how for what, how in found.items() if how[0]}


def _reached(version: str, number: Version) -> bool:
    return bool(version) and number >= parse_version(version)


@cache
def _by_old() -> Mapping[tuple[str, str], ApiFact]:
    return {(fact.flavour, fact.old): fact for fact in _facts() if fact.old}


@cache
def _facts() -> Sequence[ApiFact]:
    return tuple(ApiFact(**row) for row in _read("api_changes.csv"))


@cache
def _read(table: str) -> Sequence[dict[str, str]]:
    with (DATA / table).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))
