"""What tells the precision of a layer: the names that TensorRT has for types and for kernels. Python 3.6 to 3.13."""

import re

PRECISIONS = {
    "float": "fp32", "fp32": "fp32", "float32": "fp32", "half": "fp16", "fp16": "fp16", "float16": "fp16",
    "bfloat16": "bf16", "bf16": "bf16", "int8": "int8", "uint8": "int8", "int4": "int4",
    "fp8": "fp8", "float8": "fp8", "float8_e4m3fn": "fp8", "e4m3": "fp8", "fp4": "fp4", "e2m1": "fp4",
    "int32": "int32", "int64": "int64", "bool": "bool",
}  # fmt: skip
INTEGERS = ("int32", "int64", "bool")  # indices and masks: they say nothing of the precision
WORD = re.compile(r"(?i)\b(%s)\b" % "|".join(PRECISIONS))

# Layers that only move data. Their formats would fake a precision: an FP32 engine for FP16 inputs
# has FP16 reformats. Types are those of the inspector and the log, and names of trt.LayerType.
MOVES = re.compile(
    r"(?i)(reformat|no_?op|shuffle|constant|shape|device_?to|slice|pad|copy|concat|gather|identity|"
    r"cast|quantize|dequantize|memcpy|signal|wait|(un)?squeeze|train_?station|trip_?limit|iterator|"
    r"loop|recurrence|condition|assertion|fill|select|non_?zero|one_?hot|reverse)"
)
MYELIN_MOVES = re.compile(r"__myl_(Move|Cast)+_")  # generated kernels are named by what they do
PRODUCTS = re.compile(
    r"(?i)conv|gemm|mat(rix_?)?mul|fully_?connected|rnn|lstm|einsum|attention|myelin"
)

# xmma kernels: types of input and output, of the product and its sum, of the scaling after it, as in
# sm80_xmma_gemm_f32f32_tf32f32_f32. Where the third pair is one type, the input's type decides.
TYPE = r"(tf32|bf16|f64|f32|f16|i8|u8|i32|i4|e4m3|e5m2|e2m1)"
XMMA = re.compile(r"_%s%s_%s%s?_" % (TYPE, TYPE, TYPE, TYPE))
XMMA_TYPES = {
    "tf32": "tf32", "bf16": "bf16", "f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8",
    "i4": "int4", "e4m3": "fp8", "e5m2": "fp8", "e2m1": "fp4",
}  # fmt: skip
# Words in the names of all other kernels (cuDNN, CUTLASS, cuBLAS), the most telling first:
# turing_fp16_i8816cudnn_int8 is INT8 with FP16 outputs.
KERNEL_WORDS = (
    ("int8", r"i8816|i16832|imma|int8|igemm|icudnn"),
    ("fp8", r"e4m3|e5m2|fp8|qmma"),
    ("tf32", r"tf32"),
    ("bf16", r"bf16"),
    ("fp16", r"h884|h1688|h16816|hmma|hgemm|hcudnn|fp16|(?<![a-z0-9])f16"),
    ("fp32", r"scudnn|sgemm|fp32|simt"),
)
TENSOR_CORE = re.compile(r"s1688|s16816")  # single-precision sums: of TF32 where the data is FP32


class Layer(object):
    """`inputs` and `outputs` hold a precision per tensor, None where it is not told."""

    def __init__(self, name, kind, kernel="", weights=(None, 0), inputs=(), outputs=()):
        self.name = name
        self.kind = kind
        self.kernel = kernel
        self.weights, self.count = weights
        self.inputs = list(inputs)
        self.outputs = list(outputs)

    def moves(self):
        return bool(MOVES.match(self.kind) or MYELIN_MOVES.match(self.name))

    def is_product(self):
        return bool(self.count or PRODUCTS.search(self.kind) or "gemm" in self.kernel)

    def precision(self):
        """None where nothing tells it, or where the tensors tell different things."""
        by_name = kernel_precision(self.kernel)
        if by_name or self.moves():
            return by_name
        told = [one for one in self.inputs if one not in INTEGERS] or self.outputs
        # Of a product the first input is the data; others may be what is added to the result.
        told = set(told[:1] if self.is_product() else told)
        storage = self.weights or (told.pop() if len(told) == 1 else None)
        if storage == "fp32" and TENSOR_CORE.search(self.kernel):
            return "tf32"
        if storage == "fp32" and self.kind == "Myelin":
            return None  # a whole subgraph, which may convert inside
        return storage


def kernel_precision(kernel):
    name = re.sub(r"0x[0-9a-f]+", "", kernel.lower())  # a hash may hold "f16"
    types = XMMA.search(name)
    if types:
        first, _, product, total = types.groups()
        return XMMA_TYPES.get(product if total else first)
    return next((precision for precision, words in KERNEL_WORDS if re.search(words, name)), None)


def to_precision(text):
    """Of "Half", "Channel major FP16 format where channel % 8 == 0" or "DataType.HALF"; or None."""
    found = WORD.search(str(text))
    return PRECISIONS[found.group(1).lower()] if found else None
