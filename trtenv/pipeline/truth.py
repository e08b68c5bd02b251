"""What is known of labelled images: files, folders and tables to a truth for each image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from trtenv.errors import UsageError
from trtenv.pipeline.inputs import Source
from trtenv.spec.task import TaskCard

__all__ = ["Truth", "find_truth"]

HEADERS: Final = frozenset(("file", "filename", "file_name", "image", "path", "name"))
FORMS: Final = {
    "classification": "a CSV file `file,label`, or a folder with one folder for each class",
    "detection": "a COCO file .json, or a folder of YOLO's .txt files",
    "segmentation": "a folder of PNG masks whose pixels are indices of classes",
}


class Truth(NamedTuple):
    """by_name: an image's truth by the source's name: an index, or a file; None counts nowhere.

    format: "indices", "coco" (its file is `path`), "yolo" or "masks".
    """

    kind: str
    format: str
    by_name: Mapping[str, int | Path | str | None]
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """What the job reads."""
        found = [entry for entry in self.by_name.values() if isinstance(entry, Path)]
        return found if self.path is None else [*found, self.path]


def find_truth(path: Path, card: TaskCard, sources: Sequence[Source]) -> Truth:
    """UsageError where the labels are not there, or are of none of the images."""
    if not path.exists():
        raise UsageError(f"the labels `{path}` do not exist", hint=FORMS[card.kind])
    suffix, notes = path.suffix.lower(), tuple[str, ...]()
    match card.kind:
        case "classification" if path.is_dir():
            found, notes = _by_folder(path, card, sources)
        case "classification" if suffix == ".csv":
            found = _by_table(path, card, sources)
        case "detection" if suffix == ".json":
            return Truth(card.kind, "coco", {}, path)  # its names are matched where it is read
        case "detection" if path.is_dir():
            return _beside(path, card.kind, "yolo", ".txt", sources)
        case "segmentation" if path.is_dir():
            return _beside(path, card.kind, "masks", ".png", sources)
        case _:
            raise UsageError(f"`{path}` holds no labels for {card.kind}", hint=FORMS[card.kind])
    if not any(truth is not None for truth in found.values()):
        raise UsageError(f"`{path}` has a label for none of the {len(sources)} images")
    return Truth(card.kind, "indices", found, notes=(*notes, *_left_out(found)))


def _left_out(found: Mapping[str, object]) -> tuple[str, ...]:
    missing = [name for name, truth in found.items() if truth is None]
    if not missing:
        return ()
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return (f"{len(missing)} of {len(found)} images have no label and do not count: {shown}",)


def _by_folder(
    folder: Path, card: TaskCard, sources: Sequence[Source]
) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """The class is the folder's name: a label, an index; else folders count in alphabetical order."""
    root, notes = folder.resolve(), tuple[str, ...]()
    classes = {}
    for source in sources:
        own = source.path.resolve()
        inside = own.relative_to(root).parts if own.is_relative_to(root) else ()
        classes[source.name] = inside[0] if len(inside) > 1 else None
    names = sorted({name for name in classes.values() if name is not None})
    try:
        indices = {name: _index(name, card) for name in names}
    except UsageError:
        if card.labels is not None:
            raise
        indices = {name: number for number, name in enumerate(names)}
        notes = ("the model names no classes: folders count in alphabetical order, from 0",)
    return {name: None if own is None else indices[own] for name, own in classes.items()}, notes


def _index(text: str, card: TaskCard) -> int:
    if card.labels and text in card.labels:
        return card.labels.index(text)
    if text.isdecimal() and (not card.labels or int(text) < len(card.labels)):
        return int(text)
    known = f"the model's {len(card.labels)} labels" if card.labels else "an index"
    raise UsageError(
        f"the label `{text}` is none of {known}",
        hint="write indices, or name the classes in the model's order: --names FILE",
    )


def _by_table(path: Path, card: TaskCard, sources: Sequence[Source]) -> dict[str, int | None]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the labels `{path}` cannot be read: {error}") from error
    if rows and rows[0][1][0].lower() in HEADERS:
        del rows[0]
    known: dict[str, int] = {}
    for line, row in rows:
        if len(row) < 2:
            raise UsageError(
                f"`{path}`: line {line} has no label: {','.join(row)}", hint=FORMS[card.kind]
            )
        index = _index(row[1], card)
        if known.setdefault(row[0], index) != index:
            raise UsageError(
                f"`{path}`: line {line} gives `{row[0]}` another label than one before"
            )
    found = {source.name: _looked_up(source, known) for source in sources}
    _distinct({name: key for name, key in found.items() if key is not None}, path)
    return {name: None if key is None else known[key] for name, key in found.items()}


def _looked_up(source: Source, known: Mapping[str, int]) -> str | None:
    """By its path as given, by its name, or by the file's name alone."""
    keys: Iterable[str] = (str(source.path), source.name, source.path.name)
    return next((key for key in keys if key in known), None)


def _distinct(found: Mapping[str, Path | str], path: Path) -> None:
    """UsageError where one entry of the labels was found for two images, by the file's name alone."""
    taken: dict[Path | str, str] = {}
    for name, key in found.items():
        other = taken.setdefault(key, name)
        if Path(other).with_suffix("") != Path(name).with_suffix(""):
            shown = key.name if isinstance(key, Path) else key
            raise UsageError(
                f"`{shown}` in `{path}` could be of `{other}` or of `{name}`",
                hint="name images in the labels by their paths below the folder of images",
            )


def _beside(folder: Path, kind: str, form: str, suffix: str, sources: Sequence[Source]) -> Truth:
    """One file for each image, below the folder as the image is below its own, or by name alone."""
    found: dict[str, Path | str | None] = {}
    for source in sources:
        names = (Path(source.name).with_suffix(suffix), Path(source.path.name).with_suffix(suffix))
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        found[source.name] = file.resolve() if file else None
    _distinct({name: file for name, file in found.items() if file}, folder)
    count = sum(file is not None for file in found.values())
    if not count:
        raise UsageError(
            f"`{folder}` has no {suffix} file for any of the {len(sources)} images",
            hint=f"{FORMS[kind]}, with the names of the images",
        )
    if form == "masks":
        return Truth(kind, form, found, notes=_left_out(found))
    # YOLO writes no file for an image without objects.
    empty = len(found) - count
    told = (f"{empty} of {len(found)} images have no {suffix} file: nothing is in them",)
    whole = {name: "" if file is None else file for name, file in found.items()}
    return Truth(kind, form, whole, notes=told if empty else ())
