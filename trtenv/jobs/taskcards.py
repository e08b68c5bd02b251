"""What a model's images and outputs mean, as its file, its library or its project says: its task card.

Keys and words are those of trtenv/spec/task.py; a card holds what is known, and readers have defaults
for the rest. Python 3.6 to 3.13.
"""

import inspect
import math
import os

from worker import JobError

KINDS = ("classification", "detection", "segmentation")
SHORT = {"classify": KINDS[0], "detect": KINDS[1], "segment": KINDS[2]}
LAYOUTS = ("logits", "probabilities", "yolov5", "yolov8", "end2end", "efficient-nms")
LAYOUTS += ("boxes-labels-scores",)
MOST_LABELS = 100000
# What torchvision's models for classification take, by its documentation before 0.13.
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CROPPED = {"resize": "shorter", "size": 256, "crop": [224, 224]}
# Classes of YOLOv5's models/yolo.py; `Model` is the detector of its releases before 6.2.
YOLOV5 = {"Model": KINDS[1], "DetectionModel": KINDS[1]}
YOLOV5.update({"ClassificationModel": KINDS[0], "SegmentationModel": KINDS[2]})


def one_of(*words):
    def read(value):
        if value not in words:
            raise ValueError("one of " + ", ".join(words))
        return value

    return read


def number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a number")
    return float(value)


def count(value):
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError("a positive whole number")
    return value


def pair(value):
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("[HEIGHT, WIDTH]")
    return [count(entry) for entry in value]


def size(value):
    return pair(value) if isinstance(value, (list, tuple)) else count(value)


def channels(value):
    if not isinstance(value, (list, tuple)) or len(value) not in (1, 3):
        raise ValueError("a list of one number, or of one for each channel")
    return [number(entry) for entry in value]


def deviations(value):
    found = channels(value)
    if 0 in found:
        raise ValueError("numbers other than 0, since pixels are divided by them")
    return found


def grey(value):
    if type(value) is not int or not 0 <= value <= 255:
        raise ValueError("a grey level, 0 to 255")
    return value


def labels(value):
    if isinstance(value, dict):
        value = by_index(value)
    texts = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    if not texts or not 0 < len(value) <= MOST_LABELS:
        raise ValueError("a list of texts, one for each class")
    return list(value)


def by_index(names):
    try:
        found = {int(index): name for index, name in names.items()}
        return [found[index] for index in range(len(names))]
    except (KeyError, TypeError, ValueError):
        raise ValueError("a list of texts, or a dict from 0, 1, 2 and so on to texts")


def kind(value):
    return one_of(*KINDS)(SHORT.get(value, value) if isinstance(value, str) else value)


PREPROCESS = {
    "resize": one_of("stretch", "shorter", "letterbox", "none"),
    "size": size,
    "crop": pair,
    "interpolation": one_of("nearest", "bilinear", "bicubic"),
    "colour": one_of("rgb", "bgr", "grey"),
    "scale": number,
    "mean": channels,
    "std": deviations,
    "pad": grey,
    "multiple": count,
    "layout": one_of("nchw", "nhwc"),
}


def of_constants(constants, file, notes):
    """The card that a model file states, or None where it names no TASK."""
    more = [name for name in ("LABELS", "LAYOUT", "PREPROCESS") if constants.get(name) is not None]
    if constants.get("TASK") is None:
        notes.extend("%s of `%s` is not used: it has no TASK" % (name, file) for name in more)
        return None
    card = {"kind": read(file, "TASK", kind, constants["TASK"])}
    if "LABELS" in more:
        card["labels"] = read(file, "LABELS", labels, constants["LABELS"])
    if "LAYOUT" in more:
        card["layout"] = read(file, "LAYOUT", one_of(*LAYOUTS), constants["LAYOUT"])
    if "PREPROCESS" in more:
        card["preprocess"] = preprocessing(file, constants["PREPROCESS"])
    return card


def preprocessing(file, given):
    keys = ", ".join(sorted(PREPROCESS))
    if not isinstance(given, dict):
        raise wrong(file, "PREPROCESS", given, "it is a dict with some of " + keys)
    for key in given:
        if key not in PREPROCESS:
            raise wrong(file, "a key of PREPROCESS", key, "keys are " + keys)
    return {
        key: read(file, "PREPROCESS[%r]" % key, PREPROCESS[key], value)
        for key, value in given.items()
        if value is not None  # the default holds
    }


def read(file, name, reader, value):
    try:
        return reader(value)
    except (ValueError, OverflowError) as error:
        raise wrong(file, name, value, "it may be: %s" % error)


def wrong(file, name, value, allowed):
    return JobError("task", "`%s`: %s is wrong: %.80r" % (file, name, value), allowed)


def merged(card, given):
    """The card with what the user says better; a card for another task is no help."""
    card = card or {}
    if not given:
        return card or None
    if given.get("kind", card.get("kind")) != card.get("kind"):
        card = {}
    found = dict(card, **given)
    if "kind" not in found:
        raise JobError(
            "task",
            "the model does not say which task it is for, so %s mean nothing"
            % " and ".join(sorted(given)),
            "add --task: %s" % ", ".join(KINDS),
        )
    pixels = dict(card.get("preprocess") or {}, **(given.get("preprocess") or {}))
    return dict(found, preprocess=pixels) if pixels else found


def for_input(card, sides):
    """A library's card for an input of this (height, width): of each image the same share is cut off."""
    pixels = card.get("preprocess") or {}
    crop, side = pixels.get("crop"), pixels.get("size")
    if pixels.get("resize") == "stretch":
        return dict(card, preprocess=dict(pixels, size=sides))
    if crop in (None, sides) or not isinstance(side, int):
        return card
    scaled = round(side * min(sides) / min(crop))
    return dict(card, preprocess=dict(pixels, size=scaled, crop=sides))


