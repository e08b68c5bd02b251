from __future__ import annotations

import contextlib
import json
import struct
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtenv.engine import archive
from trtenv.engine.header import (
    HEAD_BYTES,
    MOST_METADATA,
    Flavour,
    PlanHeader,
    State,
    WrapperKind,
    find_wrapper,
    read_plan_header,
)
from trtenv.engine.metadata import parse_metadata
from trtenv.errors import ArtifactError

ENGINES = Path(__file__).parents[1] / "data" / "engines"
HEADS = tomllib.loads((ENGINES / "heads.toml").read_text())["head"]
TRT85 = (ENGINES / "trt8531_sm90.engine").read_bytes()
TRT86 = (ENGINES / "trt860_ampereplus.engine").read_bytes()
RTX17 = (ENGINES / "rtx17_sm89_sm120.engine").read_bytes()
REAL = {"8.5": TRT85, "8.6": TRT86, "rtx": RTX17}

CODES = {"c": (2, "B"), "i": (7, "i"), "q": (8, "Q"), "s": (9, "Q"), "b": (10, "B")}


def tagged(kinds: str, *values: int, bit15: bool = True) -> bytes:
    """Archive values as TensorRT writes them; `m` in `kinds` is a tag without a value."""
    parts, rest = [], list(values)
    for kind in kinds:
        code, form = CODES.get(kind, (0x12, ""))
        tag = 0x00010000 | (0x8000 if bit15 else 0) | code
        parts.append(struct.pack("<I" + form, tag, *([rest.pop(0)] if form else [])))
    assert not rest
    return b"".join(parts)


def new_plan(version: tuple[int, ...], number: int, opening: bytes, *, form: int) -> bytes:
    """A plan of 8.6 or later as its header says: `form` 1 up to 10.0, 2 from 10.6."""
    first = 56 if form == 1 else 80
    inner = (
        struct.pack("<4sIQQ", b"ptrt", 0, number, len(opening))
        if form == 1
        else struct.pack("<4sIQI", b"ptrt", number, len(opening), 0)
    ) + opening
    rows = struct.pack("<4sIQQ", b"NGNE", 0, first, len(inner))
    if form == 2:
        rows += struct.pack("<4sIQQ", b"THGW", 0, first + len(inner), 0)
    total = first + len(inner)
    return struct.pack("<4sIQQ", b"ftrt", 0, form, total) + bytes(version) + b"rtrt" + rows + inner


# The first values of engines that stand in public repositories (archives.toml names them).
XAVIER = tagged(
    "cccc" + "m" + "iiiii" + "qqqq" + "ib",
    *(7, 1, 3, 0),
    *(7, 2, 1377000, 1377000, 256),
    *(524288, 49152, 98304, 512),
    *(8, 1),
    bit15=False,
)
NANO = (5, 3, 921600, 12750, 64, 262144, 49152, 65536, 512, 1, 1, 1024, 2**31 - 1, 65535, 65535)
NANO_KINDS = "mm" + "iiiii" + "qqqq" + "ib" + "iiiis"
GTX1650 = (7, 5, 1485000, 6001000, 128, 1048576, 0, 49152, 65536, 512, 16, 0, 1024, 2**31 - 1)
RTX3060 = (12496666624, 2359296, 1622016, 1807000, 7501000, 192, 49152, 102400, 28, 0, 1024, 1024)


def test_version_8_5_is_exact_because_the_archive_names_it() -> None:
    plan = read_plan_header(TRT85[:8192], len(TRT85))
    assert (plan.flavour, plan.version, plan.version_from) == ("tensorrt", "8.5.3.1", "archive")
    assert (plan.layout, plan.archive_number, plan.release) == ("ptrt-8.2", 232, "8.5")
    assert plan.device == archive.Device("9.0", 132, 1980000, 85017493504, integrated=False)
    assert (plan.state, plan.size_text) == (State.WHOLE, "whole")
    assert plan.hardware_compatibility is None


def test_version_8_6_is_in_the_header_and_compatibility_in_the_archive() -> None:
    plan = read_plan_header(TRT86[:8192], len(TRT86))
    assert (plan.version, plan.version_from, plan.archive_number) == ("8.6.0.12", "header", 236)
    assert plan.hardware_compatibility == "ampere-plus"
    assert [(s.tag, s.offset, s.size) for s in plan.sections] == [("NGNE", 56, 1180126)]
    assert plan.findings == ()


