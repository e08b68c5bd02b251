"""Measures what an infer job makes of a machine: images/s of a folder of JPEGs, beside the two limits.

    python benchmarks/infer_stream.py MODEL.onnx|MODEL.engine [--images 2000] [--size 500x375] [--batch N]

The limits are decoding and resizing with Pillow alone, on all cores, and the runner alone, on arrays. The
last line is the job's rate as a part of the lower one. Runs on Python 3.6 too: inside an environment it
takes the interpreter there, with the repository mounted.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "trtenv" / "jobs"))

import numpy as np
from PIL import Image
from runtime import infer, runners
from vision import tasks

SECONDS = 3.0
# What the bare resize does too.
STRETCHED = '{"kind": "classification", "preprocess": {"resize": "stretch"}}'
DIFFERENT = 32  # pictures; the others are copies, so that making them does not take minutes


class JobIO:
    def __init__(self, out: str) -> None:
        self.out = out

    def path(self, name: str) -> str:
        return os.path.join(self.out, name)  # noqa: PTH118

    def log(self, text: str) -> None:
        print(text)

    def progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        pass


def make_images(folder: Path, count: int, width: int, height: int) -> list:
    """Like photographs in their cost: smooth, with grain; about 1.3 bits a pixel."""
    random = np.random.RandomState(0)
    paths = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < DIFFERENT:
            small = Image.fromarray(random.randint(0, 255, (12, 16, 3)).astype(np.uint8))
            pixels = np.asarray(small.resize((width, height), Image.BICUBIC), np.int16)
            grain = random.randint(-12, 13, pixels.shape)
            Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path, quality=85)
        else:
            shutil.copyfile(str(folder / f"{number % DIFFERENT:06d}.jpg"), str(path))
        paths.append(str(path))
    return paths


def decode(arguments: tuple) -> None:
    path, height, width = arguments
    with Image.open(path) as image:
        np.asarray(image.convert("RGB").resize((width, height), Image.BILINEAR))


def decode_rate(paths: list, size: tuple, threads: int) -> float:
    """Processes: Python's lock does not slow them."""
    work = [(path, *size) for path in paths]
    with Pool(threads) as pool:
        pool.map(decode, work[: 4 * threads])
        started = time.perf_counter()
        pool.map(decode, work, chunksize=8)
        return len(work) / (time.perf_counter() - started)


def runner_rate(runner: Any, name: str, shape: tuple) -> float:
    """Copies and compute, with as many batches in flight as the runner has slots."""
    done, started, flying = 0, time.perf_counter(), []
    while time.perf_counter() - started < SECONDS:
        if len(flying) == runner.slots:
            slot = flying.pop(0)
            runner.collect(slot)
            runner.release(slot)
            done += shape[0]
        slot = runner.acquire({name: shape})
        runner.submit(slot)
        flying.append(slot)
    for slot in flying:
        runner.collect(slot)
        runner.release(slot)
    return done / (time.perf_counter() - started)


def job_rate(params: dict, repeat: int) -> dict:
    best: dict = {}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as out:
            values = infer.run(params, JobIO(out))
        if not best or values["images_per_second"] > best["images_per_second"]:
            best = values
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", default="500x375", help="of the JPEGs, width first")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--task", default=STRETCHED, help="the task card")
    parser.add_argument("--save", default="json")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    card = json.loads(options.task)
    threads = options.threads or len(os.sched_getaffinity(0))
    engine = not options.model.endswith(".onnx")
    asked = {"runtime": "engine" if engine else "onnxruntime", "path": options.model}
    if engine:
        asked.update(flavour="tensorrt", offset=0, length=None, profile=None, memory="auto")
        asked.update(cuda_graph=False, device=0, plugins=[])
    with tempfile.TemporaryDirectory() as folder:
        width, height = (int(size) for size in options.size.split("x"))
        paths = make_images(Path(folder), options.images, width, height)
        runner = runners.open_runner(asked, JobIO(folder), slots=2)
        tensor = infer.image_input(runner.inputs)
        batch = infer.batch_of(tensor, options.batch)[0]
        task = tasks.make_task(card, tensor, [entry.name for entry in runner.outputs])
        frame = task.frame(np.zeros((1, 1, 3), np.uint8))
        limits = {"runner": runner_rate(runner, tensor.name, task.shape(batch, frame))}
        runner.close()
        limits["decode"] = decode_rate(paths, frame, threads)
        files = [{"name": Path(path).name, "path": path, "input": None} for path in paths]
        values = job_rate(
            {
                "runner": asked,
                "task": card,
                "options": {},
                "sources": {"kind": "images", "files": files},
                "batch": options.batch,
                "threads": threads,
                "save": options.save.split(","),
            },
            options.repeat,
        )
    print(f"{threads} threads, batch {batch}, input {frame[0]}x{frame[1]}, {len(files)} images")
    for name, rate in sorted(limits.items()):
        print(f"{name} alone: {rate:.0f} images/s")
    print(f"job: {values['images_per_second']:.0f} images/s; waited {values['stages']}")
    print(f"ratio: {values['images_per_second'] / min(limits.values()):.2f}")


if __name__ == "__main__":
    main()
