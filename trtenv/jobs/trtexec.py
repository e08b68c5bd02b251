"""Builds with the environment's own trtexec: the argv is the host's, the paths are the job's."""

import os
import shutil
import subprocess
import sys

from worker import JobError

# Where NVIDIA's images and JetPack put it; the first is on no PATH there.
PLACES = (
    "/usr/src/tensorrt/bin/trtexec",
    "/opt/tensorrt/bin/trtexec",
    "/usr/local/tensorrt/bin/trtexec",
    "/workspace/tensorrt/bin/trtexec",
)


def find():
    found = shutil.which("trtexec")
    for place in (found, *PLACES):
        if place and os.access(place, os.X_OK):
            return place
    raise JobError(
        "environment",
        "this environment has no trtexec: neither on PATH nor at " + ", ".join(PLACES),
        "use --builder api, or an ngc-tensorrt environment",
    )


def build(onnx, output, flags, io, verbose=False):
    """Runs it to its end; returns (argv, lines). JobError with its own [E] lines where it fails."""
    argv = [find(), "--onnx=" + onnx, "--saveEngine=" + output, *flags]
    if verbose and "--verbose" not in argv:
        argv.append("--verbose")
    io.log("running " + " ".join(argv))
    lines = []
    process = subprocess.Popen(
        argv,
        cwd=io.out,  # --exportLayerInfo writes there
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    with process.stdout:
        for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            lines.append(line)
            if verbose or "[V]" not in line:
                sys.stderr.write(line + "\n")
    code = process.wait()
    if code != 0 or not os.path.isfile(output):
        said = [line for line in lines if "[E]" in line][:5] or lines[-5:]
        raise JobError(
            "build",
            "trtexec made no engine (exit code %d): %s" % (code, "; ".join(said) or "no output"),
        )
    return argv, lines


def warnings(lines):
    return sorted({line.split("[W]", 1)[1].strip() for line in lines if "[W]" in line})
