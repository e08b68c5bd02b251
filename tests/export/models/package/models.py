# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN204
from torch import nn


class Layer(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
