"""What is said to trtexec and to the Python API, word for word, from TensorRT 7.0 to 11.4."""

from pathlib import Path

import pytest
from samples import EVERY, OTHER_PROFILE, PROFILE, TENSORRT, check_known, single_wishes, spec

from trtenv.dialect.build import Translation, study, translate
from trtenv.dialect.rows import padded
from trtenv.errors import UsageError
from trtenv.spec.build import BuildSpec

# The same wishes through every version, together as users give them.
SPECS = (
    spec(),
    spec("--explicit-batch"),
    spec("--explicit-batch --precision fp16", profiles=(PROFILE,)),
    spec("--precision fp16 --input-io-formats fp16:chw --output-io-formats fp16:chw"),
    spec("--precision fp32 --workspace 4G", profiles=(PROFILE,)),
    spec("--workspace 1024 --avg-timing 16 --min-timing 2"),
    spec("--precision best --sparsity enable", profiles=(PROFILE, OTHER_PROFILE)),
    spec("--precision best --precision-constraints obey --layer-precisions conv1:fp16,fc:fp32"),
    spec("--precision fp16 --keep-fp32 conv1,fc"),
    spec("--precision fp16 --strongly-typed --keep-fp32 conv1"),
    spec("--precision bf16 --builder-optimization-level 5 --max-aux-streams 0"),
    spec("--mem-pool-size workspace:2G,dlaSRAM:1,tacticSharedMem:1 --use-dla-core 0"),
    spec("--tactic-sources -CUBLAS,-CUBLAS_LT,+CUDNN"),
    spec("--tactic-sources +EDGE_MASK_CONVOLUTIONS,-JIT_CONVOLUTIONS --heuristic"),
    spec("--preview +profileSharing0806,-aliasedPluginIO1003 --direct-io"),
    spec("--version-compatible --exclude-lean-runtime --hardware-compatible ampere+"),
    spec("--refit --strip-weights --allow-weight-streaming"),
    spec(f"--static-plugins {__file__} {__file__} --profiling-verbosity detailed"),
    spec("--timing-cache some.cache --skip-inference --no-cuda-graph --no-spin-wait"),
    spec("--timing-cache none --duration 3 --warm-up 200 --iterations 10 --percentile 99"),
    spec("--no-data-transfers --inf-streams 2 --avg-runs 5 --export-layer-info layers.json"),
)


def through(backend: str, asked: BuildSpec, flavour: str, version: str) -> Translation:
    return study(asked._replace(builder=backend), flavour, version)


def argv(asked: BuildSpec, version: str) -> list[str]:
    found = translate(asked._replace(builder="trtexec"), "tensorrt", version)
    return found.argv("resnet18_pytorch.onnx", "resnet_engine_pytorch.trt")


@pytest.mark.parametrize(("flavour", "version"), EVERY)
def test_trtexec_knows_every_flag_that_it_is_given(flavour: str, version: str) -> None:
    for asked in (*SPECS, *single_wishes()):
        found = through("trtexec", asked, flavour, version)
        check_known(found.flags, version)
        for entry in found.refused:
            assert entry.reason
        if flavour == "tensorrt-rtx":
            assert found.flags == ()  # there is no trtexec to say it to


def test_most_of_these_requests_are_possible_somewhere() -> None:
    """Else the test above would hold of a dialect that refuses everything."""
    possible = {
        version: sum(
            not through("trtexec", asked, "tensorrt", version).refused for asked in single_wishes()
        )
        for version in TENSORRT
    }
    every = len(list(single_wishes()))
    assert possible["7.0"] > every * 0.3
    assert possible["8.6"] > every * 0.6
    assert possible["10.13"] > every * 0.7
    assert possible["11.4"] > every * 0.6


TUTORIAL = spec("--explicit-batch")
FP16 = spec(
    "--explicit-batch --precision fp16 --input-io-formats fp16:chw --output-io-formats fp16:chw"
)
FILES = "trtexec --onnx=resnet18_pytorch.onnx --saveEngine=resnet_engine_pytorch.trt"
TYPED = "--inputIOFormats=fp16:chw --outputIOFormats=fp16:chw --fp16"