def test_rtx_names_the_compute_capabilities_it_was_built_for() -> None:
    plan = read_plan_header(RTX17[:8192], len(RTX17))
    assert (plan.flavour, plan.version) == (Flavour.TENSORRT_RTX, "1.7.1.116")
    assert plan.targets == ("8.9", "12.0")
    assert plan.state is State.WHOLE
    assert plan.device is None


@pytest.mark.parametrize("row", HEADS, ids=lambda row: row["file"])
def test_heads_of_real_engines_say_what_was_built(row: dict[str, Any]) -> None:
    plan = read_plan_header((ENGINES / row["file"]).read_bytes(), row["size"])
    assert plan.state is State.WHOLE
    assert plan.version == row["version"]
    assert plan.archive_number == row["archive_number"]
    assert plan.layout == row["layout"]
    assert plan.targets == (tuple(row["targets"]) if "targets" in row else None)
    assert (plan.device and plan.device.compute_capability) == row.get("compute_capability")
    if "hardware_compatibility" in row:
        assert plan.hardware_compatibility == row["hardware_compatibility"]


def test_tensorrt_7_has_its_size_at_12() -> None:
    data = struct.pack("<4sIIQI", b"ptrt", 97, 211, len(XAVIER), 0xA34A5421) + XAVIER
    plan = read_plan_header(data, len(data))
    assert (plan.version, plan.layout, plan.release) == ("7.1.3.0", "ptrt-7", "7.1")
    assert plan.state is State.WHOLE
    assert plan.device == archive.Device("7.2", 8, 1377000, None, integrated=True)


def test_tensorrt_8_0_has_its_size_at_16_and_its_number_at_4() -> None:
    values = tagged("cccc" + NANO_KINDS, 8, 0, 1, 6, *NANO, 4148273152, bit15=False)
    data = struct.pack("<4sIIIQ", b"ptrt", 43, 0x100, 0x4DA88282, len(values)) + values
    plan = read_plan_header(data, len(data))
    assert (plan.version, plan.layout, plan.release) == ("8.0.1.6", "ptrt-8.0", "8.0")
    assert plan.state is State.WHOLE
    assert plan.device == archive.Device("5.3", 1, 921600, 4148273152, integrated=True)


def old_plan(number: int, values: bytes) -> bytes:
    return struct.pack("<4sIQQ", b"ptrt", 0, number, len(values)) + values


def test_tensorrt_8_2_has_both_at_8_and_16() -> None:
    data = old_plan(205, tagged("cccc" + NANO_KINDS, 8, 2, 1, 8, *NANO, 4156661760))
    plan = read_plan_header(data, len(data))
    assert (plan.version, plan.layout, plan.release) == ("8.2.1.8", "ptrt-8.2", "8.2")
    assert plan.device == archive.Device("5.3", 1, 921600, 4156661760, integrated=True)


def test_tensorrt_10_0_keeps_the_layout_of_8_6() -> None:
    kinds = "cccc" + "mimm" + "iiiii" + "qq" + "iiii" + "b" + "iiiiis"
    values = tagged(kinds, 10, 0, 1, 6, 0, *GTX1650, 65535, 65535, 0, 4294639616)
    data = new_plan((10, 0, 1, 6), 237, values, form=1)
    plan = read_plan_header(data, len(data))
    assert (plan.version, plan.layout, plan.archive_number) == ("10.0.1.6", "ftrt-1", 237)
    assert plan.hardware_compatibility == "none"
    assert plan.device == archive.Device("7.5", 16, 1485000, 4294639616, integrated=False)


def test_tensorrt_10_15_names_the_gpu_in_another_order() -> None:
    kinds = "cccc" + "mimm" + "sqq" + "iiiiii" + "iii" + "iii"
    values = tagged(kinds, 10, 15, 1, 29, 2, *RTX3060, 8, 6, 512)
    data = new_plan((10, 15, 1, 29), 240, values, form=2)
    plan = read_plan_header(data, len(data))
    assert (plan.version, plan.layout, plan.archive_number) == ("10.15.1.29", "ftrt-2", 240)
    assert plan.hardware_compatibility == "same-compute-capability"
    assert plan.device == archive.Device("8.6", 28, 1807000, 12496666624, integrated=None)
    assert [section.tag for section in plan.sections] == ["NGNE", "THGW"]


