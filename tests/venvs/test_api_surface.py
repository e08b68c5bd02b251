"""What the dialect says to the Python API, held against the real bindings of each TensorRT.

The bindings are a megabyte; the libraries under them, gigabytes that need a GPU, are empty ones of
the same names: lazy binding asks only for functions whose address is taken. Nothing is called. Of
TensorRT 7.0 to 8.4 and 9 no bindings are on the package index: there the rows stand on their
sources alone.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes.gpu_standin import load_standin
from pythons import interpreter
from samples import VERSIONS, single_wishes

from trtenv.dialect.build import study
from trtenv.runners.protocol import JOBS_FOLDER

sys.path.insert(0, str(JOBS_FOLDER))

from runtime.bindings import API

pytestmark = pytest.mark.venv

# Requirement, and the version that the dialect is asked for. Of each release whose rows differ.
BINDINGS = {
    "8.5.3.1": "tensorrt==8.5.3.1",
    "8.6.0": "tensorrt==8.6.0",
    "8.6.1": "tensorrt-bindings==8.6.1",
    **{
        version: f"tensorrt-cu12-bindings=={version}"
        for version in (
            *("10.0.1", "10.1.0", "10.2.0", "10.3.0", "10.4.0", "10.6.0", "10.8.0.43", "10.9.0.34"),
            *("10.10.0.31", "10.12.0.36", "10.13.3.9", "10.14.1.48.post1", "10.16.1.11"),
            *("11.0.0.114", "11.1.0.106", "11.2.1.2", "11.3.0.99", "11.4.0.106"),
        )
    },
    **{
        version: f"tensorrt-rtx-cu12-bindings=={version}"
        for version in ("1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116")
    },
}
ENGINES = Path(__file__).parents[1] / "data" / "engines"
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
# The functions whose addresses the bindings take when they are imported; those of 8.x are C++.
TAKEN = (
    *("getNvOnnxParserVersion", "getBuilderPluginRegistry", "getPluginRegistry"),
    *("initLibNvInferPlugins", "_ZN14nvcaffeparser117createCaffeParserEv"),
    *("_ZN14nvcaffeparser123shutdownProtobufLibraryEv", "_ZN11nvuffparser15createUffParserEv"),
)
LIBRARIES = (
    *(f"lib{name}.so.{major}" for major in (8, 10, 11) for name in ("nvinfer", "nvonnxparser")),
    *(f"libnvinfer_plugin.so.{major}" for major in (8, 10, 11)),
    *("libnvparsers.so.8", "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
)
# Classes with their attributes, enums with their members.
READ = """
import importlib, json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
trt = importlib.import_module(sys.argv[1])
classes = {name: entry for name, entry in vars(trt).items() if isinstance(entry, type)}
json.dump({name: sorted(getattr(entry, "__members__", dir(entry)))
           for name, entry in classes.items()}, sys.stdout)
