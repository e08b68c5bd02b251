"""Pictures of results: readable at any size, whatever was found, on old Pillows too."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import draw, lettering
from vision.results import Classification, Detection, Segmentation

GREY = 120
LABELS = ["background", "coin", "a label that is so long that no picture of this size can hold it"]


def photo(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def detection(size: Any, *boxes: Any, masks: bool = False) -> Detection:
    count = len(boxes)
    crops = None
    if masks:
        crops = [
            (int(top), int(left), np.ones((int(bottom - top), int(right - left)), bool))
            for left, top, right, bottom in boxes
        ]
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return Detection(found, np.linspace(0.9, 0.3, count), np.arange(count) % 3, size, crops)


def share(image: Image.Image, colour: tuple[int, ...]) -> float:
    return float((np.asarray(image) == colour).all(axis=2).mean())


@pytest.mark.parametrize("size", [(480, 640), (2000, 3000), (100, 2000)])
def test_boxes_are_where_they_were_found(size: tuple[int, int]) -> None:
    height, width = size
    box = (0.25 * width, 0.4 * height, 0.75 * width, 0.9 * height)
    image = draw.picture(photo(*size), detection(size, box), ["cat"])
    pixels = np.asarray(image)
    colour = lettering.colour(0)
    assert image.size == (width, height)
    assert tuple(pixels[int(box[1]), int(box[2]) - 2]) == colour
    assert tuple(pixels[int(box[3]) - 1, width // 2]) == colour
    assert (pixels[int(0.7 * height), width // 2] == GREY).all()
    chip = pixels[: int(box[1]), int(box[0]) : int(box[0]) + width // 4]
    ink = (chip == lettering.INK).all(axis=2)
    rows = np.flatnonzero(ink.any(axis=1))
    assert rows.max() - rows.min() >= 7  # letters of a size that can be read
    assert (pixels[:, : int(box[0]) - 1] == GREY).all()


def test_small_images_are_enlarged() -> None:
    result = detection((32, 32), (8, 8, 24, 24), masks=True)
    image = draw.picture(photo(32, 32), result, ["cat"])
    assert image.size == (480, 480)
    pixels = np.asarray(image).astype(int)
    tint = np.array(lettering.colour(0)) * draw.TINT + GREY * (1 - draw.TINT)
    assert np.abs(pixels[240, 240] - tint).max() <= 2
    assert (pixels[400, 400] == GREY).all()


def test_labels_give_way_to_each_other() -> None:
    boxes = [(100, 100 + step, 300, 300 + step) for step in (0, 4, 8)]
    image = draw.picture(photo(480, 640), detection((480, 640), *boxes), ["a", "b", "c"])
    letters = lettering.face(lettering.measures(640, 480)[1])
    chip = (letters.height + 4) * 30 / 640 / 480  # at least that wide
    assert all(share(image, lettering.colour(index)) > chip for index in range(3))


def test_a_map_is_tinted_and_explained() -> None:
    mask = np.zeros((480, 640), np.uint8)
    mask[100:300, 100:300] = 1
    image = draw.picture(photo(480, 640), Segmentation(mask), LABELS)
    pixels = np.asarray(image)
    assert image.size[0] == 640
    assert image.size[1] > 480
    assert (pixels[10, 10] == GREY).all()  # the background stays
    assert (pixels[200, 200] != GREY).any()
    assert tuple(pixels[100, 200]) == lettering.colour(1)  # the border
    assert share(image.crop((0, 480, *image.size)), lettering.colour(1)) > 0
    unnamed = np.asarray(draw.picture(photo(480, 640), Segmentation(mask + 3), None))
    assert (unnamed[10, 10] != GREY).any()


def test_classes_are_bars() -> None:
    result = Classification(np.array([1, 2]), np.array([0.75, 0.25]))
    image = draw.picture(photo(400, 600), result, LABELS)
    panel = np.asarray(image)[400:]
    bars = [
        (panel == colour).all(axis=2).any(axis=0).sum()
        for colour in (lettering.colour(1), (140, 170, 210))
    ]
    assert bars[0] == pytest.approx(3 * bars[1], abs=4)


def bitmap_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow before 10.1 where no TrueType font is found."""
    plain = ImageFont.load_default_imagefont()

    def load_default(*size: float) -> Any:
        if size:
            raise TypeError
        return plain

    def truetype(*_: Any) -> Any:
        raise OSError

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    monkeypatch.setattr(ImageFont, "truetype", truetype)
    monkeypatch.setattr(lettering, "_faces", {})


