"""What lint looks for in a model's operators: each one once, with the nodes that use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from trtenv.dialect.operators import (
    OperatorFact,
    dla_support,
    feature,
    operator_support,
    plugin_support,
    plugins_refused,
)
from trtenv.dialect.release import PRODUCTS
from trtenv.engine.onnxgraph import is_zero
from trtenv.engine.protobuf import Malformed
from trtenv.pipeline.lintrules import BLOCKED, NOTE, RISKY, Finding, Model, Target

CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan"})
QUANTIZATION: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
# TensorProto.DataType of zero points.
_QUANTIZED_TYPES: Final = {
    2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 17: "float8e4m3fn", 19: "float8e5m2",
    21: "uint4", 22: "int4", 23: "float4e2m1",
}  # fmt: skip
_ANY_DOMAIN: Final = "the parser looks for an operator by its name, whatever its domain"

Used = Mapping[tuple[str, str], tuple[str, ...]]


def used(model: Model) -> Used:
    """(domain, operator) -> its nodes; the standard domain is the empty one."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in model.graph.nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        found.setdefault((domain, node.op), []).append(node.label)
    return {key: tuple(nodes) for key, nodes in sorted(found.items())}


def operators(model: Model, target: Target) -> Iterator[Finding]:
    unknown: list[str] = []
    for (domain, op), nodes in used(model).items():
        if (domain, op) in model.graph.functions:
            yield from _function(target, op, nodes)
            continue
        fact = operator_support(target.flavour, target.version, op)
        if fact.support == "unknown" and not domain:
            unknown.append(op)
            continue
        judged = _custom(target, domain, fact, nodes) if domain else _standard(target, fact, nodes)
        if judged:
            yield judged
    if unknown:
        text = f"no table says which operators {target} takes: {', '.join(unknown)}"
        yield Finding("operator-unknown", NOTE, text)


def _standard(target: Target, fact: OperatorFact, nodes: tuple[str, ...]) -> Finding | None:
    where = f"{target}" if fact.sure else f"{target} (not sure: the table is of {fact.release})"
    match fact.support:
        case "yes" if fact.disputed:
            text = f"`{fact.op}` is documented, but the parser of {where} has no importer for it"
            return Finding("operator-disputed", RISKY, text, nodes, None, fact.source)
        case "yes" if not fact.restrictions:
            return None
        case "yes":
            text = f"`{fact.op}` is restricted: {fact.restrictions}"
            return Finding("operator-restricted", NOTE, text, nodes, None, fact.source)
        case "experimental":
            text = f"`{fact.op}` is experimental in {where}: {fact.restrictions}"
            return Finding("operator-restricted", RISKY, text, nodes, None, fact.source)
        case "importer":
            text = f"`{fact.op}` is not documented for {where}, but its parser has an importer"
            return Finding("operator-disputed", NOTE, text, nodes, None, fact.source)
        case "no" if fact.disputed:
            text = f"`{fact.op}` is documented as unsupported by {where}; its parser may take it"
            return Finding("operator-disputed", RISKY, text, nodes, None, fact.source)
    how = "is not supported by" if fact.support == "no" else "is in no table of operators of"
    return _missing(target, fact, nodes, f"`{fact.op}` {how} {where}")


def _missing(target: Target, fact: OperatorFact, nodes: tuple[str, ...], text: str) -> Finding:
    """Neither importer nor function: only a plugin of that name could stand in."""
    if plugin := plugin_support(target.flavour, target.version, fact.op):
        text = f"`{fact.op}` is a plugin of NVIDIA's plugin library, which must be loaded"
        return Finding("plugin", RISKY, text, nodes, None, plugin.source)
    if source := plugins_refused(target.flavour, target.version):
        text += f"; {PRODUCTS[target.flavour]} takes no plugins"
        hint = "choose another TensorRT, or export without it"
        verdict = BLOCKED if fact.sure else RISKY
        source = "; ".join(filter(None, (fact.source, source)))
        return Finding("operator-unsupported", verdict, text, nodes, hint, source)
    known = fact.sure and (fact.support == "no" or fact.complete)
    if target.plugins:
        text += "; one of the plugin libraries must have it"
    verdict = BLOCKED if known and not target.plugins else RISKY
    hint = "load a library with such a plugin, choose another TensorRT, or export without it"
    return Finding("operator-unsupported", verdict, text, nodes, hint, fact.source or None)


def _custom(
    target: Target, domain: str, fact: OperatorFact, nodes: tuple[str, ...]
) -> Finding | None:
    name = f"{domain}:{fact.op}"
    if fact.support in ("yes", "experimental"):
        text = f"`{name}` is taken for ONNX's `{fact.op}`: {_ANY_DOMAIN}"
        return Finding("custom-domain", RISKY, text, nodes, None, fact.source)
    if fact.support == "importer":
        return _standard(target, fact, nodes)
    finding = _missing(target, fact, nodes, f"`{name}` is no operator of ONNX: a plugin is needed")
    if finding.rule == "plugin":
        return finding
    return finding._replace(rule="custom-domain")