"""
TYPES = dict(
    zip(
        ("fp32", "fp16", "bf16", "int32", "int64", "int8", "uint8", "fp8", "bool"),
        ("FLOAT", "HALF", "BF16", "INT32", "INT64", "INT8", "UINT8", "FP8", "BOOL"),
        strict=True,
    )
)
Surface = Mapping[str, list[str]]

# Refused to TensorRT-RTX, which has the names of TensorRT's API and does nothing behind these.
NAMES_ONLY = {
    *("precision", "layer_precisions", "layer_output_types"),  # gone in 1.5
    *("mem_pool_size", "use_dla_core", "allow_gpu_fallback", "layer_device_types"),  # the DLA's
    *("static_plugins", "dynamic_plugins", "plugins_to_serialize"),
    *("version_compatible", "exclude_lean_runtime", "hardware_compatible"),
    *("tactic_sources", "tiling_optimization_level", "l2_limit_for_tiling", "export_layer_info"),
    *("preview", "direct_io"),  # undocumented
}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("no gcc for the stand-ins of TensorRT's libraries")
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in TAKEN))
    for name in LIBRARIES:
        gcc = ["gcc", "-shared", "-fPIC", "-o", str(folder / name), f"-Wl,-soname,{name}"]
        subprocess.run([*gcc, str(source)], check=True)
    return folder


def unpacked(version: str, cache: Path) -> Path:
    """The bindings alone: the wheels of 8.5 and 8.6.0 hold the libraries too."""
    folder = cache / "bindings" / version
    if folder.is_dir():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.10", "--implementation", "cp", "--abi", "cp310"]
    command += ["--abi", "none", *(f"--platform={platform}" for platform in PLATFORMS)]
    subprocess.run([*command, "-d", str(part / "wheel"), BINDINGS[version]], check=True)
    (wheel,) = (part / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(("/tensorrt.so", "/tensorrt_rtx.so", ".py")):
                archive.extract(name, part)
    shutil.rmtree(part / "wheel")
    return part.rename(folder)


@pytest.fixture(scope="session", params=BINDINGS)
def bindings(
    request: pytest.FixtureRequest, libraries: Path, shared_cache: Path
) -> tuple[str, str, Surface]:
    """Flavour, version, and what the bindings hold."""
    version = request.param
    if version in ("8.5.3.1", "8.6.0") and shutil.disk_usage(libraries).free < 2 * 10**9:
        pytest.skip("needs 2 GB on the disk")
    site = unpacked(version, shared_cache)
    package = next(site.glob("tensorrt*")).name
    run = subprocess.run(
        [interpreter("3.10"), "-c", READ, package],
        env={"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        check=True,
    )
    flavour = "tensorrt-rtx" if "rtx" in package else "tensorrt"
    return flavour, version, json.loads(run.stdout)


# Class and attribute, or enum and member, of all that a step of the API takes; {} are the step's.
NEEDS = {
    "network_flag": "NetworkDefinitionCreationFlag.{name}",
    "parser_flag": "OnnxParserFlag.{name} OnnxParser.set_flag",
    "set_flag": "BuilderFlag.{name} IBuilderConfig.set_flag",
    "clear_flag": "BuilderFlag.{name} IBuilderConfig.clear_flag",
    "set": "IBuilderConfig.{name}",
    "set_enum": "{enum}.{value} IBuilderConfig.{name}",
    "memory_pool": "MemoryPoolType.{name} IBuilderConfig.set_memory_pool_limit",
    "tactic_source": "TacticSource.{name} IBuilderConfig.set_tactic_sources "
    "IBuilderConfig.get_tactic_sources",
    "preview": "PreviewFeature.{name} IBuilderConfig.set_preview_feature",
    "io_formats": "ITensor.allowed_formats ITensor.dtype",
    "layer_precisions": "ILayer.precision",
    "layer_output_types": "ILayer.set_output_type",
    "layer_device_types": "IBuilderConfig.set_device_type DeviceType.DLA DeviceType.GPU",
    "compute_capabilities": "IBuilderConfig.num_compute_capabilities "
    "IBuilderConfig.set_compute_capability",
    "load_libraries": "",  # by the dynamic loader
    "plugin_registry": "Builder.get_plugin_registry IPluginRegistry.load_library",
    "profiles": "Builder.create_optimization_profile IBuilderConfig.add_optimization_profile "
    "IOptimizationProfile.set_shape IOptimizationProfile.set_shape_input",
    "calibrate": "IBuilderConfig.int8_calibrator IInt8EntropyCalibrator2.get_batch "
    "IInt8MinMaxCalibrator.get_batch",
    "timing_cache": "IBuilderConfig.create_timing_cache IBuilderConfig.set_timing_cache "
    "ITimingCache.serialize",
    "export_layer_info": "EngineInspector.get_engine_information LayerInformationFormat.JSON",
}


def needs(step: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name in NEEDS[step["do"]].format(**step).split():
        yield tuple(name.split("."))
    if step["do"] == "compute_capabilities":
        yield from (("ComputeCapability", "SM" + sm.replace(".", "")) for sm in step["value"])
    if step["do"] == "io_formats":
        for entry in step["value"]:
            yield from (("TensorFormat", layout) for layout in entry["layouts"])
            yield from [("DataType", TYPES[entry["type"]])] if entry["type"] else []
    if step["do"] in ("layer_precisions", "layer_output_types"):
        for types in step["value"].values():
            yield from (("DataType", TYPES[part]) for part in types.split("+"))


def missing(step: Mapping[str, Any], surface: Surface) -> list[str]:
    return [f"{owner}.{name}" for owner, name in needs(step) if name not in surface.get(owner, ())]


def test_all_that_is_said_to_the_api_exists(bindings: tuple[str, str, Surface]) -> None:
    flavour, version, surface = bindings
    wrong = {}
    for spec in single_wishes():
        for entry in study(spec, flavour, version, ("api",)).entries:
            if lacking := [name for step in entry.steps for name in missing(step, surface)]:
                wrong[f"{entry.option} {entry.value}"] = lacking
    assert wrong == {}


@pytest.fixture(scope="session")
def said() -> list[dict[str, list[tuple[Mapping[str, Any], ...]]]]:
    """By single wish and option: how any TensorRT is told of it."""
    found: list[dict[str, list[tuple[Mapping[str, Any], ...]]]] = []
    for spec in single_wishes():
        ways: dict[str, list[tuple[Mapping[str, Any], ...]]] = {}
        for flavour, version in VERSIONS:
            for entry in study(spec, flavour, version, ("api",)).entries:
                if entry.steps and entry.steps not in ways.setdefault(entry.option, []):
                    ways[entry.option].append(entry.steps)
        found.append(ways)
    return found


def test_what_is_refused_is_really_absent(
    bindings: tuple[str, str, Surface], said: list[dict[str, list[tuple[Mapping[str, Any], ...]]]]
) -> None:
    """Refused here and said to others: something of what others are told is missing here."""
    flavour, version, surface = bindings
    able = set()
    for spec, ways in zip(single_wishes(), said, strict=True):
        for entry in study(spec, flavour, version, ("api",)).refused:
            for steps in ways.get(entry.option, ()):
                if not any(missing(step, surface) for step in steps):
                    able.add(entry.option)
                    assert entry.reason != "this version has no such thing"
    assert able <= (NAMES_ONLY if flavour == "tensorrt-rtx" else set())


def test_an_invented_name_would_be_found(bindings: tuple[str, str, Surface]) -> None:
    surface = bindings[2]
    assert missing({"do": "set_flag", "name": "FP17"}, surface) == ["BuilderFlag.FP17"]
    assert missing({"do": "set", "name": "max_worksize"}, surface) == [
        "IBuilderConfig.max_worksize"
    ]


# What the engine runner uses where it is: the first version of TensorRT, and whether TensorRT-RTX has it.
OPTIONAL = {
    "ICudaEngine.get_tensor_profile_values": ((10,), True),
    "IExecutionContext.is_stream_capturable": ((99,), True),
    "Runtime.engine_host_code_allowed": ((8, 6), True),
    "Runtime.get_plugin_registry": ((8, 6), True),
    "DataType.UINT8": ((8, 5), True),
    "DataType.FP8": ((8, 6), True),
    "DataType.INT64": ((10,), True),
    "DataType.BF16": ((10,), True),
}


def lacking(group: str, surface: Surface) -> list[str]:
    pairs = (name.split(".") for name in API[group].split())
    return [f"{owner}.{name}" for owner, name in pairs if name not in surface.get(owner, ())]


def test_all_that_the_engine_runner_calls_exists(bindings: tuple[str, str, Surface]) -> None:
    flavour, version, surface = bindings
    engine = surface["ICudaEngine"]
    assert lacking("always", surface) == []
    assert "num_io_tensors" in engine or "num_bindings" in engine
    if "num_io_tensors" in engine:
        assert lacking("tensors", surface) == []
        # One of them tells the values of inputs that are shapes.
        assert {"get_tensor_profile_values", "get_profile_shape_input"} & set(engine)
    if "num_bindings" in engine:
        assert lacking("bindings", surface) == []
    numbers = tuple(int(part) for part in version.split(".")[:2])
    expected = {
        name
        for name, (first, in_rtx) in OPTIONAL.items()
        if (in_rtx if flavour == "tensorrt-rtx" else numbers >= first)
    }
    assert set(API["optional"].split()) == set(OPTIONAL)
    assert set(API["optional"].split()) - set(lacking("optional", surface)) == expected


RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import cuda
from runtime import engines
from worker import JobError

class IO(object):
    def log(self, text):
        pass
    def progress(self, *_):
        pass

for driver in (None, cuda.load_driver(sys.argv[2])):
    try:
        engines.EngineRunner({"path": sys.argv[3], "flavour": "tensorrt"}, IO(), 2, driver)
    except JobError as error:
        print(json.dumps([error.kind, error.message]))
"""


def test_the_engine_runner_says_that_it_needs_a_gpu_on_every_python(
    python: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """With the real TensorRT 8.5.3: without a driver, and with one that has no GPU behind it."""
    minor = Path(python[0]).resolve().name.removeprefix("python")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--target", python[1]["PYTHONPATH"], "--python-version", minor, "numpy<1.24"]
    subprocess.run(command, check=True)
    load_standin(tmp_path)
    engine = ENGINES / "trt8531_sm90.engine"
    argv = [python[0], "-c", RUN, str(JOBS_FOLDER), str(tmp_path / "libcuda.so.1"), str(engine)]
    done = subprocess.run(argv, env=python[1], check=True, capture_output=True, text=True)
    absent, mute = map(json.loads, done.stdout.splitlines())
    assert absent[0] == mute[0] == "no-gpu"
    assert "the CUDA driver is not here" in absent[1]
    assert "TensorRT could not start its runtime" in mute[1]
