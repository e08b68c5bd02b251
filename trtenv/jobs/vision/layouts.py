"""Which output of a network means what: from the task card, or told from names, types and shapes.

Never guessed: where two layouts fit, or none, that is a JobError that asks for --layout.
"""

from typing import Any, Dict, NamedTuple

from worker import JobError

YOLO = ("yolov8", "yolov5", "end2end")
HINTS = {
    "classification": "--layout logits or probabilities, for a model with one score for each class",
    "detection": "--layout " + ", ".join(YOLO) + ", efficient-nms or boxes-labels-scores",
    "segmentation": "--layout logits or probabilities (maps), or " + ", ".join(YOLO) + " (masks)",
}
MOST_FINAL = 1000  # detections that a network with its own suppression gives; 100 and 300 are usual
FLOAT = "f"


class Layout(NamedTuple):
    """name: as in the task card; roles: what an output is -> its name; extra: how many coefficients of
    masks each candidate has."""

    name: Any
    roles: Dict[str, str]
    extra: int


def told(kind, declared, outputs, card_labels, frame):
    """The Layout of outputs {name: array}; frame: (height, width) of the network's input."""
    if kind == "classification":
        return _classification(declared, outputs, card_labels)
    if kind == "segmentation" and not _instances(declared, outputs):
        return _maps(declared, outputs, frame)
    return _detection(kind, declared, outputs, card_labels, frame)


def unknown(kind, outputs, why):
    shapes = ["`%s` %s %s" % (name, a.dtype, list(a.shape)) for name, a in outputs.items()]
    return JobError(
        "layout",
        "the outputs cannot be read as a %s: %s. There are: %s" % (kind, why, ", ".join(shapes)),
        HINTS[kind],
    )


def _named(outputs, *parts):
    """Names of outputs that hold one of the parts."""
    return [name for name in outputs if any(part in name.lower() for part in parts)]


def _classification(declared, outputs, labels):
    flat = [
        name
        for name, array in outputs.items()
        if array.ndim in (1, 2) or (array.ndim == 4 and array.shape[2:] == (1, 1))
    ]
    flat = [name for name in flat if outputs[name].dtype.kind == FLOAT]
    if len(flat) > 1 and labels:
        flat = [name for name in flat if outputs[name].size % len(labels) == 0] or flat
    if len(flat) > 1:
        flat = _named(dict.fromkeys(flat), "logits", "prob", "score") or flat
    if len(flat) != 1:
        why = "%d outputs may hold the scores" % len(flat) if flat else "none has shape NxC"
        raise unknown("classification", outputs, why)
    return Layout(declared, {"scores": flat[0]}, 0)


def _instances(declared, outputs):
    """Whether outputs of a segmentation model are boxes with masks, not maps of the whole image."""
    if declared:
        return declared not in ("logits", "probabilities")
    lists = any(array.ndim in (2, 3) and array.shape[-1] == 4 for array in outputs.values())
    return _prototypes(outputs)[0] is not None or (lists and len(outputs) >= 3)


def _prototypes(outputs):
    """(name of the candidates, name of the mask prototypes) of a YOLO that segments, or (None, None)."""
    threes = [name for name, array in outputs.items() if array.ndim == 3]
    fours = [name for name, array in outputs.items() if array.ndim == 4]
    if len(threes) == 1 and len(fours) == 1:
        depth = outputs[fours[0]].shape[1]
        if max(outputs[threes[0]].shape[1:]) >= depth + 5:
            return threes[0], fours[0]
    return None, None


def _maps(declared, outputs, frame):
    maps = [name for name, array in outputs.items() if array.ndim in (3, 4)]
    maps += [name for name, a in outputs.items() if a.ndim == 2 and min(a.shape) > 1]
    named = [name for name in maps if name.lower() in ("out", "mask", "masks", "logits", "output")]
    if len(maps) > 1 and len(named) != 1:  # a second head of training, as torchvision's `aux`
        named = [name for name in maps if "aux" not in name.lower()]
    found = maps if len(maps) == 1 else named
    if len(found) != 1:
        why = "%d outputs may be the map" % len(maps) if maps else "none has shape NxCxHxW or NxHxW"
        raise unknown("segmentation", outputs, why)
    return Layout(declared, {"map": found[0]}, 0)


def _detection(kind, declared, outputs, labels, frame):
    if declared in YOLO or (declared is None and len(outputs) in (1, 2)):
        return _yolo(kind, declared, outputs, labels, frame)
    if declared is None:
        boxes = [name for name, a in outputs.items() if a.ndim in (2, 3) and a.shape[-1] == 4]
        if not boxes:  # YOLOv5 with its raw heads beside the decoded output
            return _yolo(kind, declared, outputs, labels, frame)
        counted = len(outputs) == 4 and (
            _named(outputs, "num") or all(array.ndim < 4 for array in outputs.values())
        )
        declared = "efficient-nms" if counted else "boxes-labels-scores"
    reader = {"efficient-nms": _efficient, "boxes-labels-scores": _torchvision}.get(declared)
    if reader is None:
        raise unknown(kind, outputs, "layout `%s` is none of %ss" % (declared, kind))
    return reader(kind, outputs)


