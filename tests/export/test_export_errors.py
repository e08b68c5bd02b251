"""What the export job says when it cannot: each text names the cause, the value seen and a way out."""

import os
import subprocess
from pathlib import Path

import pytest
from exporting import FIXED, HERE, IMAGE, MODELS, Worker

pytestmark = pytest.mark.venv
NET = MODELS / "net.py"


def test_the_models_own_exception_is_shown_with_its_own_frames(worker: Worker) -> None:
    error = worker.error(NET, "fails")
    first, *frames = error["message"].splitlines()
    assert error["kind"] == "model-raised"
    assert first == "`net.py:fails` raised ValueError: depth must be even"
    assert frames[0].startswith('  File "net.py", line ')
    assert frames[-1].strip() == 'raise ValueError("depth must be even")'
    assert "worker.py" not in error["message"]


def test_a_model_that_calls_exit_does_not_end_the_worker(worker: Worker) -> None:
    error = worker.error(NET, "leaves")
    assert error["message"].startswith("`net.py:leaves` raised SystemExit: 3")


def test_a_missing_library_is_named(worker: Worker) -> None:
    error = worker.error(MODELS / "broken.py")
    assert error["kind"] == "model-raised"
    assert "No module named 'a_library_that_is_not_here'" in error["message"]
    assert error["hint"].startswith("this environment has no module `a_library_that_is_not_here`")


def test_syntax_errors_show_the_line(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "typo.py"
    path.write_text("def model(:\n    pass\n")
    error = worker.error(path)
    assert error["message"].startswith("`typo.py` raised ")
    assert 'File "typo.py", line 1' in error["message"]


def test_a_misspelt_factory(worker: Worker) -> None:
    error = worker.error(NET, "modle")
    assert error["kind"] == "factory"
    assert error["message"].startswith("`net.py` has no function `modle`; it has Big, Frozen, Net,")
    assert error["hint"] == "did you mean net.py:model?"


def test_a_factory_that_returns_no_module(worker: Worker) -> None:
    error = worker.error(NET, "text")
    assert error["kind"] == "not-a-module"
    assert error["message"] == "`net.py:text` returned str, not a torch.nn.Module"


def test_an_argument_the_factory_does_not_take(worker: Worker) -> None:
    error = worker.error(NET, factory_args={"widht": 3})
    assert error["kind"] == "model-raised"
    assert "unexpected keyword argument 'widht'" in error["message"]


def test_unknown_input_names(worker: Worker) -> None:
    error = worker.error(NET, shapes={"imag": IMAGE})
    assert error["kind"] == "unknown-input"
    assert error["message"] == "the model has no input `imag`; its inputs are `x`"
    error = worker.error(NET, shapes={"image": IMAGE}, dtypes={"imgae": "float16"})
    assert error["hint"] == "did you mean `image`?"
    assert "its inputs are `image`; forward() takes `x`" in error["message"]


def test_a_required_input_without_a_shape(worker: Worker) -> None:
    error = worker.error(NET, "Unused", shapes={"image": FIXED})
    assert error["kind"] == "no-shape"
    assert error["message"] == "input `spare` of the model has no shape"
    assert error["hint"].startswith("add --shapes spare:1x3x224x224")


def test_the_wrong_rank(worker: Worker) -> None:
    three = {"min": [3, 8, 8], "opt": [3, 8, 8], "max": [3, 8, 8]}
    error = worker.error(NET, shapes={"image": three})
    assert error["kind"] == "wrong-rank"
    assert error["message"].startswith("forward() fails at the opt shapes (image:3x8x8): ")
    assert error["hint"] == (
        "shape 3x8x8 of input `image` has another rank than the model file's 2x3x8x8"
    )


def test_shapes_that_forward_refuses(worker: Worker) -> None:
    five = {key: [2, 5, 8, 8] for key in IMAGE}
    error = worker.error(NET, shapes={"image": five})
    assert error["kind"] == "forward-failed"
    assert error["message"].startswith("forward() fails at the opt shapes (image:2x5x8x8): ")
    assert "to have 3 channels, but got 5 channels" in error["message"]
    assert 'File "net.py", line ' in error["message"]


def test_a_range_whose_end_forward_refuses(worker: Worker) -> None:
    sizes = {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [1, 4, 8, 8]}
    error = worker.error(NET, shapes={"image": sizes})
    assert error["kind"] == "forward-failed"
    assert "(image:1x4x8x8)" in error["message"]


def test_floats_for_token_ids(worker: Worker) -> None:
    sizes = {key: [1, 4] for key in IMAGE}
    error = worker.error(NET, "Tokens", shapes={"ids": sizes})
    assert error["kind"] == "forward-failed"
    assert error["hint"] == (
        'inputs are float32 unless the model file says otherwise: DTYPES = {"NAME": "int64"}'
    )


def test_an_opset_out_of_range(worker: Worker) -> None:
    error = worker.error(NET, opset=5)
    assert error["kind"] == "opset"
    assert error["message"].startswith("opset 5 cannot be written here: torchscript 7 to ")
    error = worker.error(NET, opset=99)
    assert error["message"].startswith("opset 99 cannot be written here: ")


def test_an_operator_without_onnx_form(worker: Worker, torch_version: tuple[int, ...]) -> None:
    error = worker.error(NET, "Unsupported", shapes={"image": FIXED}, exporter="torchscript")
    assert error["kind"] == "unsupported-operator"
    assert "the torchscript exporter cannot write operator `" in error["message"]
    if torch_version >= (2, 6):
        error = worker.error(
            NET, "Unsupported", shapes={"image": FIXED}, exporter="dynamo", opset=18
        )
        assert error["kind"] == "unsupported-operator"
        assert error["message"].startswith("the dynamo exporter cannot write operator `")


def test_every_exporter_that_was_tried_is_told(
    worker: Worker, torch_version: tuple[int, ...]
) -> None:
    if torch_version < (2, 6):
        pytest.skip("this torch has one exporter")
    done = worker.run(NET, "Unsupported", shapes={"image": FIXED}, opset=18)
    lines = done.error["message"].splitlines()
    assert [line.split(" exporter ")[0] for line in lines] == ["the dynamo", "the torchscript"]
    assert done.logs[0].startswith("the dynamo exporter was tried first: ")


def test_a_batch_that_the_trace_froze(worker: Worker) -> None:
    error = worker.error(NET, "Frozen", shapes={"image": IMAGE}, exporter="torchscript")
    assert error["kind"] == "frozen-dimension"
    assert "at the min shapes (image:1x3x8x8)" in error["message"]
    assert "net.py:" in error["message"]  # the tracer's own warning names the line
    assert "Python integer" in error["message"]


def test_a_batch_that_dynamo_froze(worker: Worker, torch_version: tuple[int, ...]) -> None:
    if torch_version < (2, 6):
        pytest.skip("this torch has no dynamo exporter")
    error = worker.error(NET, "Frozen", shapes={"image": IMAGE}, exporter="dynamo", opset=18)
    assert error["kind"] == "frozen-dimension"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.pt", "the file lacks `head.bias`, `head.weight`"),
        ("unknown.pt", "the model does not know `spare`"),
        ("size.pt", "`head.weight` has shape (5, 4) in the model and (9, 4) in the file"),
        ("list.pt", "list.pt` holds no state_dict, but list"),
    ],
)
def test_weights_that_do_not_fit(worker: Worker, files: Path, name: str, text: str) -> None:
    error = worker.error(NET, weights=files / name)
    assert error["kind"] == "weights"
    assert text in error["message"]


