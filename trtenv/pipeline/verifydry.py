"""What `verify` would run; starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtenv.pipeline.comparison import BUDGET, KIND, Places, VerifySpec
from trtenv.pipeline.dryrun import folders, job, shown
from trtenv.pipeline.place import Place
from trtenv.pipeline.running import Subject, shown_params
from trtenv.runners.container import inside, option_binds


class Seen:
    """Stands for a session: where a place's jobs would see files, and what must be staged for them."""

    def __init__(self, place: Place) -> None:
        self.place, self.files = place, dict[str, str]()
        self._docker = place.choice.runner == "docker"
        self._binds = option_binds(place.options.mounts) if self._docker else []

    def inside(self, path: Path) -> str:
        return inside(path, self._binds) if self._docker else str(path)

    def runner(self, subject: Subject, extra: Mapping[str, Any]) -> dict[str, Any]:
        staged = None
        if subject.runtime == "onnxruntime" and subject.path is not None:
            onnx = f"jobs/onnx/{subject.path.name}"
            self.files[onnx], staged = str(subject.path), shown(onnx, self.place)
        return shown_params(subject, self.inside, staged, **extra)


def describe(spec: VerifySpec, places: Places) -> list[dict[str, Any]]:
    """One job, or two: what the first one records, the second one compares."""
    own = Seen(places.subject)
    other = own if places.one else Seen(places.reference)
    params = {
        **spec.params(other.inside),
        "inputs": spec.source_params(own.inside, other.inside),
    }
    subject = {"subject": own.runner(spec.subject, spec.runner)}
    reference = {"reference": other.runner(spec.reference, {})}
    if places.one:
        return [job(KIND, {**params, **subject, **reference, "role": "both"}, own.place, own.files)]
    record = {"role": "record", "start": 0, "budget": BUDGET}
    recorded = f"{folders(other.place)[0]}/recorded"
    compare = {"role": "compare", "recorded": recorded, "state": None, "last": True}
    other.files["jobs/recorded"] = "what the first job wrote"
    return [
        job(KIND, {**params, **subject, **record}, own.place, own.files),
        job(KIND, {**params, **reference, **compare}, other.place, other.files),
    ]
