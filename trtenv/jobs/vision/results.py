"""What the tasks find in one image, in pixels of the original image; JSON-able by to_dict(labels)."""


def label_of(labels, index):
    """The label of a class, or None where there is none."""
    return labels[index] if labels and 0 <= index < len(labels) else None


class Classification(object):
    """indices and scores (probabilities) of the top classes, best first. dropped: scores that were NaN."""

    kind = "classification"

    def __init__(self, indices, scores, dropped=0):
        self.indices = indices
        self.scores = scores
        self.dropped = dropped

    def to_dict(self, labels=None):
        top = [
            {"class": int(index), "label": label_of(labels, int(index)), "score": _score(score)}
            for index, score in zip(self.indices, self.scores)
        ]
        return {"kind": self.kind, "top": top, "dropped": self.dropped}


class Detection(object):
    """boxes Nx4 float32 (x1, y1, x2, y2), scores N, classes N, best first.

    crops: None, or for each box (top, left, HxW bool), the part of its mask within the image; dropped:
    candidates with NaN or infinite numbers.
    """

    kind = "detection"

    def __init__(self, boxes, scores, classes, size, crops=None, dropped=0):
        self.boxes = boxes
        self.scores = scores
        self.classes = classes
        self.size = size
        self.crops = crops
        self.dropped = dropped

    @property
    def masks(self):
        """NxHxW bool, or None: made when asked for, since of a large image it is large."""
        import numpy as np

        if self.crops is None:
            return None
        full = np.zeros((len(self.crops), *tuple(self.size)), bool)
        for layer, (top, left, crop) in zip(full, self.crops):
            layer[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return full

    def to_dict(self, labels=None):
        found = []
        for index in range(len(self.scores)):
            entry = {
                "box": [round(float(value), 3) for value in self.boxes[index]],
                "class": int(self.classes[index]),
                "label": label_of(labels, int(self.classes[index])),
                "score": _score(self.scores[index]),
            }
            if self.crops is not None:
                entry["mask"] = run_lengths(self.crops[index], self.size)
                entry["area"] = int(self.crops[index][2].sum())
            found.append(entry)
        return {"kind": self.kind, "detections": found, "dropped": self.dropped}


class Segmentation(object):
    """mask HxW: the class of each pixel; shares: class -> its part of the image, the larger first."""

    kind = "segmentation"

    def __init__(self, mask, dropped=0):
        import numpy as np

        counts = np.bincount(mask.ravel()) if mask.size else np.zeros(1, int)
        self.mask = mask
        self.dropped = dropped
        self.shares = {
            int(index): float(counts[index]) / mask.size
            for index in np.argsort(-counts, kind="mergesort")
            if counts[index]
        }

    def to_dict(self, labels=None):
        classes = [
            {"class": index, "label": label_of(labels, index), "share": round(share, 6)}
            for index, share in self.shares.items()
        ]
        return {"kind": self.kind, "classes": classes, "dropped": self.dropped}


def _score(value):
    return round(float(value), 6)


def run_lengths(crop, size):
    """COCO's uncompressed run lengths of a mask: {"size": [height, width], "counts": [...]}.

    Down the columns, beginning with zeros.
    """
    import numpy as np

    top, left, mask = crop
    height, width = size
    columns = np.zeros((mask.shape[1], height), bool)
    columns[:, top : top + mask.shape[0]] = mask.T
    line = np.concatenate([[False], columns.ravel(), [False]])
    changes = np.flatnonzero(line[1:] != line[:-1]) + left * height
    ends = np.concatenate([[0], changes, [height * width]])
    counts = np.diff(ends).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return {"size": [int(height), int(width)], "counts": counts}
