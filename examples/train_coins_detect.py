"""Trains coins_detect.py on the left part of scikit-image's photograph of coins.

Run as ``python examples/train_coins_detect.py``; prints recall and precision on the held-out
right part. With ``--evaluate`` the weights on disk are measured and nothing is written.
"""

from pathlib import Path

import coins_detect
import numpy as np
import torch
import training
from coins_data import Crops, as_input, corner_boxes, held_out_part
from torch.nn import functional

HERE = Path(__file__).parent
WEIGHTS = HERE / "coins_detect.safetensors"
STRIDE = coins_detect.STRIDE
SIZE = 128
SMALLEST = 400  # pixels of a coin cut by the border that are still enough to ask for a box


def targets(coins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each cell centre x, centre y, width, height; and 1 coin, 0 none, -1 not judged."""
    cells = coins.shape[0] // STRIDE
    boxes = np.zeros((4, cells, cells), np.float32)
    kind = np.zeros((cells, cells), np.float32)
    centres = (np.arange(cells) + 0.5) * STRIDE
    for number, (left, top, right, bottom) in corner_boxes(coins).items():
        x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        # Distance from the centre of the coin: 1 on the rim of the ellipse.
        distance = np.hypot((centres - x) / width * 2, (centres[:, None] - y) / height * 2)
        if (coins == number).sum() < SMALLEST:
            kind[(distance < 1) & (kind == 0)] = -1
            continue
        kind[(distance < 0.6) & (kind == 0)] = -1
        inside = distance < max(0.3, distance.min() + 1e-6)
        kind[inside] = 1
        boxes[:, inside] = np.array([[x], [y], [width], [height]])
    return boxes.reshape(4, -1), kind.reshape(-1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes 4xA: centre x, centre y, width, height."""
    low = torch.max(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = torch.min(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = (high - low).clamp(min=0).prod(0)
    return common / (a[2:].prod(0) + b[2:].prod(0) - common)


def loss_of(predictions: torch.Tensor, boxes: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    clear, coin = kind >= 0, kind == 1
    found = predictions[:, :4].transpose(0, 1)[:, coin]
    wanted = boxes.transpose(0, 1)[:, coin]
    quality = overlap(found, wanted)
    score = kind.clone()
    score[coin] = quality.detach()  # so that suppression keeps the candidate with the best box
    probability = predictions[:, 4].clamp(1e-6, 1 - 1e-6)
    classes = functional.binary_cross_entropy(probability[clear], score[clear], reduction="sum")
    distance = functional.smooth_l1_loss(found / STRIDE, wanted / STRIDE, reduction="sum")
    return (classes + 2 * (1 - quality).sum() + 0.5 * distance) / coin.sum().clamp(min=1)


def train(steps: int = 500, batch: int = 16) -> torch.nn.Module:
    torch.manual_seed(0)
    crops = Crops(SIZE, seed=0)
    network = coins_detect.model().train()
    torch.nn.init.constant_(network.head.bias[2:4], 1.8)  # start near 48 pixels,
    torch.nn.init.constant_(network.head.bias[4:], -3)  # and with few coins
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, steps)
    for step in range(steps):
        images, coins = crops.batch(batch)
        wanted = [targets(picture) for picture in coins]
        boxes = torch.from_numpy(np.stack([boxes for boxes, _ in wanted]))
        kind = torch.from_numpy(np.stack([kind for _, kind in wanted]))
        loss = loss_of(network(images), boxes, kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return network.eval()


def detections(predictions: torch.Tensor, least: float = 0.5, most: float = 0.5) -> torch.Tensor:
    """Non-maximum suppression of one picture's 5xA predictions: 5xK, the best first."""
    candidates = predictions[:, predictions[4] >= least]
    candidates = candidates[:, candidates[4].argsort(descending=True)]
    kept: list[int] = []
    for i in range(candidates.shape[1]):
        if not kept or overlap(candidates[:4, i : i + 1], candidates[:4, kept]).max() <= most:
            kept.append(i)
    return candidates[:, kept]


def matches(found: torch.Tensor, wanted: torch.Tensor) -> list[float]:
    """Overlaps of at least 0.5 between found and wanted boxes, each used once."""
    free, overlaps = set(range(wanted.shape[1])), []
    for i in range(found.shape[1]):
        scores = {j: overlap(found[:4, i : i + 1], wanted[:, j : j + 1]).item() for j in free}
        best = max(scores, key=lambda j: scores[j], default=None)
        if best is not None and scores[best] >= 0.5:
            free.remove(best)
            overlaps.append(scores[best])
    return overlaps


def wanted_boxes(coins: np.ndarray) -> torch.Tensor:
    corners = torch.tensor(list(corner_boxes(coins, SMALLEST).values()), dtype=torch.float32)
    corners = corners.reshape(-1, 4).T
    return torch.cat([(corners[:2] + corners[2:]) / 2, corners[2:] - corners[:2]])


def judged(found: torch.Tensor, coins: np.ndarray) -> torch.Tensor:
    """Without the boxes whose centre is on a coin too little of which is in the picture."""
    counts = np.bincount(coins.ravel())
    limits = [[coins.shape[1] - 1], [coins.shape[0] - 1]]
    x, y = np.clip(found[:2].numpy().astype(int), 0, limits)
    return found[:, (coins[y, x] == 0) | (counts[coins[y, x]] >= SMALLEST)]


def measure(
    name: str, network: torch.nn.Module, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    wanted = found = 0
    overlaps: list[float] = []
    for photo, coins in pairs:
        with torch.no_grad():
            boxes = judged(detections(network(as_input(photo))[0]), coins)
        truth = wanted_boxes(coins)
        overlaps += matches(boxes, truth)
        wanted, found = wanted + truth.shape[1], found + boxes.shape[1]
    hits = len(overlaps)
    print(
        f"{name}: recall {hits / wanted:.3f} ({hits} of {wanted} coins), "
        f"precision {hits / max(found, 1):.3f} ({hits} of {found} boxes) at IoU 0.5, "
        f"mean IoU {np.mean(overlaps):.3f}"
    )


def evaluate(network: torch.nn.Module) -> None:
    photo, coins = held_out_part()
    measure(f"held out, {photo.shape[1]}x{photo.shape[0]}", network, [(photo, coins)])
    squares = [
        (photo[y : y + SIZE, x : x + SIZE], coins[y : y + SIZE, x : x + SIZE])
        for y in range(0, photo.shape[0] - SIZE + 1, STRIDE)
        for x in range(0, photo.shape[1] - SIZE + 1, STRIDE)
    ]
    measure(f"held out, {len(squares)} squares of {SIZE}x{SIZE}", network, squares)


def main() -> None:
    torch.set_num_threads(1)
    training.run(coins_detect.model, WEIGHTS, train, evaluate)


if __name__ == "__main__":
    main()