def _boxes_scores_classes(kind, outputs):
    """Names of boxes, scores and classes, by shape, then by type and name, then in that order."""
    boxes = [name for name, a in outputs.items() if a.ndim in (2, 3) and a.shape[-1] == 4]
    boxes = (_named(dict.fromkeys(boxes), "box") or boxes)[:1]
    if not boxes:
        raise unknown(kind, outputs, "none is a list of boxes, KxN with N of 4")
    shape = outputs[boxes[0]].shape[:-1]
    lists = [
        name
        for name, array in outputs.items()
        if name != boxes[0] and array.shape == shape and not _named([name], "num")
    ]
    classes = [name for name in lists if outputs[name].dtype.kind in "iu"]
    classes = classes or _named(lists, "class", "label", "cls")
    scores = [name for name in lists if name not in classes and outputs[name].dtype.kind == FLOAT]
    if len(scores) != 1 or len(classes) != 1:
        raise unknown(kind, outputs, "which are scores and which are classes is not clear")
    return {"boxes": boxes[0], "scores": scores[0], "classes": classes[0]}


def _efficient(kind, outputs):
    counts = _named(outputs, "num")
    counts = counts or [
        name for name, a in outputs.items() if a.dtype.kind in "iu" and a[0].size == 1
    ]
    if not counts:
        raise unknown(kind, outputs, "none holds the number of detections")
    rest = {name: array for name, array in outputs.items() if name != counts[0]}
    roles = _boxes_scores_classes(kind, rest)
    return Layout("efficient-nms", dict(roles, count=counts[0]), 0)


def _torchvision(kind, outputs):
    roles = _boxes_scores_classes(kind, outputs)
    rank = outputs[roles["boxes"]].ndim
    masks = [name for name, a in outputs.items() if a.ndim in (rank + 1, rank + 2)]
    if len(masks) == 1:
        roles["masks"] = masks[0]
    return Layout("boxes-labels-scores", roles, 0)


def _yolo(kind, declared, outputs, labels, frame):
    candidates, prototypes = _prototypes(outputs)
    if candidates is None:
        threes = [name for name, array in outputs.items() if array.ndim == 3]
        if not threes and declared in (None, "end2end"):
            threes = [name for name, a in outputs.items() if a.ndim == 2 and a.shape[1] == 6]
        if len(threes) != 1:
            why = "%d outputs may be the candidates" % len(threes)
            raise unknown(kind, outputs, why if threes else "none is a list of boxes")
        candidates = threes[0]
    extra = outputs[prototypes].shape[1] if prototypes else 0
    rows, columns = outputs[candidates].shape[-2:]
    own = {
        "yolov8": rows - 4 - extra,
        "yolov5": columns - 5 - extra,
        "end2end": 7 - columns + extra,
    }
    possible = [name for name in YOLO if own[name] >= 1]
    if "end2end" in possible and own["end2end"] != 1:
        possible.remove("end2end")
    if declared is None:
        found = _evident(possible, rows, columns, own, labels, frame)
        if len(found) != 1:
            why = "it may be %s" % " or ".join(found or possible or ["nothing that is known"])
            raise unknown(kind, outputs, why)
        declared = found[0]
    elif declared not in possible:
        why = "%dx%d is not of layout %s" % (rows, columns, declared)
        raise unknown(kind, outputs, why)
    elif labels and declared != "end2end" and own[declared] != len(labels):
        why = "%s has %d classes here, and there are %d labels" % (
            declared, own[declared], len(labels),
        )  # fmt: skip
        raise unknown(kind, outputs, why)
    roles = {"candidates": candidates}
    if prototypes:
        roles["prototypes"] = prototypes
    return Layout(declared, roles, extra)


def _evident(possible, rows, columns, own, labels, frame):
    """The layouts for which the grid of candidates or the number of labels speaks."""
    found = []
    for name in possible:
        if name == "end2end":
            fits = rows <= MOST_FINAL
        elif labels and own[name] != len(labels):
            continue
        elif name == "yolov8":
            fits = columns in _cells(frame, (4, 8, 16), 1)
        else:  # one anchor in each cell, as YOLOX, or three
            fits = rows in _cells(frame, (8,), 3)
            fits = fits or (rows % 3 == 0 and rows // 3 in _cells(frame, (4, 8, 16), 2))
        if fits or (labels and name != "end2end"):
            found.append((name, bool(fits)))
    sure = [name for name, fits in found if fits]
    if labels and len(sure) > 1 and "end2end" in sure:
        sure.remove("end2end")  # the number of labels fits the other
    return sure or [name for name, _ in found]


def _cells(frame, strides, least):
    """The numbers of cells that a network may have: of `least` to five levels, of which the first has
    one of the strides, and each other twice that of the one before."""
    counts = set()
    for first in strides:
        total = 0
        for level in range(5):
            stride = first << level
            total += -(-frame[0] // stride) * -(-frame[1] // stride)
            if level + 1 >= least:
                counts.add(total)
    return counts
