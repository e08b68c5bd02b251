"""Whether an engine will run somewhere, by rules: pure, from what its file and its stamp say.

`runs` is said only of what a rule proves, `will not run` only of what a rule excludes. All else is
`unknown`. What the place leaves open, such as the TensorRT on a GPU named alone, is not judged.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv.dialect.portability import Span, compare, loads_later
from trtenv.dialect.versions import compute_capabilities, parse_version
from trtenv.engine.compatfacts import (
    NEEDS_STAMP,
    NOT_JUDGED,
    RTX_DOCS,
    RUNS,
    UNKNOWN,
    WILL_NOT_RUN,
    Answer,
    Engine,
    Place,
    read_engine,
)
from trtenv.engine.compatgpu import gpu
from trtenv.engine.header import Flavour, State, WrapperKind
from trtenv.engine.inspect import Inspection
from trtenv.engine.rebuild import at, rebuild

__all__ = ["RULES", "Finding", "Place", "Report", "Rule", "check"]

_WORST_FIRST: Final = (WILL_NOT_RUN, UNKNOWN, RUNS)

_DOCS: Final = (
    "docs.nvidia.com/deeplearning/tensorrt/11.1.0/inference-library/engine-compatibility.html"
)


class Finding(NamedTuple):
    rule: str
    verdict: str
    message: str
    hint: str | None
    source: str


class Report(NamedTuple):
    path: Path
    engine: str
    place: Place
    findings: tuple[Finding, ...]
    rebuild: str | None

    @property
    def verdict(self) -> str:
        found = {item.verdict for item in self.findings}
        return next((word for word in _WORST_FIRST if word in found), UNKNOWN)

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "engine": self.engine,
            "place": {
                "name": self.place.name,
                "flavour": self.place.flavour,
                "tensorrt": self.place.tensorrt,
                "environment": self.place.environment,
                "gpu": self.place.gpu,
                "compute_capability": self.place.compute_capability,
                "jetson": self.place.jetson,
                "os": self.place.os,
                "arch": list(self.place.arch),
                "driver": self.place.driver,
            },
            "verdict": self.verdict,
            "not_judged": [item.rule for item in self.findings if item.verdict == NOT_JUDGED],
            "findings": [item._asdict() for item in self.findings],
            "rebuild": self.rebuild,
        }


class Rule(NamedTuple):
    """`judge` answers None where the rule has nothing to say of such an engine."""

    name: str
    judge: Callable[[Engine, Place], Answer | None]
    source: str


def check(found: Inspection, place: Place) -> Report:
    """ArtifactError where there is no engine in the file."""
    engine = read_engine(found)
    findings = []
    for rule in RULES:
        answer = rule.judge(engine, place)
        if answer:
            source = answer.source or rule.source
            findings.append(Finding(rule.name, *answer[:3], source))
    refused = {item.rule for item in findings if item.verdict == WILL_NOT_RUN}
    command = None
    # No build helps where that TensorRT has no kernels for that GPU.
    if refused and "release" not in refused:
        command = rebuild(engine.stamp, engine.flavour, engine.version, engine.targets, place)
    return Report(found.path, found.title, place, tuple(findings), command)


def whole(engine: Engine, _: Place) -> Answer:
    plan = engine.found.plan
    state = plan.state if plan else State.UNKNOWN
    if state is State.WHOLE:
        return Answer(RUNS, "the file is as long as its header says")
    if plan is None or state is State.UNKNOWN:
        return Answer(UNKNOWN, "its header does not tell how long the file should be")
    return Answer(
        WILL_NOT_RUN, f"the plan is not whole: {plan.size_text}", "copy the file again, in binary"
    )


def wrapper(engine: Engine, place: Place) -> Answer | None:
    found = engine.found.wrapper
    if found is None:
        return None
    if found.kind is not WrapperKind.ULTRALYTICS:
        return Answer(
            UNKNOWN,
            f"the engine is inside a file of {found.kind}: what made the file must load it",
        )
    if place.ultralytics:
        return Answer(RUNS, "Ultralytics takes off the metadata that it put before the engine")
    plain = f"{engine.found.path.stem}.plain.engine"
    return Answer(
        WILL_NOT_RUN,
        f"{found.offset} bytes of Ultralytics metadata stand before the engine: trtexec, Triton and "
        "TensorRT itself refuse it, only Ultralytics loads it",
        f"strip it: {shlex.join(['trtenv', 'strip', str(engine.found.path), '-o', plain])}; where "
        "Ultralytics loads it, add --ultralytics",
    )


def stamp_fits(engine: Engine, _: Place) -> Answer | None:
    stamp = engine.found.stamp
    if stamp is None:
        return None
    if stamp.sha256 == "matches":
        return Answer(RUNS, f"the file is the one that `{stamp.path.name}` describes")
    why = {
        "differs": "the file changed since it was stamped, or the stamp is of another one",
        "absent": "the stamp names no sha256",
    }.get(stamp.sha256, "the stamp cannot be read")
    return Answer(
        UNKNOWN,
        f"{why}: nothing that it says was used",
        "put the engine that belongs to it here, or rebuild; delete a stamp that belongs nowhere",
    )


def flavour(engine: Engine, place: Place) -> Answer | None:
    if place.flavour is None:
        return None
    if place.flavour == engine.flavour:
        return Answer(RUNS, f"a {_product(engine.flavour)} engine, for {_product(place.flavour)}")
    return Answer(
        WILL_NOT_RUN,
        f"a {_product(engine.flavour)} engine: {_product(place.flavour)} cannot load it",
    )


def version(engine: Engine, place: Place) -> Answer | None:
    if place.tensorrt is None:
        return Answer(NOT_JUDGED, "no TensorRT version is named", "add --trt VERSION or --env NAME")
    if place.flavour != engine.flavour:
        return None
    runtime = parse_version(place.tensorrt)
    if engine.built is None or not runtime:
        return Answer(UNKNOWN, "the header does not tell which TensorRT built it")
    order = compare(engine.built, runtime)
    pair = f"built by {engine.version}, for {place.tensorrt}"
    if order == "same":
        return Answer(RUNS, pair)
    if order == "unknown":
        return Answer(
            UNKNOWN,
            f"{pair}: patch versions must be equal, and not both are known",
            "name the patch with --trt"
            if engine.built.exact
            else "the header has no patch: " + NEEDS_STAMP,
        )
    if engine.flavour is Flavour.TENSORRT_RTX:
        return Answer(WILL_NOT_RUN, f"{pair}: it loads only in its own release", None, RTX_DOCS)
    if order == "older":
        return Answer(WILL_NOT_RUN, f"{pair}: no TensorRT loads engines of a later one")
    return _later(engine, engine.built, runtime, pair)


def _later(engine: Engine, built: Span, runtime: tuple[int, ...], pair: str) -> Answer:
    if engine.version_compatible is False:
        return Answer(WILL_NOT_RUN, f"{pair}: it was not built version-compatible")
    known = loads_later(built, runtime)
    if known.answer == "no":
        return Answer(
            WILL_NOT_RUN, f"{pair}: not even version-compatible engines go that far", None,
            known.source,
        )  # fmt: skip
    if engine.version_compatible is None:
        return Answer(UNKNOWN, f"{pair}: it runs if built version-compatible, and {NEEDS_STAMP}")
    if known.answer != "yes":
        told = "sources contradict each other" if known.source else "nothing is known of that step"
        return Answer(UNKNOWN, f"{pair}, version-compatible: {told}", None, known.source)
    if at(engine.stamp, "build", "wishes", "exclude_lean_runtime"):
        return Answer(
            UNKNOWN,
            f"{pair}, version-compatible, without the lean runtime inside",
            f"it runs where libnvinfer_lean of {engine.version} is loaded first (loadRuntime)",
            "NvInfer.h, IRuntime::loadRuntime",
        )
    return Answer(
        RUNS,
        f"{pair}, version-compatible",
        "the program must allow host code in engines (setEngineHostCodeAllowed; in Triton "
        "--backend-config=tensorrt,version-compatible=true)",
        known.source,
    )


def release(engine: Engine, place: Place) -> Answer | None:
    """Whether the TensorRT there works on the GPU there, whatever the engine."""
    if place.tensorrt is None or place.compute_capability is None:
        return None
    known = compute_capabilities(place.flavour or engine.flavour, place.tensorrt)
    if known is None or known.admits(place.compute_capability):
        return None
    return Answer(
        WILL_NOT_RUN,
        f"{_product(place.flavour or engine.flavour)} {place.tensorrt} is for compute capability "
        f"{known.describe()}, not {place.compute_capability}",
        "choose another TensorRT for that GPU: a rebuild for this one cannot help",
        known.source,
    )


def platform(engine: Engine, place: Place) -> Answer:
    if place.os is None and not place.arch:
        return Answer(NOT_JUDGED, "no operating system is named")
    there = f"{place.os or 'any system'} on {' or '.join(place.arch) or 'any CPU'}"
    here = f"{engine.os or 'an unknown system'} on {engine.arch or 'an unknown CPU'}"
    system = place.os and engine.os and place.os != engine.os
    if engine.flavour is Flavour.TENSORRT_RTX:
        # They hold no code for a CPU that is known of, and NVIDIA says portable, of systems only.
        if not engine.arch or engine.arch in place.arch or not place.arch:
            return Answer(RUNS, "TensorRT-RTX engines go from one system to another", None,
                          "developer.nvidia.com/tensorrt-rtx")  # fmt: skip
        return Answer(UNKNOWN, f"built on {here}, for {there}", None, RTX_DOCS)
    if system or (place.arch and engine.arch and engine.arch not in place.arch):
        return Answer(WILL_NOT_RUN, f"built for {here}, not for {there}")
    if engine.os is None or engine.arch is None:
        return Answer(UNKNOWN, f"built for {here}, for {there}", NEEDS_STAMP)
    return Answer(RUNS, f"built for {here}")


def driver(_: Engine, place: Place) -> Answer | None:
    if place.driver_needed is None:
        return None
    if place.driver_problem:
        return Answer(WILL_NOT_RUN, place.driver_problem, "update the driver")
    if place.driver is None:
        return Answer(NOT_JUDGED, f"needs driver {place.driver_needed} or newer", "add --host")
    return Answer(RUNS, f"driver {place.driver}, {place.driver_needed} or newer needed")


def _product(flavour: str) -> str:
    return "TensorRT" if flavour == Flavour.TENSORRT else "TensorRT-RTX"


RULES: Final = (
    Rule("size", whole, "measured: TensorRT 8.6 says plan->header.size == blobSize failed"),
    Rule("wrapper", wrapper, "ultralytics/ultralytics, ultralytics/utils/export/engine.py"),
    Rule("stamp", stamp_fits, "docs/stamp.md"),
    Rule("flavour", flavour, "the magic words of the two differ: ftrt and vtrt"),
    Rule("version", version, _DOCS),
    Rule("release", release, "trtenv dialect show"),
    Rule("gpu", gpu, _DOCS),
    Rule("platform", platform, _DOCS),
    Rule("driver", driver, "`trtenv env show NAME` has the source"),
)
