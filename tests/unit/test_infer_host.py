"""What infer may replace, where part of its results goes, and what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest
from digits_onnx import write_digits
from onnx import helper, load, save

from trtenv.cli.infer import DetailFlags, ModelFlags, in_a_line, parse_static
from trtenv.errors import UsageError
from trtenv.pipeline.infer import InferSpec, beside, check_output, is_ours
from trtenv.pipeline.inputs import find_sources
from trtenv.pipeline.running import mounts, read_subject


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "digits.onnx")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    return tmp_path


def spec(output: str, *inputs: str, model: str = "digits.onnx") -> InferSpec:
    sources = find_sources(inputs or ["photos"])
    return InferSpec(read_subject(model), sources, Path(output), ("json",))


def results(path: Path, *others: str, interrupted: bool = False) -> Path:
    path.mkdir()
    (path / "infer.json").write_text(json.dumps({"trtenv": "0", "interrupted": interrupted}))
    for name in ("results.jsonl", "results.csv", "log.txt", "sheet.png", *others):
        (path / name).touch()
    return path


def test_results_are_replaced_and_nothing_else_without_force(here: Path) -> None:
    check_output(spec("new"), force=False)
    (here / "empty").mkdir()
    check_output(spec("empty"), force=False)
    check_output(spec(str(results(here / "old"))), force=False)
    assert not is_ours(results(here / "mixed", "thesis.txt"))
    with pytest.raises(UsageError, match="no results of trtenv"):
        check_output(spec("mixed"), force=False)
    check_output(spec("mixed"), force=True)
    with pytest.raises(UsageError, match="is a file"):
        check_output(spec("digits.onnx"), force=True)


@pytest.mark.parametrize("output", [".", "photos", "../{}", "link"])
def test_no_force_replaces_what_the_run_reads(here: Path, output: str) -> None:
    (here / "link").symlink_to("photos")
    with pytest.raises(UsageError, match="lies in the output folder"):
        check_output(spec(output.format(here.name)), force=True)


def test_a_link_to_a_file_elsewhere_is_kept_too(here: Path) -> None:
    (here / "links").mkdir()
    (here / "links" / "b.png").symlink_to(here / "photos" / "a.png")
    for output in ("links", "photos"):
        with pytest.raises(UsageError, match=r"b.png` lies in"):
            check_output(spec(output, "links"), force=True)


def test_part_of_the_results_replaces_only_such_a_part(here: Path) -> None:
    output = here / "out"
    assert beside(output) == output
    results(output, interrupted=True)
    assert beside(output) == output
    (output / "infer.json").write_text('{"trtenv": "0", "interrupted": false}')
    assert beside(output) == here / "out-interrupted-1"
    results(here / "out-interrupted-1", "notes.txt", interrupted=True)
    assert beside(output) == here / "out-interrupted-2"


def test_the_exported_optimum_goes_to_the_job(here: Path) -> None:
    path = here / "digits.onnx"
    flags = DetailFlags()
    assert flags.runner(read_subject(str(path))) == {}
    model = load(path)
    sizes = {name: [rows, 1, 32, 32] for name, rows in (("min", 1), ("opt", 4), ("max", 8))}
    helper.set_model_props(model, {"trtenv.shapes": json.dumps({"image": sizes})})
    save(model, path)
    assert flags.runner(read_subject(str(path))) == {"optimum": {"image": [4, 1, 32, 32]}}


def test_options_of_another_runtime_or_kind_are_refused(here: Path) -> None:
    subject = read_subject("digits.onnx")
    for flags in (DetailFlags(profile=0), DetailFlags(cuda_graph=True)):
        with pytest.raises(UsageError, match="are of engines"):
            flags.runner(subject)
    with pytest.raises(UsageError, match="in the place of an engine"):
        ModelFlags(onnx=Path("digits.onnx")).subject("digits.onnx")
    assert parse_static("x:2x3", "raw", "onnxruntime") == {"x": [2, 3]}
    assert parse_static("x:1x3..2x3", "images", "torch") == {}
    for kind in ("images", "arrays"):
        with pytest.raises(UsageError, match="of raw bytes"):
            parse_static("x:2x3", kind, "engine")


def test_a_link_that_leads_nowhere_costs_one_image(here: Path) -> None:
    link = here / "photos" / "b.png"
    link.symlink_to("nowhere.png")
    run = spec("out")
    assert [entry.real for entry in run.sources.files] == [here / "photos" / "a.png", link]
    shown = [mount.source for mount in mounts(run.subject, run.sources.paths)]
    assert shown == [here / "photos", here / "photos" / "a.png"]


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"file": "a\nb", "error": "no\x1b[31m"}, "a\\nb: no\\x1b[31m"),
        (
            {"file": "é", "top": [{"class": 0, "label": "x\ty", "score": 0.5}]},
            "é: x\\ty 0.500",
        ),
        ({"file": "a", "detections": []}, "a: nothing"),
    ],
)
def test_a_result_is_one_line_whatever_its_names_hold(entry: dict[str, Any], line: str) -> None:
    assert in_a_line(entry) == line