def test_bytes_that_are_no_weights(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert "is no safetensors file" in worker.error(NET, weights=path)["message"]
    path = tmp_path / "cut.pt"
    path.write_bytes(b"PK\3\4")
    assert "torch cannot read" in worker.error(NET, weights=path)["message"]
    assert "is no file that torch writes" in worker.error(path)["message"]


def test_weights_alone_are_no_model(worker: Worker, files: Path) -> None:
    error = worker.error(files / "plain.pt")
    assert error["message"].endswith("holds weights only: a state_dict has no architecture")
    assert error["hint"].endswith("FILE.py:FACTORY --weights plain.pt")


def test_a_pickle_without_its_code(worker: Worker, files: Path, tmp_path: Path) -> None:
    copy = tmp_path / "whole.pt"
    copy.write_bytes((files / "whole.pt").read_bytes())
    error = worker.error(copy, shapes={"": IMAGE})
    assert error["kind"] == "weights"
    assert "was pickled with code that is not here: No module named 'net'" in error["message"]


def test_dynamo_takes_no_torchscript(worker: Worker, files: Path) -> None:
    error = worker.error(files / "traced.pt", shapes={"": IMAGE}, exporter="dynamo")
    assert error["message"] == "the dynamo exporter takes no TorchScript"


def test_a_tolerance_that_does_not_hold(worker: Worker) -> None:
    limits = {"rel": 1e-12, "max_abs": 9e9}
    error = worker.error(
        NET, "Big", shapes={"image": IMAGE}, tolerance=limits, exporter="torchscript"
    )
    assert error["kind"] == "mismatch"
    assert error["message"].startswith("output `logits` differs from PyTorch's at the opt shapes (")
    assert error["message"].endswith("(allowed: rel 1e-12)")


def test_yolov5_elsewhere(worker: Worker, files: Path) -> None:
    error = worker.error(files / "yolov5.pt", shapes={"images": FIXED})
    assert error["kind"] == "missing-module"
    assert "/usr/src/app/export.py" in error["message"]


def test_yolo_names_that_would_have_to_be_downloaded(worker: Worker) -> None:
    model = {
        "kind": "yolov5",
        "path": None,
        "name": "yolov5s.pt",
        "repository": str(HERE / "yolov5"),
    }
    error = worker.error(model, shapes={"images": FIXED})
    assert error["message"] == "`yolov5s.pt` does not exist here, and jobs do not download"
    error = worker.error(model)
    assert error["hint"] == "add --shapes images:1x3x640x640"


def test_an_exporter_of_ultralytics_that_fails(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "ultralytics").symlink_to(HERE / "fake" / "ultralytics")
    (tmp_path / "raises.yaml").touch()
    model = {"kind": "ultralytics", "path": str(tmp_path / "raises.yaml"), "name": "raises.yaml"}
    error = worker.error(model, shapes={"images": FIXED})
    assert error["kind"] == "exporter-failed"
    assert error["message"].startswith("ultralytics 0.0-fake could not prepare the model: KeyError")


def test_the_process_is_as_it_was_after_all_these_failures(
    worker: Worker, torch_python: str
) -> None:
    assert worker.export(NET).values["onnx"] == "model.onnx"
    code = "import torch, onnx, sys; sys.stdout.write(torch.onnx.export.__module__)"
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.check_output([torch_python, "-c", code], env=environ, text=True)
    assert found.startswith("torch.onnx")
