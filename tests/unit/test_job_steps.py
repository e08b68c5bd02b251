"""The steps of the Python API on a network of stand-ins: names, wildcards, broadcasting, refusals.

That the attributes and members exist is shown on the real bindings (tests/venvs/test_api_surface.py),
and that they do what they say by real builds (tests/venvs/test_rtx_request.py, tests/gpu).
"""

import enum
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

JOBS = Path(__file__).parents[2] / "trtenv" / "jobs"
sys.path.insert(0, str(JOBS))

import steps
from worker import JobError

DataType = enum.Enum("DataType", "FLOAT HALF INT32 INT64")
TensorFormat = enum.IntEnum("TensorFormat", "LINEAR CHW2 HWC8", start=0)
TacticSource = enum.IntEnum("TacticSource", "CUBLAS CUBLAS_LT CUDNN", start=0)
LayerType = enum.Enum("LayerType", "CONVOLUTION SHAPE")
TRT = SimpleNamespace(
    __version__="8.6.1", DataType=DataType, TensorFormat=TensorFormat, TacticSource=TacticSource
)


class Layer:
    def __init__(self, name: str, dtype: DataType, kind: LayerType, outputs: int = 1) -> None:
        self.name, self.type, self.num_outputs = name, kind, outputs
        self.dtype = dtype
        self.precision: DataType | None = None
        self.types: dict[int, DataType] = {}

    def get_output(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(dtype=self.dtype)

    def set_output_type(self, index: int, dtype: DataType) -> None:
        self.types[index] = dtype


class Network:
    def __init__(self) -> None:
        conv = LayerType.CONVOLUTION
        self.layers = [
            Layer("conv1", DataType.FLOAT, conv),
            Layer("conv2", DataType.FLOAT, conv, outputs=2),
            Layer("shape", DataType.INT32, LayerType.SHAPE),
        ]
        self.inputs = [SimpleNamespace(name=name, dtype=DataType.FLOAT) for name in "ab"]
        self.num_layers, self.num_inputs = 3, 2

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> SimpleNamespace:
        return self.inputs[index]


@pytest.fixture
def network() -> Network:
    return Network()


def apply(network: Network, config: Any, *found: dict[str, Any], gpu: str | None = None) -> None:
    steps.apply_steps(TRT, network, config, found, gpu)


def test_a_wildcard_means_what_can_have_a_precision_and_names_win(network: Network) -> None:
    wanted = {"*": "fp16", "conv2": "fp32"}
    apply(network, None, {"do": "layer_precisions", "value": wanted})
    assert [layer.precision for layer in network.layers] == [DataType.HALF, DataType.FLOAT, None]


def test_a_name_that_no_layer_has_is_told_with_names_near_it(network: Network) -> None:
    with pytest.raises(JobError, match="`conv3`") as caught:
        apply(network, None, {"do": "layer_precisions", "value": {"conv3": "fp16"}})
    assert "conv1" in caught.value.hint


def test_output_types_are_one_for_all_outputs_or_one_for_each(network: Network) -> None:
    apply(network, None, {"do": "layer_output_types", "value": {"conv2": "fp16+fp32"}})
    assert network.layers[1].types == {0: DataType.HALF, 1: DataType.FLOAT}
    with pytest.raises(JobError, match="2 outputs, and 3 types"):
        apply(network, None, {"do": "layer_output_types", "value": {"conv2": "fp16+fp32+fp16"}})


@pytest.mark.parametrize("count", [1, 2])
def test_formats_are_one_for_all_inputs_or_one_for_each(network: Network, count: int) -> None:
    entry = {"type": "fp16", "layouts": ["LINEAR", "HWC8"]}
    apply(network, None, {"do": "io_formats", "name": "input", "value": [entry] * count})
    assert [tensor.dtype for tensor in network.inputs] == [DataType.HALF] * 2
    assert [tensor.allowed_formats for tensor in network.inputs] == [0b101] * 2


def test_formats_for_three_inputs_do_not_fit_two(network: Network) -> None:
    entry = {"type": None, "layouts": ["LINEAR"]}
    with pytest.raises(JobError, match="3 formats are given for 2 inputs: a, b"):
        apply(network, None, {"do": "io_formats", "name": "input", "value": [entry] * 3})


def test_tactic_sources_change_the_mask_one_by_one(network: Network) -> None:
    class Config:
        mask = 0b011

        def get_tactic_sources(self) -> int:
            return self.mask

        def set_tactic_sources(self, mask: int) -> None:
            self.mask = mask

    config = Config()
    off = {"do": "tactic_source", "name": "CUBLAS", "value": False}
    apply(network, config, off, {"do": "tactic_source", "name": "CUDNN", "value": True})
    assert config.mask == 0b110


def test_what_this_tensorrt_lacks_is_named_with_what_it_has(network: Network) -> None:
    step = {"do": "tactic_source", "name": "JIT_CONVOLUTIONS", "value": True}
    with pytest.raises(JobError, match=r"8\.6\.1.*no TacticSource.JIT_CONVOLUTIONS") as caught:
        apply(network, SimpleNamespace(get_tactic_sources=lambda: 0), step)
    assert "CUDNN" in caught.value.hint
    with pytest.raises(JobError, match="unknown build step"):
        apply(network, None, {"do": "magic"})


@pytest.mark.parametrize(("gpu", "set_"), [("7.5", False), ("8.0", True), ("10.0", True)])
def test_a_step_for_newer_gpus_is_left_out_on_older_ones(
    network: Network, gpu: str, set_: bool
) -> None:
    config = SimpleNamespace(x=None)
    step = {"do": "set", "name": "x", "value": 1, "min_compute_capability": "8.0"}
    apply(network, config, step, gpu=gpu)
    assert (config.x == 1) is set_
