"""What is run, and where: an engine finds its environment by its stamp or its plan header."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv import console
from trtenv.catalog.resolve import Wish
from trtenv.dialect.versions import RTX_PREFIX
from trtenv.engine.inspect import Inspection, inspect
from trtenv.engine.rebuild import at
from trtenv.engine.stamp import Stamp
from trtenv.engine.taskmeta import card_of_inspection
from trtenv.errors import ArtifactError, ResolutionError, UsageError
from trtenv.pipeline.export import ExportSpec, export_params
from trtenv.pipeline.onnxmodel import read_onnx, stage
from trtenv.pipeline.place import Place, Settings
from trtenv.runners.protocol import Mount, Session
from trtenv.spec.model import BY_SUFFIX, PREFIXES, ModelRef, parse_model
from trtenv.spec.shapes import ShapeRange
from trtenv.spec.task import TaskCard

RUNTIMES: Final = ("engine", "onnxruntime", "torch")
# More single files than these are mounted by the folders they lie in.
MOST_FILE_MOUNTS: Final = 16


class Subject(NamedTuple):
    """A model that is to be run. `stamp` is the one beside the file, where it fits the file.

    flavour and version of the TensorRT that the engine needs; offset and length of the plan in it;
    found: what the file is.
    """

    text: str
    runtime: str
    path: Path | None = None
    model: ModelRef | None = None
    weights: str | None = None
    stamp: Stamp | None = None
    task: TaskCard | None = None
    flavour: str | None = None
    version: str | None = None
    offset: int = 0
    length: int | None = None
    found: Inspection | None = None

    @property
    def name(self) -> str:
        """Without the folders of this machine."""
        return self.path.name if self.path else self.text

    @property
    def stem(self) -> str:
        if self.model is not None:
            return self.model.stem
        return self.path.stem if self.path else self.text


def read_subject(
    text: str,
    *,
    runtime: str | None = None,
    weights: str | None = None,
    onnx: Path | None = None,
) -> Subject:
    """What `text` names, and what runs it: an engine by TensorRT, an ONNX file by ONNX Runtime, any
    other model by PyTorch. With "onnxruntime", an engine stands for the ONNX file it was built from.

    UsageError where the runtime cannot run it; ArtifactError for a damaged file.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"runtime `{runtime}` is not known", hint="one of " + ", ".join(RUNTIMES))
    subject = _read(text, weights)
    if runtime in (None, subject.runtime):
        return subject
    if runtime == "onnxruntime" and subject.runtime == "engine":
        return _read(str(onnx or source_onnx(subject)), None)._replace(text=text)
    hints = {
        "engine": "build an engine first: trtenv build, or trtenv convert",
        "onnxruntime": "export it first: trtenv export",
        "torch": "name the PyTorch model itself: FILE.py:FACTORY, or torchvision:NAME",
    }
    raise UsageError(f"`{text}` does not run in {runtime}", hint=hints[runtime])


def _read(text: str, weights: str | None) -> Subject:
    path = Path(text)
    prefix, _, rest = text.partition(":")
    if (prefix in PREFIXES and rest) or text.rpartition(":")[0].endswith(".py"):
        return Subject(text, "torch", model=parse_model(text), weights=weights)
    suffix = path.suffix.lower()
    if path.is_file() and (suffix == ".py" or BY_SUFFIX.get(suffix, "onnx") != "onnx"):
        return Subject(text, "torch", model=parse_model(text), weights=weights)
    if not path.exists():
        raise UsageError(f"`{text}` does not exist", hint=f"files are looked up from {Path.cwd()}")
    if weights is not None:
        raise UsageError(
            "--weights belongs to a PyTorch model; engines and ONNX files have theirs inside"
        )
    return from_inspection(text, inspect(path))


def from_inspection(text: str, found: Inspection) -> Subject:
    stamp = None
    if found.stamp is not None and found.stamp.sha256 == "matches":
        stamp = found.stamp.document
    elif found.stamp is not None:
        console.say(f"note: the stamp beside `{found.path.name}` is not used: see `trtenv inspect`")
    subject = Subject(text, "engine", path=found.path, stamp=stamp, found=found)
    subject = subject._replace(task=_card(card_of_inspection(found)))
    if found.plan is None:
        return subject._replace(runtime="onnxruntime")
    return subject._replace(
        flavour=str(found.plan.flavour),
        version=found.plan.version or at(stamp, "engine", "version"),
        offset=found.plan_offset,
        length=found.wrapper.length if found.wrapper else None,
    )


def _card(document: dict[str, Any] | None) -> TaskCard | None:
    """A card that is wrong is told and not used: the model still runs."""
    try:
        return TaskCard.from_dict(document) if document else None
    except UsageError as error:
        console.say(f"note: what the model says of its task is not used: {error.message}")
        return None


def source_onnx(subject: Subject) -> Path:
    """The ONNX file that the engine was built from, beside it: by name, and proved by its sha256."""
    assert subject.path is not None
    name, sha256 = (at(subject.stamp, "source", "onnx", key) for key in ("name", "sha256"))
    hint = "name the file it was built from: --onnx FILE"
    if not isinstance(name, str):
        raise UsageError(
            f"no stamp tells which ONNX file `{subject.name}` was built from", hint=hint
        )
    path = subject.path.with_name(Path(name).name)
    if not path.is_file():
        raise UsageError(f"`{name}`, which it was built from, is not beside it", hint=hint)
    if read_onnx(path).sha256 != sha256:
        raise ArtifactError(f"`{path}` changed since `{subject.name}` was built from it", hint=hint)
    return path


