"""Names the files that people take for engines, so that the answer is not "unknown file"."""

from __future__ import annotations

from typing import Final

from trtenv.engine.header import MOST_METADATA
from trtenv.engine.protobuf import Source
from trtenv.errors import ArtifactError

_EXPORT: Final = "export the model to ONNX and build an engine from that"
_AGAIN: Final = "download it again and look at what the server sent"
_UNPACK: Final = "unpack it first"

# First bytes, what the file is, what to do.
_STARTS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"{", "JSON text, perhaps a stamp", "give the file that it describes"),
    (b"<", "an HTML or XML page", _AGAIN),
    (b"\x80\x02", "a pickle, such as an old PyTorch checkpoint", _EXPORT),
    (b"\x89HDF\r\n", "an HDF5 file, such as Keras weights", _EXPORT),
    (b"GGUF", "a GGUF model", "TensorRT has no reader for it; start from the original model"),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"\x7fELF", "a program or library", "give the engine, not the program that loads it"),
)
# Names in the directory at the end of a zip, most telling first: TorchScript has `data.pkl` too.
_IN_ZIP: Final = (
    (b"constants.pkl", "a TorchScript archive"),
    (b"serialized_exported_program", "a torch.export archive"),
    (b"archive_format", "a torch.export archive"),
    (b"data.pkl", "a PyTorch checkpoint"),
    (b".npy", "a NumPy archive"),
)
_ZIP_TAIL: Final = 131_072
_MOST_SAFETENSORS_HEADER: Final = 100_000_000


def refuse(head: bytes, source: Source) -> None:
    """Raise if the file is of a kind that is known to be no engine."""
    kind = _known(head, source)
    if kind:
        what, hint = kind
        raise ArtifactError(f"no engine that can be read: this is {what}", hint=hint)


def _known(head: bytes, source: Source) -> tuple[str, str] | None:
    if head[:4] == b"PK\x03\x04":
        tail = source.read_at(max(0, source.size - _ZIP_TAIL), min(source.size, _ZIP_TAIL))
        what = next((what for name, what in _IN_ZIP if name in tail), "a zip archive")
        # Torch-TensorRT keeps engines inside TorchScript, as strings of pickled objects: reading
        # them would mean running what the file says.
        return f"{what} (zip); engines that Torch-TensorRT may keep in it are not read", _EXPORT
    # huggingface/safetensors: u64 length of a JSON header, then the header.
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= min(_MOST_SAFETENSORS_HEADER, source.size):
        return "a safetensors file: weights without a model", _EXPORT
    # Measured on one engine of 5.0 (zhucheng725/TX2-tensorRT5.0-python): a FlatBuffer behind its size.
    if length == source.size and head[8:12] == b"\x20\0\0\0":
        return "a plan of TensorRT 5 or older", "build it again"
    length = int.from_bytes(head[:4], "little", signed=True)
    if head[4:6] == b'{"' and 0 < length < source.size:
        most = f", at most {MOST_METADATA}" if length > MOST_METADATA else ""
        return (
            f"{length} bytes of Ultralytics metadata{most}, with no plan behind them",
            "export the model again",
        )
    return next(((what, hint) for start, what, hint in _STARTS if head.startswith(start)), None)
