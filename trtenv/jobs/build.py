"""Builds an engine from an ONNX file with the Python API. Python 3.6 to 3.13, TensorRT 7.0 on.

The host decides every step (see dialect/data/build_api.toml); nothing here knows a version number.
"""

import importlib
import os
import sys
import threading
import time

import probe
from worker import JobError


def load_tensorrt(flavour):
    # The loader must find cuBLAS and cuDNN lazily: TensorRT opens them only for tactics that use them.
    sys.setdlopenflags(os.RTLD_LAZY)
    name = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}[flavour]
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise JobError(
            "environment",
            "`import %s` failed in this environment: %s" % (name, error),
            "run `trtenv env probe` on it",
        )


def make_logger(trt):
    """Keeps TensorRT's own words: all of them in the log, its errors for the message."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors = []
            self.warnings = []

        def log(self, severity, text):
            name = str(severity).split(".")[-1]
            if name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(text)
            elif name == "WARNING":
                self.warnings.append(text)
            if name != "VERBOSE":
                sys.stderr.write("[TensorRT %s] %s\n" % (name, text))

    return Logger()


def make_builder(trt, logger):
    try:
        return trt.Builder(logger)
    except TypeError:  # pybind11 reports a null pointer from the factory so
        reasons = "; ".join(logger.errors + logger.warnings) or "it gives no reason"
        raise JobError(
            "no-gpu",
            "TensorRT could not start its builder: %s" % reasons,
            "this TensorRT builds only on a machine with an NVIDIA GPU and its driver; "
            "TensorRT-RTX (`--trt rtx`) builds without one",
        )


def network_flags(trt, steps):
    value = 0
    for step in steps:
        if step["do"] == "network_flag":
            value |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, step["name"]))
    return value


def cast_model(path, target, io):
    """Type the graph FP16 with ONNX Runtime's converter; inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    io.progress("casting to %s" % target)
    model = convert_float_to_float16(onnx.load(path), keep_io_types=True, disable_shape_infer=False)
    cast = io.path("cast.onnx")
    onnx.save(model, cast)
    return cast


def parse_network(trt, builder, logger, path, steps):
    network = builder.create_network(network_flags(trt, steps))
    parser = trt.OnnxParser(network, logger)
    if hasattr(parser, "parse_from_file"):  # finds external data beside the model
        done = parser.parse_from_file(path)
    else:
        with open(path, "rb") as handle:
            done = parser.parse(handle.read())
    if not done:
        found = [str(parser.get_error(i)).strip() for i in range(parser.num_errors)]
        raise JobError("parse", "TensorRT cannot parse the ONNX file: %s" % "; ".join(found))
    return network, parser


def apply_step(trt, config, step):
    action, name, value = step["do"], step.get("name"), step.get("value")
    if action == "set_flag":
        config.set_flag(getattr(trt.BuilderFlag, name))
    elif action == "clear_flag":
        config.clear_flag(getattr(trt.BuilderFlag, name))
    elif action == "set":
        setattr(config, name, value)
    elif action == "memory_pool":
        config.set_memory_pool_limit(getattr(trt.MemoryPoolType, name), value)
    elif action == "tactic_sources":
        config.set_tactic_sources(tactic_mask(trt, config.get_tactic_sources(), value))
    elif action == "compute_capabilities":
        set_compute_capabilities(trt, config, value)
    elif action not in ("network_flag", "cast"):  # those were carried out before
        raise JobError("protocol", "unknown build step `%s`" % action)


def tactic_mask(trt, mask, changes):
    for name, on in sorted(changes.items()):
        source = getattr(trt.TacticSource, name, None)
        if source is None:
            known = [n for n in dir(trt.TacticSource) if n.isupper()]
            raise JobError(
                "unsupported",
                "this TensorRT has no tactic source %s" % name,
                "it has " + ", ".join(known),
            )
        bit = 1 << int(source)
        mask = mask | bit if on else mask & ~bit
    return mask


