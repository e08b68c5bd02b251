"""What a build request asks for is what a real builder makes of it.

One small model, the digits example, built in many ways: each engine runs, agrees with ONNX Runtime on
the 599 held-out digits, and is in the precision asked for, layer by layer. docs/gpu.md tells how to run.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from gpu_runs import (
    TRAINING,
    Built,
    accuracy,
    build,
    digits_data,
    digits_model,
    environments,
    record,
    reference,
    relative_error,
    run,
)
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[2] / "trtenv" / "jobs"))

import layers

pytestmark = pytest.mark.gpu

FP16 = ("--precision", "fp16")
ALL_FP16 = (*FP16, "--layer-precisions", "*:fp16", "--precision-constraints", "obey")
HALF, FULL = {"fp16"}, {"fp32", "tf32"}


class Case(NamedTuple):
    """precisions: by a name in the ONNX file, what its product may run in; "*" means all others.

    tolerance: of the norm of the difference to the norm of the reference. TF32 and FP16 keep 10 bits.
    """

    options: tuple[str, ...]
    tolerance: float = 5e-3
    precisions: dict[str, set[str]] = {}  # noqa: RUF012  never changed
    half_tensors: bool = False
    refittable: bool = False


CASES = {
    "fp32": Case(("--precision", "fp32"), 1e-4, {"*": {"fp32"}}),
    "tf32": Case((), precisions={"*": FULL}),
    "fp16-forced": Case(ALL_FP16, precisions={"*": HALF}),
    "fp16-direct": Case(
        (*ALL_FP16, "--input-io-formats", "fp16:chw", "--output-io-formats", "fp16:chw"),
        precisions={"*": HALF},
        half_tensors=True,
    ),
    "keep-fp32": Case(
        (*FP16, "--keep-fp32", "conv1", "--layer-precisions", "conv2:fp16,conv3:fp16"),
        precisions={"conv1": FULL, "conv2": HALF, "conv3": HALF},
    ),
    "layer-precisions": Case(
        (*FP16, "--layer-precisions", "conv2:fp32,*:fp16", "--precision-constraints", "obey"),
        precisions={"conv2": FULL, "*": HALF},
    ),
    "refit": Case((*FP16, "--refit", "--accept-precision", "any"), refittable=True),
    "ampere": Case(("--hardware-compatible", "ampere+", "--builder-optimization-level", "1")),
    "level-0": Case(("--builder-optimization-level", "0", "--max-aux-streams", "0")),
    "heuristic": Case(("--heuristic", "--avg-timing", "2", "--min-timing", "1")),
    "tuned": Case(
        (*FP16, "--accept-precision", "any", "--sparsity", "enable", "--workspace", "256M",
         "--preview", "+fasterDynamicShapes0805", "--timing-cache", "none"),
    ),
}  # fmt: skip


def products(text: str) -> dict[str, tuple[str | None, str | None]]:
    """Of every convolution and matrix product, by its name inside: what it computes and is stored in."""
    found = layers.inspector_layers(text)
    assert found
    return {
        layer.name: (layer.precision(), layer.weights)
        for layer in found
        if layer.is_product() and not layer.moves()
    }


def skip_refused(built: Built, options: tuple[str, ...]) -> None:
    """What a version cannot do is refused before anything is built, and the refusal names it."""
    if built.code == 2 and "cannot do" in built.said:
        assert any(option in built.said for option in options if option.startswith("--"))
        pytest.skip(built.said.strip().splitlines()[0])


@environments
@pytest.mark.parametrize("name", CASES)
def test_the_engine_is_what_was_asked_for(tmp_path: Path, environment: str, name: str) -> None:
    case, model = CASES[name], digits_model(tmp_path / "digits.onnx")
    images, labels = (part[TRAINING:] for part in digits_data())
    built = build(
        environment, model, name, "--export-layer-info", f"{name}.layers.json", *case.options
    )
    skip_refused(built, ("--export-layer-info", *case.options))
    assert built.code == 0, built.said
    expected = reference(model, {"image": images})["logits"]
    image = images.astype(np.float16) if case.half_tensors else images
    outputs, told = run(environment, built.engine, {"image": image})
    logits, found = outputs["logits"], products(built.layers.read_text())
    error = relative_error(logits, expected)
    lost = accuracy(expected, labels) - accuracy(logits, labels)
    record(
        test="request", case=name, environment=environment, relative_error=error, lost=lost,
        accuracy=accuracy(logits, labels), seconds=built.stamp["build"]["seconds"],
        products=found, precision=built.stamp["engine"]["precision"], run=told,
        targets=built.stamp["targets"]["rule"],
    )  # fmt: skip
    assert error < case.tolerance
    assert lost <= 0.01
    assert built.stamp["engine"]["precision"]["found"]
    assert logits.dtype == (np.float16 if case.half_tensors else np.float32)
    half = {tensor["dtype"] for tensor in built.stamp["engine"]["inputs"]} == {"float16"}
    assert half == case.half_tensors
    assert told["refittable"] == case.refittable
    check_precisions(found, case.precisions)


def check_precisions(
    found: dict[str, tuple[str | None, str | None]], wanted: dict[str, set[str]]
) -> None:
    """An FP16 layer may be computed by FP32 instructions: TensorRT 8.5 does so with the classifier."""
    rest = dict(found)
    for node in wanted.keys() - {"*"}:
        named = [name for name in found if re.search(rf"\b{node}\b", name)]
        assert named, f"no layer holds {node}: {sorted(found)}"
        assert all(is_in(rest.pop(name), wanted[node]) for name in named), found
    if "*" in wanted:
        assert rest
        assert all(is_in(layer, wanted["*"]) for layer in rest.values()), found


def is_in(layer: tuple[str | None, str | None], wanted: set[str]) -> bool:
    computed, stored = layer
    return computed in wanted or (stored in wanted and stored == "fp16")


@environments
def test_fp16_that_is_allowed_and_not_found_is_refused(tmp_path: Path, environment: str) -> None:
    """`--precision fp16` forces nothing: the builder may choose TF32 throughout; here it must not choose."""
    model = digits_model(tmp_path / "digits.onnx", batch=1)
    without = (*FP16, "--layer-precisions", "*:fp32", "--precision-constraints", "obey")
    cases = {"fp16-allowed": FP16, "fp16-nowhere": without}
    codes = {}
    for name, options in cases.items():
        built = build(environment, model, name, *options)
        skip_refused(built, options)
        codes[name] = built.code
        record(test="verdict", case=name, environment=environment, code=built.code, said=built.said)
        if built.code:
            assert built.code == 7
            assert "asked for fp16, but no layer that counts runs in it" in built.said
            assert not built.engine.exists()
        else:
            assert built.stamp["engine"]["precision"]["found"]["products"]["fp16"]
    assert codes["fp16-nowhere"] == 7
    taken = build(environment, model, "fp16-accepted", *without, "--accept-precision", "any")
    assert taken.code == 0, taken.said
    assert "fp16" not in taken.stamp["engine"]["precision"]["found"]["products"]


@environments
def test_two_profiles(tmp_path: Path, environment: str) -> None:
    model = digits_model(tmp_path / "digits.onnx", batch=None)
    images, _ = digits_data()
    shapes = ("--shapes", "image:1x1x32x32", "--shapes", "image:8x1x32x32..16x1x32x32..32x1x32x32")
    listed = ("--export-layer-info", "profiles.layers.json")
    built = build(environment, model, "profiles", *shapes, *listed)
    if built.code == 2:  # TensorRT-RTX
        built = build(environment, model, "profiles", *shapes)
    assert built.code == 0, built.said
    assert len(built.stamp["engine"]["profiles"]) == 2
    for profile, batch in enumerate((1, 32)):
        image = images[:batch]
        expected = reference(model, {"image": image})["logits"]
        outputs, told = run(environment, built.engine, {"image": image}, profile)
        error = relative_error(outputs["logits"], expected)
        record(
            test="profiles", environment=environment, profile=profile, relative_error=error,
            seconds=built.stamp["build"]["seconds"], run=told,
            precision=built.stamp["engine"]["precision"],
        )  # fmt: skip
        assert told["profiles"] == 2
        assert error < 5e-3


@environments
def test_a_reproducible_build_goes_by_its_recording(tmp_path: Path, environment: str) -> None:
    model = digits_model(tmp_path / "digits.onnx", batch=32)
    options = (*FP16, "--accept-precision", "any", "--reproducible")
    builds = [build(environment, model, "again", *options) for _ in range(2)]
    assert [built.code for built in builds] == [0, 0], builds
    first, second = (built.stamp for built in builds)
    timing = [stamp["build"]["timing_cache"] for stamp in (first, second)]
    record(
        test="reproducible", environment=environment, timing=timing,
        equal=first["sha256"] == second["sha256"],
        seconds=[stamp["build"]["seconds"] for stamp in (first, second)],
    )  # fmt: skip
    assert first["build"]["recorded"]["name"] == "again.engine.timing"
    assert timing[1]["read"] == ["again.engine.timing"]
    assert timing[1]["result"] == "hit"
    assert first["engine"]["precision"] == second["engine"]["precision"]


@environments
def test_without_verbosity_the_precision_is_not_known_and_that_is_said(
    tmp_path: Path, environment: str
) -> None:
    model = digits_model(tmp_path / "digits.onnx", batch=1)
    built = build(environment, model, "silent", *FP16, "--profiling-verbosity", "none")
    assert built.code == 0, built.said
    found = built.stamp["engine"]["precision"]["found"]
    record(test="verbosity", environment=environment, found=found, said=built.said)
    if found is None or found["unknown"]:
        assert "does not tell" in built.said or "not told" in built.said
    else:  # what is read off the log or the network needs no verbosity
        assert found["source"] in ("log", "network")


@environments
def test_a_version_compatible_engine_needs_the_lean_runtime(
    tmp_path: Path, environment: str
) -> None:
    model = digits_model(tmp_path / "digits.onnx", batch=1)
    built = build(environment, model, "lean", "--version-compatible")
    skip_refused(built, ("--version-compatible",))
    record(test="lean", environment=environment, code=built.code, said=built.said)
    if built.code:  # NVIDIA's wheels lack it, its images have it
        assert built.code == 6
        assert "libnvinfer_lean" in built.said
        assert "--exclude-lean-runtime" in built.said
    without = build(environment, model, "no-lean", "--version-compatible", "--exclude-lean-runtime")
    record(test="no-lean", environment=environment, code=without.code, said=without.said)
    assert without.code == 0, without.said


def one_node(path: Path, operator: str, shape: list[int]) -> Path:
    """A node of that name, from `x` to `y`."""
    tensors = [("x", [2, 3, 3]), ("y", shape)]
    first, last = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in tensors)
    node = helper.make_node(operator, ["x"], ["y"], operator.lower())
    graph = helper.make_graph([node], "g", [first], [last])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    np.savez(path.with_name("data.npz"), x=np.ones((8, 3, 3), np.float32))
    return path


# Options, exit codes, and words of the explanation. No TensorRT has Det, and no Softmax is in INT8.
INT8 = ("--precision", "int8", "--layer-precisions", "softmax:int8", "--calibration", "data.npz")
FAILURES: dict[str, tuple[tuple[str, ...], set[int], str]] = {
    "operator": ((), {6, 8}, r"`Det`|Det\b"),
    "kernel": (INT8, {6, 7}, "softmax|int8"),
    "layer": ((*FP16, "--layer-precisions", "convl:fp16"), {6}, r"near to it: conv\d"),
    "no-data": (("--precision", "int8"), {2}, "--calibration FOLDER"),
    "formats": (("--input-io-formats", "fp16:chw,fp16:chw"), {6}, "for 1 inputs"),
}


@environments
@pytest.mark.parametrize("name", FAILURES)
def test_a_build_that_fails_says_why(tmp_path: Path, environment: str, name: str) -> None:
    options, codes, words = FAILURES[name]
    model = tmp_path / "model.onnx"
    if name == "operator":
        one_node(model, "Det", [2])
    elif name == "kernel":
        one_node(model, "Softmax", [2, 3, 3])
    else:
        digits_model(model, batch=1)
    built = build(environment, model, f"fails-{name}", *options)
    skip_refused(built, options)
    record(test="fails", case=name, environment=environment, code=built.code, said=built.said)
    assert built.code in codes, built.said
    assert re.search(words, built.said), built.said
    assert not built.engine.exists()
