"""The export job's pure parts, in the interpreter of this test and, as a program, in any from 3.6 on.

python test_jobs_export_pure.py runs every test here with nothing but the standard library.
"""

# Python 3.6 reads this, so:
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, PTH100, PTH103, PTH110, PTH118, PTH120, PTH123, PYI024, UP031

import enum
import os
import pickle
import sys
import tempfile
import typing
import zipfile
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "trtenv", "jobs")
sys.path.insert(0, os.path.abspath(JOBS))

import checkpoints
import export_inputs
import exporters
import models
import onnx_check
import taskcards
from worker import JobError

RANGE = {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}
FIXED = {"min": [1, 3], "opt": [1, 3], "max": [1, 3]}
BOTH = {"torchscript": (7, 20), "dynamo": (7, 23)}


def refused(function, *args):
    try:
        function(*args)
    except JobError as error:
        return error
    raise AssertionError("nothing was refused")


def test_the_grammar_of_shapes_is_the_hosts():
    parse = export_inputs.parse_shapes
    assert parse("image:1x3x8x8..2x3x8x8..4x3x8x8") == {"image": RANGE}
    assert parse("a:1x3, b:scalar") == {"a": FIXED, "b": {"min": [], "opt": [], "max": []}}
    assert parse("input:0:1x3..4x3") == {"input:0": dict(FIXED, opt=[4, 3], max=[4, 3])}
    assert parse("1x3") == {"": FIXED}
    assert refused(parse, "image:1x-1").kind == "shapes"
    assert refused(parse, "a:1..2..3..4").kind == "shapes"


def test_given_shapes_replace_the_constants_of_the_file():
    wanted = export_inputs.wanted_shapes
    assert wanted({}, "a:1x3") == {"a": FIXED}
    assert wanted({"a": RANGE}, "a:1x3,b:1x3") == {"a": RANGE, "b": FIXED}
    assert wanted({"c": RANGE}, "a:1x3") == {"c": RANGE}
    assert refused(wanted, {"a": dict(FIXED, max=[1])}, None).kind == "wrong-rank"
    assert refused(wanted, {"a": dict(FIXED, max=[0, 3])}, None).kind == "shapes"


def test_inputs_are_matched_with_forward():
    def forward(image, scale=None, *more, **options):
        raise NotImplementedError

    signature = export_inputs.read_signature(forward)
    assert (signature.names, signature.required) == (["image", "scale"], {"image"})
    make = export_inputs.make_inputs
    (only,) = make(signature, {"": RANGE}, {}, [])
    assert (only.name, only.parameter, only.dtype) == ("image", "image", "float32")
    (renamed,) = make(signature, {"x": RANGE}, {"x": "float16"}, ["x"])
    assert (renamed.name, renamed.parameter, renamed.dtype) == ("x", "image", "float16")
    both = make(signature, {"scale": FIXED, "image": RANGE}, {}, [])
    assert [entry.name for entry in both] == ["image", "scale"]
    error = refused(make, signature, {"imge": RANGE}, {}, [])
    assert error.message == "the model has no input `imge`; its inputs are `image`, `scale`"
    assert error.hint == "did you mean `image`?"
    assert refused(make, signature, {"scale": FIXED}, {}, []).kind == "no-shape"
    two = export_inputs.Signature(["a", "b"])
    assert refused(make, two, {"": FIXED}, {}, []).kind == "unknown-input"
    assert refused(make, two, {"a": FIXED}, {}, ["a", "b", "c"]).kind == "unknown-input"


def test_parameters_that_can_only_be_passed_by_name():
    def forward(a, b=None, *, c=None):
        raise NotImplementedError

    signature = export_inputs.read_signature(forward)
    assert [signature.leading(given) for given in (["a", "b"], ["a", "c"], ["a", "b", "c"])] == [
        2, 1, 2,
    ]  # fmt: skip


def test_forward_with_any_number_of_inputs_takes_the_names_given():
    signature = export_inputs.Signature([], variadic=True)
    made = export_inputs.make_inputs(signature, {"a": FIXED, "b": FIXED}, {}, [])
    assert [entry.name for entry in made] == ["a", "b"]


def test_dynamic_axes_share_the_batch_where_the_ranges_are_equal():
    def entry(name, low, high):
        return export_inputs.Input(name, name, "float32", {"min": low, "opt": high, "max": high})

    inputs = [entry("a", [1, 3], [4, 3]), entry("b", [1, 2], [4, 9]), entry("c", [1], [7])]
    labels = export_inputs.axis_labels(inputs)
    assert labels == {"a": {0: "batch"}, "b": {0: "batch", 1: "b_dim1"}, "c": {0: "c_dim0"}}


