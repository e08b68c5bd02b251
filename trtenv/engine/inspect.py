"""Says what an engine file or an ONNX file is, without TensorRT and without a GPU.

Opens the file once, reads its head and then all of it in one bounded, streamed scan (sha256 and
kernel names together). Executes nothing, loads no weights, and leaves verdicts to others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from trtenv.engine import header, onnxfile
from trtenv.engine.foreign import refuse
from trtenv.engine.header import Flavour, PlanHeader, State, WrapperKind
from trtenv.engine.metadata import parse_metadata
from trtenv.engine.onnxfile import OnnxFile
from trtenv.engine.source import FileSource, named, opened
from trtenv.engine.stamp import stamp_path
from trtenv.errors import ArtifactError

_CHUNK: Final = 1 << 20
_PLAN_HEAD: Final = 8192
_MOST_STAMP: Final = 4 << 20
# `sm90_xmma_fprop_implicit_gemm_...`; the helpers `sm70_shflsync` and the `sm_86` of embedded tools
# tell nothing and do not match. Searching for the rarer word first is twice as fast on weights.
_WORD: Final = b"_xmma_"
_KERNEL: Final = re.compile(rb"sm([0-9]{2,3})_xmma_")
_OVERLAP: Final = len(b"sm120_xmma_") - 1

_ALWAYS_IN_STAMP: Final = ("exact GPU model", "precision", "inputs and outputs")


class Kind(StrEnum):
    ENGINE = "engine"
    ONNX = "onnx"


@dataclass(frozen=True, slots=True)
class WrapperFacts:
    """Where the plan lies in the file, and what the wrapper says of it."""

    kind: WrapperKind
    offset: int
    length: int | None
    metadata: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The family of the GPU that the engine was built for; `known_from` is `archive`,
    `kernel names` or None, and `note` says how far that carries."""

    family: str | None
    known_from: str | None
    kernel_families: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class StampFacts:
    """`sha256`: `matches`, `differs`, `absent` (the stamp names none) or `unreadable`."""

    path: Path
    sha256: str
    document: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class Inspection:
    path: Path
    kind: Kind
    title: str
    size: int
    sha256: str
    wrapper: WrapperFacts | None
    plan: PlanHeader | None
    gpu: GpuFacts | None
    onnx: OnnxFile | None
    stamp: StampFacts | None
    unknown: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def plan_offset(self) -> int:
        return self.wrapper.offset if self.wrapper else 0

    def to_dict(self) -> dict[str, object]:
        """JSON-able, with sorted and stable keys: what does not apply is null, never missing."""
        return {
            field.name: _jsonable(getattr(self, field.name))
            for field in sorted(dataclasses.fields(self), key=lambda field: field.name)
        }


def inspect(path: Path) -> Inspection:
    with named(path), opened(path) as source:
        return _inspect(path, source)


def _inspect(path: Path, source: FileSource) -> Inspection:
    if source.size == 0:
        raise ArtifactError(
            "the file is empty", hint="build it again; an interrupted copy or a full disk does this"
        )
    head = source.read_at(0, min(source.size, header.HEAD_BYTES))
    findings: list[str] = []
    onnx = None
    wrapper, plan = _plan_in(head, source.size)
    if plan is None:
        refuse(head, source)
        try:
            onnx = onnxfile.read_onnx(source, path.parent)
        except onnxfile.NotOnnx as error:
            raise ArtifactError(
                f"neither a TensorRT engine nor an ONNX model: it starts with {head[:8].hex(' ')}",
                hint="give the file that the build wrote, unpacked and undamaged",
            ) from error
        findings += onnx.findings
        wrapper, plan = _plan_in_onnx(source, onnx)
    flavour = plan.flavour if plan else None
    digest, families = _scan(source, head, kernels=flavour is Flavour.TENSORRT)
    source.require_unchanged()
    findings += _plan_findings(plan)
    facts = _wrapper_facts(wrapper, findings)
    stamp = _stamp(path, digest, findings)
    return Inspection(
        path=path,
        kind=Kind.ONNX if onnx else Kind.ENGINE,
        title=_title(plan, onnx, wrapper),
        size=source.size,
        sha256=digest,
        wrapper=facts,
        plan=plan,
        gpu=_gpu(plan, families) if plan and flavour is Flavour.TENSORRT else None,
        onnx=onnx,
        stamp=stamp,
        unknown=_unknown(plan, stamped=stamp is not None and stamp.sha256 == "matches"),
        findings=tuple(findings),
    )


