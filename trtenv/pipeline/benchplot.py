"""A picture of a result of `bench`: latency and throughput by batch, one line for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv.errors import HostError, UsageError
from trtenv.paths import whole_file
from trtenv.pipeline.benchreport import shape_text

SUFFIXES: Final = (".png", ".svg")
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS: Final = "osD^vPX"
GREY: Final = "#555555"
# Of the largest to the smallest value: beyond it the axis is logarithmic.
WIDE: Final = 50


class Series(NamedTuple):
    """Of one model at sizes that differ in the batch alone; rows by batch, rising."""

    label: str
    rows: list[Mapping[str, Any]]

    def of(self, *path: str) -> list[float]:
        return [value(row, *path) for row in self.rows]

    @property
    def batches(self) -> list[int]:
        return [row["batch"] for row in self.rows]


def value(row: Mapping[str, Any], *path: str) -> float:
    found: Any = row
    for key in path:
        found = found[key]
    return float(found)


def check_plot(path: Path) -> None:
    """Before anything is measured: UsageError for another kind of file, HostError without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot: `{path}` is neither PNG nor SVG", hint="name it speed.png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot: there is no folder `{path.absolute().parent}`")
    if find_spec("matplotlib") is None:
        raise HostError(
            "--plot draws with matplotlib, which is not installed",
            hint="pip install 'trtenv[plot]'",
        )


def series(engines: Sequence[Mapping[str, Any]]) -> list[Series]:
    """One for each model and each size apart from the batch."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for number, engine in enumerate(engines):
        for row in engine["rows"]:
            found.setdefault((number, sizes(row)), []).append(row)
    many = len({size for _, size in found}) > 1
    names = labels(engines)
    return [
        Series(names[number] + (f", {size}" if many and size else ""), in_order(rows))
        for (number, size), rows in found.items()
    ]


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: int(row["batch"]))


def sizes(row: Mapping[str, Any]) -> str:
    """Of one item: `3x224x224`."""
    return ", ".join("x".join(map(str, dims[1:])) for dims in row["shapes"].values())


def labels(engines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names; where two are alike with their environments, and numbered where that does not help."""
    names = [str(engine["model"]["name"]) for engine in engines]
    whole = [
        f"{name} ({(engine['environment'] or {}).get('name', engine['model']['runtime'])})"
        for name, engine in zip(names, engines, strict=True)
    ]
    return [
        name if names.count(name) == 1 else text if whole.count(text) == 1 else f"{number}. {text}"
        for number, (name, text) in enumerate(zip(names, whole, strict=True), 1)
    ]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write PNG or SVG, by the suffix, whole or not at all."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    found = series(report["engines"])
    if not found:
        raise UsageError("nothing was measured: there is nothing to draw")
    mpl.rcParams.update({"font.size": 10, "axes.edgecolor": GREY, "svg.fonttype": "none"})
    bars = all(len(entry.rows) == 1 for entry in found)
    height = 3.2 + 0.35 * len(found) if bars else 4.6
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, height), layout="constrained")
    (draw_bars if bars else draw_lines)(left, right, found, measure_of(found))
    figure.suptitle(title(report), fontsize=11)
    try:
        with whole_file(path) as part:
            figure.savefig(part, dpi=150, format=path.suffix[1:])
    except OSError as error:
        raise HostError(f"cannot write `{path}`: {error.strerror}") from error
    finally:
        plt.close(figure)


def measure_of(found: Sequence[Series]) -> str:
    """What all of them have: a measure without the copies has no latency."""
    whole = all(row["latency_ms"] for entry in found for row in entry.rows)
    return "latency_ms" if whole else "gpu_ms"


def draw_lines(left: Any, right: Any, found: Sequence[Series], measure: str) -> None:
    ticks = sorted({batch for entry in found for batch in entry.batches})
    for number, entry in enumerate(found):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5,
            "label": entry.label,
        }
        median = entry.of(measure, "median")
        left.plot(entry.batches, median, **style)
        low, high = entry.of(measure, "min"), entry.of(measure, "percentiles", highest(entry))
        left.fill_between(entry.batches, low, high, color=style["color"], alpha=0.15, linewidth=0)
        right.plot(entry.batches, entry.of("throughput", "images_per_second"), **style)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("batch")
        scale(axes)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(f"{words(measure)}, ms")
    left.set_title(
        f"{words(measure)}: median, and from the least to p{highest(found[0])}", fontsize=10
    )
    right.set_ylabel("images/s")
    right.set_title("Throughput", fontsize=10)
    left.legend(frameon=False)


def scale(axes: Any) -> None:
    """From zero, unless the slow would press the fast ones flat: a CPU beside a GPU."""
    from matplotlib.ticker import StrMethodFormatter

    heights = [height for line in axes.lines for height in line.get_ydata()]
    if max(heights) > WIDE * min(heights):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def draw_bars(left: Any, right: Any, found: Sequence[Series], measure: str) -> None:
    names = [f"{entry.label}\n{shape_text(entry.rows[0])}" for entry in found]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(found))]
    panels = (
        (left, [entry.of(measure, "median")[0] for entry in found], f"{words(measure)}, ms"),
        (right, [entry.of("throughput", "images_per_second")[0] for entry in found], "images/s"),
    )
    for axes, values, label in panels:
        bars = axes.barh(names, values, color=colours, height=0.6)
        axes.bar_label(bars, [f"{number:,.4g}" for number in values], padding=4, color=GREY)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    right.set_yticks([])


def highest(entry: Series) -> str:
    """The highest percentile that is there."""
    first = entry.rows[0]
    return str(max((first["latency_ms"] or first["gpu_ms"])["percentiles"], key=float))


def words(measure: str) -> str:
    return {"latency_ms": "Latency", "gpu_ms": "GPU time"}[measure]


def title(report: Mapping[str, Any]) -> str:
    known = [(engine["runner"] or {}).get("device") for engine in report["engines"]]
    names = ["CPU" if name == "cpu" else str(name) for name in known if name]
    streams = report["settings"]["streams"]
    flying = [f"{streams} batches in flight"] if streams > 1 else []
    return ", ".join([*dict.fromkeys(names), *flying])
