from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from trtenv.engine.inspect import Inspection, Kind, inspect
from trtenv.errors import ArtifactError

ENGINES = Path(__file__).parents[1] / "data" / "engines"
TRT85 = (ENGINES / "trt8531_sm90.engine").read_bytes()
TRT86 = (ENGINES / "trt860_ampereplus.engine").read_bytes()
RTX17 = (ENGINES / "rtx17_sm89_sm120.engine").read_bytes()
KEYS = {
    *("findings", "gpu", "kind", "onnx", "path", "plan"),
    *("sha256", "size", "stamp", "title", "unknown", "wrapper"),
}


def written(folder: Path, data: bytes, name: str = "m.engine") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def as_json(found: Inspection) -> str:
    return json.dumps(found.to_dict(), allow_nan=False)


def onnx_model(*nodes: object) -> bytes:
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3])
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([relu, *nodes], "g", [tensor], [tensor])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_engine_of_8_5(tmp_path: Path) -> None:
    found = inspect(written(tmp_path, TRT85))
    assert (found.kind, found.title) == (Kind.ENGINE, "TensorRT 8.5.3.1 engine")
    assert (found.size, found.sha256) == (len(TRT85), hashlib.sha256(TRT85).hexdigest())
    assert found.gpu is not None
    assert (found.gpu.family, found.gpu.known_from) == ("sm90", "archive")
    assert found.gpu.kernel_families == ("sm50", "sm80", "sm90")
    assert found.unknown == ("exact GPU model", "precision", "inputs and outputs")
    assert (found.wrapper, found.stamp, found.onnx, found.findings) == (None, None, None, ())


def test_hardware_compatible_engine_says_so_and_has_older_kernels(tmp_path: Path) -> None:
    found = inspect(written(tmp_path, TRT86))
    assert found.gpu is not None
    assert found.gpu.kernel_families == ("sm50", "sm80")
    assert "ampere-plus" in found.gpu.note
    assert "version compatibility" in found.unknown
    assert "weight stripping" not in found.unknown


def test_without_the_archives_opening_kernel_names_tell_the_family(tmp_path: Path) -> None:
    data = bytearray(TRT85)
    data[24] = 99
    found = inspect(written(tmp_path, bytes(data)))
    assert found.title == "TensorRT 8.5 engine"
    assert found.gpu is not None
    assert (found.gpu.family, found.gpu.known_from) == ("sm90", "kernel names")
    assert found.unknown[:2] == ("TensorRT patch version", "compute capability it was built on")


def test_rtx_engine_has_targets_and_no_gpu(tmp_path: Path) -> None:
    found = inspect(written(tmp_path, RTX17))
    assert found.title == "TensorRT-RTX 1.7.1.116 engine"
    assert found.gpu is None
    assert found.plan is not None
    assert found.plan.targets == ("8.9", "12.0")
    assert "exact GPU model" not in found.unknown


@pytest.mark.parametrize("position", range((1 << 20) + 8192 - 14, (1 << 20) + 8192 + 3))
def test_kernel_name_across_a_seam_is_found(tmp_path: Path, position: int) -> None:
    data = bytearray(TRT85[:512] + bytes((1 << 20) + 16384))
    data[position : position + 11] = b"sm120_xmma_"
    found = inspect(written(tmp_path, bytes(data)))
    assert found.gpu is not None
    assert found.gpu.kernel_families == ("sm120",)


def test_helpers_and_embedded_tools_are_no_kernels(tmp_path: Path) -> None:
    data = TRT85[:512] + b"sm70_shflsync .target sm_86 sm75 _xmma_ sm1_xmma_"
    found = inspect(written(tmp_path, data))
    assert found.gpu is not None
    assert found.gpu.kernel_families == ()


def test_truncated_engine_is_a_finding(tmp_path: Path) -> None:
    found = inspect(written(tmp_path, TRT86[:-17]))
    assert found.findings == ("the plan is not whole: truncated by 17 bytes",)


