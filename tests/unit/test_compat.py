"""Whether engines run somewhere: real engines, real heads, and stamps as builds write them."""

from __future__ import annotations

import copy
import hashlib
import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trtenv.catalog.host import Gpu, Host
from trtenv.cli import COMMANDS
from trtenv.cli.check import EXITS, place_of
from trtenv.dialect.portability import compare, loads_later, span
from trtenv.engine.compat import RULES, Place, Report, check
from trtenv.engine.compatfacts import NOT_JUDGED, RUNS, UNKNOWN, WILL_NOT_RUN
from trtenv.engine.inspect import inspect
from trtenv.engine.rebuild import rebuild
from trtenv.engine.targets import every_target, same_model
from trtenv.errors import ArtifactError, TrtenvError
from trtenv.spec.options import BY_NAME
from trtenv.spec.shapes import ShapeRange, parse_shapes

ENGINES = Path(__file__).parents[1] / "data" / "engines"
TRT85 = (ENGINES / "trt8531_sm90.engine").read_bytes()
TRT86 = (ENGINES / "trt860_ampereplus.engine").read_bytes()
RTX17 = (ENGINES / "rtx17_sm89_sm120.engine").read_bytes()
HEADS = {
    entry["file"]: entry for entry in tomllib.loads((ENGINES / "heads.toml").read_text())["head"]
}
DIGITS = ENGINES / "h100" / "digits-local-8.6.0-fp16.engine"
SEGMENT = ENGINES / "h100" / "coins_segment-local-8.5.3.1-fp16.engine"
H100 = "NVIDIA H100 80GB HBM3"
PROFILE = {"image": {"min": [1, 1, 32, 32], "opt": [8, 1, 32, 32], "max": [16, 1, 32, 32]}}
STAMP: dict[str, Any] = {
    "trtenv": "0.1.0",
    "kind": "engine",
    "engine": {"profiles": [PROFILE]},
    "source": {"onnx": {"name": "my digits.onnx"}},
    "environment": {"platform": "linux/amd64"},
    "gpu": {"name": H100, "compute_capability": "9.0"},
    "build": {"wishes": {"precision": "fp16", "tactic_sources": {"CUBLAS": False}}},
    "targets": {"version_compatible": False, "hardware_compatible": "ampere+", "platform": "same"},
}


def place(words: str) -> Place:
    given = dict(zip(words.split()[::2], words.split()[1::2], strict=True))
    return place_of(
        given.get("--env"), given.get("--trt"), given.get("--target"), Path("no.lock"), host=False
    )


def stamped(folder: Path, data: bytes, **changes: Any) -> Path:
    """With sections of the stamp changed; None leaves a section out."""
    path = folder / "m.engine"
    path.write_bytes(data)
    stamp = {**copy.deepcopy(STAMP), "sha256": hashlib.sha256(data).hexdigest()}
    for section, change in changes.items():
        stamp[section] = {**stamp[section], **change} if isinstance(change, dict) else change
    path.with_name("m.engine.json").write_text(json.dumps(stamp))
    return path


def look(path: Path, words: str) -> Report:
    return check(inspect(path), place(words))


def told(report: Report) -> dict[str, str]:
    return {item.rule: item.verdict for item in report.findings}


