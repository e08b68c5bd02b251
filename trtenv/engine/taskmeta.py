"""The task card that a file carries: trtenv's own, or Ultralytics' metadata read as one.

Found in an ONNX file's metadata, where every value is text, in the JSON before an Ultralytics engine,
and in stamps. Strangers write all of these: what is no card is none, and readers check what is one.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from trtenv.errors import UsageError
from trtenv.spec.task import KINDS, SHORT, TaskCard, as_labels

if TYPE_CHECKING:
    from trtenv.engine.inspect import Inspection

KEY: Final = "trtenv.task"
Card = dict[str, Any]


def card_of_metadata(metadata: Mapping[str, Any]) -> Card | None:
    """A card with what is known, for TaskCard.from_dict; None where nothing tells of a task."""
    if KEY in metadata:
        return _card(_json(metadata[KEY]))
    return _of_ultralytics(metadata)


def card_of_inspection(found: Inspection) -> Card | None:
    """Of the stamp that fits the file, or of the file itself; `strip` keeps metadata in the stamp."""
    stamp = found.stamp.document if found.stamp and found.stamp.sha256 == "matches" else None
    if stamp and (card := _card(stamp.get("task"))):
        return card
    kept = stamp.get("wrapper") if stamp else None
    places = [
        found.onnx.metadata if found.onnx else None,
        found.wrapper.metadata if found.wrapper else None,
        _json(kept.get("metadata")) if isinstance(kept, dict) else None,
    ]
    cards = (card_of_metadata(place) for place in places if isinstance(place, dict))
    return next((card for card in cards if card), None)


def merged(card: Mapping[str, Any] | None, wish: Mapping[str, Any]) -> Card:
    """The card with what the user says better; a card for another task is no help.

    UsageError where no task is known, or the whole is no card.
    """
    known = dict(card or {})
    if wish.get("kind", known.get("kind")) != known.get("kind"):
        known = {}
    found = {**known, **wish}
    if "kind" not in found:
        raise UsageError(
            f"the model does not say which task it is for, so {' and '.join(sorted(wish))} mean nothing",
            hint=f"add --task: {', '.join(KINDS)}",
        )
    if pixels := {**(known.get("preprocess") or {}), **(wish.get("preprocess") or {})}:
        found["preprocess"] = pixels
    TaskCard.from_dict(found)
    return found


def _of_ultralytics(metadata: Mapping[str, Any]) -> Card | None:
    """As its exporter writes it (ultralytics/engine/exporter.py); its letterbox and
    classify_transforms are in ultralytics/data/augment.py."""
    task = metadata.get("task")
    kind = SHORT.get(task) if isinstance(task, str) else None
    story = f"{metadata.get('head')} {metadata.get('description')}".lower()
    if kind is None or "rtdetr" in story:  # whose boxes are in no layout known here
        return None
    keys = ("names", "imgsz", "stride", "channels", "end2end", "args")
    told = {key: _literal(metadata[key]) for key in keys if key in metadata}
    card: Card = {"kind": kind}
    with contextlib.suppress(UsageError):
        card["labels"] = list(as_labels(told.get("names")))
    colour = {1: "grey", 3: "rgb"}.get(_count(told.get("channels")) or 3)
    pixels: dict[str, Any] = {"colour": colour} if colour else {}
    imgsz = told.get("imgsz")
    sides = [_count(side) for side in imgsz] if isinstance(imgsz, list | tuple) else []
    size = sides if len(sides) == 2 and all(sides) else None
    if kind == "classification":
        return {**card, "layout": "probabilities", "preprocess": pixels | _cropped(size)}
    pixels |= {"resize": "letterbox", "pad": 114, "multiple": _count(told.get("stride")) or 32}
    if size:
        pixels["size"] = size
    if "end2end" in told:  # without the key, which head it is shows in the outputs
        args = told.get("args")
        last = told["end2end"] or (isinstance(args, dict) and args.get("nms"))
        card["layout"] = "end2end" if last else "yolov8"
    return {**card, "preprocess": pixels}


def _cropped(size: list[int | None] | None) -> dict[str, Any]:
    """Square networks see the middle of the image; for others it is stretched."""
    if not size:
        return {"resize": "shorter"}
    if size[0] != size[1]:
        return {"resize": "stretch", "size": size}
    return {"resize": "shorter", "size": size[0], "crop": size}


def _literal(value: object) -> object:
    """ONNX metadata are str() of Python values: `[640, 640]`, `{0: 'coin'}`, `False`."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return value


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _card(document: object) -> Card | None:
    """What could be a card: TaskCard.from_dict says whether it is one."""
    return document if isinstance(document, dict) and document else None


def _json(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return None