def test_archive_number_alone_narrows_to_a_release() -> None:
    plan = read_plan_header(old_plan(213, b"something else"), 38)
    assert (plan.version, plan.release) == (None, "8.4")


def test_unknown_archive_number_is_shown_and_not_guessed() -> None:
    plan = read_plan_header(old_plan(228, b"something else"), 38)
    assert (plan.version, plan.release, plan.archive_number) == (None, None, 228)


def test_old_layout_of_unknown_release_leaves_the_size_unknown() -> None:
    plan = read_plan_header(struct.pack("<4sIQQI", b"ptrt", 71, 0, 0, 0), 28)
    assert (plan.layout, plan.state, plan.declared_size) == ("ptrt", State.UNKNOWN, None)
    assert plan.size_text == "unknown whether whole"


def test_number_and_version_that_disagree_are_a_finding() -> None:
    data = old_plan(89, tagged("cccc", 8, 5, 3, 1))
    plan = read_plan_header(data, len(data))
    assert plan.findings == ("the archive says TensorRT 8.5.3.1, but its number 89 belongs to 7.0",)


def test_header_and_archive_that_disagree_are_a_finding() -> None:
    data = bytearray(TRT86[:8192])
    data[26] = 1
    plan = read_plan_header(bytes(data), len(TRT86))
    assert plan.findings == ("the header says TensorRT 8.6.1.12, the archive inside 8.6.0.12",)


def test_unknown_header_format_is_not_read_further() -> None:
    data = bytearray(TRT86[:8192])
    data[4] = 1
    plan = read_plan_header(bytes(data), len(TRT86))
    assert (plan.version, plan.state, plan.layout) == (None, State.UNKNOWN, "ftrt-format-1")
    assert plan.findings


def test_implausible_gpu_is_no_gpu() -> None:
    values = tagged("cccc" + NANO_KINDS, 8, 2, 1, 8, 99, *NANO[1:], 4156661760)
    plan = read_plan_header(old_plan(205, values), 24 + len(values))
    assert (plan.version, plan.device) == ("8.2.1.8", None)


@pytest.mark.parametrize(
    ("version", "mask", "expected"),
    [
        ((1, 7, 1, 116), 0b100000, ("12.1",)),
        ((1, 4, 0, 76), 0b100000, ("later",)),
        ((1, 7, 1, 116), 1 << 7, None),
        ((1, 7, 1, 116), 0, None),
        ((1, 3, 0, 35), 4, None),
        ((2, 0, 0, 1), 4, None),
    ],
)
def test_rtx_mask_is_read_only_where_its_bits_are_known(
    version: archive.Version, mask: int, expected: tuple[str, ...] | None
) -> None:
    assert archive.rtx_targets(version, mask) == expected


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("difference", [-1, -1000, 1, 7])
def test_every_missing_or_added_byte_is_counted(name: str, difference: int) -> None:
    data = REAL[name]
    plan = read_plan_header(data[:8192], len(data) + difference)
    expected = (
        f"truncated by {-difference} bytes" if difference < 0 else f"{difference} trailing bytes"
    )
    assert plan.size_text == expected


@pytest.mark.parametrize("name", REAL)
def test_a_head_of_any_length_answers_or_refuses(name: str) -> None:
    data = REAL[name]
    for length in range(400):
        if length < 28:
            with pytest.raises(ArtifactError):
                read_plan_header(data[:length], length)
            continue
        plan = read_plan_header(data[:length], length)
        assert plan.state is State.TRUNCATED
        assert plan.archive_number in {232, 236, 100, None}
        assert plan.version in {"8.5.3.1", "8.6.0.12", "1.7.1.116", None}


@pytest.mark.parametrize("magic", [b"ftrt", b"vtrt", b"ptrt"])
def test_huge_declared_size_is_a_truncation(magic: bytes) -> None:
    data = magic + struct.pack("<IQQ", 0, 1, 2**64 - 1) + bytes((8, 6, 1, 6)) + bytes(64)
    plan = read_plan_header(data, len(data))
    assert plan.state is State.TRUNCATED


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(REAL)),
    st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), min_size=1, max_size=12),
    st.integers(28, 8192),
)
def test_mutated_real_headers_always_answer(
    name: str, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(REAL[name][:length])
    for offset, value in changes:
        if offset < len(data):
            data[offset] = value
    assert isinstance(read_plan_header(bytes(data), len(REAL[name])), PlanHeader)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"ftrt", b"vtrt", b"ptrt", b"TR01", b"TR02", b""]), st.binary(max_size=300))
