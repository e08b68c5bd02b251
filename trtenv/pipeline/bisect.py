"""Where inside a model the first tensor differs: tensors are marked as outputs, few at a time.

An engine is rebuilt by the request in its stamp for each look, so that what is compared is what
TensorRT computes. A tensor that is an output cannot be fused away: marking changes the engine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trtenv import console
from trtenv.engine.rebuild import at
from trtenv.errors import TrtenvError, UsageError
from trtenv.pipeline.onnxmodel import read_onnx, stage
from trtenv.pipeline.place import Place
from trtenv.runners.protocol import Job, JobResult, Session
from trtenv.spec import values
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import BY_NAME
from trtenv.spec.shapes import ShapeRange

if TYPE_CHECKING:
    from trtenv.engine.stamp import Stamp
    from trtenv.pipeline.comparison import Answer, Places, Sides, VerifySpec
    from trtenv.pipeline.running import Subject

__all__ = ["Found", "bisect", "request_of", "search"]

# More outputs change an engine more; fewer take more builds.
WIDTH: Final = 16
MARKED: Final = "marked.onnx"
# What is about other files, or about the engine in place.
DROPPED: Final = ("timing_cache", "reproducible", "export_layer_info", "accept_precision")
WARNING: Final = (
    "marking a tensor as output keeps TensorRT from fusing across it: the engine looked into is not the "
    "one that was verified"
)
Problems = Mapping[int, Sequence[str]]


class Found(NamedTuple):
    """tensor: which is the first bad one; None where none is. looks: how often was looked.

    vanished: in the last look the outputs agreed.
    """

    tensor: int | None
    problems: tuple[str, ...]
    looks: int
    vanished: bool


def search(
    count: int, known_bad: int | None, look: Callable[[list[int]], tuple[Problems, bool]]
) -> Found:
    """The first bad one of `count` tensors in order, of which `known_bad` is bad if it is one of them.

    `look` marks some and returns the problems of each bad one, and whether the outputs agree. What lies
    before a good one is taken for good, unless an earlier one was seen to be bad.
    """
    low, high = -1, count if known_bad is None else known_bad
    problems: tuple[str, ...] = ()
    looks, agree = 0, False
    while high - low > 1:
        inner = range(low + 1, high)
        step = max(1, -(-len(inner) // WIDTH))
        picks = list(inner)[step - 1 :: step] or [inner[-1]]
        bad, agree = look(picks)
        looks += 1
        first = min(bad, default=None)
        if first is None:
            low = picks[-1]
        else:
            before = [pick for pick in picks if pick < first]
            low, high = (before[-1] if before else low), first
            problems = tuple(bad[first])
    return Found(high if high < count else None, problems, looks, agree and not problems)


def bisect(spec: VerifySpec, places: Places, sides: Sides, answer: Answer) -> dict[str, Any]:
    """The first tensor beyond tolerance on the worst batch, with the node that makes it."""
    check(spec)
    if spec.subject.runtime == "engine":
        console.say(f"note: {WARNING}")
    looker = Looker(spec, places, sides, answer)
    tensors = looker.tensors
    outputs = [entry["name"] for entry in answer.values["outputs"] if not entry["agrees"]]
    order = {entry["tensor"]: number for number, entry in enumerate(tensors)}
    known = min((order[name] for name in outputs if name in order), default=None)
    found = search(len(tensors), known, looker.look)
    first = None
    if found.tensor is not None:
        own = [
            e["problems"] for e in answer.values["outputs"] if found.tensor == order.get(e["name"])
        ]
        first = {**tensors[found.tensor], "problems": list(found.problems or (own or [()])[0])}
    return {
        "first": first,
        "tensors": len(tensors),
        "looks": found.looks,
        "vanished": found.vanished,
        "notes": [*looker.notes, *([WARNING] if spec.subject.runtime == "engine" else [])],
    }


def check(spec: VerifySpec) -> None:
    """UsageError where nothing can be marked, before anything has run."""
    if spec.reference.runtime != "onnxruntime":
        raise UsageError(
            "--bisect looks into an ONNX file, and the reference is none",
            hint="verify against the ONNX file that it was made from",
        )
    if spec.subject.runtime == "engine":
        request_of(spec.subject)


class Looker:
    """Marks, rebuilds and compares; sessions and files are those of the verification."""

    def __init__(self, spec: VerifySpec, places: Places, sides: Sides, answer: Answer) -> None:
        from trtenv.pipeline.running import runner_params

        assert answer.worst
        self.spec, self.places, self.sides = spec, places, sides
        self.onnx = runner_params(spec.reference, sides.reference)["path"]
        own = own_onnx(spec)
        self.own = None if own is None else stage(read_onnx(own), sides.subject, "own")
        self.worst = sides.subject.staging / "jobs" / "worst.npz"
        self.worst.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(answer.worst, self.worst)
        listed = self._mark(sides.reference, self.onnx, None).values
        self.tensors, self.notes = listed["tensors"], list(listed["notes"])
        if self.own is not None:
            inside = self._mark(sides.subject, self.own, None).values["tensors"]
            known = {entry["tensor"] for entry in inside}
            both = [entry for entry in self.tensors if entry["tensor"] in known]
            if len(both) < len(self.tensors):
                text = f"{len(self.tensors) - len(both)} tensors of the reference have no namesake"
                self.notes.append(text)
            self.tensors = both
        self.count = 0

    def look(self, picks: list[int]) -> tuple[Problems, bool]:
        from trtenv.pipeline.comparison import run_both

        self.count += 1
        names = {self.tensors[pick]["tensor"]: pick for pick in picks}
        console.say(f"look {self.count}: {len(names)} tensors, {min(names)!s} among them")
        made = self._mark(self.sides.reference, self.onnx, list(names))
        reference = {
            "runtime": "onnxruntime",
            "path": self.sides.reference.inside(made.out / MARKED),
        }
        subject = self._subject(made.out / MARKED, list(names))
        inputs = {
            "kind": "recorded",
            "path": self.sides.subject.inside(self.worst),
            "shapes": {name: dict(sizes) for name, sizes in self.spec.shapes.items()},
        }
        shared = {
            **self.spec.params(self.sides.reference.inside),
            "task": None,
            "labels": None,
            "keep_worst": False,
        }
        answer = run_both((subject, reference), inputs, shared, self.places, self.sides)
        outputs = answer.values["outputs"]
        bad = {
            names[entry["name"]]: entry["problems"]
            for entry in outputs
            if entry["name"] in names and not entry["agrees"]
        }
        own = [entry["agrees"] for entry in outputs if entry["name"] not in names]
        return bad, all(own)

    def _mark(self, session: Session, onnx: str, names: list[str] | None) -> JobResult:
        params = {"onnx": onnx, "mark": names, "output": MARKED}
        with console.Step("looking into the graph" if names is None else "marking") as step:
            return session.run(Job("runtime.marking", params), step.on_event)

    def _subject(self, marked: Path, names: list[str]) -> dict[str, Any]:
        """The runner of the same marks in its own graph: as ONNX, or as an engine rebuilt from it."""
        session = self.sides.subject
        if self.own is not None:
            marked = self._mark(session, self.own, names).out / MARKED
        if self.spec.subject.runtime == "onnxruntime":
            return {"runtime": "onnxruntime", "path": session.inside(marked)}
        target = session.staging / "jobs" / f"look-{self.count}" / "marked.engine"
        target.parent.mkdir(parents=True)
        rebuild(self.spec.subject, self.places.subject, marked, target, session)
        return {
            "runtime": "engine",
            "path": session.inside(target),
            "offset": 0,
            "length": None,
            "flavour": self.spec.subject.flavour,
            **self.spec.runner,
        }


def own_onnx(spec: VerifySpec) -> Path | None:
    """The subject's ONNX file, where it is not the reference's and is known."""
    from trtenv.pipeline.running import source_onnx

    if spec.subject.runtime == "onnxruntime":
        return spec.subject.path
    try:
        path = source_onnx(spec.subject)
    except TrtenvError:
        return None
    assert spec.reference.path is not None
    same = read_onnx(path).sha256 == read_onnx(spec.reference.path).sha256
    return None if same else path


def rebuild(subject: Subject, place: Place, onnx: Path, target: Path, session: Session) -> None:
    """The engine of another graph, by the same request."""
    from trtenv.pipeline.build import run_build
    from trtenv.pipeline.request import plan_build, with_model

    model = read_onnx(onnx)
    plan = with_model(plan_build(place, request_of(subject), target), model)
    run_build(plan, model, session)


def request_of(subject: Subject) -> BuildSpec:
    """What the engine was built by. UsageError where no stamp tells it whole.

    Of files a stamp has the names alone: they are looked for beside the engine.
    """
    stamp, path = subject.stamp, subject.path
    wishes = at(stamp, "build", "wishes")
    if not isinstance(wishes, dict) or path is None or stamp is None:
        raise UsageError(
            f"no stamp tells by which request `{subject.name}` was built, so it cannot be rebuilt",
            hint="build it with `trtenv build`",
        )
    found: dict[str, Any] = {"accept_precision": "any"}
    for name, value in wishes.items():
        if name not in DROPPED:
            files = name in BY_NAME and BY_NAME[name].parse in (values.file, values.data)
            found[name] = _beside(value, path.parent) if files else value
    return BuildSpec(profiles=tuple(_profiles(stamp)), wishes=found)


def _beside(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_beside(each, folder) for each in value]
    file = folder / str(value)
    if not file.exists():
        raise UsageError(
            f"`{value}`, which the engine was built with, is not beside it: it cannot be rebuilt",
            hint=f"put it there for the bisection: {file}",
        )
    return str(file)


def _profiles(stamp: Stamp) -> list[dict[str, ShapeRange]]:
    return [
        {
            name: ShapeRange(*(tuple(sizes[key]) for key in ("min", "opt", "max")))
            for name, sizes in profile.items()
        }
        for profile in at(stamp, "engine", "profiles") or ()
    ]
