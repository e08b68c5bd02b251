"""Precisions out of what TensorRT writes of its layers. Each sample names where it was written."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "trtenv" / "jobs"))

import layers
import precisions

XMMA = "sm80_xmma_fprop_implicit_gemm_"
FP16_NHWC8 = "Channel major FP16 format where channel % 8 == 0"
INT8_32 = "Thirty-two wide channel vectorized row major Int8 format"
LINEAR = "Row major linear FP32"
DYNAMIC = "N/A due to dynamic shapes"

# Layers of the engines in NVIDIA/TensorRT tools/experimental/trt-engine-explorer at v10.13.3
# (examples/pytorch/resnet/A100 and tests/inputs), cut to what tells a precision.
TREX: list[tuple[str, str, str, str, list[str], str, str | None]] = [
    # what, type, kernel, weights, inputs, output, precision
    ("Reformatting", "Reformat", "", "", [LINEAR], FP16_NHWC8, "other"),
    ("first conv", "CaskConvolution",
     "trt_turing_cutlass_image_network_first_layer_hmma_fprop_f16f16f32_nhwc_nhwc_k64r7s7c4_stride2x2",
     "Half", [FP16_NHWC8], FP16_NHWC8, "fp16"),
    ("xmma fp16", "CaskConvolution", XMMA + "f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize256x64x32_stage3",
     "Half", [FP16_NHWC8], FP16_NHWC8, "fp16"),
    ("cudnn fp16", "CaskConvolution", "ampere_h16816cudnn_256x64_ldg8_relu_exp_stages_64x3_small_nhwc_tn_v1",
     "Half", [FP16_NHWC8], FP16_NHWC8, "fp16"),
    ("pool", "CudaPooling", "", "", [FP16_NHWC8], FP16_NHWC8, "fp16"),
    ("cask pool", "CaskPooling", "sm50_xmma_pooling_fw_4d_FP16FP32NHWC_Average_FastDiv_CAlign8", "",
     [FP16_NHWC8], FP16_NHWC8, "fp16"),
    ("no-op", "NoOp", "", "", [FP16_NHWC8], "Row major linear FP16 format", "other"),
    ("simt", "CaskConvolution", "ampere_scudnn_128x64_relu_xregs_large_nn_v1", "Float", [LINEAR], LINEAR, "fp32"),
    ("winograd", "CaskConvolution", "ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1", "Float",
     [LINEAR], LINEAR, "fp32"),
    ("tf32", "CaskConvolution", XMMA + "f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize256x64x32_stage3_warpsize4x1x1",
     "Float", ["Channel major FP32 format"], "Channel major FP32 format", "tf32"),
    ("cublas", "CublasConvolution", "", "Float", [LINEAR], LINEAR, "fp32"),
    ("int8", "CaskConvolution", XMMA + "interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw", "Int8",
     [INT8_32], INT8_32, "int8"),
    ("int8 to fp32", "CaskConvolution", XMMA + "interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nch",
     "Int8", [LINEAR, INT8_32], LINEAR, "int8"),
    ("int8 and a residual in fp16", "CaskConvolution", "turing_fp16_i8816cudnn_int8_128x128_ldg16_relu_small_nt_v1",
     "Int8", ["Thirty-two wide channel vectorized row major FP16 format", INT8_32], FP16_NHWC8, "int8"),
    ("icudnn", "CaskConvolution", "volta_int8x4_icudnn_int8x4_128x32_relu_xregs_medium_c32_nn_v1", "Int8",
     ["Four wide channel vectorized row major Int8 format"], INT8_32, "int8"),
    ("depthwise", "CudaDepthwiseConvolution", "", "Int8", [INT8_32], INT8_32, "int8"),
    ("softmax", "CudaSoftMax", "", "", [LINEAR], LINEAR, "fp32"),
]  # fmt: skip


def tensor(text: str, size: list[int] | None = None) -> dict[str, Any]:
    return {"Name": "x", "Dimensions": size or [1, 3], "Format/Datatype": text}


def document(*entries: Any) -> str:
    return json.dumps({"Layers": entries, "Bindings": ["x", "y"]})


def entry(
    kind: str,
    kernel: str = "",
    weights: str = "",
    inputs: list[str] | None = None,
    output: str = "",
) -> dict[str, Any]:
    layer: dict[str, Any] = {"Name": kind, "LayerType": kind, "Outputs": [tensor(output)]}
    layer["Inputs"] = [tensor(text) for text in inputs or []]
    if kernel:
        layer["TacticName"] = kernel
    if weights:
        layer["Weights"] = {"Type": weights, "Count": 100}
    return layer


@pytest.mark.parametrize("row", TREX, ids=lambda row: row[0])
def test_each_layer_of_real_engines(row: tuple[Any, ...]) -> None:
    _, kind, kernel, weights, inputs, output, precision = row
    summary = layers.from_inspector(document(entry(kind, kernel, weights, inputs, output)))
    if precision == "other":
        assert summary["layers"] == {}
        assert summary["other"] == 1
    else:
        assert summary["layers"] == {precision: 1}
    assert summary["unknown"] == 0


def test_shares_of_the_weights_and_what_counts_as_a_product() -> None:
    half = entry("CaskConvolution", "", "Half", [FP16_NHWC8], FP16_NHWC8)
    half["Weights"]["Count"] = 300
    full = entry("CaskConvolution", "", "Float", [LINEAR], LINEAR)
    pool = entry("TiledPooling", "", "", [LINEAR], LINEAR)
    move = entry("Reformat", "", "", [LINEAR], FP16_NHWC8)
    # ConvActPool of TensorRT 8.2 prefixes its keys.
    fused = entry("ConvActPool", "", "", [INT8_32], INT8_32)
    fused["ConvWeights"] = {"Type": "Int8", "Count": 100}
    assert layers.from_inspector(document(half, full, pool, move, fused)) == {
        "source": "inspector",
        "layers": {"fp16": 1, "fp32": 2, "int8": 1},
        "products": {"fp16": 1, "fp32": 1, "int8": 1},
        "weights": {"fp16": 0.6, "fp32": 0.2, "int8": 0.2},
        "other": 1,
        "unknown": 0,
        "total": 5,
    }


@pytest.mark.parametrize(
    ("kernel", "precision"),
    [
        # Names of cuBLAS, CUTLASS and TensorRT 10 kernels, as profilers print them.
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", "bf16"),
        ("sm89_xmma_gemm_e4m3e4m3_e4m3f32_f32_tn_n_tilesize64x64x64_stage4", "fp8"),
        ("sm80_xmma_gemm_i8f32_i8i32_f32_by_fusion_tactic", "int8"),
        ("sm50_xmma_cublas_gemvx_f16f16_f32_f32_tn_n_int32_unit_n_launch_param4x32x32", "fp16"),
        (
            "sm70_xmma_fprop_conv1x1_i8f32_f32_f32_nchw_vect_c_4kcrs_vect_c_4_nchw_simt_small",
            "int8",
        ),
        ("cutlass_80_tensorop_s1688tf32gemm_128x128_16x4_nn_align4", "tf32"),
        ("maxwell_hgemm_256x128_nn_v0", "fp16"),
        ("volta_sgemm_128x32_relu_nn_v1", "fp32"),
        ("ampere_first_layer_filter3x3_imma_fwd", "int8"),
        ("volta_h884cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1", "fp16"),
        ("__myl_MulSum_0xabf16858aea1b13b03f90165d7149ec6", None),  # a hash says nothing
        ("", None),
    ],
)
def test_kernels_tell_the_precision_by_their_names(kernel: str, precision: str | None) -> None:
    assert precisions.kernel_precision(kernel) == precision


def test_single_precision_tensor_core_kernels_are_tf32_of_fp32_data() -> None:
    float_data = entry("CaskConvolution", "ampere_s1688cudnn_128x128", "Float", [LINEAR], LINEAR)
    half_data = entry(
        "CaskConvolution", "turing_s1688cudnn_128x128", "Half", [FP16_NHWC8], FP16_NHWC8
    )
    assert layers.from_inspector(document(float_data))["layers"] == {"tf32": 1}
    assert layers.from_inspector(document(half_data))["layers"] == {"fp16": 1}


def test_names_alone_tell_nothing() -> None:
    # trtexec 8.4 without --profilingVerbosity=detailed, NVIDIA/trt-samples-for-hackathon-cn.
    text = (
        '{"Layers": ["Conv__25 + Relu"\n,"MaxPool2d"\n,"y + z"\n],\n"Bindings": ["x:0"\n,"z:0"\n]}'
    )
    summary = layers.from_inspector(text)
    assert summary["layers"] == {}
    assert summary["unknown"] == summary["total"] == 3


def test_tensorrt_11_writes_format_and_type_apart() -> None:
    # Spelled "Datatype" and "DataType" in NVIDIA's migration guide from 10.x to 11.x.
    layer = {
        "Name": "gemm_0",
        "LayerType": "gemm",
        "Inputs": [
            {"Name": "x", "Dimensions": [-1, 16], "Format": "Row major", "Datatype": "Half"}
        ],
        "Outputs": [
            {"Name": "y", "Dimensions": [-1, 16], "Format": "Row major", "DataType": "Half"}
        ],
    }
    text = json.dumps({"Layers": [layer], "I/O Tensors": [{"Name": "x", "DataType": "Half"}]})
    summary = layers.from_inspector(text)
    assert summary["layers"] == summary["products"] == {"fp16": 1}
    assert summary["weights"] is None


def test_raw_control_characters_between_onnx_names_are_read() -> None:
    text = '{"Layers": [{"Name": "a", "LayerType": "gemm", "Metadata": "[a]\x1e[b]"}]}'
    assert layers.from_inspector(text)["unknown"] == 1


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"Layers": 1}', None, "[" * 100_000])
def test_what_is_no_answer_of_the_inspector(text: str | None) -> None:
    assert layers.from_inspector(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["Half", FP16_NHWC8, "CaskConvolution", "Reformat", XMMA + "f16f16_f16f16_f16_"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.text(max_size=4) | st.sampled_from(
            ["Name", "LayerType", "Inputs", "Outputs", "Format/Datatype", "Datatype", "Dimensions",
             "Weights", "ConvWeights", "Type", "Count", "TacticName"]
        ), inner, max_size=6,
    ), max_leaves=20,
)  # fmt: skip


@given(JSON, st.lists(JSON, max_size=4))
def test_any_json_gives_a_summary_or_none(anything: Any, entries: list[Any]) -> None:
    layers.from_inspector(json.dumps(anything))
    summary = layers.from_inspector(json.dumps({"Layers": entries}))
    computing = sum(summary["layers"].values())
    assert summary["total"] == len(entries) == computing + summary["other"] + summary["unknown"]
    assert sum(summary["products"].values()) <= computing
    if summary["weights"]:
        assert sum(summary["weights"].values()) == pytest.approx(1, abs=1e-3)


@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_log_gives_a_summary_or_none(lines: list[str]) -> None:
    layers.from_log(["Engine Layer Information:", *lines])
    layers.from_log(
        [
            "Engine Layer Information:",
            *(f"Layer({line}): {line}, Tactic: 1, {line}" for line in lines),
        ]
    )


# TensorRT 7 or older, a LeNet: one message a layer. The pair of fully connected layers has an arrow in
# its name.
LOG_7 = """\
[TensorRT] VERBOSE: (Unnamed Layer* 6) (caskFullyConnectedFP32) Set Tactic Name: volta_sgemm_128x32_relu_nn_v1
[TensorRT] VERBOSE: Tactic: 8190451076631534509 time 0.028288
[TensorRT] VERBOSE: Engine Layer Information:
[TensorRT] VERBOSE: Layer(FusedConvActDirect): (Unnamed Layer* 0) [Convolution] + (Unnamed Layer* 1) [Activation], Tactic: 141, data[Float(1,32,32)] -> (Unnamed Layer* 1) [Activation]_output[Float(6,28,28)]
[TensorRT] VERBOSE: Layer(PoolingTiled): (Unnamed Layer* 2) [Pooling], Tactic: 7405838, (Unnamed Layer* 1) [Activation]_output[Float(6,28,28)] -> (Unnamed Layer* 2) [Pooling]_output[Float(6,14,14)]
[TensorRT] VERBOSE: Layer(cudaFusedBlockLocalMLP): 2-layer MLP: (Unnamed Layer* 8) [Fully Connected] + (Unnamed Layer* 9) [Activation] -> (Unnamed Layer* 10) [Fully Connected], Tactic: 0, (Unnamed Layer* 7) [Activation]_output[Float(120,1,1)] -> (Unnamed Layer* 10) [Fully Connected]_output[Float(10,1,1)]
"""
# TensorRT 8.2 on a T4, --fp16: one message for all layers.
LOG_82 = """\
[12/04/2021-06:44:31] [V] [TRT] Engine Layer Information:
Layer(Reformat): Reformatting CopyNode for Input Tensor 0 to Conv_0, Tactic: 0, input_0[Float(128,3,224,224)] -> Reformatted Input Tensor 0 to Conv_0[Half(128,3,224,224)]
Layer(CaskConvolution): Conv_0, Tactic: 1579845938601132607, Reformatted Input Tensor 0 to Conv_0[Half(128,3,224,224)] -> 191[Half(128,96,56,56)]
Layer(Myelin): {ForeignNode[318...(Unnamed Layer* 4183) [Shuffle]]}, Tactic: 0, 191[Half(128,96,56,56)] -> Reformatted Output Tensor 0 to {ForeignNode[318...(Unnamed Layer* 4183) [Shuffle]]}[Half(128,1000)]
Layer(Reformat): Reformatting CopyNode for Output Tensor 0 to {ForeignNode[318...(Unnamed Layer* 4183) [Shuffle]]}, Tactic: 0, Reformatted Output Tensor 0 to {ForeignNode[318...(Unnamed Layer* 4183) [Shuffle]]}[Half(128,1000)] -> output_0[Float(128,1000)]
"""
# TensorRT 8.5, --int8: a residual, and a last layer with another output type.
LOG_85 = """\
[02/08/2023-15:25:37] [V] [TRT] Engine Layer Information:
Layer(Reformat): Reformatting CopyNode for Input Tensor 0 to Conv_0 + PWN(Clip_3), Tactic: 0x0000000000000000, inputs[Float(1,3,512,768)] -> Reformatted Input Tensor 0 to Conv_0 + PWN(Clip_3)[Int8(1,3,512,768)]
Layer(CudaDepthwiseConvolution): Conv_4 + PWN(Clip_7), Tactic: 0xfffffffffffffffd, 395[Int8(1,32,256,384)] -> 400[Int8(1,32,256,384)]
Layer(CaskConvolution): Conv_26 + Add_27, Tactic: 0x9dcdcc67441d3742, 424[Int8(1,144,128,192)], 675[Int8(1,24,128,192)] -> 427[Int8(1,24,128,192)]
Layer(PointWiseV2): PWN(Add_133), Tactic: 0x0000000000000003, 780[Int8(1,128,32,48)], 567[Int8(1,128,32,48)] -> 568[Int8(1,128,32,48)]
Layer(CaskConvolution): Conv_136 + Relu_137, Tactic: 0xb48bd7ec82c8e9b0, 571[Int8(1,64,32,48)] -> 574[Float(1,64,32,48)]
"""
# TensorRT 10.10 on an A100: types in parentheses, and whole subgraphs of a transformer.
LOG_1010 = """\
[04/18/2025-03:52:06] [V] [TRT] Engine Layer Information:
Layer(Myelin): {ForeignNode[/encoder/Unsqueeze_3 + /encoder/Unsqueeze_4.../match_model/Squeeze]}, Tactic: 0x0000000000000000, concat_ids (Int32[1,40]), concat_mask (Bool[1,40]) -> Reformatted Output Tensor 0 to {ForeignNode[/encoder/Unsqueeze_3]} (Half[1])
Layer(Reformat): Reformatting CopyNode for Output Tensor 0 to {ForeignNode[/encoder/Unsqueeze_3]}, Tactic: 0x0000000000000000, Reformatted Output Tensor 0 to {ForeignNode[/encoder/Unsqueeze_3]} (Half[1]) -> score (Float[1])
"""
# TensorRT 10 with detailed verbosity: a line a layer, with kernels. The GEMM's alpha and beta are FP32.
LINES_10 = """\
[11/01/2024-10:32:57] [V] [TRT] Layers:
Name: Reformatting CopyNode for Input Tensor 0 to /features/features.0/Conv, LayerType: Reformat, Inputs: [ { Name: input, Location: Device, Dimensions: [1,3,224,224], Format/Datatype: Half }], Outputs: [ { Name: Reformatted Input Tensor 0, Location: Device, Dimensions: [1,3,224,224], Format/Datatype: Half }], ParameterType: Reformat, Origin: REFORMAT, TacticValue: 0x00000000000003e8, StreamId: 0, Metadata:
Name: /features/features.0/Conv + /features/features.1/Relu, LayerType: CaskConvolution, Inputs: [ { Name: Reformatted Input Tensor 0, Location: Device, Dimensions: [1,3,224,224], Format/Datatype: Half }], Outputs: [ { Name: /features/features.1/Relu_output_0, Location: Device, Dimensions: [1,64,55,55], Format/Datatype: Half }], ParameterType: Convolution, Kernel: [11,11], Weights: {"Type": "Half", "Count": 23232}, Bias: {"Type": "Half", "Count": 64}, HasBias: 1, TacticName: sm80_xmma_fprop_implicit_gemm_indexed_wo_smem_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x32x64_stage1, TacticValue: 0x280b0ad3c23d8442, StreamId: 0
Name: /classifier/classifier_6/Gemm_myl9_4, LayerType: gemm, Inputs: [ { Name: output'.1_4, Dimensions: [1,4096], Format/Datatype: Half }, { Name: __mye595_dconst, Dimensions: [4096,1000], Format/Datatype: Half }, { Name: __mye574_alpha, Dimensions: [1], Format/Datatype: Float }], Outputs: [ { Name: output, Dimensions: [1,1000], Format/Datatype: Half }], TacticName: sm50_xmma_cublas_gemvx_f16f16_f32_f32_tn_n_int32_unit_n_launch_param4x32x32_strided_unit_stride, StreamId: 0
Name: __myl_AddResMulSum_myl0_1, LayerType: kgen, Inputs: [ { Name: __mye131_dconst, Dimensions: [10,30], Format/Datatype: Float }, { Name: __myln_k_arg__bb1_2, Dimensions: [1,10], Format/Datatype: Float }], Outputs: [ { Name: __myln_k_arg__bb1_3, Dimensions: [1,30], Format/Datatype: Float }], TacticName: __myl_AddResMulSum_0xb3915d7ebfe48be45b6d49083479e12f, StreamId: 0, Metadata:
Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [2,10], Format/Datatype: Half }], Outputs: [ { Name: b, Dimensions: [2,10], Format/Datatype: Half }], TacticName: __myl_Move_0x1, StreamId: 0, Metadata:
"""


@pytest.mark.parametrize(
    ("text", "counts", "products", "other", "unknown"),
    [
        (LOG_7, {"fp32": 3}, {"fp32": 1}, 0, 0),
        (LOG_82, {"fp16": 2}, {"fp16": 2}, 2, 0),
        (LOG_85, {"int8": 4}, {"int8": 3}, 1, 0),
        (LOG_1010, {"fp16": 1}, {"fp16": 1}, 1, 0),
        (LINES_10, {"fp16": 2, "fp32": 1}, {"fp16": 2}, 2, 0),
        (LOG_85 + LOG_82, {"fp16": 2}, {"fp16": 2}, 2, 0),  # the last engine that was built
        (LOG_82 + "[I] Layers:\nConv_0\n", {"fp16": 2}, {"fp16": 2}, 2, 0),
    ],
    ids=["7", "8.2", "8.5", "10.10", "10 detailed", "two engines", "trtexec's names behind"],
)
def test_logs(
    text: str, counts: dict[str, int], products: dict[str, int], other: int, unknown: int
) -> None:
    for lines in (text.splitlines(), [text]):  # lines of trtexec, or the API logger's long messages
        summary = layers.from_log(lines)
        assert summary["source"] == "log"
        assert summary["layers"] == counts
        assert summary["products"] == products
        assert (summary["other"], summary["unknown"]) == (other, unknown)


def test_weights_in_detailed_logs() -> None:
    assert layers.from_log(LINES_10.splitlines())["weights"] == {"fp16": 1.0}
    assert layers.from_log(LOG_82.splitlines())["weights"] is None


@pytest.mark.parametrize(
    "form",
    [
        "{named} Tactic: {number}\nTactic: {number} Time: 0.19",
        "{named}\n Tactic: {number} time 0.1",
    ],
)
def test_logs_name_the_kernels_of_tactics_while_they_are_timed(form: str) -> None:
    kernel = XMMA + "f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16"
    timed = form.format(
        named=f"[V] [TRT] Conv_0 Set Tactic Name: {kernel}", number="0x0a143be7a52f301a"
    )
    table = (
        "Engine Layer Information:\n"
        "Layer(CaskConvolution): Conv_0, Tactic: 0x0a143be7a52f301a, x[Float(1,3)] -> y[Float(1,8)]\n"
        "Layer(CudnnConvolution): Conv_1, Tactic: 0x0a143be7a52f301a, y[Float(1,8)] -> z[Float(1,8)]\n"
    )
    timed = timed.replace("\nTactic", "\n[V] [TRT] Tactic")
    assert layers.from_log([timed, table])["layers"] == {"tf32": 1, "fp32": 1}


def test_a_subgraph_with_fp32_edges_may_compute_in_anything() -> None:
    table = "Engine Layer Information:\nLayer(Myelin): {ForeignNode[a...b]}, Tactic: 0, x[Float(1)] -> y[Float(1)]"
    summary = layers.from_log([table])
    assert (summary["layers"], summary["unknown"]) == ({}, 1)


@pytest.mark.parametrize("lines", [[], ["[I] Building engine"], ["Engine Layer Information:"]])
def test_logs_without_layers(lines: list[str]) -> None:
    assert layers.from_log(lines) is None


class FakeTensor:
    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self.dtype = f"DataType.{dtype}"


class FakeLayer:
    def __init__(self, kind: str, inputs: list[FakeTensor | None], *outputs: FakeTensor) -> None:
        self.name = self.type = f"LayerType.{kind}"
        self._inputs, self._outputs = inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.weights = self.kernel = SimpleNamespace(size=8, dtype="float16")

    def get_input(self, index: int) -> FakeTensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> FakeTensor:
        return self._outputs[index]


class FakeNetwork:
    def __init__(self, *made: FakeLayer) -> None:
        self._layers = made
        self.num_layers = len(made)

    def get_layer(self, index: int) -> FakeLayer:
        return self._layers[index]


TRT = SimpleNamespace(
    IConstantLayer=FakeLayer,
    IConvolutionLayer=FakeLayer,
    IDeconvolutionLayer=FakeLayer,
    BuilderFlag=SimpleNamespace(FP16=0),
    NetworkDefinitionCreationFlag=SimpleNamespace(),
)


def quantized_network(*, weights_too: bool) -> FakeNetwork:
    """As TensorRT-RTX 1.7 parses a QuantizeLinear, DequantizeLinear, Conv, Relu graph (measured)."""
    half = [FakeTensor(name, "HALF") for name in ("x", "xd", "wd", "wr", "c", "y")]
    x, xd, wd, wr, c, y = half
    xq, wq = FakeTensor("xq", "INT8"), FakeTensor("wq", "INT8")
    return FakeNetwork(
        FakeLayer("QUANTIZE", [x], xq),
        FakeLayer("DEQUANTIZE", [xq], xd),
        FakeLayer("CONSTANT", [], wq),
        FakeLayer("DEQUANTIZE", [wq], wd),
        FakeLayer("SHUFFLE", [wd], wr),
        FakeLayer("CONVOLUTION", [xd if weights_too else x, wr, None], c),
        FakeLayer("ACTIVATION", [c], y),
    )


def test_a_product_of_two_quantized_factors_is_quantized() -> None:
    summary = layers.from_network(TRT, quantized_network(weights_too=True))
    assert summary["products"] == {"int8": 1}
    assert summary["layers"] == {"int8": 1, "fp16": 1}
    assert (summary["source"], summary["other"]) == ("network", 5)
    weight_only = layers.from_network(TRT, quantized_network(weights_too=False))
    assert weight_only["products"] == {"fp16": 1}


@pytest.mark.parametrize(
    ("stored", "quantized", "share"),
    [("float32", True, "int8"), ("float32", False, "fp32"), ("int8", False, "int8")],
    ids=["folded by the builder", "not quantized", "stored as INT8"],
)
def test_weights_count_as_what_they_are_quantized_to(
    stored: str, quantized: bool, share: str
) -> None:
    """An FP32 initializer before Q, DQ, as trtenv and PyTorch write them; scales are no weights."""
    w, ws, wq, wd = (FakeTensor(name, "FLOAT") for name in ("w", "ws", "wq", "wd"))
    scale, x, y = (FakeTensor(name, "FLOAT") for name in ("scale", "x", "y"))
    weight = FakeLayer("CONSTANT", [], w)
    weight.weights = SimpleNamespace(size=100, dtype=stored)
    scales = FakeLayer("CONSTANT", [], scale)
    scales.weights = SimpleNamespace(size=10, dtype="float32")
    middle = [FakeLayer("SHUFFLE", [w], ws)]
    if quantized:
        wq.dtype = "DataType.INT8"
        middle.append(FakeLayer("QUANTIZE", [ws, scale], wq))
    middle.append(FakeLayer("DEQUANTIZE", [wq if quantized else ws, scale], wd))
    product = FakeLayer("MATRIX_MULTIPLY", [x, wd], y)
    network = FakeNetwork(weight, scales, *middle, product)
    assert layers.from_network(TRT, network)["weights"] == {share: 1.0}


class FakeInspector:
    """An engine of a TensorRT 8.6 with dynamic shapes, as far as layers.found() asks."""

    EngineInspector = LayerInformationFormat = SimpleNamespace(JSON=1)
    BuilderFlag = SimpleNamespace(FP16=0)

    def __init__(self, text: str | None) -> None:
        self._text = text

    def Runtime(self, logger: object) -> Any:
        inspector = SimpleNamespace(get_engine_information=lambda _: self._text)
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
        return SimpleNamespace(deserialize_cuda_engine=lambda _: engine if self._text else None)


def test_the_log_completes_what_dynamic_shapes_hide_from_the_inspector() -> None:
    conv = entry("CaskConvolution", "", "Half", [DYNAMIC], DYNAMIC)
    myelin = {
        **entry("Myelin", "", "", [DYNAMIC], DYNAMIC),
        "Name": "{ForeignNode[318...(Unnamed Layer* 4183) [Shuffle]]}",
    }
    trt = FakeInspector(document(conv, myelin))
    without = layers.found(trt, "tensorrt", b"plan", None, [], logger=object())
    assert (without["source"], without["layers"], without["unknown"]) == (
        "inspector",
        {"fp16": 1},
        1,
    )
    both = layers.found(trt, "tensorrt", b"plan", None, [LOG_82], logger=object())
    assert (both["source"], both["layers"], both["unknown"]) == ("inspector+log", {"fp16": 2}, 0)
    assert both["weights"] == {"fp16": 1.0}


def test_found_takes_what_there_is() -> None:
    names_only = FakeInspector(document("Conv_0", "Conv_1"))
    assert (
        layers.found(names_only, "tensorrt", b"", None, [LOG_82], logger=object())["source"]
        == "log"
    )
    assert layers.found(names_only, "tensorrt", b"", None, [], logger=object()) is None
    assert (
        layers.found(FakeInspector(None), "tensorrt", b"", None, [LOG_85], logger=object())[
            "source"
        ]
        == "log"
    )
    assert (
        layers.found(None, "tensorrt", b"", None, [LOG_85])["source"] == "log"
    )  # trtexec built it
    assert layers.found(None, "tensorrt", b"", None, []) is None
    assert layers.found(None, "tensorrt-rtx", b"", None, []) is None


def test_only_typed_networks_tell() -> None:
    network = quantized_network(weights_too=True)
    assert layers.found(TRT, "tensorrt-rtx", b"", network, [])["source"] == "network"
    assert not layers.is_typed(TRT, network)
    assert layers.is_typed(SimpleNamespace(BuilderFlag=SimpleNamespace()), network)  # TensorRT 11
    flagged = SimpleNamespace(**vars(TRT))
    flagged.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    assert layers.is_typed(flagged, SimpleNamespace(get_flag=lambda flag: flag == 1))
    assert not layers.is_typed(flagged, SimpleNamespace(get_flag=lambda _: False))


def test_a_failing_inspector_does_not_lose_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert layers.found(object(), "tensorrt", b"", None, []) is None
    assert "layers of the engine: AttributeError" in capsys.readouterr().err