@pytest.mark.parametrize(
    ("asked", "version", "words"),
    [
        (TUTORIAL, "7.0", "--explicitBatch"),
        (TUTORIAL, "7.2", "--explicitBatch"),
        (TUTORIAL, "8.6", ""),
        (TUTORIAL, "10.13", ""),
        (TUTORIAL, "11.1", ""),
        (FP16, "7.2", f"--explicitBatch {TYPED}"),
        (FP16, "8.6", TYPED),
        (FP16, "10.13", TYPED),
        (FP16, "11.1", "--inputIOFormats=chw --outputIOFormats=chw"),
        (spec(), "7.1", "--explicitBatch"),
        (spec("--precision best"), "7.2", "--best"),
        (spec("--precision best"), "10.13", "--best"),
        (spec("--precision fp32"), "11.1", "--noTF32"),
        (spec("--tactic-sources -CUBLAS,+CUBLAS_LT"), "7.2", "--tacticSources=-cublas,+cublasLt"),
        (spec("--tactic-sources -CUBLAS,+CUDNN"), "8.6", "--tacticSources=-CUBLAS,+CUDNN"),
        (spec("--precision fp16 --keep-fp32 a,b"), "8.6",
         "--fp16 --layerPrecisions=a:fp32,b:fp32 --precisionConstraints=obey"),
        (spec("--precision fp16 --keep-fp32 a --strongly-typed"), "10.13", "--stronglyTyped"),
        (spec("--timing-cache some.cache"), "8.0", "--timingCacheFile={cwd}/some.cache"),
        (spec("--skip-inference"), "8.5", "--buildOnly"),
        (spec("--skip-inference"), "8.6", "--skipInference"),
        (spec("--strip-weights"), "9.3", "--weightless"),
        (spec("--strip-weights --refit"), "10.0", "--refit --stripWeights"),
        (spec("--no-cuda-graph --data-transfers"), "10.13", ""),
        (spec("--no-cuda-graph --data-transfers"), "11.1", "--noCudaGraph --includeDataTransfers"),
        (spec("--profiling-verbosity detailed"), "8.0", "--nvtxMode=verbose"),
        (spec("--profiling-verbosity detailed"), "8.2", "--profilingVerbosity=detailed"),
    ],
)  # fmt: skip
def test_word_for_word(asked: BuildSpec, version: str, words: str) -> None:
    assert " ".join(argv(asked, version)) == f"{FILES} {words.format(cwd=Path.cwd())}".strip()


def test_what_no_flag_says_any_more_is_done_to_the_graph() -> None:
    found = translate(FP16, "tensorrt", "11.1")
    assert [step["do"] for step in found.graph] == ["input_types", "output_types", "cast"]
    assert found.graph[0]["value"] == ["fp16"]
    assert any("--explicit-batch" in note for note in found.notes)
    rtx = translate(FP16, "tensorrt-rtx", "1.7")
    assert rtx.graph == found.graph
    assert [step["do"] for step in rtx.steps if "verbosity" not in step["name"]] == [
        "io_formats"
    ] * 2


@pytest.mark.parametrize("version", TENSORRT)
@pytest.mark.parametrize(("text", "mib"), [("1024", 1024), ("4G", 4096), ("512M", 512)])
def test_workspace(version: str, text: str, mib: int) -> None:
    asked = spec(f"--workspace {text}")
    assert asked.wishes == {"workspace": mib * 2**20}
    old = padded(version) < (8, 4)
    flag = f"--workspace={mib}" if old else f"--memPoolSize=workspace:{mib}"
    assert argv(asked, version)[-1] == flag
    steps = through("api", asked, "tensorrt", version).steps
    name = {"do": "set", "name": "max_workspace_size"}
    new = {"do": "memory_pool", "name": "WORKSPACE"}
    assert {**(name if old else new), "value": mib * 2**20} in steps
    pooled = spec(f"--mem-pool-size workspace:{text}")
    assert argv(pooled, version)[-1] == flag


def test_a_fraction_of_a_mib_is_not_cut_off() -> None:
    assert argv(spec("--workspace 512K"), "8.4")[-1] == "--memPoolSize=workspace:0.5"
    with pytest.raises(UsageError, match=r"whole MiB, not 0\.5"):
        argv(spec("--workspace 512K"), "8.2")
    assert not study(spec("--workspace 512K"), "tensorrt", "8.2").refused  # the API takes bytes


@pytest.mark.parametrize("version", TENSORRT)
def test_one_profile_and_two(version: str) -> None:
    one = argv(spec(profiles=(PROFILE,)), version)
    shapes = [f"--{kind}Shapes=image:{size}x3x224x224" for kind, size in
              (("min", 1), ("opt", 8), ("max", 16))]  # fmt: skip
    assert one[-3:] == shapes
    two = spec(profiles=(PROFILE, OTHER_PROFILE))
    assert {"do": "profiles"} in through("api", two, "tensorrt", version).steps
    if padded(version) < (9, 0):
        with pytest.raises(UsageError, match="profiles"):
            argv(two, version)
    else:
        said = argv(two, version)[3:]
        assert said[:4] == ["--profile=0", *shapes]
        assert said[4] == "--profile=1"
        assert said[5] == "--minShapes=image:1x3x512x512"


@pytest.mark.parametrize("version", TENSORRT)
def test_batch_apart_from_the_shapes_is_refused_with_the_shapes_to_give(version: str) -> None:
    for text in ("--batch 8", "--max-batch 8"):
        with pytest.raises(UsageError, match="implicit batch") as caught:
            translate(spec(text), "tensorrt", version)
        assert "--shapes INPUT:" in (caught.value.hint or "")


