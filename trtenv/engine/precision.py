"""Whether an engine computes in the precision that was asked for, by what its build job found in it.

TensorRT 7 to 10 may leave every precision flag unused and still report success, so an engine that
does not hold what was asked for is an error, not a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trtenv.errors import ArtifactError

__all__ = ["ACCEPT_ANY", "Verdict", "check", "verdict"]

ACCEPT_ANY: Final = "--accept-precision any"
# What counts as obeying: the type itself, or one that is lower still, such as the INT8 layers of a
# quantized model that is built with FP16 for the rest. BF16 and FP16 do not stand for each other.
_LOWER: Final = ("int8", "fp8", "int4", "fp4")
_WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "fp16": ("fp16", *_LOWER),
    "bf16": ("bf16", *_LOWER),
    "int8": ("int8",),
    "fp8": ("fp8",),
}
_INTEGERS: Final = ("int32", "int64", "bool")
_ORDER: Final = ("fp4", "int4", "fp8", "int8", "bf16", "fp16", "tf32", "fp32")
_SOURCES: Final = {
    "inspector": "by the engine inspector",
    "inspector+log": "by the engine inspector and the builder's log",
    "log": "by the builder's log",
    "network": "by the types of the network",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok` is None where it cannot be told; `hint` is given where `ok` is False."""

    ok: bool | None
    message: str
    hint: str | None = None


def verdict(asked: str, summary: Mapping[str, Any] | None) -> Verdict:
    """Judge a summary of trtenv/jobs/layers.py against a precision of a BuildSpec."""
    if summary is None:
        return Verdict(
            None, f"asked for {asked}; this TensorRT does not tell what its layers run in"
        )
    layers = _computing(summary["layers"])
    told = _tell(summary, layers)
    if not layers:
        if summary["unknown"]:
            return Verdict(None, f"asked for {asked}; {told}")
        return Verdict(True, f"asked for {asked}; no layer computes, so none can differ")
    if asked in _WANTED:
        return _holds(asked, summary, layers, told)
    if asked == "fp32" and set(layers) - {"fp32"}:
        return Verdict(
            False,
            f"asked for fp32, but {told}",
            f"the model itself may be typed or quantized: export it in FP32; or take it with {ACCEPT_ANY}",
        )
    # tf32 and best allow and force nothing; where FP32 is all there is, it was the fastest.
    return Verdict(True, f"asked for {asked}; {told}")


def check(asked: str, summary: Mapping[str, Any] | None, *, accept_any: bool = False) -> Verdict:
    """ArtifactError where the engine is not what was asked for, unless the user accepts any."""
    found = verdict(asked, summary)
    if found.ok is False and not accept_any:
        raise ArtifactError(found.message, hint=found.hint)
    return found


def _holds(asked: str, summary: Mapping[str, Any], layers: Mapping[str, int], told: str) -> Verdict:
    """Of convolutions and matrix products where there are any: one FP16 pooling makes no FP16 engine."""
    judged = _computing(summary.get("products") or {}) or layers
    if any(name in _WANTED[asked] for name in judged):
        return Verdict(True, f"asked for {asked}; {told}")
    if summary["unknown"]:
        return Verdict(None, f"asked for {asked}; {told}")
    return Verdict(
        False,
        f"asked for {asked}, but no layer that counts runs in it: {told}",
        _hint(asked, summary),
    )


def _hint(asked: str, summary: Mapping[str, Any]) -> str:
    accept = f"or take the engine as it is with {ACCEPT_ANY}"
    if asked in ("int8", "fp8"):
        return f"give calibration data, or a model with Q/DQ nodes; {accept}"
    if summary["source"] == "network":
        return (
            f"the network is typed: give fewer names to --keep-fp32, or a model whose nodes can be "
            f"{asked.upper()}; {accept}"
        )
    return (
        f"TensorRT took other kernels for speed, or has none in {asked} for this GPU: force them "
        f"with --precision-constraints obey --layer-precisions '*:{asked}'; {accept}"
    )


def _computing(counts: Mapping[str, int]) -> dict[str, int]:
    """Without the arithmetic of shapes and indices, which is in integers in every engine."""
    return {name: count for name, count in counts.items() if name not in _INTEGERS and count}


def _tell(summary: Mapping[str, Any], layers: Mapping[str, int]) -> str:
    """As in: of 23 layers that compute, 21 fp16, 2 fp32 (weights: 99 % fp16), by the engine inspector."""
    parts = [f"{layers[name]} {name}" for name in _ORDER if name in layers]
    if summary["unknown"]:
        parts.append(f"{summary['unknown']} not told")
    weights = summary.get("weights") or {}
    shares = [f"{weights[name]:.0%} {name}" for name in _ORDER if weights.get(name)]
    total = sum(layers.values()) + summary["unknown"]
    told = f"of {total} layers that compute, {', '.join(parts)}"
    held = f" (weights: {', '.join(shares)})" if shares else ""
    return f"{told}{held}, {_SOURCES[summary['source']]}"
