"""dialect show, diff: what a TensorRT version can be asked for, and what changes between two."""

from __future__ import annotations

import re
from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.cli.tables import WIDTH, Cell, merged, names, section, table

if TYPE_CHECKING:
    from trtenv.dialect.compare import Comparison
    from trtenv.dialect.describe import Answer, Description
    from trtenv.dialect.release import Facts

Json = Annotated[bool, typer.Option("--json", help="One JSON document, with all sources.")]
TAKEN = ("yes", "experimental", "importer")  # of an operator: not refused


def register(app: typer.Typer, name: str) -> None:
    group = typer.Typer(help="What a TensorRT version can be asked for, and what changes.")
    group.command()(show)
    group.command()(diff)
    app.add_typer(group, name=name, no_args_is_help=True)


def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="10.3, 8.6.1 or rtx-1.7.")],
    json: Json = False,
) -> None:
    """What one TensorRT takes: ONNX, GPUs, and what becomes of every option of build."""
    from trtenv.dialect.describe import describe
    from trtenv.dialect.release import release

    found = describe(release(version))
    if json:
        console.document(found.to_dict())
    else:
        print_description(found)


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="8.6, or rtx-1.6.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Newer, older, or the other product.")],
    json: Json = False,
) -> None:
    """What changes for a user from one TensorRT to another."""
    from trtenv.dialect.compare import compare
    from trtenv.dialect.release import release

    found = compare(release(old), release(new))
    if json:
        console.document(found.to_dict())
    else:
        print_comparison(found)


def print_description(found: Description) -> None:
    console.data(f"{found.release.title}\n")
    rows = [("ONNX opset", opset(found.facts)), ("compute capability", gpus(found.facts))]
    rows.append(("precisions", precisions(found)))
    taken = f"{len(found.operators)} are taken" if found.operators else "no table is known"
    rows.append(("ONNX operators", taken))
    if found.flags is not None:
        rows.append(("trtexec", f"{len(found.flags)} flags"))
    table((18, 80), rows[0], rows[1:])
    print_notes(found.release.notes)
    said = [(wish, entry) for wish, entry in found.answers.items() if entry.outcome == "translated"]
    sources = list(dict.fromkeys(footnote(entry) for _, entry in said))
    section(
        "Said to TensorRT",
        (35, 29, 26, 4),
        ("OPTION", "PYTHON API", "TRTEXEC", ""),
        merged(
            (
                w.asked,
                said_by(a, "api"),
                said_by(a, "trtexec"),
                f"[{sources.index(footnote(a)) + 1}]",
            )
            for w, a in said
        ),
    )
    others = [(w.asked, a) for w, a in found.answers.items()]
    section(
        "Needs nothing: asked for or not, it is the same",
        (35, 63),
        ("OPTION", "WHY"),
        merged((asked, a.reason or "") for asked, a in others if a.outcome == "dropped"),
    )
    section(
        "Refused",
        (35, 31, 30),
        ("OPTION", "WHY", "INSTEAD"),
        merged(
            (asked, a.reason or "", a.instead or "-")
            for asked, a in others
            if a.outcome == "refused"
        ),
    )
    if found.flags is not None:
        names("Flags that trtexec knows", [flag.name for flag in found.flags])
        section(
            "Deprecated among them",
            (28, 8, 60),
            ("FLAG", "SINCE", "INSTEAD"),
            [(f.name, shown(f.deprecated or ""), f.instead or "-") for f in found.deprecated],
        )
    console.data("")
    for number, source in enumerate(sources, start=1):
        lines = wrap(f"[{number}] {source}", WIDTH, subsequent_indent="    ")
        console.data("\n".join(lines))


def print_comparison(found: Comparison) -> None:
    here, there = found.old.short, found.new.short
    console.data(f"From {found.old.title} to {found.new.title}\n")
    one, other = found.facts
    table(
        (18, 39, 39),
        ("", here, there),
        [
            ("ONNX opset", opset(one), opset(other)),
            ("compute capability", gpus(one), gpus(other)),
        ],
    )
    print_notes(found.notes)
    if found.empty:
        console.data("\nno difference is known")
        return
    if short := summary(found):
        console.data("\n" + "\n".join(wrap(f"in short: {short}", WIDTH)))
    print_options(found)
    section(
        "The same words, another meaning",
        (32, 32, 32),
        ("WHAT", here, there),
        [(entry.what, entry.old, entry.new) for entry in found.behaviour],
    )
    print_flags(found)
    print_api(found)
    print_onnx(found)
    console.data("\nwhere each fact is from: --json")


def summary(found: Comparison) -> str:
    def count(entries: Iterable[Any] | None, *kinds: str) -> int:
        return sum(entry.kind in kinds for entry in entries or ())

    there = found.new.short
    told = [
        (count(found.options, "refused"), f"options that {there} refuses"),
        (count(found.options, "differently"), "said in other words"),
        (len(found.behaviour), "meanings that change"),
        (count(found.trtexec, "gone"), "flags of trtexec that go"),
        (count(found.api, "gone", "replaced"), "entries of the Python API that go"),
        (sum(c.new not in TAKEN for c in found.operators or ()), "ONNX operators lost"),
        (sum(c.new == "no" for c in found.plugins), "plugins lost"),
    ]
    return ", ".join(f"{number} {what}" for number, what in told if number)


# Of options; those with columns of their own have no title here.
KINDS = {
    "refused": "",
    "differently": "",
    "needless": "Options that do nothing with {new}",
    "effective": "Options that did nothing with {old}, and do with {new}",
    "possible": "Options that {new} takes and {old} does not",
}


