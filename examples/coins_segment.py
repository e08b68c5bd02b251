"""Segmentation of a grey photograph into background and coin.

Input ``image``: Nx1xHxW float32, pixel values divided by 255 (0 to 1); H and W are multiples
of 8. No mean or standard deviation is subtracted or divided.
Output ``mask``: Nx2xHxW logits, channel 0 background and channel 1 coin; the larger one is the
class of the pixel.
"""

import torch
from torch import nn

INPUT_NAMES = ("image",)
OUTPUT_NAMES = ("mask",)
SHAPES = "image:1x1x128x128"
TASK = "segmentation"
LABELS = ("background", "coin")
LAYOUT = "logits"
PREPROCESS = {"resize": "letterbox", "colour": "grey", "scale": 1 / 255, "multiple": 8}


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class CoinSegmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level1 = block(1, 12)
        self.level2 = block(12, 20, stride=2)
        self.level4 = block(20, 32, stride=2)
        self.level8 = nn.Sequential(block(32, 48, stride=2), block(48, 48))
        self.up4 = nn.ConvTranspose2d(48, 32, 2, 2)
        self.merge4 = block(64, 32)
        self.up2 = nn.ConvTranspose2d(32, 20, 2, 2)
        self.merge2 = block(40, 20)
        self.up1 = nn.ConvTranspose2d(20, 12, 2, 2)
        self.merge1 = block(24, 12)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        level1 = self.level1(image)
        level2 = self.level2(level1)
        level4 = self.level4(level2)
        x = self.level8(level4)
        x = self.merge4(torch.cat([self.up4(x), level4], 1))
        x = self.merge2(torch.cat([self.up2(x), level2], 1))
        x = self.merge1(torch.cat([self.up1(x), level1], 1))
        return self.head(x)


def model() -> nn.Module:
    return CoinSegmenter().eval()
