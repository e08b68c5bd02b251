"""What `verify` prints: a line per output, accuracy, what was found inside, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtenv import console

if TYPE_CHECKING:
    from trtenv.pipeline.verify import Report

MEASURES = (
    ("rel", "rel", "{:.2e}"),
    ("max_abs", "max abs", "{:.3g}"),
    ("mean_abs", "mean abs", "{:.3g}"),
    ("max_rel", "max rel", "{:.3g}"),
    ("cosine", "cosine", "{:.6f}"),
    ("equal", "equal", "{:.2%}"),
    ("top1", "top-1", "{:.2%}"),
)


def show(report: Report) -> None:
    rows = []
    for entry in report.values["outputs"]:
        cells = [
            form.format(entry[key]) if entry[key] is not None else "-" for key, _, form in MEASURES
        ]
        rows.append([entry["name"], *cells, "agrees" if entry["agrees"] else "differs"])
    console.table(["OUTPUT", *(title.upper() for _, title, _ in MEASURES), ""], rows)
    for entry in report.values["outputs"]:
        place = entry["max_abs_at"]
        if place and entry["max_abs"] and not entry["agrees"]:
            console.data(
                f"{entry['name']}: furthest off is {place['found']} for {place['expected']} at "
                f"{place['index']} of {place['item']}"
            )
    if first := report.values["first_nonfinite"]:
        console.data(
            f"first not finite: `{first['output']}` at {first['index']} of {first['item']}: "
            f"{first['found']} for {first['expected']}"
        )
    show_metric(report.values["metric"])
    for note in report.values["notes"]:
        console.say(f"note: {note}")
    show_bisection(report.bisection)
    console.data(
        f"{report.spec.subject.name} and {report.spec.reference.name}: "
        f"{report.values['items']} inputs, {limits(report)}: "
        + ("they agree" if report.agrees else "they do not agree")
    )


def limits(report: Report) -> str:
    tolerance = report.spec.tolerance
    row = tolerance.row
    asked = [
        f"{output + ':' if output else ''}{key}={'none' if value is None else f'{value:g}'}"
        for output, limits_ in tolerance.asked.items()
        for key, value in limits_.items()
    ]
    more = f"; asked: {', '.join(asked)}" if asked else ""
    return f"{tolerance.precision} (rel up to {row.rel:g}: {row.reason}{more})"


def show_metric(metric: dict[str, Any] | None) -> None:
    if not metric or "difference" not in metric:
        return
    rows = [
        (
            name,
            f"{metric['subject'][name]:.2%}",
            f"{metric['reference'][name]:.2%}",
            f"{100 * metric['difference'][name]:+.2f}",
        )
        for name in sorted(metric["subject"], key=lambda name: name != metric["main"])
    ]
    console.table(("METRIC", "HERE", "REFERENCE", "POINTS"), rows)
    for note in metric["notes"]:
        console.say(f"note: {note}")


def show_bisection(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    first = found["first"]
    told = f"none of {found['tensors']} tensors of floating point inside differs"
    if first:
        told = (
            f"first to differ: `{first['tensor']}`, made by `{first['node']}` ({first['op']}): "
            + "; ".join(first["problems"])
        )
    console.data(f"{told} ({found['looks']} looks)")
    if found["vanished"]:
        console.data("with tensors marked the outputs agree: the difference comes with a fusion")
    for note in found["notes"]:
        console.say(f"note: {note}")
