# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN001, ANN201, ANN204
"""Just enough of YOLOv5's shape: a half-precision model whose head changes when exported."""

import torch
from torch import nn


class Detect(nn.Module):
    export = False
    dynamic = False

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 1)

    def forward(self, x):
        raw = self.conv(x)
        decoded = torch.sigmoid(raw.view(raw.shape[0], 7, -1).transpose(1, 2))
        return (decoded,) if self.export else (decoded, [raw])


class DetectionModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Detect())
        self.names = {0: "coin", 1: "hand"}
        self.stride = torch.tensor([8.0, 16.0])

    def forward(self, x):
        return self.model(x)
