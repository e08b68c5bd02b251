"""Ultralytics' prefix of an engine: what its metadata says, and how it is made from what is known.

The layout is a little-endian int32 length, that many bytes of JSON, then the plan
(ultralytics/utils/export/engine.py). Of the metadata, `AutoBackend` needs the keys in NEEDED; it takes
`channels` as 3 where there are none, and `args.dynamic` as false.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

from trtenv.engine.header import MOST_METADATA
from trtenv.engine.metadata import parse_metadata
from trtenv.engine.source import FileSource
from trtenv.errors import ArtifactError, UsageError

NEEDED: Final = ("task", "names", "imgsz", "stride", "batch")
LENGTH_BYTES: Final = 4
# The input that Ultralytics fills, by this name.
INPUT: Final = "images"

_CHUNK: Final = 1 << 20
# In an ONNX file every value is text: these were str() of a number or of a Python literal.
_NUMBERS: Final = frozenset({"stride", "batch", "channels"})
_TEXTS: Final = frozenset(
    {"description", "author", "date", "version", "license", "docs", "task", "head", "dla"}
)
_LITERALS: Final = frozenset({"imgsz", "names", "args", "kpt_shape", "kpt_names", "end2end"})
Metadata = dict[str, Any]


def read_document(raw: bytes) -> Metadata:
    """ArtifactError where the metadata is no JSON object in UTF-8."""
    try:
        return parse_metadata(raw)
    except ValueError as error:
        raise ArtifactError(
            f"the Ultralytics metadata is unusable: {error}", hint="export the model again"
        ) from error


def prefix(text: str) -> bytes:
    """What stands in front of the plan. ArtifactError where no reader would take as much."""
    raw = text.encode("utf-8")
    if not 0 < len(raw) <= MOST_METADATA:
        raise ArtifactError(
            f"the metadata has {len(raw):,} bytes, at most {MOST_METADATA:,} are read",
            hint="shorten the class names",
        )
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def pieces(source: FileSource, offset: int) -> Iterator[bytes]:
    """The file from `offset` on, never more than a mebibyte of it at a time."""
    while offset < source.size:
        piece = source.read_at(offset, min(_CHUNK, source.size - offset))
        offset += len(piece)
        yield piece


def from_onnx(properties: Mapping[str, str]) -> Metadata:
    """What Ultralytics wrote into the ONNX file, in the types that JSON has; nothing else of it.

    Its loaders set an attribute for every key, so a stray one could do harm.
    """
    found: Metadata = {}
    for key, text in properties.items():
        try:
            if key in _NUMBERS:
                found[key] = int(text)
            elif key in _LITERALS:
                found[key] = json.loads(json.dumps(ast.literal_eval(text), allow_nan=False))
            elif key in _TEXTS:
                found[key] = text
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise ArtifactError(
                f"the ONNX file's metadata `{key}` is unusable: `{text[:60]}`",
                hint=f"give the value yourself: --{key}" if key in NEEDED else None,
            ) from error
    return found


def from_stamp(engine: Mapping[str, Any]) -> Metadata:
    """What the stamp's `engine` tells of a network with one image input, channels first.

    Of dynamic shapes the largest of the first profile counts, as where Ultralytics builds.
    """
    inputs = engine.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        return {}
    declared = inputs[0].get("shape") if isinstance(inputs[0], dict) else None
    if not _is_shape(declared):
        return {}
    profiles = engine.get("profiles")
    first = profiles[0] if isinstance(profiles, list) and profiles else {}
    held = first.get(inputs[0].get("name")) if isinstance(first, dict) else None
    largest = held.get("max") if isinstance(held, dict) else None
    shape = largest if _is_shape(largest) else declared
    if min(shape) < 1:
        return {}
    batch, channels, *imgsz = shape
    dynamic = {"batch": batch, "dynamic": min(declared) < 0}
    return {"batch": batch, "channels": channels, "imgsz": imgsz, "args": dynamic}


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == 4 and all(type(dim) is int for dim in value)


def input_names(engine: Mapping[str, Any]) -> list[str]:
    """As the stamp's `engine` lists them; empty where it does not."""
    inputs = engine.get("inputs")
    entries = inputs if isinstance(inputs, list) else []
    return [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]


def read_names(text: str) -> dict[str, str]:
    """Class names: one a line, or JSON, a list or an object from index to name. UsageError if neither."""
    if text.lstrip()[:1] not in ("[", "{"):
        return {str(i): line.strip() for i, line in enumerate(text.strip().splitlines())}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the class names are no JSON: {error}", hint="write one name a line, or a JSON list"
        ) from error
    return as_names(found)


def as_names(value: object) -> dict[str, str]:
    """From index to name, in order. UsageError where indices are missing or names are no text."""
    match value:
        case list():
            found = dict(enumerate(value))
        case dict() if all(isinstance(key, str) and key.isdecimal() for key in value):
            found = {int(key): value[key] for key in value}
        case _:
            raise UsageError("class names are a list, or an object from index to name")
    if sorted(found) != list(range(len(found))) or len(found) != len(value):
        raise UsageError(f"the indices of {len(value)} class names are not 0 to {len(value) - 1}")
    wrong = [name for name in found.values() if not isinstance(name, str) or not name.strip()]
    if wrong or not found:
        raise UsageError(f"`{wrong[0]}` is no class name" if wrong else "there are no class names")
    return {str(i): found[i] for i in range(len(found))}


def checked(metadata: Mapping[str, Any]) -> Metadata:
    """With names by index. UsageError where Ultralytics would not load an engine with these values."""
    if missing := [key for key in NEEDED if key not in metadata]:
        flags = ", ".join(f"--{key}" for key in missing)
        raise UsageError(
            f"not known of this engine: {', '.join(missing)}",
            hint=f"add {flags}; or --onnx FILE, where Ultralytics exported the ONNX file",
        )
    sizes = metadata["imgsz"]
    if not (isinstance(sizes, list) and len(sizes) == 2 and all(map(_is_count, sizes))):
        raise UsageError(f"`{sizes}` is no image size", hint="write --imgsz HEIGHTxWIDTH")
    for key in ("stride", "batch", "channels"):
        if not _is_count(metadata.get(key, 1)):
            raise UsageError(f"--{key}: `{metadata[key]}` is no positive number")
    if not isinstance(metadata["task"], str):
        raise UsageError(f"`{metadata['task']}` is no task", hint="detect, segment or classify")
    return {**metadata, "names": as_names(metadata["names"])}


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def render(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, allow_nan=False)
