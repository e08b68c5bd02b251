"""Loads the model to be exported, whatever it is kept in. Python 3.6 to 3.13, torch 1.4 on.

Model files are code. It runs here, inside the environment, and never on the host.
"""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback

import checkpoints
import taskcards
import yolo
from export_inputs import Signature, read_signature, show
from worker import JobError

JOBS = os.path.dirname(os.path.abspath(__file__))
TRACE_FRAMES = 12


class Loaded(object):
    """A module on the CPU and what is known of it; `program` is set for torch.export files.

    card: what its images and outputs mean; card_stated: whether the model's owner says so, not a library.
    """

    def __init__(self, module, signature, **known):
        self.module = module
        self.signature = signature
        self.constants = known.get("constants", {})
        self.input_names = known.get("input_names")
        self.output_names = known.get("output_names")
        self.metadata = known.get("metadata", {})
        self.program = known.get("program")
        self.scripted = known.get("scripted", False)
        self.card = known.get("card")
        self.card_stated = known.get("card_stated", False)


# What a factory reads beside its file, such as weights: a change of it is a change of the model.
WATCHED, OPENED = [], set()


def note_opened(event, arguments):
    if event == "open" and WATCHED and isinstance(arguments[0], str):
        path = os.path.abspath(arguments[0])
        if path.startswith(tuple(WATCHED)) and not path.endswith(".pyc"):
            OPENED.add(path)


if hasattr(sys, "addaudithook"):  # Python 3.8; older ones see only what is imported
    sys.addaudithook(note_opened)


@contextlib.contextmanager
def own_imports(folders):
    """Let model code import from its folders, and forget it afterwards; yields its source files.

    Jobs share one process. A model's `models` or `export` must not meet ours, nor the next model's.
    """
    ours = {
        name: module
        for name, module in sys.modules.items()
        if name != "__main__"
        and (getattr(module, "__file__", None) or "").startswith(JOBS + os.sep)
    }
    before, path, wrote = set(sys.modules) - set(ours), list(sys.path), sys.dont_write_bytecode
    for name in ours:
        del sys.modules[name]
    sys.path[:] = folders + [entry for entry in path if os.path.abspath(entry) != JOBS]
    sys.dont_write_bytecode = True  # the folders are the user's
    OPENED.clear()
    WATCHED[:] = [os.path.abspath(folder) + os.sep for folder in folders]
    try:
        yield lambda: sorted(OPENED.union(model_files(folders, before)))
    finally:
        del WATCHED[:]
        theirs = model_files(folders, before)
        for name, module in list(sys.modules.items()):
            if name not in before and getattr(module, "__file__", None) in theirs:
                del sys.modules[name]
        sys.modules.update(ours)
        sys.path[:] = path
        sys.dont_write_bytecode = wrote
        importlib.invalidate_caches()


def model_files(folders, before):
    """Files of modules loaded from the folders; libraries installed below them are not the model's."""
    libraries = tuple({entry + os.sep for entry in sysconfig.get_paths().values()})
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        inside = any(file.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)
        if name not in before and inside and not file.startswith(libraries):
            if "site-packages" not in file and "dist-packages" not in file:
                found.add(file)
    return sorted(found)


