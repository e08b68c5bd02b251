"""What the host keeps of timing caches. The job's side, which reads them, is in test_job_timing.py."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtenv.catalog.model import Environment
from trtenv.engine.stamp import stamp_path
from trtenv.errors import JobFailed, UsageError
from trtenv.pipeline import timing_cache
from trtenv.pipeline.timing_cache import (
    TimingCache,
    check_file,
    keep,
    prune,
    publish,
    record,
    replay,
    stage,
)
from trtenv.runners.protocol import Job, JobResult

KEY = "tensorrt-8.6.0-cuda12-sm89-nvidia-l4-58sms"


class Session:
    """A worker that joins caches by writing one behind the other."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.refused: dict[str, str] = {}
        self.jobs: list[Job] = []

    def inside(self, path: Path) -> str:
        return f"/inside/{path.relative_to(self.staging)}"

    def run(self, job: Job, on_event: Callable[[dict[str, Any]], None]) -> JobResult:
        self.jobs.append(job)
        if self.refused.get("job"):
            raise JobFailed("no builder")
        out = self.staging / "out" / "timing"
        out.mkdir(parents=True)
        paths = [self.staging / Path(name).relative_to("/inside") for name in job.params["read"]]
        (out / job.params["write"]).write_bytes(b"+".join(path.read_bytes() for path in paths))
        return JobResult({"used": [], "refused": self.refused}, out, 0.1)


@pytest.fixture
def session(tmp_path: Path) -> Any:
    (tmp_path / "staging").mkdir()
    return Session(tmp_path / "staging")


@pytest.fixture
def shards() -> Path:
    folder = timing_cache.cache_folder() / "timing"
    folder.mkdir(parents=True)
    return folder


def place(tensorrt: str | None = "8.6.0", cuda: str | None = "12.1") -> Any:
    return SimpleNamespace(environment=Environment(name="x", tensorrt=tensorrt, cuda=cuda))


def put(folder: Path, content: bytes, *, key: str = KEY, age: float = 0) -> Path:
    path = folder / f"{key}.{hashlib.sha256(content).hexdigest()[:32]}.cache"
    path.write_bytes(content)
    os.utime(path, (10**9 - age, 10**9 - age))
    return path


def made(folder: Path, content: bytes) -> Path:
    """The job's out folder, with what it wrote."""
    folder.mkdir(exist_ok=True)
    (folder / "timing.cache").write_bytes(content)
    return folder


def report(*read: Path, changed: bool = True, **dropped: str) -> dict[str, Any]:
    names = [path.name for path in read]
    return {"key": KEY, "read": names, "changed": changed, "dropped": dropped}


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.iterdir())


def test_a_build_sees_the_shards_of_its_tensorrt(session: Any, shards: Path) -> None:
    own = [put(shards, b"1"), put(shards, b"2", key=KEY.replace("l4", "l40"))]
    others = [
        put(shards, b"3", key=KEY.replace("8.6", version)) for version in ("8.60", "8.5", "9")
    ]
    (shards / ".trtenv-1-2.part").touch()
    cache = stage("auto", place(), session)
    assert cache
    folder = session.staging / "jobs" / "timing"
    assert cache.params == {
        "read": sorted(f"/inside/jobs/timing/{path.name}" for path in own),
        "shards": True,
        "key": None,
        "cuda": "12",
        "write": "timing.cache",
    }
    for path in own:
        assert (folder / path.name).read_bytes() == path.read_bytes()
        assert (folder / path.name).stat().st_mtime == path.stat().st_mtime
    unknown = stage("auto", place(tensorrt=None, cuda=None), session)
    assert unknown
    assert len(unknown.params["read"]) == len(own) + len(others)
    assert unknown.params["cuda"] is None


def test_none_is_none_and_the_first_build_finds_nothing(session: Any) -> None:
    assert stage("none", place(), session) is None
    cache = stage("auto", place(), session)
    assert cache
    assert cache.params["read"] == []


