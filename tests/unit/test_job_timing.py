"""The build job's timing cache, with stand-ins for TensorRT's classes.

The real ones come from a builder, and a builder starts only on a GPU: tests/gpu has those. The stand-ins
keep what NvInfer.h says: a cache is bound to a TensorRT version always, to one GPU's UUID unless a
mismatch is ignored; combining keeps what was there. One that is refused comes as a null pointer, or as
an empty cache with a warning, as TensorRT-RTX 1.7 does it on a CPU.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

JOBS = Path(__file__).parents[2] / "trtenv" / "jobs"
sys.path.insert(0, str(JOBS))

import timing
from worker import JobError, JobIO

GPU = {"name": "NVIDIA L4", "compute_capability": "8.9", "sm_count": 58}
KEY = "tensorrt-8.6.0-cuda12-sm89-nvidia-l4-58sms"
FILE_KEY = KEY + "-0badcafe"
TRT = SimpleNamespace(__version__="8.6.0")


class NativeCache:
    def __init__(self, version: str, uuid: str, times: dict[str, float]) -> None:
        self.version, self.uuid, self.times = version, uuid, times

    def serialize(self) -> bytes:
        return json.dumps([self.version, self.uuid, self.times], sort_keys=True).encode()

    def combine(self, other: "NativeCache", ignore_mismatch: bool) -> bool:
        if not self.takes(other, ignore_mismatch):
            return False
        self.times = {**other.times, **self.times}
        return True

    def takes(self, other: "NativeCache", ignore_mismatch: bool) -> bool:
        return other.version == self.version and (ignore_mismatch or other.uuid == self.uuid)


class Config:
    """A builder's configuration on the GPU `uuid`; `build` times each layer that is not in the cache."""

    def __init__(self, version: str = "8.6.0", uuid: str = "GPU-0") -> None:
        self.own = NativeCache(version, uuid, {})
        self.cache = self.own

    def create_timing_cache(self, blob: bytes) -> NativeCache | None:
        try:
            found = NativeCache(*json.loads(blob))
        except (ValueError, TypeError):
            return NativeCache(self.own.version, self.own.uuid, {})
        return found if found.version == self.own.version else None

    def set_timing_cache(self, cache: NativeCache, ignore_mismatch: bool) -> bool:
        if not self.own.takes(cache, ignore_mismatch):
            return False
        self.cache = cache
        return True

    def build(self, *layers: str) -> int:
        new = [layer for layer in layers if layer not in self.cache.times]
        self.cache.times.update(dict.fromkeys(new, 0.5))
        return len(new)


class Channel:
    def __init__(self) -> None:
        self.said: list[str] = []

    def send(self, event: dict[str, Any]) -> None:
        self.said.append(event.get("text") or event["phase"])


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def io(tmp_path: Path, channel: Channel) -> JobIO:
    out = tmp_path / "out"
    out.mkdir()
    return JobIO("1-build", str(out), channel)


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.probe, "devices", lambda: [GPU])
    monkeypatch.setattr(timing, "gpu_uuid", lambda: "0badcafe")


def shard(folder: Path, *layers: str, key: str = KEY, uuid: str = "GPU-0", age: int = 0) -> str:
    blob = NativeCache("8.6.0", uuid, dict.fromkeys(layers, 0.5)).serialize()
    path = folder / f"{key}.{hashlib.sha256(blob).hexdigest()[:32]}.cache"
    path.write_bytes(blob)
    os.utime(path, (10**9 - age, 10**9 - age))
    return str(path)


def spec(*read: str, **more: object) -> dict[str, object]:
    base = {"read": list(read), "shards": True, "key": None, "cuda": "12", "write": "timing.cache"}
    return {**base, **more}


def names(*paths: str) -> list[str]:
    return [Path(path).name for path in paths]


def test_no_cache_wanted_is_no_cache(io: JobIO) -> None:
    assert timing.load(TRT, Config(), None, io) is None
    assert timing.save(None, io) is None
    assert timing.prepare_file("tensorrt", None, io) is None
    assert timing.finish_file(None) is None
    assert list(Path(io.out).iterdir()) == []


