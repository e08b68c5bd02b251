"""Accuracy on labelled images, of a model and of its reference: what a difference means in the end.

Counted by scikit-learn and pycocotools, image by image; what was counted goes from job to job as JSON.
Python 3.6 to 3.13.
"""

import contextlib
import importlib
import json
import sys

from worker import JobError

IGNORED = 255  # in a mask: not labelled, as in Pascal VOC and Cityscapes
# For mAP every box counts, however unsure; NMS as Ultralytics validates.
OPTIONS = {
    "classification": {},
    "detection": {"confidence": 0.001, "iou": 0.7, "max_detections": 300},
    "segmentation": {},
}
TOP = 5
MAIN = {"classification": "top1", "detection": "map50_95", "segmentation": "miou"}
LIBRARIES = {"sklearn.metrics": "scikit-learn", "pycocotools.cocoeval": "pycocotools"}


def load(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise JobError(
            "missing-module",
            "the metric cannot be computed in this environment: %s" % error,
            "install %s there, or take an environment of wheels for the reference: --against-env NAME"
            % LIBRARIES[name],
        )


def open_metric(spec, labels, state=None):
    """`spec`: {"kind", "format": "indices" | "coco" | "yolo" | "masks", "path": the COCO file or None}.

    `labels`: names of the classes by index, or None. JobError where a library is missing.
    """
    made = {
        "classification": Classification,
        "detection": Detection,
        "segmentation": Segmentation,
    }[spec["kind"]](spec, labels)
    if state is not None:
        made.restore(state)
    return made


class Metric(object):
    """Counts by side: "subject" and "reference"."""

    def __init__(self, spec, labels):
        self.spec, self.labels = spec, labels
        self.samples, self.notes = 0, []
        self.sides = {"subject": self.empty(), "reference": self.empty()}

    def state(self):
        return {"samples": self.samples, "notes": self.notes, "sides": self.sides}

    def restore(self, state):
        self.samples, self.notes, self.sides = state["samples"], state["notes"], state["sides"]

    def result(self):
        """Shares from 0 to 1; None of all where no image has a label."""
        found = {side: self.measured(side) for side in self.sides}
        return dict(
            found,
            kind=self.spec["kind"],
            main=MAIN[self.spec["kind"]],
            samples=self.samples,
            notes=self.notes,
        )

    def add(self, batch, results):
        """`results`: {side: one Result of vision for each item}. Images without a label do not count."""
        for number, truth in enumerate(batch.truths):
            if truth is None:
                continue
            self.samples += 1
            known = self.read(truth, batch.sizes[number])
            for side in self.sides:
                self.count(side, known, results[side][number], batch.items[number])


class Classification(Metric):
    """A truth is the index of a class."""

    def empty(self):
        return {"truth": [], "guesses": []}

    def read(self, truth, size):
        return truth

    def count(self, side, truth, result, item):
        self.sides[side]["truth"].append(int(truth))
        self.sides[side]["guesses"].append([int(index) for index in result.indices[:TOP]])

    def measured(self, side):
        import numpy as np

        sklearn = load("sklearn.metrics")
        truth, guesses = self.sides[side]["truth"], self.sides[side]["guesses"]
        if not truth:
            return None
        first = [entry[0] if entry else -1 for entry in guesses]  # none where all scores are NaN
        known = [len(self.labels or ())] + [
            1 + max([right, *entry]) for right, entry in zip(truth, guesses)
        ]
        classes, found = max(known), {"top1": float(sklearn.accuracy_score(truth, first))}
        if classes > TOP:
            # The best ones' order is all that top-5 asks of the scores.
            scores = np.zeros((len(truth), classes), np.float32)
            for row, entry in enumerate(guesses):
                scores[row, entry] = np.arange(TOP, TOP - len(entry), -1)
            every = list(range(classes))
            found["top5"] = float(sklearn.top_k_accuracy_score(truth, scores, k=TOP, labels=every))
        return found


class Detection(Metric):
    """A truth is an image of a COCO file, by name, or the path of a file in YOLO's format.

    Boxes are x, y, width and height in pixels of the original image.
    """

    def __init__(self, spec, labels):
        super(Detection, self).__init__(spec, labels)
        self.images, self.boxes = [], []
        self.coco = Coco(spec["path"], labels, self.notes) if spec["format"] == "coco" else None

    def empty(self):
        return []

    def state(self):
        return dict(super(Detection, self).state(), images=self.images, boxes=self.boxes)

    def restore(self, state):
        super(Detection, self).restore(state)
        self.images, self.boxes = state["images"], state["boxes"]

    def add(self, batch, results):
        if self.coco is not None:
            batch.truths = [self.coco.key(item) for item in batch.items]
        super(Detection, self).add(batch, results)

    def read(self, truth, size):
        height, width = size
        number = len(self.images) + 1
        if self.coco is not None:
            boxes = self.coco.boxes[truth]
        else:
            boxes = list(yolo_boxes(truth, height, width))
        self.images.append({"id": number, "height": int(height), "width": int(width)})
        for entry in boxes:
            self.boxes.append(dict(entry, id=len(self.boxes) + 1, image_id=number))
        return number

    def count(self, side, number, result, item):
        for box, score, index in zip(result.boxes, result.scores, result.classes):
            left, top, right, bottom = (float(edge) for edge in box)
            self.sides[side].append(
                {
                    "image_id": number,
                    "category_id": int(index),
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(score),
                }
            )

    def measured(self, side):
        if not self.images:
            return None
        coco, evaluation = load("pycocotools.coco"), load("pycocotools.cocoeval")
        found = self.sides[side]
        if not self.boxes:
            raise JobError("labels", "the labels hold no box in any of the images")
        with contextlib.redirect_stdout(sys.stderr):
            truth = coco.COCO()
            classes = sorted({entry["category_id"] for entry in self.boxes})
            truth.dataset = {
                "info": {},
                "images": self.images,
                "annotations": self.boxes,
                "categories": [{"id": index} for index in classes],
            }
            truth.createIndex()
            if not found:
                return {"map50_95": 0.0, "map50": 0.0}
            judged = evaluation.COCOeval(
                truth, truth.loadRes([dict(entry) for entry in found]), "bbox"
            )
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return {"map50_95": float(judged.stats[0]), "map50": float(judged.stats[1])}


class Coco(object):
    """Boxes by file name, of classes as the model counts them."""

    def __init__(self, path, labels, notes):
        try:
            with open(path, encoding="utf-8") as handle:
                document = json.load(handle)
            names = {entry["id"]: entry["file_name"] for entry in document["images"]}
            classes = self._classes(document["categories"], labels, notes)
            self.boxes = {name: [] for name in names.values()}
            for entry in document["annotations"]:
                kept = {
                    "category_id": classes[entry["category_id"]],
                    "bbox": entry["bbox"],
                    "area": entry.get("area", entry["bbox"][2] * entry["bbox"][3]),
                    "iscrowd": entry.get("iscrowd", 0),
                }
                self.boxes[names[entry["image_id"]]].append(kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JobError("labels", "`%s` is no COCO file of detections: %r" % (path, error))
        self.by_base = {name.rpartition("/")[2]: name for name in self.boxes}

    def _classes(self, categories, labels, notes):
        """By the model's names where they are the same, else in the order of the ids."""
        names = [entry["name"] for entry in categories]
        if labels and set(names) <= set(labels):
            return {entry["id"]: labels.index(entry["name"]) for entry in categories}
        if labels:
            note = "the model names classes otherwise than the COCO file: categories count by their ids"
            if note not in notes:
                notes.append(note)
        return {id_: index for index, id_ in enumerate(sorted(entry["id"] for entry in categories))}

    def key(self, item):
        return item if item in self.boxes else self.by_base.get(item.rpartition("/")[2])


def yolo_boxes(path, height, width):
    """Of lines `class x y width height`, centre and size as shares of the image; or of polygons.

    No path: an image without objects.
    """
    if not path:
        return
    with open(path, encoding="utf-8") as handle:
        lines = [line.split() for line in handle if line.strip()]
    for line in lines:
        try:
            index, values = int(line[0]), [float(value) for value in line[1:]]
            if len(values) < 4 or len(values) % 2:
                raise ValueError("%d numbers" % len(line))
        except ValueError as error:
            raise JobError(
                "labels",
                "`%s` is no file of YOLO labels: %s" % (path, error),
                "lines are: class x_centre y_centre width height",
            )
        if len(values) == 4:
            x, y, wide, high = values
            left, top = x - wide / 2, y - high / 2
        else:
            xs, ys = values[0::2], values[1::2]
            left, top = min(xs), min(ys)
            wide, high = max(xs) - left, max(ys) - top
        box = [left * width, top * height, wide * width, high * height]
        yield {"category_id": index, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


class Segmentation(Metric):
    """A truth is the path of an image whose pixels are indices of classes; 255 is not labelled."""

    def empty(self):
        return []

    def read(self, truth, size):
        return truth

    def count(self, side, truth, result, item):
        import numpy as np

        sklearn = load("sklearn.metrics")
        if not hasattr(result, "mask"):
            raise JobError(
                "labels",
                "masks of classes are no truth for instances",
                "judge its boxes: --task detect, with boxes as --labels",
            )
        mask, found = read_mask(truth), np.asarray(result.mask)
        if mask.shape != found.shape:
            raise JobError(
                "labels",
                "the mask `%s` is %dx%d, its image %dx%d" % ((truth, *mask.shape, *found.shape)),
            )
        known = mask != IGNORED
        mask, found = mask[known], found[known]
        highest = int(max([mask.max(), found.max()])) if mask.size else 0
        old = np.asarray(self.sides[side] or [[0]], np.int64)
        classes = max(len(self.labels or ()), len(old), highest + 1)
        total = np.zeros((classes, classes), np.int64)
        total[: len(old), : len(old)] = old
        if mask.size:
            total += sklearn.confusion_matrix(mask, found, labels=np.arange(classes))
        elif not self.notes:
            self.notes.append(
                "the mask of %s holds nothing but %d, which means: not labelled" % (item, IGNORED)
            )
        self.sides[side] = total.tolist()

    def measured(self, side):
        """Classes that are neither in the truth nor found have no IoU."""
        import numpy as np

        total = np.asarray(self.sides[side], np.float64)
        if not total.sum():
            return None
        right = np.diag(total)
        union = total.sum(0) + total.sum(1) - right
        iou = right[union > 0] / union[union > 0]
        return {"miou": float(iou.mean()), "pixel_accuracy": float(right.sum() / total.sum())}


def read_mask(path):
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            mask = np.asarray(image)
    except (OSError, ValueError) as error:
        raise JobError("labels", "the mask `%s` cannot be read: %s" % (path, error))
    if mask.ndim != 2:
        raise JobError(
            "labels",
            "the mask `%s` is a coloured image: whose colour is which class is not known" % path,
            "save masks as PNG with one channel, or a palette, of class indices",
        )
    return mask.astype(np.int64)
