"""The photograph of coins that ships with scikit-image: labels, held-out part, training crops.

The columns left of ``SPLIT`` are for training, the others for evaluation. The labels are made by
classical segmentation (edges, watershed from dark and light markers, convex hull of each coin).
"""

import numpy as np
import torch
from scipy import ndimage
from skimage import data, filters, measure, morphology, segmentation
from torch.nn import functional

SPLIT = 240
HEIGHT = 296  # a multiple of 8; nothing but background lies below


def coin_map() -> np.ndarray:
    """The whole photograph's coins, numbered from 1; 0 is background."""
    photo = data.coins()
    markers = np.zeros(photo.shape, int)
    markers[photo < 30] = 1
    markers[photo > 150] = 2
    regions = segmentation.watershed(filters.sobel(photo), markers)
    coins = ndimage.binary_fill_holes(regions == 2)
    coins = morphology.opening(coins, morphology.disk(4))
    return measure.label(morphology.convex_hull_object(coins))


def training_part() -> tuple[np.ndarray, np.ndarray]:
    return data.coins()[:, :SPLIT], coin_map()[:, :SPLIT]


def held_out_part() -> tuple[np.ndarray, np.ndarray]:
    return data.coins()[:HEIGHT, SPLIT:], coin_map()[:HEIGHT, SPLIT:]


def as_input(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.astype(np.float32) / 255)[None, None]


def corner_boxes(coins: np.ndarray, min_area: int = 1) -> dict[int, tuple[int, int, int, int]]:
    """Coin number to left, top, right, bottom in pixels; right and bottom are exclusive."""
    areas = np.bincount(coins.ravel(), minlength=coins.max() + 1)
    return {
        number: (where[1].start, where[0].start, where[1].stop, where[0].stop)
        for number, where in enumerate(ndimage.find_objects(coins), 1)
        if where is not None and areas[number] >= min_area
    }


class Crops:
    """Random turned, zoomed, mirrored and relit squares of the training part."""

    def __init__(self, size: int, seed: int) -> None:
        photo, coins = training_part()
        self.size = size
        self.random = np.random.default_rng(seed)
        self.planes = torch.from_numpy(np.stack([photo / 255.0, coins]).astype(np.float32))[None]

    def batch(self, count: int) -> tuple[torch.Tensor, np.ndarray]:
        """Images Nx1xSxS as the models take them, and the numbered coins NxSxS."""
        height, width = self.planes.shape[2:]
        theta = torch.stack([self.placement(height, width) for _ in range(count)])
        grid = functional.affine_grid(theta, [count, 1, self.size, self.size], align_corners=False)
        photo, coins = (
            functional.grid_sample(
                self.planes[:, i : i + 1].expand(count, -1, -1, -1),
                grid,
                mode,
                "border",
                align_corners=False,
            )
            for i, mode in enumerate(("bilinear", "nearest"))
        )
        return self.relight(photo), coins[:, 0].round().long().numpy()

    def placement(self, height: int, width: int) -> torch.Tensor:
        angle = self.random.uniform(0, 2 * np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        half = self.size / 2 / self.random.uniform(0.8, 1.5)
        reach = half * (abs(cos) + abs(sin))  # so that no turned corner leaves the training part
        x = self.random.uniform(reach, width - reach) if 2 * reach < width else width / 2
        y = self.random.uniform(reach, height - reach) if 2 * reach < height else height / 2
        mirror = self.random.choice([-1, 1])
        return torch.tensor(
            [
                [2 * half * cos * mirror / width, -2 * half * sin / width, 2 * x / width - 1],
                [2 * half * sin * mirror / height, 2 * half * cos / height, 2 * y / height - 1],
            ],
            dtype=torch.float32,
        )

    def relight(self, photo: torch.Tensor) -> torch.Tensor:
        count = len(photo)
        gain, gamma = (
            torch.from_numpy(self.random.uniform(0.7, 1.4, (count, 1, 1, 1)).astype(np.float32))
            for _ in range(2)
        )
        slope = self.random.uniform(-0.15, 0.15, (3, count, 1, 1)).astype(np.float32)
        ramp = np.linspace(-1, 1, self.size, dtype=np.float32)
        light = slope[0] * ramp + slope[1] * ramp[:, None] + slope[2]
        noise = self.random.normal(0, 0.02, tuple(photo.shape)).astype(np.float32)
        photo = photo.clamp(min=0) ** gamma * gain
        return (photo + torch.from_numpy(light[:, None] + noise)).clamp(0, 1)
