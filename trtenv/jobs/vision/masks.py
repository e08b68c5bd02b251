"""Maps and masks in a network's size to those of the original image. NumPy alone.

Where they are enlarged, values are: bilinear between the centres of pixels, as torch's interpolate
(align_corners=False) does it, and the decision falls after that.
"""

import math

STRIP = 1 << 22  # values that are enlarged at once
MOST_WORK = 1 << 29  # values of a map to enlarge; beyond, classes are enlarged instead
TOGETHER = 32  # masks made from prototypes at once


def _positions(placement, axis, length):
    """For each row (axis 0) or column (1) of the original, where it lies in a map of `length` rows
    or columns; and the first and last of those that show some of the image, not padding alone."""
    import numpy as np

    frame = float(placement.frame[axis])
    scale = (placement.scale_y, placement.scale_x)[axis]
    offset = (placement.top, placement.left)[axis]
    start, end = placement.content[axis], placement.content[axis + 2]
    ratio = length / frame
    first = min(max(int(start * ratio), 0), length - 1)
    last = max(min(math.ceil(end * ratio), length) - 1, first)
    centres = np.arange(placement.original[axis]) + 0.5
    return (centres * scale + offset) * ratio, first, last


def _taps(placement, axis, length):
    """(lower neighbour, upper neighbour, weight of the upper) of each row or column."""
    import numpy as np

    where, first, last = _positions(placement, axis, length)
    where = np.clip(where - 0.5, first, last)
    lower = np.minimum(where.astype(np.int64), last)
    return lower, np.minimum(lower + 1, last), (where - lower).astype(np.float32)


def _blend(values, taps, axis):
    """Linear interpolation along the last axis but one (-2) or the last (-1)."""
    import numpy as np

    lower, upper, weight = taps
    if axis == -2:
        weight = weight[:, None]
    low = np.take(values, lower, axis=axis)
    high = np.take(values, upper, axis=axis)
    high -= low
    high *= weight
    high += low
    return high


def _cut(taps, start, end):
    return tuple(part[start:end] for part in taps)


def nearest(classes, placement):
    """A map of classes, HxW, in the original's size."""
    import numpy as np

    places = []
    for axis in (0, 1):
        where, first, last = _positions(placement, axis, classes.shape[axis])
        places.append(np.clip(np.floor(where).astype(np.int64), first, last))
    return classes[places[0]][:, places[1]]


def decided(scores, placement, level=None):
    """The class of each pixel of the original from scores CxHxW: the largest; of a single score with
    `level`, 1 where it is above. Strip by strip, so that the memory is bounded."""
    import numpy as np

    height, width = placement.original
    kind = np.uint8 if len(scores) <= 256 else np.uint16 if len(scores) <= 65536 else np.int32
    if len(scores) * height * width > MOST_WORK:
        return nearest(_decide(scores, level).astype(kind), placement)
    rows = _taps(placement, 0, scores.shape[1])
    columns = _taps(placement, 1, scores.shape[2])
    result = np.empty((height, width), kind)
    step = max(1, STRIP // (len(scores) * width))
    for start in range(0, height, step):
        strip = _cut(rows, start, start + step)
        first, last = int(strip[0][0]), int(strip[1][-1]) + 1
        part = scores[:, first:last].astype(np.float32)
        strip = (strip[0] - first, strip[1] - first, strip[2])
        result[start : start + step] = _decide(_blend(_blend(part, columns, -1), strip, -2), level)
    return result


def _decide(scores, level):
    if level is None:
        return scores.argmax(axis=0)
    return scores[0] > level


def of_prototypes(coefficients, prototypes, boxes, placement):
    """The masks of a YOLO: sums of prototypes (MxHxW), enlarged, cut out by the boxes.

    boxes: in pixels of the original. Returns [(top, left, HxW bool)]: positive is inside, which is a
    probability above 0.5.
    """
    import numpy as np

    depth, height, width = prototypes.shape
    flat = np.ascontiguousarray(prototypes, np.float32).reshape(depth, -1)
    crops = []
    for start in range(0, len(boxes), TOGETHER):
        part = coefficients[start : start + TOGETHER]
        with np.errstate(all="ignore"):  # infinite prototypes: NaN is outside
            maps = np.dot(part, flat).reshape(-1, height, width)
        crops += cut_out(maps, boxes[start : start + TOGETHER], placement, 0.0)
    return crops


def cut_out(maps, boxes, placement, level):
    """[(top, left, HxW bool)]: where each map, enlarged to the original's size, is above `level`
    within its box. Pixels whose left upper corner is in the box belong to it, as with Ultralytics."""
    import numpy as np

    height, width = placement.original
    rows = _taps(placement, 0, maps.shape[1])
    columns = _taps(placement, 1, maps.shape[2])
    crops = []
    for values, box in zip(maps, boxes):
        left, top, right, bottom = (int(np.ceil(side)) for side in box)
        right, bottom = min(right, width), min(bottom, height)
        if right <= left or bottom <= top:
            crops.append((0, 0, np.zeros((0, 0), bool)))
            continue
        with np.errstate(all="ignore"):
            wide = _blend(values.astype(np.float32), _cut(columns, left, right), -1)
            crops.append((top, left, _blend(wide, _cut(rows, top, bottom), -2) > level))
    return crops
