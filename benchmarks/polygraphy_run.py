"""Times one engine three ways, by turns: `trtenv bench`, `polygraphy run`, and a bare loop of enqueues.

    python benchmarks/polygraphy_run.py model.engine --env tensorrt-8.6.0 --shapes image:8x3x224x224 \\
        --polygraphy FOLDER [--rounds 3] [--iterations 500]

--polygraphy is a folder with Polygraphy unpacked (pip install --no-deps --target FOLDER
polygraphy==0.48.1 works with TensorRT 8.5 to 9); without it that way is left out. Prints one JSON
document: each round, the medians over rounds, and ratios. Polygraphy's mean inference time has its copies
in it, and is held against the mean latency; the bare loop's GPU time against the median of GPU times.

Inside the environment (Python 3.8 or newer) this same file is run with `polygraphy` or `bare` as its first
argument; the bare loop is told the engine and {input: shape} as JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUN_ENGINE = Path(__file__).resolve().parent.parent / "tests" / "gpu" / "run_engine.py"
SEQUENTIAL = "--sequential-runners"
SPOKEN = re.compile(r"Completed (\d+) iteration.*Average inference time: ([0-9.e+-]+) ms")


def polygraphy(folder: str, argv: list[str]) -> None:
    """Runs Polygraphy's command line from a folder that need not be on Python's path."""
    # TensorRT 8 links more of cuBLAS and cuDNN than running an engine needs.
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
    found = [str(path) for entry in sys.path for path in Path(entry).glob("nvidia/*/lib")]
    os.environ["LD_LIBRARY_PATH"] = ":".join([os.environ.get("LD_LIBRARY_PATH", ""), *found])
    sys.path.insert(0, folder)
    sys.argv = ["polygraphy", *argv]
    from polygraphy.tools import main

    sys.exit(main())


def bare(engine_path: Path, shapes: dict[str, list[int]], iterations: int) -> dict[str, float]:
    """Enqueues alone with inputs resident, by the CUDA runtime and nothing of trtenv; returns a dict.

    gpu_ms: the median between two events around each, all of them queued before the first is waited for.
    back_to_back_ms: the mean between two events around all of them. host_ms: the mean of the host's clock.
    """
    import numpy as np

    helpers = runpy.run_path(str(RUN_ENGINE))
    trt, cuda = helpers["trt"], helpers["Cuda"]()
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(engine_path.read_bytes())
    context = engine.create_execution_context()
    stream = ctypes.c_void_p()
    cuda("cudaStreamCreate", ctypes.byref(stream))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    random = np.random.RandomState(0)
    for name in names:
        if name in shapes:
            context.set_input_shape(name, tuple(shapes[name]))
    for name in names:
        dtype = helpers["numpy_type"](engine.get_tensor_dtype(name))
        array = np.empty(tuple(context.get_tensor_shape(name)), dtype)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            array[...] = random.uniform(-1, 1, array.shape)
        pointer = helpers["allocate"](cuda, array.nbytes)
        size = ctypes.c_size_t(array.nbytes)
        cuda("cudaMemcpy", pointer, ctypes.c_void_p(array.ctypes.data), size, 1)
        context.set_tensor_address(name, pointer.value)

    def event() -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        cuda("cudaEventCreate", ctypes.byref(made))
        return made

    def between(start: ctypes.c_void_p, end: ctypes.c_void_p) -> float:
        found = ctypes.c_float()
        cuda("cudaEventElapsedTime", ctypes.byref(found), start, end)
        return found.value

    warm = time.time() + 0.5
    while time.time() < warm:
        assert context.execute_async_v3(stream.value)
        cuda("cudaStreamSynchronize", stream)
    pairs = [(event(), event()) for _ in range(iterations)]
    for start, end in pairs:
        cuda("cudaEventRecord", start, stream)
        context.execute_async_v3(stream.value)
        cuda("cudaEventRecord", end, stream)
    cuda("cudaStreamSynchronize", stream)
    single = [between(start, end) for start, end in pairs]
    began = time.perf_counter()
    cuda("cudaEventRecord", pairs[0][0], stream)
    for _ in range(iterations):
        context.execute_async_v3(stream.value)
    cuda("cudaEventRecord", pairs[0][1], stream)
    cuda("cudaStreamSynchronize", stream)
    host = (time.perf_counter() - began) * 1e3
    return {
        "gpu_ms": statistics.median(single),
        "back_to_back_ms": between(*pairs[0]) / iterations,
        "host_ms": host / iterations,
    }


def run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")
    return done.stdout


def measured_by_trtenv(asked: argparse.Namespace) -> dict[str, Any]:
    argv = [sys.executable, "-m", "trtenv", "bench", asked.engine, *asked.where, "--json"]
    argv += ["--shapes", asked.shapes, "--iterations", str(asked.iterations)]
    document = json.loads(run([*argv, "--duration", str(asked.duration)]))
    (entry,) = document["engines"]
    (row,) = entry["rows"]
    return {
        "gpu_ms": row["gpu_ms"]["median"],
        "latency_ms": row["latency_ms"]["mean"],
        "latency_median_ms": row["latency_ms"]["median"],
        "enqueue_ms": row["enqueue_ms"]["median"],
        "notes": entry["notes"],
    }


def inside(asked: argparse.Namespace, *argv: str) -> str:
    own = [sys.executable, "-m", "trtenv", "exec", *asked.where, "--", "python"]
    return run([*own, str(Path(__file__).resolve()), *argv])


def measured_by_polygraphy(
    asked: argparse.Namespace, shapes: dict[str, list[int]]
) -> dict[str, Any]:
    told = [f"{name}:[{','.join(map(str, dims))}]" for name, dims in shapes.items()]
    argv = ["run", asked.engine, "--trt", "--model-type", "engine", "--input-shapes", *told]
    argv += ["--warm-up", "100", "--iterations", str(asked.iterations)]
    # Newer ones warm up only with an option that older ones do not know.
    known = asked.polygraphy / "polygraphy" / "tools" / "args" / "comparator" / "comparator.py"
    if SEQUENTIAL in known.read_text():
        argv.append(SEQUENTIAL)
    text = inside(asked, "polygraphy", str(asked.polygraphy.resolve()), *argv)
    found = SPOKEN.search(text)
    if found is None:
        sys.exit("Polygraphy tells no time:\n" + text)
    return {"iterations": int(found.group(1)), "inference_ms": float(found.group(2))}


def measured_bare(asked: argparse.Namespace, shapes: dict[str, list[int]]) -> dict[str, Any]:
    text = inside(asked, "bare", asked.engine, json.dumps(shapes), str(asked.iterations))
    return dict(json.loads(text.splitlines()[-1]))


def medians(rounds: list[dict[str, Any]]) -> dict[str, float]:
    numbers = [key for key, value in rounds[0].items() if isinstance(value, float)]
    return {key: statistics.median(entry[key] for entry in rounds) for key in numbers}


def parse_shapes(text: str) -> dict[str, list[int]]:
    pairs = (part.rpartition(":") for part in text.split(","))
    return {name: [int(size) for size in dims.split("x")] for name, _, dims in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine")
    parser.add_argument("--env", required=True)
    parser.add_argument("--runner", default="venv")
    parser.add_argument("--shapes", required=True, help="image:8x3x224x224, of each input")
    parser.add_argument("--polygraphy", type=Path, help="a folder with Polygraphy unpacked")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--duration", type=float, default=1, help="of trtenv's measures, seconds")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    asked.engine = str(Path(asked.engine).resolve())
    asked.where = ["--env", asked.env, "--runner", asked.runner]
    shapes = parse_shapes(asked.shapes)
    rounds: dict[str, list[dict[str, Any]]] = {"trtenv": [], "polygraphy": [], "bare": []}
    for _ in range(asked.rounds):
        rounds["trtenv"].append(measured_by_trtenv(asked))
        if asked.polygraphy:
            rounds["polygraphy"].append(measured_by_polygraphy(asked, shapes))
        rounds["bare"].append(measured_bare(asked, shapes))
    found = {name: medians(entries) for name, entries in rounds.items() if entries}
    ours = found["trtenv"]
    ratios = {"gpu_to_bare": ours["gpu_ms"] / found["bare"]["gpu_ms"]}
    if asked.polygraphy:
        other = found["polygraphy"]["inference_ms"]
        ratios["latency_to_polygraphy"] = ours["latency_ms"] / other
    document = {"shapes": shapes, "rounds": rounds, "medians": found, "ratios": ratios}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["polygraphy"]:
        polygraphy(sys.argv[2], sys.argv[3:])
    elif sys.argv[1:2] == ["bare"]:
        print(json.dumps(bare(Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
