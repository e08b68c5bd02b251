"""Candidates to detections: the layouts of detectors, and non-maximum suppression. NumPy alone."""

from typing import Any, NamedTuple

MOST_CANDIDATES = 30000  # the best go into the suppression, as with Ultralytics' max_nms
BLOCK = 256  # candidates compared at once: bounds the memory at kept x BLOCK


class Found(NamedTuple):
    """Boxes in pixels of the network's input; coefficients of masks, or None; rows: the places among
    the candidates; dropped: how many candidates had NaN or infinity."""

    boxes: Any
    scores: Any
    classes: Any
    coefficients: Any
    rows: Any
    dropped: int


def best_of(layout, arrays, index, options):
    """The Found of one image of the batch, best first, after suppression where the layout needs it.

    arrays: role -> array, with a batch dimension.
    """
    import numpy as np

    reader = {"yolov8": _yolov8, "yolov5": _yolov5, "end2end": _end2end}.get(layout.name, _listed)
    with np.errstate(all="ignore"):  # what overflows is dropped and counted
        boxes, scores, classes, coefficients, rows, dropped = reader(layout, arrays, index, options)
    found, bad = _sound(boxes, scores, classes, coefficients, rows)
    keep = _best(found.scores, MOST_CANDIDATES)
    found = _taken(found, keep)
    limit = options["max_detections"]
    if layout.name in ("yolov8", "yolov5"):
        classes = None if options["class_agnostic"] else found.classes
        keep = suppress(found.boxes, found.scores, classes, options["iou"], limit)
        found = _taken(found, keep)
    else:
        found = _taken(found, slice(0, limit))
    return found._replace(dropped=dropped + bad)


def _taken(found, keep):
    coefficients = None if found.coefficients is None else found.coefficients[keep]
    return Found(
        found.boxes[keep], found.scores[keep], found.classes[keep], coefficients,
        found.rows[keep], found.dropped,
    )  # fmt: skip


def _sound(boxes, scores, classes, coefficients, rows):
    """Without the candidates of which a number is NaN or infinite; how many those were."""
    import numpy as np

    fine = np.isfinite(boxes).all(1) & np.isfinite(scores)
    if coefficients is not None:
        fine &= np.isfinite(coefficients).all(1)
    found = Found(boxes, scores, classes, coefficients, rows, 0)
    bad = int(fine.size - np.count_nonzero(fine))
    return (_taken(found, fine) if bad else found), bad


def _best(scores, limit):
    """Places of the best `limit` scores, best first; of equal ones the first."""
    import numpy as np

    return np.argsort(-scores, kind="mergesort")[:limit]


def _corners(boxes):
    """From centre and size to corners, in float32 as Ultralytics computes it."""
    import numpy as np

    corners = np.empty_like(boxes)
    half = boxes[:, 2:] / 2
    corners[:, :2] = boxes[:, :2] - half
    corners[:, 2:] = boxes[:, :2] + half
    return corners


def _yolov8(layout, arrays, index, options):
    """(4 + classes + coefficients) x candidates: centre, size, probabilities."""
    import numpy as np

    table = arrays["candidates"][index].astype(np.float32)
    end = table.shape[0] - layout.extra
    best = table[4:end].max(axis=0)  # NaN where one class is NaN
    rows = np.flatnonzero(best > options["confidence"])
    chosen = table[:, rows]
    return (
        _corners(chosen[:4].T), best[rows], chosen[4:end].argmax(axis=0),
        chosen[end:].T if layout.extra else None, rows, int(np.isnan(best).sum()),
    )  # fmt: skip


def _yolov5(layout, arrays, index, options):
    """candidates x (5 + classes + coefficients): centre, size, objectness, probabilities."""
    import numpy as np

    table = arrays["candidates"][index]
    end = table.shape[1] - layout.extra
    objectness = table[:, 4].astype(np.float32)
    bad = np.isnan(objectness)
    rows = np.flatnonzero(objectness > options["confidence"])
    chosen = table[rows].astype(np.float32)
    scores = chosen[:, 5:end] * chosen[:, 4:5]
    best = scores.max(axis=1)
    dropped = int(bad.sum() + np.isnan(best).sum())
    fine = best > options["confidence"]
    chosen, scores, best, rows = chosen[fine], scores[fine], best[fine], rows[fine]
    coefficients = chosen[:, end:] if layout.extra else None
    return _corners(chosen[:, :4]), best, scores.argmax(axis=1), coefficients, rows, dropped


