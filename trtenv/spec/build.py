"""What engine is wanted, in one frozen value, independent of any TensorRT version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtenv.errors import UsageError
from trtenv.spec.shapes import ShapeRange

PRECISIONS = ("tf32", "fp32", "fp16")
TACTIC_SOURCES = (
    "CUBLAS",
    "CUBLAS_LT",
    "CUDNN",
    "EDGE_MASK_CONVOLUTIONS",
    "JIT_CONVOLUTIONS",
)
UNITS = {"": 2**20, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """precision: `tf32` is TensorRT's own default (FP32 tensors, TF32 allowed in convolutions and
    matrix products), `fp32` forbids TF32, `fp16` allows or types FP16. workspace in bytes.
    compute_capabilities: TensorRT-RTX only, such as ("8.6", "8.9"); empty is its portable default.
    tactic_sources: name -> on or off, as trtexec's --tacticSources.
    """

    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    precision: str = "tf32"
    workspace: int | None = None
    builder_optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    tactic_sources: Mapping[str, bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "shapes": {name: shape.to_dict() for name, shape in sorted(self.shapes.items())},
            "precision": self.precision,
            "workspace": self.workspace,
            "builder_optimization_level": self.builder_optimization_level,
            "compute_capabilities": list(self.compute_capabilities),
            "tactic_sources": dict(sorted(self.tactic_sources.items())),
        }


def parse_precision(text: str) -> str:
    if text.lower() not in PRECISIONS:
        raise UsageError(
            f"precision `{text}` is not known", hint="choose one of " + ", ".join(PRECISIONS)
        )
    return text.lower()


def parse_size(text: str) -> int:
    """Bytes from `4G`, `512M`, or a bare number of MiB, as trtexec reads it."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([BKMG]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE)
    if not match:
        raise UsageError(f"`{text}` is no size", hint="write 1024 (MiB), 512M or 4G")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if not 0 < size < 2**63:
        raise UsageError(f"size `{text}` is out of range", hint="write 1024 (MiB), 512M or 4G")
    return size


def parse_compute_capabilities(text: str) -> tuple[str, ...]:
    """`8.6,8.9` or `86,89` or `sm86`; sorted, without repeats."""
    found = set()
    for item in filter(None, (part.strip().lower() for part in text.split(","))):
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", item)
        if not match:
            raise UsageError(
                f"`{item}` is no compute capability", hint="write them as 8.6 or 8.6,8.9"
            )
        found.add((int(match[1]), int(match[2])))
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


def parse_tactic_sources(text: str) -> dict[str, bool]:
    """trtexec's grammar: `-CUBLAS,-CUDNN` takes sources away, `+JIT_CONVOLUTIONS` adds one."""
    sources = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name = item.lstrip("+-").upper()
        if item[0] not in "+-" or name not in TACTIC_SOURCES:
            raise UsageError(
                f"`{item}` is no change of a tactic source",
                hint="write +NAME or -NAME with NAME one of " + ", ".join(TACTIC_SOURCES),
            )
        sources[name] = item[0] == "+"
    return sources
