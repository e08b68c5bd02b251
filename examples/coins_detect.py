"""Detector of coins in a grey photograph, one class, without anchors.

Input ``image``: Nx1xHxW float32, pixel values divided by 255 (0 to 1); H and W are multiples
of 8. No mean or standard deviation is subtracted or divided. Trained on coins of 30 to 85 pixels.
Output ``predictions``: Nx5xA with A = H/8 * W/8 candidates, the layout of YOLOv8. The rows are
centre x, centre y, width and height in pixels of the input, and the probability of a coin (0 to
1). Neighbouring candidates describe the same coin: keep those of at least 0.5 and apply
non-maximum suppression.
"""

import torch
from torch import nn

INPUT_NAMES = ("image",)
OUTPUT_NAMES = ("predictions",)
SHAPES = "image:1x1x128x128"
TASK = "detection"
LABELS = ("coin",)
LAYOUT = "yolov8"
PREPROCESS = {"resize": "letterbox", "colour": "grey", "scale": 1 / 255, "multiple": 8}

STRIDE = 8


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x * torch.sigmoid(x)  # nn.SiLU is missing before torch 1.7


class Residual(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = Block(channels, channels, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)


class CoinDetector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            Block(1, 16, stride=2), Block(16, 24, stride=2), Block(24, 40, stride=2)
        )
        self.context = nn.Sequential(*[Residual(40, dilation) for dilation in (1, 2, 2, 1)])
        self.head = nn.Conv2d(40, 5, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raw = self.head(self.context(self.backbone(image)))
        # Integer ranges, because TensorRT 7 makes no floating-point range of a dynamic length.
        column = torch.arange(raw.shape[3], dtype=torch.int64, device=raw.device).to(raw.dtype)
        row = torch.arange(raw.shape[2], dtype=torch.int64, device=raw.device).to(raw.dtype)
        x = (raw[:, 0:1] + column + 0.5) * STRIDE
        y = (raw[:, 1:2] + row.unsqueeze(1) + 0.5) * STRIDE
        size = torch.exp(raw[:, 2:4]) * STRIDE
        coin = torch.sigmoid(raw[:, 4:5])
        boxes = torch.cat([x, y, size, coin], 1)
        return boxes.reshape(boxes.shape[0], 5, -1)  # torch 1.5 exports flatten(2) as constants


def model() -> nn.Module:
    return CoinDetector().eval()
