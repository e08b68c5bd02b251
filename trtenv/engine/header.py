"""Reads the header of a serialized engine, and the wrappers that others put in front of one.

Pure: bytes in, facts out. It opens no file, loads no TensorRT and refuses to guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from trtenv.engine import archive
from trtenv.errors import ArtifactError

# Magic words as they stand on disk. `ftrt` with the version at 24 to 27: NVIDIA/TensorRT
# samples/common/sampleEngines.cpp, printPlanVersion. The other two were measured.
PLAN: Final = b"ftrt"
RTX_PLAN: Final = b"vtrt"
OLD_PLAN: Final = archive.MAGIC
MAGICS: Final = (PLAN, RTX_PLAN, OLD_PLAN)

SHORTEST: Final = 28
MOST_METADATA: Final = 1 << 20
# Enough for any wrapper's metadata and, after it, everything that is read of a plan.
HEAD_BYTES: Final = MOST_METADATA + 8192

# NvInfer.h, enum class HardwareCompatibilityLevel; 0 and 1 were also found in real engines.
_COMPATIBILITY: Final = {0: "none", 1: "ampere-plus", 2: "same-compute-capability"}


class Flavour(StrEnum):
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class State(StrEnum):
    WHOLE = "whole"
    TRUNCATED = "truncated"
    TRAILING = "trailing"
    UNKNOWN = "unknown"


class WrapperKind(StrEnum):
    ULTRALYTICS = "ultralytics"
    EXECUTORCH = "torch-tensorrt-executorch"
    EP_CONTEXT = "onnx-epcontext"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the plan as its header lists it; the tag is spelled as on disk (`NGNE`, `THGW`)."""

    tag: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PlanHeader:
    """`version` is exact (major.minor.patch.build); where it is None, `release` may narrow it.

    `version_from`: `header` (bytes 24 to 27), `archive` (first values of the archive) or None.
    Sizes and section offsets count from the first byte of the plan, not of the file.
    """

    flavour: Flavour
    layout: str
    version: str | None
    version_from: str | None
    release: str | None
    archive_number: int | None
    declared_size: int | None
    actual_size: int
    state: State
    sections: tuple[Section, ...]
    device: archive.Device | None
    hardware_compatibility: str | None
    targets: tuple[str, ...] | None
    findings: tuple[str, ...]

    @property
    def size_text(self) -> str:
        if self.declared_size is None:
            return "unknown whether whole"
        difference = self.actual_size - self.declared_size
        match self.state:
            case State.TRUNCATED:
                return f"truncated by {-difference} bytes"
            case State.TRAILING:
                return f"{difference} trailing bytes"
            case State.WHOLE | State.UNKNOWN:
                return str(self.state)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What stands around a plan. `length` is None where the plan goes on to the end of the file."""

    kind: WrapperKind
    offset: int
    length: int | None
    metadata_offset: int
    metadata: bytes


def read_plan_header(data: bytes, file_size: int) -> PlanHeader:
    """Read from the plan's first bytes; `file_size` counts from there to the end of the plan."""
    magic = data[:4]
    if magic not in MAGICS:
        raise ArtifactError(
            f"no TensorRT plan starts here: the first bytes are {magic.hex(' ') or 'missing'}, "
            f"not `ftrt`, `ptrt` or `vtrt`",
            hint="give the file that the build wrote, unpacked and undamaged",
        )
    if len(data) < SHORTEST:
        raise ArtifactError(
            f"the plan is cut short: {len(data)} bytes, and its header alone has {SHORTEST}",
            hint="copy the file again, or rebuild the engine",
        )
    if magic == OLD_PLAN:
        return _old_plan(data, file_size)
    return _plan(data, file_size, Flavour.TENSORRT if magic == PLAN else Flavour.TENSORRT_RTX)


def _old_plan(data: bytes, file_size: int) -> PlanHeader:
    """Up to 8.5 the file is the archive itself; where its size stands changed twice.

    Measured on 7.0.0.11 and 7.1.3.0, on 8.0.1.6, and on 8.2.1.8 and 8.5.3.1.
    """
    opening = archive.read_opening(data, 24)
    number = _u32(data, 4) or _u64(data, 8)
    release = archive.release_of(Flavour.TENSORRT, number)
    major = opening.version[0] if opening.version else int((release or "0").partition(".")[0])
    layout, size_at = "ptrt", None
    if _u32(data, 4) == 0:
        layout, size_at = "ptrt-8.2", 16
    elif major == 8:
        layout, size_at = "ptrt-8.0", 16
    elif major == 7:
        layout, size_at = "ptrt-7", 12
    findings = []
    if opening.version and release and not release.startswith(f"{major}."):
        findings.append(
            f"the archive says TensorRT {_dotted(opening.version)}, "
            f"but its number {number} belongs to {release}"
        )
    return _header(
        flavour=Flavour.TENSORRT,
        layout=layout,
        version=opening.version,
        version_from="archive" if opening.version else None,
        number=number,
        declared_size=None if size_at is None else 24 + _u64(data, size_at),
        actual_size=file_size,
        opening=opening,
        findings=findings,
    )


