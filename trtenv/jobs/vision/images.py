"""Image files to arrays, and arrays to other sizes: Pillow, or OpenCV where Pillow is absent.

Images are uint8 arrays of shape HxWx3, RGB, the right way up. Pillow and OpenCV let other threads run
while they decode and resize.
"""

import importlib
import os
import threading

from worker import JobError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
ORIENTATION = 0x0112  # the EXIF tag; its values as names of Pillow's transpositions
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
WHITE = (255, 255, 255)
_modules = {}
_lock = threading.Lock()


class BadImage(Exception):
    """A file that is no image, or not one that can be read; the others may still be fine."""

    def __init__(self, path, reason):
        super(BadImage, self).__init__("%s: %s" % (path, reason))
        self.path = path
        self.reason = reason


def library(name):
    """PIL or cv2, or None where the environment lacks it."""
    if name not in _modules:
        with _lock:
            try:
                _modules[name] = importlib.import_module({"PIL": "PIL.Image", "cv2": "cv2"}[name])
            except ImportError:
                _modules[name] = None
    return _modules[name]


def need_library():
    if library("PIL") is None and library("cv2") is None:
        raise JobError(
            "packages",
            "this environment has neither Pillow nor OpenCV, so no image can be read",
            "install one of them: pip install pillow",
        )


def decode(path):
    """The image in `path`: uint8, HxWx3, RGB, contiguous; BadImage says why there is none.

    EXIF orientation is applied; what is transparent shows white; of 16 bits the upper 8 are kept; of
    an animation the first frame.
    """
    need_library()
    try:
        if not os.path.isfile(path):
            there = os.path.exists(path)
            raise BadImage(path, "it is no regular file" if there else "there is no such file")
        if os.path.getsize(path) == 0:
            raise BadImage(path, "the file is empty")
        if library("PIL") is None:
            return _decode_opencv(path)
        return _decode_pillow(path)
    except (BadImage, MemoryError):
        raise
    except OSError as error:  # Pillow's UnidentifiedImageError and "image file is truncated" too
        if "cannot identify image file" in str(error):
            raise BadImage(path, "no image, or of a format that Pillow cannot read")
        raise BadImage(path, error.strerror or str(error))
    except Exception as error:  # damaged files raise whatever the decoders happen to meet
        raise BadImage(path, "%s: %s" % (type(error).__name__, error))


def _decode_pillow(path):
    import numpy as np

    pillow = library("PIL")
    with open(path, "rb") as handle:
        image = pillow.open(handle)
        image.load()
        turn = TURNS.get(_orientation(image))
    if turn:
        image = image.transpose(getattr(getattr(pillow, "Transpose", pillow), turn))
    image = _as_rgb(image, path)
    return np.array(image)  # a copy that can be written, as some libraries ask for


def _orientation(image):
    reader = getattr(image, "getexif", None) or getattr(image, "_getexif", None)  # Pillow < 6
    try:
        return dict(reader() or {}).get(ORIENTATION) if reader else None
    except Exception:  # a damaged EXIF block says nothing of the pixels
        return None


def _as_rgb(image, path):
    import numpy as np

    pillow = library("PIL")
    if image.mode == "F":
        raise BadImage(path, "its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # I;16, I;16B, or I, as Pillow before 10 opens 16-bit files
        values = np.array(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadImage(path, "its pixels are 32-bit numbers of unknown range")
        image = pillow.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = pillow.new("RGB", image.size, WHITE)
        ground.paste(image, mask=image.split()[3])
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _decode_opencv(path):
    import numpy as np

    cv2 = library("cv2")
    with open(path, "rb") as handle:
        data = np.frombuffer(handle.read(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # 8 bits; EXIF applied; alpha dropped
    if image is None:
        raise BadImage(path, "no image, or of a format that OpenCV cannot read")
    full = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if full is not None and full.ndim == 3 and full.shape[2] == 4:
        image = _on_white(full[:, :, :3], full[:, :, 3])
    return np.ascontiguousarray(image[:, :, ::-1])


def _on_white(colours, alpha):
    import numpy as np

    if colours.dtype != np.uint8:
        colours, alpha = (colours >> 8).astype(np.uint8), (alpha >> 8).astype(np.uint8)
    weight = alpha[:, :, None].astype(np.uint16)
    return ((colours * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def grey(image):
    """HxW from HxWx3, by the weights of ITU-R 601 as Pillow and OpenCV have them."""
    import numpy as np

    if library("PIL") is not None:
        return np.asarray(library("PIL").fromarray(image).convert("L"))
    return library("cv2").cvtColor(image, library("cv2").COLOR_RGB2GRAY)


def resize(image, size, interpolation):
    """To size (height, width), with antialiasing: as torchvision resizes a PIL image.

    OpenCV has no such filter: where it stands in for Pillow, shrinking averages areas.
    """
    import numpy as np

    if tuple(image.shape[:2]) == tuple(size):
        return image
    pillow = library("PIL")
    if pillow is not None:
        filters = getattr(pillow, "Resampling", pillow)
        resized = pillow.fromarray(image).resize(
            (size[1], size[0]), getattr(filters, interpolation.upper())
        )
        return np.asarray(resized)
    cv2 = library("cv2")
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    flag = {"nearest": cv2.INTER_NEAREST, "bicubic": cv2.INTER_CUBIC}.get(interpolation)
    if flag is None or (shrinks and interpolation == "bicubic"):
        flag = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=flag)


def resize_plain(image, size, interpolation):
    """To size (height, width), without antialiasing: as OpenCV's resize does, with OpenCV where it is.

    Pillow's bilinear transform samples at the same points; it rounds differently, by 1 of 255.
    """
    import numpy as np

    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        return image
    cv2 = library("cv2")
    if cv2 is not None:
        flags = {"nearest": cv2.INTER_NEAREST, "bicubic": cv2.INTER_CUBIC}
        flag = flags.get(interpolation, cv2.INTER_LINEAR)
        return cv2.resize(image, (size[1], size[0]), interpolation=flag)
    pillow = library("PIL")
    filters = getattr(pillow, "Resampling", pillow)
    mapping = (width / size[1], 0, 0, 0, height / size[0], 0)
    method = getattr(pillow, "Transform", pillow).AFFINE
    turned = pillow.fromarray(image).transform(
        (size[1], size[0]), method, mapping, getattr(filters, interpolation.upper())
    )
    return np.asarray(turned)
