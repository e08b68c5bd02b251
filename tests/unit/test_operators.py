"""The operator tables: what they answer, and that every row can be trusted to be well formed."""

from __future__ import annotations

import csv
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.dialect import operators
from trtenv.dialect.operators import dla_support, feature, operator_support, plugin_support
from trtenv.dialect.versions import DATA, parse_version

TABLES = ("operators.csv", "operators_releases.csv", "operators_plugins.csv")
TOOL = Path(__file__).parents[2] / "tools" / "operators.py"


def rows(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader((DATA / table).read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_tool", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("flavour", "version", "op", "support", "sure"),
    [
        ("tensorrt", "8.6.1", "Conv", "yes", True),
        ("tensorrt", "8.6.1.6", "Det", "no", True),
        ("tensorrt", "8.0.1", "NonMaxSuppression", "experimental", True),
        ("tensorrt", "8.5.3", "NonMaxSuppression", "yes", True),
        # 8.5.1 says no, 8.5.2 and 8.5.3 say yes.
        ("tensorrt", "8.5", "Mod", "no", False),
        ("tensorrt", "8.5", "Conv", "yes", True),
        ("tensorrt", "8.4", "LayerNormalization", "unlisted", False),
        ("tensorrt", "8.2.1", "LayerNormalization", "unlisted", True),
        ("tensorrt", "8.6.0", "LayerNormalization", "yes", True),
        ("tensorrt", "10.13.3", "Det", "no", False),  # a derived table
        ("tensorrt", "11.1", "Swish", "yes", True),
        ("tensorrt", "11.5", "Swish", "yes", False),  # the nearest older table
        ("tensorrt", "10.14", "Attention", "yes", True),
        ("tensorrt", "8.6.1", "TRT_FP8QuantizeLinear", "importer", True),
        ("tensorrt", "10.9", "TRT_FP8QuantizeLinear", "importer", False),
        ("tensorrt", "6.0", "Conv", "unknown", False),
        ("tensorrt", "", "Conv", "unknown", False),
        ("tensorrt-rtx", "1.7.1.116", "Det", "no", True),
        ("tensorrt-rtx", "1.4", "Swish", "no", True),
        ("tensorrt-rtx", "1.5", "Swish", "yes", True),
        ("tensorrt-rtx", "1.8", "Swish", "yes", False),
        ("tensorrt-rtx", "1.3", "Conv", "unknown", False),
    ],
)
def test_support_by_version(flavour: str, version: str, op: str, support: str, sure: bool) -> None:
    fact = operator_support(flavour, version, op)
    assert (fact.support, fact.sure) == (support, sure)
    assert fact.source


def test_a_fact_carries_types_restrictions_and_its_source() -> None:
    fact = operator_support("tensorrt", "8.6.1", "TopK")
    assert fact.types == ("FP32", "FP16", "INT32")
    assert "initializer" in operator_support("tensorrt", "8.5.1", "TopK").restrictions
    assert fact.source.startswith("onnx/onnx-tensorrt docs/operators.md@6ba67d34")
    assert operator_support("tensorrt", "8.5.1", "HardSwish").disputed


@pytest.mark.parametrize(
    ("version", "kind", "name", "how", "sure"),
    [
        ("8.6.1", "type", "int64", "int32", True),
        ("9.0", "type", "int64", "native", True),
        ("11.1", "type", "int64", "native", False),
        ("7.2.2", "type", "float64", "refused", True),
        ("7.2.3", "type", "float64", "float32", True),
        ("8.4.3", "type", "uint8", "refused", True),
        ("8.5", "type", "uint8", "native", True),
        ("7.0", "zero point", "not zero", None, False),
        ("8.6.1", "zero point", "not zero", "refused", True),
        ("8.6.1", "local functions", "", "refused", True),
        ("9.1", "local functions", "", "native", True),
    ],
)
def test_features(version: str, kind: str, name: str, how: str | None, sure: bool) -> None:
    fact = feature("tensorrt", version, kind, name)
    assert (fact.how if fact else None, bool(fact and fact.sure)) == (how, sure)


def test_plugins_come_and_go() -> None:
    assert plugin_support("tensorrt", "7.2.3", "EfficientNMS_TRT") is None
    assert plugin_support("tensorrt", "8.6.1", "EfficientNMS_TRT")
    assert plugin_support("tensorrt", "10.16", "BatchedNMS_TRT")
    assert plugin_support("tensorrt", "11.0", "BatchedNMS_TRT") is None
    assert plugin_support("tensorrt-rtx", "1.7", "EfficientNMS_TRT") is None


def test_dla() -> None:
    assert getattr(dla_support("8.6.2", "Conv"), "how", None) == "native"
    assert getattr(dla_support("8.5.2", "Sin"), "how", None) == "no"
    assert getattr(dla_support("8.6.12", "Sin"), "how", None) == "native"
    assert getattr(dla_support("10.3", "Erf"), "sure", None) is False
    assert dla_support("8.6.2", "Swish") is None


@given(st.sampled_from(["tensorrt", "tensorrt-rtx", "other"]), st.text(max_size=12), st.text())
def test_any_question_has_an_answer(flavour: str, version: str, op: str) -> None:
    assert operator_support(flavour, version, op).op == op
    plugin_support(flavour, version, op)
    feature(flavour, version, "type", op)


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_sorted_and_unique(table: str) -> None:
    def key(row: dict[str, str]) -> tuple[str, str, tuple[int, ...]]:
        return row["flavour"], row.get("op", ""), parse_version(row.get("since") or row["release"])

    found = [key(row) for row in rows(table)]
    assert found == sorted(set(found))


def test_every_row_says_something_that_the_code_knows() -> None:
    released = {(row["flavour"], row["release"]) for row in rows("operators_releases.csv")}
    for row in rows("operators.csv"):
        assert row["support"] in ("yes", "no", "experimental", "importer", ""), row
        assert (row["flavour"], row["since"]) in released, row
    for row in rows("operators_releases.csv"):
        assert row["source"], row
        assert row["confidence"] in ("stated", "derived", "measured"), row
    assert {row["support"] for row in rows("operators_dla.csv")} <= {
        "native", "inferred", "reconstruction", "no",
    }  # fmt: skip


def test_no_row_repeats_the_one_before() -> None:
    before: dict[str, str] = {}
    for row in rows("operators.csv"):
        said = {key: value for key, value in row.items() if key != "since"}
        assert said != before, row
        before = said


def test_the_tables_are_small_and_load_at_once() -> None:
    assert sum((DATA / table).stat().st_size for table in TABLES) < 150_000
    operators._table.cache_clear()
    operators._history.cache_clear()
    started = time.process_time()
    operator_support("tensorrt", "8.6.1", "Conv")
    # 4 ms where it was measured; the rest is room for a slow machine.
    assert time.process_time() - started < 0.1


MARKDOWN = """
TensorRT 11.5 supports operators in the inclusive range of opset 9 to opset 25.

| Operator | Supported  | Supported Types | Restrictions |
|----------|------------|-----------------|--------------|
| Abs | Y | FP32, FP16 BF16, INF64 | |
| Clip | Y | FP32 | `min` must be an initializer<br />2D or 3D convolutions only\\. |
| Det | N | |
| NonMaxSuppression | Y [EXPERIMENTAL] | FP32 | |
"""


def test_the_tool_reads_nvidias_table(tool: ModuleType) -> None:
    found = tool.read_markdown(MARKDOWN)
    assert found["Abs"] == ("yes", "FP32 FP16 BF16 INT64", "")
    assert found["Clip"].restrictions == "`min` must be an initializer 2D or 3D convolutions only."
    assert (found["Det"].support, found["NonMaxSuppression"].support) == ("no", "experimental")
    assert tool.read_markdown("| Operator | Supported? |\n|-|-|\n| Abs | Y |")["Abs"][0] == "yes"


def test_the_tool_adds_only_what_changed(tool: ModuleType, tmp_path: Path) -> None:
    for table in TABLES[:2]:
        (tmp_path / table).write_bytes((DATA / table).read_bytes())
    whole = tool.at(tool.read_rows(DATA / "operators.csv"), "11.1")
    lines = [f"| {op} | {cell.support[0].upper()} | {', '.join(cell.types.split())} | "
             f"{cell.restrictions} |" for op, cell in whole.items() if op != "Abs"]  # fmt: skip
    markdown = tmp_path / "operators.md"
    header = "| Operator | Supported | Supported Types | Restrictions |\n"
    markdown.write_text(header + "\n".join([*lines, "| Novel | Y | FP32 | |"]))
    argv = ["11.5", str(markdown), "--source", "onnx/onnx-tensorrt docs/operators.md@0"]
    assert tool.main([*argv, "--check"], data=tmp_path) == 1
    assert tool.main(argv, data=tmp_path) == 0
    before, after = rows("operators.csv"), tool.read_rows(tmp_path / "operators.csv")
    added = [row for row in after if row not in before]
    assert [(row["op"], row["since"], row["support"]) for row in added] == [
        ("Abs", "11.5", ""),
        ("Novel", "11.5", "yes"),
    ]
    assert len(after) == len(before) + 2
    assert tool.main([*argv, "--check"], data=tmp_path) == 0
    with pytest.raises(SystemExit):  # history is only added to at its end
        tool.main(["11.4", *argv[1:]], data=tmp_path)