def test_a_bitmap_font_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmap_font(monkeypatch)
    assert lettering.face(44).height >= 40
    image = draw.picture(photo(480, 640), detection((480, 640), (9, 99, 300, 300)), ["naïve 猫"])
    assert share(image, lettering.INK) > 0


@pytest.mark.parametrize("bitmap", [False, True])
def test_text_is_shortened_to_fit(monkeypatch: pytest.MonkeyPatch, bitmap: bool) -> None:
    if bitmap:
        bitmap_font(monkeypatch)
    letters = lettering.face(20)
    for width in range(0, 300, 7):
        text = letters.fitted("IMG_0001_of_a_long_walk.jpg", width, tail=0.4)
        assert letters.width(text) <= width
    assert letters.fitted("short", 300) == "short"
    assert text.startswith("IMG")
    assert text.endswith("jpg")


def test_colours_are_distinct_and_text_stands_out() -> None:
    colours = [lettering.colour(index) for index in range(300)]
    assert len(set(colours)) == 300
    assert len(set(colours[:16])) == 16
    for fill in colours:
        ink = lettering.contrast(fill)
        light, dark = (
            sum(c * w for c, w in zip(part, (3, 6, 1), strict=True)) for part in (fill, ink)
        )
        assert abs(light - dark) > 900


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    kind=st.sampled_from(["boxes", "masks", "map", "classes"]),
    seed=st.integers(0, 99),
)
def test_anything_can_be_drawn(size: tuple[int, int], kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = size
    result: Any
    if kind in ("boxes", "masks"):
        corners = [np.sort(random.uniform(0, side, (3, 2))) for side in (width, height)]
        boxes = np.stack(corners, axis=2).reshape(3, 4)
        boxes = np.floor(boxes) if kind == "masks" else boxes
        result = detection(size, *boxes[: random.integers(0, 4)], masks=kind == "masks")
    elif kind == "map":
        result = Segmentation(random.integers(0, 300, size))
    else:
        count = random.integers(0, 4)
        result = Classification(np.arange(count), random.random(count))
    image = draw.picture(photo(height, width), result, [None, LABELS][seed % 2])
    assert min(image.size) >= 1


def test_a_sheet_holds_all_pictures_with_their_names() -> None:
    sizes = [(100, 100), (640, 200), (60, 900), (30, 30), (300, 300)]
    pictures = [
        (f"{number}.png", Image.new("RGB", size, "red")) for number, size in enumerate(sizes)
    ]
    sheet = draw.contact_sheet(pictures)
    assert sheet.size[0] <= 3 * (draw.CELL[0] + 12) + 12
    red = (np.asarray(sheet) == (255, 0, 0)).all(axis=2).sum()
    shown = [min(1, 320 / max(size)) for size in sizes]
    area = sum(w * gain * h * gain for (w, h), gain in zip(sizes, shown, strict=True))
    assert red == pytest.approx(area, rel=0.02)
    assert share(sheet, lettering.QUIET) > 0
    assert draw.contact_sheet(pictures, columns=1).size[1] > sheet.size[1]
    assert draw.contact_sheet([]).size[0] > 0


def test_a_sheet_of_many_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "MOST_PIXELS", 1 << 20)
    width, height = draw.contact_sheet([("n", Image.new("RGB", (90, 90)))] * 200).size
    assert width * height < 3 << 20