def test_pools_are_one_flag_and_plugins_are_many() -> None:
    pools = argv(spec("--mem-pool-size workspace:2G,dlaSRAM:1,tacticSharedMem:1"), "10.13")
    assert pools[3:] == ["--memPoolSize=dlaSRAM:1,tacticSharedMem:1,workspace:2048"]
    plugins = argv(spec(f"--static-plugins {__file__} /dev/../{__file__}"), "8.5")
    assert plugins[3:] == [f"--plugins={__file__}"] * 2
    assert argv(spec(f"--static-plugins {__file__}"), "8.6")[3:] == [f"--staticPlugins={__file__}"]


@pytest.mark.parametrize(
    ("text", "flavour", "version", "reason", "hint"),
    [
        ("--builder-optimization-level 5", "tensorrt", "8.5.3.1", "come with TensorRT 8.6", "--heuristic"),
        ("--heuristic", "tensorrt", "10.0", "gone in TensorRT 10", "--builder-optimization-level 2"),
        ("--min-timing 2", "tensorrt", "10.0", "gone in TensorRT 10", "--avg-timing"),
        ("--precision bf16", "tensorrt", "8.6", "comes with TensorRT 9.0", "--precision fp16"),
        ("--precision best", "tensorrt", "11.0", "strongly typed networks only", "name the precision"),
        ("--max-tactics 5", "tensorrt", "10.1", "no such thing", "tensorrt 10.4 on"),
        ("--strongly-typed --precision fp16", "tensorrt", "8.6", "come with TensorRT 9.0", "obey"),
        ("--native-instance-norm", "tensorrt", "8.6.0", "no such thing", "8.6.1"),
        ("--use-dla-core 0", "tensorrt-rtx", "1.7", "does not use the DLA", "l4t"),
        ("--sm 8.6", "tensorrt", "10.13", "builds for the GPU it runs on", "--hardware-compatible"),
        ("--avg-runs 5", "tensorrt-rtx", "1.7", "no such thing", "tensorrt 7.0 on"),
    ],
)  # fmt: skip
def test_a_refusal_says_why_and_what_to_ask_for(
    text: str, flavour: str, version: str, reason: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        translate(spec(text), flavour, version)
    assert f"{flavour} {version} cannot do" in caught.value.message
    assert reason in caught.value.message
    assert hint in (caught.value.hint or "")


def test_what_the_api_cannot_say_goes_to_trtexec_and_back() -> None:
    found = translate(spec("--sparsity force"), "tensorrt", "8.6")
    assert found.builder == "trtexec"
    assert "built by trtexec: the Python API cannot say --sparsity" in found.notes
    assert translate(spec("--sparsity enable"), "tensorrt", "8.6").builder == "api"
    with pytest.raises(UsageError, match="only trtexec can") as caught:
        translate(spec("--sparsity force", builder="api"), "tensorrt", "8.6")
    assert caught.value.hint == "--builder trtexec"
    with pytest.raises(UsageError):  # nor is there a trtexec everywhere
        translate(spec("--sparsity force"), "tensorrt", "8.6", ("api",))


def test_raw_flags_are_trtexecs() -> None:
    raw = spec("--precision fp16", extra=("--verbose", "--streams=2"))
    found = translate(raw, "tensorrt", "8.6")
    assert found.builder == "trtexec"
    assert found.flags == ("--fp16", "--verbose", "--streams=2")
    assert any("--streams is deprecated since 8.6.0" in note for note in found.notes)
    with pytest.raises(UsageError, match="trtexec's own"):
        translate(raw._replace(builder="api", extra=("--verbose",)), "tensorrt", "8.6")
    with pytest.raises(UsageError, match="--fp16 is given twice"):
        translate(raw._replace(extra=("--fp16",)), "tensorrt", "8.6")
    with pytest.raises(UsageError, match="has none"):
        translate(raw, "tensorrt-rtx", "1.7")


@pytest.mark.parametrize(("flavour", "version"), [("tensorrt", "6.0.1"), ("tensorrt-rtx", "0.9")])
def test_versions_before_the_tables_are_refused(flavour: str, version: str) -> None:
    with pytest.raises(UsageError, match="nothing is known"):
        translate(spec(), flavour, version)


@pytest.mark.parametrize(
    ("line", "version", "builder", "since"),
    [
        ("--input-io-formats bf16:chw", "8.6", "api", "9.0"),
        ("--input-io-formats fp16:dhwc", "8.5", "api", "8.6"),
        ("--output-io-formats fp16:hwc16", "10.8", "trtexec", "10.12"),
        ("--precision fp8 --layer-precisions a:fp8", "8.5", "api", "8.6"),
        ("--precision fp16 --layer-output-types a:fp16+int64", "8.6", "trtexec", "9.0"),
    ],
)
def test_types_and_layouts_are_refused_before_the_version_that_brings_them(
    line: str, version: str, builder: str, since: str
) -> None:
    wanted = spec(line)._replace(builder=builder)
    refused = study(wanted, "tensorrt", version).refused
    assert any(f"comes with TensorRT {since}" in str(entry.reason) for entry in refused)
    assert not study(wanted, "tensorrt", since).refused
