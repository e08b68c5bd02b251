import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.errors import UsageError
from trtenv.spec.shapes import (
    InputInfo,
    ShapeRange,
    check_shapes,
    merge_profile,
    parse_shapes,
)

IMAGE = InputInfo("image", "float32", (None, 3, 224, 224))
STATIC = InputInfo("image", "float32", (1, 3, 224, 224))


def fixed(*dims: int) -> ShapeRange:
    return ShapeRange(dims, dims, dims)


def test_trtexec_grammar_with_two_inputs() -> None:
    assert parse_shapes("image:1x3x640x640,scale_factor:1x2") == {
        "image": fixed(1, 3, 640, 640),
        "scale_factor": fixed(1, 2),
    }


def test_range_has_its_optimum_at_the_maximum() -> None:
    found = parse_shapes("image:1x3x8x8..16x3x8x8")["image"]
    assert (found.min, found.opt, found.max) == ((1, 3, 8, 8), (16, 3, 8, 8), (16, 3, 8, 8))


def test_middle_of_a_range_is_the_optimum() -> None:
    assert parse_shapes("x:1x2..4x2..8x2")["x"] == ShapeRange((1, 2), (4, 2), (8, 2))


@pytest.mark.parametrize("text", ["input:0:1x3", "'input:0':1x3"])
def test_the_last_colon_separates_so_that_tensorflow_names_work(text: str) -> None:
    assert parse_shapes(text) == {"input:0": fixed(1, 3)}


def test_scalar_is_rank_zero() -> None:
    assert parse_shapes("x:scalar") == {"x": fixed()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image:1x3xx4", "is no shape"),
        ("image:1x-1x4", "is no shape"),
        ("image:", "is no shape"),
        ("", "names no input"),
        (",", "names no input"),
        ("a:1,a:2", "given twice"),
        ("a:1..2..3..4", "more than three"),
        ("a:4..2", "min <= opt <= max"),
        ("a:1x2..4", "differ in rank"),
        ("a:4294967296", "2\\^31"),
        ("image:１x３", "is no shape"),  # noqa: RUF001  full-width digits
    ],
)
def test_bad_shapes_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shapes(text)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_shapes(text)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_0-9.:/]{0,8}", fullmatch=True),
        st.lists(st.integers(1, 9), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read(shapes: dict[str, list[int]]) -> None:
    text = ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in shapes.items())
    assert parse_shapes(text) == {name: fixed(*dims) for name, dims in shapes.items()}


def test_three_options_make_one_range() -> None:
    found = merge_profile(None, "x:1x3", "x:2x3", "x:4x3")
    assert found == {"x": ShapeRange((1, 3), (2, 3), (4, 3))}


def test_missing_optimum_takes_the_maximum() -> None:
    assert merge_profile(None, "x:1x3", None, "x:4x3") == {"x": ShapeRange((1, 3), (4, 3), (4, 3))}


def test_one_option_alone_is_a_fixed_shape() -> None:
    assert merge_profile(None, None, "x:4x3", None) == {"x": fixed(4, 3)}


def test_shapes_excludes_the_three_options() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        merge_profile("x:1", "x:1", None, None)


def test_input_missing_in_one_of_the_options_is_refused() -> None:
    with pytest.raises(UsageError, match="missing in --max-shapes"):
        merge_profile(None, "x:1,y:1", None, "x:2")


def test_range_in_min_shapes_is_refused() -> None:
    with pytest.raises(UsageError, match="belongs into --shapes"):
        merge_profile(None, "x:1..2", None, "x:2")


def test_check_fills_in_static_inputs() -> None:
    assert check_shapes({}, [STATIC]) == {"image": fixed(1, 3, 224, 224)}


def test_shape_without_a_name_is_for_the_only_input() -> None:
    wanted = {"": fixed(2, 3, 224, 224)}
    assert check_shapes(wanted, [IMAGE]) == {"image": fixed(2, 3, 224, 224)}


@pytest.mark.parametrize(
    ("shapes", "inputs", "message"),
    [
        ({"imge": fixed(1, 3, 224, 224)}, [IMAGE], "no input `imge`"),
        ({"image": fixed(1, 3, 224)}, [IMAGE], "rank 4"),
        ({"image": fixed(1, 4, 224, 224)}, [IMAGE], "fixed at 3"),
        ({"image": fixed(8, 3, 224, 224)}, [STATIC], "fixed at 1"),
        ({}, [IMAGE], "is dynamic"),
        ({}, [InputInfo("x", "float32", None)], "no known rank"),
        ({"": fixed(1)}, [IMAGE, STATIC], "needs a model of one input"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    shapes: dict[str, ShapeRange], inputs: list[InputInfo], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_shapes(shapes, inputs)


SIZES = InputInfo("s", "int64", (2,))


@pytest.mark.parametrize(
    ("entry", "text", "values_of"),
    [
        (SIZES, "s:1x4", (2,)),
        (SIZES, "s:1x1..2x2..4x4", (2,)),
        (SIZES, "s:2", None),
        (InputInfo("s", "int32", ()), "s:5", ()),
        (InputInfo("s", "int32", ()), "s:scalar", None),
        (InputInfo("s", "int64", (1,)), "s:7", (1,)),
        (InputInfo("s", "int64", (1,)), "s:1", (1,)),
        (InputInfo("s", "int64", (None,)), "s:4", None),
        (InputInfo("s", "int64", (2, 2)), "s:2x2", None),
    ],
)
def test_numbers_for_a_short_vector_of_integers_are_its_values(
    entry: InputInfo, text: str, values_of: tuple[int, ...] | None
) -> None:
    wanted = parse_shapes(text)["s"]
    found = check_shapes({"s": wanted}, [entry])["s"]
    assert found.values_of == values_of
    assert (found.min, found.opt, found.max) == (wanted.min, wanted.opt, wanted.max)
    assert found.only_values == (values_of is not None and text != "s:1")
    assert check_shapes({"s": found}, [entry])["s"] == found
    told = found.to_dict()
    assert told.pop("values_of", None) == (None if values_of is None else list(values_of))
    assert told == wanted.to_dict()


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        (SIZES, "s:1x4x4", "has rank 1"),
        (SIZES, "s:3", "fixed at 2"),
        (InputInfo("s", "float32", (2,)), "s:1x4", "has rank 1"),
        (InputInfo("s", "int64", (2, 1)), "s:1x4", "dimension 0"),
    ],
)
def test_other_numbers_are_no_values(entry: InputInfo, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_shapes(parse_shapes(text), [entry])


def test_values_that_nobody_gave_are_not_made_up() -> None:
    assert check_shapes({}, [SIZES])["s"] == fixed(2)


def test_misspelt_input_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        check_shapes({"imge": fixed(1)}, [IMAGE])
    assert caught.value.hint == "did you mean `image`?"
