# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN001, ANN201, ANN204
"""Small models that the export job must manage; plain enough for torch 1.4 and Python 3.6."""

import torch
from layers import Block
from torch import nn

INPUT_NAMES = ("image",)
OUTPUT_NAMES = ("logits",)
SHAPES = "image:1x3x8x8..2x3x8x8..4x3x8x8"


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.block = Block(3, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.block(x).mean((2, 3)))


class Tokens(nn.Module):
    """Two inputs of different type, with an optional one between them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)

    def forward(self, ids, scale=None, mask=None):
        found = self.embedding(ids)
        if scale is not None:
            found = found * scale
        return found if mask is None else found * mask.unsqueeze(-1)


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image):
        y = self.layer(image)
        return {"image": y * 2, "maps": [y + 1, (y - 1,)], "none": None, "rows": y.mean(3)}


class Frozen(nn.Module):
    """Works at any size in PyTorch; a trace keeps the traced batch."""

    def forward(self, image):
        rows = [image[i] * (i + 1) for i in range(int(image.shape[0]))]
        return torch.stack(rows)


class Unsupported(nn.Module):
    def forward(self, image):
        return torch.erfinv(image)


class Big(nn.Module):
    """Sums in another order in every library: right, and never to the last bit."""

    def forward(self, image):
        return (image * 20).exp().sum((1, 2, 3))


class Unused(nn.Module):
    def forward(self, image, spare):
        return image + 1


def model(classes=5):
    return Net(classes)


def text():
    return "no module"


def fails(depth=2):
    if depth:
        return fails(depth - 1)
    raise ValueError("depth must be even")


def leaves():
    raise SystemExit(3)
