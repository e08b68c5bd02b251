"""Text, colours and sizes of the pictures, on Pillow 5 to 13. Text is drawn through masks, so that old
Pillows, which have one small bitmap font, get it enlarged."""

import colorsys

# Distinct on photographs and from each other; further classes turn the hue by the golden angle.
COLOURS = (
    (255, 176, 0), (30, 136, 229), (229, 57, 53), (67, 160, 71), (171, 71, 188), (0, 188, 212),
    (255, 112, 67), (124, 179, 66), (236, 64, 122), (92, 107, 192), (255, 238, 88), (0, 150, 136),
    (141, 110, 99), (186, 104, 200), (38, 198, 218), (212, 225, 87),
)  # fmt: skip
INK, PAPER, QUIET, LINE = (27, 31, 36), (255, 255, 255), (89, 99, 110), (208, 215, 222)
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "Helvetica.ttc")
BITMAP_HEIGHT = 11  # of Pillow's built-in bitmap font
SMALLEST = 13  # of text that one can read
ELLIPSIS = "..."

_faces = {}


def colour(index):
    """The colour of a class, the same in every picture."""
    index = int(index)
    if 0 <= index < len(COLOURS):
        return COLOURS[index]
    turn = (index * 0.61803398875) % 1
    light, strength = 0.75 + 0.25 * (index // 5 % 2), 0.55 + 0.15 * (index % 4)
    return tuple(int(255 * part) for part in colorsys.hsv_to_rgb(turn, strength, light))


def contrast(fill):
    """Black or white, whichever is easier to read on it."""
    brightness = (299 * fill[0] + 587 * fill[1] + 114 * fill[2]) / 1000.0
    return INK if brightness > 140 else PAPER


def measures(width, height):
    """(width of lines, size of text) for a picture of this size, in pixels."""
    middle = (width * height) ** 0.5
    line = max(2, round(middle / 300))
    text = max(SMALLEST, round(middle / 40))
    return line, max(SMALLEST, min(text, min(width, height) // 8))


def face(size):
    """The Face of about this size."""
    size = max(int(size), 8)
    if size not in _faces:
        _faces[size] = Face(size)
    return _faces[size]


class Face(object):
    def __init__(self, size):
        self.size = size
        self.font, self.factor = _load(size)
        # Of the highest and the lowest letters, so that all lines are of one height.
        self.top, bottom = self._box("\u00c5gjpqy|")[1::2]
        self.height = round((bottom - self.top) * self.factor)

    def _box(self, text):
        reader = getattr(self.font, "getbbox", None)
        if reader is not None:
            return reader(text)
        width, height = self.font.getsize(text)  # Pillow before 8
        return 0, 0, width, height

    def width(self, text):
        return round(self._box(self.known(text))[2] * self.factor)

    def known(self, text):
        """With what a bitmap font does not have replaced."""
        text = " ".join(str(text).split())
        return text if self.factor == 1 else text.encode("latin-1", "replace").decode("latin-1")

    def fitted(self, text, width, tail=0.0):
        """Shortened, so that it is not wider; `tail`: what part of the rest is its end."""
        text = self.known(text)
        if self.width(text) <= width:
            return text

        def shortened(length):
            last = int(length * tail)
            return text[: length - last].rstrip() + ELLIPSIS + text[len(text) - last :]

        low, high = -1, len(text) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(shortened(middle)) <= width:
                low = middle
            else:
                high = middle - 1
        return shortened(low) if low >= 0 else ""

    def write(self, image, place, text, fill):
        """Left and upper corner at `place`."""
        from PIL import Image, ImageDraw

        text = self.known(text)
        box = self._box(text)
        size = max(1, int(box[2])), max(1, round(self.height / self.factor) + 1)
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).text((0, -self.top), text, font=self.font, fill=255)
        if self.factor != 1:
            bicubic = getattr(Image, "Resampling", Image).BICUBIC
            mask = mask.resize([max(1, int(side * self.factor)) for side in size], bicubic)
        image.paste(fill, (int(place[0]), int(place[1])), mask)


def _load(size):
    """(font, by what it is to be enlarged)."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size), 1  # Pillow 10.1 or newer, built with FreeType
    except (TypeError, ImportError, OSError):
        found = [font for font in (_truetype(name, size) for name in FONTS) if font]
    if found:
        return found[0], 1
    return ImageFont.load_default(), max(1.0, size / float(BITMAP_HEIGHT))


def _truetype(name, size):
    from PIL import ImageFont

    try:
        return ImageFont.truetype(name, size)
    except (ImportError, OSError):
        return None
