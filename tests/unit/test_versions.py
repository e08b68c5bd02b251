import csv

import pytest

from trtenv.dialect.versions import (
    DATA,
    HardwareFact,
    buildable,
    compute_capabilities,
    matches_version,
    opset_range,
    parse_version,
    split_flavour,
)
from trtenv.errors import UsageError


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8.5.0.12", (8, 5, 0, 12)),
        ("1.13.0a0+d0d6b1f", (1, 13, 0)),
        ("9.3.0.post12.dev1", (9, 3, 0)),
        ("2.14", (2, 14)),
        ("latest", ()),
    ],
)
def test_versions_are_the_numbers_they_start_with(text: str, numbers: tuple[int, ...]) -> None:
    assert numbers == parse_version(text)


@pytest.mark.parametrize(
    ("wanted", "found", "matches"),
    [
        ("8.5", "8.5.0.12", True),
        ("8.5", "8.50.0.1", False),
        ("8.50", "8.5.0.12", False),
        ("8", "8.6.1", True),
        ("8.5.3.1", "8.5.3.1", True),
        ("8.5.3.1", "8.5.3", False),
        ("2.", "2.1.0", True),
        ("1.13", "1.13.0a0+d0d6b1f", True),
        ("1.1", "1.13.0a0+d0d6b1f", False),
        ("1.13.0a0", "1.13.0a0+d0d6b1f", True),
        ("1.13.0a0+d0d6b1f", "1.13.0a0+d0d6b1f", True),
        ("1.13.0a0+d0d", "1.13.0a0+d0d6b1f", False),
        ("8.5", None, False),
    ],
)
def test_prefixes_match_component_by_component(
    wanted: str, found: str | None, matches: bool
) -> None:
    assert matches is matches_version(wanted, found, what="TensorRT")


@pytest.mark.parametrize("wanted", ["", "new", "v8", "8..5", ">=8.5"])
def test_what_is_no_version_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="not a version of TensorRT"):
        matches_version(wanted, "8.5.3.1", what="TensorRT")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("7.0.0", (None, 11, True)),
        ("7.2.1", (None, 11, True)),
        ("7.2.3.4", (None, 13, True)),
        ("8.5.3.1", (None, 17, True)),
        ("9.3.0.post12.dev1", (None, 19, True)),
        ("10.0.1.6", (9, 20, True)),
        ("10.6.0.26", (9, 22, True)),
        ("10.15.1.29", (9, 24, True)),
        ("11.1.0.106", (9, 24, True)),
        ("11.5.0", (9, 25, True)),
    ],
)
def test_opsets_of_versions_that_are_documented(
    version: str, expected: tuple[int | None, int, bool]
) -> None:
    fact = opset_range("tensorrt", version)
    assert fact is not None
    assert expected == (fact.min, fact.max, fact.sure)
    assert fact.source


@pytest.mark.parametrize(
    ("version", "highest"),
    [
        ("10.11.0.33", 22), ("10.12.0.36", 22), ("10.13.3.9", 22), ("10.16.1.11", 24),
        ("11.0.0.114", 24), ("11.2.1.2", 24), ("11.3.0.99", 24), ("11.4.0.106", 24),
        ("12.0", 25), ("8.4.2.4", 17),
    ],
)  # fmt: skip
def test_undocumented_versions_get_the_nearest_older_opset_and_say_so(
    version: str, highest: int
) -> None:
    fact = opset_range("tensorrt", version)
    assert fact is not None
    assert (highest, False) == (fact.max, fact.sure)


def test_a_short_version_gets_the_lowest_of_what_it_may_mean() -> None:
    every_8_2, some_7_2 = opset_range("tensorrt", "8.2"), opset_range("tensorrt", "7.2")
    assert every_8_2 is not None
    assert some_7_2 is not None
    assert (every_8_2.max, every_8_2.sure) == (13, True)
    assert (some_7_2.max, some_7_2.sure) == (11, False)