def test_arbitrary_bytes_answer_or_are_refused(magic: bytes, data: bytes) -> None:
    for read in (read_plan_header, find_wrapper):
        with contextlib.suppress(ArtifactError):
            read(magic + data, len(magic + data))


def ultralytics(metadata: bytes, plan: bytes = TRT86[:4096]) -> bytes:
    return struct.pack("<i", len(metadata)) + metadata + plan


def test_ultralytics_prefix_is_found_with_its_metadata() -> None:
    metadata = json.dumps({"task": "detect", "names": {"0": "coin"}}).encode()
    data = ultralytics(metadata)
    wrapper = find_wrapper(data, len(data))
    assert wrapper is not None
    assert (wrapper.kind, wrapper.offset) == (WrapperKind.ULTRALYTICS, 4 + len(metadata))
    assert (wrapper.metadata_offset, wrapper.metadata) == (4, metadata)
    assert wrapper.length is None


@pytest.mark.parametrize("plan", [TRT85, TRT86, RTX17])
def test_every_plan_may_stand_behind_a_prefix(plan: bytes) -> None:
    wrapper = find_wrapper(ultralytics(b"{}", plan[:64]), 70)
    assert wrapper is not None
    assert wrapper.offset == 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        struct.pack("<i", -5) + b"{}" + TRT86[:64],
        struct.pack("<i", 0) + TRT86[:64],
        struct.pack("<i", 1000) + b"{}" + TRT86[:64],
        struct.pack("<i", 2**31 - 1) + b"{}",
        struct.pack("<i", MOST_METADATA + 1) + b" " * (MOST_METADATA + 1) + b"ftrt",
        TRT86[:64],
    ],
    ids=["empty", "short", "negative", "zero", "wrong", "beyond", "too-long", "bare"],
)
def test_what_is_no_prefix_is_none(data: bytes) -> None:
    assert find_wrapper(data[:HEAD_BYTES], len(data)) is None


def test_longest_prefix_fits_the_head() -> None:
    data = ultralytics(b" " * MOST_METADATA)[:HEAD_BYTES]
    wrapper = find_wrapper(data, len(data))
    assert wrapper is not None
    assert len(data) - wrapper.offset >= 4096


@pytest.mark.parametrize("magic", [b"TR01", b"TR02"])
def test_executorch_blob_says_where_the_plan_is(magic: bytes) -> None:
    metadata = b'{"io": []}'
    data = struct.pack("<4sIIIQ8s", magic, 32, len(metadata), 48, 4096, b"\1") + metadata
    data = data.ljust(48, b"\0") + TRT86[:4096]
    wrapper = find_wrapper(data, len(data))
    assert wrapper is not None
    assert (wrapper.kind, wrapper.offset, wrapper.length) == (WrapperKind.EXECUTORCH, 48, 4096)
    assert wrapper.metadata == metadata


@pytest.mark.parametrize(
    "fields", [(32, 2**32 - 1, 48, 1), (2**32 - 1, 1, 48, 1), (32, 1, 2**32 - 1, 1)]
)
def test_damaged_executorch_blob_is_refused(fields: tuple[int, ...]) -> None:
    data = struct.pack("<4sIIIQ8s", b"TR01", *fields, b"\1") + bytes(64)
    with pytest.raises(ArtifactError, match="damaged"):
        find_wrapper(data, len(data))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\xff\xfe", "no UTF-8"),
        (b"{", "no JSON"),
        (b"[1]", "no JSON object but a list"),
        (b"null", "no JSON object but a NoneType"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_bad_json_is_named(raw: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_metadata(raw)


def test_numbers_that_json_cannot_write_stay_text() -> None:
    document = parse_metadata(b'{"a": 1e999, "b": NaN, "c": -Infinity, "d": 1.5, "e": "\\ud800"}')
    assert document == {"a": "1e999", "b": "NaN", "c": "-Infinity", "d": 1.5, "e": "?"}


def test_each_archive_number_has_one_row_with_a_source() -> None:
    rows = tomllib.loads(archive.DATA.read_text())["number"]
    keys = [(row["flavour"], row["number"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(row["source"] and row["flavour"] in set(Flavour) for row in rows)
