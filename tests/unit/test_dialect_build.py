import pytest

from trtenv.dialect.build import _rows, translate
from trtenv.errors import UsageError
from trtenv.spec.build import BuildSpec

VERSIONS = [
    "7.0",
    "7.2.1",
    "8.0",
    "8.4",
    "8.5.3.1",
    "8.6.0",
    "9.3",
    "10.0",
    "10.13",
    "11.0",
    "11.4",
]


def actions(version: str, flavour: str = "tensorrt", **spec: object) -> list[tuple[str, object]]:
    found = translate(BuildSpec(**spec), flavour, version)  # type: ignore[arg-type]
    return [
        (step["do"], step.get("name") or step.get("value") or step.get("to"))
        for step in found.steps
    ]


def test_fp16_is_a_flag_up_to_10_and_a_typed_graph_from_11_on() -> None:
    assert ("set_flag", "FP16") in actions("10.13", precision="fp16")
    assert actions("11.0", precision="fp16") == [("cast", "float16")]
    assert actions("1.7", "tensorrt-rtx", precision="fp16") == [("cast", "float16")]


def test_explicit_batch_is_asked_for_only_where_it_is_a_choice() -> None:
    assert actions("8.6") == [("network_flag", "EXPLICIT_BATCH")]
    assert actions("10.0") == []


def test_workspace_becomes_a_memory_pool_in_8_4() -> None:
    assert ("set", "max_workspace_size") in actions("8.2", workspace=2**30)
    assert ("memory_pool", "WORKSPACE") in actions("8.4.1", workspace=2**30)
    steps = translate(BuildSpec(workspace=5), "tensorrt", "8.5").steps
    assert {"do": "memory_pool", "name": "WORKSPACE", "value": 5} in steps


def test_builder_level_before_8_6_is_refused_with_who_can() -> None:
    with pytest.raises(UsageError) as caught:
        translate(BuildSpec(builder_optimization_level=5), "tensorrt", "8.5.3.1")
    assert "8.5.3.1 cannot do" in caught.value.message
    assert "8.6" in (caught.value.hint or "")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["tf32", "fp32", "fp16"])
def test_each_precision_is_said_or_refused_for_each_version(version: str, precision: str) -> None:
    translate(BuildSpec(precision=precision), "tensorrt", version)


def test_every_row_has_a_source_and_known_keys() -> None:
    known = {"option", "value", "flavour", "since", "until", "steps", "note", "source"}
    for row in _rows():
        assert row["source"]
        assert set(row) <= known
