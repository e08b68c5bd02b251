"""What the tests on a GPU share: builds by the command line, runs of engines, data, and records.

docs/gpu.md tells the variables.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from digits_onnx import write_digits

ROOT = Path(__file__).parents[2]
RUN_ENGINE = Path(__file__).parent / "run_engine.py"
ENVIRONMENTS = [name for name in os.environ.get("TRTENV_GPU_ENVIRONMENTS", "").split(",") if name]
OPTIONS = shlex.split(os.environ.get("TRTENV_GPU_OPTIONS", ""))
KEEP = os.environ.get("TRTENV_GPU_KEEP")
# Made elsewhere: models as EXAMPLE.onnx; engines as ENVIRONMENT-EXAMPLE-PRECISION.engine with stamps.
EXPORTED = os.environ.get("TRTENV_GPU_ONNX")
ENGINES = os.environ.get("TRTENV_GPU_ENGINES")
TRAINING = 1198  # of scikit-learn's 1797 digits, as examples/train_digits.py has it
HELD_OUT = 599

SHAPES = {
    "digits": "image:1x1x32x32..16x1x32x32..599x1x32x32",
    "coins_detect": "image:1x1x128x128..4x1x128x128..66x1x128x128",
    "coins_segment": "image:1x1x128x128..4x1x128x128..66x1x128x128",
    "resnet18": "image:1x3x224x224..8x3x224x224..32x3x224x224",
}
# FP16 is forced: for models this small, TF32 is often no slower, and the builder's choice.
PRECISIONS = {
    "fp32": ("--precision", "fp32"),
    "tf32": (),
    "fp16": (
        *("--precision", "fp16", "--layer-precisions", "*:fp16"),
        *("--precision-constraints", "obey"),
    ),
    "int8": ("--precision", "int8", "--quantization", "qdq", "--calibration", "data.npz"),
}

environments = pytest.mark.parametrize("environment", ENVIRONMENTS or ["none named"])


class Built(NamedTuple):
    """stamp: empty where the build failed; layers: the engine inspector's text, if it was asked for."""

    code: int
    said: str
    engine: Path
    stamp: dict[str, Any]

    @property
    def layers(self) -> Path:
        return self.engine.with_suffix(".layers.json")


def trtenv(*argv: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    assert ENVIRONMENTS, "name environments in TRTENV_GPU_ENVIRONMENTS"
    command = [sys.executable, "-m", "trtenv", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def build_command(environment: str, model: Path, engine: Path, *options: str) -> list[str]:
    """Arguments for `trtenv`."""
    return [
        "build", str(model), "--env", environment, "--runner", "venv", "--force",
        "-o", str(engine), *OPTIONS, *options,
    ]  # fmt: skip


def build(environment: str, model: Path, name: str, *options: str) -> Built:
    """Beside the model; what came out is kept as ENVIRONMENT-NAME."""
    engine = model.parent / f"{name}.engine"
    done = trtenv(*build_command(environment, model, engine, *options), cwd=model.parent)
    stamp = engine.with_name(engine.name + ".json")
    document = json.loads(stamp.read_text()) if done.returncode == 0 else {}
    built = Built(done.returncode, done.stdout + done.stderr, engine, document)
    keep(built, f"{environment}-{name}")
    return built


def build_once(environment: str, model: Path, name: str, *options: str) -> Built:
    """As build(); an engine that was made of this very model under this name is taken as it is."""
    made = Path(ENGINES or "none", f"{environment}-{name}.engine")
    stamp = made.with_name(made.name + ".json")
    document = json.loads(stamp.read_text()) if made.is_file() and stamp.is_file() else None
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    if document is None or document["source"]["onnx"]["sha256"] != sha256:
        return build(environment, model, name, *options)
    engine = model.parent / f"{name}.engine"
    for source, suffix in ((made, ""), (stamp, ".json")):
        shutil.copy(source, engine.with_name(engine.name + suffix))
    return Built(0, "", engine, document)


def example_engine(environment: str, example: str, precision: str, folder: Path) -> Path:
    """The engine with its stamp, and the ONNX file beside it: as they were made, or built now."""
    if EXPORTED is None or not Path(EXPORTED, f"{example}.onnx").is_file():
        pytest.skip(f"no {example}.onnx in the folder TRTENV_GPU_ONNX")
    model = Path(shutil.copy(Path(EXPORTED, f"{example}.onnx"), folder))
    options = ("--shapes", SHAPES[example], *PRECISIONS[precision])
    built = build_once(environment, model, f"{example}-{precision}", *options)
    assert built.code == 0, built.said
    return built.engine


def keep(built: Built, name: str) -> None:
    if KEEP is None:
        return
    Path(KEEP).mkdir(parents=True, exist_ok=True)
    for path in built.engine.parent.glob(f"{built.engine.stem}.*"):
        if path.suffix != ".onnx":
            shutil.copy(path, Path(KEEP) / path.name.replace(built.engine.stem, name, 1))
    Path(KEEP, f"{name}.said").write_text(f"exit code {built.code}\n{built.said}")


def record(**values: Any) -> None:
    line = json.dumps(values)
    print(line)
    if KEEP is not None:
        Path(KEEP).mkdir(parents=True, exist_ok=True)
        with Path(KEEP, "results.jsonl").open("a") as handle:
            handle.write(line + "\n")


def run(
    environment: str, engine: Path, inputs: dict[str, np.ndarray], profile: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Outputs by name, and what run_engine.py says of the engine."""
    folder = engine.parent
    np.savez(folder / "in.npz", **inputs)
    done = trtenv(
        "exec", "--env", environment, "--runner", "venv", "--", "python", str(RUN_ENGINE),
        str(engine), "in.npz", "out.npz", str(profile), cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(folder / "out.npz") as outputs:
        return dict(outputs), json.loads(done.stdout.splitlines()[-1])


def reference(model: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over norm of the reference."""
    difference = found.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def digits_data() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits as the example takes them, 1797x1x32x32, and their labels."""
    datasets = pytest.importorskip("sklearn.datasets")
    from PIL import Image

    found = datasets.load_digits()
    large = [
        np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC))
        for small in np.round(found.images * (255 / 16)).astype(np.uint8)
    ]
    return np.stack(large)[:, None].astype(np.float32) / 255, found.target


def held_out_pictures(folder: Path) -> list[int]:
    """As files, one for each of the held-out digits; returns their labels."""
    from PIL import Image

    images, labels = digits_data()
    folder.mkdir()
    for number, image in enumerate(images[TRAINING:]):
        pixels = np.round(image[0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return [int(label) for label in labels[TRAINING:]]


def digits_model(path: Path, batch: int | None = HELD_OUT) -> Path:
    """Static: the inspector tells the types of tensors only where no shape is dynamic."""
    model = onnx.load(write_digits(path))
    if batch is not None:
        for tensor in (*model.graph.input, *model.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, path)
    return path


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())
