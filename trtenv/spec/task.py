"""The task card: what a network's images and outputs mean. It travels from the model to the engine.

In an ONNX file it lies in the metadata under `trtenv.task`, in stamps under `task`; the jobs read it
as it is (jobs/vision).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from trtenv.errors import UsageError

KINDS: Final = ("classification", "detection", "segmentation")
# As users of Ultralytics and of trtexec's neighbours type them.
SHORT: Final = {"classify": KINDS[0], "detect": KINDS[1], "segment": KINDS[2]}
LAYOUTS: Final = (
    *("logits", "probabilities", "yolov5", "yolov8", "end2end", "efficient-nms"),
    "boxes-labels-scores",
)
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "resize": ("stretch", "shorter", "letterbox", "none"),
    "interpolation": ("nearest", "bilinear", "bicubic"),
    "colour": ("rgb", "bgr", "grey"),
    "layout": ("nchw", "nhwc"),
}
MOST_LABELS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """value = (pixel * scale - mean) / std, after the resize and a centred crop. None is the default
    of the task and of the network's input, which only the job sees.

    size: of the resize, (height, width) or the shorter side; crop: (height, width). multiple: height
    and width of the input are multiples of it. pad: grey level around a letterboxed image.
    """

    resize: str | None = None
    size: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str | None = None
    colour: str | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int = 114
    multiple: int = 1
    layout: str | None = None

    @classmethod
    def from_dict(cls, document: object) -> Preprocess:
        """UsageError names the key that is wrong and what it may be."""
        known = _known_keys(document, cls, "preprocess")
        values = {key: value for key, value in known.items() if value is not None}
        for key, words in WORDS.items():
            if key in values and values[key] not in words:
                raise UsageError(
                    f"preprocess.{key}: `{values[key]}` is not known", hint=", ".join(words)
                )
        for key, reader in _READERS.items():
            if key in values:
                values[key] = reader(f"preprocess.{key}", values[key])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCard:
    """layout: how the outputs are to be read; None is told from their shapes."""

    kind: str
    labels: tuple[str, ...] | None = None
    layout: str | None = None
    preprocess: Preprocess = Preprocess()

    @classmethod
    def from_dict(cls, document: object) -> TaskCard:
        """UsageError names the key that is wrong and what it may be."""
        values = _known_keys(document, cls, "task")
        kind = values.get("kind")
        values["kind"] = SHORT.get(kind, kind) if isinstance(kind, str) else kind
        if values["kind"] not in KINDS:
            raise UsageError(f"task `{kind}` is not known", hint="one of " + ", ".join(KINDS))
        if values.get("layout") is not None and values["layout"] not in LAYOUTS:
            raise UsageError(
                f"layout `{values['layout']}` is not known", hint="one of " + ", ".join(LAYOUTS)
            )
        if values.get("labels") is not None:
            values["labels"] = as_labels(values["labels"])
        values["preprocess"] = Preprocess.from_dict(values.get("preprocess") or {})
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def as_labels(document: object) -> tuple[str, ...]:
    """From a list, or from a mapping of every index to its name, as Ultralytics writes names."""
    if isinstance(document, Mapping):
        try:
            by_index = {int(key): name for key, name in document.items()}
        except (TypeError, ValueError) as error:
            raise UsageError(f"labels are by index: {error}") from error
        if sorted(by_index) != list(range(len(by_index))):
            raise UsageError("labels by index have gaps", hint="0, 1, 2 and so on, each once")
        document = [by_index[index] for index in range(len(by_index))]
    if not isinstance(document, (list, tuple)) or not all(
        isinstance(name, str) for name in document
    ):
        raise UsageError("labels are a list of texts, or a mapping from index to text")
    if not 0 < len(document) <= MOST_LABELS:
        raise UsageError(f"{len(document)} labels: at least one, at most {MOST_LABELS:,}")
    return tuple(document)


def read_labels(path: Path) -> tuple[str, ...]:
    """A text file with one label a line, or JSON: a list, or a mapping from index to label."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"labels `{path}` cannot be read: {error}") from error
    if path.suffix.lower() == ".json":
        return as_labels(_json(f"`{path}`", text))
    return as_labels([line.strip() for line in text.rstrip().splitlines()])


def parse_preprocess(text: str) -> dict[str, Any]:
    """A JSON object with keys of `Preprocess`, or the name of a file that holds one."""
    if text.lstrip().startswith("{"):
        document = _json("--preprocess", text)
    else:
        try:
            document = _json(f"`{text}`", Path(text).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"`{text}` cannot be read: {error}") from error
    Preprocess.from_dict(document)
    assert isinstance(document, dict)
    return document


def _json(what: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is no JSON: {error}") from error


def _known_keys(document: object, kind: type, what: str) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise UsageError(f"{what} is `{document}`, and no mapping")
    known = [field.name for field in fields(kind)]
    for key in document:
        if key not in known:
            raise UsageError(f"{what}: `{key}` is not known", hint="one of " + ", ".join(known))
    return dict(document)


def _count(key: str, value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise UsageError(f"{key}: `{value}` is no positive whole number")
    return value


def _sizes(key: str, value: object) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise UsageError(f"{key}: `{value}` is no size", hint="write [HEIGHT, WIDTH]")
    return _count(key, value[0]), _count(key, value[1])


def _size(key: str, value: object) -> int | tuple[int, int]:
    return _sizes(key, value) if isinstance(value, (list, tuple)) else _count(key, value)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{key}: `{value}` is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"{key}: {value} is no finite number")
    return number


def _channels(key: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) not in (1, 3):
        raise UsageError(f"{key}: `{value}`: one number, or one for each channel")
    return tuple(_number(key, entry) for entry in value)


def _deviations(key: str, value: object) -> tuple[float, ...]:
    found = _channels(key, value)
    if 0 in found:
        raise UsageError(f"{key}: nothing can be divided by 0")
    return found


def _grey(key: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise UsageError(f"{key}: `{value}` is no grey level", hint="0 to 255")
    return value


_READERS: Final = {
    "size": _size,
    "crop": _sizes,
    "scale": _number,
    "mean": _channels,
    "std": _deviations,
    "pad": _grey,
    "multiple": _count,
}
