"""The three tasks: an image in, a result in the original image's pixels out.

    task = make_task(card, tensor, output_names, options, size)
    frame = task.frame(image)                       # height, width of the input for this image
    shape = task.shape(count, frame)                # of a batch
    placements = [task.prepare(image, out) ...]     # out: one image of the batch
    results = task.finish(outputs, placements)      # one for each placement

A task holds no state of a batch: prepare() may run in several threads.
"""

from worker import JobError

from vision import boxes, layouts, masks
from vision.preprocess import Preprocessor
from vision.results import Classification, Detection, Segmentation

OPTIONS = {
    "top_k": 5,
    "confidence": 0.25,
    "iou": 0.45,
    "max_detections": 300,
    "class_agnostic": False,
}
LAYOUTS = {
    "classification": ("logits", "probabilities"),
    "detection": (*layouts.YOLO, "efficient-nms", "boxes-labels-scores"),
    "segmentation": ("logits", "probabilities", *layouts.YOLO, "boxes-labels-scores"),
}
SUM_TOLERANCE = 1e-3  # of probabilities in half precision


def make_task(card, tensor, output_names, options=None, size=None):
    """The task of a card for the image input `tensor`; JobError where they do not go together.

    options: see OPTIONS; size: None, (height, width), or "image" for the size of each image.
    """
    kind = card["kind"]
    layout = card.get("layout")
    if kind not in LAYOUTS:
        raise JobError("task", "task `%s` is not known" % kind, "one of " + ", ".join(LAYOUTS))
    if layout is not None and layout not in LAYOUTS[kind]:
        raise JobError(
            "layout",
            "layout `%s` is none of a %s" % (layout, kind),
            "--layout " + ", ".join(LAYOUTS[kind]),
        )
    given = {key: value for key, value in (options or {}).items() if value is not None}
    kinds = {"classification": Classifier, "detection": Detector, "segmentation": Segmenter}
    return kinds[kind](card, tensor, output_names, dict(OPTIONS, **given), size)


class Task(object):
    """What the three have in common. kind, labels (a list or None) and input (a name) may be read."""

    def __init__(self, card, tensor, output_names, options, size):
        self.kind = card["kind"]
        self.labels = list(card["labels"]) if card.get("labels") else None
        self.input = tensor.name
        self.declared = card.get("layout")
        self.output_names = list(output_names)
        self.options = options
        self.preprocessor = Preprocessor(self.kind, card.get("preprocess"), tensor, size)
        if self.kind == "segmentation" and self.preprocessor.resize == "shorter":
            raise JobError(
                "preprocess",
                "a segmentation that sees only the centre of an image says nothing of the rest",
                "set `resize` of the task card to stretch or letterbox",
            )
        self._told = {}

    def frame(self, image):
        """(height, width) of the network's input for this image."""
        return self.preprocessor.frame(image.shape[:2])

    def shape(self, count, frame):
        """Of the input, for `count` images; JobError for several where there is no batch dimension."""
        channels = (self.preprocessor.channels,)
        one = tuple(frame) + channels if self.preprocessor.last else channels + tuple(frame)
        if self.preprocessor.batched:
            return (count, *one)
        if count != 1:
            raise JobError("shape", "input `%s` takes one image, without a batch" % self.input)
        return one

    def views(self, array):
        """Of the input's array: a view that has a batch dimension even where the network has none."""
        return array if self.preprocessor.batched else array[None]

    def prepare(self, image, out):
        """Fills `out`, one image of the batch, and returns the Placement that finish() needs.

        BadImage (of path None) for one so thin that its resized form would be enormous.
        """
        return self.preprocessor.prepare(image, out)

    def layout(self, outputs, frame):
        """The Layout of these outputs, told once for their shapes."""
        key = (tuple(frame), *tuple((name, array.shape[1:]) for name, array in outputs.items()))
        if key not in self._told:
            self._told[key] = layouts.told(self.kind, self.declared, outputs, self.labels, frame)
        return self._told[key]

    def finish(self, outputs, placements):
        """[Result], one for each placement; further images of the batch are filling."""
        if not placements:
            return []
        order = [name for name in self.output_names if name in outputs] or list(outputs)
        ordered = {name: outputs[name] for name in order}
        layout = self.layout(ordered, placements[0].frame)
        arrays = {role: ordered[name] for role, name in layout.roles.items()}
        arrays = _batched(arrays)
        for role, array in arrays.items():
            if len(array) < len(placements):
                raise JobError(
                    "layout",
                    "output `%s` %s is of fewer images than the %d that went in"
                    % (layout.roles[role], list(array.shape), len(placements)),
                )
        return self._finish(layout, arrays, placements)


def _batched(arrays):
    """With a batch dimension, where the network has none; and numbers in place of bools."""
    import numpy as np

    ranks = {"candidates": 3, "boxes": 3}
    if "boxes" not in arrays:
        ranks["scores"] = 2
    missing = any(arrays[role].ndim < rank for role, rank in ranks.items() if role in arrays)
    return {
        role: (array[None] if missing else array).astype(
            np.uint8 if array.dtype == np.bool_ else array.dtype, copy=False
        )
        for role, array in arrays.items()
    }