def _end2end(layout, arrays, index, options):
    """detections x (x1, y1, x2, y2, score, class, coefficients), suppressed by the network itself."""
    import numpy as np

    table = arrays["candidates"][index].astype(np.float32)
    dropped = int(np.isnan(table[:, 4]).sum())
    rows = np.flatnonzero(table[:, 4] > options["confidence"])
    table = table[rows]
    classes, bad = _whole(table[:, 5])
    table, rows, classes = table[~bad], rows[~bad], classes[~bad]
    dropped += int(bad.sum())
    coefficients = table[:, 6:] if layout.extra else None
    return table[:, :4], table[:, 4], classes, coefficients, rows, dropped


def _listed(layout, arrays, index, options):
    """Separate lists of boxes, scores and classes; with or without the number of those that count."""
    import numpy as np

    boxes = arrays["boxes"][index].astype(np.float32)
    scores = arrays["scores"][index].astype(np.float32)
    if "count" in arrays:
        count = np.asarray(arrays["count"][index]).ravel()[0]
        count = int(count) if np.isfinite(count) else 0
        boxes, scores = boxes[: max(count, 0)], scores[: max(count, 0)]
    dropped = int(np.isnan(scores).sum())
    rows = np.flatnonzero(scores > options["confidence"])
    classes, bad = _whole(arrays["classes"][index][rows])
    rows, classes = rows[~bad], classes[~bad]
    return boxes[rows], scores[rows], classes, None, rows, dropped + int(bad.sum())


def _whole(numbers):
    """Classes as integers, and which of them are none: negative, NaN or infinite."""
    import numpy as np

    if numbers.dtype.kind in "iu":
        return numbers.astype(np.int64), numbers < 0
    numbers = numbers.astype(np.float64)
    bad = ~((numbers >= 0) & (numbers < 2**31))
    return np.where(bad, 0, numbers).astype(np.int64), bad


def suppress(boxes, scores, classes, threshold, limit=None):
    """Places of the boxes that stay, best first: those which no better one of their class (of any,
    where `classes` is None) overlaps by more than `threshold` (IoU).

    The same as torchvision.ops.batched_nms, in float32 like it.
    """
    import numpy as np

    order = _best(scores, None)
    boxes = np.ascontiguousarray(boxes[order], np.float32)
    classes = None if classes is None else np.asarray(classes)[order]
    # x > threshold for float32 x and a 64-bit threshold, without making x larger.
    level = np.float32(threshold)
    if float(level) > threshold:
        level = np.nextafter(level, np.float32(-np.inf))
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), BLOCK):
        part = np.arange(start, min(start + BLOCK, len(boxes)))
        if len(kept):
            part = part[~_overlap(boxes, classes, kept, part, level).any(axis=0)]
        worse = _overlap(boxes, classes, part, part, level)
        alive = np.ones(len(part), bool)
        for place in range(len(part)):
            if alive[place]:
                alive[place + 1 :] &= ~worse[place, place + 1 :]
        kept = np.concatenate([kept, part[alive]])
        if limit is not None and len(kept) >= limit:
            kept = kept[:limit]
            break
    return order[kept]


def _overlap(boxes, classes, one, other, level):
    """Whether box i of `one` and box j of `other` are of a class and overlap by more than `level`."""
    import numpy as np

    a, b = boxes[one][:, None, :], boxes[other][None, :, :]
    # Boxes of no area, and sizes that overflow, compare as NaN: they suppress nothing.
    with np.errstate(all="ignore"):
        width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
        height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
        over = shared / (areas[0] + areas[1] - shared) > level
    if classes is not None:
        over &= classes[one][:, None] == classes[other][None, :]
    return over


def to_original(boxes, placement):
    """Boxes of the network's input in pixels of the original image, cut off at its edges."""
    import numpy as np

    height, width = placement.original
    with np.errstate(all="ignore"):
        x = (boxes[:, 0::2] - np.float32(placement.left)) / np.float32(placement.scale_x)
        y = (boxes[:, 1::2] - np.float32(placement.top)) / np.float32(placement.scale_y)
    moved = np.empty((len(boxes), 4), np.float32)
    moved[:, 0::2] = np.clip(x, 0, width)
    moved[:, 1::2] = np.clip(y, 0, height)
    return moved