def _plan_in(head: bytes, size: int) -> tuple[header.Wrapper | None, PlanHeader | None]:
    if head[:4] in header.MAGICS:
        return None, header.read_plan_header(head[:_PLAN_HEAD], size)
    wrapper = header.find_wrapper(head, size)
    if wrapper is None:
        return None, None
    there = size - wrapper.offset
    if wrapper.length is not None:
        there = min(there, wrapper.length)
    data = head[wrapper.offset : wrapper.offset + min(there, _PLAN_HEAD)]
    return wrapper, header.read_plan_header(data, there)


def _plan_in_onnx(
    source: FileSource, onnx: OnnxFile
) -> tuple[header.Wrapper | None, PlanHeader | None]:
    """The first engine of ours: other execution providers keep other things in EPContext nodes."""
    for context in onnx.ep_contexts:
        if context.offset is None or context.length is None:
            continue
        data = source.read_at(context.offset, min(context.length, _PLAN_HEAD))
        if data[:4] in header.MAGICS:
            wrapper = header.Wrapper(
                WrapperKind.EP_CONTEXT, context.offset, context.length, context.offset, b""
            )
            return wrapper, header.read_plan_header(data, context.length)
    return None, None


def _scan(source: FileSource, head: bytes, *, kernels: bool) -> tuple[str, tuple[str, ...]]:
    digest, found = hashlib.sha256(usedforsecurity=False), set[bytes]()
    chunk, position, tail = head, 0, b""
    while chunk:
        digest.update(chunk)
        if kernels:
            for piece in (tail + chunk[:_OVERLAP], chunk):
                if _WORD in piece:
                    found.update(_KERNEL.findall(piece))
            tail = (tail + chunk[-_OVERLAP:])[-_OVERLAP:]
        position += len(chunk)
        chunk = source.read_at(position, min(_CHUNK, source.size - position))
    return digest.hexdigest(), tuple(f"sm{number}" for number in sorted(map(int, found)))


def _gpu(plan: PlanHeader, families: tuple[str, ...]) -> GpuFacts:
    compatible = plan.hardware_compatibility not in {None, "none"}
    if plan.device:
        family = "sm" + plan.device.compute_capability.replace(".", "")
        note = "the builder wrote its GPU into the engine"
        if compatible:
            note += f"; built hardware-compatible ({plan.hardware_compatibility})"
        return GpuFacts(family, "archive", families, note)
    if families:
        # Measured: 8.6.1.6 built on 8.9 names sm80 at most, as does 8.6.0.12 with AMPERE_PLUS.
        note = (
            "the newest family among the kernels' names, so this or newer: "
            "builds for Ada and hardware-compatible builds show sm80"
        )
        return GpuFacts(families[-1], "kernel names", families, note)
    return GpuFacts(None, None, families, "no kernel names found")


def _unknown(plan: PlanHeader | None, *, stamped: bool) -> tuple[str, ...]:
    if plan is None:
        return ()
    unknown = []
    if plan.version is None:
        unknown.append("TensorRT patch version" if plan.release else "TensorRT version")
    if plan.flavour is Flavour.TENSORRT and plan.device is None:
        unknown.append("compute capability it was built on")
    if plan.flavour is Flavour.TENSORRT_RTX and plan.targets is None:
        unknown.append("compute capabilities it was built for")
    if plan.state is State.UNKNOWN:
        unknown.append("whether the file is whole")
    if stamped:
        return tuple(unknown)
    unknown += _ALWAYS_IN_STAMP if plan.flavour is Flavour.TENSORRT else _ALWAYS_IN_STAMP[1:]
    major, minor = _at_least(plan)
    # Version-compatible builds exist from 8.6, weight-stripped ones from 10.0 (NvInfer.h of those).
    if (major, minor) >= (8, 6):
        unknown.append("version compatibility")
        if plan.hardware_compatibility is None and plan.flavour is Flavour.TENSORRT:
            unknown.append("hardware compatibility")
    if (major, minor) >= (10, 0):
        unknown.append("weight stripping")
    return tuple(unknown)


