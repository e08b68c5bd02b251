"""Looks into files of weights and models before anything is unpickled. Python 3.6 to 3.13.

A `.pt` may be TorchScript, an exported program, a whole pickled model, an Ultralytics checkpoint or
bare weights; its zip directory and the class names in its pickle tell which, without running it.
"""

import io
import json
import pickletools
import struct
import zipfile

from worker import JobError

# Modules that the pickle of a plain state_dict, or of a training checkpoint around it, may name.
PLAIN = ("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.serialization")
PLAIN += ("collections", "builtins", "__builtin__", "_codecs", "argparse", "pathlib", "datetime")
WRAPPERS = ("state_dict", "model_state_dict", "model", "ema")
WRAPPING_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}
DTYPES.update({"U8": "u1", "BOOL": "?", "BF16": "u2"})


def sniff(path):
    """torchscript, exported, ultralytics, yolov5, module, weights, safetensors or unknown."""
    if path.endswith(".safetensors"):
        return "safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return sniff_zip(archive)
    with open(path, "rb") as handle:
        if handle.read(1) != b"\x80":
            return "unknown"
        handle.seek(0)
        # Before torch 1.6: magic number, protocol, system, then the object, each a pickle.
        return classify([name for _ in range(4) for name in pickled_modules(handle)])


def sniff_zip(archive):
    names = ["/" + name for name in archive.namelist()]
    if any("/code/" in name for name in names) and any(n.endswith("/constants.pkl") for n in names):
        return "torchscript"
    exported = ("/serialized_exported_program.json", "/archive_format", "/models/model.json")
    if any(name.endswith(exported) for name in names):
        return "exported"
    for name in archive.namelist():
        if ("/" + name).endswith("/data.pkl"):
            return classify(pickled_modules(io.BytesIO(archive.read(name))))
    return "unknown"


def pickled_modules(handle):
    """Modules that one pickle would import, read from its opcodes."""
    found, texts = [], []
    for code, argument, _ in pickletools.genops(handle):
        if code.name == "GLOBAL":
            found.append(argument.split(" ")[0])
        elif code.name == "STACK_GLOBAL":  # module and name are the strings before it
            found += texts[-2:-1]
        elif isinstance(argument, str):
            texts.append(argument)
    return found


def classify(modules):
    roots = {name.split(".")[0] for name in modules}
    if "ultralytics" in roots:
        return "ultralytics"
    if "models.yolo" in modules:
        return "yolov5"
    plain = [name for name in modules if name in PLAIN or name.split(".")[0] == "numpy"]
    return "weights" if len(plain) == len(modules) else "module"


def torch_load(torch, path, notes=None):
    """torch.load on the CPU; without code from the file where this torch can and the file allows.

    Full unpickling runs what the file says: inside the environment is where it may.
    """
    import inspect

    try:
        if "weights_only" not in inspect.signature(torch.load).parameters:
            return torch.load(path, map_location="cpu")
        if notes is None:
            return torch.load(path, map_location="cpu", weights_only=False)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            notes.append("the weights needed full unpickling (torch.load with weights_only=False)")
            return torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:
        raise JobError(
            "weights",
            "`%s` was pickled with code that is not here: %s" % (path, error),
            "put that code beside the file, or save the state_dict and use FILE.py:factory",
        )
    except Exception as error:
        raise JobError("weights", "torch cannot read `%s`: %s" % (path, error))


def read_safetensors(torch, path):
    """The format is a length, a JSON header and raw bytes; old images lack the package."""
    import numpy as np

    tensors = {}
    with open(path, "rb") as handle:
        try:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length).decode("utf-8"))
            data = handle.read()
            header.pop("__metadata__", None)
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                array = np.frombuffer(data[start:end], np.dtype(DTYPES[entry["dtype"]]))
                if entry["dtype"] == "BF16":  # the upper half of a float32
                    array = (array.astype(np.uint32) << 16).view(np.float32)
                tensors[name] = torch.from_numpy(array.reshape(entry["shape"]).copy())
        except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
            raise JobError("weights", "`%s` is no safetensors file: %r" % (path, error))
    return tensors


def read_weights(torch, path, notes):
    """The state_dict in a file, out of the wrappings that training scripts use."""
    if path.endswith(".safetensors"):
        return read_safetensors(torch, path)
    found = torch_load(torch, path, notes)
    for key in WRAPPERS:
        inner = found.get(key) if isinstance(found, dict) else None
        if isinstance(inner, (dict, torch.nn.Module)):
            found = inner
            break
    if isinstance(found, torch.nn.Module):
        found = found.float().state_dict()
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        kinds = sorted(found)[:8] if isinstance(found, dict) else type(found).__name__
        raise JobError(
            "weights",
            "`%s` holds no state_dict, but %s" % (path, kinds),
            'save it with torch.save(model.state_dict(), "weights.pt")',
        )
    return found


def strip_prefixes(weights, expected):
    """Weights with the prefixes of wrappers removed; one other prefix only if then all keys fit."""
    removed = ""
    while True:
        firsts = {key.split(".")[0] + "." for key in weights}
        if len(firsts) != 1 or set(weights) == set(expected):
            return weights, removed
        (first,) = firsts
        inner = {key[len(first) :]: value for key, value in weights.items()}
        if first not in WRAPPING_PREFIXES and set(inner) != set(expected):
            return weights, removed
        weights, removed = inner, removed + first


def load_weights(torch, model, path, notes):
    """Fill the model from a file. Anything missing, unexpected or of another shape is an error."""
    expected = model.state_dict()
    weights, removed = strip_prefixes(read_weights(torch, path, notes), expected)
    if removed:
        notes.append("removed the prefix `%s` from the names of the weights" % removed)
    # A counter that inference does not read; weights older than torch 0.4.1 have none.
    missing = [key for key in expected if not key.endswith("num_batches_tracked")]
    problems = [
        listed("the file lacks", sorted(set(missing) - set(weights))),
        listed("the model does not know", sorted(set(weights) - set(expected))),
    ]
    for name in sorted(set(weights) & set(expected)):
        if weights[name].shape != expected[name].shape:
            sizes = tuple(tuple(tensors[name].shape) for tensors in (expected, weights))
            problems.append("`%s` has shape %s in the model and %s in the file" % (name, *sizes))
    problems = [text for text in problems if text]
    if problems:
        raise JobError(
            "weights",
            "the weights do not fit the model: " + "; ".join(problems[:5]),
            "give the factory the arguments that the model was trained with",
        )
    model.load_state_dict(dict(weights))  # without torch's version marks, which may forbid a gap


def listed(what, names, limit=5):
    if not names:
        return ""
    more = " and %d more" % (len(names) - limit) if len(names) > limit else ""
    return "%s %s%s" % (what, ", ".join("`%s`" % name for name in names[:limit]), more)
