"""What trtenv costs beside NVIDIA's own Polygraphy, measured side by side in one run.

    .venv/bin/python benchmarks/overhead.py [--repeat 7] [--docker-env rtx-1.7]

Makes a folder with Polygraphy and TensorRT-RTX 1.7.1.116 once (in the cache), converts the same ONNX
with both, takes turns so that a busy machine slows both alike, and prints medians in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trtenv.paths import cache_folder

ROOT = Path(__file__).parent.parent
SHAPES = {"min": "1", "opt": "8", "max": "16"}
SIZE = "1x32x32"
Timed = Callable[[], None]


def polygraphy_environment() -> Path:
    """Its own virtual environment: Polygraphy is measured as its users have it."""
    folder = cache_folder() / "benchmarks" / "polygraphy"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        wanted = ["polygraphy==0.53.6", "tensorrt-rtx-cu12==1.7.1.116", "numpy", "onnx"]
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *wanted]
        subprocess.run(pip, check=True)
        (folder / "complete").touch()
    return folder / "bin" / "polygraphy"


def run(*argv: str, **variables: str) -> None:
    environment = {**os.environ, **variables}
    # pip compiles what it installs; an editable trtenv needs the right to do so itself.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")


def medians(timed: dict[str, Timed], repeat: int) -> dict[str, float]:
    """Each once to warm the disk cache, then all in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeat + 1):
        for name, action in timed.items():
            started = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def start_up(trtenv: str, polygraphy: str) -> dict[str, Timed]:
    return {
        "polygraphy --help": lambda: run(polygraphy, "--help"),
        "trtenv --version": lambda: run(trtenv, "--version"),
        "trtenv env list": lambda: run(trtenv, "env", "list"),
    }


def builds(trtenv: str, polygraphy: str, folder: Path, docker_env: str | None) -> dict[str, Timed]:
    onnx = str(folder / "digits.onnx")
    shapes = "..".join(f"{batch}x{SIZE}" for batch in SHAPES.values())
    ours = [trtenv, "build", onnx, "--shapes", f"image:{shapes}", "--sm", "8.6", "--force"]
    theirs = [polygraphy, "convert", onnx, "--convert-to", "trt", "-o", str(folder / "p.engine")]
    for word, batch in SHAPES.items():
        dims = ",".join([batch, *SIZE.split("x")])
        theirs += [f"--trt-{word}-shapes", f"image:[{dims}]"]
    theirs += ["--compute-capabilities", "8.6"]

    def build(*options: str) -> Timed:
        return lambda: run(*ours, "-o", str(folder), *options)

    timed: dict[str, Timed] = {
        "polygraphy convert": lambda: run(*theirs, POLYGRAPHY_USE_TENSORRT_RTX="1"),
        "trtenv build, venv": build("--runner", "venv", "--env", "rtx-1.7"),
    }
    if docker_env:
        timed["trtenv build, docker"] = build("--runner", "docker", "--env", docker_env)
    return timed


def large_model(folder: Path) -> Path:
    """A 50 MB model: what an unchanged re-run has to hash."""
    model = folder / "large.py"
    model.write_text(
        "import torch\n\n\ndef model():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3600, 3600)).eval()\n",
        encoding="utf-8",
    )
    return model


def repeats(trtenv: str, folder: Path) -> dict[str, Timed]:
    model = f"{large_model(folder)}:model"
    argv = [
        trtenv, "convert", model, "--shapes", "input:1x3600", "-o", str(folder), "--runner", "venv",
        "--env", "rtx-1.7",
    ]  # fmt: skip
    run(*argv)
    return {"trtenv convert, unchanged, 52 MB": lambda: run(*argv)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--docker-env", help="environment for the Docker measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    trtenv = str(Path(sys.executable).with_name("trtenv"))
    polygraphy = str(polygraphy_environment())
    folder = Path(tempfile.mkdtemp(prefix="trtenv-overhead-"))
    os.chdir(folder)  # trtenv.lock belongs here
    try:
        run(
            trtenv, "export", f"{ROOT / 'examples' / 'digits.py'}:model", "--weights",
            str(ROOT / "examples" / "digits.safetensors"), "--shapes", f"image:1x{SIZE}..16x{SIZE}",
            "-o", str(folder / "digits.onnx"), "--runner", "venv", "--export-env", "rtx-1.7",
        )  # fmt: skip
        found = medians(start_up(trtenv, polygraphy), options.repeat)
        found |= medians(builds(trtenv, polygraphy, folder, options.docker_env), options.repeat)
        found |= medians(repeats(trtenv, folder), options.repeat)
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"medians of {options.repeat}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    for name, seconds in found.items():
        base = "polygraphy --help" if "convert" not in name and "build" not in name else None
        base = "polygraphy convert" if "build" in name else base
        ratio = f"{seconds / found[base]:5.2f} x {base}" if base and base != name else ""
        print(f"{name:<34} {seconds:6.3f} s  {ratio}".rstrip())


if __name__ == "__main__":
    main()