def test_a_dynamic_size_of_one_is_traced_as_two():
    entry = export_inputs.Input("a", "a", "float32", dict(RANGE, opt=[1, 3, 8, 8]))
    assert entry.traced() == [2, 3, 8, 8]
    assert export_inputs.Input("a", "a", "float32", FIXED).traced() == [1, 3]


def test_axes_of_outputs_that_change_are_dynamic():
    runs = [
        {"batch": 2, "outputs": {"y": (2, 5), "n": (6,)}},
        {"batch": 1, "outputs": {"y": (1, 5), "n": (3,)}},
    ]
    assert export_inputs.output_labels(runs) == {"y": {0: "batch"}, "n": {0: "n_dim0"}}


def test_outputs_are_flattened_with_their_own_names():
    def flat(value):
        return [name for name, _ in export_inputs.flatten(value, lambda x: isinstance(x, float))]

    pair = namedtuple("pair", "boxes scores")
    assert flat(1.0) == ["output"]
    assert flat([1.0]) == ["output"]
    assert flat((1.0, None, [1.0, "text", 1.0])) == ["output0", "output2_0", "output2_2"]
    assert flat(OrderedDict([("b", 1.0), ("a", {"c": 1.0})])) == ["b", "a_c"]
    assert flat(pair(1.0, (1.0, 2.0))) == ["boxes", "scores_0", "scores_1"]
    assert flat(3) == []


def test_names_of_outputs_are_unique_and_not_those_of_inputs():
    inputs = [export_inputs.Input("image", "image", "float32", FIXED)]
    names = export_inputs.output_names
    assert names(["image", "a", "a"], None, inputs) == ["image_out", "a", "a_2"]
    assert names(["image"], ["mask"], inputs) == ["mask"]
    assert refused(names, ["a", "b"], ["mask"], inputs).kind == "output-names"


def test_the_exporter_is_chosen_by_opset_and_kind_of_model():
    def chosen(scripted=False, program=False, ranges=BOTH, known=23, **params):
        return exporters.plan(ranges, params, known, scripted, program)

    old = {"torchscript": (7, 11)}
    assert chosen(max_opset=17) == [("torchscript", 17), ("dynamo", 17)]
    assert chosen(max_opset=21) == [("dynamo", 21), ("torchscript", 20)]
    assert chosen(max_opset=25) == [("dynamo", 23), ("torchscript", 20)]
    assert chosen(opset=22, max_opset=23) == [("dynamo", 22)]
    assert chosen(opset=13, exporter="dynamo") == [("dynamo", 13)]
    assert chosen(max_opset=23, scripted=True) == [("torchscript", 20)]
    assert chosen(max_opset=13, program=True)[0] == ("dynamo", 13)
    assert chosen(max_opset=17, ranges=old) == [("torchscript", 11)]
    assert chosen(max_opset=17, known=9) == [("torchscript", 9), ("dynamo", 9)]
    assert refused(exporters.plan, old, {"opset": 13}, 23, False, False).message == (
        "opset 13 cannot be written here: torchscript 7 to 11; the onnx package knows up to 23"
    )
    assert refused(exporters.plan, old, {"exporter": "dynamo"}, 23, False, False).kind == "exporter"
    assert refused(exporters.plan, BOTH, {"exporter": "dynamo"}, 23, True, False).kind == "exporter"


def test_prefixes_of_weights():
    strip = checkpoints.strip_prefixes
    expected = {"a.w": 0, "b.w": 0}
    assert strip(expected, expected) == (expected, "")
    assert strip({"module.a.w": 0, "module.b.w": 0}, expected) == (expected, "module.")
    assert strip({"net.a.w": 0, "net.b.w": 0}, expected) == (expected, "net.")
    other = {"net.a.w": 0, "net.c.w": 0}
    assert strip(other, expected) == (other, "")
    assert strip({"module.x": 0}, expected) == ({"x": 0}, "module.")


