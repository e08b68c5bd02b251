"""What `bench` found: rows as they are printed, what makes them worth less, and how models compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trtenv import __version__, console
from trtenv.engine.rebuild import at
from trtenv.errors import HostError, TrtenvError, UsageError
from trtenv.paths import whole_file
from trtenv.pipeline.gpu_watch import Watched, conditions, notes
from trtenv.pipeline.place import now
from trtenv.spec.bench import BenchSpec

MEASURES: Final = ("gpu_ms", "latency_ms")
# trtexec's: above it the host is what limits throughput.
HOST_BOUND: Final = 0.8


@dataclass(slots=True, kw_only=True)
class Measured:
    """What came out for one model: rows, also where an error or an interruption ended it."""

    model: dict[str, Any]
    environment: dict[str, Any] | None = None
    runner: dict[str, Any] | None = None
    load_seconds: float | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    gpu: dict[str, Any] | None = None
    notes: list[dict[str, str]] = field(default_factory=list)
    error: TrtenvError | None = None

    def to_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "error": self.error.to_dict() if self.error else None}


@dataclass(slots=True, kw_only=True)
class Report:
    """`stopped` is what ended it early: Ctrl-C, or a signal."""

    spec: BenchSpec
    engines: list[Measured] = field(default_factory=list)
    stopped: BaseException | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "trtenv": __version__,
            "date": now(),
            "settings": {**self.spec.to_dict(), "percentile_method": "nearest-rank"},
            "engines": [entry.to_dict() for entry in self.engines],
            "interrupted": self.stopped is not None,
        }


def judge(measured: Measured, watched: Watched | None, spec: BenchSpec, *, first: bool) -> None:
    """Rows as they are printed, and what makes them worth less than they look."""
    devices = at(measured.environment, "measured", "devices")
    if watched and devices and devices[0]["name"] != watched.gpu.name:
        text = f"clocks and other users are not known: not {devices[0]['name']} was watched"
        measured.notes.append({"kind": "not-watched", "message": text})
        watched = None
    for row in measured.rows:
        window = row.pop("window")
        row["conditions"] = conditions(watched, *window) if watched else None
        row["throughput"] = throughput(row)
        row["ratio"] = None
    if watched:
        measured.gpu = watched.to_dict()
        windows = [row["conditions"] for row in measured.rows]
        measured.notes += notes(watched, windows, idle_before=first)
    if reason := at(measured.runner, "no_cuda_graph"):
        text = f"measured without a CUDA graph: {reason}"
        measured.notes.append({"kind": "no-cuda-graph", "message": text})
    fewer = min((row["throughput"]["streams"] for row in measured.rows), default=spec.streams)
    if fewer < spec.streams:
        text = f"memory was there for {fewer} batches in flight, not for {spec.streams}"
        measured.notes.append({"kind": "fewer-streams", "message": text})
    bound = [row for row in measured.rows if host_bound(row)]
    if bound:
        text = (
            f"the host enqueues {', '.join(map(shape_text, bound))} no faster than it is computed"
        )
        hint = "" if spec.cuda_graph else "; --cuda-graph may help"
        measured.notes.append({"kind": "host-bound", "message": text + hint})


def throughput(row: Mapping[str, Any]) -> dict[str, Any]:
    found = row["throughput"]
    rate = found["batches"] / found["seconds"]
    return {
        **found,
        "batches_per_second": round(rate, 3),
        "images_per_second": round(rate * row["batch"], 3),
    }


def host_bound(row: Mapping[str, Any]) -> bool:
    if not row["gpu_ms"] or not row["enqueue_ms"]:
        return False
    return bool(row["enqueue_ms"]["median"] > HOST_BOUND * row["gpu_ms"]["median"])


def compare(engines: Sequence[Measured]) -> None:
    """How many times as fast as the first model that has a row of the same shapes."""
    base: dict[str, dict[str, Any]] = {}
    for entry in engines:
        for row in entry.rows:
            row["ratio"] = ratio(base.setdefault(shape_text(row), row), row)


def ratio(base: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float | None]:
    """Above 1 is faster. Of medians, and of throughput."""
    found: dict[str, float | None] = {}
    for name in MEASURES:
        known = base[name] and row[name] and row[name]["median"]
        found[name] = round(base[name]["median"] / row[name]["median"], 4) if known else None
    rates = [entry["throughput"]["images_per_second"] for entry in (row, base)]
    found["throughput"] = round(rates[0] / rates[1], 4) if rates[1] else None
    return found


def shape_text(row: Mapping[str, Any]) -> str:
    return ", ".join("x".join(map(str, dims)) or "scalar" for dims in row["shapes"].values())


def check_output(path: Path, *, force: bool) -> None:
    """UsageError, before anything is measured, where a file that is no such result would be lost."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"-o: `{path}` names no file in a folder that is there")
    if path.exists() and not force and not is_ours(path):
        raise UsageError(
            f"`{path}` is there, and is no result of `trtenv bench`",
            hint="choose another with -o, or overwrite it: --force",
        )


def is_ours(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"trtenv", "engines", "settings"} <= document.keys()


def write(document: Mapping[str, Any], path: Path) -> None:
    """Whole or not at all."""
    try:
        with whole_file(path) as part:
            part.write_text(console.to_json(document) + "\n", encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"the result cannot be written to `{path}`: {error.strerror}",
            hint="name a file in a folder that you may write to",
        ) from error
