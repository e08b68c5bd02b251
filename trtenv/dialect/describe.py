"""What a TensorRT makes of every option of `trtenv build`, in words and without a model.

Reads the rows that dialect.build reads, by the same rule, but leaves the values open: `--workspace
SIZE` is `--memPoolSize=workspace:MIB`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trtenv.dialect import operators
from trtenv.dialect.release import PRODUCTS, Facts, Release, facts
from trtenv.dialect.rows import FIRST, Row, expand, holds, rows, speaks_of
from trtenv.dialect.trtexec import Flag, flags
from trtenv.dialect.versions import parse_version
from trtenv.spec.options import BY_NAME, OPTIONS

# What another option implies (a row's `with` and `unless`), as the user types it.
CONTEXTS = {"typed": "strongly_typed", "refit": "refit"}
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
    "bare": "LAYERS",
    "wild": "LAYERS",
    "fp32bare": "NODE:fp32,...",
    "fp32wild": "NODE:fp32,...",
    "sign": "(+|-)",
    "tiling": "NONE|FAST|MODERATE|FULL",
}
BYTES = ("SIZE", "POOLS")
PROFILES = ("--profile=N", "--minShapes=SHAPES", "--optShapes=SHAPES", "--maxShapes=SHAPES")


class Wish(NamedTuple):
    """An option with one of its choices or parts; `context`: what else is asked for."""

    option: str
    value: str | None = None
    context: str = ""

    @property
    def asked(self) -> str:
        text = _asked(self.option, self.value)
        return f"{text} {BY_NAME[CONTEXTS[self.context]].flag}" if self.context else text

    def to_dict(self) -> dict[str, Any]:
        return {
            "option": self.option,
            "value": self.value,
            "with": CONTEXTS.get(self.context),
            "asked": self.asked,
        }


class Answer(NamedTuple):
    """translated, dropped or refused. api, trtexec: what each says, None where it cannot."""

    outcome: str
    api: tuple[str, ...] | None = None
    trtexec: tuple[str, ...] | None = None
    reason: str | None = None
    instead: str | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._asdict().items()
        }


class Description(NamedTuple):
    """flags: None for TensorRT-RTX, which has no trtexec."""

    release: Release
    facts: Facts
    answers: Mapping[Wish, Answer]
    flags: tuple[Flag, ...] | None
    operators: tuple[str, ...]

    @property
    def deprecated(self) -> tuple[Flag, ...]:
        number = self.release.number
        return tuple(flag for flag in self.flags or () if flag.deprecated_in(number))

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.release.to_dict(),
            **self.facts.to_dict(),
            "precisions": {
                wish.value: entry.outcome
                for wish, entry in self.answers.items()
                if wish.option == "precision" and not wish.context
            },
            "options": [
                {**wish.to_dict(), **entry.to_dict()} for wish, entry in self.answers.items()
            ],
            "trtexec": self.flags
            and {
                "known": [flag._asdict() for flag in self.flags],
                "deprecated": [flag.name for flag in self.deprecated],
            },
            "operators": list(self.operators),
        }


def describe(release: Release) -> Description:
    number = release.number
    names = operators.names("operators", release.flavour)
    return Description(
        release,
        facts(release),
        answers(release.flavour, number),
        tuple(flag for flag in flags().values() if flag.known_to(number))
        if release.flavour == "tensorrt"
        else None,
        tuple(
            name
            for name in names
            if operators.operator_support(release.flavour, release.patch, name).support
            in operators.TAKEN
        ),
    )


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
        return Answer(
            "translated",
            _said(api, "api", wish) if api in saying else None,
            _said(trtexec, "trtexec", wish) if trtexec in saying else None,
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
            row
            for row in same
            if row.get("flavour", "tensorrt") == flavour and "refused" not in row
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


def _said(row: Row, backend: str, wish: Wish) -> tuple[str, ...]:
    """What is done to the graph before, and the words."""
    said = [GRAPH[step["do"]].format(**step) for step in row.get("graph", ())]
    for entry in row[backend]:
        if entry == "@profiles":
            said += PROFILES
        else:
            said.append(_open(entry, wish) if isinstance(entry, str) else _step(entry, wish))
    return tuple(said)


def _step(step: Mapping[str, Any], wish: Wish) -> str:
    filled = {name: _open(str(entry), wish) for name, entry in step.items()}
    text = STEPS[step["do"]].format(**filled)
    least = step.get("min_compute_capability")
    return f"{text} on compute capability {least} and newer" if least else text


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