def _at_least(plan: PlanHeader) -> tuple[int, int]:
    """The release for questions of what it could have; TensorRT-RTX has had all since 1.0."""
    text = plan.version or (plan.release or "").partition(" ")[0]
    if plan.flavour is Flavour.TENSORRT_RTX or not text:
        return 99, 0
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _title(plan: PlanHeader | None, onnx: OnnxFile | None, wrapper: header.Wrapper | None) -> str:
    engine = ""
    if plan:
        product = "TensorRT" if plan.flavour is Flavour.TENSORRT else "TensorRT-RTX"
        engine = f"{product} {plan.version or plan.release or 'of unknown version'} engine"
    if onnx:
        opsets = ", ".join(f"{name} {number}" for name, number in sorted(onnx.opsets.items()))
        title = f"ONNX model, IR {onnx.ir_version}, opset {opsets}"
        if engine:
            return f"{title}, around a {engine} (EPContext)"
        return f"{title}, around a compiled engine (EPContext)" if onnx.ep_contexts else title
    match wrapper.kind if wrapper else None:
        case WrapperKind.ULTRALYTICS:
            return f"{engine} behind Ultralytics metadata"
        case WrapperKind.EXECUTORCH:
            return f"{engine} in a Torch-TensorRT ExecuTorch blob"
        case _:
            return engine


def _plan_findings(plan: PlanHeader | None) -> list[str]:
    if plan is None:
        return []
    damaged = plan.state in {State.TRUNCATED, State.TRAILING}
    return [*plan.findings, *([f"the plan is not whole: {plan.size_text}"] if damaged else [])]


def _wrapper_facts(wrapper: header.Wrapper | None, findings: list[str]) -> WrapperFacts | None:
    if wrapper is None:
        return None
    document = None
    if wrapper.metadata:
        try:
            document = parse_metadata(wrapper.metadata)
        except ValueError as error:
            findings.append(f"the {wrapper.kind} metadata is unusable: {error}")
    return WrapperFacts(wrapper.kind, wrapper.offset, wrapper.length, document)


def _stamp(artifact: Path, digest: str, findings: list[str]) -> StampFacts | None:
    path = stamp_path(artifact)
    if not os.path.lexists(path):
        return None
    try:
        with opened(path) as source:
            if source.size > _MOST_STAMP:
                raise ValueError(f"{source.size} bytes are too many for a stamp")
            document = parse_metadata(source.read_at(0, source.size))
    except (ArtifactError, OSError, ValueError) as error:
        findings.append(f"the stamp `{path.name}` is unusable: {error}")
        return StampFacts(path, "unreadable", None)
    recorded = document.get("sha256")
    if not isinstance(recorded, str):
        findings.append(f"the stamp `{path.name}` names no sha256")
        return StampFacts(path, "absent", document)
    if recorded.lower() == digest:
        return StampFacts(path, "matches", document)
    findings.append(f"the stamp `{path.name}` belongs to another file: its sha256 differs")
    return StampFacts(path, "differs", document)


def _jsonable(value: object) -> object:
    match value:
        case Path():
            return os.fsencode(value).decode("utf-8", "replace")
        case StrEnum():
            return value.value
        case dict():
            return {str(key): _jsonable(value[key]) for key in sorted(value)}
        case tuple() if hasattr(value, "_asdict"):
            # The parts' findings stand once, at the top.
            return _jsonable({k: v for k, v in value._asdict().items() if k != "findings"})
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = sorted({field.name for field in dataclasses.fields(value)} - {"findings"})
            return {name: _jsonable(getattr(value, name)) for name in names}
        case _:
            return value