def test_the_first_build_misses_and_the_second_hits(tmp_path: Path, io: JobIO) -> None:
    config = Config()
    first = timing.load(TRT, config, spec(), io)
    assert config.build("conv", "pool") == 2
    report = timing.save(first, io)
    assert (report["result"], report["key"], report["changed"]) == ("miss", KEY, True)
    assert (report["read"], report["bytes_before"]) == ([], 0)
    blob = Path(io.path("timing.cache")).read_bytes()
    assert report["bytes_after"] == len(blob)
    kept = tmp_path / f"{KEY}.{hashlib.sha256(blob).hexdigest()[:32]}.cache"
    kept.write_bytes(blob)

    config = Config(uuid="GPU-1")  # another of the same model
    second = timing.load(TRT, config, spec(str(kept)), io)
    assert config.build("conv", "pool") == 0
    report = timing.save(second, io)
    assert (report["result"], report["changed"], report["read"]) == ("hit", False, [kept.name])

    config = Config()
    third = timing.load(TRT, config, spec(str(kept)), io)
    assert config.build("conv", "softmax") == 1
    assert timing.save(third, io)["result"] == "partly"


def test_shards_are_joined_and_a_hit_on_several_is_worth_keeping(tmp_path: Path, io: JobIO) -> None:
    newer, older = shard(tmp_path, "a", uuid="GPU-1"), shard(tmp_path, "b", age=5)
    config = Config()
    cache = timing.load(TRT, config, spec(newer, older), io)
    assert config.build("a", "b") == 0
    report = timing.save(cache, io)
    assert (report["result"], report["changed"]) == ("hit", True)
    assert report["read"] == names(older, newer)
    assert set(json.loads(Path(io.path("timing.cache")).read_bytes())[2]) == {"a", "b"}


@pytest.mark.parametrize(
    "key",
    [
        KEY.replace("8.6.0", "8.6.1"),
        KEY.replace("8.6.0", "8.6.0.1"),
        KEY.replace("cuda12", "cuda11"),
        KEY.replace("sm89", "sm90"),
        KEY.replace("l4", "l40"),
        KEY.replace("58sms", "29sms"),
    ],
)
def test_what_was_measured_elsewhere_is_not_read(tmp_path: Path, io: JobIO, key: str) -> None:
    config = Config()
    cache = timing.load(TRT, config, spec(shard(tmp_path, "a", key=key)), io)
    assert config.build("a") == 1
    report = timing.save(cache, io)
    assert (report["result"], report["read"], report["dropped"]) == ("miss", [], {})


def test_a_damaged_shard_is_told_and_left_out(tmp_path: Path, io: JobIO) -> None:
    good, bad = shard(tmp_path, "a"), shard(tmp_path, "b", "c")
    Path(bad).write_bytes(Path(bad).read_bytes()[:-5])
    config = Config()
    cache = timing.load(TRT, config, spec(good, bad), io)
    assert config.build("a", "b") == 1
    report = timing.save(cache, io)
    assert report["dropped"] == dict.fromkeys(names(bad), "damaged")
    assert report["read"] == names(good)


def test_a_shard_that_tensorrt_refuses_costs_no_build(tmp_path: Path, io: JobIO) -> None:
    blob = b"whole, and no cache"
    refused = tmp_path / f"{KEY}.{hashlib.sha256(blob).hexdigest()[:32]}.cache"
    refused.write_bytes(blob)
    good = shard(tmp_path, "a")
    config = Config()
    cache = timing.load(TRT, config, spec(str(refused), good), io)
    assert config.build("a") == 0
    report = timing.save(cache, io)
    assert report["dropped"] == {refused.name: "TensorRT refuses it"}


