"""What networks are given for an image, and where a point of theirs lies in the original."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import boxes, images, tasks
from worker import JobError

RNG = np.random.default_rng(1)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: list[int]
    minimum: list[int] | None = None
    optimum: list[int] | None = None
    maximum: list[int] | None = None


def tensor(*shape: int, dtype: str = "float32", **limits: Any) -> Tensor:
    return Tensor("image", dtype, list(shape), *(limits.get(key) for key in Tensor._fields[3:]))


def task(kind: str, wanted: Tensor, asked: Any = None, /, **preprocess: Any) -> tasks.Task:
    return tasks.make_task({"kind": kind, "preprocess": preprocess}, wanted, ["out"], {}, asked)


def photo(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def prepared(made: tasks.Task, image: np.ndarray, dtype: str = "float32") -> tuple[np.ndarray, Any]:
    batch = np.full(made.shape(1, made.frame(image)), 99, dtype)
    placement = made.prepare(image, made.views(batch)[0])
    return made.views(batch)[0], placement


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (224, 224), (50, 61), (1, 1), (20, 300)])
@pytest.mark.parametrize(
    ("resize", "interpolation"), [(256, "bilinear"), (232, "bicubic"), (90, "bilinear")]
)
def test_classification_is_torchvisions_preset(
    shape: tuple[int, int], resize: int, interpolation: str
) -> None:
    """Resize of the shorter side, which truncates the longer; centre crop, padded with 0; normalise."""
    image = photo(*shape)
    made = task(
        "classification",
        tensor(-1, 3, 224, 224),
        size=resize,
        interpolation=interpolation,
        **IMAGENET,
    )
    short, long = min(shape), max(shape)
    size = (resize, int(resize * long / short))
    height, width = size if shape[0] <= shape[1] else size[::-1]
    method = getattr(Image.Resampling, interpolation.upper())
    resized = Image.fromarray(image).resize((width, height), method)
    left, top = (
        round((side - 224) / 2) if side > 224 else -((224 - side) // 2) for side in (width, height)
    )
    pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
    mean, std = (np.array(IMAGENET[key], np.float32) for key in ("mean", "std"))
    wanted = ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)
    out, placement = prepared(made, image)
    assert np.abs(out - wanted).max() < 1e-6
    assert (placement.top, placement.left) == (-top, -left)


@pytest.mark.parametrize(
    ("shape", "frame", "content"),
    [
        ((480, 640), (640, 640), (80, 0, 560, 640)),
        ((100, 50), (64, 64), (0, 16, 64, 48)),
        ((3, 1000), (640, 640), (319, 0, 321, 640)),
        ((37, 64), (64, 64), (13, 0, 50, 64)),  # of 27 rows of padding 13 above
    ],
)
def test_letterbox_is_centred_on_grey(
    shape: tuple[int, int], frame: tuple[int, int], content: tuple[int, ...]
) -> None:
    image = photo(*shape)
    out, placement = prepared(task("detection", tensor(1, 3, *frame)), image)
    assert placement.content == content
    top, left, bottom, right = content
    inside = np.zeros(frame, bool)
    inside[top:bottom, left:right] = True
    assert (out[:, ~inside] == np.float32(114) / np.float32(255)).all()
    if (bottom - top, right - left) == shape:
        assert np.array_equal(np.rint(out[:, inside] * 255), image.reshape(-1, 3).T)


@pytest.mark.parametrize(
    ("channels", "colour", "order"),
    [(3, None, (0, 1, 2)), (3, "rgb", (0, 1, 2)), (3, "bgr", (2, 1, 0))],
)
@pytest.mark.parametrize("last", [False, True])
def test_channels_lie_as_the_input_wants_them(
    channels: int, colour: str | None, order: tuple[int, ...], last: bool
) -> None:
    image = photo(8, 8)
    shape = (1, 8, 8, channels) if last else (1, channels, 8, 8)
    made = task("segmentation", tensor(*shape, dtype="uint8"), colour=colour)
    out, _ = prepared(made, image, "uint8")
    assert np.array_equal(out if last else out.transpose(1, 2, 0), image[:, :, list(order)])


def test_grey_inputs_of_one_channel_and_of_three() -> None:
    image = photo(8, 8)
    one, _ = prepared(task("segmentation", tensor(1, 1, 8, 8, dtype="uint8")), image, "uint8")
    assert np.array_equal(one[0], images.grey(image))
    made = task("segmentation", tensor(1, 3, 8, 8, dtype="uint8"), colour="grey")
    assert (prepared(made, image, "uint8")[0] == one).all()


def test_numbers_of_other_types() -> None:
    image = photo(8, 8)
    image[0, 0] = 255
    half, _ = prepared(
        task("segmentation", tensor(1, 3, 8, 8, dtype="float16"), **IMAGENET), image, "float16"
    )
    full, _ = prepared(task("segmentation", tensor(1, 3, 8, 8), **IMAGENET), image)
    assert np.array_equal(half, full.astype(np.float16))
    made = task("segmentation", tensor(1, 3, 8, 8, dtype="uint8"), **IMAGENET)
    assert np.array_equal(prepared(made, image, "uint8")[0], image.transpose(2, 0, 1))
    made = task("segmentation", tensor(1, 3, 8, 8, dtype="int8"), scale=1.0, mean=[128.0])
    assert np.array_equal(
        prepared(made, image, "int8")[0], (image.astype(int) - 128).transpose(2, 0, 1)
    )
    made = task("segmentation", tensor(1, 3, 8, 8, dtype="int8"), scale=1.0)
    assert prepared(made, image, "int8")[0].max() == 127


def test_an_input_without_a_batch() -> None:
    made = task("segmentation", tensor(3, 8, 8))
    assert made.shape(1, (8, 8)) == (3, 8, 8)
    out, _ = prepared(made, photo(8, 8))
    assert out.shape == (3, 8, 8)
    with pytest.raises(JobError, match="without a batch"):
        made.shape(2, (8, 8))


OPEN = {"minimum": [1, 3, 32, 32], "optimum": [1, 3, 96, 128], "maximum": [8, 3, 256, 320]}


@pytest.mark.parametrize(
    ("size", "preprocess", "shape", "frame"),
    [
        (None, {}, (100, 100), (96, 128)),
        (None, {"size": 64}, (100, 100), (64, 64)),
        (None, {"size": [64, 32], "multiple": 32}, (100, 100), (64, 32)),
        (None, {"size": 200, "resize": "shorter"}, (100, 100), (96, 128)),
        (None, {"size": 200, "resize": "shorter", "crop": [160, 64]}, (100, 100), (160, 64)),
        ([224, 320], {"size": 64}, (100, 100), (224, 320)),
        ("image", {}, (100, 77), (100, 77)),
        ("image", {"multiple": 32}, (100, 77), (128, 96)),
        ("image", {"multiple": 32}, (10, 20), (32, 32)),
        ("image", {"multiple": 32}, (1024, 640), (256, 160)),
        ("image", {}, (2000, 3), (256, 32)),
    ],
)
def test_frame(size: Any, preprocess: dict[str, Any], shape: tuple[int, int], frame: Any) -> None:
    made = task("detection", tensor(-1, 3, -1, -1, **OPEN), size, **preprocess)
    assert made.frame(np.zeros((*shape, 3), np.uint8)) == frame
    assert made.shape(5, frame) == (5, 3, *frame)


def test_images_of_their_own_size_are_padded_not_scaled() -> None:
    image = photo(100, 77)
    made = task("detection", tensor(-1, 3, -1, -1, dtype="uint8"), "image", multiple=32)
    out, placement = prepared(made, image, "uint8")
    top, left, bottom, right = placement.content
    assert np.array_equal(out[:, top:bottom, left:right], image.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("wanted", "size", "preprocess", "message"),
    [
        (tensor(1, 3, -1, -1), None, {}, "nothing says which to use"),
        (tensor(1, 3, 64, 64), [32, 32], {}, "takes 64 x 64"),
        (tensor(1, 3, 64, 64), None, {"crop": [32, 32]}, "takes 64 x 64"),
        (tensor(1, 3, -1, -1, **OPEN), [512, 512], {}, r"takes 32\.\.256 x 32\.\.320"),
        (tensor(1, 3, 60, 60), None, {"multiple": 32}, "multiples of 32"),
        (tensor(1, 3), None, {}, "2 dimensions"),
        (tensor(1, 4, 64, 64), None, {}, "4 channels"),
        (tensor(1, 1, 64, 64), None, {"colour": "bgr"}, "cannot be bgr"),
        (tensor(1, 3, 64, 64), None, {"mean": [1.0, 2.0]}, "2 numbers"),
        (tensor(1, 3, 64, 64, dtype="int8"), None, {}, "0 or 1"),
        (tensor(1, 3, 64, 64, dtype="bfloat16"), None, {}, "bfloat16"),
        (tensor(1, 3, 64, 64), None, {"resize": "shorter"}, "only the centre"),
    ],
)
def test_cards_that_do_not_fit_are_refused(
    wanted: Tensor, size: Any, preprocess: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        task("segmentation", wanted, size, **preprocess)


def test_an_image_like_a_line_is_no_memory_trap() -> None:
    made = task("classification", tensor(1, 3, 224, 224), size=256)
    with pytest.raises(images.BadImage, match="too thin"):
        prepared(made, np.zeros((1, 60000, 3), np.uint8))


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    frame=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    resize=st.sampled_from(["stretch", "letterbox", "shorter", "none"]),
    size=st.sampled_from([None, "image"]),
    box=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_boxes_come_back_from_any_placement(
    shape: tuple[int, int], frame: tuple[int, int], resize: str, size: Any, box: tuple[float, ...]
) -> None:
    sides = (-1, -1) if size else frame
    made = task("detection", tensor(1, 3, *sides, dtype="uint8"), size, resize=resize)
    image = np.full((*shape, 3), 7, np.uint8)
    out, placement = prepared(made, image, "uint8")
    assert out.shape[1:] == placement.frame
    top, left, bottom, right = placement.content
    shown = out[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    assert shown.size
    assert (shown == 7).all()
    assert (out == 7).sum() == shown.size  # the rest is padding, of which none was forgotten
    height, width = shape
    x, y = sorted(box[:2]), sorted(box[2:])
    original = np.array([[x[0] * width, y[0] * height, x[1] * width, y[1] * height]], np.float32)
    scale = np.tile([placement.scale_x, placement.scale_y], 2)
    there = original * scale + np.tile([placement.left, placement.top], 2)
    back = boxes.to_original(there.astype(np.float32), placement)
    assert np.abs(back - original).max() <= 2e-4 * max(shape) / scale.min()
