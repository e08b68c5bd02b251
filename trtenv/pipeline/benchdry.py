"""What `bench` would run, and the equal runs of trtexec; starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtenv.dialect.build import Entry, study
from trtenv.dialect.rows import padded
from trtenv.dialect.trtexec import flags as known_flags
from trtenv.engine.rebuild import at
from trtenv.pipeline.bench import KIND, Candidate
from trtenv.pipeline.dryrun import job, shown
from trtenv.pipeline.running import shown_params
from trtenv.runners.container import inside, option_binds
from trtenv.spec.bench import BenchSpec, Case
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import BY_NAME
from trtenv.spec.shapes import ONLY_INPUT, render


def describe(one: Candidate) -> dict[str, Any]:
    place, subject = one.place, one.subject
    docker = place.choice.runner == "docker"
    binds = option_binds(place.options.mounts) if docker else []
    files, staged = {}, None
    if subject.runtime == "onnxruntime" and subject.path is not None:
        onnx = f"jobs/onnx/{subject.path.name}"
        files[onnx], staged = str(subject.path), shown(onnx, place)

    def path(source: Path) -> str:
        return inside(source, binds) if docker else str(source)

    found = job(KIND, one.params(shown_params(subject, path, staged)), place, files)
    return {**found, "trtexec": trtexec(one) if subject.runtime == "engine" else None}


def trtexec(one: Candidate) -> dict[str, Any]:
    """One argv for each case, in the words of this engine's TensorRT; and what trtexec cannot be told."""
    subject = one.subject
    flavour, version = one.place.target
    flags, why_not = measuring(one.spec, flavour, version)
    if flavour == "tensorrt-rtx":
        return {"argv": [], "why_not": ["no table of tensorrt_rtx's flags is known"]}
    if subject.offset:
        why_not.append("trtexec does not load a wrapped engine: unwrap it with `trtenv strip`")
        return {"argv": [], "why_not": why_not}
    profile = one.runner.get("profile")
    chosen = [f"--useProfile={profile}"] if profile else []
    if chosen and not known_flags()["--useProfile"].known_to(padded(version)):
        chosen = []
        why_not.append("--profile: this version's trtexec runs the first profile")
    if not at(subject.stamp, "engine", "inputs") and any(case.batch for case in one.spec.cases):
        why_not.append("--batch: no stamp tells the inputs; add --shapes=NAME:...")
    lines = [
        ["trtexec", f"--loadEngine={subject.path}", *chosen, *shapes(one, case), *flags]
        for case in one.spec.cases
    ]
    return {"argv": lines, "why_not": why_not}


def measuring(spec: BenchSpec, flavour: str, version: str) -> tuple[list[str], list[str]]:
    """Flags, and what this version's trtexec has no flag for."""
    own = _entries(spec, flavour, version)
    refused = [entry for entry in own if entry.outcome == "refused"]
    if len(spec.percentiles) > 1 and any(entry.option == "percentile" for entry in refused):
        own = _entries(spec._replace(percentiles=spec.percentiles[-1:]), flavour, version)
    why_not = [f"{entry.flag}: {entry.reason}" for entry in refused]
    return [flag for entry in own for flag in entry.flags], why_not


def _entries(spec: BenchSpec, flavour: str, version: str) -> list[Entry]:
    said = study(BuildSpec(wishes=spec.wishes, builder="trtexec"), flavour, version)
    return [
        entry
        for entry in said.entries
        if entry.option in BY_NAME and BY_NAME[entry.option].group == "benchmark"
    ]


def shapes(one: Candidate, case: Case) -> list[str]:
    """--shapes, for the inputs whose sizes are known here and not fixed."""
    found = known_shapes(case, at(one.subject.stamp, "engine", "inputs") or [], one.hints)
    text = ",".join(f"{name or 'INPUT'}:{render(dims)}" for name, dims in found.items())
    return [f"--shapes={text}"] if text else []


def known_shapes(
    case: Case, inputs: list[dict[str, Any]], hints: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    if not inputs:
        return {name: list(dims) for name, dims in case.shapes.items()}
    found = {}
    for entry in inputs:
        name, declared = entry["name"], entry["shape"] or []
        if -1 not in declared:
            continue
        only = case.shapes.get(ONLY_INPUT) if len(inputs) == 1 else None
        dims = list(case.shapes.get(name) or only or hints.get(name) or declared)
        if case.batch and declared[0] == -1:
            dims[0] = case.batch
        found[name] = [1 if size == -1 else size for size in dims]
    return found
