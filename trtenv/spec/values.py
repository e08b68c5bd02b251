"""How the values of options are written: trtexec's own grammar, read into plain values.

Every parser takes the text a user typed and returns what JSON can hold, or raises UsageError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any

from trtenv.errors import UsageError

UNITS = {"": 2**20, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}
TYPES = ("fp32", "fp16", "bf16", "int32", "int64", "int8", "uint8", "fp8", "bool")
LAYOUTS = (
    *("chw", "chw2", "chw4", "hwc8", "chw16", "chw32", "dhwc8", "cdhw32", "hwc"),
    *("dla_linear", "dla_hwc4", "hwc16", "dhwc"),
)
POOLS = ("workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM", "tacticSharedMem")


def choice(*known: str) -> Callable[[str], str]:
    by_lower = {name.lower(): name for name in known}

    def parse(text: str) -> str:
        if text.lower() not in by_lower:
            raise UsageError(f"`{text}` is not known", hint="choose one of " + ", ".join(known))
        return by_lower[text.lower()]

    return parse


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        span = f"{low} to {high}" if high is not None else f"{low} or more"
        text = text.strip()  # of more than int() and float() take away
        if not re.fullmatch(r"-?\d{1,18}", text, flags=re.ASCII):
            raise UsageError(f"`{text}` is no whole number", hint=f"give {span}")
        value = int(text)
        if value < low or (high is not None and value > high):
            raise UsageError(f"{value} is out of range", hint=f"give {span}")
        if value >= 2**31:  # trtexec and the API hold them in 32 bits
            raise UsageError(f"{value} is out of range", hint=f"give {span}")
        return value

    return parse


def number(text: str) -> float:
    value = real(text)
    if value < 0:
        raise UsageError(f"`{text}` is negative", hint="such as 3 or 0.5")
    return value


def real(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e12:
        raise UsageError(f"`{text}` is no number", hint="such as 3, 0.5 or 1e-3")
    return int(value) if value.is_integer() else value


def numbers(text: str) -> list[float]:
    return [real(part) for part in text.split(",")]


def percentiles(text: str) -> list[float]:
    found = numbers(text)
    if any(not 0 <= value <= 100 for value in found):
        raise UsageError(f"`{text}` is no percentile", hint="give 0 to 100, such as 90,95,99")
    return found


def names(text: str) -> list[str]:
    found = [part.strip().strip("'\"") for part in text.split(",")]
    if not all(found):
        raise UsageError(f"`{text}` names nothing", hint="give names joined by commas")
    return list(dict.fromkeys(found))


def parse_size(text: str) -> int:
    """Bytes from `4G`, `512M`, or a bare number of MiB, as trtexec reads it."""
    match = re.fullmatch(
        r"(\d{1,18}(?:\.\d+)?)\s*([BKMG]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE
    )
    if not match:
        raise UsageError(f"`{text}` is no size", hint="write 1024 (MiB), 512M or 4G")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if not 0 < size < 2**63:
        raise UsageError(f"size `{text}` is out of range", hint="write 1024 (MiB), 512M or 4G")
    return size


def pools(text: str) -> dict[str, int]:
    """`workspace:4G,dlaSRAM:1` as trtexec's --memPoolSize; bytes by pool."""
    known = choice(*POOLS)
    return {known(name): parse_size(size) for name, size in pairs(text).items()}


def pairs(text: str) -> dict[str, str]:
    """`name:value,name:value`; a name may hold colons itself."""
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, value = item.rpartition(":")
        name = name.strip().strip("'\"")
        if not colon or not name or not value:
            raise UsageError(f"`{item}` is no pair", hint="write NAME:VALUE,NAME:VALUE")
        if name in found:
            raise UsageError(f"`{name}` is given twice", hint="give it one value")
        found[name] = value.strip()
    if not found:
        raise UsageError(f"`{text}` names nothing", hint="write NAME:VALUE,NAME:VALUE")
    return found


def layer_types(text: str) -> dict[str, str]:
    """`conv1:fp16,*:fp32`; of a layer with several outputs `split:fp16+fp32`."""
    known = choice(*TYPES)
    return {
        name: "+".join(known(part) for part in value.split("+"))
        for name, value in pairs(text).items()
    }


def layer_devices(text: str) -> dict[str, str]:
    known = choice("GPU", "DLA")
    return {name: known(value) for name, value in pairs(text).items()}


def io_formats(text: str) -> list[dict[str, Any]]:
    """One `type:layout[+layout]` for each input or output in order, such as `fp16:chw,fp32:chw`.

    TensorRT 11 writes the layouts alone (`chw`): the type is then whatever the graph has (None).
    """
    found = []
    for item in text.split(","):
        type_, _, layouts = item.strip().rpartition(":")
        known = [choice(*LAYOUTS)(part) for part in layouts.split("+")]
        found.append({"type": choice(*TYPES)(type_) if type_ else None, "layouts": known})
    return found


def switches(*known: str) -> Callable[[str], dict[str, bool]]:
    """trtexec's grammar for sets: `-CUBLAS,+JIT_CONVOLUTIONS`."""
    canonical = choice(*known)

    def parse(text: str) -> dict[str, bool]:
        found = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            if item[0] not in "+-":
                raise UsageError(
                    f"`{item}` switches nothing",
                    hint="write +NAME or -NAME with NAME one of " + ", ".join(known),
                )
            name = canonical(item[1:])
            if name in found:
                raise UsageError(f"`{name}` is switched twice", hint="switch it once")
            found[name] = item[0] == "+"
        if not found:
            raise UsageError(f"`{text}` names nothing", hint="write +NAME or -NAME")
        return found

    return parse


def compute_capabilities(text: str) -> list[str]:
    """`8.6,8.9` or `86,89` or `sm86`; sorted, without repeats."""
    found = set()
    for item in filter(None, (part.strip().lower() for part in text.split(","))):
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", item)
        if not match:
            raise UsageError(
                f"`{item}` is no compute capability", hint="write them as 8.6 or 8.6,8.9"
            )
        found.add((int(match[1]), int(match[2])))
    if not found:
        raise UsageError(f"`{text}` names nothing", hint="write them as 8.6 or 8.6,8.9")
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def at(text: str) -> Path:
    """~ expanded; for ~nobody Path.expanduser raises RuntimeError."""
    return Path(expanduser(text))  # noqa: PTH111


def file(text: str) -> str:
    """An existing file of the host, absolute."""
    path = at(text)
    if not path.is_file():
        raise UsageError(f"file `{text}` does not exist", hint=f"looked up from {Path.cwd()}")
    return str(path.resolve())


def data(text: str) -> str:
    """An existing file or folder of the host, absolute."""
    path = at(text)
    if not path.exists():
        raise UsageError(f"`{text}` does not exist", hint=f"looked up from {Path.cwd()}")
    return str(path.resolve())


def output(text: str) -> str:
    return str(at(text).absolute())


def cache(text: str) -> str:
    return text if text in ("auto", "none") else output(text)


def render_map(value: Mapping[str, Any]) -> str:
    return ",".join(f"{name}:{entry}" for name, entry in value.items())
