"""Builds an engine from an ONNX file, by the Python API or trtexec. Python 3.6 to 3.13, TensorRT 7.0 on.

The host decides every step and flag (dialect/data/build/*.toml); nothing here knows a version number.
"""

import importlib
import os
import sys
import threading
import time

import layers
import probe
import steps as dialect
import timing
import trtexec
from worker import JobError

# What verbose lines hold that tell of the engine's layers (see layers.py); most lines are of timings.
TELLING = ("Layer(", "LayerType", "Set Tactic Name")


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


def make_logger(trt, verbose=False):
    """Keeps TensorRT's own words: its errors for the message, and what it tells of the layers.

    Verbose lines reach the log only where they are asked for: they are most of it.
    """

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors = []
            self.warnings = []
            self.layers = []

        def log(self, severity, text):
            name = str(severity).split(".")[-1]
            if name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(text)
            elif name == "WARNING":
                self.warnings.append(text)
            elif name == "VERBOSE" and any(word in text for word in TELLING):
                self.layers.append(text)
            if verbose or name != "VERBOSE":
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


def rewrite(params, io):
    """The ONNX file as the back end gets it, and what was done to it."""
    path, reports = params["onnx"], {}
    others = [step for step in params["graph"] if step["do"] != "quantize"]
    for step in params["graph"]:
        if step["do"] == "quantize":
            import quantize

            ranges, shapes = params["calibration"], params["profiles"][0]
            keep = [
                name for other in others if other["do"] == "keep_fp32" for name in other["value"]
            ]
            wanted = dict(step, method=ranges["method"])
            path, reports["quantize"] = quantize.quantize(path, wanted, ranges, shapes, io, keep)
    if others:
        import graph

        path, reports["graph"] = graph.transform(
            path, others, io, params["profiles"][0], params["calibration"]
        )
    return path, reports


def parse_network(trt, builder, logger, path, steps):
    network = builder.create_network(dialect.network_flags(trt, steps))
    parser = trt.OnnxParser(network, logger)
    dialect.set_parser_flags(trt, parser, steps)
    if hasattr(parser, "parse_from_file"):  # finds external data beside the model
        done = parser.parse_from_file(path)
    else:
        with open(path, "rb") as handle:
            done = parser.parse(handle.read())
    if not done:
        found = [str(parser.get_error(i)).strip() for i in range(parser.num_errors)]
        raise JobError("parse", "TensorRT cannot parse the ONNX file: %s" % "; ".join(found))
    return network, parser


def add_profiles(builder, config, network, profiles):
    """One for each entry where any input is dynamic; a static network must have none of its own."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for shapes in profiles:
        for tensor in inputs:
            check_values(tensor, shapes[tensor.name])
    if not any(-1 in tuple(tensor.shape) or tensor.is_shape_tensor for tensor in inputs):
        return
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            sizes = shapes[tensor.name]
            put = profile.set_shape_input if tensor.is_shape_tensor else profile.set_shape
            put(tensor.name, sizes["min"], sizes["opt"], sizes["max"])
        if config.add_optimization_profile(profile) < 0:
            raise JobError("profile", "TensorRT refused the optimization profile %s" % shapes)


def check_values(tensor, sizes):
    """JobError where values are missing, or given of what TensorRT takes for data."""
    values_of = sizes.get("values_of")
    if tensor.is_shape_tensor and values_of is None and -1 not in tuple(tensor.shape):
        elements = 1
        for size in tensor.shape:
            elements *= size
        raise JobError(
            "profile",
            "the values of input `%s` are a shape, and none are given" % tensor.name,
            "give the smallest, usual and largest: --shapes %s:%s"
            % (tensor.name, "..".join(["x".join(["N"] * elements)] * 3)),
        )
    if values_of is None or tensor.is_shape_tensor:
        return
    if any(sizes[which] != values_of for which in ("min", "opt", "max")):
        raise JobError(
            "profile",
            "input `%s` is given values, and TensorRT takes it for data" % tensor.name,
            "leave it out of --shapes: the model fixes its shape",
        )


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


def no_engine(errors):
    text = "; ".join(errors) or "TensorRT gave no reason"
    return JobError("build", "the builder returned no engine: %s" % text)


def has_step(params, name):
    return any(step["do"] == name for step in params["steps"])


def build_by_api(trt, logger, path, params, io):
    """Returns the network, the plan's bytes and what is known of the build beside them."""
    builder = make_builder(trt, logger)
    steps, profiles = params["steps"], params["profiles"]
    if has_step(params, "load_libraries") or has_step(params, "plugin_registry"):
        dialect.load_plugins(trt, logger, builder, steps)
    io.progress("parsing")
    network, parser = parse_network(trt, builder, logger, path, steps)
    config = builder.create_builder_config()
    devices = probe.devices()
    capability = devices[0]["compute_capability"] if devices else None
    dialect.apply_steps(trt, network, config, steps, capability)
    add_profiles(builder, config, network, profiles)
    calibrator = None
    if has_step(params, "calibrate") and not is_quantized(network):
        import calibrator as calibration

        calibrator = calibration.set_calibrator(
            trt, builder, config, network, params["calibration"], profiles[0], io
        )
    wanted = params["timing_cache"] if has_step(params, "timing_cache") else None
    cache = timing.load(trt, config, wanted, io)
    monitor = watch_progress(trt, config, io)
    io.progress("building")
    started, earlier = time.time(), len(logger.errors)
    with Clock(io):
        plan = serialize(builder, network, config)
    seconds = time.time() - started
    if calibrator is not None and calibrator.error is not None:
        raise calibrator.error
    if plan is None:
        raise no_engine(logger.errors[earlier:])  # what a refused timing cache said is no reason
    del monitor, parser  # both must outlive the build
    return (
        network,
        bytes(plan),
        {
            "build_seconds": round(seconds, 3),
            "timing_cache": timing.save(cache, io),
            "calibration": calibrator.report if calibrator is not None else None,
            "warnings": sorted(set(logger.warnings)),
        },
    )


