"""Classifier of handwritten digits.

Input ``image``: Nx1x32x32 float32, a grey picture of one light digit on a dark ground, pixel
values divided by 255 (0 to 1). No mean or standard deviation is subtracted or divided.
Output ``logits``: Nx10, one score for each digit 0 to 9; softmax turns them into probabilities.
"""

import torch
from torch import nn

INPUT_NAMES = ("image",)
OUTPUT_NAMES = ("logits",)
SHAPES = "image:1x1x32x32"
TASK = "classification"
LABELS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
LAYOUT = "logits"
PREPROCESS = {"resize": "stretch", "size": (32, 32), "colour": "grey", "scale": 1 / 255}


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(1, 16),
            nn.MaxPool2d(2),
            block(16, 32),
            nn.MaxPool2d(2),
            block(32, 64),
            block(64, 72, stride=2),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(72, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).flatten(1))


def model() -> nn.Module:
    return Digits().eval()
