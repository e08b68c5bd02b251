"""The second build on a real GPU goes by what the first one measured.

Environments and options as in test_engines.py; the timing caches are the test's own.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_runs import ENVIRONMENTS, build_command, environments, record

pytestmark = pytest.mark.gpu

KEY = re.compile(r"tensorrt-[0-9.]+(-cuda\d+)?-sm\d+-[a-z0-9-]+-\d+sms")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with the machine's own environments, and timing caches of its own."""
    assert ENVIRONMENTS, "name environments in TRTENV_GPU_ENVIRONMENTS"
    from trtenv.paths import cache_folder

    folder = tmp_path / "cache"
    folder.mkdir()
    theirs = cache_folder()
    for path in theirs.iterdir() if theirs.is_dir() else ():
        if path.name != "timing":
            (folder / path.name).symlink_to(path)
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(folder))
    return folder


def residual_network(path: Path, stem: int, widths: tuple[int, ...] = ()) -> Path:
    """Bottleneck blocks as in a ResNet; each of another width, as equal layers are timed only once.

    Without blocks a build takes seconds; five convolutions take a builder at full optimization a minute.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []

    def conv(source: str, inputs: int, outputs: int, size: int, stride: int = 1) -> str:
        name = f"conv{len(nodes)}"
        values = random.standard_normal((outputs, inputs, size, size)) / (inputs * size * size)
        weights.append(numpy_helper.from_array(values.astype(np.float32), name + ".weight"))
        nodes.append(
            helper.make_node(
                "Conv", [source, name + ".weight"], [name], name=name, kernel_shape=[size, size],
                strides=[stride, stride], pads=[size // 2] * 4,
            )
        )  # fmt: skip
        return name

    def relu(source: str) -> str:
        nodes.append(helper.make_node("Relu", [source], [source + ".relu"]))
        return source + ".relu"

    last, channels = relu(conv("image", 3, stem, 7, 2)), stem
    for width in widths:
        inner = relu(conv(last, channels, width // 2, 1))
        inner = relu(conv(inner, width // 2, width // 2, 3, 2))
        inner = conv(inner, width // 2, width, 1)
        short = conv(last, channels, width, 1, 2)
        nodes.append(helper.make_node("Add", [inner, short], [inner + ".sum"]))
        last, channels = relu(inner + ".sum"), width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [8, 3, 64, 64])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [8, channels, 1, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def command(environment: str, model: Path, output: Path, *more: str) -> list[str]:
    """Whatever the layers run in: what is timed is the point here."""
    options = ("--precision", "fp16", "--accept-precision", "any", "--json", *more)
    return [sys.executable, "-m", "trtenv", *build_command(environment, model, output, *options)]


def build(environment: str, model: Path, output: Path, *more: str) -> tuple[dict[str, Any], str]:
    """What the stamp says of the build, and what was said on stderr."""
    argv = command(environment, model, output, *more)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=output.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout)["outcomes"][-1]["stamp"]["build"]
    record(
        test="timing", case=model.stem, environment=environment, seconds=said["seconds"],
        **said["timing_cache"],
    )  # fmt: skip
    return said, done.stderr


def shards(cache: Path) -> Iterator[Path]:
    return (cache / "timing").glob("*.cache")


@environments
def test_the_second_build_is_at_least_three_times_as_fast(
    tmp_path: Path, cache: Path, environment: str
) -> None:
    model = residual_network(tmp_path / "large.onnx", 64, (96,))
    first, _ = build(environment, model, tmp_path / "first.engine")
    second, _ = build(environment, model, tmp_path / "second.engine")
    assert first["timing_cache"]["result"] == "miss"
    assert KEY.fullmatch(first["timing_cache"]["key"])
    assert second["timing_cache"]["result"] == "hit"
    assert len(list(shards(cache))) == 1
    assert second["seconds"] * 3 <= first["seconds"]


@environments
def test_two_builds_at_once_take_turns_and_both_are_kept(
    tmp_path: Path, cache: Path, environment: str
) -> None:
    models = [residual_network(tmp_path / f"{width}.onnx", width) for width in (48, 80)]
    started = [
        subprocess.Popen(
            command(environment, model, model.with_suffix(".engine")),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )
        for model in models
    ]  # fmt: skip
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert sum("waiting for another build on GPU" in text for text in said) == 1, said
    for model in models:
        again, _ = build(environment, model, tmp_path / "again.engine")
        assert again["timing_cache"]["result"] == "hit"
    assert len(list(shards(cache))) == 1


@environments
def test_shards_of_two_builds_are_joined(tmp_path: Path, cache: Path, environment: str) -> None:
    """As two builds leave them that knew nothing of each other: on hosts that share a cache folder."""
    models = [residual_network(tmp_path / f"{width}.onnx", width) for width in (24, 72)]
    kept = []
    for model in models:
        build(environment, model, model.with_suffix(".engine"))
        (shard,) = shards(cache)
        kept.append(shard.rename(tmp_path / shard.name))
    for shard in kept:
        shard.rename(cache / "timing" / shard.name)
    first, _ = build(environment, models[0], tmp_path / "again.engine")
    assert first["timing_cache"]["dropped"] == {}
    assert sorted(first["timing_cache"]["read"]) == sorted(shard.name for shard in kept)
    assert first["timing_cache"]["result"] == "hit"
    second, _ = build(environment, models[1], tmp_path / "again.engine")
    assert second["timing_cache"]["result"] == "hit"
    assert len(list(shards(cache))) == 1


@environments
def test_a_damaged_shard_is_told_and_dropped(tmp_path: Path, cache: Path, environment: str) -> None:
    model = residual_network(tmp_path / "small.onnx", 40)
    build(environment, model, tmp_path / "x.engine")
    (shard,) = shards(cache)
    shard.write_bytes(shard.read_bytes()[:-1])
    again, said = build(environment, model, tmp_path / "x.engine")
    assert again["timing_cache"]["result"] == "miss"
    assert f"the timing cache {shard.name} was not used: damaged" in said
    (shard,) = shards(cache)
    assert build(environment, model, tmp_path / "x.engine")[0]["timing_cache"]["result"] == "hit"


@environments
def test_a_users_file_is_updated_and_another_thing_refused(
    tmp_path: Path, cache: Path, environment: str
) -> None:
    model = residual_network(tmp_path / "small.onnx", 56)
    mine = tmp_path / "my.cache"
    option = ("--timing-cache", str(mine))
    assert (
        build(environment, model, tmp_path / "x.engine", *option)[0]["timing_cache"]["read"] == []
    )
    again, _ = build(environment, model, tmp_path / "x.engine", *option)
    assert again["timing_cache"]["result"] == "hit"
    assert list(shards(cache)) == []
    mine.write_bytes(b"no timing cache" * 100)
    argv = command(environment, model, tmp_path / "x.engine", *option)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 6
    assert "`my.cache` is no timing cache of TensorRT" in done.stderr
    assert mine.read_bytes() == b"no timing cache" * 100
