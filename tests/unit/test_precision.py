"""What an engine runs in, against what was asked for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.engine.precision import ACCEPT_ANY, check, verdict
from trtenv.errors import ArtifactError

COUNTS = st.dictionaries(
    st.sampled_from(["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int32"]), st.integers(0, 50)
)


def summary(
    layers: dict[str, int],
    products: dict[str, int] | None = None,
    *,
    unknown: int = 0,
    weights: dict[str, float] | None = None,
    source: str = "inspector",
) -> dict[str, Any]:
    return {
        "source": source,
        "layers": layers,
        "products": layers if products is None else products,
        "weights": weights,
        "other": 3,
        "unknown": unknown,
        "total": sum(layers.values()) + 3 + unknown,
    }


@pytest.mark.parametrize(
    ("asked", "found", "ok"),
    [
        ("fp16", summary({"fp16": 20, "fp32": 1}), True),
        ("fp16", summary({"fp16": 1, "tf32": 20}), True),
        ("fp16", summary({"int8": 20, "fp32": 1}), True),  # a quantized model, FP16 for the rest
        ("fp16", summary({"tf32": 10, "fp32": 2}), False),  # small models in 8.x
        ("fp16", summary({"fp16": 1, "tf32": 9}, {"tf32": 9}), False),  # only a pooling
        ("fp16", summary({"fp16": 3}, {}), True),  # a model of poolings
        ("fp16", summary({"bf16": 9}), False),
        ("fp16", summary({"tf32": 9}, unknown=1), None),
        ("fp16", summary({}, unknown=4), None),
        ("fp16", summary({}), True),  # only reshapes
        ("fp16", summary({"int32": 4}), True),
        ("bf16", summary({"bf16": 9, "fp32": 1}), True),
        ("bf16", summary({"fp16": 9}), False),
        ("int8", summary({"int8": 2, "fp16": 20}), True),
        ("int8", summary({"fp16": 20}), False),
        ("int8", summary({"fp8": 20}), False),
        ("fp8", summary({"fp8": 20}), True),
        ("fp8", summary({"fp16": 20}), False),
        ("fp32", summary({"fp32": 20, "int32": 4}), True),
        ("fp32", summary({"fp32": 20, "tf32": 1}), False),
        ("fp32", summary({"fp16": 1, "fp32": 20}), False),
        ("tf32", summary({"fp32": 20}), True),
        ("tf32", summary({"tf32": 20, "int8": 2}), True),
        ("best", summary({"fp32": 20}), True),
        ("best", None, None),
        ("fp16", None, None),
    ],
)
def test_rules(asked: str, found: dict[str, Any] | None, ok: bool | None) -> None:
    judged = verdict(asked, found)
    assert judged.ok is ok
    assert judged.message.startswith(f"asked for {asked}")
    assert (judged.hint is not None) is (ok is False)


def test_the_message_says_what_was_found_and_how_it_is_known() -> None:
    found = summary({"tf32": 10, "fp32": 2, "int32": 5}, weights={"fp32": 1.0})
    with pytest.raises(ArtifactError) as caught:
        check("fp16", found)
    assert caught.value.message == (
        "asked for fp16, but no layer that counts runs in it: of 12 layers that compute, 10 tf32, "
        "2 fp32 (weights: 100% fp32), by the engine inspector"
    )
    assert "--precision-constraints obey --layer-precisions '*:fp16'" in str(caught.value.hint)
    assert ACCEPT_ANY in str(caught.value.hint)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("asked", "source", "hint"),
    [
        ("int8", "inspector", "give calibration data, or a model with Q/DQ nodes"),
        ("fp16", "network", "fewer names to --keep-fp32, or a model whose nodes can be FP16"),
        ("bf16", "log", "'*:bf16'"),
        ("fp32", "inspector", "export it in FP32"),
    ],
)
def test_hints(asked: str, source: str, hint: str) -> None:
    judged = verdict(asked, summary({"fp32": 2, "tf32": 1}, source=source))
    assert hint in str(judged.hint)
    assert ACCEPT_ANY in str(judged.hint)


def test_a_user_may_accept_any() -> None:
    assert check("fp16", summary({"fp32": 9}), accept_any=True).ok is False


def test_layers_that_are_not_told_are_counted_aloud() -> None:
    message = verdict("fp16", summary({"fp16": 2}, unknown=3, source="log")).message
    assert message == (
        "asked for fp16; of 5 layers that compute, 2 fp16, 3 not told, by the builder's log"
    )


@given(
    st.sampled_from(["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "best"]),
    COUNTS,
    COUNTS,
    st.integers(0, 9),
    st.sampled_from(["inspector", "inspector+log", "log", "network"]),
)
def test_any_summary_is_judged(
    asked: str, layers: dict[str, int], products: dict[str, int], unknown: int, source: str
) -> None:
    judged = verdict(asked, summary(layers, products, unknown=unknown, source=source))
    if judged.ok is False:
        assert judged.hint
        assert unknown == 0 or asked == "fp32"
