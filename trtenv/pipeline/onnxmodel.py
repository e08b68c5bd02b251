"""An ONNX file as a build needs it: inputs, opset, every file it consists of, one digest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from trtenv.engine import onnxfile
from trtenv.engine.digests import file_digest
from trtenv.engine.source import named, opened
from trtenv.engine.stamp import fingerprint
from trtenv.errors import ArtifactError
from trtenv.runners.protocol import Session
from trtenv.spec.shapes import InputInfo

if TYPE_CHECKING:
    from trtenv.engine.onnxgraph import Graph


class OnnxModel(NamedTuple):
    """`external` are the files beside it that hold weights, relative to its folder."""

    path: Path
    sha256: str
    opset: int
    inputs: tuple[InputInfo, ...]
    external: tuple[str, ...] = ()
    metadata: Mapping[str, str] = MappingProxyType({})


def read_onnx(path: Path) -> OnnxModel:
    """ArtifactError for what is no whole ONNX model, or whose weights are missing or lie elsewhere."""
    try:
        with named(path), opened(path) as source:
            found = onnxfile.read_onnx(source, path.parent)
    except onnxfile.NotOnnx as error:
        raise ArtifactError(
            f"`{path}` is no ONNX model", hint=f"look into it: trtenv inspect {path}"
        ) from error
    for weights in found.external:
        if weights.state != "present":
            raise ArtifactError(
                f"`{path}` needs the weights file `{weights.location}`: {weights.state}",
                hint="keep a model and its weights together, as they were exported",
            )
    external = tuple(weights.location for weights in found.external)
    return OnnxModel(
        path=path,
        sha256=_digest(path, external),
        opset=found.opsets.get("ai.onnx", 0),
        inputs=tuple(
            InputInfo(entry.name, entry.type, None if entry.dims is None else _sizes(entry.dims))
            for entry in found.inputs
        ),
        external=external,
        metadata=found.metadata,
    )


def _sizes(dims: tuple[int | str | None, ...]) -> tuple[int | None, ...]:
    """A named dimension is as dynamic as a nameless one, and so is a negative one of old exporters."""
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in dims)


def _digest(path: Path, external: tuple[str, ...]) -> str:
    if not external:
        return file_digest(path)
    names = (path.name, *external)
    return fingerprint({name: file_digest(path.parent / name) for name in names})


def is_quantized(model: OnnxModel) -> bool:
    """Whether the graph says itself what runs in INT8 or FP8."""
    return any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in _graph(model).nodes)


def node_names(model: OnnxModel) -> list[str]:
    return [node.name for node in _graph(model).nodes if node.name]


def _graph(model: OnnxModel) -> Graph:
    from trtenv.engine.onnxgraph import read_graph

    with named(model.path), opened(model.path) as source:
        return read_graph(source)[0]


def stage(model: OnnxModel, session: Session, name: str = "onnx") -> str:
    """Put the model's files where the worker sees them, in a folder `name`; returns the path of the inside.

    The graph is linked where the file system allows it, so that a container needs no mount per
    model. Its external weights are copied: onnx takes a hard link among them for an attack.
    """
    folder = session.staging / "jobs" / name
    for file in (model.path.name, *model.external):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        source = (model.path.parent / file).resolve()
        try:
            if model.external:
                shutil.copyfile(source, target)
            else:
                os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    return session.inside(folder / model.path.name)
