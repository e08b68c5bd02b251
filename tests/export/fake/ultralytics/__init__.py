# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: A002, ANN001, ANN002, ANN003, ANN201, ANN204
"""A stand-in for ultralytics: the calls that the job makes, and nothing else."""

import torch
from torch import nn

__version__ = "0.0-fake"


class Exporter:
    def __init__(self, task):
        self.metadata = {"date": "today", "task": task, "names": {0: "coin"}, "stride": 32}


class Head(nn.Module):
    export = False

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x, *args, **kwargs):
        y = self.conv(x)
        y = y.view(y.shape[0], 5, -1)  # torch 1.4 freezes flatten()
        return y if self.export else (y, {"raw": y})


class YOLO:
    def __init__(self, source):
        self.source, self.callbacks = source, []
        self.model = torch.load(source) if source.endswith(".pt") else Head()

    def add_callback(self, event, function):
        assert event == "on_export_start"
        self.callbacks.append(function)

    def export(self, format, imgsz, batch, dynamic, simplify, device):
        assert (format, simplify, device) == ("onnx", False, "cpu")
        if self.source.endswith("raises.yaml"):
            raise KeyError("no such architecture")
        self.model.export = True
        for function in self.callbacks:
            function(Exporter("detect"))
        image = torch.zeros(batch, 3, *imgsz)
        names = {"input_names": ["images"], "output_names": ["output0"]}
        torch.onnx.export(self.model.eval(), image, "yolo.onnx", **names)