def test_pickles_are_told_apart_without_running_them():
    assert checkpoints.classify(["torch._utils", "collections", "torch"]) == "weights"
    assert checkpoints.classify(["torch._utils", "ultralytics.nn.tasks"]) == "ultralytics"
    assert checkpoints.classify(["models.yolo", "torch.nn.modules.conv"]) == "yolov5"
    assert checkpoints.classify(["torch.nn.modules.linear", "collections"]) == "module"
    folder = tempfile.mkdtemp()
    for protocol in range(2, min(pickle.HIGHEST_PROTOCOL, 4) + 1):
        path = os.path.join(folder, "pickled.pt")
        with open(path, "wb") as handle:
            for part in (1, 2, 3, {"weights": OrderedDict(), "function": os.path.join}):
                pickle.dump(part, handle, protocol)
        assert checkpoints.sniff(path) == "module"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(OrderedDict(), protocol))
        assert checkpoints.sniff(path) == "weights"


def test_archives_are_told_by_their_directory():
    folder = tempfile.mkdtemp()
    for names, kind in (
        (["m/code/net.py", "m/constants.pkl", "m/data.pkl"], "torchscript"),
        (["serialized_exported_program.json"], "exported"),
        (["m/models/model.json", "m/archive_format"], "exported"),
        (["word/document.xml"], "unknown"),
    ):
        path = os.path.join(folder, "file.pt")
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        assert checkpoints.sniff(path) == kind
    with open(path, "wb") as handle:
        handle.write(b"text")
    assert checkpoints.sniff(path) == "unknown"
    assert checkpoints.sniff("weights.safetensors") == "safetensors"


def test_a_models_modules_do_not_meet_ours_and_are_forgotten():
    folder = os.path.realpath(tempfile.mkdtemp())
    with open(os.path.join(folder, "models.py"), "w") as handle:
        handle.write("import export_inputs\nNAME = 'theirs'\n")
    with open(os.path.join(folder, "export_inputs.py"), "w") as handle:
        handle.write("NAME = 'theirs too'\n")
    path = list(sys.path)
    with models.own_imports([folder]) as files:
        theirs = __import__("models")
        assert (theirs.NAME, theirs.export_inputs.NAME) == ("theirs", "theirs too")
        found = files()
    assert found == [os.path.join(folder, name) for name in ("export_inputs.py", "models.py")]
    assert sys.modules["models"] is models
    assert sys.modules["export_inputs"] is export_inputs
    assert sys.path == path
    assert not os.path.exists(os.path.join(folder, "__pycache__"))


def test_a_file_in_a_package_is_imported_by_its_full_name():
    folder = os.path.realpath(tempfile.mkdtemp())
    inner = os.path.join(folder, "outer", "inner")
    os.makedirs(inner)
    for place in (os.path.dirname(inner), inner):
        open(os.path.join(place, "__init__.py"), "w").close()
    path = os.path.join(inner, "net.py")
    assert models.package_name(path) == ("outer.inner.net", os.path.join(folder, "outer"))
    assert models.folders_of({"kind": "python", "path": path}) == [inner, folder]


def test_the_trace_starts_in_the_models_folder():
    folder = os.path.realpath(tempfile.mkdtemp())
    path = os.path.join(folder, "net.py")
    with open(path, "w") as handle:
        handle.write("def model():\n    return 1 / 0\n")
    with models.own_imports([folder]):
        module = models.import_file(path)
        try:
            module.model()
        except ZeroDivisionError as error:
            lines = models.model_trace(error, folder).splitlines()
    assert lines[0] == "ZeroDivisionError: division by zero"
    assert lines[1] == '  File "net.py", line 2, in model'
    assert len([line for line in lines if line.startswith("  File ")]) == 1


def test_every_limit_of_the_tolerance_must_hold_above_the_noise():
    def verdict(largest, relative, **tolerance):
        onnx_check.verdict("y", {"max_abs": largest, "rel": relative}, tolerance, "at 1x3")

    verdict(0.5, 1e-4, rel=1e-3)
    verdict(1e-7, 99.0, rel=1e-3)  # zero but for rounding
    verdict(0.5, 0.5, rel=None)
    onnx_check.verdict("y", {"max_abs": 0.1, "rel": 0}, {"max_abs": 1e-3}, "", scale=640.0)
    error = refused(lambda: verdict(0.5, 0.5, rel=1e-3, max_abs=1.0))
    assert error.message == (
        "output `y` differs from PyTorch's at 1x3: max abs 0.5, relative 0.5 (allowed: rel 0.001)"
    )
    assert refused(lambda: verdict(float("inf"), 0.0)).message.startswith(
        "output `y` is NaN or inf"
    )


