"""Carries out the steps that the host chose (dialect/data/build/*.toml) on TensorRT's objects.

Nothing here knows a version number: a step names the attribute or enum member that it needs, and
where this TensorRT lacks it the build ends with what was missing.
"""

import ctypes
import difflib
import re

from worker import JobError

DTYPES = {
    "fp32": "FLOAT",
    "fp16": "HALF",
    "bf16": "BF16",
    "int32": "INT32",
    "int64": "INT64",
    "int8": "INT8",
    "uint8": "UINT8",
    "fp8": "FP8",
    "bool": "BOOL",
}
FLOATS = ("FLOAT", "HALF", "BF16", "INT8", "FP8")
# Carried out elsewhere: before the network exists, or by build.py with files of its own.
ELSEWHERE = (
    "network_flag",
    "parser_flag",
    "profiles",
    "calibrate",
    "timing_cache",
    "export_layer_info",
    "plugin_registry",
    "load_libraries",
)


def member(trt, enum, name):
    """trt.ENUM.NAME, or an error that lists what this TensorRT has."""
    found = getattr(trt, enum, None)
    value = getattr(found, name, None)
    if value is None:
        known = [entry for entry in dir(found) if entry[0].isupper()] if found else []
        raise JobError(
            "unsupported",
            "this TensorRT (%s) has no %s.%s" % (trt.__version__, enum, name),
            "it has " + (", ".join(known) or "no %s at all" % enum),
        )
    return value


def network_flags(trt, steps):
    value = 0
    for step in steps:
        if step["do"] == "network_flag":
            value |= 1 << int(member(trt, "NetworkDefinitionCreationFlag", step["name"]))
    return value


def set_parser_flags(trt, parser, steps):
    for step in steps:
        if step["do"] == "parser_flag":
            parser.set_flag(member(trt, "OnnxParserFlag", step["name"]))


def load_plugins(trt, logger, builder, steps):
    """Creators register when their library is loaded; TensorRT's own come with it."""
    trt.init_libnvinfer_plugins(logger, "")
    for step in steps:
        if step["do"] not in ("load_libraries", "plugin_registry"):
            continue
        for path in step["value"]:
            load_plugin(step["do"], path, builder)


def load_plugin(how, path, builder):
    try:
        if how == "load_libraries":
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        else:
            builder.get_plugin_registry().load_library(path)
    except OSError as error:
        raise JobError("plugin", "plugin library %s cannot be loaded: %s" % (path, error))


def apply_steps(trt, network, config, steps, compute_capability=None):
    """compute_capability: of the GPU the build runs on, such as "8.6"; None where there is none."""
    for step in steps:
        if step["do"] in ELSEWHERE:
            continue
        action = ACTIONS.get(step["do"])
        if action is None:
            raise JobError("protocol", "unknown build step `%s`" % step["do"])
        if too_old(step, compute_capability):
            continue
        action(trt, network, config, step)


def too_old(step, compute_capability):
    needed = step.get("min_compute_capability")
    if needed is None or compute_capability is None:
        return False
    return parts(compute_capability) < parts(needed)


def parts(text):
    return tuple(int(part) for part in text.split("."))


def set_flag(trt, _network, config, step):
    config.set_flag(member(trt, "BuilderFlag", step["name"]))


def clear_flag(trt, _network, config, step):
    config.clear_flag(member(trt, "BuilderFlag", step["name"]))


def set_value(_trt, _network, config, step):
    setattr(config, step["name"], step["value"])


def set_enum(trt, _network, config, step):
    setattr(config, step["name"], member(trt, step["enum"], step["value"]))


def memory_pool(trt, _network, config, step):
    config.set_memory_pool_limit(member(trt, "MemoryPoolType", step["name"]), step["value"])


def tactic_source(trt, _network, config, step):
    bit = 1 << int(member(trt, "TacticSource", step["name"]))
    mask = config.get_tactic_sources()
    config.set_tactic_sources(mask | bit if step["value"] else mask & ~bit)