def print_options(found: Comparison) -> None:
    here, there = found.old.short, found.new.short
    api_only = found.old.flavour != found.new.flavour
    kinds = {kind: [c for c in found.options if c.kind == kind] for kind in KINDS}
    section(
        f"Options that {there} refuses",
        (34, 32, 30),
        ("OPTION", "WHY", "INSTEAD"),
        merged((c.wish.asked, c.new.reason or "", c.new.instead or "-") for c in kinds["refused"]),
    )
    section(
        "Options said in other words",
        (30, 32, 34),
        ("OPTION", here, there),
        merged(
            (c.wish.asked, *different(c.old, c.new, api_only=api_only))
            for c in kinds["differently"]
        ),
    )
    for kind, title in KINDS.items():
        if title:
            section(
                title.format(old=here, new=there),
                (40, 58),
                ("OPTION", "WHY" if kind == "needless" else "HOW"),
                merged((c.wish.asked, how(c.new)) for c in kinds[kind]),
            )


def print_flags(found: Comparison) -> None:
    kinds = {
        kind: [
            (c.flag.name, shown(c.at), c.flag.instead or "-")
            for c in found.trtexec or ()
            if c.kind == kind
        ]
        for kind in ("gone", "deprecated", "new")
    }
    columns = (28, 8, 60)
    title = f"Flags of trtexec that {found.new.short} lacks"
    section(title, columns, ("FLAG", "AT", "INSTEAD"), kinds["gone"])
    title = "Flags of trtexec that are deprecated now"
    section(title, columns, ("FLAG", "AT", "INSTEAD"), kinds["deprecated"])
    by_version: dict[str, list[str]] = {}
    for name, at, _ in kinds["new"]:
        by_version.setdefault(at, []).append(name)
    title = f"Flags of trtexec that {found.new.short} has in addition"
    section(title, (8, 90), ("AT", "FLAGS"), [(at, "  ".join(n)) for at, n in by_version.items()])


def print_api(found: Comparison) -> None:
    gone = [c for c in found.api or () if c.kind in ("gone", "replaced")]
    section(
        "Names of the Python API that go",
        (46, 6, 44),
        ("NAME", "AT", "INSTEAD"),
        [
            (c.what, c.at, f"{c.instead or '-'}{' (the old one still works)' * c.deprecated}")
            for c in gone
        ],
    )
    section(
        "Names of the Python API that are deprecated now",
        (46, 6, 44),
        ("NAME", "SINCE", "INSTEAD"),
        [(c.what, c.at, c.instead or "-") for c in found.api or () if c.kind == "deprecated"],
    )
    section(
        "Names of the Python API that come",
        (80, 6),
        ("NAME", "AT"),
        [(c.what, c.at) for c in found.api or () if c.kind == "new"],
    )


def print_onnx(found: Comparison) -> None:
    there = found.new.short
    for title, entries, taken in (
        ("ONNX operators that {} lacks", found.operators or (), False),
        ("ONNX operators that {} takes in addition", found.operators or (), True),
        ("Plugins of NVIDIA's library that {} lacks", found.plugins, False),
        ("Plugins of NVIDIA's library that {} has in addition", found.plugins, True),
    ):
        listed = [c for c in entries if (c.new in TAKEN) == taken]
        unsure = "" if all(c.sure for c in listed) else "; ?: not sure"
        told = [c.what + ("" if c.sure else "?") for c in listed]
        names(title.format(there) + unsure, told)
    section(
        "Types and forms of ONNX",
        (32, 32, 32),
        ("WHAT", found.old.short, there),
        [(c.what, c.old, c.new) for c in found.features],
    )
    if found.types:
        told = [f"{kind} {count:+d}" for kind, count in found.types.items()]
        names("Operators whose tables list a type, more (+) or fewer (-)", told)


def opset(facts: Facts) -> str:
    fact = facts.opset
    if fact is None:
        return "not known"
    first = f"{fact.min} to " if fact.min else "up to "
    return f"{first}{fact.max} ({'stated' if fact.sure else 'not stated for this version'})"


def gpus(facts: Facts) -> str:
    fact = facts.hardware
    if fact is None:
        return "not known"
    return f"{fact.describe()} ({fact.confidence})"


def precisions(found: Description) -> str:
    by_value = {
        wish.value or "": entry.outcome
        for wish, entry in found.answers.items()
        if wish.option == "precision" and not wish.context
    }
    able = [value for value, outcome in by_value.items() if outcome != "refused"]
    unable = [value for value, outcome in by_value.items() if outcome == "refused"]
    return " ".join(able) + (f"; not {' '.join(unable)}" if unable else "")


def said_by(entry: Answer, backend: str) -> Cell:
    words = entry.api if backend == "api" else entry.trtexec
    return "-" if words is None else words or "nothing"


def different(old: Answer, new: Answer, *, api_only: bool) -> tuple[Cell, Cell]:
    """What is said, as far as it differs; the note where that is all there is to tell."""
    sides = []
    for entry, other in ((old, new), (new, old)):
        told: list[str] = []
        if entry.trtexec != other.trtexec and not api_only:
            told += ["not through trtexec"] if entry.trtexec is None else entry.trtexec
        if entry.api != other.api:
            told += ["not through the API"] if entry.api is None else entry.api
        sides.append(list(dict.fromkeys(told)) or [entry.reason or "nothing"])
    return sides[0], sides[1]


def how(entry: Answer) -> Cell:
    words = [*(entry.trtexec or ()), *(entry.api or ())]
    return list(dict.fromkeys(words)) or entry.reason or "nothing to say"


def footnote(entry: Answer) -> str:
    return "; ".join(filter(None, (entry.source, entry.reason)))


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        console.data("\n" + "\n".join(wrap(f"note: {note}", WIDTH)))


def shown(version: str) -> str:
    """10.0.0 is 10.0 to a reader."""
    return re.sub(r"^(\d+\.\d+)\.0$", r"\1", version)