def exported_shapes(subject: Subject) -> dict[str, ShapeRange]:
    """The shapes that an ONNX file was exported for, as its metadata tells; empty where it does not."""
    metadata = subject.found.onnx.metadata if subject.found and subject.found.onnx else {}
    try:
        told = json.loads(metadata.get("trtenv.shapes", "{}"))
        return {
            name: ShapeRange(*(tuple(map(int, sizes[key])) for key in ("min", "opt", "max")))
            for name, sizes in told.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, UsageError):
        return {}  # another wrote it, or somebody spoilt what the export did


def place_for(
    subject: Subject, settings: Settings, *, env: str | None = None, trt: str | None = None
) -> Place:
    """The environment that runs it: as asked, as its stamp says, or the best of its version.

    ResolutionError with each candidate's reason where none can run here.
    """
    if env is not None and trt is not None:
        raise UsageError("--env and --trt both say where it runs", hint="leave one of them out")
    if subject.runtime != "engine":
        return _reference_place(subject, settings, env, trt)
    job = "infer"
    if env is None and trt is None:
        named = at(subject.stamp, "environment", "name")
        if isinstance(named, str) and named in settings.catalog:
            try:
                choice = settings.resolve(Wish(environment=named, job=job))
            except ResolutionError as error:
                console.say(f"note: `{named}`, which built it, does not run here: {error.message}")
            else:
                choice = choice._replace(reason="it built the engine")
                return Place(choice, settings, replace(settings.options, needs_gpu=True))
        trt = wanted_version(subject)
    choice = settings.resolve(Wish(environment=env, trt=trt, job=job))
    return Place(choice, settings, replace(settings.options, needs_gpu=True))


def wanted_version(subject: Subject) -> str:
    """As --trt takes it; UsageError where neither header nor stamp tell."""
    if subject.version is None:
        raise UsageError(
            f"neither a stamp nor the header of `{subject.name}` tells the TensorRT that it needs",
            hint="name it: --trt 8.5.3, or --env NAME",
        )
    return (RTX_PREFIX if subject.flavour == "tensorrt-rtx" else "") + subject.version


def _reference_place(
    subject: Subject, settings: Settings, env: str | None, trt: str | None
) -> Place:
    needs = subject.model.needs if subject.model else ("onnxruntime",)
    choice = settings.resolve(Wish(environment=env, trt=trt, job="run", needs=needs))
    options = settings.options
    if subject.model is not None:
        packages = tuple(name for name in needs if name != "torch")
        options = replace(options, needs_torch=True, needs_packages=packages)
    return Place(choice, settings, options)


def see(place: Place, subject: Subject, files: Sequence[Path] = ()) -> None:
    """Let the place's jobs read these."""
    found = (*place.options.mounts, *mounts(subject, files))
    place.options = replace(place.options, mounts=found)


def mounts(subject: Subject, files: Sequence[Path] = ()) -> tuple[Mount, ...]:
    """What the job reads, read-only: the model's files and `files`, links followed to where they lie."""
    found: list[Mount] = []
    if subject.model is not None:
        found += _model(subject).mounts()
    elif subject.path is not None and subject.runtime == "engine":
        found.append(Mount(subject.path.resolve()))
    # Of a link that leads nowhere, the folder: the job tells that nothing is there.
    real = {path.resolve() if path.exists() else path.parent.resolve() for path in files}
    if len(real) > MOST_FILE_MOUNTS:
        real = _outermost({path if path.is_dir() else path.parent for path in real})
    return (*found, *(Mount(path) for path in sorted(real)))


def _outermost(folders: set[Path]) -> set[Path]:
    """Without those that lie below another."""
    kept: set[Path] = set()
    for folder in sorted(folders, key=lambda path: len(path.parts)):
        if not kept.intersection((folder, *folder.parents)):
            kept.add(folder)
    return kept


def runner_params(subject: Subject, session: Session, **extra: Any) -> dict[str, Any]:
    """The job's `runner`, as jobs/runtime/runners.py reads it. An ONNX file is put where the job is."""
    staged = None
    if subject.runtime == "onnxruntime" and subject.path is not None:
        staged = stage(read_onnx(subject.path), session)
    return shown_params(subject, session.inside, staged, **extra)


def shown_params(
    subject: Subject, inside: Callable[[Path], str], staged: str | None, **extra: Any
) -> dict[str, Any]:
    """The same, told where files appear: `staged` is the ONNX file's path of the inside."""
    if subject.model is not None:
        model = export_params(_model(subject), inside)["model"]
        return {"runtime": "torch", "model": model, "inputs": None, "outputs": None, **extra}
    if subject.runtime == "onnxruntime":
        return {"runtime": "onnxruntime", "path": staged, **extra}
    assert subject.path is not None
    return {
        "runtime": "engine",
        "path": inside(subject.path.resolve()),
        "offset": subject.offset,
        "length": subject.length,
        "flavour": subject.flavour,
        **extra,
    }


def _model(subject: Subject) -> ExportSpec:
    assert subject.model is not None
    return ExportSpec(model=subject.model, output=Path(), weights=subject.weights)


def story(subject: Subject) -> dict[str, Any]:
    """What a result says of the model it came from."""
    return {
        "name": subject.name,
        "runtime": subject.runtime,
        "sha256": subject.found.sha256 if subject.found else None,
        "flavour": subject.flavour,
        "version": subject.version,
    }
