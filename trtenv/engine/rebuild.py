"""The command that builds an engine anew for another place, from the request in its stamp."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from trtenv.dialect.rows import holds, padded, rows, speaks_of
from trtenv.dialect.versions import RTX_PREFIX, buildable, parse_version
from trtenv.errors import UsageError
from trtenv.spec import values
from trtenv.spec.options import BY_NAME, Option
from trtenv.spec.shapes import ShapeRange, parse_shapes

if TYPE_CHECKING:
    from trtenv.engine.compat import Place

_PATHS: Final = (values.file, values.data, values.output, values.cache)
# Options that the new place may rule out; their rows are in dialect/data/build/compatibility.toml.
_ABOUT_PLACES: Final = (
    *(
        "version_compatible",
        "exclude_lean_runtime",
        "hardware_compatible",
        "runtime_platform",
        "sm",
    ),
)


def at(document: object, *path: str) -> Any:
    """A value inside a stamp, which anyone may have written; None where it is not there."""
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def rebuild(
    stamp: Mapping[str, Any],
    flavour: str,
    version: str,
    targets: tuple[str, ...] | None,
    place: Place,
) -> str | None:
    """To be run in that place, beside the ONNX file.

    None where the stamp has not the whole request, or where this product builds nothing for that GPU.
    """
    onnx, wishes = at(stamp, "source", "onnx", "name"), at(stamp, "build", "wishes")
    if not isinstance(onnx, str) or not onnx.endswith(".onnx") or not isinstance(wishes, dict):
        return None
    flavour = place.flavour or flavour
    wanted = parse_version(place.tensorrt or version)
    if not wanted:
        return None
    kept = {
        name: value
        for name, value in wishes.items()
        if name not in _ABOUT_PLACES or _possible(name, value, flavour, wanted, place)
    }
    there = place.compute_capability
    able = buildable(flavour, ".".join(map(str, wanted)))
    if there and able and there not in able:
        return None
    try:
        if flavour == "tensorrt-rtx" and there and there not in (targets or ()):
            kept["sm"] = sorted({there, *kept.get("sm", ())}, key=parse_version)
        words = [*_shapes(at(stamp, "engine", "profiles")), *_flags(kept)]
    except (AttributeError, KeyError, TypeError, ValueError, UsageError):
        return None  # written by a later trtenv, or by hand
    if environment := place.environment or place.builder:
        where = ["--env", environment]
    else:
        dotted = ".".join(map(str, wanted[:3]))
        where = ["--trt", (RTX_PREFIX if flavour == "tensorrt-rtx" else "") + dotted]
    name = f"./{onnx}" if onnx.startswith("-") else onnx
    return shlex.join(["trtenv", "build", name, *words, *where])


def _possible(name: str, value: Any, flavour: str, version: tuple[int, ...], place: Place) -> bool:
    """Whether that TensorRT does it, on that GPU: hardware-compatible builds want one that they are for."""
    there = parse_version(place.compute_capability or "")
    if name == "hardware_compatible" and (
        place.jetson or (value == "ampere+" and () < there < (8, 0))
    ):
        return False
    key = value if isinstance(value, str) else None
    number = padded(".".join(map(str, version)))
    listed = rows("compatibility")[name]
    row = next(
        (r for r in listed if speaks_of(r, key) and holds(r, flavour, number, frozenset())), None
    )
    return row is not None and "refused" not in row


def _shapes(profiles: Any) -> Iterator[str]:
    """One --shapes for each profile; ValueError for what --shapes cannot say."""
    for profile in profiles or ():
        ranges = {
            name: ShapeRange(*(tuple(entry[key]) for key in ("min", "opt", "max")))
            for name, entry in profile.items()
        }
        if not ranges:
            continue
        said = ",".join(
            f"{name}:{shape if shape.opt else 'scalar'}" for name, shape in ranges.items()
        )
        if parse_shapes(said) != ranges:
            raise ValueError(said)
        yield f"--shapes={said}"


def _flags(wishes: Mapping[str, Any]) -> Iterator[str]:
    """ValueError for a value that its option would not read back."""
    for name, value in wishes.items():
        option = BY_NAME[name]
        if option.parse is None:
            if not isinstance(value, bool):
                raise ValueError(name)
            if value or option.off:
                yield option.flag if value else f"--no-{option.flag[2:]}"
            continue
        for text in _texts(option, value):
            # Values may start with a dash: --tactic-sources=-CUBLAS.
            yield f"{option.flag}={text}"


def _texts(option: Option, value: Any) -> list[str]:
    texts = [_text(option, item) for item in value] if option.many else [_text(option, value)]
    if option.parse in _PATHS:  # their names alone are in a stamp
        return texts
    if option.read(texts if option.many else texts[0]) != value:
        raise ValueError(option.name)
    return texts


def _text(option: Option, value: Any) -> str:
    """The words that `option` reads as this value."""
    match value:
        case bool():
            raise ValueError(option.name)
        case int() if option.parse is values.parse_size:
            return f"{value}B"
        case dict() if option.parse is values.pools:
            return values.render_map({name: f"{size}B" for name, size in value.items()})
        case dict() if all(isinstance(on, bool) for on in value.values()):
            return ",".join(f"{'+' if on else '-'}{name}" for name, on in value.items())
        case dict():
            return values.render_map(value)
        case list() if option.parse is values.io_formats:
            layouts = ("+".join(entry["layouts"]) for entry in value)
            types = (f"{entry['type']}:" if entry["type"] else "" for entry in value)
            return ",".join(map("".join, zip(types, layouts, strict=True)))
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)