def test_where_nothing_can_be_linked_shards_are_copied(
    session: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(shards, b"1")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    stage("auto", place(), session)
    copy = session.staging / "jobs" / "timing" / path.name
    assert copy.read_bytes() == b"1"
    assert copy.stat().st_mtime == path.stat().st_mtime


def test_what_a_build_made_replaces_what_it_read(
    session: Any, shards: Path, tmp_path: Path
) -> None:
    old, other = put(shards, b"a"), put(shards, b"z", key=KEY.replace("l4", "l40"))
    cache = stage("auto", place(), session)
    assert cache
    beside = put(shards, b"b")  # another build's, published meanwhile
    keep(cache, report(old), made(tmp_path / "out", b"a and c"), place(), session)
    assert contents(shards) == [b"a and c", b"b", b"z"]
    assert {beside, other} < set(shards.iterdir())
    assert put(shards, b"a and c").exists()  # under the name that its content gives it
    assert contents(shards) == [b"a and c", b"b", b"z"]


def test_two_builds_that_read_the_same_shard_lose_nothing(shards: Path, tmp_path: Path) -> None:
    old = put(shards, b"a")
    publish(made(tmp_path / "1", b"a, b") / "timing.cache", report(old))
    publish(made(tmp_path / "2", b"a, c") / "timing.cache", report(old))
    assert contents(shards) == [b"a, b", b"a, c"]


def test_a_hit_only_makes_the_shard_young_again(shards: Path, tmp_path: Path) -> None:
    old = put(shards, b"a", age=100)
    publish(made(tmp_path / "1", b"a") / "timing.cache", report(old, changed=False))
    assert contents(shards) == [b"a"]
    assert old.stat().st_mtime > 10**9


def test_a_result_equal_to_what_was_read_is_not_removed(shards: Path, tmp_path: Path) -> None:
    old = put(shards, b"a")
    publish(made(tmp_path / "1", b"a") / "timing.cache", report(old))
    assert contents(shards) == [b"a"]


def test_damaged_shards_go_and_refused_ones_stay(
    session: Any, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, refused = put(shards, b"bad"), put(shards, b"refused")
    cache = stage("auto", place(), session)
    assert cache
    told = report(**{bad.name: "damaged", refused.name: "TensorRT refuses it"})
    keep(cache, told, made(tmp_path / "out", b"new"), place(), session)
    assert contents(shards) == [b"new", b"refused"]
    said = capsys.readouterr().err
    assert f"the timing cache {bad.name} was not used: damaged" in said
    assert f"{refused.name} was not used: TensorRT refuses it" in said


@pytest.mark.parametrize("key", ["../../evil", "", "UPPER", "a/b", ".hidden"])
def test_a_key_that_is_none_reaches_no_folder(
    session: Any, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = stage("auto", place(), session)
    assert cache
    keep(cache, {**report(), "key": key}, made(tmp_path / "out", b"x"), place(), session)
    assert not (timing_cache.cache_folder() / "timing").exists()
    assert "could not be kept" in capsys.readouterr().err or not key


def test_names_that_a_job_makes_up_remove_nothing(shards: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    other = put(shards, b"z", key="tensorrt-9.0-sm89")
    told = report(dropped="x") | {"read": ["../../victim", other.name], "dropped": {}}
    publish(made(tmp_path / "out", b"new") / "timing.cache", told)
    assert victim.exists()
    assert other.exists()


def test_a_cache_folder_that_cannot_be_written_costs_no_engine(
    session: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = stage("auto", place(), session)
    assert cache
    folder = timing_cache.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "timing").touch()
    keep(cache, report(), made(tmp_path / "out", b"x"), place(), session)
    assert "the timing cache could not be kept" in capsys.readouterr().err


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(sizes=st.lists(st.integers(0, 50), max_size=8), most=st.integers(0, 200))
def test_pruning_removes_the_oldest_until_the_rest_fits(
    tmp_path: Path, sizes: list[int], most: int
) -> None:
    for path in tmp_path.glob("*.cache"):
        path.unlink()
    for index, size in enumerate(sizes):
        put(tmp_path, bytes([index]) * size, key=f"tensorrt-{index}", age=index)
    prune(tmp_path, most)
    left = {int(path.name.split(".")[0].split("-")[1]) for path in tmp_path.glob("*.cache")}
    assert left == set(range(len(left)))  # the youngest
    assert sum(sizes[: len(left)]) <= most
    assert len(left) == len(sizes) or sum(sizes[: len(left) + 1]) > most


def test_parts_of_a_killed_process_go_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".trtenv-1-1.part", tmp_path / ".trtenv-2-2.part"
    old.touch()
    young.touch()
    os.utime(old, (10**9, 10**9))
    prune(tmp_path, 10**9)
    assert list(tmp_path.iterdir()) == [young]


def test_many_builds_at_once_leave_whole_shards_only(shards: Path, tmp_path: Path) -> None:
    def builds(number: int) -> None:
        for round_ in range(15):
            content = f"{number} {round_}".encode() * 500
            read = list(shards.glob("*.cache"))
            publish(made(tmp_path / str(number), content) / "timing.cache", report(*read))

    threads = [threading.Thread(target=builds, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = list(shards.iterdir())
    assert left
    for path in left:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f"{KEY}.{digest[:32]}.cache"


def mine(tmp_path: Path, session: Any, content: bytes | None) -> TimingCache:
    file = tmp_path / "mine" / "my.cache"
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o640)
    cache = stage(str(file), place(), session)
    assert cache
    return cache


def test_a_users_file_is_given_as_it_is_and_updated(session: Any, tmp_path: Path) -> None:
    cache = mine(tmp_path, session, b"a")
    assert cache.file
    assert cache.params["read"] == ["/inside/jobs/timing/my.cache"]
    assert cache.params["shards"] is False
    keep(cache, report(changed=False), made(tmp_path / "out", b"x"), place(), session)
    assert cache.file.read_bytes() == b"a"
    keep(cache, report(), made(tmp_path / "out", b"a and b"), place(), session)
    assert cache.file.read_bytes() == b"a and b"
    assert cache.file.stat().st_mode & 0o777 == 0o640
    assert list(cache.file.parent.iterdir()) == [cache.file]
    assert session.jobs == []
    assert not (timing_cache.cache_folder() / "timing").exists()


def test_a_users_new_file_is_made(session: Any, tmp_path: Path) -> None:
    cache = mine(tmp_path, session, None)
    assert cache.file
    assert cache.params["read"] == []
    keep(cache, report(), made(tmp_path / "out", b"a"), place(), session)
    assert cache.file.read_bytes() == b"a"


def test_a_link_stays_a_link_to_the_updated_file(session: Any, tmp_path: Path) -> None:
    target, link = tmp_path / "target.cache", tmp_path / "link.cache"
    link.symlink_to(target)
    cache = stage(str(link), place(), session)
    assert cache
    keep(cache, report(), made(tmp_path / "out", b"a"), place(), session)
    assert link.is_symlink()
    assert target.read_bytes() == b"a"


@pytest.mark.parametrize("before", [b"a", None])
def test_a_users_file_that_changed_meanwhile_is_joined(
    session: Any, tmp_path: Path, before: bytes | None
) -> None:
    cache = mine(tmp_path, session, before)
    assert cache.file
    cache.file.write_bytes(b"theirs")
    keep(cache, report(), made(tmp_path / "out", b"ours"), place(), session)
    assert cache.file.read_bytes() == b"theirs+ours"
    assert session.jobs[0].params["flavour"] == "tensorrt"


@pytest.mark.parametrize("refused", [{"theirs.cache": "TensorRT refuses it"}, {"job": "fails"}])
def test_a_users_file_that_cannot_be_joined_is_left_as_it_is(
    session: Any, tmp_path: Path, refused: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = mine(tmp_path, session, b"a")
    assert cache.file
    session.refused = refused
    cache.file.write_bytes(b"theirs")
    keep(cache, report(), made(tmp_path / "out", b"ours"), place(), session)
    assert cache.file.read_bytes() == b"theirs"
    assert "was changed during the build and is left as it is" in capsys.readouterr().err


def test_a_recorded_cache_is_replayed_and_never_written(session: Any, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    assert replay(output, "k", place(), session) is None
    said = record(made(tmp_path / "out", b"a"), output, "k", replayed=False)
    file = tmp_path / "x.engine.timing"
    assert file.read_bytes() == b"a"
    digest = hashlib.sha256(b"a").hexdigest()
    assert said == {"name": "x.engine.timing", "sha256": digest, "key": "k"}
    again = record(made(tmp_path / "out", b"other"), output, "k", replayed=True)
    assert (again, file.read_bytes()) == (said, b"a")
    cache = replay(output, "k", place(), session)  # the engine and its stamp were removed
    assert cache
    assert (cache.params["frozen"], cache.params["key"]) == (True, None)
    keep(cache, report(), made(tmp_path / "out", b"x"), place(), session)
    assert file.read_bytes() == b"a"


def test_a_recorded_cache_is_replayed_only_for_the_same_request(
    session: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.engine"
    said = record(made(tmp_path / "out", b"a"), output, "k", replayed=False)
    stamp = {"key": "of a trtenv", "build": {"timing_cache": {"key": KEY}, "recorded": said}}
    stamp_path(output).write_text(json.dumps(stamp))
    cache = replay(output, "k", place(), session)
    assert cache
    assert cache.params["key"] == KEY
    assert replay(output, "another model", place(), session) is None
    stamp_path(output).write_text("{")
    assert replay(output, "k", place(), session)
    assert capsys.readouterr().err == ""
    record(made(tmp_path / "out", b"b"), output, "another model", replayed=False)
    assert "recorded anew" in capsys.readouterr().err


def test_a_file_that_could_not_be_written_is_refused_before_the_build(tmp_path: Path) -> None:
    check_file(tmp_path / "new.cache")
    for file in (tmp_path, tmp_path / "missing" / "x.cache"):
        with pytest.raises(UsageError, match="cannot be written"):
            check_file(file)
