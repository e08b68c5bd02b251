"""Accuracy on labelled images, of a model and of its reference: what a difference means in the end.

Counted by scikit-learn and pycocotools, image by image; what was counted goes from job to job as JSON.
Python 3.6 to 3.13.
"""

import contextlib
import importlib
import sys

from worker import JobError

from runtime import truths

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

    needs = "sklearn.metrics"

    def __init__(self, spec, labels):
        self.spec, self.labels = spec, labels
        self.library = load(self.needs)  # before anything runs
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

        truth, guesses = self.sides[side]["truth"], self.sides[side]["guesses"]
        if not truth:
            return None
        first = [entry[0] if entry else -1 for entry in guesses]  # none where all scores are NaN
        known = [len(self.labels or ())] + [
            1 + max([right, *entry]) for right, entry in zip(truth, guesses)
        ]
        classes, found = max(known), {"top1": float(self.library.accuracy_score(truth, first))}
        if classes > TOP:
            # The best ones' order is all that top-5 asks of the scores. Where they are fewer than five
            # classes that are none fill up, so that none of the others is among the five.
            scores = np.zeros((len(truth), classes + TOP), np.float32)
            scores[:, classes:] = 0.5
            for row, entry in enumerate(guesses):
                scores[row, entry] = np.arange(TOP, TOP - len(entry), -1)
            every = list(range(classes + TOP))
            found["top5"] = float(
                self.library.top_k_accuracy_score(truth, scores, k=TOP, labels=every)
            )
        return found


class Detection(Metric):
    """A truth is an image of a COCO file, by name, or the path of a file in YOLO's format.

    Boxes are x, y, width and height in pixels of the original image.
    """

    needs = "pycocotools.cocoeval"

    def __init__(self, spec, labels):
        super(Detection, self).__init__(spec, labels)
        self.images, self.boxes, self.unknown = [], [], []
        self.coco = (
            truths.Coco(spec["path"], labels, self.notes) if spec["format"] == "coco" else None
        )

    def empty(self):
        return []

    def state(self):
        own = {"images": self.images, "boxes": self.boxes, "unknown": self.unknown}
        return dict(super(Detection, self).state(), **own)

    def restore(self, state):
        super(Detection, self).restore(state)
        self.images, self.boxes = state["images"], state["boxes"]
        self.unknown = state["unknown"]

    def result(self):
        if self.unknown:
            text = "%d images are not in the COCO file and do not count: %s"
            shown = ", ".join(self.unknown[:3]) + (", ..." if len(self.unknown) > 3 else "")
            self.notes.append(text % (len(self.unknown), shown))
        return super(Detection, self).result()

    def add(self, batch, results):
        if self.coco is not None:
            batch.truths = [self.coco.key(item) for item in batch.items]
            keys = zip(batch.items, batch.truths)
            self.unknown += [item for item, key in keys if key is None]
        super(Detection, self).add(batch, results)

    def read(self, truth, size):
        height, width = size
        number = len(self.images) + 1
        if self.coco is not None:
            boxes = self.coco.boxes[truth]
            self.coco.check_size(truth, width, height)
        else:
            boxes = list(truths.yolo_boxes(truth, height, width, self.labels))
        self.images.append({"id": number, "height": int(height), "width": int(width)})
        for entry in boxes:
            left, top, wide, high = entry["bbox"]
            if not (left <= width and top <= height and left + wide >= 0 and top + high >= 0):
                raise JobError(
                    "labels",
                    "a box of `%s` lies outside of the image of %dx%d: %s"
                    % (truth, width, height, ", ".join("%g" % edge for edge in entry["bbox"])),
                )
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
        coco = load("pycocotools.coco")
        found = self.sides[side]
        if all(entry["iscrowd"] for entry in self.boxes):
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
            judged = self.library.COCOeval(
                truth, truth.loadRes([dict(entry) for entry in found]), "bbox"
            )
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return {"map50_95": float(judged.stats[0]), "map50": float(judged.stats[1])}


class Segmentation(Metric):
    """A truth is the path of an image whose pixels are indices of classes; 255 is not labelled."""

    def empty(self):
        return []

    def read(self, truth, size):
        mask = truths.read_mask(truth)
        highest = mask[mask != IGNORED].max(initial=0)
        if self.labels and highest >= len(self.labels):
            raise JobError(
                "labels",
                "the mask `%s` has class %d, and the model has %d"
                % (truth, highest, len(self.labels)),
                "pixels are indices of classes in the model's order; 255 is not labelled",
            )
        if mask.shape != tuple(size):
            raise JobError(
                "labels",
                "the mask `%s` is %dx%d, its image %dx%d" % ((truth, *mask.shape, *size)),
            )
        return mask

    def count(self, side, mask, result, item):
        import numpy as np

        if not hasattr(result, "mask"):
            raise JobError(
                "labels",
                "masks of classes are no truth for instances",
                "judge its boxes: --task detect, with boxes as --labels",
            )
        found = np.asarray(result.mask)
        known = mask != IGNORED
        mask, found = mask[known], found[known]
        highest = int(max([mask.max(), found.max()])) if mask.size else 0
        old = np.asarray(self.sides[side] or [[0]], np.int64)
        classes = max(len(self.labels or ()), len(old), highest + 1)
        total = np.zeros((classes, classes), np.int64)
        total[: len(old), : len(old)] = old
        if mask.size:
            total += self.library.confusion_matrix(mask, found, labels=np.arange(classes))
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
