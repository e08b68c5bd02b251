"""Tables whose cells are texts: as wide as a terminal or a ticket is, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from textwrap import wrap

from trtenv import console

WIDTH = 100
INDENT = "  "
Cell = str | Sequence[str]


def section(
    title: str, widths: Sequence[int], header: Sequence[str], rows: Iterable[Sequence[Cell]]
) -> None:
    """Nothing where there are no rows."""
    listed = list(rows)
    if listed:
        console.data(f"\n{title}\n")
        table(widths, header, listed)


def names(title: str, listed: Sequence[str]) -> None:
    if listed:
        # Names are kept whole: a flag that is cut at its dash cannot be searched for.
        lines = wrap("  ".join(listed), WIDTH, break_on_hyphens=False, break_long_words=False)
        console.data(f"\n{title} ({len(listed)})\n\n" + "\n".join(lines))


def table(widths: Sequence[int], header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """A cell longer than its column, or of several texts, goes on in the lines below."""
    found: list[Sequence[str]] = []
    for row in rows:
        cells = [
            [
                line
                for text in ([cell] if isinstance(cell, str) else cell)
                for line in cut(text, width)
            ]
            for cell, width in zip(row, widths, strict=True)
        ]
        found += zip_longest(*cells, fillvalue="")
    console.table(header, found)


def cut(text: str, width: int) -> list[str]:
    """At spaces; a name that is wider than its column after its last dot, comma or the like."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
            continue
        rest = INDENT + word if lines else word
        while len(rest) > width:
            end = max(rest.rfind(mark, len(INDENT) + 1, width) for mark in "._,=/") + 1 or width
            lines.append(rest[:end])
            rest = INDENT + rest[end:]
        lines.append(rest)
    return lines or [""]


def merged(rows: Iterable[tuple[str, *tuple[Cell, ...]]]) -> list[Sequence[Cell]]:
    """Neighbours of which the same is told become one row."""
    found: list[tuple[list[str], Sequence[Cell]]] = []
    for first, *rest in rows:
        if found and found[-1][1] == rest:
            found[-1][0].append(first)
        else:
            found.append(([first], rest))
    return [(asked, *rest) for asked, rest in found]
