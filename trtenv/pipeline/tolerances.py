"""How far an output may be from its reference before a model counts as wrong: by precision, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from trtenv.engine.rebuild import at
from trtenv.errors import UsageError
from trtenv.pipeline.running import Subject

__all__ = ["KEYS", "TABLE", "Row", "Tolerance", "parse_limits", "tolerance_for"]


class Row(NamedTuple):
    """rel: norm of the difference over norm of the reference, of the worst batch.

    equal: share of equal elements, for outputs of whole numbers: classes, counts, masks.
    """

    rel: float
    equal: float
    reason: str


# The coarsest first. What was measured: docs/gpu.md and docs/int8.md, on the example models.
TABLE: Final[Mapping[str, Row]] = {
    "fp4": Row(0.5, 0.9, "1 bit after the leading one; not measured"),
    "int4": Row(0.5, 0.9, "16 steps, of weights; not measured"),
    "fp8": Row(0.3, 0.95, "3 bits after the leading one: a rounding is up to 6 %; not measured"),
    "int8": Row(0.2, 0.95, "256 steps; measured 0.02 with min-max, 0.1 with entropy calibration"),
    "bf16": Row(0.05, 0.98, "8 times coarser than FP16; not measured"),
    "fp16": Row(0.01, 0.99, "a rounding is up to 0.05 %; measured up to 0.0014"),
    "tf32": Row(0.01, 0.99, "rounds inputs of products as FP16 does; measured up to 0.0017"),
    "fp32": Row(1e-4, 0.999, "only the order of sums differs; measured up to 1e-6"),
}
DEFAULT: Final = "tf32"  # what TensorRT builds unless told otherwise
KEYS: Final = ("rel", "max_abs", "mean_abs", "max_rel", "cosine", "equal", "top1")
SHARES: Final = ("cosine", "equal", "top1")
# TensorProto.DataType of onnx 1.23, by number.
_FLOAT16: Final = 10
_BFLOAT16: Final = 16
_FLOAT8: Final = range(17, 21)


class Tolerance(NamedTuple):
    """asked: by the name of an output, "" for all: what the user says better than the table."""

    precision: str
    why: str
    asked: Mapping[str, Mapping[str, float | None]]

    @property
    def row(self) -> Row:
        return TABLE[self.precision]

    def params(self) -> dict[str, Any]:
        """As jobs/runtime/comparing.py reads it."""
        return {
            "float": {"rel": self.row.rel},
            "integer": {"equal": self.row.equal},
            "asked": {name: dict(limits) for name, limits in self.asked.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        row = self.row
        return {
            "precision": self.precision,
            "why": self.why,
            "rel": row.rel,
            "equal": row.equal,
            "reason": row.reason,
            "asked": {name: dict(limits) for name, limits in self.asked.items()},
        }


def parse_limits(texts: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """`rel=0.01` of all outputs, `boxes:rel=0.1` of one; `rel=none` asks for no such limit."""
    found: dict[str, dict[str, float | None]] = {}
    for text in texts:
        left, equals, value = text.rpartition("=")
        output, _, key = left.rpartition(":")
        if not equals or key not in KEYS:
            raise UsageError(
                f"--tolerance: `{text}` is no limit",
                hint=f"KEY=VALUE or OUTPUT:KEY=VALUE, with KEY one of {', '.join(KEYS)}",
            )
        try:
            limit = None if value == "none" else float(value)
        except ValueError:
            limit = -1.0
        if limit is not None and not 0 <= limit < float("inf"):
            raise UsageError(f"--tolerance: `{value}` of `{text}` is no number from 0 on, nor none")
        if limit is not None and limit > 1 and key in SHARES:
            raise UsageError(
                f"--tolerance: {key} is a share from 0 to 1, and never {value}",
                hint=f"{key}={limit / 100:g}" if limit <= 100 else f"such as {key}=0.99",
            )
        found.setdefault(output, {})[key] = limit
    return found


def tolerance_for(
    subject: Subject, reference: Subject, asked: Mapping[str, Mapping[str, float | None]]
) -> Tolerance:
    """Of the coarser one: an engine may be held against another engine."""
    told = [precision_of(subject), precision_of(reference)]
    order = list(TABLE)
    precision, why = min(told, key=lambda entry: order.index(entry[0]))
    return Tolerance(precision, why, asked)


def precision_of(subject: Subject) -> tuple[str, str]:
    """The coarsest that it computes in, and how that is known."""
    if subject.runtime == "torch":
        return "fp32", f"`{subject.name}` is run in FP32"
    if subject.runtime == "onnxruntime":
        return _of_onnx(subject), f"by the types in `{subject.name}`"
    found = at(subject.stamp, "engine", "precision", "found", "layers")
    if isinstance(found, dict):
        for name in TABLE:
            if found.get(name):
                return name, "found in the engine's layers when it was built"
    wanted = at(subject.stamp, "engine", "precision", "asked")
    if wanted in TABLE:
        return wanted, "asked for when it was built; its layers did not tell"
    if wanted == "best":
        return "int8", "any precision was allowed, and its layers did not tell"
    return DEFAULT, "nothing tells its precision: TensorRT's default"


def _of_onnx(subject: Subject) -> str:
    from trtenv.engine.onnxgraph import read_graph
    from trtenv.engine.source import named, opened

    assert subject.path is not None
    with named(subject.path), opened(subject.path) as source:
        graph = read_graph(source)[0]
    types = {tensor.type for tensor in graph.tensors}
    if any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
        return "fp8" if types.intersection(_FLOAT8) else "int8"
    if _BFLOAT16 in types:
        return "bf16"
    return "fp16" if _FLOAT16 in types else "fp32"