def test_the_task_card_of_a_model_file():
    def card(**constants):
        return taskcards.of_constants(constants, "net.py", [])

    assert card(TASK="detect", LABELS={1: "b", "0": "a"}) == {
        "kind": "detection",
        "labels": ["a", "b"],
    }
    pixels = {"size": (32, 32), "scale": 1, "std": None}
    assert card(TASK="classification", LAYOUT="logits", PREPROCESS=pixels) == {
        "kind": "classification",
        "layout": "logits",
        "preprocess": {"size": [32, 32], "scale": 1.0},
    }
    notes = []
    assert taskcards.of_constants({"LABELS": ["a"], "SHAPES": "1x3"}, "net.py", notes) is None
    assert notes == ["LABELS of `net.py` is not used: it has no TASK"]


def test_wrong_constants_of_a_task_are_named():
    for constants, message, hint in (
        ({"TASK": "pose"}, "TASK is wrong: 'pose'", "one of classification, detection"),
        ({"TASK": ["a"]}, "TASK is wrong: ['a']", "one of classification"),
        ({"LABELS": "coin"}, "LABELS is wrong: 'coin'", "a list of texts"),
        ({"LABELS": []}, "LABELS is wrong: []", "a list of texts"),
        ({"LABELS": {1: "a"}}, "LABELS is wrong: {1: 'a'}", "0, 1, 2 and so on"),
        ({"LAYOUT": "yolo"}, "LAYOUT is wrong: 'yolo'", "yolov5, yolov8"),
        ({"PREPROCESS": "rgb"}, "PREPROCESS is wrong: 'rgb'", "a dict with some of colour, crop"),
        ({"PREPROCESS": {"sice": 3}}, "a key of PREPROCESS is wrong: 'sice'", "size, std"),
        ({"PREPROCESS": {"size": 0}}, "PREPROCESS['size'] is wrong: 0", "positive whole number"),
        ({"PREPROCESS": {"crop": [1]}}, "PREPROCESS['crop'] is wrong: [1]", "[HEIGHT, WIDTH]"),
        ({"PREPROCESS": {"std": [0]}}, "PREPROCESS['std'] is wrong: [0]", "other than 0"),
        ({"PREPROCESS": {"mean": 0.5}}, "PREPROCESS['mean'] is wrong: 0.5", "a list of one number"),
        ({"PREPROCESS": {"pad": 0.5}}, "PREPROCESS['pad'] is wrong: 0.5", "0 to 255"),
        ({"PREPROCESS": {"scale": 10**999}}, "PREPROCESS['scale'] is wrong: 1000", ""),
        ({"PREPROCESS": {"scale": float("nan")}}, "PREPROCESS['scale'] is wrong: nan", "a number"),
    ):
        given = dict({"TASK": "detection"}, **constants)
        error = refused(taskcards.of_constants, given, "net.py", [])
        assert error.kind == "task"
        assert error.message.startswith("`net.py`: " + message), error.message
        assert hint in error.hint


def test_what_the_user_says_of_a_task_comes_first():
    own = {"kind": "detection", "labels": ["a"], "preprocess": {"pad": 0, "size": 3}}
    merged = taskcards.merged
    assert merged(own, {}) is own
    assert merged(None, {}) is None
    assert merged(own, {"labels": ["b"]}) == dict(own, labels=["b"])
    assert merged(own, {"preprocess": {"size": 4}})["preprocess"] == {"pad": 0, "size": 4}
    assert merged(own, {"kind": "classification"}) == {"kind": "classification"}
    error = refused(merged, None, {"labels": ["b"], "layout": "logits"})
    assert "labels and layout mean nothing" in error.message
    assert error.hint == "add --task: classification, detection, segmentation"


def test_labels_are_as_many_as_classes():
    def fit(card, said, *shapes):
        return taskcards.with_fitting_labels(card, said, shapes, notes)

    notes = []
    two = {"kind": "classification", "labels": ["a", "b"]}
    assert fit(two, True, (4, 2)) is two
    assert fit(two, True, (4, 1)) is two  # one score for two classes
    assert fit(two, False, (4, 3)) == {"kind": "classification"}
    assert notes == ["no labels: there would be 2 labels for the 3 classes of the output"]
    assert refused(fit, two, True, (4, 3)).hint.startswith("give one label for each class")
    boxes = dict(two, kind="detection", layout="yolov8")
    assert fit(boxes, True, (1, 6, 80)) is boxes
    assert fit(boxes, True, (1, 38, 80), (1, 32, 8, 8)) is boxes  # masks: not to be told
    assert refused(fit, boxes, True, (1, 5, 80)).kind == "task"
    assert refused(fit, dict(boxes, layout="yolov5"), True, (1, 80, 6)).kind == "task"
    mask = dict(two, kind="segmentation")
    assert fit(mask, True, (1, 2, 8, 8), (1, 21, 8, 8)) is mask
    assert refused(fit, mask, True, (1, 3, 8, 8)).kind == "task"


