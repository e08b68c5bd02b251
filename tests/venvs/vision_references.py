"""Holds trtenv's image code against torchvision and Ultralytics; run where both are installed.

    python vision_references.py JOBS_FOLDER RESULT.json

Writes what differs, and by how much. Random images, boxes and tensors from fixed seeds.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.ops import batched_nms
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ops
from ultralytics.utils.nms import non_max_suppression

sys.path.insert(0, sys.argv[1])

from vision import boxes, images, layouts, masks, tasks
from vision.preprocess import Placement
from vision.results import Detection

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SHAPES = [(480, 640), (427, 640), (1080, 1920), (100, 37), (640, 640), (1, 3000), (1281, 959)]
FRAME = (640, 640)


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: list[int]
    minimum: None = None
    optimum: None = None
    maximum: None = None


def task(kind: str, dtype: str, side: int, **preprocess: Any) -> tasks.Task:
    card = {"kind": kind, "preprocess": preprocess}
    return tasks.make_task(card, Tensor("images", dtype, [1, 3, side, side]), ["output0"])


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, as photographs are."""
    random = np.random.default_rng(seed)
    size = max(2, height // 8), max(2, width // 8), 3
    small = Image.fromarray(random.integers(0, 256, size).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def presets() -> float:
    """The largest difference to torchvision's classification preset."""
    worst = 0.0
    for shape in [*SHAPES, (224, 224), (33, 57), (1, 1)]:
        if max(shape) > 40 * min(shape):
            continue  # hundreds of megapixels on the way
        image = photo(*shape)
        for resize, how in ((256, "bilinear"), (232, "bicubic"), (200, "bilinear")):
            mode = InterpolationMode(how)
            preset = ImageClassification(crop_size=224, resize_size=resize, interpolation=mode)
            out = np.empty((3, 224, 224), np.float32)
            made = task(
                "classification", "float32", 224, size=resize, interpolation=how, **IMAGENET
            )
            made.prepare(image, out)
            worst = max(worst, float(abs(preset(Image.fromarray(image)).numpy() - out).max()))
    return worst


def suppressions() -> int:
    """How many of the cases differ from torchvision.ops.batched_nms."""
    wrong = 0
    for count, kinds in ((0, 1), (1, 1), (50, 3), (900, 1), (900, 5), (3000, 4), (9000, 80)):
        for seed in range(5):
            random = np.random.default_rng(seed)
            corners = random.integers(0, 400, (count, 2))
            found = np.concatenate([corners, corners + random.integers(1, 120, (count, 2))], 1)
            found, scores = found.astype(np.float32), random.permutation(count).astype(np.float32)
            classes = random.integers(0, kinds, count)
            given = [torch.from_numpy(array) for array in (found, scores, classes)]
            wanted = batched_nms(*given, 0.45).numpy()
            wrong += not np.array_equal(wanted, boxes.suppress(found, scores, classes, 0.45))
    return wrong


def letterboxes() -> dict[str, float]:
    """The largest difference to Ultralytics' LetterBox in levels of 255, and that of boxes in pixels."""
    made, worst, far = task("detection", "uint8", 640), 0, 0.0
    given = np.array([[10, 20, 300, 310], [-5, -5, 900, 900], [100, 150.5, 101, 160]], np.float32)
    for shape in SHAPES:
        image = photo(*shape)
        out = np.empty((3, *FRAME), np.uint8)
        placement = made.prepare(image, out)
        wanted = LetterBox(FRAME, auto=False)(image=image)
        worst = max(worst, int(abs(out.transpose(1, 2, 0).astype(int) - wanted).max()))
        back = ops.scale_boxes(FRAME, torch.from_numpy(given.copy()), shape).numpy()
        far = max(far, float(abs(back - boxes.to_original(given, placement)).max()))
    return {"levels": worst, "boxes": far}


def candidates(classes: int, extra: int) -> np.ndarray:
    random = np.random.default_rng(3)
    table = np.zeros((1, 4 + classes + extra, 8400), np.float32)
    table[:, :2] = random.uniform(0, 640, (1, 2, 8400))
    table[:, 2:4] = random.uniform(20, 200, (1, 2, 8400))
    table[:, 4 : 4 + classes] = random.random((1, classes, 8400)) ** 8
    table[:, 4 + classes :] = random.normal(size=(1, extra, 8400))
    return table


def detections() -> float:
    """The largest difference of boxes and scores to Ultralytics' non_max_suppression; inf where the
    number of detections or a class differs."""
    worst = 0.0
    for classes, extra, agnostic in ((80, 0, False), (80, 0, True), (1, 0, False), (3, 32, False)):
        table = candidates(classes, extra)
        wanted = non_max_suppression(
            torch.from_numpy(table), 0.25, 0.45, agnostic=agnostic, nc=classes, max_time_img=100
        )[0].numpy()
        layout = layouts.Layout("yolov8", {}, extra)
        options = {**tasks.OPTIONS, "class_agnostic": agnostic}
        found = boxes.best_of(layout, {"candidates": table}, 0, options)
        if len(found.boxes) != len(wanted) or (found.classes != wanted[:, 5]).any():
            return float("inf")
        worst = max(worst, float(abs(found.boxes - wanted[:, :4]).max()))
        worst = max(worst, float(abs(found.scores - wanted[:, 4]).max()))
    return worst


def instances() -> dict[str, float]:
    """process_mask(upsample) where the image is the input: pixels that differ. process_mask_native
    elsewhere: IoU of the masks of 100 pixels or more, the smallest and the mean."""
    random, made = np.random.default_rng(4), task("detection", "uint8", 640)
    coarse = torch.from_numpy(random.normal(size=(1, 32, 20, 20)).astype(np.float32))
    prototypes = F.interpolate(coarse, (160, 160), mode="bilinear")[0]
    layout = layouts.Layout("yolov8", {}, 32)
    found = boxes.best_of(layout, {"candidates": candidates(3, 32)}, 0, tasks.OPTIONS)
    weights, overlaps, differ = torch.from_numpy(found.coefficients), [], 0
    for shape in [*SHAPES[:5], SHAPES[-1], (333, 500)]:
        placement = made.prepare(photo(*shape), np.empty((3, *FRAME), np.uint8))
        moved = boxes.to_original(found.boxes, placement)
        crops = masks.of_prototypes(found.coefficients, prototypes.numpy(), moved, placement)
        own = Detection(moved, found.scores, found.classes, shape, crops).masks
        native = ops.process_mask_native(prototypes, weights, torch.from_numpy(moved), shape)
        wanted = native.numpy().astype(bool)
        union = (own | wanted).sum((1, 2))
        overlap = (own & wanted).sum((1, 2)) / np.maximum(union, 1)
        overlaps += overlap[union >= 100].tolist()
        if shape == FRAME:
            given = torch.from_numpy(found.boxes)
            full = ops.process_mask(prototypes, weights, given, FRAME, upsample=True)
            differ = int((full.numpy().astype(bool) != own).sum())
    return {"least": min(overlaps), "mean": float(np.mean(overlaps)), "pixels": differ}


def maps() -> float:
    """The share of pixels of which the class differs from that of torch's interpolate and argmax."""
    scores, worst = (
        torch.from_numpy(np.random.default_rng(5).normal(size=(21, 65, 65))).float(),
        0.0,
    )
    for shape in ((480, 640), (130, 130), (40, 30)):
        wanted = F.interpolate(scores[None], shape, mode="bilinear")[0].argmax(0).numpy()
        scale = 520 / shape[0], 520 / shape[1]
        placement = Placement(shape, (520, 520), *scale, 0, 0, (0, 0, 520, 520))
        worst = max(worst, float((masks.decided(scores.numpy(), placement) != wanted).mean()))
    return worst


def main() -> None:
    measured: dict[str, Any] = {"presets": presets(), "suppressions": suppressions()}
    measured |= {"opencv": letterboxes(), "detections": detections()}
    measured |= {"instances": instances(), "maps": maps()}
    images._modules["cv2"] = None
    measured["pillow"] = letterboxes()
    Path(sys.argv[2]).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
