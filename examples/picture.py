"""Draws docs/examples.png and writes the samples in examples/data, all from held-out data."""

import io
from pathlib import Path
from types import ModuleType

import coins_data
import coins_detect
import coins_segment
import digits
import matplotlib as mpl
import numpy as np
import torch
import train_coins_detect
import train_coins_segment
import train_digits
from PIL import Image
from safetensors.torch import load_file

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

HERE = Path(__file__).parent
COLUMNS, ROWS = 6, 5
INK, QUIET, BOX, MASK, WRONG = "#1b1f24", "#59636e", "#ffb000", "#19b3a6", "#d1242f"


def trained(module: ModuleType, weights: Path) -> torch.nn.Module:
    network = module.model()
    network.load_state_dict(load_file(weights))
    return network


def bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def chip(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    fill: str,
    ha: str = "left",
    va: str = "top",
) -> None:
    box = {"facecolor": fill, "edgecolor": fill, "pad": 1.5}
    axes.text(x, y, text, size=size, weight="bold", color=INK, ha=ha, va=va, bbox=box)


def heading(figure: Figure, x: float, name: str, text: str) -> None:
    figure.text(x, 0.965, name, size=15, weight="bold", color=INK, va="top")
    figure.text(x, 0.905, text, size=12, color=QUIET, va="top")


def draw_digits(figure: Figure, left: float, width: float) -> None:
    images, labels = train_digits.pictures()
    images, labels = images[train_digits.TRAINING :], labels[train_digits.TRAINING :]
    with torch.no_grad():
        logits = trained(digits, train_digits.WEIGHTS)(train_digits.as_input(images))
    found = logits.argmax(1).numpy()
    grid = figure.add_gridspec(
        ROWS,
        COLUMNS,
        left=left,
        right=left + width,
        bottom=0.03,
        top=0.835,
        hspace=0.08,
        wspace=0.08,
    )
    for i, cell in enumerate(grid.subplots().flat):
        bare(cell)
        cell.imshow(images[i], cmap="gray", vmin=0, vmax=255)
        chip(
            cell, 29.5, 1.5, str(found[i]), 12, BOX if found[i] == labels[i] else WRONG, ha="right"
        )
    right = (found == labels).mean()
    heading(figure, left, "digits", f"{right:.1%} of {len(labels)} held-out digits are right")


def draw_photo(figure: Figure, left: float, width: float) -> tuple[Axes, np.ndarray, np.ndarray]:
    photo, coins = coins_data.held_out_part()
    axes = figure.add_axes((left, 0.03, width, 0.805))
    axes.imshow(photo, cmap="gray", vmin=0, vmax=255, interpolation="bicubic", aspect="auto")
    axes.autoscale(enable=False)
    bare(axes)
    return axes, photo, coins


def draw_boxes(figure: Figure, left: float, width: float) -> None:
    axes, photo, coins = draw_photo(figure, left, width)
    network = trained(coins_detect, train_coins_detect.WEIGHTS)
    with torch.no_grad():
        boxes = train_coins_detect.detections(network(coins_data.as_input(photo))[0])
    for x, y, w, h, score in boxes.T.tolist():
        axes.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, lw=2, color=BOX))
        chip(axes, max(x - w / 2, 0) + 1, y - h / 2, f"{score:.2f}", 9.5, BOX, va="bottom")
    wanted = train_coins_detect.wanted_boxes(coins)
    hits = len(train_coins_detect.matches(boxes, wanted))
    heading(figure, left, "coins_detect", f"{hits} of {wanted.shape[1]} held-out coins found")


def draw_mask(figure: Figure, left: float, width: float) -> None:
    axes, photo, coins = draw_photo(figure, left, width)
    mask = train_coins_segment.mask_of(trained(coins_segment, train_coins_segment.WEIGHTS), photo)
    tint = np.array([*mpl.colors.to_rgb(MASK), 1]) * np.ones((*mask.shape, 1))
    tint[..., 3] = 0.5 * mask
    axes.imshow(tint, aspect="auto")
    axes.contour(mask, [0.5], colors=[MASK], linewidths=1.6)
    overlap = train_coins_segment.overlap(mask, coins > 0)
    heading(figure, left, "coins_segment", f"IoU {overlap:.3f} on held-out coins")


def draw(path: Path) -> None:
    figure = plt.figure(figsize=(13.6, 6.9), dpi=110, facecolor="white")
    draw_digits(figure, 0.015, 0.485)
    draw_boxes(figure, 0.53, 0.2125)
    draw_mask(figure, 0.7725, 0.2125)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(96).save(path, optimize=True)


def write_samples(folder: Path) -> None:
    images, labels = train_digits.pictures()
    for label in (0, 3, 5, 8):
        first = train_digits.TRAINING + int(np.argmax(labels[train_digits.TRAINING :] == label))
        Image.fromarray(images[first]).save(folder / f"digit_{label}.png", optimize=True)
    photo, _ = coins_data.held_out_part()
    Image.fromarray(photo).save(folder / "coins_tall.png", optimize=True)
    Image.fromarray(photo[76:204, 8:136]).save(folder / "coins.png", optimize=True)


if __name__ == "__main__":
    write_samples(HERE / "data")
    draw(HERE.parent / "docs" / "examples.png")
