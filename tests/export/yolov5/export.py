# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN001, ANN201, BLE001
"""A stand-in for YOLOv5's export.py: its arguments, and its habit of swallowing exceptions."""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from models.yolo import Detect


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", nargs="+")
    parser.add_argument("--imgsz", nargs="+", type=int, default=[640, 640])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--include", nargs="+", default=["torchscript"])
    return parser.parse_args()


def main(options):
    assert options.include == ["onnx"]
    weights = Path(options.weights[0])
    checkpoint = torch.load(str(weights), map_location=options.device)
    model = checkpoint["model"].float().eval()
    for module in model.modules():
        if isinstance(module, Detect):
            module.export = True
            module.dynamic = options.dynamic
    image = torch.zeros(options.batch_size, 3, *options.imgsz)
    (weights.parent / "touched").write_text("the folder must be writable")
    names = {"input_names": ["images"], "output_names": ["output0"]}
    try:
        torch.onnx.export(model, image, str(weights.with_suffix(".onnx")), **names)
    except Exception as error:
        print("export failure:", error)


if __name__ == "__main__":
    main(parse())