class Classifier(Task):
    def _finish(self, layout, arrays, placements):
        import numpy as np

        scores = arrays["scores"][: len(placements)].astype(np.float64)
        scores = scores.reshape(len(placements), -1)
        classes = max(scores.shape[1], 2)
        if self.labels and len(self.labels) != classes:
            raise JobError(
                "labels",
                "the model has %d classes, and there are %d labels" % (classes, len(self.labels)),
                "--labels FILE, with one for each class",
            )
        bad = np.isnan(scores)
        chances = probabilities(scores, layout.name)
        if scores.shape[1] == 1:  # one score for "yes"
            chances = np.concatenate([1 - chances, chances], axis=1)
            bad = np.repeat(bad, 2, axis=1)
        order = np.argsort(np.where(bad, 1, -chances), axis=1, kind="mergesort")
        results = []
        for row, chance, wrong in zip(order, chances, bad):
            dropped = int(np.count_nonzero(wrong))
            top = row[: min(self.options["top_k"], len(row) - dropped)]
            results.append(Classification(top, chance[top].astype(np.float32), dropped))
        return results


def probabilities(scores, declared=None):
    """From scores NxC: as they are where they are probabilities, else softmax, or sigmoid of one score.

    Not declared, they are probabilities where each row lies in 0..1 and sums to 1. NaN becomes 0.
    """
    import numpy as np

    known = np.clip(np.where(np.isnan(scores), 0, scores), -1e30, 1e30)
    if declared is None and scores.shape[1] > 1:
        inside = (known >= 0).all() and (known <= 1 + SUM_TOLERANCE).all()
        if inside and np.allclose(known.sum(axis=1), 1, rtol=0, atol=SUM_TOLERANCE):
            declared = "probabilities"
    if declared == "probabilities":
        return np.clip(known, 0, 1)
    if scores.shape[1] == 1:
        return 0.5 * (1 + np.tanh(0.5 * known))  # the sigmoid, which cannot overflow
    known = np.where(np.isnan(scores), -np.inf, known)
    top = known.max(axis=1, keepdims=True)
    powers = np.exp(known - np.where(np.isfinite(top), top, 0))  # all may be NaN
    total = powers.sum(axis=1, keepdims=True)
    return powers / np.where(total > 0, total, 1)


class Detector(Task):
    def _finish(self, layout, arrays, placements):
        return [
            detection(layout, arrays, index, placement, self.options)
            for index, placement in enumerate(placements)
        ]


def detection(layout, arrays, index, placement, options):
    found = boxes.best_of(layout, arrays, index, options)
    moved = boxes.to_original(found.boxes, placement)
    crops = None
    if "prototypes" in arrays:
        prototypes = arrays["prototypes"][index]
        crops = masks.of_prototypes(found.coefficients, prototypes, moved, placement)
    elif "masks" in arrays:
        maps = arrays["masks"][index][found.rows]
        maps = maps.reshape((len(maps), *maps.shape[-2:]))
        crops = masks.cut_out(maps, moved, placement, 0.5)
    scores, classes = found.scores, found.classes
    if crops is not None:  # as Ultralytics does: what has no pixel is no instance
        keep = [place for place, crop in enumerate(crops) if crop[2].any()]
        crops = [crops[place] for place in keep]
        moved, scores, classes = moved[keep], scores[keep], classes[keep]
    return Detection(moved, scores, classes, placement.original, crops, found.dropped)


class Segmenter(Task):
    def _finish(self, layout, arrays, placements):
        if "map" not in arrays:
            return Detector._finish(self, layout, arrays, placements)
        return [
            self._segment(layout.name, array, placement)
            for array, placement in zip(self._maps(arrays["map"]), placements)
        ]

    def _maps(self, maps):
        """With a batch and with channels first: NxCxHxW."""
        if maps.ndim == 2 or (maps.ndim == 3 and not self.preprocessor.batched):
            maps = maps[None]
        if maps.ndim == 3:
            return maps[:, None]
        last, first = maps.shape[3], maps.shape[1]
        known = len(self.labels) if self.labels else None
        if (self.preprocessor.last and first != known) or (known and last == known != first):
            return maps.transpose(0, 3, 1, 2)
        return maps

    def _segment(self, declared, scores, placement):
        """A map of classes where it is one of integers; else scores, of which the largest wins; of a
        single channel, sigmoid above 0.5, or the values themselves where they are probabilities."""
        import numpy as np

        if scores.dtype.kind in "iub":
            return Segmentation(masks.nearest(_classes(scores[0]), placement))
        bad = np.isnan(scores)
        dropped = int(np.count_nonzero(bad))
        if dropped:
            scores = np.where(bad, scores.dtype.type(-np.inf), scores)
        if not np.isfinite(scores).all():  # infinity times 0 would be NaN
            limit = np.float32(1e30) if scores.dtype != np.float16 else np.float16(6e4)
            scores = np.clip(scores, -limit, limit)
        level = None
        if len(scores) == 1:
            inside = scores.min() >= 0 and scores.max() <= 1
            if declared is None and not inside and not (scores % 1).any() and scores.min() >= 0:
                return Segmentation(masks.nearest(_classes(scores[0]), placement), dropped)
            chances = declared == "probabilities" or (declared is None and inside)
            level = 0.5 if chances else 0.0
        return Segmentation(masks.decided(scores, placement, level), dropped)


def _classes(numbers):
    import numpy as np

    top = numbers.max()
    if numbers.min() < 0 or top > 0xFFFF:
        raise JobError(
            "layout", "a map holds %s..%s, which are no classes" % (numbers.min(), top), None
        )
    return numbers.astype(np.uint8 if top <= 255 else np.uint16)
