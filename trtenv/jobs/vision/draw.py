"""Pictures of results, and sheets of many pictures. Pillow 5 to 13.

Small images are enlarged, so that what is written on them can be read.
"""

import math

from worker import JobError

from vision import images
from vision.lettering import (
    INK,
    LINE,
    PAPER,
    QUIET,
    SMALLEST,
    colour,
    contrast,
    face,
    measures,
)  # fmt: skip
from vision.results import label_of

SMALL = 480  # pixels of the longer side; smaller images are enlarged to about that
NARROWEST = 320  # of a picture with a caption
BACKGROUND = ("background", "__background__", "_background_", "bg")
TINT = 0.45  # of the colour in a mask
CELL = (320, 320)
MOST_PIXELS = 1 << 26  # of a sheet


def picture(image, result, labels=None):
    """A PIL image of what was found in `image` (uint8, HxWx3)."""
    if images.library("PIL") is None:
        raise JobError(
            "packages", "pictures need Pillow, which this environment lacks", "pip install pillow"
        )
    labels = labels or []
    canvas, zoom = _canvas(image)
    if result.kind == "classification":
        return _with_bars(canvas, result, labels)
    if result.kind == "segmentation":
        return _with_map(canvas, result, labels)
    return _with_boxes(canvas, result, labels, zoom)


def _canvas(image):
    """The image as PIL's, enlarged by a whole number where it is small, and that number."""
    from PIL import Image

    canvas = Image.fromarray(image)
    zoom = max(1, round(SMALL / float(max(canvas.size))))
    if zoom > 1:
        canvas = canvas.resize([side * zoom for side in canvas.size], _filter("BICUBIC"))
    return canvas, zoom


def _filter(name):
    from PIL import Image

    return getattr(getattr(Image, "Resampling", Image), name)


# Detection


def _with_boxes(canvas, result, labels, zoom):
    from PIL import ImageDraw

    line, size = measures(*canvas.size)
    order = range(len(result.scores) - 1, -1, -1)  # the best on top
    if result.crops is not None:
        for index in order:
            canvas = _tinted(canvas, result.crops[index], colour(result.classes[index]), zoom, line)
    for index in order:
        _frame(canvas, result.boxes[index] * zoom, line, colour(result.classes[index]))
    letters, chips = face(_crowded(size, result, zoom)), []
    for index in reversed(order):
        chips.append(_chip(canvas.size, result, index, labels, letters, zoom, chips))
    for place, text, fill in reversed(chips):
        ImageDraw.Draw(canvas).rectangle((*place[:2], place[2] - 1, place[3] - 1), fill=fill)
        pad = (place[3] - place[1] - letters.height) // 2
        letters.write(canvas, (place[0] + pad, place[1] + pad), text, contrast(fill))
    return canvas


def _crowded(size, result, zoom):
    """Smaller text where the boxes are small: half of them are at least four lines high."""
    import numpy as np

    if not len(result.boxes):
        return size
    middle = float(np.median(result.boxes[:, 3] - result.boxes[:, 1])) * zoom
    return max(SMALLEST, min(size, int(middle / 4)))


def _frame(canvas, box, line, fill):
    from PIL import ImageDraw

    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = (round(float(side)) for side in box)
    for step in range(line):  # Pillow before 5.3 knows no width
        inner = (left + step, top + step, right - 1 - step, bottom - 1 - step)
        if inner[2] < inner[0] or inner[3] < inner[1]:
            break
        draw.rectangle(inner, outline=fill)


