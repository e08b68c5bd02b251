"""Model in, checked and stamped ONNX out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from trtenv import __version__, console
from trtenv.dialect.versions import opset_range
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import fingerprint, is_current, read_stamp
from trtenv.errors import ArtifactError, UsageError
from trtenv.pipeline.place import Place, now
from trtenv.pipeline.request import job_sources
from trtenv.pipeline.staging import publish, publish_log
from trtenv.runners.protocol import Job, JobResult, Mount, Session
from trtenv.spec.model import ModelRef
from trtenv.spec.shapes import ShapeRange

# The oldest TensorRT whose opset, 17, covers what today's exporters need (dialect/data/onnx_opset.csv).
ANY_TARGET = ("tensorrt", "8.4.1")
TOLERANCE = {"max_abs": 1e-3, "rel": 1e-4}


class ExportSpec(NamedTuple):
    """What ONNX is wanted. `opset` None is the newest that torch and every target take.

    task: of the task card (spec.task), what the user says better than the model.
    tolerance: largest absolute difference, and norm of the difference over norm of the reference.
    """

    model: ModelRef
    output: Path
    weights: str | None = None
    shapes: Mapping[str, ShapeRange] = MappingProxyType({})
    opset: int | None = None
    max_opset: int = 17
    exporter: str = "auto"
    simplify: str = "auto"
    verify: bool = True
    tolerance: Mapping[str, float] = TOLERANCE
    task: Mapping[str, Any] = MappingProxyType({})

    @property
    def weights_file(self) -> Path | None:
        """A path, where --weights names one and not a word such as DEFAULT."""
        if self.weights is None or self.weights == "DEFAULT":
            return None
        path = Path(self.weights)
        if not path.is_file():
            raise UsageError(
                f"weights `{path}` do not exist", hint="give a .pt or .safetensors file"
            )
        return path

    @property
    def log(self) -> Path:
        return self.output.with_name(self.output.name + ".log")

    @property
    def inputs(self) -> list[Path]:
        return [path for path in (self.model.path, self.weights_file) if path is not None]

    def mounts(self) -> tuple[Mount, ...]:
        """Read-only: a model's own folder, since it may import its neighbours, and its weights."""
        sources = [self.weights_file]
        if self.model.path is not None:
            python = self.model.kind == "python"
            sources.append(self.model.path.resolve().parent if python else self.model.path)
        return tuple(Mount(source=path.resolve()) for path in sources if path is not None)

    def options(self) -> dict[str, Any]:
        return {
            "shapes": {name: shape.to_dict() for name, shape in sorted(self.shapes.items())},
            "opset": self.opset,
            "max_opset": self.max_opset,
            "exporter": self.exporter,
            "simplify": {"auto": "auto", "on": True, "off": False}[self.simplify],
            "verify": self.verify,
            "tolerance": dict(self.tolerance),
            "task": dict(self.task),
            "output": self.output.name,
        }


def choose_max_opset(targets: Sequence[tuple[str, str]], asked: int | None) -> int:
    """The newest opset that every target (flavour, version) takes; UsageError where `asked` is too new.

    A target whose version no table knows is held to what every TensorRT from 8.4.1 on takes.
    """
    found = [(target, opset_range(*target)) for target in targets]
    limits = [(target, limit) for target, limit in found if limit is not None]
    if len(limits) < len(found) or not limits:
        target, limit = ANY_TARGET, opset_range(*ANY_TARGET)
        limits += [(target, limit)] if limit else []
    target, limit = min(limits, key=lambda entry: entry[1].max)
    if asked is not None and asked > limit.max:
        raise UsageError(
            f"opset {asked} is too new: {target[0]} {target[1]} takes up to opset {limit.max}"
            f" ({limit.source})",
            hint=f"use --opset {limit.max}, or leave it to trtenv",
        )
    return limit.max


def export_key(spec: ExportSpec, place: Place, sources: Mapping[str, str]) -> str:
    """Changes with anything that could change the ONNX; `sources` are the model's own files."""
    weights = spec.weights_file
    return fingerprint(
        {
            "model": {"kind": spec.model.kind, "name": spec.model.name},
            "sources": dict(sources),
            "weights": file_digest(weights) if weights else spec.weights,
            "options": spec.options(),
            "environment": [place.identity.digest, place.torch_digest(place.identity)],
            "variables": dict(place.options.variables),
            "job": job_sources(),
        }
    )