def test_a_cache_that_cannot_be_attached_is_replaced_by_an_empty_one(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, config = shard(tmp_path, "a"), Config()
    attach = config.set_timing_cache
    monkeypatch.setattr(
        config, "set_timing_cache", lambda cache, ignore: not cache.times and attach(cache, ignore)
    )
    cache = timing.load(TRT, config, spec(good), io)
    assert config.build("a") == 1
    report = timing.save(cache, io)
    assert (report["result"], report["read"]) == ("miss", [])
    assert report["dropped"] == dict.fromkeys(names(good), "TensorRT refuses it")


def test_without_a_gpu_that_tells_its_name_nothing_is_read_nor_kept(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing.probe, "devices", list)
    cache = timing.load(TRT, Config(), spec(shard(tmp_path, "a")), io)
    report = timing.save(cache, io)
    assert (report["key"], report["read"]) == (None, [])


def test_a_users_own_file_may_be_new_empty_or_of_an_equal_gpu(
    tmp_path: Path, io: JobIO, channel: Channel
) -> None:
    empty = tmp_path / "empty.cache"
    empty.touch()
    for read in ([], [str(empty)]):
        config = Config()
        cache = timing.load(TRT, config, spec(*read, shards=False), io)
        assert config.build("a") == 1
        assert timing.save(cache, io)["result"] == "miss"
    mine = tmp_path / "my.cache"
    mine.write_bytes(NativeCache("8.6.0", "GPU-7", {"a": 0.5}).serialize())
    config = Config()
    cache = timing.load(TRT, config, spec(str(mine), shards=False), io)
    assert channel.said == ["the timing cache my.cache was made on another GPU"]
    assert config.build("a") == 0
    assert timing.save(cache, io)["result"] == "hit"


@pytest.mark.parametrize(
    "blob", [b"?", b"no cache" * 99, NativeCache("8.5.3.1", "GPU-0", {"a": 1.0}).serialize()]
)
def test_a_users_own_file_that_is_no_cache_of_this_tensorrt_is_an_error(
    tmp_path: Path, io: JobIO, blob: bytes
) -> None:
    mine = tmp_path / "my.cache"
    mine.write_bytes(blob)
    with pytest.raises(JobError, match=r"`my\.cache` is no timing cache of TensorRT 8\.6\.0"):
        timing.load(TRT, Config(), spec(str(mine), shards=False), io)
    assert mine.read_bytes() == blob


def test_a_frozen_cache_must_cover_the_build_and_be_of_this_gpu(tmp_path: Path, io: JobIO) -> None:
    mine = tmp_path / "x.engine.timing"
    mine.write_bytes(NativeCache("8.6.0", "GPU-0", {"a": 0.5}).serialize())
    frozen = spec(str(mine), shards=False, frozen=True, key=KEY)
    config = Config()
    cache = timing.load(TRT, config, frozen, io)
    config.build("a")
    assert timing.save(cache, io)["result"] == "hit"
    config = Config()
    cache = timing.load(TRT, config, frozen, io)
    config.build("a", "b")
    with pytest.raises(JobError, match="does not cover this build"):
        timing.save(cache, io)
    with pytest.raises(JobError, match="the recorded timing cache is of tensorrt-9"):
        timing.load(TRT, Config(), {**frozen, "key": "tensorrt-9.0"}, io)


def modules(monkeypatch: pytest.MonkeyPatch, bindings: str | None, library: str | None) -> None:
    found = {"tensorrt": bindings, "tensorrt-rtx": None}
    if bindings is None:
        found["libnvinfer"] = library
    monkeypatch.setattr(timing.probe, "tensorrt_modules", lambda: found)


def trtexec(path: str, *layers: str) -> None:
    """Reads the file if it is there and updates it, as `trtexec --timingCacheFile` does."""
    file = Path(path)
    blob = file.read_bytes() if file.exists() else b""
    cache = Config().create_timing_cache(blob)
    assert cache is not None
    cache.times.update(dict.fromkeys(layers, 0.5))
    file.write_bytes(cache.serialize())


def test_trtexec_gets_a_file_and_what_it_wrote_is_judged(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules(monkeypatch, "8.6.0", None)
    first = timing.prepare_file("tensorrt", spec(), io)
    assert first.path == io.path("timing.cache")
    trtexec(first.path, "a")
    report = timing.finish_file(first)
    assert (report["result"], report["key"], report["changed"]) == ("miss", FILE_KEY, True)
    again = timing.prepare_file("tensorrt", spec(shard(tmp_path, "a", key=FILE_KEY)), io)
    trtexec(again.path, "a")
    report = timing.finish_file(again)
    assert (report["result"], report["changed"]) == ("hit", False)
    more = timing.prepare_file("tensorrt", spec(shard(tmp_path, "a", key=FILE_KEY)), io)
    trtexec(more.path, "a", "b")
    assert timing.finish_file(more)["result"] == "partly"


def test_trtexec_without_bindings_gets_the_newest_shard(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules(monkeypatch, None, "8.6.0")
    newer = shard(tmp_path, "new", key=FILE_KEY)
    older = shard(tmp_path, "old", key=FILE_KEY, age=60)
    cache = timing.prepare_file("tensorrt", spec(newer, older), io)
    assert Path(cache.path).read_bytes() == Path(newer).read_bytes()
    assert cache.used == names(newer)
    modules(monkeypatch, None, None)
    assert timing.prepare_file("tensorrt", spec(newer), io).key is None


def stand_in_build(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = SimpleNamespace(create_builder_config=Config)
    functions = SimpleNamespace(
        load_tensorrt=lambda flavour: TRT,
        make_logger=lambda trt: None,
        make_builder=lambda trt, logger: builder,
    )
    monkeypatch.setitem(sys.modules, "build", functions)


def test_trtexec_gets_all_shards_in_one_where_the_bindings_are(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules(monkeypatch, "8.6.0", None)
    stand_in_build(monkeypatch)
    read = [shard(tmp_path, "a", key=FILE_KEY), shard(tmp_path, "b", key=FILE_KEY, age=1)]
    cache = timing.prepare_file("tensorrt", spec(*read), io)
    assert set(json.loads(Path(cache.path).read_bytes())[2]) == {"a", "b"}
    trtexec(cache.path, "a", "b")
    report = timing.finish_file(cache)
    assert (report["result"], report["changed"]) == ("hit", True)


def test_trtexec_gets_a_users_file_only_under_this_gpus_name(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules(monkeypatch, "8.6.0", None)
    stand_in_build(monkeypatch)
    mine = tmp_path / "my.cache"
    mine.write_bytes(NativeCache("8.6.0", "GPU-7", {"a": 0.5}).serialize())
    cache = timing.prepare_file("tensorrt", spec(str(mine), shards=False), io)
    assert json.loads(Path(cache.path).read_bytes()) == ["8.6.0", "GPU-0", {"a": 0.5}]
    assert cache.used == ["my.cache"]
    mine.write_bytes(b"no cache")
    with pytest.raises(JobError, match="is no timing cache"):
        timing.prepare_file("tensorrt", spec(str(mine), shards=False), io)


def test_trtexec_gets_no_shard_of_another_gpu_of_the_same_model(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules(monkeypatch, "8.6.0", None)
    other = shard(tmp_path, "a", key=KEY + "-600df00d")
    assert timing.prepare_file("tensorrt", spec(other, shard(tmp_path, "b")), io).used == []
    monkeypatch.setattr(timing, "gpu_uuid", lambda: None)
    assert timing.prepare_file("tensorrt", spec(other), io).key is None


def test_the_job_of_its_own_combines_two_files(
    tmp_path: Path, io: JobIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_build(monkeypatch)
    read = [shard(tmp_path, "a"), shard(tmp_path, "b", uuid="GPU-1")]
    params = {"flavour": "tensorrt", "read": read, "write": "timing.cache"}
    assert timing.run(params, io) == {"used": names(*read), "refused": {}}
    assert set(json.loads(Path(io.path("timing.cache")).read_bytes())[2]) == {"a", "b"}


def test_of_shards_that_cannot_be_joined_the_newest_stands(
    io: JobIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NativeCache, "combine", lambda *_: False)
    old, new = shard(tmp_path, "a", age=9), shard(tmp_path, "b")
    cache = timing.load(TRT, config := Config(), spec(old, new), io)
    assert config.cache.times == {"b": 0.5}
    assert cache.used == names(new)
    assert cache.dropped == {names(old)[0]: "TensorRT refuses it"}


def test_shards_are_joined_whatever_is_said_of_myelins_part(
    io: JobIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorRT 8.5.3.1 and 8.6.0 on an H100, with empty stand-ins for cuBLAS and cuDNN.
    joined = NativeCache.combine
    monkeypatch.setattr(NativeCache, "combine", lambda *argv: joined(*argv) and False)
    old, new = shard(tmp_path, "a", age=9), shard(tmp_path, "b")
    cache = timing.load(TRT, config := Config(), spec(old, new), io)
    assert config.cache.times == {"a": 0.5, "b": 0.5}
    assert cache.used == names(old, new)
    assert cache.dropped == {}