def with_fitting_labels(card, said, outputs, notes):
    """JobError where the outputs, given by their shapes, have another number of classes than labels.

    Labels that nobody `said`, but that are a library's, are dropped then.
    """
    names, classes = card.get("labels"), class_count(card, outputs)
    if not names or classes in (None, len(names)):
        return card
    text = "%d labels for the %d classes of the output" % (len(names), classes)
    if said:
        raise JobError("task", text, "give one label for each class, in the output's order")
    notes.append("no labels: there would be %s" % text)
    return {key: value for key, value in card.items() if key != "labels"}


def class_count(card, outputs):
    """By the shape of the first output, where the task tells which axis counts classes; else None.

    One score alone may stand for two classes.
    """
    shape, layout = outputs[0], card.get("layout")
    last = (card.get("preprocess") or {}).get("layout") == "nhwc"
    plain = layout in (None, "logits", "probabilities")
    rank = {"classification": 2, "segmentation": 4}.get(card["kind"])
    if plain and len(shape) == rank and not (last and rank == 4):
        return shape[1] if shape[1] > 1 else None
    if card["kind"] == "detection" and len(shape) == 3 and len(outputs) == 1:
        return {"yolov8": shape[1] - 4, "yolov5": shape[2] - 5}.get(layout)
    return None


def of_torchvision(builder, weights):
    """By the preset of the weights that are loaded, or of the model's default ones.

    A file is known by the name that torchvision gives it. torchvision before 0.13 has no presets;
    its weights for classification all take one, and those models lie in torchvision.models itself.
    """
    parameter = inspect.signature(builder).parameters.get("weights")
    places = getattr(parameter, "annotation", None)
    known = [
        place
        for place in getattr(places, "__args__", None) or [places]
        if hasattr(place, "DEFAULT")
    ]
    if not known:
        subpackage = len(builder.__module__.split(".")) > 3
        if parameter is not None or subpackage:
            return None
        return {"kind": KINDS[0], "preprocess": dict(IMAGENET, colour="rgb", **CROPPED)}
    file = os.path.basename(weights or "")
    same = [entry for entry in known[0] if os.path.basename(entry.url) == file]
    return of_preset((same or [known[0].DEFAULT])[0])


def of_preset(weights):
    """By what weights.transforms() does (torchvision/transforms/_presets.py)."""
    preset = weights.transforms()
    name = type(preset).__name__
    names = weights.meta.get("categories")
    card = {"labels": list(names)} if names else {}
    if name == "ObjectDetection":  # the network itself resizes and normalises
        pixels = {"resize": "letterbox", "colour": "rgb"}
        return dict(card, kind="detection", layout="boxes-labels-scores", preprocess=pixels)
    if name not in ("ImageClassification", "SemanticSegmentation"):
        return None
    pixels = {"colour": "rgb", "interpolation": preset.interpolation.value}
    pixels.update(mean=list(preset.mean), std=list(preset.std))
    side = preset.resize_size[0]
    if name == "SemanticSegmentation":
        # The shorter side there, and no crop; a batch of one size has nothing but this.
        pixels.update(resize="stretch", size=[side, side])
        return dict(card, kind="segmentation", layout="logits", preprocess=pixels)
    pixels.update(resize="shorter", size=side, crop=[preset.crop_size[0]] * 2)
    return dict(card, kind="classification", layout="logits", preprocess=pixels)


def known_labels(names):
    try:
        return {"labels": labels(names)}
    except ValueError:
        return {}


def of_ultralytics(metadata):
    """By what its exporter says of the model; None for tasks that have no card.

    ultralytics/data/augment.py: LetterBox, and classify_transforms.
    """
    task = SHORT.get(metadata.get("task"))
    story = "%s %s" % (metadata.get("head"), metadata.get("description"))
    if task is None or "rtdetr" in story.lower():  # whose boxes are in no layout known here
        return None
    sides = metadata.get("imgsz")
    sides = list(sides) if isinstance(sides, (list, tuple)) else None
    colour = {1: "grey", 3: "rgb"}.get(metadata.get("channels", 3))
    pixels = {"colour": colour} if colour else {}
    card = dict(known_labels(metadata.get("names")), kind=task)
    if task == "classification":
        pixels.update(cropped(sides))
        return dict(card, layout="probabilities", preprocess=pixels)
    pixels.update(resize="letterbox", pad=114, multiple=int(metadata.get("stride") or 32))
    if sides:
        pixels["size"] = sides
    if "end2end" in metadata:  # without the key, which head it is shows in the outputs
        last = metadata["end2end"] or (metadata.get("args") or {}).get("nms")
        card["layout"] = "end2end" if last else "yolov8"
    return dict(card, preprocess=pixels)


def cropped(sides):
    """Square networks see the middle of the image; for others it is stretched."""
    if not sides:
        return {"resize": "shorter"}
    if sides[0] != sides[1]:
        return {"resize": "stretch", "size": sides}
    return {"resize": "shorter", "size": sides[0], "crop": sides}


def of_yolov5(model, sides, stride):
    """By the class of the model; classification takes ImageNet's mean (utils/augmentations.py)."""
    task = YOLOV5.get(type(model).__name__)
    if task is None:
        return None
    card = dict(known_labels(getattr(model, "names", None)), kind=task)
    if task == "classification":
        return dict(
            card, layout="logits", preprocess=dict(cropped(sides), colour="rgb", **IMAGENET)
        )
    pixels = {"resize": "letterbox", "colour": "rgb", "pad": 114, "size": sides}
    return dict(card, layout="yolov5", preprocess=dict(pixels, multiple=stride or 32))
