"""Is an engine what its model is? The verdict, its reasons, and what of it goes into the engine's stamp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trtenv import console
from trtenv.engine.rebuild import at
from trtenv.engine.stamp import read_stamp, render, stamp_path
from trtenv.errors import ArtifactError, OutputBusy, UsageError, VerifyFailed
from trtenv.paths import whole_file
from trtenv.pipeline.comparison import Places, VerifySpec, run_both, sessions
from trtenv.pipeline.place import Place, now
from trtenv.pipeline.running import Subject, runner_params, story
from trtenv.pipeline.staging import sole_writer


class Report(NamedTuple):
    """reasons: why it does not agree; empty where it does. bisection: pipeline.bisect's answer."""

    spec: VerifySpec
    places: Places
    values: dict[str, Any]
    reasons: tuple[str, ...]
    bisection: dict[str, Any] | None = None
    stamped: bool = False

    @property
    def agrees(self) -> bool:
        return not self.reasons

    def failure(self) -> VerifyFailed | None:
        if self.agrees:
            return None
        if all(entry["agrees"] for entry in self.values["outputs"]):
            allow = "allow more where that is right: --max-drop POINTS, --min-metric PERCENT"
            return VerifyFailed(self._told(), hint=allow)
        allow = "allow more where that is right: --tolerance rel=VALUE"
        hint = None if self.values["first_nonfinite"] else allow
        first = (self.bisection or {}).get("first")
        if first and self.spec.subject.runtime == "engine":
            hint = f"build it with that node in FP32: --keep-fp32 '{first['node']}'"
        elif self.bisection is None and self.spec.reference.runtime == "onnxruntime":
            hint = "find the first tensor inside that differs: --bisect"
        return VerifyFailed(self._told(), hint=hint)

    def _told(self) -> str:
        spec = self.spec
        return f"`{spec.subject.name}` does not agree with `{spec.reference.name}`: " + "; ".join(
            self.reasons
        )

    def to_dict(self) -> dict[str, Any]:
        values, spec = self.values, self.spec
        return {
            "subject": self._side(spec.subject, self.places.subject, "subject"),
            "reference": self._side(spec.reference, self.places.reference, "reference"),
            "inputs": {
                "kind": spec.inputs,
                "items": values["items"],
                "batches": values["batches"],
                "seed": spec.seed if spec.sources is None else None,
            },
            "tolerance": spec.tolerance.to_dict(),
            "outputs": values["outputs"],
            "worst": values["worst"],
            "first_nonfinite": values["first_nonfinite"],
            "metric": values["metric"],
            "notes": values["notes"],
            "verdict": "agrees" if self.agrees else "differs",
            "reasons": list(self.reasons),
            "bisection": self.bisection,
            "stamped": self.stamped,
        }

    def _side(self, model: Subject, place: Place, side: str) -> dict[str, Any]:
        env = {"name": place.environment.name, "digest": place.identity.digest}
        return {**story(model), "environment": env, "ran": self.values["ran"][side]}

    def for_stamp(self) -> dict[str, Any]:
        """What the engine's stamp keeps: no paths and no names of inputs, for stamps travel."""
        whole, reference = self.to_dict(), story(self.spec.reference)
        kept = ("name", "rel", "max_abs", "cosine", "top1", "equal", "agrees")
        return {
            "date": now(),
            "against": {key: reference[key] for key in ("name", "sha256", "runtime")},
            "inputs": whole["inputs"],
            "precision": self.spec.tolerance.precision,
            "outputs": [{key: entry[key] for key in kept} for entry in whole["outputs"]],
            "metric": self.values["metric"] and _numbers(self.values["metric"]),
            "verdict": whole["verdict"],
        }


def _numbers(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metric[key] for key in ("kind", "samples", "subject", "reference")}


def verify(spec: VerifySpec, places: Places) -> Report:
    """Run, judge and, where it is asked for and they differ, look inside."""
    with sessions(places) as sides:
        models = (
            runner_params(spec.subject, sides.subject, **spec.runner),
            runner_params(spec.reference, sides.reference),
        )
        inputs = spec.source_params(sides.subject.inside, sides.reference.inside)
        answer = run_both(models, inputs, spec.params(sides.reference.inside), places, sides)
        values = answer.values
        notes = [*values["notes"], *(spec.truth.notes if spec.truth else ())]
        values = {**values, "notes": notes, "metric": with_difference(values["metric"])}
        report = Report(spec, places, values, tuple(judge(spec, values)))
        differ = not all(entry["agrees"] for entry in values["outputs"])
        if spec.bisect and differ and answer.worst:
            from trtenv.pipeline.bisect import bisect

            report = report._replace(bisection=bisect(spec, places, sides, answer))
    return report


def with_difference(metric: dict[str, Any] | None) -> dict[str, Any] | None:
    if metric is None or not metric["subject"] or not metric["reference"]:
        return metric
    pairs = {key: (metric["subject"][key], metric["reference"][key]) for key in metric["subject"]}
    return {**metric, "difference": {key: own - other for key, (own, other) in pairs.items()}}


def judge(spec: VerifySpec, values: Mapping[str, Any]) -> Iterator[str]:
    """Why it does not agree."""
    for entry in values["outputs"]:
        for problem in entry["problems"]:
            yield f"output `{entry['name']}`: {problem}"
    if spec.truth is None:
        return
    metric = values["metric"]
    if not metric or not metric.get("difference"):
        raise UsageError(
            "no image has a label, so there is no accuracy to tell",
            hint="labels go with images by the names of their files",
        )
    main = metric["main"]
    found, drop = 100 * metric["subject"][main], -100 * metric["difference"][main]
    # Accuracies are sums of float64: what is exactly the limit must not fail by their last bit.
    if spec.min_metric is not None and found < spec.min_metric - 1e-9:
        yield f"{main} is {found:.6g} %, wanted {spec.min_metric:g} %"
    if spec.max_drop is not None and not metric["reference"][main]:
        yield f"{main} of the reference is 0 %: the labels cannot be those of its images and classes"
    elif spec.max_drop is not None and drop > spec.max_drop + 1e-9:
        yield f"{main} drops by {drop:.6g} points, allowed {spec.max_drop:g}"


def write_verdict(report: Report) -> bool:
    """Into the engine's stamp, if that still is of this file; whether it was written is said otherwise."""
    subject = report.spec.subject
    if subject.runtime != "engine" or subject.path is None or subject.stamp is None:
        return False
    target = stamp_path(subject.path)
    try:
        with sole_writer(subject.path):
            stamp = read_stamp(subject.path)
            if stamp is None or stamp.get("sha256") != at(subject.stamp, "sha256"):
                console.say(f"note: `{target.name}` changed meanwhile: the verdict is not in it")
                return False
            stamp["verified"] = report.for_stamp()
            with whole_file(target) as part:
                part.write_text(render(stamp), encoding="utf-8")
    except (OSError, ArtifactError, OutputBusy) as error:
        console.say(f"note: the verdict is not in `{target.name}`: {error}")
        return False
    return True
