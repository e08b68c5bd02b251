"""Opens the job's runner of PyTorch models in the interpreter under test, and runs it once.

argv: folder of the jobs, a JSON file with the runner's parameters, an .npz with the inputs, a folder.
Prints the tensors; the outputs are in out.npz. A JobError is printed in their place.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import numpy as np
from runtime import runners
from worker import JobError


class JobIO:
    name, out = "infer", sys.argv[4]

    def log(self, text: str) -> None:
        sys.stderr.write(text + "\n")

    def progress(self, *_: object) -> None:
        pass


params = json.loads(Path(sys.argv[2]).read_text())
try:
    runner = runners.open_runner(params, JobIO())
    with np.load(sys.argv[3]) as feed:
        found = runner.run(dict(feed))
    np.savez(sys.argv[4] + "/out.npz", **found)
    told = {
        "inputs": [[t.name, t.dtype, t.shape] for t in runner.inputs],
        "outputs": [[t.name, t.dtype, t.shape] for t in runner.outputs],
        "runtime": runner.describe()["runtime"],
    }
    runner.close()
except JobError as error:
    told = {"error": error.message}
print(json.dumps(told))
