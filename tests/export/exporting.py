"""How the tests hand jobs to a worker process and read what came of them."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS = HERE / "models"
WORKER = HERE.parent.parent / "trtenv" / "jobs" / "worker.py"
IMAGE = {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}
FIXED = {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [1, 3, 8, 8]}


@dataclass
class Export:
    """One finished job: what the script returned or its error, its output folder, its log lines."""

    out: Path
    values: dict[str, Any]
    error: dict[str, Any]
    logs: list[str]
    phases: list[str]

    @property
    def file(self) -> Path:
        return self.out / self.values["onnx"]


@dataclass
class Worker:
    """A worker process that runs one export after another, as a session of the host does."""

    process: "subprocess.Popen[str]"
    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    def export(self, *args: Any, **params: Any) -> Export:
        done = self.run(*args, **params)
        assert not done.error, done.error
        return done

    def run(self, model: Path | dict[str, Any], factory: str = "model", **params: Any) -> Export:
        if isinstance(model, Path):
            kind = "python" if model.suffix == ".py" else "pickle"
            weights = params.pop("weights", None)
            model = {
                "kind": kind,
                "path": str(model),
                "factory": factory,
                "factory_args": params.pop("factory_args", {}),
                "weights": str(weights) if weights else None,
            }
        number = next(self.numbers)
        job, out = self.folder / f"{number}-export", self.folder / f"{number}-out"
        job.mkdir()
        out.mkdir()
        defaults = {"shapes": {}, "max_opset": 17, "simplify": False, "output": "model.onnx"}
        document = {"kind": "export", "params": {**defaults, "model": model, **params}}
        (job / "job.json").write_text(json.dumps(document))
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"folder": str(job), "out": str(out)}) + "\n")
        self.process.stdin.flush()
        logs, phases = [], []
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "log":
                logs.append(event["text"])
            elif event["event"] == "progress":
                phases.append(event["phase"])
            elif event["event"] == "result":
                break
        result = json.loads((out / "result.json").read_text())
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
        return Export(out, result["values"], result["error"] or {}, logs, phases)

    def error(self, *args: Any, **params: Any) -> dict[str, Any]:
        done = self.run(*args, **params)
        assert done.error, "the job succeeded"
        assert [path.name for path in done.out.iterdir()] == ["result.json"]
        return done.error