class Presets(enum.Enum):
    url = property(lambda self: self.value[0])
    transforms = property(lambda self: lambda: self.value[1])
    meta = property(lambda self: {"categories": ["cat", "dog"]})


NUMBERS = {"mean": [0.5] * 3, "std": [0.25] * 3}


def builder_with(*named):
    """A function as torchvision's builders are; each of its weights is (name, its preset's class)."""
    presets = []
    for name, kind in named:
        numbers = dict(NUMBERS, resize_size=[232], crop_size=[224])
        preset = type(kind, (SimpleNamespace,), {})(
            interpolation=SimpleNamespace(value="bicubic"), **numbers
        )
        presets.append((name, ("https://x/%s.pth" % name, preset)))
    weights = Presets("Weights", [*presets, ("DEFAULT", presets[0][1])])

    def builder(weights=None):
        raise NotImplementedError

    builder.__annotations__["weights"] = typing.Optional[weights]  # noqa: UP045
    return builder


def test_the_task_card_of_torchvisions_weights():
    def of(builder, weights=None):
        return taskcards.of_torchvision(builder, weights)

    classify = of(builder_with(("a", "ImageClassification")), "DEFAULT")
    numbers = dict(NUMBERS, colour="rgb", interpolation="bicubic")
    assert classify == {
        "kind": "classification",
        "labels": ["cat", "dog"],
        "layout": "logits",
        "preprocess": dict(numbers, resize="shorter", size=232, crop=[224, 224]),
    }
    masks = of(builder_with(("a", "SemanticSegmentation")))
    assert masks["preprocess"] == dict(numbers, resize="stretch", size=[232, 232])
    assert of(builder_with(("a", "ObjectDetection")))["layout"] == "boxes-labels-scores"
    assert of(builder_with(("a", "VideoClassification"))) is None
    older = builder_with(("v2", "ObjectDetection"), ("v1", "ImageClassification"))
    assert of(older, "/weights/v1.pth") == classify
    assert of(older, "/weights/own.pth")["kind"] == "detection"

    scaled = taskcards.for_input(classify, [320, 448])["preprocess"]
    assert (scaled["size"], scaled["crop"]) == (331, [320, 448])
    assert taskcards.for_input(classify, [224, 224]) is classify
    assert taskcards.for_input(masks, [64, 32])["preprocess"]["size"] == [64, 32]


def test_torchvision_without_presets_has_imagenets_for_classification():
    def builder(pretrained=False):
        raise NotImplementedError

    def without(weights=None):
        raise NotImplementedError

    builder.__module__ = "torchvision.models.resnet"
    card = taskcards.of_torchvision(builder, None)
    assert (card["kind"], card["preprocess"]["size"]) == ("classification", 256)
    assert "labels" not in card
    builder.__module__ = "torchvision.models.segmentation.segmentation"
    assert taskcards.of_torchvision(builder, None) is None
    assert taskcards.of_torchvision(without, None) is None


def test_the_task_card_of_a_yolov5():
    def of(kind, names, *size):
        return taskcards.of_yolov5(type(kind, (), {"names": names})(), list(size), 32)

    card = of("DetectionModel", {0: "coin", 1: "hand"}, 480, 640)
    assert (card["kind"], card["labels"]) == ("detection", ["coin", "hand"])
    assert card["layout"] == "yolov5"
    pixels = {
        "resize": "letterbox",
        "colour": "rgb",
        "pad": 114,
        "size": [480, 640],
        "multiple": 32,
    }
    assert card["preprocess"] == pixels
    card = of("ClassificationModel", ["coin"], 224, 224)
    assert card["preprocess"]["crop"] == [224, 224]
    assert card["preprocess"]["std"] == [0.229, 0.224, 0.225]
    assert of("PoseModel", ["coin"], 224, 224) is None


if __name__ == "__main__":
    tests = [value for name, value in sorted(globals().items()) if name.startswith("test_")]
    for test in tests:
        test()
    sys.stdout.write("%d passed\n" % len(tests))
