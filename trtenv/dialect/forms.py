"""The forms in which the dialect's rows take a value: `@` as it is, `@mib` in MiB, and so on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trtenv.spec.shapes import ShapeRange, render
from trtenv.spec.values import render_map

TOKEN = re.compile(r"@([a-z0-9]*);?")  # a ; ends it where letters follow
UNNAMED = "INPUT"  # a model's only input, where the model was not looked at
Profile = Mapping[str, ShapeRange]


def mib(value: int) -> str:
    """A bare number is MiB to every trtexec; fractions are read too."""
    return f"{value / 2**20:.6f}".rstrip("0").rstrip(".")


def whole_mib(value: int) -> int:
    if value % 2**20:
        raise ValueError(f"this version takes whole MiB, not {mib(value)}")
    return value // 2**20


def dims(which: str) -> Callable[[Sequence[Profile]], str]:
    def form(profiles: Sequence[Profile]) -> str:
        return shapes_of(profiles[0], which)

    return form


def shapes_of(profile: Profile, which: str) -> str:
    for name in profile:
        if "," in name:
            raise ValueError(f"trtexec cannot say the input name `{name}`: it splits at commas")
    return ",".join(
        f"{name or UNNAMED}:{render(getattr(shape, which)) or 'scalar'}"
        for name, shape in profile.items()
    )


def profile_flags(profiles: Sequence[Profile]) -> list[str]:
    flags = []
    for index, profile in enumerate(profiles):
        flags.append(f"--profile={index}")
        flags += [f"--{which}Shapes={shapes_of(profile, which)}" for which in ("min", "opt", "max")]
    return flags


def enum_names(layouts: Sequence[str]) -> list[str]:
    """TensorFormat's members: trtexec's chw is LINEAR."""
    return ["LINEAR" if layout == "chw" else layout.upper() for layout in layouts]


def formats(value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": entry["type"], "layouts": enum_names(entry["layouts"])} for entry in value]


def untyped(value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "type": None} for entry in formats(value)]


def layouts(value: Sequence[Mapping[str, Any]]) -> str:
    return ",".join("+".join(entry["layouts"]) for entry in value)


def typed(value: Sequence[Mapping[str, Any]]) -> str:
    """trtexec's own default type is fp32."""
    return ",".join(f"{entry['type'] or 'fp32'}:{'+'.join(entry['layouts'])}" for entry in value)


def types(value: Sequence[Mapping[str, Any]]) -> list[str | None]:
    found = [entry["type"] for entry in value]
    if "fp8" in found:
        raise ValueError("inputs and outputs of a typed graph are made FP16, BF16 or FP32, not FP8")
    return found


def bare(value: Mapping[str, str]) -> str:
    for name in value:
        if "*" in name and name != "*":
            raise ValueError(f"this trtexec knows * alone, for all other layers, not `{name}`")
    return render_map(value)


def wild(value: Mapping[str, str]) -> str:
    for name in value:
        if name.count("*") > 1:
            raise ValueError(f"trtexec reads one * in a name, not `{name}`")
    return render_map(value)


def whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"this version takes whole numbers, not {value}")
    return int(value)


def single(value: Sequence[float]) -> float:
    if len(value) != 1:
        raise ValueError("this version takes one value, not a list")
    return value[0]


def as_fp32(value: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(value, "fp32")


def tiling(value: int) -> str:
    return ("NONE", "FAST", "MODERATE", "FULL")[value]


FORMS: Mapping[str, Callable[[Any], Any]] = {
    "": lambda value: value,
    "mib": mib,
    "wholemib": whole_mib,
    "min": dims("min"),
    "opt": dims("opt"),
    "max": dims("max"),
    "formats": formats,
    "untyped": untyped,
    "layouts": layouts,
    "typed": typed,
    "types": types,
    "map": render_map,
    "fp32": as_fp32,
    "bare": bare,
    "wild": wild,
    "fp32bare": lambda value: bare(as_fp32(value)),
    "fp32wild": lambda value: wild(as_fp32(value)),
    "to": lambda value: value["to"],
    "sign": lambda value: "+" if value else "-",
    "list": lambda value: ",".join(str(entry) for entry in value),
    "single": single,
    "whole": whole,
    "upper": lambda value: value.upper(),
    "tiling": tiling,
}


def fill_step(step: Mapping[str, Any], key: str | None, value: Any) -> dict[str, Any]:
    return {name: _fill(entry, key, value) for name, entry in step.items()}


def _fill(entry: Any, key: str | None, value: Any) -> Any:
    if entry == "@key":
        return key
    if isinstance(entry, str) and entry.startswith("@"):
        return FORMS[entry[1:]](value)
    return entry


def fill_flags(text: str, key: str | None, value: Any) -> list[str]:
    """One flag, or one for each entry of a list."""
    if text == "@profiles":
        return profile_flags(value)
    if text.endswith("=@") and isinstance(value, list):
        return [text[:-1] + str(entry) for entry in value]

    def form(match: re.Match[str]) -> str:
        return str(key) if match[1] == "key" else str(FORMS[match[1]](value))

    return [TOKEN.sub(form, text)]