def _plan(data: bytes, file_size: int, flavour: Flavour) -> PlanHeader:
    """TensorRT from 8.6 and every TensorRT-RTX: a fixed header, a table of sections, the archive."""
    findings = []
    form, revision = _u32(data, 4), _u64(data, 8)
    name = data[:4].decode()
    if form != 0:
        # "Blob index to store the plan version may depend on the serialization version":
        # printPlanVersion refuses anything but 0, so nothing behind it is believed.
        findings.append(f"header format {form} is not known, only 0 is: nothing more was read")
        return _header(
            flavour=flavour,
            layout=f"{name}-format-{form}",
            version=None,
            version_from=None,
            number=None,
            declared_size=None,
            actual_size=file_size,
            opening=archive.Opening(),
            findings=findings,
        )
    version = (data[24], data[25], data[26], data[27])
    sections = _sections(data, 32 if flavour is Flavour.TENSORRT else 64)
    number, opening = _inner_archive(data, sections)
    if opening.version and opening.version != version:
        findings.append(
            f"the header says TensorRT {_dotted(version)}, "
            f"the archive inside {_dotted(opening.version)}"
        )
    targets = None
    if flavour is Flavour.TENSORRT_RTX and len(data) >= 36:
        targets = archive.rtx_targets(version, _u32(data, 32))
    return _header(
        flavour=flavour,
        layout=f"{name}-{revision}",
        version=version if any(version) else None,
        version_from="header" if any(version) else None,
        number=number,
        declared_size=_u64(data, 16),
        actual_size=file_size,
        opening=opening,
        findings=findings,
        sections=sections,
        targets=targets,
    )


def _header(
    *,
    flavour: Flavour,
    layout: str,
    version: archive.Version | None,
    version_from: str | None,
    number: int | None,
    declared_size: int | None,
    actual_size: int,
    opening: archive.Opening,
    findings: list[str],
    sections: tuple[Section, ...] = (),
    targets: tuple[str, ...] | None = None,
) -> PlanHeader:
    level = opening.hardware_compatibility
    return PlanHeader(
        flavour=flavour,
        layout=layout,
        version=_dotted(version) if version else None,
        version_from=version_from,
        release=None if number is None else archive.release_of(flavour, number),
        archive_number=number,
        declared_size=declared_size,
        actual_size=actual_size,
        state=_state(declared_size, actual_size),
        sections=sections,
        device=opening.device,
        hardware_compatibility=None if level is None else _COMPATIBILITY.get(level, f"{level}"),
        targets=targets,
        findings=tuple(findings),
    )


def _sections(data: bytes, offset: int) -> tuple[Section, ...]:
    """Rows of 24 bytes (tag, zero, offset, size) that end where the first section starts."""
    sections: list[Section] = []
    end = len(data)
    while offset + 24 <= end:
        tag = data[offset : offset + 4]
        if not (tag.isalpha() and tag.isupper()):
            break
        sections.append(
            Section(tag.decode("ascii"), _u64(data, offset + 8), _u64(data, offset + 16))
        )
        end = min(end, sections[-1].offset)
        offset += 24
    return tuple(sections)


def _inner_archive(
    data: bytes, sections: tuple[Section, ...]
) -> tuple[int | None, archive.Opening]:
    """The archive's number is a u64 at 8 in 8.6 and 10.0, a u32 at 4 from 10.6 and in TensorRT-RTX."""
    start = next((section.offset for section in sections if section.tag == "NGNE"), None)
    if start is None or data[start : start + 4] != archive.MAGIC or start + 16 > len(data):
        return None, archive.Opening()
    number = _u32(data, start + 4)
    if number:
        return number, archive.read_opening(data, start + 20)
    return _u64(data, start + 8), archive.read_opening(data, start + 24)


def find_wrapper(data: bytes, file_size: int) -> Wrapper | None:
    """The wrapper that starts `data` (the first HEAD_BYTES of a file), if it holds a plan."""
    if data[:4] in (b"TR01", b"TR02"):
        return _executorch(data, file_size)
    # Ultralytics, ultralytics/utils/export/engine.py: int32 length, that many bytes of JSON, plan.
    length = int.from_bytes(data[:4], "little", signed=True)
    if 0 < length <= MOST_METADATA and data[4 + length : 8 + length] in MAGICS:
        return Wrapper(WrapperKind.ULTRALYTICS, 4 + length, None, 4, data[4 : 4 + length])
    return None


def _executorch(data: bytes, file_size: int) -> Wrapper:
    """Torch-TensorRT, py/torch_tensorrt/executorch/serialization.py: "<4sIIIQ8s", JSON, plan."""
    start, size, plan, length = (_u32(data, 4), _u32(data, 8), _u32(data, 12), _u64(data, 16))
    if len(data) < 32 or start + size > min(len(data), MOST_METADATA) or plan + 4 > len(data):
        raise ArtifactError(
            f"a Torch-TensorRT blob of {file_size} bytes whose header is damaged: metadata of "
            f"{size} bytes at {start}, plan of {length} bytes at {plan}",
            hint="export the program again",
        )
    return Wrapper(WrapperKind.EXECUTORCH, plan, length, start, data[start : start + size])


def _state(declared: int | None, actual: int) -> State:
    if declared is None:
        return State.UNKNOWN
    if declared == actual:
        return State.WHOLE
    return State.TRUNCATED if actual < declared else State.TRAILING


def _dotted(version: archive.Version) -> str:
    return ".".join(map(str, version))


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")
