"""Calibration data and caches on the host."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.errors import JobFailed, UsageError
from trtenv.pipeline.calibration import (
    cache_key,
    cache_path,
    keep_cache,
    params,
    read_data,
    settings,
    stage_cache,
    with_data,
)
from trtenv.runners.container import inside, option_binds
from trtenv.runners.protocol import Event, RunOptions, Session


class Folders(Session):
    """A session without a worker: only where its files appear."""

    def inside(self, path: Path) -> str:
        return f"/inside{path}"

    def send(self, line: str) -> None:
        raise NotImplementedError

    def events(self) -> Iterator[Event]:
        raise NotImplementedError

    def cause_of_death(self) -> JobFailed:
        raise NotImplementedError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.png").write_bytes(b"b")
    (folder / "deep" / "a.png").write_bytes(b"a")
    return folder


def test_the_digest_of_a_folder_is_of_its_names_and_contents(images: Path) -> None:
    first = read_data(images).sha256
    (images / ".hidden").write_bytes(b"unseen")
    (images / "deep" / "a.png").touch()
    assert read_data(images).sha256 == first
    moved = images.rename(images.with_name("elsewhere"))
    assert read_data(moved).sha256 == first
    (moved / "b.png").rename(moved / "c.png")
    renamed = read_data(moved).sha256
    (moved / "c.png").write_bytes(b"B")
    assert len({first, renamed, read_data(moved).sha256}) == 3


def test_any_name_that_the_file_system_takes_is_digested(images: Path) -> None:
    before = read_data(images).sha256
    Path(os.fsdecode(os.fsencode(images) + b"/\xff\n.png")).write_bytes(b"x")
    assert read_data(images).sha256 != before


def test_only_regular_files_are_read(images: Path, tmp_path: Path) -> None:
    before = read_data(images).sha256
    os.mkfifo(images / "c.png")
    (images / "d.png").symlink_to(images / "c.png")
    (images / "e.png").symlink_to("/dev/zero")
    assert read_data(images).sha256 == before
    (images / "f.png").symlink_to(images / "b.png")
    assert read_data(images).sha256 != before
    data = read_data(images)
    assert with_data(RunOptions(), data, "docker").mounts


def test_an_array_file_is_itself(tmp_path: Path) -> None:
    for name in ("x.npz", "y.NPY"):
        (tmp_path / name).write_bytes(b"same")
    assert read_data(tmp_path / "x.npz").sha256 == read_data(tmp_path / "y.NPY").sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "does not exist"),
        ("data.csv", "neither a folder nor"),
        ("empty", "holds no files"),
        ("dangling", "cannot be read"),
        ("waiting", "holds no files"),
        ("fifo.npz", "neither a folder nor"),
    ],
)
def test_what_is_no_data_is_said_before_anything_starts(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "data.csv").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "waiting").mkdir()
    os.mkfifo(tmp_path / "waiting" / "a.png")
    os.mkfifo(tmp_path / "fifo.npz")
    with pytest.raises(UsageError, match=message) as caught:
        read_data(tmp_path / name)
    assert "folder of images" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["images", "data.npz"])
def test_a_container_has_the_data_mounted_and_sees_it_there(
    images: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "data.npz").touch()
    data = read_data(tmp_path / name)
    assert with_data(RunOptions(), data, "venv") == RunOptions()
    options = with_data(RunOptions(workdir="/w"), data, "docker")
    binds = option_binds(options.mounts)
    assert [(bind.source, bind.read_only) for bind in binds] == [(tmp_path / name, True)]
    assert inside(data.path, binds) == f"/trtenv/in/0/{name}"
    assert options.workdir == "/w"


def test_links_out_of_the_folder_are_refused_for_a_container(images: Path, tmp_path: Path) -> None:
    (images / "c.png").symlink_to(images / "b.png")
    data = read_data(images)
    assert with_data(RunOptions(), data, "docker").mounts
    (tmp_path / "far.png").touch()
    (images / "d.png").symlink_to(tmp_path / "far.png")
    assert with_data(RunOptions(), data, "venv") == RunOptions()
    with pytest.raises(UsageError, match="leads out of the calibration folder"):
        with_data(RunOptions(), data, "docker")


def test_settings_are_the_users_or_the_defaults() -> None:
    assert settings({}) == {
        "method": "entropy",
        "batch": None,
        "mean": None,
        "std": None,
        "scale": 1 / 255,
    }
    wishes = {"calibration_method": "minmax", "calibration_mean": [0.5], "precision": "int8"}
    assert settings(wishes) == {**settings({}), "method": "minmax", "mean": [0.5]}


KEY: dict[str, Any] = {
    "model": "m",
    "data": "d",
    "flavour": "tensorrt",
    "version": "8.6.1",
    "devices": ["A100 8.0"],
    "settings": {"method": "entropy"},
    "network": {"profiles": []},
}


@given(st.sampled_from(sorted(KEY)))
def test_a_cache_is_of_everything_that_it_depends_on(name: str) -> None:
    value = KEY[name]
    other = {"more": 1} if isinstance(value, dict) else [] if isinstance(value, list) else "other"
    assert cache_key(**KEY) == cache_key(**KEY)
    assert cache_key(**{**KEY, name: other}) != cache_key(**KEY)


def test_a_cache_is_kept_and_given_to_the_next_build(images: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "out", cache_key(**KEY)
    out.mkdir()
    session = Folders(tmp_path / "staging", tmp_path / "log")
    assert stage_cache(key, session) is None
    keep_cache(key, out)
    assert not cache_path(key).exists()
    (out / "calibration.cache").write_bytes(b"TRT-8600")
    keep_cache(key, out)
    given = params(settings({}), read_data(images), key, session)
    assert Path(given["cache"].removeprefix("/inside")).read_bytes() == b"TRT-8600"
    assert given["data"] == f"/inside{images}"
    assert [path.name for path in cache_path(key).parent.iterdir()] == [f"{key}.cache"]
    assert params(settings({}), read_data(images), None, session)["cache"] is None
