"""Reads JSON that strangers wrote: a wrapper's metadata, a stamp. What comes out is safe to print."""

from __future__ import annotations

import json
import math
from typing import Final

_DEEPEST: Final = 64


def parse_metadata(raw: bytes) -> dict[str, object]:
    """The JSON object in `raw`; ValueError says what is wrong with it."""
    try:
        document = json.loads(raw.decode("utf-8"), parse_float=_finite, parse_constant=str)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    match document:
        case dict():
            return {_printable(key): _plain(value, 1) for key, value in document.items()}
        case _:
            raise ValueError(f"no JSON object but a {type(document).__name__}")


def _finite(text: str) -> float | str:
    """1e999 would become Infinity, which is no JSON: such a number stays text."""
    value = float(text)
    return value if math.isfinite(value) else text


def _plain(value: object, depth: int) -> object:
    # Whatever walks the document later recurses too, with less room than the parser had.
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    match value:
        case dict():
            return {_printable(key): _plain(item, depth + 1) for key, item in value.items()}
        case list():
            return [_plain(item, depth + 1) for item in value]
        case str():
            return _printable(value)
        case _:
            return value


def _printable(text: str) -> str:
    """JSON may spell half a surrogate pair, which no UTF-8 stream accepts."""
    return text.encode("utf-8", "replace").decode()