def test_ultralytics_engine_shows_metadata_and_offset(tmp_path: Path) -> None:
    metadata = b'{"task": "segment", "imgsz": [640, 640]}'
    found = inspect(written(tmp_path, struct.pack("<i", len(metadata)) + metadata + TRT86))
    assert found.title == "TensorRT 8.6.0.12 engine behind Ultralytics metadata"
    assert found.wrapper is not None
    assert found.wrapper.metadata == {"task": "segment", "imgsz": [640, 640]}
    assert found.plan_offset == 4 + len(metadata)
    assert found.plan is not None
    assert found.plan.size_text == "whole"


@pytest.mark.parametrize("metadata", [b"[1]", b"\xff\xfe", b'{"a":' * 9000, b"{", b" "])
def test_unusable_metadata_is_a_finding(tmp_path: Path, metadata: bytes) -> None:
    found = inspect(written(tmp_path, struct.pack("<i", len(metadata)) + metadata + RTX17))
    assert found.wrapper is not None
    assert found.wrapper.metadata is None
    assert found.findings[0].startswith("the ultralytics metadata is unusable: ")
    assert found.plan is not None


def test_hostile_metadata_is_still_json(tmp_path: Path) -> None:
    metadata = b'{"a": 1e999, "\\udc80": "\\ud800", "b": [NaN]}'
    found = inspect(written(tmp_path, struct.pack("<i", len(metadata)) + metadata + RTX17))
    assert json.loads(as_json(found))["wrapper"]["metadata"] == {
        "?": "?",
        "a": "1e999",
        "b": ["NaN"],
    }


def test_executorch_blob_is_looked_into(tmp_path: Path) -> None:
    head = struct.pack("<4sIIIQ8s", b"TR01", 32, 2, 48, len(TRT86), b"\1") + b"{}"
    found = inspect(written(tmp_path, head.ljust(48, b"\0") + TRT86 + b"more"))
    assert found.title == "TensorRT 8.6.0.12 engine in a Torch-TensorRT ExecuTorch blob"
    assert found.plan is not None
    assert (found.plan_offset, found.plan.size_text) == (48, "whole")


def test_onnx_model(tmp_path: Path) -> None:
    found = inspect(written(tmp_path, onnx_model(), "m.onnx"))
    assert (found.kind, found.title) == (Kind.ONNX, "ONNX model, IR 8, opset ai.onnx 17")
    assert found.onnx is not None
    assert found.onnx.inputs[0].type == "float16"
    assert (found.plan, found.unknown) == (None, ())


def test_onnx_model_around_an_engine_is_looked_into(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", [], [], embed_mode=1, ep_cache_context=TRT86)
    found = inspect(written(tmp_path, onnx_model(node), "m.onnx"))
    expected = "ONNX model, IR 8, opset ai.onnx 17, around a TensorRT 8.6.0.12 engine (EPContext)"
    assert found.title == expected
    assert found.plan is not None
    assert found.plan.size_text == "whole"
    assert found.path.read_bytes()[found.plan_offset :].startswith(TRT86)


def test_onnx_model_around_something_else_says_so(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", [], [], embed_mode=1, ep_cache_context=b"openvino")
    found = inspect(written(tmp_path, onnx_model(node), "m.onnx"))
    assert found.title.endswith("around a compiled engine (EPContext)")
    assert found.plan is None


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"\0" * 100, "neither a TensorRT engine nor an ONNX model: it starts with 00 00"),
        (zipped("m/data.pkl", "m/constants.pkl"), "a TorchScript archive"),
        (zipped("m/data.pkl", "m/version"), "a PyTorch checkpoint"),
        (zipped("m/archive_format"), "a torch.export archive"),
        (zipped("a.txt"), "a zip archive"),
        (struct.pack("<Q", 14) + b'{"a":{"x":1}} ' + bytes(16), "a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "an HTML or XML page"),
        (b'{"sha256": "00"}', "JSON text"),
        (b"\x80\x02}q\0.", "a pickle"),
        (struct.pack("<QI", 40, 32) + bytes(28), "TensorRT 5 or older"),
        (struct.pack("<i", 30) + b'{"a": 1}' + bytes(40), "30 bytes of Ultralytics metadata"),
        (b"ftrt" + bytes(20), "the plan is cut short: 24 bytes"),
        (b"TR01" + bytes(40), "no TensorRT plan starts here"),
        (onnx_model()[:-10], "cut short"),
    ],
)
def test_what_is_no_engine_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ArtifactError) as caught:
        inspect(path)
    assert what in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "loop", "gone", ".", "x" * 300, "a\0b"):
        with pytest.raises(ArtifactError) as caught:
            inspect(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(ArtifactError, match="no regular file"):
        inspect(Path("/dev/zero"))


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = written(tmp_path, TRT86)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied"):
        inspect(path)


def test_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, TRT86)
    real = os.pread

    def growing(descriptor: int, length: int, offset: int) -> bytes:
        with path.open("ab") as handle:
            handle.write(b"x")
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", growing)
    with pytest.raises(ArtifactError, match="changed while it was read"):
        inspect(path)