@pytest.mark.parametrize(
    ("file", "words", "verdict", "rules"),
    [
        (DIGITS, "--target h100 --trt 8.6.0", RUNS, {}),
        (DIGITS, "--target h100 --trt 8.6.0.12", RUNS, {}),
        (DIGITS, "--target h100 --trt 8.6", UNKNOWN, {"version": UNKNOWN}),
        (DIGITS, "--target h100", RUNS, {"version": NOT_JUDGED}),
        (DIGITS, "--target h200 --trt 8.6.0", UNKNOWN, {"gpu": UNKNOWN}),
        (DIGITS, "--target l4 --trt 8.6.0", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (DIGITS, "--target gh200", WILL_NOT_RUN, {"platform": WILL_NOT_RUN, "gpu": UNKNOWN}),
        (DIGITS, "--trt 8.6.0", RUNS, {"gpu": NOT_JUDGED, "platform": NOT_JUDGED}),
        (DIGITS, "--trt 8.5.3", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (DIGITS, "--trt rtx-1.7", WILL_NOT_RUN, {"flavour": WILL_NOT_RUN}),
        (DIGITS, "--trt rtx", WILL_NOT_RUN, {"flavour": WILL_NOT_RUN, "version": NOT_JUDGED}),
        (DIGITS, "--target t4 --trt 8.6.0", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (SEGMENT, "--target h100 --trt 8.5.3.1", RUNS, {"driver": None}),
        (SEGMENT, "--target h100 --env tensorrt-8.5.3", RUNS, {"driver": NOT_JUDGED}),
        (SEGMENT, "--target h100 --env tensorrt-8.6.0", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (SEGMENT, "--target orin-jp6", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (SEGMENT, "--target xavier-jp5", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (SEGMENT, "--target rtx-5090 --trt 8.5.3", WILL_NOT_RUN, {"release": WILL_NOT_RUN}),
    ],
)
def test_engines_with_their_stamps(
    file: Path, words: str, verdict: str, rules: dict[str, str | None]
) -> None:
    report = look(file, words)
    found = told(report)
    assert {rule: found.get(rule) for rule in rules} == rules
    assert report.verdict == verdict


@pytest.mark.parametrize(
    ("data", "words", "verdict", "rules"),
    [
        (TRT85, "--target h100 --trt 8.5.3", UNKNOWN, {"gpu": UNKNOWN, "platform": UNKNOWN}),
        (TRT85, "--target a100", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (TRT85, "--trt 8.5.3", RUNS, {"version": RUNS}),
        (TRT85, "--trt 8.5.2", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (TRT85, "--trt 10.3", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (TRT86, "--target rtx-4090 --trt 8.6.0", UNKNOWN, {"gpu": RUNS, "platform": UNKNOWN}),
        (TRT86, "--target t4", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (TRT86, "--target orin-jp6.0", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (TRT86, "--trt 8.6.1", UNKNOWN, {"version": UNKNOWN}),
        (TRT86, "--trt 11.1", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (RTX17, "--target rtx-4090 --trt rtx-1.7.1", RUNS, {"gpu": RUNS, "platform": RUNS}),
        (RTX17, "--target rtx-3090 --trt rtx-1.7.1", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (RTX17, "--target h100 --trt rtx-1.7.1", WILL_NOT_RUN, {"release": WILL_NOT_RUN}),
        (RTX17, "--env rtx-1.7", RUNS, {"gpu": NOT_JUDGED}),
        (RTX17, "--env rtx-1.6", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (RTX17, "--trt rtx-1.7", UNKNOWN, {"version": UNKNOWN}),
        (RTX17, "--trt 1.7.1", WILL_NOT_RUN, {"flavour": WILL_NOT_RUN}),
        (TRT85[:-1], "--trt 8.5.3", WILL_NOT_RUN, {"size": WILL_NOT_RUN}),
        (TRT85 + b"\n", "--trt 8.5.3", WILL_NOT_RUN, {"size": WILL_NOT_RUN}),
        # Neither the version nor the GPU where the archive does not open: number and kernels tell.
        (TRT85[:24] + b"c" + TRT85[25:], "--trt 8.5.3", UNKNOWN, {"version": UNKNOWN}),
        (TRT85[:24] + b"c" + TRT85[25:], "--trt 8.6", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (TRT85[:24] + b"c" + TRT85[25:], "--trt 8.4.1", WILL_NOT_RUN, {"version": WILL_NOT_RUN}),
        (TRT85[:24] + b"c" + TRT85[25:], "--target l4", WILL_NOT_RUN, {"gpu": WILL_NOT_RUN}),
        (TRT85[:24] + b"c" + TRT85[25:], "--target h100", UNKNOWN, {"gpu": UNKNOWN}),
    ],
)
def test_engines_without_a_stamp(
    tmp_path: Path, data: bytes, words: str, verdict: str, rules: dict[str, str]
) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(data)
    report = look(path, words)
    found = told(report)
    assert {rule: found.get(rule) for rule in rules} == rules
    assert report.verdict == verdict
    assert report.rebuild is None


@pytest.mark.parametrize("file", [file for file, head in HEADS.items() if "targets" in head])
@pytest.mark.parametrize("target", ["rtx-2080-ti", "a100", "rtx-3090", "l4", "h100", "gb10"])
def test_rtx_engines_run_on_what_their_header_names(tmp_path: Path, file: str, target: str) -> None:
    head = HEADS[file]
    path = tmp_path / "m.engine"
    path.write_bytes((ENGINES / file).read_bytes().ljust(head["size"], b"\0"))
    report = look(path, f"--target {target} --trt rtx-{head['version']}")
    there = every_target()[target].compute_capability
    later = "later" in head["targets"] and there == "12.1" and there not in head["targets"]
    known = RUNS if there in head["targets"] else UNKNOWN if later else WILL_NOT_RUN
    assert told(report)["gpu"] == known
    assert told(report)["size"] == RUNS
    if there == "9.0":
        assert report.verdict == WILL_NOT_RUN


@pytest.mark.parametrize(
    ("version", "wishes", "words", "verdict"),
    [
        (True, {}, "--trt 8.6.1", RUNS),
        (True, {}, "--trt 10.3.0", RUNS),
        (True, {}, "--trt 9.0", UNKNOWN),
        (True, {}, "--trt 11.1.0", WILL_NOT_RUN),
        (True, {}, "--trt 12.0.0", UNKNOWN),
        (True, {}, "--trt 8.5.3", WILL_NOT_RUN),
        (True, {"exclude_lean_runtime": True}, "--trt 8.6.1", UNKNOWN),
        (False, {}, "--trt 8.6.1", WILL_NOT_RUN),
        (None, {}, "--trt 8.6.1", UNKNOWN),
        (None, {}, "--trt 11.1.0", WILL_NOT_RUN),
    ],
)
def test_version_compatible_engines_run_later(
    tmp_path: Path, version: bool | None, wishes: dict[str, Any], words: str, verdict: str
) -> None:
    path = stamped(
        tmp_path, TRT86, targets={"version_compatible": version}, build={"wishes": wishes}
    )
    assert told(look(path, words))["version"] == verdict


@pytest.mark.parametrize(
    ("built", "runtime", "order"),
    [
        ("8.6.1.6", "8.6.1", "same"),
        ("8.6.1.6", "8.6.1.6", "same"),
        ("10.3.0.26", "10.3.0.30", "newer"),
        ("8.5", "8.5.3", "unknown"),
        ("10.0 to 10.1", "10.1.0", "unknown"),
        ("10.0 to 10.1", "10.2.0", "newer"),
        ("10.0 to 10.1", "9.3", "older"),
        ("10.13.0.35", "10.9", "older"),
        ("8.6.1.6", "8", "unknown"),
    ],
)
def test_versions_are_compared_by_number(built: str, runtime: str, order: str) -> None:
    exact = "to" not in built and built.count(".") > 1
    found = span(built if exact else None, None if exact else built)
    assert found
    assert compare(found, tuple(map(int, runtime.split(".")))) == order


def test_nothing_is_compatible_before_8_6() -> None:
    built = span("8.5.3.1", None)
    assert built
    assert built.before_compatibility
    assert loads_later(built, (8, 6, 1)).answer == "unknown"
    assert span(None, None) is None


@pytest.mark.parametrize(
    ("changes", "words", "rule", "verdict"),
    [
        ({"sha256": "0" * 64}, "--target h100", "stamp", UNKNOWN),
        ({"sha256": None}, "--target h100", "stamp", UNKNOWN),
        ({"targets": {"platform": "windows"}}, "--target h100", "platform", WILL_NOT_RUN),
        ({"environment": {"platform": "linux/arm64/v8"}}, "--target gh200", "platform", RUNS),
        ({"environment": {"platform": "linux"}}, "--target h100", "platform", UNKNOWN),
    ],
)
def test_what_a_stamp_says(
    tmp_path: Path, changes: dict[str, Any], words: str, rule: str, verdict: str
) -> None:
    report = look(stamped(tmp_path, TRT86, **changes), words)
    assert told(report)[rule] == verdict
    assert verdict in (report.verdict, RUNS)


def test_a_stamp_of_another_file_proves_nothing(tmp_path: Path) -> None:
    report = look(stamped(tmp_path, TRT86, sha256="0" * 64), "--target t4 --trt 8.6.0")
    assert told(report)["platform"] == UNKNOWN
    assert report.rebuild is None
    assert report.verdict == WILL_NOT_RUN  # by the header alone


def test_ultralytics_engines_run_in_ultralytics(tmp_path: Path) -> None:
    path = tmp_path / "yolo.engine"
    path.write_bytes((2).to_bytes(4, "little") + b"{}" + TRT85)
    report = look(path, "--trt 8.5.3")
    found = next(item for item in report.findings if item.rule == "wrapper")
    assert found.verdict == WILL_NOT_RUN
    assert found.hint
    assert f"trtenv strip {path} -o" in found.hint
    assert "strip" in COMMANDS
    asked = place("--trt 8.5.3")
    inside = Place(name="", flavour="tensorrt", tensorrt=asked.tensorrt, ultralytics=True)
    assert check(inspect(path), inside).verdict == RUNS


@pytest.mark.parametrize(
    ("changes", "words", "command"),
    [
        (
            {},
            "--target orin-jp6",
            (
                "trtenv build 'my digits.onnx' --shapes=image:1x1x32x32..8x1x32x32..16x1x32x32 "
                "--precision=fp16 --tactic-sources=-CUBLAS --env l4t-jetpack-36.4.0"
            ),
        ),
        (
            {"engine": {"profiles": [{}]}, "build": {"wishes": {"workspace": 4 << 30}}},
            "--target t4",
            "trtenv build 'my digits.onnx' --workspace=4294967296B --trt 8.6.0",
        ),
        (
            {"build": {"wishes": {"hardware_compatible": "ampere+", "version_compatible": True}}},
            "--target orin-jp6",
            (
                "trtenv build 'my digits.onnx' --shapes=image:1x1x32x32..8x1x32x32..16x1x32x32 "
                "--version-compatible --env l4t-jetpack-36.4.0"
            ),
        ),
        (
            {"source": {"onnx": {"name": "-x.onnx"}}, "build": {"wishes": {}}},
            "--target t4 --env rtx-1.7",
            (
                "trtenv build ./-x.onnx --shapes=image:1x1x32x32..8x1x32x32..16x1x32x32 --sm=7.5 "
                "--env rtx-1.7"
            ),
        ),
        (
            {"engine": {}, "build": {"wishes": {"hardware_compatible": "ampere+", "refit": True}}},
            "--target t4 --trt 8.6.1",
            (
                "trtenv build 'my digits.onnx' --shapes=image:1x1x32x32..8x1x32x32..16x1x32x32 "
                "--refit --trt 8.6.1"
            ),
        ),
        (
            {"engine": {}, "build": {"wishes": {"hardware_compatible": "ampere+"}}},
            "--target a100 --trt 8.5.3",
            (
                "trtenv build 'my digits.onnx' --shapes=image:1x1x32x32..8x1x32x32..16x1x32x32 "
                "--trt 8.5.3"
            ),
        ),
        ({"build": {"wishes": {"from_the_future": 1}}}, "--target t4", None),
        ({"build": {"wishes": {"workspace": "much"}}}, "--target t4", None),
        ({"build": {}}, "--target h100 --trt 8.6.0", None),  # runs
        ({"source": {"onnx": {"name": "x"}}}, "--target t4", None),
        ({}, "--target rtx-5090 --trt 8.6.0", None),  # no build helps
    ],
)
def test_the_command_that_rebuilds(
    tmp_path: Path, changes: dict[str, Any], words: str, command: str | None
) -> None:
    assert look(stamped(tmp_path, TRT86, **changes), words).rebuild == command


def test_a_rebuild_adds_the_gpu_to_those_asked_for(tmp_path: Path) -> None:
    path = stamped(tmp_path, RTX17, build={"wishes": {"sm": ["8.9", "12.0"]}})
    report = look(path, "--target rtx-3090 --trt rtx-1.7.1")
    assert report.rebuild
    assert report.rebuild.endswith(" --sm=8.6,8.9,12.0 --trt rtx-1.7.1")
    report = look(path, "--target h100 --trt rtx-1.7.1")  # for which TensorRT-RTX builds nothing
    assert (report.verdict, report.rebuild) == (WILL_NOT_RUN, None)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "precision": st.sampled_from(["fp16", "int8"]),
            "mem_pool_size": st.dictionaries(
                st.sampled_from(["workspace", "dlaSRAM"]), st.integers(1, 2**40), min_size=1
            ),
            "input_io_formats": st.just(BY_NAME["input_io_formats"].read("fp16:chw+chw2,chw")),
            "layer_precisions": st.just({"conv 1:0": "fp16", "*": "fp32+fp16"}),
            "keep_fp32": st.just(["a b", "c*"]),
            "tactic_sources": st.just({"CUBLAS": False, "CUDNN": True}),
            "cuda_graph": st.booleans(),
            "refit": st.just(True),
            "percentile": st.just([90, 99.5]),
            "duration": st.floats(0.5, 9),
            "static_plugins": st.just(["a b.so", "c.so"]),
        },
    ),
    st.dictionaries(
        st.text("ab:/$' ", min_size=1).filter(lambda name: name == name.strip().strip("'\"")),
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
    ),
)
def test_the_command_says_the_same_request_again(
    wishes: dict[str, Any], sizes: dict[str, tuple[int, int, int]]
) -> None:
    ranges = {
        name: ShapeRange((low,), (low + more,), (low + more + most,))
        for name, (low, more, most) in sizes.items()
    }
    stamp = copy.deepcopy(STAMP)
    stamp["build"]["wishes"] = wishes
    stamp["engine"]["profiles"] = [{name: item.to_dict() for name, item in ranges.items()}]
    command = rebuild(stamp, "tensorrt", "8.6.1.6", None, Place(name=""))
    assert command
    words = shlex.split(command)
    assert words[:3] == ["trtenv", "build", "my digits.onnx"]
    assert words[-2:] == ["--trt", "8.6.1"]
    pairs = [word.partition("=")[::2] for word in words[3:-2]]
    assert [parse_shapes(text) for flag, text in pairs if flag == "--shapes"] == [ranges]
    for name, value in wishes.items():
        option = BY_NAME[name]
        texts = [text for flag, text in pairs if flag == option.flag]
        if option.parse is None:
            assert (option.flag in words, f"--no-{option.flag[2:]}" in words) == (value, not value)
        elif name == "static_plugins":
            assert texts == value
        else:
            assert option.read(texts[0]) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ANY_STAMP = st.fixed_dictionaries(
    {},
    optional={
        section: JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(keys, JSON))
        for section, keys in {
            "targets": ("version_compatible", "hardware_compatible", "compute_capabilities"),
            "gpu": ("name", "compute_capability"),
            "environment": ("platform",),
            "engine": ("profiles",),
            "source": ("onnx",),
            "build": ("wishes",),
        }.items()
    },
)
PLACES = [
    place(words)
    for words in (
        *("--target orin-jp6", "--target t4 --trt 8.6.0", "--trt rtx-1.7", "--env rtx-1.7"),
        *("--target rtx-4090 --trt 8", "--target h100 --trt 10.3.0.30"),
    )
]
MESSY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MESSY
@given(ANY_STAMP, st.sampled_from([RTX17, TRT85[:9000]]), st.sampled_from(PLACES))
@example({"gpu": {"compute_capability": "9" * 5000}}, TRT85[:9000], PLACES[0])
def test_any_stamp_gives_a_verdict(
    tmp_path: Path, stamp: dict[str, Any], data: bytes, where: Place
) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(data)
    stamp["sha256"] = hashlib.sha256(data).hexdigest()
    path.with_name("m.engine.json").write_text(json.dumps(stamp))
    verdict_of(path, where)


@MESSY
@given(
    st.sampled_from([TRT85[:600], TRT86[:600], RTX17[:600]]),
    st.lists(st.tuples(st.integers(4, 599), st.binary(min_size=1, max_size=8)), max_size=6),
    st.sampled_from(PLACES),
)
def test_any_header_gives_a_verdict_or_a_clean_error(
    tmp_path: Path, data: bytes, changes: list[tuple[int, bytes]], where: Place
) -> None:
    made = bytearray(data)
    for offset, change in changes:
        made[offset : offset + len(change)] = change
    path = tmp_path / "m.engine"
    path.write_bytes(made)
    path.with_name("m.engine.json").unlink(missing_ok=True)
    verdict_of(path, where)


def verdict_of(path: Path, where: Place) -> None:
    try:
        report = check(inspect(path), where)
    except TrtenvError:
        return
    assert report.verdict in EXITS
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(document) == {
        *("engine", "file", "findings", "not_judged", "place", "rebuild", "verdict"),
    }
    assert {item["rule"] for item in document["findings"]} <= {rule.name for rule in RULES}
    assert all(item["source"] for item in document["findings"])
    assert (report.verdict == WILL_NOT_RUN) == (WILL_NOT_RUN in told(report).values())


def test_a_model_is_no_engine(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [tensor], [tensor])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    with pytest.raises(ArtifactError, match="holds no engine"):
        look(path, "--target t4")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA A100-SXM4-80GB", "A100", True),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090", True),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "GeForce RTX 4090", False),
        ("NVIDIA GeForce RTX 4070 Ti", "GeForce RTX 4070", False),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", True),
        ("NVIDIA A10G", "A10", False),
        ("Tesla T4", "T4", True),
        ("NVIDIA", "GeForce", False),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", False),
        ("GeForce RTX 3090", "NVIDIA GeForce RTX 3090", True),
    ],
)
def test_models_are_known_by_name(one: str, other: str, same: bool) -> None:
    assert same_model(one, other) == same


@pytest.mark.parametrize(
    ("target", "environment"),
    [
        ("nano-jp4", "l4t-pytorch-32.7.1-pth1.9"),
        ("xavier-jp5", "l4t-jetpack-35.4.1"),
        ("orin-jp6.0", "l4t-jetpack-36.3.0"),
        ("agx-orin-jp6.2", "l4t-jetpack-36.4.0"),
        ("orin-jp7", None),
    ],
)
def test_jetsons_are_built_for_in_environments_of_their_jetpack(
    target: str, environment: str | None
) -> None:
    assert place(f"--target {target}").builder == environment


def test_targets() -> None:
    found = every_target()
    assert all(name == entry.name == name.lower() for name, entry in found.items())
    assert all(entry.source and entry.compute_capability for entry in found.values())
    assert found["orin-jp6"].tensorrt == "10.3.0.30"
    assert found["orin-jp6.0"].tensorrt == "8.6.2.3"
    assert (found["nano-jp4"].compute_capability, found["nano-jp4"].tensorrt) == ("5.3", "8.2.1")
    assert found["xavier-jp5"].compute_capability == "7.2"
    assert "xavier-jp6" not in found
    for name, sm in {"t4": "7.5", "a100": "8.0", "l4": "8.9", "h100": "9.0"}.items():
        assert found[name].compute_capability == sm


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        ([str(DIGITS), "--target", "h100", "--trt", "8.6.0"], 0, ": runs\n"),
        ([str(DIGITS), "--target", "t4"], 10, "no command to rebuild it"),
        ([str(DIGITS), "--trt", "8.6"], 11, "name the patch with --trt"),
        ([str(DIGITS), "--target", "h10"], 2, "did you mean h100"),
        ([str(DIGITS), "--target", "h100", "--host"], 2, "exclude each other"),
        ([str(DIGITS), "--trt", "8", "--env", "rtx-1.7"], 2, "exclude each other"),
        ([str(DIGITS), "--trt", "eight"], 2, "not a version"),
        ([str(DIGITS), "--target", "orin-jp6", "--env", "rtx-1.7"], 2, "is for x86_64"),
        (["nothing.engine", "--target", "h100"], 7, "nothing.engine"),
        ([], 2, "no engine is named"),
        (["--list-targets"], 0, "orin-jp6.0"),
    ],
)
def test_command_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int, text: str
) -> None:
    found, out, err = run(capsys, "check", *argv)
    assert found == code, err
    assert text in out + err


@pytest.mark.parametrize(
    ("argv", "code"), [(["--target", "t4"], 10), (["--list-targets"], 0), (["--env", "x"], 2)]
)
def test_json_is_one_document(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int
) -> None:
    found, out, _ = run(capsys, "check", str(DIGITS), *argv, "--json")
    assert found == code
    assert {"verdict", "targets", "error"} & set(json.loads(out))


@pytest.mark.parametrize(
    ("host", "env", "code", "text"),
    [
        (Host("x86_64", "580.1", (Gpu(0, H100, "u", "9.0", 1),)), None, 0, "the same model"),
        (Host("x86_64", "580.1", (Gpu(0, "NVIDIA H200", "u", "9.0", 1),)), None, 11, "both of"),
        (Host("x86_64", "580.1", (Gpu(0, H100, "u", "9.0", 1),)), "tensorrt-8.6.0", 0, "driver"),
        (Host("x86_64", "390.1", (Gpu(0, H100, "u", "9.0", 1),)), "tensorrt-8.6.0", 10, "too old"),
        (Host("x86_64"), None, 11, "no NVIDIA GPU was found"),
    ],
)
def test_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    host: Host, env: str | None, code: int, text: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("trtenv.pipeline.host.read_host", lambda daemon: host)
    found, out, _ = run(capsys, "check", str(DIGITS), "--host", *(["--env", env] if env else []))
    assert found == code, out
    assert text in out