def _function(target: Target, op: str, nodes: tuple[str, ...]) -> Iterator[Finding]:
    fact = feature(target.flavour, target.version, "local functions")
    if fact is None or fact.how == "native":
        return
    verdict = BLOCKED if fact.sure and not target.plugins else RISKY
    text = f"`{op}` is a function of the model, which {target}'s parser does not read"
    hint = "inline the model's functions (onnx.inliner), or choose TensorRT 9 or later"
    yield Finding("local-function", verdict, text, nodes, hint, fact.source)


def domains(model: Model, _: Target) -> Iterator[Finding]:
    of_nodes = {node.domain for node in model.graph.nodes}
    idle = [name for name in model.onnx.opsets if name != "ai.onnx" and name not in of_nodes]
    if idle and not model.unread:
        text = f"imported, but no node is of it, which is harmless: {', '.join(idle)}"
        yield Finding("idle-domain", NOTE, text)


def control_flow(model: Model, _: Target) -> Iterator[Finding]:
    nodes = [node for node in model.graph.nodes if node.op in CONTROL_FLOW and not node.domain]
    if nodes:
        kinds = ", ".join(sorted({node.op for node in nodes}))
        text = f"control flow ({kinds}); what is inside was checked as well"
        yield Finding("control-flow", NOTE, text, tuple(node.label for node in nodes))


def names(model: Model, _: Target) -> Iterator[Finding]:
    found = Counter(node.name for node in model.graph.nodes if node.name and not node.scope)
    twice = tuple(name for name, count in found.items() if count > 1)
    if twice:
        text = f"{len(twice)} node names occur more than once, which is harmless"
        yield Finding("node-names", NOTE, text, twice)


def quantization(model: Model, target: Target) -> Iterator[Finding]:
    """Zero points: TensorRT quantizes symmetrically, to signed integers."""
    pairs = [node for node in model.graph.nodes if node.op in QUANTIZATION and node.zero_point]
    if not pairs:
        return
    tensors = {item.name: item for item in model.graph.tensors}
    typed: dict[str, list[str]] = {}
    shifted: list[str] = []
    unread: list[str] = []
    for node in pairs:
        if (tensor := tensors.get(node.zero_point)) is None:
            unread.append(node.label)
            continue
        typed.setdefault(_QUANTIZED_TYPES.get(tensor.type, ""), []).append(node.label)
        try:
            zero = is_zero(model.reader, tensor)
        except Malformed:
            zero = None
        if zero is not True:
            (unread if zero is None else shifted).append(node.label)
    hint = "quantize symmetrically to a type that this TensorRT has, such as int8"
    for kind, labels in typed.items():
        fact = feature(target.flavour, target.version, "zero point", kind)
        fact = fact or feature(target.flavour, target.version, "type", kind)
        if fact and fact.how != "native":
            read = "the parser refuses" if fact.how == "refused" else f"it reads as {fact.how}"
            text = f"{len(labels)} Q/DQ nodes are {kind}, which {read}"
            yield Finding("quantization", RISKY, text, tuple(labels), hint, fact.source)
    if shifted and (fact := feature(target.flavour, target.version, "zero point", "not zero")):
        verdict = BLOCKED if fact.how == "refused" and fact.sure else RISKY
        text = f"{len(shifted)} Q/DQ nodes have a zero point other than 0: {fact.how}"
        yield Finding("quantization", verdict, text, tuple(shifted), hint, fact.source)
    if unread:
        text = f"{len(unread)} Q/DQ nodes compute their zero point; it must be 0"
        yield Finding("quantization", NOTE, text, tuple(unread))


def dla(model: Model, target: Target) -> Iterator[Finding]:
    if not target.dla:
        return
    if target.flavour != "tensorrt":
        yield Finding("dla", NOTE, f"what a DLA runs through {target} is not known")
        return
    hint = None if target.gpu_fallback else "add --allow-gpu-fallback, or export without it"
    unlisted = []
    for (domain, op), nodes in used(model).items():
        fact = dla_support(target.version, op) if not domain else None
        if fact is None:
            unlisted.append(op)
        elif fact.how in ("no", "reconstruction"):
            where = "" if fact.sure else ", as far as other releases tell"
            after = " unless it is rewritten" if fact.how == "reconstruction" else ""
            text = f"`{op}` does not run on a DLA{after}{where}: " + (
                "it goes to the GPU" if target.gpu_fallback else "the build fails"
            )
            verdict = NOTE if target.gpu_fallback else RISKY
            yield Finding("dla", verdict, text, nodes, hint, fact.source)
    if unlisted:
        text = f"whether a DLA runs these is not known: {', '.join(unlisted)}"
        yield Finding("dla", NOTE, text)


OPERATOR_RULES: Final[tuple[Callable[[Model, Target], Iterator[Finding]], ...]] = (
    operators,
    domains,
    control_flow,
    names,
    quantization,
    dla,
)
