from pathlib import Path

import pytest

from trtenv.errors import UsageError
from trtenv.spec.build import BuildSpec
from trtenv.spec.model import parse_model
from trtenv.spec.options import BY_NAME
from trtenv.spec.values import compute_capabilities, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 2**30),
        ("4G", 2**32),
        ("512M", 2**29),
        ("1.5g", 3 * 2**29),
        ("64KiB", 2**16),
        ("100B", 100),
    ],
)
def test_sizes_are_trtexecs_mebibytes_unless_a_unit_says_otherwise(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4T", "-1", "0", "G", "1e9", "99999999999G"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_compute_capabilities_in_all_spellings_are_sorted() -> None:
    assert compute_capabilities("8.9,sm86,75,sm_120") == ["7.5", "8.6", "8.9", "12.0"]


@pytest.mark.parametrize("text", ["8", "8.6.1", "ampere"])
def test_bad_compute_capabilities_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        compute_capabilities(text)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("tactic_sources", "-CUBLAS,+cudnn", {"CUBLAS": False, "CUDNN": True}),
        ("precision", "FP16", "fp16"),
        ("mem_pool_size", "workspace:4G,dlaSRAM:1", {"workspace": 2**32, "dlaSRAM": 2**20}),
        ("layer_precisions", "conv:1:fp16,*:fp32", {"conv:1": "fp16", "*": "fp32"}),
        ("layer_output_types", "split:fp16+fp32", {"split": "fp16+fp32"}),
        ("input_io_formats", "fp16:chw", [{"type": "fp16", "layouts": ["chw"]}]),
        (
            "output_io_formats",
            "fp32:chw+chw32,hwc8",
            [{"type": "fp32", "layouts": ["chw", "chw32"]}, {"type": None, "layouts": ["hwc8"]}],
        ),
        ("percentile", "90,95.5", [90, 95.5]),
        ("duration", "0.5", 0.5),
    ],
)
def test_options_are_read_in_trtexecs_grammar(option: str, text: str, value: object) -> None:
    assert BY_NAME[option].read(text) == value


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("tactic_sources", "CUBLAS"),
        ("tactic_sources", "-MAGIC"),
        ("precision", "half"),
        ("mem_pool_size", "vram:1G"),
        ("layer_precisions", "conv1"),
        ("layer_precisions", "conv1:fp12"),
        ("input_io_formats", "fp16:cwh"),
        ("input_io_formats", ""),
        ("builder_optimization_level", "6"),
        ("percentile", "101"),
        ("keep_fp32", "a,,b"),
    ],
)
def test_a_wrong_value_is_refused_with_its_flag(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=BY_NAME[option].flag):
        BY_NAME[option].read(text)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"workspace": 1, "mem_pool_size": {"workspace": 1}}, "both set the workspace"),
        ({"calibration": "x"}, "no use in tf32"),
        ({"precision": "int8", "quantization": "qdq"}, "no data to measure"),
        (
            {"precision": "fp8", "calibration": "x", "quantization": "calibration"},
            "Q/DQ nodes alone",
        ),
        ({"keep_fp32": ["a"]}, "no use in tf32"),
        ({"reproducible": True, "timing_cache": "none"}, "forbids one"),
        ({"calibration_mean": [1, 2]}, "one for each channel"),
        ({"magic": 1}, "no option is called magic"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(
    wishes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        BuildSpec(wishes=wishes).check()


@pytest.mark.parametrize(
    ("text", "kind", "name", "stem"),
    [
        ("torchvision:resnet18", "torchvision", "resnet18", "resnet18"),
        ("ultralytics:yolo11n.pt", "ultralytics", "yolo11n.pt", "yolo11n"),
        ("yolov5:yolov5s.pt", "yolov5", "yolov5s.pt", "yolov5s"),
    ],
)
def test_models_by_prefix(text: str, kind: str, name: str, stem: str) -> None:
    found = parse_model(text)
    assert (found.kind, found.name, found.stem, found.path) == (kind, name, stem, None)


def test_factory_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my net.py"
    file.touch()
    found = parse_model(f"{file}:make")
    assert (found.kind, found.path, found.name, found.stem) == (
        "python",
        file,
        "make",
        "my net-make",
    )
    assert parse_model(f"{file}:model").stem == "my net"


def test_file_without_a_factory_is_told_how(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.touch()
    with pytest.raises(UsageError, match="names no factory"):
        parse_model(str(file))


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".onnx", "onnx"), (".pt2", "exported"), (".ts", "torchscript"), (".pth", "pickle")],
)
def test_models_by_suffix(tmp_path: Path, suffix: str, kind: str) -> None:
    file = tmp_path / f"net{suffix}"
    file.touch()
    assert parse_model(str(file)).kind == kind


@pytest.mark.parametrize("text", ["nothing.onnx", "nothing.py:f", "model.h5", "", "torchvision:"])
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_model(text)


def test_folder_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "net.onnx"
    folder.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        parse_model(str(folder))