def _chip(size, result, index, labels, letters, zoom, others):
    """((left, top, right, bottom), text, colour) of the label of a box: above it, inside it, or
    below, where no better one's lies."""
    kind = int(result.classes[index])
    name = label_of(labels, kind)
    text = "%s %.2f" % (kind if name is None else name, result.scores[index])
    pad = max(2, letters.size // 6)
    text = letters.fitted(text, size[0] - 2 * pad, tail=0.4)
    width, height = letters.width(text) + 2 * pad, letters.height + 2 * pad
    left, top, right, bottom = (round(float(side)) for side in result.boxes[index] * zoom)
    starts = [max(0, min(start, size[0] - width)) for start in (left, right - width)]
    places = [(x, y) for x in starts for y in (top - height, top, bottom, bottom - height)]
    inside = [place for place in places if 0 <= place[1] <= size[1] - height]
    free = [
        (x, y)
        for x, y in inside
        if not any(
            x < other[2] and x + width > other[0] and y < other[3] and y + height > other[1]
            for other, _, _ in others
        )
    ]
    x, y = (free or inside or [(starts[0], max(0, min(top, size[1] - height)))])[0]
    return (x, y, x + width, y + height), text, colour(kind)


def _tinted(canvas, crop, fill, zoom, line):
    """With a mask in its colour, and its edge as a line."""
    import numpy as np
    from PIL import Image

    top, left, mask = crop
    if not mask.any():
        return canvas
    if zoom > 1:
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        grey = grey.resize([side * zoom for side in grey.size], _filter("BICUBIC"))
        mask = np.asarray(grey) > 127
    weights = np.where(mask, int(255 * TINT), 0).astype(np.uint8)
    weights[_edge(mask, line)] = 255
    canvas.paste(fill, (left * zoom, top * zoom), Image.fromarray(weights))
    return canvas


def _edge(mask, line):
    """The outermost `line` pixels of a mask."""
    import numpy as np

    inner = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    inner[1:-1, 1:-1] = mask
    for _ in range(line):
        core = inner[1:-1, 1:-1] & inner[:-2, 1:-1] & inner[2:, 1:-1]
        core &= inner[1:-1, :-2] & inner[1:-1, 2:]
        inner[1:-1, 1:-1] = core
    return mask & ~inner[1:-1, 1:-1]


# Segmentation


def _with_map(canvas, result, labels):
    import numpy as np
    from PIL import Image

    line, size = measures(*canvas.size)
    mask = Image.fromarray(result.mask.astype(np.int32)).resize(canvas.size, _filter("NEAREST"))
    mask = np.asarray(mask)
    present = list(result.shares)
    painted = [index for index in present if not _is_background(index, labels)]
    table = np.zeros((max(present) + 1, 3), np.uint8)
    weights = np.zeros(max(present) + 1, np.uint8)
    for index in painted:
        table[index] = colour(index)
        weights[index] = int(255 * TINT)
    weight = weights[mask]
    weight[_borders(mask, max(1, line // 2)) & (weight > 0)] = 255
    canvas.paste(Image.fromarray(table[mask]), (0, 0), Image.fromarray(weight))
    return _with_legend(canvas, result, labels, painted, size)


def _is_background(index, labels):
    """Class 0 without a name, or one that is called so: it stays as it is."""
    name = label_of(labels, index)
    return index == 0 if name is None else name.lower() in BACKGROUND


def _borders(mask, line):
    """Pixels with another class within `line` pixels to the left, right, above or below."""
    import numpy as np

    found = np.zeros(mask.shape, bool)
    for step in range(1, line + 1):
        down, right = mask[step:] != mask[:-step], mask[:, step:] != mask[:, :-step]
        found[step:] |= down
        found[:-step] |= down
        found[:, step:] |= right
        found[:, :-step] |= right
    return found


def _with_legend(canvas, result, labels, painted, size):
    """Colours, names and shares in rows below the picture."""
    from PIL import ImageDraw

    letters, gap = face(size), max(6, size // 2)
    width, entries = max(canvas.size[0], NARROWEST), []
    for index, share in result.shares.items():
        name = label_of(labels, index)
        text = "%s  %.1f %%" % (("class %d" % index) if name is None else name, 100 * share)
        text = letters.fitted(text, width - 3 * gap - letters.height)
        entries.append((index, text, letters.height + gap // 2 + letters.width(text) + gap))
    places, x, y = [], gap, gap
    for _, _, length in entries:
        if x > gap and x + length > width:
            x, y = gap, y + letters.height + gap
        places.append((x, y))
        x += length + gap // 2
    sheet = _below(canvas, width, y + letters.height + gap)
    draw, top = ImageDraw.Draw(sheet), canvas.size[1]
    for (index, text, _), (x, y) in zip(entries, places):
        side = letters.height
        fill = colour(index) if index in painted else PAPER
        square = (x, top + y, x + side - 1, top + y + side - 1)
        draw.rectangle(square, fill=fill, outline=fill if index in painted else QUIET)
        letters.write(sheet, (x + side + gap // 2, top + y), text, INK)
    return sheet


def _below(canvas, width, height):
    """The picture on paper, centred, with room below."""
    from PIL import Image

    sheet = Image.new("RGB", (width, canvas.size[1] + height), PAPER)
    sheet.paste(canvas, ((width - canvas.size[0]) // 2, 0))
    return sheet


# Classification


def _with_bars(canvas, result, labels):
    """The best classes below the picture: name, bar and percent."""
    from PIL import ImageDraw

    width = max(canvas.size[0], NARROWEST)
    size = max(SMALLEST, measures(width, width)[1])
    letters, gap = face(size), max(6, size // 2)
    count = len(result.indices)
    if not count:
        sheet = _below(canvas, width, letters.height + 2 * gap)
        letters.write(sheet, (gap, canvas.size[1] + gap), "no score is a number", QUIET)
        return sheet
    names = [label_of(labels, int(index)) for index in result.indices]
    names = [
        ("class %d" % index) if name is None else name for index, name in zip(result.indices, names)
    ]
    percents = ["%.1f %%" % (100 * float(score)) for score in result.scores]
    right = max(letters.width(text) for text in percents)
    middle = min(max(letters.width(name) for name in names), width // 2)
    row = letters.height + gap
    sheet = _below(canvas, width, count * row + gap)
    draw, length = ImageDraw.Draw(sheet), width - middle - right - 4 * gap
    for place, (name, percent, score) in enumerate(zip(names, percents, result.scores)):
        y = canvas.size[1] + gap + place * row
        letters.write(sheet, (gap, y), letters.fitted(name, middle), INK if not place else QUIET)
        start = 2 * gap + middle
        share = max(0.0, min(1.0, float(score)))
        draw.rectangle((start, y, start + length, y + letters.height - 1), fill=(234, 238, 242))
        if round(share * length) >= 1:
            end = start + round(share * length)
            fill = colour(1) if not place else (140, 170, 210)
            draw.rectangle((start, y, end, y + letters.height - 1), fill=fill)
        left = width - gap - letters.width(percent)
        letters.write(sheet, (left, y), percent, INK if not place else QUIET)
    return sheet


# Sheets


def thumbnail(image, cell=CELL):
    """No larger than a cell of a sheet: what to keep of many pictures."""
    from PIL import Image

    gain = min(1.0, cell[0] / float(image.size[0]), cell[1] / float(image.size[1]))
    size = [max(1, int(side * gain)) for side in image.size]
    image = image if image.mode == "RGB" else image.convert("RGB")
    lanczos = getattr(Image, "Resampling", Image).LANCZOS
    return image if gain == 1 else image.resize(size, lanczos)


def contact_sheet(pictures, columns=None, cell=CELL):
    """One PIL image of [(name, PIL image)] in rows, the names below; cells shrink where there are so
    many that the sheet would be enormous."""
    from PIL import Image, ImageDraw

    count = max(len(pictures), 1)
    columns = min(columns or math.ceil(count**0.5), count)
    gain = min(1.0, (MOST_PIXELS / float(count * cell[0] * cell[1])) ** 0.5)
    cell = tuple(max(48, int(side * gain)) for side in cell)
    letters, gap = face(SMALLEST + 2), 12
    small = [(name, thumbnail(image, cell)) for name, image in pictures]
    rows = [small[start : start + columns] for start in range(0, len(small), columns)]
    heights = [max(image.size[1] for _, image in row) for row in rows]
    size = columns * (cell[0] + gap) + gap, sum(heights) + len(rows) * (letters.height + 2 * gap)
    sheet = Image.new("RGB", (size[0], size[1] + gap), PAPER)
    draw, top = ImageDraw.Draw(sheet), gap
    for row, height in zip(rows, heights):
        for place, (name, image) in enumerate(row):
            start = gap + place * (cell[0] + gap)
            x, y = start + (cell[0] - image.size[0]) // 2, top + (height - image.size[1]) // 2
            frame = (x - 1, y - 1, x + image.size[0], y + image.size[1])
            draw.rectangle(frame, outline=LINE)
            sheet.paste(image, (x, y))
            text = letters.fitted(name, cell[0], tail=0.4)
            middle = start + (cell[0] - letters.width(text)) // 2
            letters.write(sheet, (middle, top + height + gap // 2), text, QUIET)
        top += height + letters.height + 2 * gap
    return sheet
