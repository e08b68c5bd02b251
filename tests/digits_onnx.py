"""The digits example as ONNX, without torch: its trained weights, normalisations folded in."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EXAMPLES = Path(__file__).parents[1] / "examples"
PICTURES = (0, 3, 5, 8)
# Layer of examples/digits.py, stride of its convolution, whether a pooling follows.
BLOCKS = ((0, 1, True), (2, 1, True), (4, 1, False), (5, 2, False))


def pictures() -> np.ndarray:
    """The four pictures of examples/data as the model takes them: 4x1x32x32."""
    from PIL import Image

    found = []
    for digit in PICTURES:
        with Image.open(EXAMPLES / "data" / f"digit_{digit}.png") as image:
            found.append(np.asarray(image.convert("L"), np.float32) / 255)
    return np.stack(found)[:, None]


def write_digits(path: Path, name: str = "image") -> Path:
    """Input `name` Nx1x32x32, output `logits` Nx10, opset 17."""
    values = read_safetensors(EXAMPLES / "digits.safetensors")
    nodes, weights, last = [], {}, name
    for number, (layer, stride, pool) in enumerate(BLOCKS):
        block = f"features.{layer}"
        factor = values[f"{block}.1.weight"] / np.sqrt(values[f"{block}.1.running_var"] + 1e-5)
        shift = values[f"{block}.1.running_mean"] * factor
        weights[f"w{number}"] = values[f"{block}.0.weight"] * factor[:, None, None, None]
        weights[f"b{number}"] = values[f"{block}.1.bias"] - shift
        inputs, last = [last, f"w{number}", f"b{number}"], f"r{number}"
        size = {"pads": [1] * 4, "strides": [stride] * 2}
        nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], f"conv{number}", **size))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [last]))
        if pool:
            half = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(helper.make_node("MaxPool", [last], [f"p{number}"], **half))
            last = f"p{number}"
    weights |= {"w": values["classifier.weight"], "b": values["classifier.bias"]}
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["g"]))
    nodes.append(helper.make_node("Flatten", ["g"], ["f"]))
    nodes.append(helper.make_node("Gemm", ["f", "w", "b"], ["logits"], "classifier", transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            array = np.frombuffer(data[start + first : start + last], np.float32)
            found[name] = array.reshape(entry["shape"])
    return found