def is_quantized(network):
    """Q/DQ nodes carry their own scales: TensorRT refuses a calibrator beside them."""
    kinds = (str(network.get_layer(i).type) for i in range(network.num_layers))
    return any(kind.split(".")[-1] in ("QUANTIZE", "DEQUANTIZE") for kind in kinds)


def build_by_trtexec(path, params, io):
    """The same for trtexec, which tells nothing of the network."""
    target, flags = io.path(params["output"]), list(params["flags"])
    cache = timing.prepare_file(params["flavour"], params["timing_cache"], io)
    if cache is not None:
        flags.append("--timingCacheFile=" + cache.path)
    started = time.time()
    with Clock(io):
        argv, lines = trtexec.build(path, target, flags, io, params["verbose"])
    with open(target, "rb") as handle:
        plan = handle.read()
    return (
        plan,
        lines,
        {
            "argv": argv,
            "build_seconds": round(time.time() - started, 3),
            "timing_cache": timing.finish_file(cache),
            "calibration": None,
            "warnings": trtexec.warnings(lines),
        },
    )


def run(params, io):
    io.progress("importing TensorRT")
    path, reports = rewrite(params, io)
    network = logger = trt = None
    if params["builder"] == "trtexec":
        plan, lines, values = build_by_trtexec(path, params, io)
        if probe.tensorrt_modules()[params["flavour"]]:
            trt = load_tensorrt(params["flavour"])
    else:
        trt = load_tensorrt(params["flavour"])
        logger = make_logger(trt, params["verbose"])
        network, plan, values = build_by_api(trt, logger, path, params, io)
        lines = logger.layers
        with open(io.path(params["output"]), "wb") as handle:
            handle.write(plan)
    if has_step(params, "export_layer_info"):
        export_layers(trt, plan, io)
    version = trt.__version__ if trt is not None else None
    values.update(describe_network(network), **reports)
    values["found"] = layers.found(trt, params["flavour"], plan, network, lines, logger)
    values["engine"] = params["output"]
    values["environment"] = probe.stamp_facts({params["flavour"]: version} if version else {})
    return values


def describe_network(network):
    """Inputs and outputs; None of all where trtexec built."""
    if network is None:
        return {"inputs": None, "outputs": None, "layers": None}
    return {
        "inputs": [describe_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [describe_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": network.num_layers,
    }


def export_layers(trt, plan, io):
    text = layers.inspect(trt, plan, make_logger(trt))
    if text is None:
        raise JobError(
            "layers", "the engine was built, and TensorRT could not load it to tell its layers"
        )
    with open(io.path("layers.json"), "w", encoding="utf-8") as handle:
        handle.write(text)