@pytest.mark.parametrize("version", ["5.1.5", "6.0.1", "", "unknown"])
def test_below_the_oldest_row_nothing_is_known(version: str) -> None:
    assert opset_range("tensorrt", version) is None
    assert compute_capabilities("tensorrt", version) is None


def test_rtx_has_opsets_of_its_own_and_they_are_inferred() -> None:
    fact = opset_range("tensorrt-rtx", "1.7.1.116")
    assert fact is not None
    assert (fact.min, fact.max, fact.sure) == (9, 24, False)


def hardware(flavour: str, version: str) -> HardwareFact:
    fact = compute_capabilities(flavour, version)
    assert fact is not None
    return fact


@pytest.mark.parametrize(
    ("version", "gpu", "admitted"),
    [
        ("8.5.3.1", "3.5", True),
        ("8.6.0.12", "3.7", False),
        ("10.4.0.26", "7.0", True),
        ("10.5.0.18", "7.0", False),
        ("10.7.0.23", "12.0", False),
        ("10.8.0.43", "12.0", True),
        ("8.4.1.5", "8.9", True),
        ("7.2.2", "9.0", False),
        ("7.2.2", "3.5", True),
        ("11.9.0.1", "13.0", True),
    ],
)
def test_gpus_are_refused_only_where_it_is_known(version: str, gpu: str, admitted: bool) -> None:
    assert admitted is hardware("tensorrt", version).admits(gpu)


def test_a_gpu_older_than_the_minimum_is_refused_numerically() -> None:
    assert hardware("tensorrt", "10.13.3.9").admits("10.0")
    assert not hardware("tensorrt", "10.13.3.9").admits("7.2")


@pytest.mark.parametrize("version", ["1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116"])
def test_rtx_runs_on_what_it_lists_and_not_on_hopper(version: str) -> None:
    fact = hardware("tensorrt-rtx", version)
    assert fact.confidence == "measured"
    assert fact.admits("8.9")
    assert fact.admits("12.0")
    assert not fact.admits("9.0")
    assert not fact.admits("10.0")
    assert (version != "1.4.0.76") is fact.admits("12.1")


@pytest.mark.parametrize(
    ("place", "capabilities"),
    [
        (("tensorrt-rtx", "1.4.0.76"), "7.5 8.0 8.6 8.9 12.0"),
        (("tensorrt-rtx", "1.7"), "7.5 8.0 8.6 8.9 12.0 12.1"),
        (("tensorrt-rtx", "1.9"), ""),
        (("tensorrt-rtx", ""), ""),
        (("tensorrt", "10.3"), ""),
    ],
)
def test_targets_are_known_where_nothing_depends_on_the_machine(
    place: tuple[str, str], capabilities: str
) -> None:
    assert buildable(*place) == tuple(capabilities.split())


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ("8.5", ("tensorrt", "8.5")),
        ("rtx-1.7", ("tensorrt-rtx", "1.7")),
        ("rtx", ("tensorrt-rtx", "")),
        ("rtx-", ("tensorrt-rtx", "")),
        ("rtx1", ("tensorrt", "rtx1")),
    ],
)
def test_flavours_are_told_apart(wanted: str, place: tuple[str, str]) -> None:
    assert split_flavour(wanted) == place


def test_ranges_are_described_for_people() -> None:
    assert hardware("tensorrt", "10.3.0.26").describe() == "7.0 to 9.0"
    assert hardware("tensorrt", "8.2.5.1").describe() == "? to 8.6"
    assert hardware("tensorrt-rtx", "1.4.0.76").describe() == "7.5, 8.0, 8.6, 8.9, 12.0"


@pytest.mark.parametrize("table", ["hardware.csv", "onnx_opset.csv"])
def test_every_row_has_a_source_and_appears_once_in_order(table: str) -> None:
    with (DATA / table).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    keys = [(row["flavour"], parse_version(row["version"])) for row in rows]
    assert sorted(set(keys)) == keys
    for row in rows:
        assert row["confidence"] in ("measured", "stated", "inferred", "unknown")
        assert row["source"] or row["confidence"] == "unknown"
