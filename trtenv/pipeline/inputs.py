"""What a model is run on: the files that a user's --input names, and what they are called in results."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from trtenv.errors import UsageError

# What Pillow reads in every version that environments hold.
IMAGES: Final = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".bmp",
        ".dib",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".tga",
    ]
)
ARRAYS: Final = frozenset((".npy", ".npz"))
RAW: Final = frozenset((".raw", ".bin"))
VIDEOS: Final = frozenset([".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"])
# A part of `--input NAME=FILE`, as trtexec's --loadInputs has it with a colon.
NAMED: Final = re.compile(r"([^=/]+)=(.+)", re.DOTALL)


class Source(NamedTuple):
    """name: relative, unique among the sources; input: which input of the model it fills."""

    path: Path
    name: str
    input: str | None = None

    @property
    def real(self) -> Path:
        """Where links lead; of one that leads nowhere, itself."""
        path = self.path
        return path.resolve() if path.exists() else path.parent.resolve() / path.name


class Sources(NamedTuple):
    """kind: "images", "arrays" (.npy, .npz) or "raw"."""

    kind: str
    files: tuple[Source, ...]

    @property
    def paths(self) -> list[Path]:
        return [source.path for source in self.files]


def find_sources(texts: Sequence[str]) -> Sources:
    """Files, folders (all images below them) and patterns, in natural order: frame 2 before frame 10.

    A file counts once, except where it is told which input it is for. UsageError for what does not
    exist, cannot be looked into, holds nothing, or mixes images with arrays.
    """
    found: dict[tuple[Path, int], Source] = {}
    many = len(texts) > 1
    for number, text in enumerate(texts, 1):
        for source in _named(text, many=many):
            found.setdefault((source.path, number if source.input else 0), source)
    if not found:
        raise UsageError("there are no inputs", hint="name them: --input photos/")
    _refuse_undecodable(source.path for source in found.values())
    kinds = {_kind(source.path): source for source in found.values()}
    if len(kinds) > 1:
        one, other = list(kinds.items())[:2]
        raise UsageError(
            f"`{one[1].path}` is {one[0]}, `{other[1].path}` is {other[0]}",
            hint="run it once for each kind",
        )
    return Sources(next(iter(kinds)), tuple(_unique(found.values())))


def _named(text: str, *, many: bool) -> Iterator[Source]:
    path = Path(text)
    name = None
    if not path.exists() and (match := NAMED.fullmatch(text)):
        name, path = match[1], Path(match[2])
    if path.is_dir():
        yield from _in_folder(path, name, many=many)
        return
    if path.exists():
        paths = [path]
    elif glob.has_magic(str(path)):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  absolute patterns too
        paths = sorted((Path(match) for match in matches), key=natural)
        if not paths:
            raise UsageError(f"no file matches `{path}`", hint="quote the pattern for the shell")
    else:
        raise UsageError(f"`{text}` does not exist", hint=f"files are looked up from {Path.cwd()}")
    for each in paths:
        if each.is_dir():
            yield from _in_folder(each, name, many=True)
        else:
            yield Source(each, each.name, name)


def _in_folder(folder: Path, name: str | None, *, many: bool) -> Iterator[Source]:
    """All images below it; hidden files and folders are not looked at, nor where links to folders lead."""

    def refuse(error: OSError) -> None:
        raise UsageError(
            f"the folder `{error.filename}` cannot be looked into: {error.strerror}",
            hint="make it readable, or name those beside it, each with --input",
        )

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in IMAGES]
    if not found:
        raise UsageError(
            f"the folder `{folder}` holds no images",
            hint="known are files ending in " + " ".join(sorted(IMAGES)),
        )
    base = folder.absolute()
    for path in sorted(found, key=natural):
        below = path.absolute().relative_to(base)
        yield Source(path, str(Path(base.name) / below if many else below), name)


def _refuse_undecodable(paths: Iterable[Path]) -> None:
    """Their bytes would not get through JSON, neither to the job nor into the results."""
    for path in paths:
        readable = os.fsencode(path).decode("utf-8", "replace")
        if readable != str(path):
            raise UsageError(
                f"the name of `{readable}` is not in UTF-8", hint="rename it, and others like it"
            )


def natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    for kind, suffixes in (("images", IMAGES), ("arrays", ARRAYS), ("raw", RAW)):
        if suffix in suffixes:
            return kind
    if suffix in VIDEOS:
        raise UsageError(
            f"`{path}` is a video",
            hint=f"make frames of it first: ffmpeg -i {path} frames/%06d.png",
        )
    raise UsageError(
        f"`{path}` is no input that is known",
        hint="images, .npy, .npz, or raw bytes as .raw or .bin",
    )


def _unique(sources: Sequence[Source] | Any) -> Iterator[Source]:
    """Two of one name keep their folders' names; then a number tells them apart."""
    taken: set[str] = set()
    for source in sources:
        name = source.name
        if name in taken:
            name = str(Path(source.path.absolute().parent.name) / source.path.name)
        count = 1
        while name in taken:
            count += 1
            name = str(Path(source.name).with_stem(f"{Path(source.name).stem}-{count}"))
        taken.add(name)
        yield source._replace(name=name)