@contextlib.contextmanager
def model_code(what, folder):
    """Whatever the model's own code raises, SystemExit too, becomes an error that shows that code."""
    try:
        yield
    except (JobError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        hint = None
        if isinstance(error, ImportError) and getattr(error, "name", None):
            hint = (
                "this environment has no module `%s`; choose or make one that has it" % error.name
            )
        text = "%s raised %s" % (what, model_trace(error, folder))
        raise JobError("model-raised", text, hint)


def model_trace(error, folder):
    """The error and, below it, the frames from the first one in the model's folder on."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [i for i, f in enumerate(frames) if f[0].startswith(folder + os.sep)] if folder else []
    kept = frames[inside[0] :][-TRACE_FRAMES:] if inside else []
    words = "".join(traceback.format_exception_only(type(error), error)).strip()
    lines = [words] + [line.rstrip() for line in traceback.format_list(kept)]
    return "\n".join(lines).replace(folder + os.sep, "") if folder else "\n".join(lines)


def folders_of(spec):
    """What model code may import from: its own folder and, for a file in a package, the package's."""
    path = spec.get("path")
    folders = [os.path.dirname(os.path.abspath(path))] if path else []
    if path and spec["kind"] == "python":
        folders.append(os.path.dirname(package_name(path)[1]))
    if spec["kind"] == "yolov5":
        folders.append(yolo.repository_of(spec))
    return sorted(set(folders), key=folders.index)


def package_name(path):
    """(dotted module name, top folder or file) of a Python file, by the __init__.py beside it."""
    top = os.path.abspath(path)
    name = os.path.splitext(os.path.basename(top))[0]
    while os.path.exists(os.path.join(os.path.dirname(top), "__init__.py")):
        top = os.path.dirname(top)
        name = os.path.basename(top) + "." + name
    return name, top


def load(torch, spec, shapes, work, notes):
    """Load what spec names. A `.pt` is what its contents say, not what its name promises."""
    kind = spec["kind"]
    if kind in ("pickle", "torchscript", "exported"):
        kind = checkpoints.sniff(spec["path"])
    loaders = {
        "python": load_python,
        "torchvision": load_torchvision,
        "torchscript": load_torchscript,
        "exported": load_exported,
        "module": load_pickled,
        "ultralytics": load_yolo,
        "yolov5": load_yolo,
    }
    if kind in ("weights", "safetensors"):
        raise JobError(
            "weights",
            "`%s` holds weights only: a state_dict has no architecture" % spec["path"],
            "give the code that makes the model: FILE.py:FACTORY --weights %s"
            % os.path.basename(spec["path"]),
        )
    if kind not in loaders:
        raise JobError("weights", "`%s` is no file that torch writes" % spec["path"])
    loaded = loaders[kind](torch, dict(spec, kind=kind), shapes, work, notes)
    if loaded.program is None:
        with contextlib.suppress(Exception):  # a frozen TorchScript module has no modes
            loaded.module.eval()
        loaded.module.to("cpu")
    return loaded


def load_python(torch, spec, shapes, work, notes):
    path = os.path.abspath(spec["path"])
    folder, file = os.path.split(path)
    with model_code("`%s`" % file, folder):
        module = import_file(path)
    name = spec.get("factory") or "model"
    factory = getattr(module, name, None)
    if not callable(factory):
        raise no_factory(file, name, module)
    if isinstance(factory, torch.nn.Module):
        model = factory
    else:
        with model_code("`%s:%s`" % (file, name), folder):
            model = factory(**(spec.get("factory_args") or {}))
    if not isinstance(model, torch.nn.Module):
        raise JobError(
            "not-a-module",
            "`%s:%s` returned %s, not a torch.nn.Module" % (file, name, type(model).__name__),
            "return the model itself from the factory",
        )
    if spec.get("weights"):
        checkpoints.load_weights(torch, model, spec["weights"], notes)
    keys = ("INPUT_NAMES", "OUTPUT_NAMES", "SHAPES", "DTYPES")
    constants = {key: getattr(module, key) for key in keys if hasattr(module, key)}
    card = taskcards.of_constants(vars(module), file, notes)
    return Loaded(
        model, signature_of(model), constants=constants, card=card, card_stated=card is not None
    )


def import_file(path):
    name, top = package_name(path)
    if top != path:
        return importlib.import_module(name)
    if name in sys.modules:  # a model kept in `json.py` must not replace the library
        name = "trtenv_model"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def no_factory(file, name, module):
    entries = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    own = [
        key for key in entries if getattr(vars(module)[key], "__module__", "") == module.__name__
    ]
    close = difflib.get_close_matches(name, own, n=1) or own[:1]
    return JobError(
        "factory",
        "`%s` has no function `%s`; it has %s" % (file, name, ", ".join(sorted(own)) or "none"),
        "did you mean %s:%s?" % (file, close[0]) if close else None,
    )


def signature_of(model):
    return read_signature(model.forward)


def load_torchvision(torch, spec, shapes, work, notes):
    try:
        models = importlib.import_module("torchvision.models")
    except Exception as error:
        raise JobError(
            "missing-module", "`import torchvision` failed in this environment: %s" % error
        )
    builder = find_builder(models, spec["name"])
    weights = spec.get("weights")
    pretrained = weights == "DEFAULT"
    choices = {"weights": "DEFAULT" if pretrained else None, "pretrained": pretrained}
    choices.update({"weights_backbone": None, "pretrained_backbone": False})
    accepted = inspect.signature(builder).parameters
    arguments = {key: value for key, value in choices.items() if key in accepted}
    arguments.update(spec.get("factory_args") or {})
    try:
        model = builder(**arguments)
    except OSError as error:  # urllib's errors are
        raise JobError(
            "no-network",
            "the weights of torchvision's `%s` could not be downloaded: %s" % (spec["name"], error),
            "jobs have no network unless given one (--network bridge); or pass --weights FILE",
        )
    if weights and not pretrained:
        checkpoints.load_weights(torch, model, weights, notes)
    elif not weights:
        notes.append("torchvision's `%s` has random weights: none were given" % spec["name"])
    card = taskcards.of_torchvision(builder, weights)
    return Loaded(model, signature_of(model), card=card)


def find_builder(models, name):
    """A model's function, in torchvision.models or one of its subpackages such as segmentation."""
    places = [models] + [entry for entry in vars(models).values() if inspect.ismodule(entry)]
    known = {}
    for place in reversed(places):
        if place is models or hasattr(place, "__path__"):
            found = vars(place).items()
            known.update((k, v) for k, v in found if k[0].islower() and inspect.isfunction(v))
    if name.split(".")[-1] not in known:
        close = difflib.get_close_matches(name, sorted(known), n=3)
        hint = "did you mean %s?" % ", ".join("`%s`" % entry for entry in close) if close else None
        raise JobError("factory", "this torchvision has no model `%s`" % name, hint)
    return known[name.split(".")[-1]]


def load_torchscript(torch, spec, shapes, work, notes):
    try:
        module = torch.jit.load(spec["path"], map_location="cpu")
    except Exception as error:
        raise JobError(
            "weights",
            "torch %s cannot load the TorchScript file: %s" % (torch.__version__, error),
            "TorchScript from a newer torch may need an environment with that torch",
        )
    arguments = module._c._get_method("forward").schema.arguments[1:]
    names = [entry.name for entry in arguments]
    if arguments and hasattr(arguments[0], "has_default_value"):  # torch 1.5 on
        return Loaded(
            module,
            Signature(names, [a.name for a in arguments if not a.has_default_value()]),
            scripted=True,
        )
    return Loaded(module, Signature(names), scripted=True)


def load_exported(torch, spec, shapes, work, notes):
    if not hasattr(torch, "export"):
        text = "torch %s in this environment is too old for torch.export files (.pt2)"
        raise JobError("missing-module", text % torch.__version__, "choose torch 2.1 or newer")
    try:
        program = torch.export.load(spec["path"])
    except Exception as error:
        text = "torch %s cannot load the exported program: %s" % (torch.__version__, error)
        raise JobError("weights", text, "load it with the torch that saved it")
    names = list(program.graph_signature.user_inputs)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    static = [
        "%s:%s" % (name, show(values[name].shape))
        for name in names
        if all(isinstance(size, int) for size in values[name].shape)
    ]
    known = {"SHAPES": ",".join(static)} if len(static) == len(names) else {}
    return Loaded(program.module(), Signature(names), program=program, constants=known)


def load_pickled(torch, spec, shapes, work, notes):
    found = checkpoints.torch_load(torch, spec["path"])
    if isinstance(found, dict):
        found = found.get("ema") or found.get("model") or found
    if not isinstance(found, torch.nn.Module):
        raise JobError(
            "not-a-module",
            "`%s` holds %s, not a model" % (spec["path"], type(found).__name__),
            "give the code that makes the model: FILE.py:FACTORY --weights FILE",
        )
    notes.append("a whole pickled model needs the exact code that it was saved with")
    return Loaded(found, signature_of(found))


def load_yolo(torch, spec, shapes, work, notes):
    prepare = {"ultralytics": yolo.prepare_ultralytics, "yolov5": yolo.prepare_yolov5}[spec["kind"]]
    captured, metadata, card = prepare(torch, spec, shapes, work, notes)
    module = captured["model"]
    names = {key: captured.get(key) for key in ("input_names", "output_names")}
    return Loaded(module, signature_of(module), metadata=metadata, card=card, **names)
