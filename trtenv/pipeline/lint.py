"""Judges a model for one TensorRT before the build, from tables and the file alone: no TensorRT, no onnx.

blocked: a source says that this TensorRT refuses it. risky: it may fail or mean something else, or
what is known is not sure. Nothing found means no more than that the tables know nothing against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv.engine import onnxfile
from trtenv.engine.onnxgraph import Graph, read_graph
from trtenv.engine.protobuf import Malformed, Reader
from trtenv.engine.source import named, opened
from trtenv.errors import ArtifactError, ModelRefused
from trtenv.pipeline.lintops import OPERATOR_RULES
from trtenv.pipeline.lintrules import BLOCKED, FILE_RULES, NOTE, RISKY, Finding, Model, Target
from trtenv.spec.build import BuildSpec
from trtenv.spec.shapes import Shapes

__all__ = [
    "BLOCKED",
    "FINE",
    "NOTE",
    "RISKY",
    "Finding",
    "Report",
    "lint",
    "plugins_given",
    "raise_if_blocked",
]

FINE: Final = "fine as far as tables know"
RULES: Final[tuple[Callable[[Model, Target], Iterator[Finding]], ...]] = (
    *FILE_RULES,
    *OPERATOR_RULES,
)
# By the name of an option, and as trtexec spells them.
PLUGIN_OPTIONS: Final = frozenset({"static_plugins", "dynamic_plugins", "plugins_to_serialize"})
PLUGIN_FLAGS: Final = frozenset(
    {"--plugins", "--staticPlugins", "--dynamicPlugins", "--setPluginsToSerialize"}
)
_ORDER: Final = {BLOCKED: 0, RISKY: 1, NOTE: 2}


class Report(NamedTuple):
    """`findings`: blocked first, then risky, then notes, which change no verdict."""

    path: Path
    target: Target
    opset: int | None
    ir_version: int
    node_count: int
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        return min((item.verdict for item in self.findings), key=_ORDER.__getitem__, default=NOTE)

    @property
    def title(self) -> str:
        return FINE if self.verdict == NOTE else self.verdict

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": str(self.path),
            "flavour": self.target.flavour,
            "version": self.target.version,
            "dla": self.target.dla,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "nodes": self.node_count,
            "verdict": self.title,
            "findings": [item.to_dict() for item in self.findings],
        }


def lint(
    path: Path,
    profiles: Sequence[Shapes],
    flavour: str,
    version: str,
    *,
    dla: bool = False,
    gpu_fallback: bool = False,
    plugins: bool = False,
) -> Report:
    """ArtifactError for what is no whole ONNX model, UsageError for a TensorRT that no table speaks of.

    All else is a finding.

    `profiles`: shapes by input, one mapping per optimization profile; none for a static model.
    `dla`: it shall run on a DLA, with or without `gpu_fallback`. `plugins`: plugin libraries will
    be loaded, so that an operator that no table knows may be in one.
    """
    target = Target(flavour, version, tuple(profiles), dla, gpu_fallback, plugins)
    try:
        with named(path), opened(path) as source:
            found = onnxfile.read_onnx(source, path.parent)
            try:
                graph, reader, unread = *read_graph(source), ""
            except Malformed as error:
                graph, reader, unread = Graph(), Reader(source), str(error)
            model = Model(found, graph, reader, source.size, unread)
            findings = [item for rule in RULES for item in rule(model, target)]
            source.require_unchanged()
    except onnxfile.NotOnnx as error:
        raise ArtifactError(
            f"`{path}` is no ONNX model", hint=f"look into it: trtenv inspect {path}"
        ) from error
    findings.sort(key=lambda item: _ORDER[item.verdict])
    return Report(
        path, target, found.opsets.get("ai.onnx"), found.ir_version, found.node_count,
        tuple(findings),
    )  # fmt: skip


def plugins_given(spec: BuildSpec) -> bool:
    """Whether a build is asked to load plugin libraries, by options or by raw flags of trtexec."""
    flags = {text.partition("=")[0] for text in spec.extra}
    return bool(PLUGIN_OPTIONS & spec.wishes.keys() or PLUGIN_FLAGS & flags)


def raise_if_blocked(report: Report) -> None:
    """ModelRefused with every reason; risks are the caller's to tell."""
    reasons = [item for item in report.findings if item.verdict == BLOCKED]
    if not reasons:
        return
    first = reasons[0]
    raise ModelRefused(
        f"{report.target} cannot take `{report.path}`: {first.message}"
        + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""),
        hint=first.hint or f"see all of it: trtenv lint {report.path} --trt {report.target.asked}",
        details=[f"{item.rule}: {item.message}" for item in reasons],
    )
