"""Reads the catalogue from folders of TOML; refuses, by file and key, whatever it does not know.

tomllib is pure Python and takes longer than all the rest of a short command, so the rows of files
that are in order may be kept as JSON (`cache`). The TOML stays the truth: a file whose path, size or
time differs is read again, and a cache that cannot be read or written is no error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trtenv import paths
from trtenv.catalog.model import FLAVOURS, KINDS, Environment, name_key
from trtenv.errors import UnknownEnvironment, UsageError

__all__ = ["Catalog", "default_catalog", "load_catalog"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "kind": KINDS,
    "flavour": FLAVOURS,
    "holds": ("tensorrt", "onnxruntime", "torch", "torchvision", "ultralytics", "yolov5"),
    "arch": ("x86_64", "aarch64"),
    "confidence": ("measured", "stated", "inferred", "doubtful"),
}
TEXT: Final = (
    "name", "kind", "flavour", "tensorrt", "cuda", "cudnn", "torch", "ubuntu", "driver",
    "driver_alternatives", "compute_capabilities", "jetpack", "l4t", "base", "image",
    "not_pullable", "moving_tag", "interpreter", "source", "confidence", "notes",
)  # fmt: skip
LISTS: Final = ("holds", "python", "arch", "requirements", "torch_requirements")
VERSIONS: Final = ("tensorrt", "cuda", "cudnn", "torch", "driver")
KEYS: Final = (*TEXT, *LISTS, "serving", "variables")

# Bump when the parsed form changes, so that an older cache is not read.
CACHE_FORMAT: Final = 2
# A file may change twice within one tick of its file system's clock: it is cached only once it
# is clearly older than the cache itself. Git's index does the same.
SETTLED_NS: Final = 2_000_000_000

Table = dict[str, Any]


class Catalog(Mapping[str, Environment]):
    """Environments by name, in the order that people expect of version numbers.

    Made from their rows (with the file of each) when asked for: most commands need one of them.
    """

    def __init__(
        self, rows: Mapping[str, tuple[Path, Table]], made: Iterable[Environment] = ()
    ) -> None:
        self._rows = rows
        self._made = {env.name: env for env in made}

    def replaced(self, environments: Iterable[Environment]) -> Catalog:
        """With these added, or in place of their namesakes."""
        return Catalog(self._rows, [*self._made.values(), *environments])

    def __len__(self) -> int:
        return len(self._rows.keys() | self._made.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._rows.keys() | self._made.keys(), key=name_key))

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._made

    # A name that a user typed wrong never becomes None: both ways of asking say what was meant.
    def get(self, name: str, _default: object = None) -> Environment:
        return self[name]

    def __getitem__(self, name: str) -> Environment:
        if name in self._made:
            return self._made[name]
        if name in self._rows:
            return self._made.setdefault(name, _environment(*self._rows[name]))
        meant = _similar(name, self)
        raise UnknownEnvironment(
            f"no environment is called `{name}`",
            hint=(f"did you mean {meant}? " if meant else "")
            + "`trtenv env list` shows every environment",
        )


def default_catalog() -> Catalog:
    return load_catalog(paths.catalog_folders(), cache=paths.cache_folder() / "catalog.json")


def load_catalog(folders: Sequence[Path], *, cache: Path | None = None) -> Catalog:
    """Merge folders; an environment of a later folder replaces its namesake whole."""
    files = [sorted(folder.glob("*.toml")) for folder in folders]
    rows = _read_all([file for group in files for file in group], cache)
    merged: dict[str, tuple[Path, Table]] = {}
    for group in files:
        seen: dict[str, tuple[Path, Table]] = {}
        for file in group:
            for name, row in rows[file].items():
                if name in seen:
                    raise _twice(file, name, seen[name][0])
                seen[name] = file, row
        merged |= seen
    return Catalog(merged)


def _rows(file: Path, document: Table) -> dict[str, Table]:
    """The environments of a file by name, with what their family gives them; all of it checked."""
    for key in document:
        if key not in ("family", "environment"):
            raise _unknown_key(f"{file}", key, ("family", "environment"))
    family = document.get("family", {})
    tables = document.get("environment", [])
    if not isinstance(family, dict):
        raise UsageError(f"{file}: `family` must be a table", hint="write it as [family]")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(
            f"{file}: `environment` must be a list of tables", hint="write it as [[environment]]"
        )
    if "name" in family:
        raise UsageError(f"{file}: [family]: `name` belongs to one environment, not to all")
    rows: dict[str, Table] = {}
    for position, table in enumerate(tables, start=1):
        name = table.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(
                f"{file}: environment number {position}: bad or missing name: {name!r}",
                hint="use lower-case letters, digits and . + - and start with a letter or digit",
            )
        if name in rows:
            raise _twice(file, name, file)
        rows[name] = {**family, **table}
        _environment(file, rows[name])
    return rows


def _environment(file: Path, row: Table) -> Environment:
    where = f"{file}: environment `{row['name']}`"
    values: dict[str, Any] = {"origin": str(file)}
    for key, value in row.items():
        reader = READERS.get(key)
        if reader is None:
            raise _unknown_key(where, key, KEYS)
        values[key] = reader(where, key, value)
    if isinstance(values.get("holds"), tuple):
        values["holds"] = frozenset(values["holds"])
    environment = Environment(**values)
    _check_kind(where, environment)
    return environment


def _check_kind(where: str, env: Environment) -> None:
    if env.not_pullable and env.image:
        # Otherwise someone pulls it after all, and gets another image than the one described.
        raise UsageError(
            f"{where}: `image` names what `not_pullable` says cannot be pulled",
            hint="call it `moving_tag`, or remove `not_pullable`",
        )
    needed, given = {
        "image": ("image", env.image or env.not_pullable),
        "wheel": ("requirements", env.requirements),
        "python": ("interpreter", env.interpreter),
    }[env.kind]
    if not given:
        raise UsageError(f"{where}: `{needed}` is missing; kind `{env.kind}` needs it")


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        # 8.5 without quotes is a number, and 8.50 would be the same number.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        raise UsageError(
            f"{where}: `{key}` must be text, not {value!r}",
            hint=f'put it in quotes: {key} = "{value}"' if number else None,
        )
    if key in CHOICES and value not in CHOICES[key]:
        raise _bad_choice(where, key, value)
    if key in VERSIONS and not re.match(r"\d+(\.\d+)*", value):
        raise UsageError(
            f"{where}: `{key}` must start with a version number: `{value}`",
            hint="put words in `notes`",
        )
    return value


def _list(where: str, key: str, value: object) -> tuple[str, ...]:
    items = [value] if key == "python" and isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise UsageError(f"{where}: `{key}` must be a list of texts, not {value!r}")
    for item in items:
        if key in CHOICES and item not in CHOICES[key]:
            raise _bad_choice(where, key, item)
    return tuple(items)


def _flag(where: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where}: `{key}` must be true or false, not {value!r}")
    return value


def _pairs(where: str, key: str, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UsageError(
            f"{where}: `{key}` must be a table of texts, not {value!r}",
            hint=f'write {key} = {{ LD_LIBRARY_PATH = "/opt/tensorrt/lib" }}',
        )
    return tuple(sorted(value.items()))


READERS: Final[Mapping[str, Callable[[str, str, object], object]]] = {
    **dict.fromkeys(TEXT, _text),
    **dict.fromkeys(LISTS, _list),
    "serving": _flag,
    "variables": _pairs,
}


def _read_all(files: Sequence[Path], cache: Path | None) -> dict[Path, dict[str, Table]]:
    """The rows of every file, from the cache where it still holds."""
    kept = _read_cache(cache) if cache else {}
    rows: dict[Path, dict[str, Table]] = {}
    entries: dict[str, list[Any]] = {}
    stale = False
    for file in files:
        stamp = file.stat()
        key = str(file.absolute())
        entry = kept.get(key)
        if entry and entry[:2] == [stamp.st_mtime_ns, stamp.st_size]:
            rows[file] = entry[2]
        else:
            rows[file] = _rows(file, _parse(file))
            stale = True
        entries[key] = [stamp.st_mtime_ns, stamp.st_size, rows[file]]
    if cache and stale:
        _write_cache(cache, entries)
    return rows


def _parse(file: Path) -> Table:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8: {error}") from error


def _read_cache(cache: Path) -> dict[str, list[Any]]:
    try:
        written = cache.stat().st_mtime_ns
        document = json.loads(cache.read_bytes())
        if document["format"] != CACHE_FORMAT:
            return {}
        return {
            path: entry
            for path, entry in document["files"].items()
            if len(entry) == 3 and isinstance(entry[2], dict) and written - entry[0] > SETTLED_NS
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _write_cache(cache: Path, entries: dict[str, list[Any]]) -> None:
    """Whole or not at all: several processes may start at once."""
    import tempfile

    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=cache.name, dir=cache.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump({"format": CACHE_FORMAT, "files": entries}, stream)
            Path(name).replace(cache)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError:
        # Read-only or full: the next start parses again.
        return


def _twice(file: Path, name: str, first: Path) -> UsageError:
    return UsageError(
        f"{file}: the environment `{name}` is defined twice; the first is in {first}",
        hint="rename or remove one of them",
    )


def _unknown_key(where: str, key: str, known: Sequence[str]) -> UsageError:
    meant = _similar(key, known)
    return UsageError(
        f"{where}: unknown key `{key}`",
        hint=f"did you mean {meant}?" if meant else f"known keys: {', '.join(known)}",
    )


def _bad_choice(where: str, key: str, value: str) -> UsageError:
    return UsageError(
        f"{where}: `{key}` cannot be `{value}`", hint=f"use one of: {', '.join(CHOICES[key])}"
    )


def _similar(name: str, known: Iterable[str]) -> str | None:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=3)
    return " or ".join(f"`{item}`" for item in close) or None
