"""Where things lie on disk, and how they get there: the one module that knows a checkout from an installed
wheel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "cache_folder",
    "catalog_folders",
    "config_folder",
    "images_folder",
    "templates_folder",
    "whole_file",
]


def images_folder() -> Path:
    return _data("images")


def templates_folder() -> Path:
    return _data("templates")


def _data(name: str) -> Path:
    package = Path(__file__).resolve().parent
    packaged = package / "_data" / name
    # The wheel's copy first: beside an installed package, another project may own `images/`.
    return packaged if packaged.is_dir() else package.parent / name


def cache_folder() -> Path:
    """What can be made again: environments, timing caches, the parsed catalogue."""
    if chosen := os.environ.get("TRTENV_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("trtenv")


def config_folder() -> Path:
    if chosen := os.environ.get("TRTENV_CONFIG_DIR"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_config_path("trtenv")


def catalog_folders() -> list[Path]:
    """Folders of the catalogue, least binding first: ours, the user's, the working directory's."""
    ours = images_folder()
    others = (config_folder() / "images", Path("images").absolute())
    # Any project may have a folder of pictures called images; only TOML makes it ours.
    return [
        ours,
        *(folder for folder in others if folder.resolve() != ours and any(folder.glob("*.toml"))),
    ]


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A file to write, beside `target`: it takes its place, and its mode, once the block is done.

    Where the block fails, `target` stays as it was. OSError as the file system gives it.
    """
    part = target.with_name(f".trtenv-{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        yield part
        if target.exists():
            part.chmod(target.stat().st_mode & 0o7777)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
