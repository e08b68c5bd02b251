"""Trains digits.py on scikit-learn's handwritten digits and prints the held-out accuracy.

Run as ``python examples/train_digits.py``; with ``--evaluate`` the weights on disk are measured
and nothing is written.
"""

from pathlib import Path

import digits
import numpy as np
import torch
import training
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional

HERE = Path(__file__).parent
WEIGHTS = HERE / "digits.safetensors"
TRAINING = 1198  # of 1797, in the order of the data set; the last third is held out


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """All digits as 32x32 grey pictures, as a PNG file would hold them, and their labels."""
    dataset = load_digits()
    small = np.round(dataset.images * (255 / 16)).astype(np.uint8)
    large = [
        Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC) for picture in small
    ]
    return np.stack([np.asarray(picture) for picture in large]), dataset.target


def as_input(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)


def distort(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    count = len(images)

    def spread(width: float) -> torch.Tensor:
        return (torch.rand(count, generator=random) * 2 - 1) * width

    angle, zoom = spread(0.2), 1 + spread(0.12)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [cos, spread(0.15) - sin, spread(0.12), sin, cos, spread(0.12)]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(count, 2, 3), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False)


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int = 40) -> torch.nn.Module:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    network = digits.model().train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    batches = len(images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, epochs * batches)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=random)
        for batch in order[: batches * 64].split(64):
            logits = network(distort(images[batch], random))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def evaluate(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    with torch.no_grad():
        right = int((network(images).argmax(1) == labels).sum())
    print(f"held-out accuracy {right / len(labels):.4f} ({right} of {len(labels)} digits)")


def main() -> None:
    torch.set_num_threads(1)
    images, labels = pictures()
    inputs, targets = as_input(images), torch.from_numpy(labels)
    training.run(
        digits.model,
        WEIGHTS,
        lambda: train(inputs[:TRAINING], targets[:TRAINING]),
        lambda network: evaluate(network, inputs[TRAINING:], targets[TRAINING:]),
    )


if __name__ == "__main__":
    main()
