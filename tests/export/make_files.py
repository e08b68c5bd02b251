# Written as users write, for torch 1.4 and Python 3.6.
# ruff: noqa: ANN001, ANN201, ANN202
"""Writes weights and models in every form that torch writes; run by the interpreter under test.

python make_files.py FOLDER
"""

import json
import struct
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE / "models"), str(HERE / "yolov5"), str(HERE / "fake")]

import net
from models.yolo import DetectionModel
from ultralytics import Head


def save_safetensors(tensors, path):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().numpy().tobytes()
        dtype = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def save_weights(folder, state):
    def prefixed(prefix):
        return {prefix + key: value for key, value in state.items()}

    files = {
        "plain.pt": state,
        "parallel.pt": prefixed("module."),
        "compiled.pt": {"state_dict": prefixed("_orig_mod.module."), "epoch": 3},
        "lightning.pt": {"state_dict": prefixed("net."), "lr": 0.1},
        "wrapped.pth": {"model": state},
        "old.pt": {key: value for key, value in state.items() if "num_batches" not in key},
        "missing.pt": {key: value for key, value in state.items() if "head" not in key},
        "unknown.pt": dict(state, spare=torch.zeros(1)),
        "size.pt": dict(state, **{"head.weight": torch.zeros(9, 4)}),
        "list.pt": [1, 2],
    }
    for name, content in files.items():
        torch.save(content, str(folder / name))
    save_safetensors(state, folder / "plain.safetensors")


def main(folder):
    torch.manual_seed(1)
    model = net.model().eval()
    save_weights(folder, model.state_dict())
    torch.save(model, str(folder / "whole.pt"))
    torch.save({"model": DetectionModel().half(), "epoch": -1}, str(folder / "yolov5.pt"))
    torch.save(Head(), str(folder / "ultra.pt"))
    traced = torch.jit.trace(model, torch.rand(2, 3, 8, 8))
    traced.save(str(folder / "traced.pt"))
    torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU())).save(str(folder / "scripted.ts"))
    if hasattr(getattr(torch, "export", None), "Dim"):
        dims = {"x": {0: torch.export.Dim("batch", min=1, max=16)}}
        program = torch.export.export(model, (torch.rand(2, 3, 8, 8),), dynamic_shapes=dims)
        torch.export.save(program, str(folder / "program.pt2"))
    sys.stdout.write(torch.__version__)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
