"""Image files of every kind become the same pixels, the right way up; others say why they are none."""

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from vision import images
from worker import JobError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (6, 9)).astype(np.uint8)
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    image = images.decode(saved(tmp_path, Image.fromarray(COLOUR), exif=exif))
    assert np.array_equal(image, TURNED[orientation](COLOUR))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    def read(image: Image.Image, name: str = "image.png", **options: Any) -> np.ndarray:
        return images.decode(saved(tmp_path, image, name, **options))

    grey = Image.fromarray(GREY)
    assert np.array_equal(read(grey), rgb(GREY))
    assert np.array_equal(read(grey.convert("P")), rgb(GREY))
    deep = Image.fromarray(GREY.astype(np.uint16) * 256 + 77)
    assert np.array_equal(read(deep), rgb(GREY))
    assert np.array_equal(read(deep, "deep.tif"), rgb(GREY))
    assert np.array_equal(
        read(grey.point(lambda v: 255 * (v > 99)).convert("1")) > 0, rgb(GREY > 99)
    )
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    assert np.array_equal(read(cmyk, "four.tif"), COLOUR)


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    image = images.decode(saved(tmp_path, Image.fromarray(np.dstack([COLOUR, alpha]))))
    assert (image[0] == 255).all()
    assert np.abs(image[1] - (COLOUR[1] * (128 / 255) + 255 * (127 / 255))).max() <= 1
    assert np.array_equal(image[2:], COLOUR[2:])
    palette = Image.fromarray(np.arange(54, dtype=np.uint8).reshape(6, 9)).convert("P")
    image = images.decode(saved(tmp_path, palette, transparency=5))
    assert (image[0, 5] == 255).all()
    assert (image[0, 4] == 4).all()


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "two.gif", save_all=True, append_images=frames[1:])
    assert (images.decode(path)[0, 0] == (255, 0, 0)).all()


def bomb() -> bytes:
    """A PNG that says it has 40000x40000 pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 0, 0, 0, 0), b"IDAT"]
    framed = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "no image, or of a format that Pillow cannot read"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "no image|truncated|broken"),
        (bomb(), "DecompressionBomb"),
        (None, "there is no such file"),
    ],
    ids=["empty", "text", "header only", "bomb", "missing"],
)
def test_bad_files_say_why(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "image.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(images.BadImage, match=reason) as caught:
        images.decode(str(path))
    assert caught.value.path == str(path)


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.bmp", "image.gif", "image.tif"])
def test_cut_off_and_damaged_files_are_images_or_bad(tmp_path: Path, name: str) -> None:
    whole = Path(saved(tmp_path, Image.fromarray(np.tile(COLOUR, (9, 9, 1))), name)).read_bytes()
    path, bad = tmp_path / ("cut" + name), 0
    for step in range(40):
        data = bytearray(whole[: len(whole) * (step + 1) // 41] if step % 2 else whole)
        for place in RNG.integers(0, len(data), 4):
            data[place] ^= int(RNG.integers(1, 256))
        path.write_bytes(data)
        try:
            assert images.decode(str(path)).shape[2] == 3
        except images.BadImage:
            bad += 1
    assert bad


def test_floats_of_unknown_range_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(GREY.astype(np.float32) / 9), "float.tif")
    with pytest.raises(images.BadImage, match="unknown range"):
        images.decode(path)


def test_without_any_library_the_hint_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_modules", {"PIL": None, "cv2": None})
    with pytest.raises(JobError, match="neither Pillow nor OpenCV"):
        images.decode("image.png")


def test_grey_keeps_grey_and_weighs_colours() -> None:
    assert np.array_equal(images.grey(rgb(GREY)), GREY)
    wanted = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(images.grey(COLOUR) - wanted).max() <= 1


def test_plain_resize_samples_between_the_nearest_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 200
    half = images.resize_plain(image, (4, 2), "bilinear")
    assert half[0, :, 0].tolist() == [0, 200]
    double = images.resize_plain(image, (4, 8), "bilinear")
    assert double[0, :, 0].tolist() == [0, 0, 0, 50, 150, 200, 200, 200]
