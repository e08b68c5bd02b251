"""Takes Ultralytics' prefix off an engine, and puts it on, without touching a byte of the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trtenv import __version__
from trtenv.engine import wrapper
from trtenv.engine.digests import file_digest
from trtenv.engine.header import Flavour, State, WrapperKind
from trtenv.engine.inspect import Inspection, Kind, inspect
from trtenv.engine.source import FileSource, named, opened
from trtenv.engine.stamp import fingerprint
from trtenv.errors import ArtifactError, UsageError
from trtenv.pipeline.place import now
from trtenv.pipeline.staging import publish, refuse_foreign, sole_writer, staging_folder


class Made(NamedTuple):
    """`metadata` as its text, which is what counts; `notes` say what may keep the file from loading."""

    output: Path
    metadata: str
    notes: tuple[str, ...]
    stamp: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "metadata": wrapper.read_document(self.metadata.encode()),
            "notes": list(self.notes),
            "stamp": self.stamp,
        }


def strip(engine: Path, output: Path, *, force: bool = False) -> Made:
    """The bare plan at `output`; its stamp keeps the metadata, from which `wrap` makes the same bytes."""
    refuse_foreign(output, [engine], force=force)
    found = look(engine)
    if found.wrapper is None:
        raise ArtifactError(
            f"`{engine}` is a bare plan already",
            hint="use it as it is; `trtenv wrap` adds a prefix",
        )
    if found.wrapper.kind is not WrapperKind.ULTRALYTICS:
        raise ArtifactError(
            f"`{engine}` is in a wrapper of another kind: {found.wrapper.kind}",
            hint="only Ultralytics' prefix is taken off",
        )
    with named(engine), opened(engine) as source:
        length = found.plan_offset - wrapper.LENGTH_BYTES
        raw = source.read_at(wrapper.LENGTH_BYTES, length)
        wrapper.read_document(raw)  # refuses what Ultralytics itself could not read
        text = raw.decode("utf-8")
        stamp = new_stamp(found, "stripped", text)
        document = write(source, found, output, b"", stamp)
    return Made(output, text, (), document)


def wrap(
    engine: Path,
    output: Path,
    wishes: Mapping[str, Any],
    *,
    onnx: Path | None = None,
    force: bool = False,
) -> Made:
    """The plan behind its metadata: of its stamp, of the ONNX file it came from, and `wishes` last."""
    refuse_foreign(output, [engine, *([onnx] if onnx else [])], force=force)
    found = look(engine)
    if found.wrapper is not None:
        raise ArtifactError(
            f"`{engine}` is in a wrapper already: {found.wrapper.kind}",
            hint=f"trtenv strip {engine} -o BARE.engine",
        )
    kept = kept_metadata(found)
    if kept and not wishes and onnx is None:
        text = kept["metadata"]
    else:
        text = wrapper.render(known_metadata(found, kept, onnx, wishes))
    head = wrapper.prefix(text)
    with named(engine), opened(engine) as source:
        document = write(source, found, output, head, new_stamp(found, "wrapped", text))
    return Made(output, text, tuple(notes(found)), document)


def look(engine: Path) -> Inspection:
    """What the file is. ArtifactError where it is no engine, or not all of one."""
    found = inspect(engine)
    if found.kind is not Kind.ENGINE or found.plan is None:
        raise ArtifactError(
            f"`{engine}` is no engine: {found.title}", hint=f"trtenv build {engine} makes one"
        )
    if found.plan.state in (State.TRUNCATED, State.TRAILING):
        raise ArtifactError(
            f"`{engine}`: the plan is not whole: {found.plan.size_text}",
            hint="copy it again, or build it again",
        )
    return found


def own_stamp(found: Inspection) -> dict[str, Any]:
    """The stamp beside it, if it speaks of this very file."""
    stamp = found.stamp
    return dict(stamp.document or {}) if stamp and stamp.sha256 == "matches" else {}


def kept_metadata(found: Inspection) -> dict[str, Any] | None:
    """What `strip` wrote into the stamp. ArtifactError where it was changed since."""
    kept = own_stamp(found).get("wrapper")
    if not isinstance(kept, dict) or kept.get("done") != "stripped":
        return None
    text = kept.get("metadata")
    if not isinstance(text, str) or wrapper.digest(text) != kept.get("metadata_sha256"):
        raise ArtifactError(
            f"the metadata in the stamp of `{found.path}` was changed: its sha256 differs",
            hint="strip the original again; options change single values: trtenv wrap -h",
        )
    return kept


def known_metadata(
    found: Inspection,
    kept: Mapping[str, Any] | None,
    onnx: Path | None,
    wishes: Mapping[str, Any],
) -> dict[str, Any]:
    stamp = own_stamp(found)
    engine = stamp.get("engine")
    told: dict[str, Any] = {"description": found.path.stem, "author": f"trtenv {__version__}"}
    if isinstance(engine, dict):
        told |= wrapper.from_stamp(engine)
    properties = onnx_properties(found.path, stamp, onnx)
    of_onnx = wrapper.from_onnx({k: v for k, v in properties.items() if k not in wishes})
    of_strip = wrapper.read_document(kept["metadata"].encode()) if kept else {}
    # A file that is named beats what was kept; one that merely lies there does not.
    told |= {**of_strip, **of_onnx} if onnx else {**of_onnx, **of_strip}
    return wrapper.checked({**told, **wishes})


def onnx_properties(
    engine: Path, stamp: Mapping[str, Any], named_onnx: Path | None
) -> dict[str, str]:
    """Of the ONNX file that is named, or that the stamp names and that lies beside the engine."""
    source = stamp.get("source")
    told = source.get("onnx") if isinstance(source, dict) else None
    told = told if isinstance(told, dict) else {}
    path = named_onnx
    if path is None:
        name = Path(str(told.get("name", ""))).name
        path = engine.with_name(name) if name else None
        if path is None or not path.is_file() or file_digest(path) != told.get("sha256"):
            return {}
    found = inspect(path)
    if found.onnx is None:
        raise UsageError(f"`{path}` is no ONNX file", hint="name the file that the engine is from")
    if told.get("sha256") not in (None, found.sha256):
        raise UsageError(
            f"the engine's stamp says that it was built from another file than `{path}`",
            hint="name the file that it was built from, or leave --onnx out",
        )
    return found.onnx.metadata


def notes(found: Inspection) -> list[str]:
    """What keeps Ultralytics from loading the file, as far as that is known."""
    told = []
    if found.plan and found.plan.flavour is Flavour.TENSORRT_RTX:
        told.append(
            "a plan of TensorRT-RTX: Ultralytics loads engines with TensorRT, not with that"
        )
    engine = own_stamp(found).get("engine")
    names = wrapper.input_names(engine) if isinstance(engine, dict) else []
    if names and wrapper.INPUT not in names:
        listed = ", ".join(f"`{name}`" for name in names)
        told.append(f"Ultralytics fills an input `{wrapper.INPUT}`; this engine has {listed}")
    return told


def new_stamp(found: Inspection, done: str, text: str) -> dict[str, Any]:
    """The engine's own story goes along, where its stamp speaks of this file."""
    assert found.plan
    change = {
        "kind": WrapperKind.ULTRALYTICS.value,
        "done": done,
        "metadata": text,
        "metadata_sha256": wrapper.digest(text),
        "from": {"name": found.path.name, "sha256": found.sha256},
    }
    facts = {"flavour": found.plan.flavour.value, "version": found.plan.version}
    return {
        "engine": facts,
        **own_stamp(found),
        "format": 1,
        "kind": "engine",
        "trtenv": __version__,
        "key": fingerprint(change),
        "date": now(),
        "wrapper": change,
    }


def write(
    source: FileSource, found: Inspection, output: Path, head: bytes, stamp: dict[str, Any]
) -> dict[str, Any]:
    """`head` and the plan to `output`, in one pass; returns the whole stamp.

    ArtifactError where the file is no longer the one that was looked at.
    """
    seen = hashlib.sha256(source.read_at(0, found.plan_offset), usedforsecurity=False)
    with sole_writer(output), staging_folder(output.parent) as folder:
        made = folder / output.name
        with made.open("wb") as sink:
            sink.write(head)
            for piece in wrapper.pieces(source, found.plan_offset):
                seen.update(piece)
                sink.write(piece)
        if seen.hexdigest() != found.sha256:
            raise ArtifactError(
                "the file changed while it was read", hint="wait until it is complete"
            )
        return publish(made, output, stamp, [])
