"""What a TensorRT makes of every option of `trtenv build`, in words and without a model.

Reads the rows that dialect.build reads, by the same rule, but leaves the values open: `--workspace
SIZE` is `--memPoolSize=workspace:MIB`. `release` decides which version a user means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trtenv.dialect.rows import FIRST, Row, expand, holds, padded, rows, speaks_of
from trtenv.dialect.trtexec import NEWEST
from trtenv.dialect.versions import (
    check_version,
    is_prefix,
    known_releases,
    parse_version,
    split_flavour,
)
from trtenv.errors import UsageError
from trtenv.spec.options import BY_NAME, OPTIONS

PRODUCTS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# What another option implies (a row's `with` and `unless`), as the user types it.
CONTEXTS = {"typed": "strongly_typed", "refit": "refit"}
MEASURED_RTX = (1, 4)  # the first wheels that were asked
# By what a step needs of TensorRT's Python API; what is called is mostly config.set_... of it.
STEPS = {
    "set_flag": "BuilderFlag.{name}",
    "clear_flag": "BuilderFlag.{name} cleared",
    "set": "config.{name} = {value}",
    "set_enum": "config.{name} = {value}",
    "memory_pool": "MemoryPoolType.{name} = {value}",
    "network_flag": "NetworkDefinitionCreationFlag.{name}",
    "parser_flag": "OnnxParserFlag.{name}",
    "tactic_source": "TacticSource.{name}",
    "preview": "PreviewFeature.{name}",
    "layer_precisions": "layer.precision",
    "layer_output_types": "layer.set_output_type",
    "layer_device_types": "config.set_device_type",
    "profiles": "config.add_optimization_profile",
    "io_formats": "tensor.{value}",
    "calibrate": "config.int8_calibrator",
    "load_libraries": "ctypes.CDLL",
    "plugin_registry": "plugin_registry.load_library",
    "export_layer_info": "engine.create_engine_inspector",
    "timing_cache": "config.set_timing_cache",
    "compute_capabilities": "config.set_compute_capability",
}
GRAPH = {
    "cast": "the graph is cast to {to}",
    "keep_fp32": "the cast of the graph leaves NODES alone",
    "input_types": "the graph's inputs get the types",
    "output_types": "the graph's outputs get the types",
    "quantize": "Q/DQ nodes are put into the graph",
}
# Of dialect.forms; those that are not here are the choice or the metavar of the option.
FORMS = {
    "mib": "MIB",
    "wholemib": "MIB",
    "min": "SHAPES",
    "opt": "SHAPES",
    "max": "SHAPES",
    "formats": "dtype, tensor.allowed_formats",
    "untyped": "allowed_formats",
    "layouts": "LAYOUT,...",
    "typed": "TYPE:LAYOUT,...",
    "map": "LAYERS",
    "fp32map": "NODE:fp32,...",
    "sign": "(+|-)",
    "tiling": "NONE|FAST|MODERATE|FULL",
}
BYTES = ("SIZE", "POOLS")
PROFILES = ("--profile=N", "--minShapes=SHAPES", "--optShapes=SHAPES", "--maxShapes=SHAPES")


class Release(NamedTuple):
    """`version` is what was asked for, `patch` what is looked up in tables that know patches."""

    flavour: str
    version: str
    patch: str
    notes: tuple[str, ...] = ()

    @property
    def number(self) -> tuple[int, ...]:
        return padded(self.version)

    @property
    def title(self) -> str:
        return f"{PRODUCTS[self.flavour]} {self.version}"

    @property
    def short(self) -> str:
        return f"rtx-{self.version}" if self.flavour == "tensorrt-rtx" else self.version


class Wish(NamedTuple):
    """An option with one of its choices or parts; `context`: what else is asked for."""

    option: str
    value: str | None = None
    context: str = ""

    @property
    def asked(self) -> str:
        text = _asked(self.option, self.value)
        return f"{text} {BY_NAME[CONTEXTS[self.context]].flag}" if self.context else text


class Answer(NamedTuple):
    """translated, dropped or refused. api and trtexec: None where that back end cannot."""

    outcome: str
    api: tuple[str, ...] | None = None
    trtexec: tuple[str, ...] | None = None
    graph: tuple[str, ...] = ()
    reason: str | None = None
    instead: str | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._asdict().items()
        }


def release(wanted: str) -> Release:
    """UsageError for what is no release, or one that nothing is known of."""
    flavour, text = split_flavour(wanted.strip())
    version = check_version(text, what=PRODUCTS[flavour])
    number, listed = parse_version(version), known_releases(flavour)
    numbers = [parse_version(known) for known in listed]
    minors = ", ".join(dict.fromkeys(".".join(known.split(".")[:2]) for known in listed))
    product = PRODUCTS[flavour]
    if padded(version) < parse_version(FIRST[flavour]) or number[:1] > numbers[-1][:1]:
        rtx = parse_version(known_releases("tensorrt-rtx")[-1])[:1]
        written = flavour == "tensorrt" and number[:1] == rtx
        raise UsageError(
            f"nothing is known of {product} {version}",
            hint=f"TensorRT-RTX is written rtx-{version}" if written else f"known: {minors}",
        )
    if len(number) < 2:
        raise UsageError(f"`{wanted}` names several releases", hint=f"name one of {minors}")
    notes = []
    inside = [known for known in listed if is_prefix(number, parse_version(known))]
    if not inside and not any(is_prefix(known, number) for known in numbers):
        older = [known for known in listed if parse_version(known) < number]
        notes.append(f"no table names {product} {version}: it is taken to be like {older[-1]}")
    if inside and inside[-1] != version:
        notes.append(f"{version} stands for its last patch in the tables, {inside[-1]}")
    if flavour == "tensorrt" and number[:2] > NEWEST:
        newest = ".".join(map(str, NEWEST))
        notes.append(f"trtexec's source is public up to {newest}: its flags are checked against it")
    if flavour == "tensorrt-rtx" and number[:2] < MEASURED_RTX:
        notes.append("what TensorRT-RTX takes was measured with 1.4 and newer, not with this one")
    return Release(flavour, version, inside[-1] if inside else version, tuple(notes))


def wishes() -> Iterator[Wish]:
    """Every option whose meaning depends on the version, with every choice or part of it."""
    names = ["network", "profiles", *(option.name for option in OPTIONS if option.dialect)]
    for name in names:
        values: dict[str | None, None] = {}
        for row in rows(_group(name)).get(name, ()):
            value = row.get("value")
            values |= dict.fromkeys(value if isinstance(value, list) else [value])
        named: list[str | None] = [value for value in values if value is not None]
        yield from (Wish(name, value) for value in named or values)


def answer(wish: Wish, flavour: str, number: tuple[int, ...]) -> Answer:
    """The first row that holds and speaks of a back end decides for it, as in dialect.build."""
    context = frozenset([wish.context] if wish.context else [])
    same = [row for row in rows(_group(wish.option))[wish.option] if speaks_of(row, wish.value)]
    holding = [row for row in same if holds(row, flavour, number, context)]
    api = _deciding(holding, "api")
    trtexec = _deciding(holding, "trtexec")
    saying = [row for row, name in ((api, "api"), (trtexec, "trtexec")) if row and name in row]
    if saying:
        graph = [GRAPH[step["do"]].format(**step) for row in saying for step in row.get("graph", ())]
        return Answer(
            "translated",
            tuple(_step(step, wish) for step in api["api"]) if api in saying else None,
            _flags(trtexec, wish) if trtexec in saying else None,
            tuple(dict.fromkeys(graph)),
            reason=_joined(row.get("note") for row in saying),
            source=_joined(expand(row["source"]) for row in saying),
        )
    for row in (api, trtexec):
        if row is not None:
            outcome = "dropped" if "noop" in row else "refused"
            reason = row["noop" if "noop" in row else "refused"]
            return Answer(
                outcome, reason=reason, instead=row.get("instead"), source=expand(row["source"])
            )
    return Answer("refused", reason="this version has no such thing", instead=_able(same))


def answers(flavour: str, number: tuple[int, ...]) -> Mapping[Wish, Answer]:
    """Also together with --strongly-typed and --refit, where these change the answer."""
    found: dict[Wish, Answer] = {}
    possible = [
        context
        for context, option in CONTEXTS.items()
        if answer(Wish(option), flavour, number).outcome == "translated"
    ]
    for wish in wishes():
        found[wish] = answer(wish, flavour, number)
        for context in possible:
            other = wish._replace(context=context)
            there = answer(other, flavour, number)
            if there != found[wish]:
                found[other] = there
    return found


def _deciding(holding: list[Row], backend: str) -> Row | None:
    return next((row for row in holding if row.keys() & {backend, "refused", "noop"}), None)


def _able(same: list[Row]) -> str | None:
    """The versions that can, as one span for each flavour."""
    spans = []
    for flavour in FIRST:
        able = [
            row for row in same if row.get("flavour", "tensorrt") == flavour and "refused" not in row
        ]
        if able:
            since = min((row.get("since", FIRST[flavour]) for row in able), key=parse_version)
            until = max((row.get("until", "") for row in able), key=_end)
            spans.append(f"{PRODUCTS[flavour]} {since} {f'to before {until}' if until else 'on'}")
    return ", ".join(spans) or None


def _end(until: str) -> tuple[int, ...]:
    return parse_version(until) or (1000,)


def _group(option: str) -> str:
    return BY_NAME[option].group if option in BY_NAME else "network"


def _joined(texts: Any) -> str | None:
    return "; ".join(dict.fromkeys(filter(None, texts))) or None


def _asked(name: str, value: str | None) -> str:
    if name == "network":
        return "(any ONNX model)"
    if name == "profiles":
        return "--shapes SHAPES" if value == "one" else "--shapes SHAPES --shapes SHAPES"
    option = BY_NAME[name]
    if option.off and value == "off":
        return option.flag.replace("--", "--no-", 1)
    if option.parse is None:
        return option.flag
    if name == "calibration":
        return "--calibration DATA" + ("" if value == "auto" else f" --quantization {value}")
    forms = {
        "mem_pool_size": f"{value}:SIZE",
        "tactic_sources": f"(+|-){value}",
        "preview": f"(+|-){value}",
        "timing_cache": "FILE" if value == "file" else value,
    }
    return f"{option.flag} {forms.get(name, value or option.metavar)}"


def _step(step: Mapping[str, Any], wish: Wish) -> str:
    filled = {name: _open(str(entry), wish) for name, entry in step.items()}
    text = STEPS[step["do"]].format(**filled)
    least = step.get("min_compute_capability")
    return f"{text} on compute capability {least} and newer" if least else text


def _flags(row: Row, wish: Wish) -> tuple[str, ...]:
    found: list[str] = []
    for text in row["trtexec"]:
        found += PROFILES if text == "@profiles" else [_open(text, wish)]
    return tuple(found)


def _open(text: str, wish: Wish) -> str:
    """A row's text with words in the place of values."""
    return re.sub(r"@([a-z0-9]*);?", lambda match: _word(match[1], wish), text)


def _word(form: str, wish: Wish) -> str:
    option = BY_NAME.get(wish.option)
    if form in FORMS:
        return FORMS[form]
    if form == "key":
        return str(wish.value)
    if option and option.metavar in BYTES:
        return "BYTES"
    chosen = wish.value if wish.value not in (None, "file") else option and option.metavar
    return str(chosen).upper() if form == "upper" else str(chosen)