def model_sources(spec: ExportSpec, loaded: Sequence[str] = ()) -> dict[str, str]:
    """Digests of the model's file and of the files beside it that it imports, by relative path."""
    if spec.model.path is None:
        return {}
    folder = spec.model.path.resolve().parent
    names = {spec.model.path.name, *loaded}
    return {name: file_digest(folder / name) for name in sorted(names) if (folder / name).is_file()}


def is_exported(spec: ExportSpec, place: Place) -> bool:
    if place.settings.always:
        return False
    try:
        stamp = read_stamp(spec.output) or {}
    except ArtifactError:
        return False
    source = stamp.get("source")
    known = source.get("sources") if isinstance(source, dict) else None
    names = [str(name) for name in known] if isinstance(known, dict) else []
    key = export_key(spec, place, model_sources(spec, names))
    return is_current(spec.output, key)


def export_params(spec: ExportSpec, inside: Callable[[Path], str]) -> dict[str, Any]:
    model, weights = spec.model, spec.weights_file
    return {
        **spec.options(),
        "model": {
            "kind": model.kind,
            "path": inside(model.path.resolve()) if model.path else None,
            "factory": model.name if model.kind == "python" else None,
            "name": None if model.kind == "python" else model.name,
            "weights": inside(weights.resolve()) if weights else spec.weights,
        },
        "metadata": {"trtenv.version": __version__, "trtenv.model": shown_name(model)},
        "seed": 0,
    }


def shown_name(model: ModelRef) -> str:
    """The model as the stamp names it: without the folders of this machine."""
    if model.path is None:
        return model.text
    return f"{model.path.name}:{model.name}" if model.kind == "python" else model.path.name


def run_export(spec: ExportSpec, place: Place, session: Session) -> dict[str, Any]:
    """Export, compare, stamp and put the ONNX in place; returns the stamp."""
    job = Job("export", export_params(spec, session.inside))
    try:
        with console.Step(f"exporting {spec.output.name} in {place.environment.name}") as step:
            result = session.run(job, step.on_event)
        values = result.values
        made = result.out / values["onnx"]
        siblings = [result.out / name for name in values["external_data"]]
        loaded = relative_sources(spec, values["source_files"], session)
        stamp = publish(made, spec.output, onnx_stamp(spec, place, result, loaded), siblings)
    finally:
        publish_log(session.log, spec.log)
    place.record(values["environment"])
    for note in values["notes"]:
        console.say(f"note: {note}")
    return stamp


def relative_sources(spec: ExportSpec, loaded: Sequence[str], session: Session) -> list[str]:
    """The model's own modules relative to its folder: the inside's paths mean nothing outside."""
    if spec.model.path is None:
        return []
    folder = PurePosixPath(session.inside(spec.model.path.resolve())).parent
    weights = spec.weights_file  # told apart in the stamp
    told = session.inside(weights.resolve()) if weights else None
    paths = [PurePosixPath(path) for path in loaded if path != told]
    return [str(path.relative_to(folder)) for path in paths if path.is_relative_to(folder)]


def onnx_stamp(
    spec: ExportSpec, place: Place, result: JobResult, loaded: Sequence[str]
) -> dict[str, Any]:
    values, weights = result.values, spec.weights_file
    sources = model_sources(spec, loaded)
    measured = {key: found for key, found in values["environment"].items() if key != "devices"}
    kept = ("opset", "ir_version", "inputs", "outputs", "nodes", "parameters", "simplified")
    return {
        "format": 1,
        "kind": "onnx",
        "trtenv": __version__,
        "key": export_key(spec, place, sources),
        "date": now(),
        "onnx": {name: values[name] for name in kept},
        "task": values["task"],
        "source": {
            "model": shown_name(spec.model),
            "sources": sources,
            "weights": {"name": weights.name, "sha256": file_digest(weights)}
            if weights
            else spec.weights,
            "commit": git_commit(spec.model.path),
            "torch": values["torch"],
            "exporter": values["exporter"],
            "environment": place.environment.name,
            "digest": place.identity.digest,
        },
        "comparison": {"reference": values["reference"], "outputs": values["comparison"]},
        "environment": {
            "name": place.environment.name,
            "runner": place.choice.runner,
            "reference": place.identity.reference,
            "digest": place.identity.digest,
            "measured": measured,
        },
        "notes": values["notes"],
    }


def git_commit(path: Path | None) -> str | None:
    """The commit of the model's folder, `+dirty` where files differ; None outside of git."""
    if path is None:
        return None
    folder = path.resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    return commit and commit + ("+dirty" if _git(folder, "status", "--porcelain", "-uno") else "")


def _git(folder: Path, *argv: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