def test_matching_stamp_leaves_little_unknown(tmp_path: Path) -> None:
    path = written(tmp_path, TRT86)
    document = {"sha256": hashlib.sha256(TRT86).hexdigest(), "io": {"image": 1}}
    written(tmp_path, json.dumps(document).encode(), "m.engine.json")
    found = inspect(path)
    assert found.stamp is not None
    assert (found.stamp.sha256, found.stamp.document) == ("matches", document)
    assert (found.unknown, found.findings) == ((), ())


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (b'{"sha256": "00"}', "differs"),
        (b'{"sha256": 5}', "absent"),
        (b"{}", "absent"),
        (b"", "unreadable"),
        (b"[]", "unreadable"),
        (b'{"sha256":' * 2000, "unreadable"),
        (b"\xff", "unreadable"),
        (b" " * (5 << 20), "unreadable"),
    ],
)
def test_stamp_that_does_not_match_is_a_finding(tmp_path: Path, text: bytes, state: str) -> None:
    path = written(tmp_path, RTX17)
    written(tmp_path, text, "m.engine.json")
    found = inspect(path)
    assert found.stamp is not None
    assert found.stamp.sha256 == state
    assert len(found.findings) == 1
    assert "precision" in found.unknown
    assert as_json(found)


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling"])
def test_stamp_that_is_no_file_is_a_finding(tmp_path: Path, kind: str) -> None:
    path, beside = written(tmp_path, RTX17), tmp_path / "m.engine.json"
    match kind:
        case "folder":
            beside.mkdir()
        case "fifo":
            os.mkfifo(beside)
        case _:
            beside.symlink_to("gone")
    found = inspect(path)
    assert found.stamp is not None
    assert found.stamp.sha256 == "unreadable"
    assert found.findings[0].startswith("the stamp `m.engine.json` is unusable: ")


@pytest.mark.parametrize("data", [TRT85, RTX17, onnx_model()], ids=["trt", "rtx", "onnx"])
def test_json_has_the_same_sorted_keys_for_every_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / os.fsdecode(b"\xff.engine")
    path.write_bytes(data)
    text = as_json(inspect(path))
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert set(json.loads(text)) == KEYS
    text.encode("utf-8")


def test_a_large_file_is_read_once_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 96 << 20
    path = written(tmp_path, TRT86)
    os.truncate(path, size)
    taken = []
    real = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        taken.append((offset, length))
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    tracemalloc.start()
    try:
        found = inspect(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.findings == (f"the plan is not whole: {size - len(TRT86)} trailing bytes",)
    assert [offset for offset, _ in taken] == sorted(offset for offset, _ in taken)
    assert sum(length for _, length in taken) == size
    assert peak < 8 << 20


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(
        [b"", TRT85[:300], TRT86[:400], RTX17[:400], b"PK\x03\x04", b"TR02", b"\x08\x08"]
    ),
    st.binary(max_size=200),
)
def test_any_bytes_answer_or_are_refused(tmp_path: Path, start: bytes, data: bytes) -> None:
    path = written(tmp_path, start + data)
    written(tmp_path, data, "m.engine.json")
    with contextlib.suppress(ArtifactError):
        assert as_json(inspect(path))
