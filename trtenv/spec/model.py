"""MODEL as users write it: what kind of thing it names, decided from the text alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtenv.errors import UsageError

PREFIXES = ("torchvision", "ultralytics", "yolov5")
BY_SUFFIX = {
    ".onnx": "onnx",
    ".pt2": "exported",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
    ".pt": "pickle",  # TorchScript or a pickle: the job looks inside, the host never does
    ".pth": "pickle",
}


@dataclass(frozen=True, slots=True)
class ModelRef:
    """`name` is a factory in a file, a torchvision name, or empty; `path` a file of the host."""

    text: str
    kind: str
    path: Path | None
    name: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The packages that an environment must hold to load it."""
        return ("torch", self.kind) if self.kind in PREFIXES else ("torch",)

    @property
    def stem(self) -> str:
        """What outputs are called when no -o says otherwise."""
        if self.kind == "python" and self.path is not None:
            # Two factories of one file are two models.
            return self.path.stem + ("" if self.name == "model" else f"-{self.name}")
        return Path(self.path or self.name).stem


def parse_model(text: str) -> ModelRef:
    """UsageError for what is neither a known prefix nor an existing file of a known kind."""
    prefix, _, rest = text.partition(":")
    if prefix in PREFIXES and rest:
        local = Path(rest)
        exists = prefix != "torchvision" and local.is_file()
        return ModelRef(text, prefix, local if exists else None, rest)
    file, _, factory = text.rpartition(":")
    if file.endswith(".py") and factory:
        return ModelRef(text, "python", existing(Path(file)), factory)
    path = Path(text)
    if path.suffix in (".py", ".py:"):
        hint = f"name the function that makes the model: {text.rstrip(':')}:model"
        raise UsageError(f"`{text}` names no factory", hint=hint)
    kind = BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(sorted(BY_SUFFIX))
        raise UsageError(
            f"`{text}` is no model: known are FILE.py:FACTORY, torchvision:NAME, ultralytics:FILE, "
            f"yolov5:FILE and files ending in {known}"
        )
    return ModelRef(text, kind, existing(path), "")


def existing(path: Path) -> Path:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f"model file `{path}` {what}", hint=f"files are looked up from {Path.cwd()}"
        )
    return path
