"""What each TensorRT's ONNX parser takes: operators, types, its own plugins, and what a DLA runs.

The rows are data/operators*.csv and data/onnx_features.csv. A row holds from its `since` on, until
the next row of the same name. operators_releases.csv says of which releases a table is known, and
how: `stated` by NVIDIA for that release, `derived` from its neighbours, `measured` with the parser.
For TensorRT-RTX, which has no table, the parsers of its wheels were asked, from 1.4 on.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from trtenv.dialect import rows as build_rows
from trtenv.dialect.versions import DATA, is_prefix, parse_version

__all__ = [
    "TAKEN",
    "FeatureFact",
    "OperatorFact",
    "dla_support",
    "feature",
    "names",
    "operator_support",
    "plugin_support",
    "plugins_refused",
]

Version = tuple[int, ...]
Row = Mapping[str, str]
# The parser's own reports, as far as they go; `derived` is what a changelog lets one conclude.
SURE: Final = ("stated", "measured")
# Of OperatorFact.support, what the parser does not refuse.
TAKEN: Final = ("yes", "experimental", "importer")
DLA_SOURCE: Final = "NVIDIA/Deep-Learning-Accelerator-SW operators/README.md@ea61780e417c: Orin, TensorRT 8.5 and 8.6"
# Nothing else is known of DLA in other releases than the matrix, which is of these.
DLA_RELEASES: Final = ((8, 5), (8, 6))


@dataclass(frozen=True, slots=True)
class OperatorFact:
    """support: yes, no, experimental, importer (not documented, but the parser's source has it),
    unlisted (a table is known and does not have it), or unknown (no table is known).

    `disputed`: the table and the parser's source contradict each other. `complete`: the names of
    all importers were read, so that what is unlisted is really not there.
    """

    op: str
    support: str
    types: tuple[str, ...] = ()
    restrictions: str = ""
    disputed: bool = False
    complete: bool = False
    sure: bool = False
    release: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class FeatureFact:
    """`how`: native, refused, ignored, or the type or form that it is read as."""

    name: str
    how: str
    sure: bool
    source: str


def names(table: str, *flavours: str) -> Sequence[str]:
    """What the rows of `operators`, `operators_plugins` or `onnx_features` speak of for flavours."""
    return sorted({name for flavour, name in _table(f"{table}.csv") if flavour in flavours})


def operator_support(flavour: str, version: str, op_type: str) -> OperatorFact:
    """What the tables say of an operator of the standard domain; never an error."""
    releases, exact = _releases(flavour, version)
    facts = [_in_release(flavour, release, op_type) for release in releases]
    if not facts:
        return OperatorFact(op_type, "unknown", source=f"no table for {flavour} {version}")
    fact = facts[0]
    same = all((each.support, each.disputed) == (fact.support, fact.disputed) for each in facts)
    if exact and same and all(each.sure for each in facts):
        return fact
    return OperatorFact(
        op_type, fact.support, fact.types, fact.restrictions, fact.disputed,
        complete=False, sure=False, release=fact.release, source=fact.source,
    )  # fmt: skip


def _in_release(flavour: str, release: Row, op_type: str) -> OperatorFact:
    row = _run("operators.csv", flavour, op_type, parse_version(release["release"]))
    sure = release["confidence"] in SURE
    support = row["support"] if row and row["support"] else "unlisted"
    if support == "importer" and not release["importers"]:
        sure = False  # read in an earlier release's source
    return OperatorFact(
        op=op_type,
        support=support,
        types=tuple(row["types"].split()) if row else (),
        restrictions=row["restrictions"] if row else "",
        disputed=bool(row and row["importer"]),
        complete=release["importers"] == "all",
        sure=sure,
        release=release["release"],
        source=release["source"],
    )


def plugin_support(flavour: str, version: str, op_type: str) -> FeatureFact | None:
    """`native` where NVIDIA's own plugin library has a plugin of this name; None: none is known."""
    row = _run("operators_plugins.csv", flavour, op_type, _lowest(flavour, version))
    if row is None or row["support"] != "yes":
        return None
    return FeatureFact(op_type, "native", _releases(flavour, version)[1], row["source"])


def plugins_refused(flavour: str, version: str) -> str | None:
    """The source that says that it loads no plugin libraries; None where it does."""
    number = build_rows.padded(version)
    for row in build_rows.rows("plugins")["static_plugins"]:
        if "refused" in row and build_rows.holds(row, flavour, number, frozenset()):
            return build_rows.expand(row["source"])
    return None


def feature(flavour: str, version: str, kind: str, name: str = "") -> FeatureFact | None:
    """How the parser reads a `type`, a `zero point`, `local functions` or an `unknown rank`."""
    row = _run("onnx_features.csv", flavour, f"{kind} {name}".strip(), _lowest(flavour, version))
    if row is None:
        return None
    releases, exact = _releases(flavour, version)
    # The source of NVIDIA's parser was read up to some release; later it may be otherwise.
    seen = [row["importers"] == "all" or row["confidence"] == "measured" for row in releases]
    sure = exact and all(seen)
    return FeatureFact(name or kind, row["as"], sure, row["source"])


def dla_support(version: str, op_type: str) -> FeatureFact | None:
    """native, inferred (at build time), reconstruction (once rewritten), no; None: not in the matrix."""
    rows = _table("operators_dla.csv").get(("", op_type))
    if not rows:
        return None
    row, wanted = rows[0][1], parse_version(version)
    covered = wanted[:2] in DLA_RELEASES
    if row["since"] and wanted < parse_version(row["since"]):
        return FeatureFact(op_type, "no", covered, DLA_SOURCE)
    return FeatureFact(op_type, row["support"], covered, DLA_SOURCE)


def _releases(flavour: str, version: str) -> tuple[Sequence[Row], bool]:
    """The releases whose tables speak for a version, and whether they speak of that very version.

    8.5.3.1 is 8.5.3; 8.5 is each of 8.5.1 to 8.5.3; 11.4, which has no table, gets the nearest older.
    """
    wanted = parse_version(version)
    known = _history().get(flavour, []) if wanted else []
    if covering := [row for number, row in known if is_prefix(number, wanted)]:
        return covering[-1:], True
    if inside := [row for number, row in known if is_prefix(wanted, number)]:
        return inside, True
    return [row for number, row in known if number < wanted][-1:], False


def _lowest(flavour: str, version: str) -> Version:
    """For one answer where several releases are meant: the oldest has the least."""
    releases, exact = _releases(flavour, version)
    return parse_version(releases[0]["release"]) if releases and exact else parse_version(version)


def _run(table: str, flavour: str, name: str, number: Version) -> Row | None:
    held = [row for since, row in _table(table).get((flavour, name), []) if since <= number]
    return held[-1] if held else None


@cache
def _history() -> Mapping[str, list[tuple[Version, Row]]]:
    found: dict[str, list[tuple[Version, Row]]] = {}
    for row in _read("operators_releases.csv"):
        found.setdefault(row["flavour"], []).append((parse_version(row["release"]), row))
    return {flavour: sorted(rows, key=lambda pair: pair[0]) for flavour, rows in found.items()}


@cache
def _table(table: str) -> Mapping[tuple[str, str], list[tuple[Version, Row]]]:
    """(flavour, name) -> its rows, oldest first."""
    found: dict[tuple[str, str], list[tuple[Version, Row]]] = {}
    for row in _read(table):
        name = row.get("op") or f"{row['feature']} {row['name']}".strip()
        number = parse_version(row["since"])
        found.setdefault((row.get("flavour", ""), name), []).append((number, row))
    for rows in found.values():
        rows.sort(key=lambda pair: pair[0])
    return found


def _read(table: str) -> Sequence[Row]:
    with (DATA / table).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
