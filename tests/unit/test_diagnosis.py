"""Every row of the table, with the texts it was written for.

Texts with a comment were seen: TensorRT 8.5.3, 8.6.0, TensorRT-RTX 1.4.0.76 and 1.7.1.116. The others
are from the public threads that the row names.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtenv.dialect.diagnosis import _rows, diagnosed, explain
from trtenv.errors import JobFailed, OutOfMemory, UsageError

CHECK = "Please check your CUDA installation:  http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html"
# What TensorRT-RTX adds to each of its errors on a machine without a GPU (1.7).
NO_GPU = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
    "version))"
)
PLUGIN = '"Plugin not found, are the plugin name, version, and namespace correct?"'

# The row, a text, and what cause or remedy must say.
SEEN = [
    ("driver-too-old", f"[TensorRT WARNING] CUDA initialization failure with error: 35. {CHECK}", "--trt rtx"),  # 8.5.3
    ("driver-too-old", "ERROR: Cuda initialization failure with error 35. Please check cuda installation:  http://docs.nvidia.com", "driver"),
    (
        "driver-too-old",
        f"CUDA initialization failure with error: 35. {CHECK} In checkCudaInstalledAndPrintMemoryUsage at optimizer/api/builder.cpp:1238",
        "doctor",
    ),
    ("no-gpu", "[E] [TRT] Cuda initialization failure with error 100. Please check cuda installation:", "--gpus all"),
    (
        "no-gpu",
        "Could not load library libcudnn_cnn_infer.so.8. Error: libcuda.so: cannot open shared object file: No such file or directory",
        "no NVIDIA GPU",
    ),
    ("driver-older-than-kernels", f"[TensorRT] ERROR: CUDA initialization failure with error 222. {CHECK}", "older than the CUDA"),
    ("driver-older-than-kernels", f"CUDA initialization failure with error: 222. {CHECK}", "PTX"),
    ("fabric-manager", "Error 802: system not yet initialized", "nvidia-fabricmanager"),
    ("driver-mismatch", f"CUDA initialization failure with error: 803. {CHECK}", "reboot"),
    (
        "driver-mismatch",
        "CUDA: Check failed: e == cudaSuccess (803 vs. 0) : system has unsupported display driver / cuda driver combination",
        "cuda-compat",
    ),
    ("forward-compatibility", f"CUDA initialization failure with error: 804. {CHECK}", "GeForce"),
    (
        "forward-compatibility",
        "CUDA runtime error in cudaGetDevice(&device): forward compatibility was attempted on non supported HW",
        "older CUDA",
    ),
    ("cuda-unknown", f"CUDA initialization failure with error: 999. {CHECK}", "nvidia_uvm"),
    ("cuda-unknown", "ExternalError: CUDA error(999), unknown error.", "999"),
    ("gpu-full", "CUDA initialization failure with error 2. Please check your CUDA installation", "other programs"),
    ("cuda-start", f"CUDA initialization failure with error: 46. {CHECK}", "CUDA error 46"),
    (
        "gpu-not-supported",
        "IBuilder::buildSerializedNetwork: Error Code 9: API Usage Error (Target GPU SM 120 is not supported by this TensorRT release.)",
        "compute capability 12.0",
    ),
    (
        "gpu-not-supported",
        "[TRT] [E] 1: [caskUtils.cpp::nvinfer1::rt::task::trtSmToCask::193] Error Code 1: Internal Error (Unsupported SM: 0x601)",
        "compute capability 6.1",
    ),
    ("gpu-not-supported", "1: [caskUtils.cpp::trtSmToCask::147] Error Code 1: Internal Error (Unsupported SM: 0x809)", "8.9"),
    ("gpu-not-supported", "../rtSafe/cuda/caskUtils.cpp (80) - Assertion Error in trtSmToCask: 0 (Unsupported SM.)", "this GPU"),
    (
        "gpu-not-supported",
        'Assertion Error in nvinfer1::fixSMVerForNVRTC: 0 ((smVersion < SM_VERSION_A100) && "SM version not supported in this NVRTC version")',
        "--runnable",
    ),
    (
        "rtx-gpu-not-supported",  # RTX 1.7 on an H100
        "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it",
        "--trt 10",
    ),
    (
        "no-lean-runtime",  # 8.6.0
        "6: [libLoader.cpp::Impl::293] Error Code 6: Internal Error (Unable to load library: libnvinfer_lean.so.8.6.0)",
        "no libnvinfer_lean.so.8.6.0",
    ),
    (
        "no-lean-runtime",  # RTX 1.7
        ("IBuilder::buildSerializedNetwork: Error Code 6: API Usage Error (Unable to load library: libnvinfer_lean.so.1: "
        "libnvinfer_lean.so.1: cannot open shared object file: No such file or directory In Impl at "
        "/_src/runtime/dispatch/libLoader.cpp:305)"),
        "no libnvinfer_lean.so.1",
    ),
    (
        "no-windows-resources",
        ("IBuilder::buildSerializedNetwork: Error Code 6: API Usage Error (Unable to load library: "
        "libnvinfer_builder_resource_win.so.10.2.0: libnvinfer_builder_resource_win.so.10.2.0: cannot open shared object file: "
        "No such file or directory)"),
        "--runtime-platform",
    ),
    (
        "executable-stack",
        ("createInferBuilder: Error Code 6: API Usage Error (Unable to load library: libnvinfer_builder_resource.so.10.7.0: "
        "libnvinfer_builder_resource.so.10.7.0: cannot enable executable stack as shared object requires: Invalid argument)"),
        "libnvinfer_builder_resource.so.10.7.0",
    ),
    (
        "library-missing",
        "6: [libLoader.h::DynamicLibrary::50] Error Code 6: Internal Error (Unable to load library: libnvinfer_builder_resource.so.8.4.1)",
        "lacks libnvinfer_builder_resource.so.8.4.1",
    ),
    ("library-missing", "ImportError: libnvinfer.so.8: cannot open shared object file: No such file or directory", "lacks libnvinfer.so.8"),
    ("library-missing", "ImportError: libcudnn.so.8: cannot open shared object file: No such file or directory", "libcudnn.so.8"),
    (
        "library-missing",
        "Unable to open library: libnvinfer_plugin.so.8 due to libcublas.so.11: cannot open shared object file: No such file or directory",
        "lacks libcublas.so.11",
    ),
    (
        "library-version",
        ("1: [raiiMyelinGraph.h::RAIIMyelinGraph::24] Error Code 1: Myelin (Compiled against cuBLASLt 11.9.2.0 but running "
        "against cuBLASLt 11.2.1.0.)"),
        "has cuBLASLt 11.2.1.0; its TensorRT was compiled for 11.9.2.0",
    ),
    (
        "engine-version",
        "ERROR: The engine plan file is not compatible with this version of TensorRT, expecting library version 5.1.6 got 5.0.6, please rebuild.",
        "built by TensorRT 5.0.6; this environment has 5.1.6",
    ),
    (
        "engine-version",
        ("6: The engine plan file is not compatible with this version of TensorRT, expecting library version 8.5.1.7 got 8.5.3.1, "
        "please rebuild.; 4: [runtime.cpp::deserializeCudaEngine::50] Error Code 4: Internal Error (Engine deserialization failed.)"),
        "env list --trt 8.5.3.1",
    ),
    (
        "engine-archive-version",
        "coreReadArchive.cpp (41) - Serialization Error in verifyHeader: 0 (Version tag does not match. Note: Current Version: 96, Serialized Engine Version: 89)",
        "serialization version 89, here 96",
    ),
    ("engine-archive-version", "coreReadArchive.cpp (38) - Serialization Error in verifyHeader: 0 (Version tag does not match)", "inspect"),
    (
        "engine-archive-version",
        ("1: [stdArchiveReader.cpp::StdArchiveReader::35] Error Code 1: Serialization (Serialization assertion safeVersionRead == "
        "safeSerializationVersion failed.Version tag does not match. Note: Current Version: 0, Serialized Engine Version: 43)"),
        "version 43, here 0",
    ),
    (
        "engine-archive-version",
        ("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == "
        "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 239, Serialized Engine Version: 243)"),
        "version 243, here 239",
    ),
    (
        "engine-gpu",
        "INVALID_CONFIG: The engine plan file is generated on an incompatible device, expecting compute 6.1 got compute 7.5, please rebuild.",
        "compute capability 7.5; this one has 6.1",
    ),
    (
        "engine-other-gpu-model",
        "Using an engine plan file across different models of devices is not recommended and is likely to affect performance or even cause errors.",
        "another GPU model",
    ),
    ("engine-cut", "Error Code 1: Serialization (Serialization assertion plan->header.size == blobSize failed.)", "cut short"),  # 8.6.0
    (
        "engine-cut",  # RTX 1.7
        (f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion plan.header.size == blobSize failed. "
        f"In parsePlan at /_src/runtime/dispatch/runtime.cpp:780); {NO_GPU}"),
        "inspect",
    ),
    ("refit-engine", "[refitUtils.cpp::buildRefitEngine::71] Error Code 2: Internal Error (Assertion engine failed. )", "--quantization"),  # 8.6.0
    ("engine-cut", "[runtime.cpp::readHeader::765] Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed.", "cut"),  # RTX 1.7
    (
        "engine-empty",  # RTX 1.7
        ("IRuntime::deserializeCudaEngine: Error Code 3: API Usage Error (Cannot deserialize with an empty memory buffer. In "
        "deserializeCudaEngineEx at /_src/runtime/dispatch/runtime.cpp:278)"),
        "empty",
    ),
    ("not-an-engine", "coreReadArchive.cpp (31) - Serialization Error in verifyHeader: 0 (Magic tag does not match)", "Ultralytics"),
    (
        "not-an-engine",
        ("[stdArchiveReader.cpp::StdArchiveReader::30] Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG "
        "failed.Magic tag does not match)"),
        "inspect",
    ),
    (
        "not-an-engine",  # 8.6.0 of an 8.5 engine, and of a JSON prefix
        "1: [runtime.cpp::parsePlan::314] Error Code 1: Serialization (Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)",
        "generation",
    ),
    (
        "not-an-engine",  # RTX 1.7 of an engine of TensorRT 8.5
        ("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG "
        "failed.Trying to load an engine created with incompatible serialization version (1953657968 != 1953657974). Check that the "
        "engine was not created using safety runtime, same OS was used and version compatibility parameters were set accordingly and "
        "that it is a TRT engine file. In throwUnlessHeaderOk at /_src/runtime/dispatch/runtime.cpp:48)"),
        "something else",
    ),
    ("needs-full-runtime", "1: [leanStubs.cpp::loadRunner::128] Error Code 1: Internal Error (Unexpected call to stub)", "--version-compatible"),
    ("needs-full-runtime", "IRuntime::deserializeCudaEngine: Error Code 1: Internal Error\nUnexpected call to stub loadRunner for ReformatRunner", "lean"),
    (
        "timing-cache",
        ("1: [stdArchiveReader.cpp::nvinfer1::rt::StdArchiveReader::StdArchiveReaderInitCommon::36] Error Code 1: Serialization "
        "(Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match); 4: The timing cache will not be used!"),
        "--timing-cache auto",
    ),
    ("timing-cache", "Detected invalid timing cache, setup a local cache instead", "anew"),
    (
        "profile-order",  # RTX 1.7
        ("IOptimizationProfile::isValid: Error Code 4: API Usage Error (Invalid optimization profiles for input tensors x, please ensure "
        f"that the optimization profiles satisfy MIN<=OPT<=MAX. In isValid at /_src/optimizer/api/optimizationProfile.cpp:367); {NO_GPU}; "
        "IBuilderConfig::addOptimizationProfile: Error Code 3: API Usage Error (Parameter check failed, condition: profile->isValid().  "
        "In addOptimizationProfile at /_src/optimizer/api/builderConfig.cpp:569)"),
        "of input `x` are not in order",
    ),
    ("profile-order", "[E] 4: Specified optimization profiles must satisfy MIN<=OPT<=MAX.", "MIN..OPT..MAX"),
    (
        "no-profile",  # RTX 1.7
        ("IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no optimization "
        "profile has been defined. In validate at /_src/optimizer/api/network.cpp:4023)"),
        "--shapes",
    ),
    (
        "no-profile",
        "Network has dynamic or shape inputs, but no optimization profile has been defined.; Network validation failed.",
        "dynamic inputs",
    ),
    (
        "profile-mismatch",  # RTX 1.7
        ("IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Dimension mismatch for tensor x and profile 0. At dimension "
        "axis 1, profile has min=4, opt=4, max=5 but tensor has 4. In validate at /_src/optimizer/api/network.cpp:4054)"),
        "input `x` has 4 at axis 1, and the shapes say min=4, opt=4, max=5",
    ),
    (
        "shape-constraints",
        ("4: [shapeCompiler.cpp::evaluateShapeChecks::832] Error Code 4: Internal Error (kOPT values for profile 0 violate shape "
        "constraints: broadcast with incompatible dimensions. When)"),
        "broadcast with incompatible dimensions",
    ),
    (
        "outside-profile",
        ("Error Code 3: API Usage Error (Parameter check failed at: executionContext.cpp::validateInputBindings::1831, condition: "
        "profileMaxDims.d[i] >= dimensions.d[i]. Supplied binding dimension [10,3,128,64] for bindings[0] exceed min ~ max range at "
        "index 0, maximum dimension in profile is 1, minimum dimension in profile is 1, but supplied dimension is 10.\n)"),
        "[10,3,128,64], and axis 0 goes from 1 to 1",
    ),
    (
        "outside-profile",
        "condition: satisfyProfile Runtime dimension does not satisfy any optimization profile.)",
        "wider --shapes",
    ),
    (
        "typed-network-flag",  # RTX 1.4
        ("IBuilder::buildSerializedNetwork: Error Code 3: API Usage Error (Parameter check failed, condition: "
        "!config.getFlag(BuilderFlag::kFP16).  In createNetworkBuildConfig at /_src/optimizer/api/builder.cpp:893)"),
        "flag FP16 is refused",
    ),
    (
        "mixed-types",  # RTX 1.7
        ("In node 0 with name: add and operator: Add (parseNode): INVALID_NODE: Invalid Node - add\nITensor::getDimensions: Error Code "
        "4: API Usage Error (add: ElementWiseOperation SUM must have same input types. But they are of types Half and Float. In "
        f"validateTypes at /_src/optimizer/common/nodes/elementWiseNode.cpp:40)\n{NO_GPU}"),
        "`add` (SUM) has inputs of different types, Half and Float",
    ),
    (
        "no-calibration",
        ("4: [standardEngineBuilder.cpp::initCalibrationParams::1402] Error Code 4: Internal Error (Calibration failure occurred with no "
        "scaling factors detected. This could be due to no int8 calibrator or insufficient custom scales for network layers. Please see "
        "int8 sample to setup calibration correctly.)"),
        "--calibration",
    ),
    ("no-calibration", "ERROR: Calibration failure occured with no scaling factors detected. This could be due to no int8 calibrator", "Q/DQ"),
    (
        "external-data",
        ("WeightsContext.cpp:178: Failed to open file: stdit3_simplified.onnx.data; In node -1 with name:  and operator:  (parseGraph): "
        "INVALID_GRAPH: Failed to import initializer"),
        "`stdit3_simplified.onnx.data`",
    ),
    (
        "external-data",
        "onnx2trt_utils.cpp:1312: Failed to open file: \nIn node -1 (parseGraph): UNSUPPORTED_NODE: Assertion failed: convertOnnxWeights(initializer, &weights, ctx)",
        "beside the ONNX file are not found",
    ),
    (
        "data-type",  # RTX 1.7
        ("In node -1 with name:  and operator:  (importInput): UNSUPPORTED_NODE: Assertion failed: convertDtype(onnxDtype.elem_type(), "
        '&trtDtype) && "Failed to convert ONNX date type to TensorRT data type."'),
        "does not have",
    ),
    ("data-type", "Unsupported ONNX data type: UINT16 (4)", "(UINT16)"),  # RTX 1.7
    ("data-type", "In node -1 (parseGraph): UNSUPPORTED_NODE: Assertion failed: convertOnnxWeights(initializer, &weights, ctx)", "type"),
    (
        "unsupported-operator",  # RTX 1.7
        f"In node 0 with name: my/op and operator: MyOp (checkFallbackPluginImporter): INVALID_NODE: creator && {PLUGIN}",
        "no operator `MyOp` as the model uses it, in node `my/op`",
    ),
    (
        "unsupported-operator",  # RTX 1.4
        "In node 0 with name: my/op and operator: MyOp (parseNodeStaticCheck): INTERNAL_ERROR: Op type MyOp is not supported in TensorRT-RTX.",
        "`MyOp` as the model uses it, in node `my/op`",
    ),
    (
        "unsupported-operator",  # RTX 1.7
        "In node 0 with name: the/det and operator: Det (checkDet): UNSUPPORTED_NODE: false",
        "`Det` as the model uses it, in node `the/det`",
    ),
    ("unsupported-operator", f"In node 442 (importFallbackPluginImporter): UNSUPPORTED_NODE: Assertion failed: creator && {PLUGIN}", "node number 442"),
    ("unsupported-operator", "In node 12 (importModel): UNSUPPORTED_NODE: No importer registered for op: GridSampler", "operator `GridSampler`"),
    (
        "unsupported-operator",
        '3: getPluginCreator could not find plugin: Round version: 1; ModelImporter.cpp:720: While parsing node number 12 [If -> "cond:0"]:',
        "operator `Round` as the model uses it, node number 12",
    ),
    (
        "invalid-node",  # RTX 1.7
        ("In node 0 with name: mm/bad and operator: MatMul (parseNode): INVALID_NODE: Invalid Node - mm/bad\nITensor::getDimensions: "
        "Error Code 4: API Usage Error (mm/bad: last dimension of input0 = 4 and second to last dimension of input1 = 5 but must match. "
        f"In validate at /_src/optimizer/api/layers/matrixMultiplyLayer.cpp:192)\n{NO_GPU}"),
        "at node `mm/bad` (MatMul): ITensor::getDimensions: Error Code 4: API Usage Error (mm/bad: last dimension of input0 = 4",
    ),
    (
        "invalid-node",
        'In node 3 (importClip): INVALID_NODE: Assertion failed: inputs.at(2).is_weights() && "Clip max value must be an initializer!"',
        "at node number 3: Assertion failed",
    ),
    ("not-onnx", "Failed to parse ONNX model from file: model.onnx!", "damaged"),
    ("newer-ir", "WARNING: ONNX model has a newer ir_version (0.0.6) than this parser was built against (0.0.5).", "IR version 0.0.6"),
    (
        "old-opset",
        "TensorRT supports ONNX graphs generated with at least opset 7. Models using older opsets are not guaranteed to work.",
        "newer --opset",
    ),
    (
        "no-implementation-memory",
        ("../builder/tacticOptimizer.cpp (1715) - TRTInternal Error in computeCosts: 0 (Could not find any implementation for node "
        "2-layer MLP: (Unnamed Layer* 8) [Fully Connected] + (Unnamed Layer* 9) [Activation] -> (Unnamed Layer* 10) [Fully Connected].); "
        "Some tactics do not have sufficient workspace memory to run."),
        "for `2-layer MLP: (Unnamed Layer* 8) [Fully Connected] + (Unnamed Layer* 9) [Activation] -> (Unnamed Layer* 10) [Fully Connected]` fits",
    ),
    (
        "no-implementation-memory",
        ("Internal error: could not find any implementation for node (Unnamed Layer* 202) [Deconvolution], try increasing the workspace "
        "size with IBuilder::setMaxWorkspaceSize(); ../builder/tacticOptimizer.cpp (1230) - OutOfMemory Error in computeCosts: 0"),
        "`(Unnamed Layer* 202) [Deconvolution]`",
    ),
    (
        "no-implementation",
        ("10: [optimizer.cpp::computeCosts::3628] Error Code 10: Internal Error (Could not find any implementation for node "
        "{ForeignNode[encoder.cross_views.0.cross_attend.to_q.1.bias + (Unnamed Layer* 242) [Shuffle]...Reshape_987]}.); 2: "
        "[builder.cpp::buildSerializedNetwork::636] Error Code 2: Internal Error (Assertion engine != nullptr failed. )"),
        "kernel for `{ForeignNode[encoder.cross_views.0.cross_attend.to_q.1.bias + (Unnamed Layer* 242) [Shuffle]...Reshape_987]}` with",
    ),
    ("no-implementation", "Error[10]: [optimizer.cpp::computeCosts::1855] Error Code 10: Internal Error (Could not find any implementation for node ConvTranspose_0.)", "`ConvTranspose_0`"),
    (
        "out-of-memory",
        ("2: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)\n[W] Requested amount of "
        "GPU memory (17179869184 bytes) could not be allocated. There may not be enough free memory for allocation to succeed."),
        "17179869184 bytes",
    ),
    ("out-of-memory", "safeRuntime.cpp (25) - Cuda Error in nvinfer1::internal::DefaultAllocator::allocate: 2 (out of memory)", "nvidia-smi"),
    ("out-of-memory", "Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)", "8589934592 bytes"),
    (
        "host-out-of-memory",  # RTX 1.7 under ulimit -v
        ("[myelinResourceManager.cpp::virtual void* nvinfer1::rt::MyelinHostBuffer::allocate(const string&, cudaStream_t)::206] "
        "Error Code 2: OutOfMemory (Requested size was 134218111 bytes.)"),
        "use of it, has not enough free memory for the build: 134218111 bytes",
    ),
    (
        "host-out-of-memory",  # RTX 1.7 under ulimit -v
        "Requested amount of memory (134218111 bytes) could not be allocated. There may not be enough free memory for allocation to succeed.",
        "134218111 bytes",
    ),
    (
        "host-out-of-memory",  # RTX 1.7 under ulimit -v
        ("IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] MyelinCheckException: "
        "myelin_tensor.h:47: CHECK(p) failed.  In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"),
        "free or add memory",
    ),
    (
        "types-of-newer-gpus",  # RTX 1.7
        ("IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:1500: run_passes] Cannot compile for target(s) sm86, because "
        "the model contains HW-specific datatypes: fp8_e4m3. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"),
        "holds fp8_e4m3, which GPUs that the engine is for (sm86) do not have; fp8_e4m3 needs compute capability 8.9",
    ),
    (
        "builder-bug",  # RTX 1.4
        ("IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1250: attachExceptionMsgToGraph] MyelinCheckException: "
        "cudnn_impl.cpp:1040: CHECK(dtype == myelinTypeFloat || dtype == myelinTypeHalf || dtype == myelinTypeBF16 || dtype == "
        "myelinTypeFP8E4M3) failed.  In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:1783)"),
        "failed: cudnn_impl.cpp:1040: CHECK(",
    ),
    ("no-formats", "2: [optimizer.cpp::getFormatRequirements::3103] Error Code 2: Internal Error (Assertion !n->candidateRequirements.empty() failed. No supported formats for softmax); 2: [builder.cpp::buildSerializedNetwork::751] Error Code 2: Internal Error (Assertion engine != nullptr failed. )", "`softmax`"),
    ("builder-resource", "TensorRT could not start its builder: 2: [builder.cpp::createCaskKernelLibraryImpl::166] Error Code 2: Internal Error (Assertion validateCaskKLibDigest(sha256sum) failed. )", "install this TensorRT again"),
    ("builder-bug", "1: [codeGenerator.cpp::compileGraph::894] Error Code 1: Myelin (No Myelin Error exists)", "No Myelin Error exists"),
    ("builder-bug", "../builder/myelin/codeGenerator.cpp (396) - Myelin Error in compileGraph: 64 ()", "another version"),
    ("unknown-option", "[E] Unknown option: --exportLayerInfo yolov5n.graph.json", "no option --exportLayerInfo"),
    ("no-output", "4: [network.cpp::validate::2633] Error Code 4: Internal Error (Network must have at least one output)", "no outputs"),
    ("weights-clamped", "onnx2trt_utils.cpp:222: One or more weights outside the range of INT32 was clamped", "do not fit INT32"),
    (
        "weights-cast",
        ("onnx2trt_utils.cpp:198: Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support INT64. "
        "Attempting to cast down to INT32."),
        "INT64 constants",
    ),
    (
        "tactic-skipped",
        ("Skipping tactic 3 due to insuficient memory on requested size of 449 detected for tactic 4.\nTry decreasing the workspace size "
        "with IBuilderConfig::setMaxWorkspaceSize()."),
        "asked for: 449",
    ),
    (
        "tactic-skipped",
        "UNSUPPORTED_STATESkipping tactic 4 due to insufficient memory on requested size of 66048 detected for tactic 0x000000000000001f.",
        "66048",
    ),
    ("tactic-skipped", "Some tactics do not have sufficient workspace memory to run. Increasing workspace size may increase performance", "--workspace"),
    ("cuda-driver", NO_GPU, "--sm"),
    (
        "cuda-driver",  # RTX 1.7, ComputeCapability.CURRENT
        ("IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (In generateForCurrent at /_src/runtime/core/cudaDeviceProfile.cpp:221 "
        "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"),
        "needs a GPU",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said"), SEEN, ids=[row[0] for row in SEEN])
def test_real_texts(name: str, text: str, said: str) -> None:
    found = explain(text)
    assert found is not None
    assert found.name == name
    assert said in f"{found.cause}; {found.remedy}"
    assert "?" not in found.cause  # a word that was not found


def test_a_gpu_less_machine_changes_no_diagnosis() -> None:
    """TensorRT-RTX adds CUDA error 35 to whatever went wrong."""
    for _, text, _ in SEEN:
        assert explain(f"{text}\n{NO_GPU}") == explain(text), text


def test_every_row_has_a_text_and_a_source() -> None:
    names = [row.name for row in _rows()]
    assert len(set(names)) == len(names)
    assert set(names) == {name for name, _, _ in SEEN}
    for row in _rows():
        assert row.source.startswith("["), row.name
        assert not row.cause.endswith("."), row.name


def test_every_word_of_a_row_is_a_group_of_its_patterns() -> None:
    for row in _rows():
        known = {key for pattern in (*row.patterns, *row.details) for key in pattern.groupindex}
        used = set(re.findall(r"\{(\w+)\}", row.cause + row.remedy))
        assert used <= known, row.name


@pytest.mark.parametrize("text", ["", "the builder returned no engine: TensorRT gave no reason", "No importer registered for op: Foo. Attempting to import as plugin."])  # fmt: skip
def test_unknown_texts_stay_unknown(text: str) -> None:
    assert explain(text) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_taken(text: str, log: str) -> None:
    explain(text, log)


def test_the_log_fills_in_what_the_error_leaves_out() -> None:
    text = f"In node 442 (importFallbackPluginImporter): UNSUPPORTED_NODE: Assertion failed: creator && {PLUGIN}"
    log = 'ModelImporter.cpp:720: While parsing node number 442 [GridSample -> "out"]:\nNode name: /warp/GridSample'
    found = explain(text, log)
    assert found is not None
    assert "`GridSample`" in found.cause
    assert "`/warp/GridSample`" in found.cause


def test_an_error_gets_its_cause_and_keeps_its_words() -> None:
    text = "the builder returned no engine: Error Code 10: Internal Error (Could not find any implementation for node Conv_1.)"
    log = (
        "[TRT] [W] Skipping tactic 0 due to insuficient memory on requested size of 1170309120 detected for tactic 0.",
    )
    found = diagnosed(JobFailed(text, hint="look at the log", details=log))
    assert type(found) is JobFailed
    assert (
        found.message
        == "no kernel for `Conv_1` fits into the memory that the builder has; one asked for 1170309120 bytes"
    )
    assert found.hint
    assert "--workspace" in found.hint
    assert found.details == (text, "hint: look at the log", *log)
    assert (
        type(diagnosed(OutOfMemory("Error Code 2: OutOfMemory (no further information)")))
        is OutOfMemory
    )


def test_the_logs_errors_speak_where_the_job_has_no_words_of_tensorrt() -> None:
    log = (
        (
            "[TensorRT ERROR] IOptimizationProfile::isValid: Error Code 4: API Usage Error (Invalid optimization profiles for input "
            "tensors image, please ensure that the optimization profiles satisfy MIN<=OPT<=MAX.)"
        ),
        f"[TensorRT ERROR] {NO_GPU}",
    )
    found = diagnosed(JobFailed("TensorRT refused the optimization profile {}", details=log))
    assert found.message.startswith("the shapes of input `image` are not in order")
    other = JobFailed("there is no room left on the disk", details=log)
    assert diagnosed(other) is other
    info = JobFailed(
        "TensorRT gave no reason", details=("[TensorRT INFO] out of ideas (out of memory)",)
    )
    assert diagnosed(info) is info


def test_warnings_are_no_causes() -> None:
    error = JobFailed("4: The timing cache will not be used!; something else failed")
    assert diagnosed(error) is error
    usage = UsageError("what trtenv says itself")
    assert diagnosed(usage) is usage
    cache = next(text for name, text, _ in SEEN if name == "timing-cache")
    assert explain(cache, warnings=False) is None
