"""Every option of a build request: one row each. The command line and the dialect are made of it.

An option's flag is its name with dashes, as users of trtexec expect it (--minTiming is
--min-timing); its value is written in trtexec's own grammar. What an option means to a TensorRT
version is in dialect/data/build/GROUP.toml under the option's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trtenv.errors import UsageError
from trtenv.spec import values

Parser = Callable[[str], Any]
PRECISIONS = ("tf32", "fp32", "fp16", "bf16", "int8", "fp8", "best")
TACTIC_SOURCES = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
PREVIEWS = (
    *("fasterDynamicShapes0805", "disableExternalTacticSourcesForCore0805", "profileSharing0806"),
    *("aliasedPluginIO1003", "runtimeActivationResize", "multiDeviceRuntime"),
)
FORMATS = "One type:layout[+layout] for each, in order: fp16:chw."


class Option(NamedTuple):
    """parse: None makes a switch; `off` gives a switch its --no-... form.

    many: the flag may repeat. dialect: whether what it means depends on the TensorRT version;
    where not, it is an instruction to trtenv's own job.
    """

    group: str
    name: str
    parse: Parser | None
    help: str
    metavar: str | None = None
    off: bool = False
    many: bool = False
    dialect: bool = True

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def read(self, given: Any) -> Any:
        """The value of what the command line gave. UsageError naming the flag."""
        if self.parse is None:
            return bool(given)
        try:
            return [self.parse(text) for text in given] if self.many else self.parse(given)
        except UsageError as error:
            raise UsageError(f"{self.flag}: {error.message}", hint=error.hint) from error


# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("network", "explicit_batch", None, "As TensorRT 7 tutorials write it."),
    Option("network", "batch", values.integer(1), "Of the implicit-batch days; ONNX has --shapes.", "N"),
    Option("network", "max_batch", values.integer(1), "Of the implicit-batch days; ONNX has --shapes.", "N"),
    Option("network", "input_io_formats", values.io_formats, "Inputs. " + FORMATS, "FORMATS"),
    Option("network", "output_io_formats", values.io_formats, "Outputs. " + FORMATS, "FORMATS"),
    Option("precision", "precision", values.choice(*PRECISIONS), "tf32 (TensorRT's default), fp32, fp16, bf16, int8, fp8 or best.", "P"),
    Option("precision", "keep_fp32", values.names, "Nodes that stay FP32, by name; * is a wildcard.", "NODES"),
    Option("precision", "layer_precisions", values.layer_types, "conv1:fp16,*:fp32, as trtexec.", "LAYERS"),
    Option("precision", "layer_output_types", values.layer_types, "conv1:fp16,split:fp16+fp32.", "LAYERS"),
    Option("precision", "precision_constraints", values.choice("none", "prefer", "obey"), "How strictly layers' precisions are meant.", "HOW"),
    Option("precision", "strongly_typed", None, "The graph's own types decide, not the builder."),
    Option("precision", "calibration", values.data, "INT8 and FP8: images' folder, .npz or .npy to calibrate with.", "DATA"),
    Option("precision", "quantization", values.choice("auto", "calibration", "qdq"), "How INT8 is made: by the builder's calibration, or by Q/DQ nodes.", "HOW"),
    Option("precision", "calibration_method", values.choice("entropy", "minmax"), "Of calibration; default entropy.", "METHOD", dialect=False),
    Option("precision", "calibration_batch", values.integer(1), "Samples at a time; default: the optimum of the profile.", "N", dialect=False),
    Option("precision", "calibration_scale", values.number, "Images: pixel values are multiplied by it; default 1/255.", "X", dialect=False),
    Option("precision", "calibration_mean", values.numbers, "Images: subtracted after scaling: 0.485,0.456,0.406.", "LIST", dialect=False),
    Option("precision", "calibration_std", values.numbers, "Images: divided by after the mean: 0.229,0.224,0.225.", "LIST", dialect=False),
    Option("precision", "accept_precision", values.choice("asked", "any"), "any: keep an engine without a layer in the precision asked for.", "WHAT", dialect=False),
    Option("memory", "workspace", values.parse_size, "Builder memory: 4G, 512M or MiB.", "SIZE"),
    Option("memory", "mem_pool_size", values.pools, "workspace:4G,dlaSRAM:1M, as trtexec; MiB without a suffix.", "POOLS"),
    Option("memory", "allow_weight_streaming", None, "Weights may stay in host memory (TensorRT 10)."),
    Option("memory", "refit", None, "Weights may be replaced later."),
    Option("memory", "strip_weights", None, "Without the weights, to be refitted (TensorRT 10)."),
    Option("tactics", "builder_optimization_level", values.integer(0, 5), "0 to 5, from TensorRT 8.6.", "N"),
    Option("tactics", "tactic_sources", values.switches(*TACTIC_SOURCES), "-CUBLAS,+JIT_CONVOLUTIONS.", "LIST"),
    Option("tactics", "max_aux_streams", values.integer(0), "Auxiliary streams, from TensorRT 8.6.", "N"),
    Option("tactics", "avg_timing", values.integer(1), "Timing iterations averaged per tactic.", "N"),
    Option("tactics", "min_timing", values.integer(1), "Timing iterations at least, before TensorRT 10.", "N"),
    Option("tactics", "max_tactics", values.integer(-1), "Tactics to time at most, from TensorRT 10.4.", "N"),
    Option("tactics", "heuristic", None, "Pick tactics by heuristics (TensorRT 8.5 to 9)."),
    Option("tactics", "tiling_optimization_level", values.integer(0, 3), "0 to 3, from TensorRT 10.8.", "N"),
    Option("tactics", "l2_limit_for_tiling", values.parse_size, "L2 cache for tiling, from TensorRT 10.8.", "SIZE"),
    Option("tactics", "sparsity", values.choice("disable", "enable", "force"), "Use 2:4 sparse weights.", "HOW"),
    Option("tactics", "preview", values.switches(*PREVIEWS), "+profileSharing0806, as trtexec.", "LIST"),
    Option("tactics", "direct_io", None, "No reformatting at the network's borders."),
    Option("tactics", "timing_cache", values.cache, "A file, auto (kept per TensorRT and GPU) or none.", "FILE"),
    Option("tactics", "error_on_timing_cache_miss", None, "Fail where the timing cache lacks a tactic (TensorRT 9)."),
    Option("tactics", "reproducible", None, "Same inputs, same engine, as far as this TensorRT can promise."),
    Option("compatibility", "version_compatible", None, "The engine runs on later TensorRT too (8.6)."),
    Option("compatibility", "exclude_lean_runtime", None, "Version-compatible, without the runtime inside."),
    Option("compatibility", "hardware_compatible", values.choice("none", "ampere+", "same-sm"), "ampere+ (8.6) or same-sm (10.9).", "LEVEL"),
    Option("compatibility", "runtime_platform", values.choice("same", "windows"), "windows: for Windows on x86-64 (10.2).", "OS"),
    Option("compatibility", "sm", values.compute_capabilities, "TensorRT-RTX: compute capabilities to build for: 8.6,8.9.", "SM"),
    Option("compatibility", "use_dla_core", values.integer(0, 15), "Jetson and DRIVE: run on this DLA core.", "N"),
    Option("compatibility", "allow_gpu_fallback", None, "What the DLA cannot run goes to the GPU."),
    Option("compatibility", "layer_device_types", values.layer_devices, "conv1:DLA,*:GPU.", "LAYERS"),
    Option("plugins", "static_plugins", values.file, "Plugin library, loaded before the build.", "FILE", many=True),
    Option("plugins", "dynamic_plugins", values.file, "Plugin library that may go into the engine.", "FILE", many=True),
    Option("plugins", "plugins_to_serialize", values.file, "Plugin library put into the engine.", "FILE", many=True),
    Option("plugins", "native_instance_norm", None, "InstanceNormalization by TensorRT, not by the plugin."),
    Option("plugins", "profiling_verbosity", values.choice("layer_names_only", "detailed", "none"), "What the engine tells of its layers.", "HOW"),
    Option("plugins", "export_layer_info", values.output, "The engine's layers as JSON.", "FILE"),
    Option("benchmark", "skip_inference", None, "trtexec: only build, measure nothing."),
    Option("benchmark", "avg_runs", values.integer(1), "trtexec measures: runs averaged.", "N"),
    Option("benchmark", "iterations", values.integer(1), "trtexec measures: iterations at least.", "N"),
    Option("benchmark", "duration", values.number, "trtexec measures: seconds at least.", "S"),
    Option("benchmark", "warm_up", values.number, "trtexec measures: milliseconds before.", "MS"),
    Option("benchmark", "inf_streams", values.integer(1), "trtexec measures: contexts side by side.", "N"),
    Option("benchmark", "cuda_graph", None, "trtexec measures: through a CUDA graph.", off=True),
    Option("benchmark", "spin_wait", None, "trtexec measures: waits by spinning.", off=True),
    Option("benchmark", "data_transfers", None, "trtexec measures: with copies to and from the GPU.", off=True),
    Option("benchmark", "percentile", values.percentiles, "trtexec measures: percentiles to report: 90,95,99.", "LIST"),
)
# fmt: on
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
