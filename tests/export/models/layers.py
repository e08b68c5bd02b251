# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN001, ANN204
from torch import nn


class Block(nn.Sequential):
    def __init__(self, inputs, outputs):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU())