def set_compute_capabilities(trt, config, wanted):
    config.num_compute_capabilities = len(wanted)
    for index, text in enumerate(wanted):
        member = getattr(trt.ComputeCapability, "SM" + text.replace(".", ""), None)
        if member is None:
            known = [n for n in dir(trt.ComputeCapability) if n.startswith("SM")]
            raise JobError(
                "unsupported",
                "this TensorRT-RTX cannot build for compute capability %s" % text,
                "it knows " + ", ".join(known),
            )
        config.set_compute_capability(member, index)


def add_profile(builder, config, network, shapes):
    """One profile where any input is dynamic; a static network must have none of its own."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    if not any(-1 in tuple(tensor.shape) for tensor in inputs):
        return
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        sizes = shapes[tensor.name]
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, sizes["min"], sizes["opt"], sizes["max"])
        else:
            profile.set_shape(tensor.name, sizes["min"], sizes["opt"], sizes["max"])
    if config.add_optimization_profile(profile) < 0:
        raise JobError("profile", "TensorRT refused the optimization profile %s" % shapes)


def watch_progress(trt, config, io):
    """The builder's own phases where the API has a monitor (TensorRT 9.0, RTX), else None."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self.totals = {}

        def phase_start(self, name, parent, steps):
            self.totals[name] = steps

        def step_complete(self, name, step):
            io.progress(name, step + 1, self.totals.get(name))
            return True

        def phase_finish(self, name):
            self.totals.pop(name, None)

    config.progress_monitor = Monitor()
    return config.progress_monitor


class Clock(object):
    """Says that the builder still works, for versions that cannot say how far they are."""

    def __init__(self, io):
        self._io = io
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self._thread.daemon = True

    def __enter__(self):
        self._thread.start()

    def _tick(self):
        while not self._stop.wait(2.0):
            self._io.progress("building")

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def serialize(builder, network, config):
    if hasattr(builder, "build_serialized_network"):
        return builder.build_serialized_network(network, config)
    engine = builder.build_engine(network, config)
    return None if engine is None else engine.serialize()


def type_name(dtype):
    """DataType.HALF of the API is float16 everywhere else."""
    name = str(dtype).split(".")[-1].lower()
    return {"float": "float32", "half": "float16", "bf16": "bfloat16"}.get(name, name)


def describe_tensor(tensor):
    return {
        "name": tensor.name,
        "dtype": type_name(tensor.dtype),
        "shape": [int(size) for size in tensor.shape],
    }


def layer_types(network):
    """How many layers of the parsed network put out each type: what a typed graph runs in."""
    counts = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs and layer.get_output(0) is not None:
            name = type_name(layer.get_output(0).dtype)
            counts[name] = counts.get(name, 0) + 1
    return counts


def no_engine(logger):
    text = "; ".join(logger.errors) or "TensorRT gave no reason"
    return JobError("build", "the builder returned no engine: %s" % text)


def run(params, io):
    io.progress("importing TensorRT")
    trt = load_tensorrt(params["flavour"])
    logger = make_logger(trt)
    builder = make_builder(trt, logger)
    path = params["onnx"]
    for step in params["steps"]:
        if step["do"] == "cast":
            path = cast_model(path, step["to"], io)
    io.progress("parsing")
    network, parser = parse_network(trt, builder, logger, path, params["steps"])
    config = builder.create_builder_config()
    for step in params["steps"]:
        apply_step(trt, config, step)
    add_profile(builder, config, network, params["shapes"])
    monitor = watch_progress(trt, config, io)
    io.progress("building")
    started = time.time()
    with Clock(io):
        plan = serialize(builder, network, config)
    seconds = time.time() - started
    if plan is None:
        raise no_engine(logger)
    with open(io.path(params["output"]), "wb") as handle:
        handle.write(bytes(plan))
    del monitor, parser  # both must outlive the build
    return {
        "engine": params["output"],
        "build_seconds": round(seconds, 3),
        "inputs": [describe_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [describe_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": network.num_layers,
        "layer_types": layer_types(network),
        "warnings": sorted(set(logger.warnings)),
        "environment": probe.stamp_facts({params["flavour"]: trt.__version__}),
    }
