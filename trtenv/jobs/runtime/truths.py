"""Truths of images from files: COCO, YOLO and masks, each held to what it should be. Python 3.6 to 3.13."""

import json

from worker import JobError

EDGE = 0.01  # of an image: so far beyond it rounding may put the edge of a box


class Coco(object):
    """Boxes by file name, of classes as the model counts them."""

    def __init__(self, path, labels, notes):
        try:
            with open(path, encoding="utf-8") as handle:
                document = json.load(handle)
            names = {entry["id"]: entry["file_name"] for entry in document["images"]}
            classes = self._classes(document["categories"], labels, notes)
            self.boxes = {name: [] for name in names.values()}
            self.sizes = {
                entry["file_name"]: (entry["width"], entry["height"])
                for entry in document["images"]
                if entry.get("width") and entry.get("height")
            }
            for number, entry in enumerate(document["annotations"], 1):
                for key, known in (("category_id", classes), ("image_id", names)):
                    if entry[key] not in known:
                        raise ValueError("annotation %d has %s %r, which is not listed"
                                         % (number, key, entry[key]))  # fmt: skip
                left, top, wide, high = map(float, entry["bbox"])
                kept = {
                    "category_id": classes[entry["category_id"]],
                    "bbox": [left, top, wide, high],
                    "area": entry.get("area", wide * high),
                    "iscrowd": entry.get("iscrowd", 0),
                }
                self.boxes[names[entry["image_id"]]].append(kept)
        except KeyError as error:
            raise JobError("labels", "`%s` is no COCO file of detections: no %s" % (path, error))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise JobError("labels", "`%s` is no COCO file of detections: %s" % (path, error))
        self.by_base = {}
        for name in self.boxes:
            self.by_base.setdefault(name.rpartition("/")[2], []).append(name)

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

    def check_size(self, name, width, height):
        """JobError where boxes are of an image of another size; turned by its EXIF it may be."""
        known = self.sizes.get(name, (width, height))
        if sorted(known) != sorted((width, height)):
            raise JobError(
                "labels",
                "`%s` is %dx%d, and the COCO file has its boxes at %sx%s"
                % ((name, width, height, *known)),
                "give the images that the boxes were drawn on",
            )

    def key(self, item):
        """The image's name in the file: its own, or the only one that ends in it."""
        if item in self.boxes:
            return item
        found = self.by_base.get(item.rpartition("/")[2], [])
        if len(found) > 1:
            raise JobError(
                "labels",
                "`%s` could be %s of the COCO file" % (item, " or ".join(found[:2])),
                "name the folder that the file's names start from: --inputs FOLDER",
            )
        return found[0] if found else None


def yolo_boxes(path, height, width, labels=None):
    """Of lines `class x y width height`, centre and size as shares of the image; or of polygons.

    No path: an image without objects.
    """
    if not path:
        return
    try:
        with open(path, encoding="utf-8") as handle:
            lines = [line.split() for line in handle if line.strip()]
        rows = [yolo_row(line, labels) for line in lines]
    except (OSError, ValueError) as error:
        raise JobError(
            "labels",
            "`%s` is no file of YOLO labels: %s" % (path, error),
            "lines are: class x_centre y_centre width height, as shares of the image",
        )
    for index, values in rows:
        if len(values) == 4:
            x, y, wide, high = values
            left, top = x - wide / 2, y - high / 2
        else:
            xs, ys = values[0::2], values[1::2]
            left, top = min(xs), min(ys)
            wide, high = max(xs) - left, max(ys) - top
        box = [left * width, top * height, wide * width, high * height]
        yield {"category_id": index, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


def yolo_row(line, labels):
    """(class, numbers); ValueError where they cannot be those of a box or of a polygon."""
    index, values = int(line[0]), [float(value) for value in line[1:]]
    if len(values) < 4 or len(values) % 2:
        raise ValueError("%d numbers" % len(line))
    if index < 0 or (labels and index >= len(labels)):
        raise ValueError("class %d of %s" % (index, len(labels) if labels else "none"))
    if not all(-EDGE <= value <= 1 + EDGE for value in values):
        raise ValueError("%s is no share of the image" % " ".join(line[1:]))
    return index, values


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
