"""Prepares YOLO models with the exporter of their own project. Python 3.6 to 3.13.

How a YOLO is made ready (fused, heads switched to export) changes from release to release, so that
is left to `ultralytics` and to YOLOv5's export.py. Both end in torch.onnx.export, where they are
stopped: axes, opset, comparison and file stay ours.
"""

import contextlib
import importlib
import os
import runpy
import shutil
import sys
import traceback

import checkpoints
import taskcards
from worker import JobError

YOLOV5_FOLDER = "/usr/src/app"  # of the ultralytics/yolov5 images
VARIABLES = {
    "YOLO_AUTOINSTALL": "false",  # ultralytics would call pip for what it misses
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # their checkpoints are pickled models
}


class Captured(Exception):
    """Stops a foreign exporter at the point where it would write its file."""


@contextlib.contextmanager
def captured_export(torch, work, what):
    """Yields a dict that is filled with what the body would have handed to torch.onnx.export."""
    box = {}

    def stop(model, *_, **options):
        box.update(options, model=model)
        raise Captured("stopped on purpose: trtenv writes the file itself")

    export, folder, argv = torch.onnx.export, os.getcwd(), sys.argv
    variables = {name: os.environ.get(name) for name in VARIABLES}
    torch.onnx.export = stop
    os.environ.update(VARIABLES)
    os.chdir(work)  # they write beside the weights or where they stand
    try:
        yield box
    except (JobError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not box:
            text = "".join(traceback.format_exception_only(type(error), error)).strip()
            raise JobError("exporter-failed", "%s could not prepare the model: %s" % (what, text))
    finally:
        torch.onnx.export, sys.argv = export, argv
        os.chdir(folder)
        for name, value in variables.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    if not box:
        raise JobError("exporter-failed", "%s ended before it exported the model" % what)


def image_size(shapes):
    """(batch, height, width, any dynamic) of the one image input."""
    sizes = next(iter(shapes.values())) if len(shapes) == 1 else None
    if sizes is None or len(sizes["opt"]) != 4:
        raise JobError(
            "no-shape",
            "a YOLO takes one input, a batch of images; shapes are given for %d inputs"
            % len(shapes)
            if sizes is None
            else "a YOLO takes images of four dimensions, not %d" % len(sizes["opt"]),
            "add --shapes images:1x3x640x640",
        )
    batch, _, height, width = sizes["opt"]
    return batch, height, width, sizes["min"] != sizes["max"]


def local_copy(spec, work, project):
    """The weights in a folder that may be written to; a bare name is the project's to find."""
    if spec.get("path"):
        return shutil.copy(spec["path"], work)
    if spec["name"].endswith(".pt"):
        raise JobError(
            "no-network",
            "`%s` does not exist here, and jobs do not download" % spec["name"],
            "download it, then give its path: %s:PATH/%s" % (project, spec["name"]),
        )
    return spec["name"]


def prepare_ultralytics(torch, spec, shapes, work, notes):
    """What torch.onnx.export was to get, Ultralytics' metadata as text, and the task card or None."""
    batch, height, width, dynamic = image_size(shapes)
    try:
        ultralytics = importlib.import_module("ultralytics")
    except Exception as error:
        raise JobError(
            "missing-module",
            "`import ultralytics` failed in this environment: %s" % error,
            "name it ultralytics:FILE, or choose an environment that has ultralytics",
        )
    exporters = []
    source = local_copy(spec, work, "ultralytics")
    with captured_export(torch, work, "ultralytics %s" % ultralytics.__version__) as box:
        model = ultralytics.YOLO(source)
        if spec.get("weights"):
            checkpoints.load_weights(torch, model.model, spec["weights"], notes)
        elif not source.endswith(".pt"):
            notes.append("`%s` has random weights: none were given" % spec["name"])
        model.add_callback("on_export_start", exporters.append)
        size = {"imgsz": [height, width], "batch": batch, "dynamic": dynamic}
        model.export(format="onnx", device="cpu", simplify=False, **size)
    metadata = dict(getattr(exporters[0], "metadata", None) or {}) if exporters else {}
    metadata.pop("date", None)  # the file depends on the model alone
    texts = {key: str(value) for key, value in metadata.items()}
    return box, texts, taskcards.of_ultralytics(metadata)


def repository_of(spec):
    return spec.get("repository") or YOLOV5_FOLDER


def prepare_yolov5(torch, spec, shapes, work, notes):
    """The same, by YOLOv5's own script."""
    script = os.path.join(repository_of(spec), "export.py")
    if not os.path.exists(script):
        raise JobError(
            "missing-module",
            "YOLOv5 models need YOLOv5's own code; there is no `%s` in this environment" % script,
            "choose an environment made from the image ultralytics/yolov5",
        )
    batch, height, width, dynamic = image_size(shapes)
    weights = local_copy(spec, work, "yolov5")
    with captured_export(torch, work, "`%s`" % script) as box:
        sys.argv = [script, "--weights", weights, "--include", "onnx", "--device", "cpu"]
        sys.argv += ["--imgsz", str(height), str(width), "--batch-size", str(batch)]
        sys.argv += ["--dynamic"] if dynamic else []
        runpy.run_path(script, run_name="__main__")
    names = getattr(box["model"], "names", None)
    stride = getattr(box["model"], "stride", None)
    found = {"names": names, "stride": None if stride is None else int(max(stride))}
    texts = {key: str(value) for key, value in found.items() if value is not None}
    return box, texts, taskcards.of_yolov5(box["model"], [height, width], found["stride"])
