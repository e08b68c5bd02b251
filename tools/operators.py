"""Adds one release's operator table to trtenv/dialect/data/operators.csv and operators_releases.csv.

The table is `docs/operators.md` of onnx/onnx-tensorrt (`operators.md` in the first releases), which
NVIDIA writes anew for each release. The CSV keeps runs: a row holds from its `since` on, until the
next row of the same operator. So a new release adds a row for each operator that changed, and one
row in operators_releases.csv that says where its table comes from.

    git -C onnx-tensorrt show COMMIT:docs/operators.md > operators.md
    python tools/operators.py 11.5 operators.md --source 'onnx/onnx-tensorrt docs/operators.md@COMMIT'
    python tools/operators.py 10.1 operators.md --check     compare with the rows there are, exit 1

Rows are added at the end of the history only: a release older than the newest is only compared.
The rows of TensorRT-RTX are what `OnnxParser.supports_operator()` of each wheel answers; those whose
support is `importer` were found in the parser's source and are in no table of NVIDIA's.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

from trtenv.dialect.versions import parse_version

ROOT: Final = Path(__file__).resolve().parent.parent
DATA: Final = ROOT / "trtenv" / "dialect" / "data"
FLAVOUR: Final = "tensorrt"

Row = dict[str, str]


class Cell(NamedTuple):
    """One operator in one release."""

    support: str
    types: str
    restrictions: str


def read_markdown(text: str) -> dict[str, Cell]:
    """The table's rows by operator: `| Abs | Y | FP32, FP16 | |`, in the columns of each release."""
    found: dict[str, Cell] = {}
    columns: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.count("|") < 2 or set(line) <= set("|-: "):
            continue
        if cells[0].lower() == "operator":
            columns = [cell.lower().rstrip("?") for cell in cells]
            continue
        by_name = dict(zip(columns, cells, strict=False))
        state = by_name.get("supported", "").upper()
        if state[:1] in ("Y", "N"):
            experimental = "experimental" if "EXPERIMENTAL" in state else "yes"
            support = experimental if state.startswith("Y") else "no"
            restrictions = by_name.get("restrictions", "")
            found[cells[0]] = cell_of(support, by_name.get("supported types", ""), restrictions)
    return found


def cell_of(support: str, types: str, restrictions: str) -> Cell:
    """Types separated by one space, restrictions as plain text: what differs in meaning only."""
    names = re.findall(r"[A-Z]+[0-9]*", types.replace("INF64", "INT64"))
    plain = re.sub(r"<br\s*/?>", " ", restrictions).replace("\\", "")
    return Cell(support, " ".join(names), " ".join(plain.split()))


def key(row: Row) -> tuple[str, str, tuple[int, ...]]:
    return row["flavour"], row["op"], parse_version(row["since"])


def at(rows: list[Row], release: str) -> dict[str, Cell]:
    """The table that the rows stand for, at one release."""
    found: dict[str, Cell] = {}
    for row in sorted(rows, key=key):
        if row["flavour"] == FLAVOUR and parse_version(row["since"]) <= parse_version(release):
            found[row["op"]] = Cell(row["support"], row["types"], row["restrictions"])
    return {op: cell for op, cell in found.items() if cell.support not in ("", "importer")}


def changes(rows: list[Row], release: str, table: dict[str, Cell]) -> list[Row]:
    """The rows to add: an operator that left the table gets one without support."""
    before = at(rows, release)
    gone = {op: Cell("", "", "") for op in before if op not in table}
    return [
        {"flavour": FLAVOUR, "op": op, "since": release, **cell._asdict(), "importer": ""}
        for op, cell in sorted({**table, **gone}.items())
        if before.get(op) != cell
    ]


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def render(rows: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def main(argv: list[str] | None = None, *, data: Path = DATA) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("release", help="the TensorRT release that the table is of: 11.5")
    parser.add_argument("table", type=Path, help="its operators.md")
    parser.add_argument("--source", help="onnx/onnx-tensorrt docs/operators.md@COMMIT")
    parser.add_argument("--note", default="")
    parser.add_argument("--check", action="store_true", help="change nothing; list differences")
    given = parser.parse_args(argv)
    table = read_markdown(given.table.read_text(encoding="utf-8"))
    if not table:
        parser.error(f"{given.table} has no table of operators")
    operators, releases = data / "operators.csv", data / "operators_releases.csv"
    rows, history = read_rows(operators), read_rows(releases)
    found = changes(rows, given.release, table)
    if given.check:
        print("\n".join(str(row) for row in found) or "no difference", file=sys.stderr)
        return 1 if found else 0
    known = [parse_version(row["release"]) for row in history if row["flavour"] == FLAVOUR]
    if not given.source or parse_version(given.release) <= max(known):
        parser.error("a table is added with its --source, and only after the newest release")
    fields = {"flavour": FLAVOUR, "release": given.release, "confidence": "stated", "importers": ""}
    history.append({**fields, "source": given.source, "note": given.note})
    history.sort(key=lambda row: (row["flavour"], parse_version(row["release"])))
    operators.write_text(render(sorted(rows + found, key=key)), encoding="utf-8")
    releases.write_text(render(history), encoding="utf-8")
    print(f"{given.release}: {len(found)} rows added")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
