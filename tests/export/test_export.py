"""The export job in a real PyTorch: what is written, and that it is what was asked."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from exporting import FIXED, HERE, IMAGE, MODELS, Worker

pytestmark = pytest.mark.venv
NET = MODELS / "net.py"


def run(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_constants_of_the_model_file_are_defaults(worker: Worker) -> None:
    done = worker.export(NET, save_samples=True, metadata={"trtenv.source": "net.py"})
    values, model = done.values, onnx.load(done.file)
    assert values["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    assert values["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 5]}]
    assert dims(model.graph.input[0]) == ["batch", 3, 8, 8]
    assert values["shapes"] == {"image": IMAGE}
    assert values["compared"] == ["opt", "min", "max"]
    assert values["reference"].startswith("onnxruntime ")
    assert values["comparison"]["logits"]["rel"] < 1e-5
    assert values["exporter"] == "torchscript"
    assert values["opset"] == model.opset_import[0].version <= 17
    assert values["source_files"] == [str(MODELS / "layers.py"), str(NET)]
    assert values["external_data"] == []
    assert values["parameters"] == 145
    assert values["nodes"] == len(model.graph.node)
    assert values["environment"]["torch"] == values["torch"]
    assert done.phases == [
        "loading model", "running in PyTorch", "exporting", "checking", "comparing",
    ]  # fmt: skip
    samples = np.load(done.out / samples_name(values))
    expected = samples["output/logits"]
    assert np.allclose(run(done.file, {"image": samples["input/image"]})[0], expected, atol=1e-5)


def samples_name(values: dict[str, str]) -> str:
    assert values["samples"] == "samples.npz"
    return values["samples"]


def test_the_file_tells_its_own_story(worker: Worker) -> None:
    done = worker.export(NET, metadata={"trtenv.source": "net.py"})
    found = {entry.key: entry.value for entry in onnx.load(done.file).metadata_props}
    assert list(found) == sorted(found)
    assert found["trtenv.source"] == "net.py"
    assert found["trtenv.torch"] == done.values["torch"]
    assert found["trtenv.opset"] == str(done.values["opset"])
    assert json.loads(found["trtenv.shapes"]) == {"image": IMAGE}
    assert json.loads(found["trtenv.inputs"])[0]["shape"] == ["batch", 3, 8, 8]


def test_two_exports_are_the_same_bytes_and_hold_no_path(worker: Worker) -> None:
    first, second = worker.export(NET, save_samples=True), worker.export(NET, save_samples=True)
    assert digest(first.file) == digest(second.file)
    assert digest(first.out / "samples.npz") == digest(second.out / "samples.npz")
    assert str(MODELS).encode() not in first.file.read_bytes()
    assert b".py" not in first.file.read_bytes()
    other = worker.export(NET, seed=1)
    assert digest(first.file) != digest(other.file)


def test_dynamo_writes_the_newest_opset_and_the_same_bytes(
    worker: Worker, torch_version: tuple[int, ...]
) -> None:
    if torch_version < (2, 6):
        pytest.skip("this torch has no dynamo exporter")
    done = worker.export(NET, max_opset=20)
    again = worker.export(NET, max_opset=20, exporter="dynamo")
    assert done.values["exporter"] == "dynamo"
    assert done.values["opset"] == onnx.load(done.file).opset_import[0].version
    assert 18 <= done.values["opset"] <= 20  # torch 2.6 does not convert upwards
    assert done.values["inputs"][0]["shape"] == ["batch", 3, 8, 8]
    assert done.values["outputs"][0]["shape"] == ["batch", 5]
    assert done.values["external_data"] == []
    assert digest(done.file) == digest(again.file)
    assert b".py" not in done.file.read_bytes()
    assert b"stack_trace" not in done.file.read_bytes()


def test_dynamo_with_several_inputs_dynamic_twice_and_nested_outputs(
    worker: Worker, torch_version: tuple[int, ...]
) -> None:
    if torch_version < (2, 6):
        pytest.skip("this torch has no dynamo exporter")
    ids = {"min": [1, 4], "opt": [1, 8], "max": [3, 16]}
    done = worker.export(
        NET, "Tokens", shapes={"ids": ids, "mask": ids}, dtypes={"ids": "int64"}, exporter="dynamo",
        max_opset=18,
    )  # fmt: skip
    assert [entry["name"] for entry in done.values["inputs"]] == ["ids", "mask"]
    assert done.values["compared"] == ["traced", "opt", "min", "max"]
    done = worker.export(NET, "Outputs", shapes={"image": IMAGE}, exporter="dynamo", max_opset=18)
    assert [entry["name"] for entry in done.values["outputs"]][1:] == ["maps_0", "maps_1", "rows"]


def test_an_opset_that_dynamo_cannot_write_falls_back_in_the_open(
    worker: Worker, torch_version: tuple[int, ...]
) -> None:
    if torch_version < (2, 6):
        pytest.skip("this torch has no dynamo exporter")
    error = worker.error(NET, opset=13, exporter="dynamo")
    assert error["kind"] == "opset"
    assert error["message"] == "the dynamo exporter wrote opset 18; asked was 13"


def test_height_and_width_may_be_dynamic(worker: Worker) -> None:
    shapes = {"image": {"min": [1, 3, 8, 8], "opt": [1, 3, 16, 8], "max": [4, 3, 32, 24]}}
    done = worker.export(NET, shapes=shapes)
    assert done.values["inputs"][0]["shape"] == ["batch", 3, "image_dim2", "image_dim3"]
    # A traced batch of 1 would be taken for a broadcast: 2 is traced, and 1 compared.
    assert done.values["compared"] == ["traced", "opt", "min", "max"]
    image = np.ones((3, 3, 11, 13), np.float32)
    assert run(done.file, {"image": image})[0].shape == (3, 5)


def test_fixed_shapes_give_a_static_graph(worker: Worker) -> None:
    done = worker.export(NET, shapes={"image": FIXED})
    assert done.values["inputs"][0]["shape"] == [1, 3, 8, 8]
    assert done.values["outputs"][0]["shape"] == [1, 5]
    assert done.values["compared"] == ["opt"]


def test_two_inputs_with_an_integer_and_an_optional_left_out(worker: Worker) -> None:
    ids = {"min": [1, 4], "opt": [2, 8], "max": [3, 16]}
    done = worker.export(
        NET, "Tokens", shapes={"mask": ids, "ids": ids}, dtypes={"ids": "int64"}, save_samples=True
    )
    assert done.values["inputs"] == [
        {"name": "ids", "dtype": "int64", "shape": ["batch", "ids_dim1"]},
        {"name": "mask", "dtype": "float32", "shape": ["batch", "mask_dim1"]},
    ]
    assert done.values["outputs"][0]["shape"] == ["batch", "logits_dim1", 4]
    samples = np.load(done.out / "samples.npz")
    assert set(samples["input/ids"].ravel()) == {0, 1}


def test_inputs_may_be_renamed_in_order(worker: Worker) -> None:
    ids = {"min": [1, 4], "opt": [1, 4], "max": [1, 4]}
    done = worker.export(
        NET, "Tokens", shapes={"tokens": ids}, dtypes={"tokens": "int64"}, input_names=["tokens"],
        output_names=["vectors"],
    )  # fmt: skip
    assert [entry["name"] for entry in done.values["inputs"]] == ["tokens"]
    assert [entry["name"] for entry in done.values["outputs"]] == ["vectors"]


def test_nested_outputs_are_flattened_and_named(worker: Worker) -> None:
    done = worker.export(NET, "Outputs", shapes={"image": IMAGE})
    names = [entry["name"] for entry in done.values["outputs"]]
    assert names == ["image_out", "maps_0", "maps_1", "rows"]  # `image` is the input
    assert "OUTPUT_NAMES logits is not used" in done.values["notes"][0]
    done = worker.export(NET, "Outputs", shapes={"": IMAGE}, output_names=["a", "b", "c", "d"])
    assert [entry["name"] for entry in done.values["outputs"]] == ["a", "b", "c", "d"]


def test_weights_beside_the_file_are_external_above_the_limit(worker: Worker) -> None:
    done = worker.export(NET, external_above=100, factory_args={"classes": 300})
    assert done.values["external_data"] == ["model.onnx.data"]
    assert (done.out / "model.onnx.data").stat().st_size >= 4800
    assert done.values["compared"] == ["opt", "min", "max"]
    run(done.file, {"image": np.ones((1, 3, 8, 8), np.float32)})
    again = worker.export(NET, external_above=100, factory_args={"classes": 300})
    assert digest(done.file) == digest(again.file)


def test_simplified_where_onnxslim_is_there(worker: Worker) -> None:
    done = worker.export(NET, simplify="auto")
    plain = worker.export(NET, simplify=False)
    assert plain.values["simplified"] is False
    if done.values["simplified"]:
        assert done.values["nodes"] <= plain.values["nodes"]
        assert done.values["comparison"]["logits"]["rel"] < 1e-5
        assert digest(done.file) == digest(worker.export(NET, simplify=True).file)
    else:
        assert worker.error(NET, simplify=True)["kind"] == "missing-module"


def test_without_verify_nothing_is_called_compared(worker: Worker) -> None:
    done = worker.export(NET, verify=False)
    assert done.values["comparison"] is None
    assert done.values["compared"] is None
    assert done.values["reference"] is None


def test_a_package_with_names_of_job_scripts(worker: Worker) -> None:
    fixed = {"min": [1, 3], "opt": [1, 3], "max": [1, 3]}
    for _ in range(2):  # the second time, nothing of the first may be left
        done = worker.export(MODELS / "package" / "export.py", shapes={"input": fixed})
        assert done.values["inputs"][0]["name"] == "input"
        assert len(done.values["source_files"]) == 3
    assert not list(MODELS.rglob("__pycache__"))


def test_an_input_that_no_output_needs_is_told(worker: Worker) -> None:
    done = worker.export(NET, "Unused", shapes={"image": FIXED, "spare": FIXED}, output_names=["y"])
    names = [entry["name"] for entry in done.values["inputs"]]
    assert names == ["image", "spare"] or "`spare`" in done.values["notes"][0]


@pytest.mark.parametrize(
    "name",
    [
        "plain.pt",
        "parallel.pt",
        "compiled.pt",
        "lightning.pt",
        "wrapped.pth",
        "old.pt",
        "plain.safetensors",
    ],
)
def test_weights_in_every_wrapping(worker: Worker, files: Path, name: str) -> None:
    done = worker.export(NET, weights=files / name, seed=9)
    expected = worker.export(NET, weights=files / "plain.pt", seed=3)
    assert done.file.read_bytes() == expected.file.read_bytes()
    stripped = [note for note in done.values["notes"] if "prefix" in note]
    assert bool(stripped) == (name in ("parallel.pt", "compiled.pt", "lightning.pt"))


@pytest.mark.parametrize("name", ["whole.pt", "traced.pt", "program.pt2"])
def test_models_that_bring_their_architecture(
    worker: Worker, files: Path, name: str, torch_version: tuple[int, ...]
) -> None:
    if name == "program.pt2" and torch_version < (2, 6):
        pytest.skip("this torch has no torch.export that its exporter takes")
    (files / "net.py").write_text(NET.read_text())
    (files / "layers.py").write_text((MODELS / "layers.py").read_text())
    done = worker.export(files / name, shapes={"": IMAGE}, max_opset=18)
    assert done.values["inputs"][0]["name"] in ("x", "input")  # torch 1.4 forgets the name
    assert done.values["inputs"][0]["shape"] == ["batch", 3, 8, 8]
    assert done.values["exporter"] == "dynamo" if name == "program.pt2" else True
    assert done.values["compared"] == ["opt", "min", "max"]


def test_scripted_modules_keep_their_names(
    worker: Worker, files: Path, torch_version: tuple[int, ...]
) -> None:
    if torch_version < (1, 5):
        pytest.skip("this torch exports no scripted Sequential")
    sizes = {"min": [1, 3], "opt": [4, 3], "max": [9, 3]}
    done = worker.export(files / "scripted.ts", shapes={"input": sizes}, max_opset=18)
    assert done.values["exporter"] == "torchscript"
    assert done.values["outputs"][0]["shape"] == ["batch", 4]


def test_yolov5_is_prepared_by_its_own_script(worker: Worker, files: Path) -> None:
    sizes = {"min": [1, 3, 16, 24], "opt": [2, 3, 16, 24], "max": [2, 3, 32, 24]}
    model = {"kind": "yolov5", "path": str(files / "yolov5.pt"), "repository": str(HERE / "yolov5")}
    done = worker.export(model, shapes={"images": sizes})
    assert done.values["inputs"][0]["shape"] == ["batch", 3, "images_dim2", 24]
    assert [entry["name"] for entry in done.values["outputs"]] == ["output0"]
    assert done.values["compared"] == ["opt", "min", "max"]
    found = {entry.key: entry.value for entry in onnx.load(done.file).metadata_props}
    assert found["names"] == "{0: 'coin', 1: 'hand'}"
    assert found["stride"] == "16"
    assert json.loads(found["trtenv.task"]) == done.values["task"]
    assert done.values["task"]["labels"] == ["coin", "hand"]
    assert not (files / "touched").exists()


def test_ultralytics_is_prepared_by_its_own_exporter(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "ultralytics").symlink_to(HERE / "fake" / "ultralytics")
    sizes = {"images": {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 24], "max": [2, 3, 16, 24]}}
    model = {"kind": "ultralytics", "path": str(tmp_path / "model.yaml"), "name": "model.yaml"}
    (tmp_path / "model.yaml").write_text("nc: 1\n")
    done = worker.export(model, shapes=sizes)
    assert [entry["name"] for entry in done.values["outputs"]] == ["output0"]
    found = {entry.key: entry.value for entry in onnx.load(done.file).metadata_props}
    assert found["task"] == "detect"
    assert "date" not in found
    pixels = {"resize": "letterbox", "colour": "rgb", "pad": 114, "multiple": 32}
    card = {"kind": "detection", "labels": ["coin"], "preprocess": pixels}
    assert json.loads(found["trtenv.task"]) == done.values["task"] == card


def test_the_task_card_is_the_models_and_the_users(worker: Worker, tmp_path: Path) -> None:
    stated = "TASK = 'classify'\nLABELS = 'abcdef'\n"
    (tmp_path / "layers.py").symlink_to(MODELS / "layers.py")
    (tmp_path / "stated.py").write_text(NET.read_text() + stated)
    wrong = worker.error(tmp_path / "stated.py")
    assert wrong["message"] == "`stated.py`: LABELS is wrong: 'abcdef'"
    (tmp_path / "stated.py").write_text(NET.read_text() + "TASK = 'classify'\n")
    names = {"labels": list("abcde"), "preprocess": {"pad": 0}}
    done = worker.export(tmp_path / "stated.py", task=names)
    assert done.values["task"] == {"kind": "classification", **names}
    (entry,) = [e for e in onnx.load(done.file).metadata_props if e.key == "trtenv.task"]
    assert json.loads(entry.value) == done.values["task"]
    assert worker.export(NET).values["task"] is None
    error = worker.error(NET, task={"labels": ["a"] * 4, "kind": "classification"})
    assert error["message"] == "4 labels for the 5 classes of the output"
