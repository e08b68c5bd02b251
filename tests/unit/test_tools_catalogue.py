import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from trtenv import paths
from trtenv.catalog import load_catalog

TOOL = paths.images_folder().parent / "tools" / "catalogue.py"


def _load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _load_tool()
ROWS = tool.read_rows(tool.FACTS)
BLANK = dict.fromkeys(ROWS[0], "")


@pytest.mark.parametrize(
    ("image", "tag", "name"),
    [
        ("nvcr.io/nvidia/pytorch", "20.12-py3", "ngc-pytorch-20.12"),
        ("nvcr.io/nvidia/pytorch", "24.07-py3-igpu", "ngc-pytorch-24.07-igpu"),
        ("nvcr.io/nvidia/tensorrtserver", "19.05-py3", "ngc-tensorrtserver-19.05"),
        ("nvcr.io/nvidia/tritonserver", "25.05-trtllm-python-py3", "ngc-tritonserver-25.05-trtllm"),
        ("nvcr.io/nvidia/l4t-tensorrt", "r8.5.2-runtime", "l4t-tensorrt-8.5.2"),
        ("nvcr.io/nvidia/l4t-tensorrt", "r8.5.2.2-devel", "l4t-tensorrt-8.5.2.2-devel"),
        ("nvcr.io/nvidia/l4t-jetpack", "r35.4.1", "l4t-jetpack-35.4.1"),
        ("nvcr.io/nvidia/l4t-pytorch", "r35.2.1-pth2.0-py3", "l4t-pytorch-35.2.1-pth2.0"),
        ("dustynv/tensorrt", "8.6-r36.2.0", "dustynv-tensorrt-8.6-36.2.0"),
        ("ultralytics/yolov5", "v7.0", "ultralytics-yolov5-7.0"),
        ("ultralytics/ultralytics", "latest (2024-07-06..2024-10-06)", "ultralytics-2024-07-06"),
        ("ultralytics/ultralytics", "latest (..2025-03-21)", "ultralytics-until-2025-03-21"),
        ("ultralytics/ultralytics", "latest-jetson-jetpack4 (8.3.x)", "ultralytics-jetson-jetpack4-8.3"),
    ],
)  # fmt: skip
def test_names_follow_from_repository_and_tag(image: str, tag: str, name: str) -> None:
    assert name == tool.environment_name(image, tag)


def test_names_are_unique_and_well_formed() -> None:
    names = [tool.environment_name(row["image"], row["tag"]) for row in ROWS]
    assert len(ROWS) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name) for name in names)


@pytest.mark.parametrize(
    ("key", "stated", "clean"),
    [
        ("torch", "1.2.0a0 (commit 9130ab38 + cherry-picks)", "1.2.0a0"),
        ("torch", "2.14 (vendor build)", "2.14"),
        ("torch", "latest pip torch at build", ""),
        ("torch", "1.13.0a0+d0d6b1f", "1.13.0a0+d0d6b1f"),
        ("torch", "2.1.0a0+41361538.nv23.06", "2.1.0a0+41361538.nv23.06"),
        ("cuda", "10.1 Update 1", "10.1"),
        ("driver", "418.xx+", "418"),
        ("driver", "575 (doc) / 580.82.07 (vllm image, CUDA 13.0.1)", "575"),
        ("jetpack", "6.0 DP", "6.0"),
        ("jetpack", "4.6.x", "4.6"),
        ("tensorrt", "9.3.0.post12.dev1", "9.3.0.post12.dev1"),
    ],
)
def test_cells_become_versions(key: str, stated: str, clean: str) -> None:
    assert clean == tool.clean(key, stated, "nvcr.io/nvidia/pytorch")


def test_what_a_version_cannot_say_goes_to_the_notes() -> None:
    row = BLANK | {"image": "nvcr.io/nvidia/pytorch", "tag": "19.05-py3", "notes": "a note"}
    entry = tool.entry(row | {"cuda_version": "10.1 Update 1"})
    assert entry["cuda"] == "10.1"
    assert entry["notes"] == "cuda stated as: 10.1 Update 1; a note"


def test_every_row_is_in_the_catalogue_with_every_fact_it_has() -> None:
    catalog = load_catalog([paths.images_folder()])
    for row in ROWS:
        env = catalog[tool.environment_name(row["image"], row["tag"])]
        for key, column in tool.COLUMNS.items():
            told = getattr(env, key) or env.notes if row[column] else True
            assert told, (env.name, key)
        assert bool(row["notes"]) <= bool(env.notes), env.name


def test_rows_have_sources_and_speak_of_public_things_only() -> None:
    for row in ROWS:
        assert row["source"].strip(), row["tag"]
        assert row["confidence"] in ("stated", "inferred", "doubtful")


def test_missing_rows_are_added_in_place_and_nothing_else_changes(tmp_path: Path) -> None:
    assert tool.main([], images=tmp_path) == 0
    assert tool.main(["--check"], images=tmp_path) == 0
    path = tmp_path / "ngc-pytorch.toml"
    generated = path.read_text(encoding="utf-8")

    start = generated.index('[[environment]]\nname = "ngc-pytorch-20.12"')
    end = generated.index("[[environment]]", start + 1)
    edited = generated.replace('"7.1.3"', '"7.1.3.4" # measured')
    without = edited.replace(generated[start:end], "# The next one is ours.\n")
    path.write_text(without, encoding="utf-8")
    assert tool.main([], images=tmp_path) == 0
    added = edited.replace(generated[start:end], generated[start:end] + "# The next one is ours.\n")
    assert added == path.read_text(encoding="utf-8")


def test_check_lists_what_is_missing_and_what_differs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.main([], images=tmp_path)
    path = tmp_path / "l4t.toml"
    text = path.read_text(encoding="utf-8").replace("l4t-jetpack-35.4.1", "mine")
    text = text.replace('tensorrt = "8.0.1"', 'tensorrt = "8.0.1.6"')
    path.write_text(text, encoding="utf-8")
    assert tool.main(["--check"], images=tmp_path) == 1
    report = capsys.readouterr().err
    assert "l4t.toml: l4t-jetpack-35.4.1: missing" in report
    assert "l4t-tensorrt-8.0.1: tensorrt is '8.0.1.6', the CSV has '8.0.1'" in report
    assert text == path.read_text(encoding="utf-8")


def test_text_with_quotes_survives_toml() -> None:
    for value in ("plain", 'say "x"', "it's", 'it\'s "x"', "back\\slash"):
        rendered = tool._render({"name": "x", "notes": value})
        import tomllib

        assert value == tomllib.loads(rendered)["environment"][0]["notes"]