def preview(trt, _network, config, step):
    config.set_preview_feature(member(trt, "PreviewFeature", step["name"]), step["value"])


def compute_capabilities(trt, _network, config, step):
    config.num_compute_capabilities = len(step["value"])
    for index, text in enumerate(step["value"]):
        name = "SM" + text.replace(".", "")
        config.set_compute_capability(member(trt, "ComputeCapability", name), index)


def io_formats(trt, network, _config, step):
    """One entry for each tensor, or one for all, as trtexec reads it."""
    if step["name"] == "input":
        tensors = [network.get_input(i) for i in range(network.num_inputs)]
    else:
        tensors = [network.get_output(i) for i in range(network.num_outputs)]
    entries = step["value"]
    if len(entries) == 1:
        entries = entries * len(tensors)
    if len(entries) != len(tensors):
        raise JobError(
            "formats",
            "%d formats are given for %d %ss: %s"
            % (len(entries), len(tensors), step["name"], ", ".join(t.name for t in tensors)),
            "give one for each, in this order, or one for all",
        )
    for tensor, entry in zip(tensors, entries):
        if entry["type"]:
            tensor.dtype = member(trt, "DataType", DTYPES[entry["type"]])
        mask = 0
        for layout in entry["layouts"]:
            mask |= 1 << int(member(trt, "TensorFormat", layout))
        tensor.allowed_formats = mask


def layers(network):
    return [network.get_layer(i) for i in range(network.num_layers)]


def chosen(network, wanted, what):
    """(layer, value) for each pattern; later patterns do not override an exact name."""
    everything = layers(network)
    found = {}
    for pattern, value in sorted(wanted.items(), key=lambda item: ("*" not in item[0], item[0])):
        regex = ".*".join(re.escape(part) for part in pattern.split("*")) + r"\Z"
        matching = [layer for layer in everything if re.match(regex, layer.name)]
        if not matching:
            near = difflib.get_close_matches(pattern, [layer.name for layer in everything])
            raise JobError(
                "layer",
                "no layer is called `%s`, for which %s was asked" % (pattern, what),
                "near to it: " + ", ".join(near) if near else "names are those of the ONNX nodes",
            )
        for layer in matching:
            found[layer.name] = (layer, value, "*" in pattern)
    return list(found.values())


def computes_floats(layer):
    if not layer.num_outputs or layer.get_output(0) is None:
        return False
    kind = str(layer.type).split(".")[-1]
    dtype = str(layer.get_output(0).dtype).split(".")[-1]
    return dtype in FLOATS and kind not in ("CONSTANT", "SHAPE")


def layer_precisions(trt, network, _config, step):
    for layer, value, wild in chosen(network, step["value"], "a precision"):
        if wild and not computes_floats(layer):
            continue  # a wildcard means what can have a precision
        layer.precision = member(trt, "DataType", DTYPES[value])


def layer_output_types(trt, network, _config, step):
    for layer, value, wild in chosen(network, step["value"], "an output type"):
        if wild and not computes_floats(layer):
            continue
        types = value.split("+")
        if len(types) == 1:
            types = types * layer.num_outputs
        if len(types) != layer.num_outputs:
            raise JobError(
                "layer",
                "layer `%s` has %d outputs, and %d types are given"
                % (layer.name, layer.num_outputs, len(types)),
            )
        for index, name in enumerate(types):
            layer.set_output_type(index, member(trt, "DataType", DTYPES[name]))


def layer_device_types(trt, network, config, step):
    for layer, value, _ in chosen(network, step["value"], "a device"):
        config.set_device_type(layer, member(trt, "DeviceType", value))


ACTIONS = {
    "set_flag": set_flag,
    "clear_flag": clear_flag,
    "set": set_value,
    "set_enum": set_enum,
    "memory_pool": memory_pool,
    "tactic_source": tactic_source,
    "preview": preview,
    "compute_capabilities": compute_capabilities,
    "io_formats": io_formats,
    "layer_precisions": layer_precisions,
    "layer_output_types": layer_output_types,
    "layer_device_types": layer_device_types,
}
