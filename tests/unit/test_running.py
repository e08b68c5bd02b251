"""An engine finds its environment: by its stamp, else by the version in its header."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from digits_onnx import write_digits
from onnx import load, save

from trtenv.catalog.host import Gpu, Host
from trtenv.catalog.load import default_catalog
from trtenv.engine.digests import file_digest
from trtenv.errors import ArtifactError, ResolutionError, UsageError
from trtenv.pipeline.place import Settings
from trtenv.pipeline.running import (
    mounts,
    place_for,
    read_subject,
    shown_params,
    source_onnx,
    wanted_version,
)

ENGINES = Path(__file__).parents[1] / "data" / "engines"
STAMPED = ENGINES / "h100" / "digits-local-8.6.0-fp16.engine"
BARE = ENGINES / "trt8531_sm90.engine"
RTX = ENGINES / "rtx17_sm89_sm120.engine"
H100 = Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-1", "9.0", 85 * 10**9)
SERVER = Host(
    machine="x86_64", driver="580.65.06", gpus=(H100,), pythons=frozenset({"3.10", "3.11"}),
    no_daemon="no container daemon listens",
)  # fmt: skip
LAPTOP = SERVER._replace(driver=None, gpus=())


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Host], Settings]:
    """Settings of a machine that is described, not looked at."""

    def settings(host: Host) -> Settings:
        found = Settings(catalog=default_catalog(), runner="venv", lock=tmp_path / "lock")
        monkeypatch.setattr(Settings, "host", host)
        monkeypatch.setattr(Settings, "host_for", lambda *_: host)
        return found

    return settings


def test_an_engine_goes_where_its_stamp_says(
    on: Callable[[Host], Settings], tmp_path: Path
) -> None:
    engine = shutil.copy(BARE, tmp_path / "a.engine")
    stamp: dict[str, Any] = {
        "trtenv": "0", "kind": "engine", "sha256": file_digest(engine),
        "environment": {"name": "tensorrt-8.5.3"},
    }  # fmt: skip
    (tmp_path / "a.engine.json").write_text(json.dumps(stamp))
    place = place_for(read_subject(str(engine)), on(SERVER))
    assert (place.environment.name, place.choice.reason) == (
        "tensorrt-8.5.3",
        "it built the engine",
    )
    assert place.options.needs_gpu


def test_without_a_stamp_the_header_decides(on: Callable[[Host], Settings]) -> None:
    subject = read_subject(str(BARE))
    assert (subject.runtime, subject.flavour, wanted_version(subject)) == (
        "engine",
        "tensorrt",
        "8.5.3.1",
    )
    assert place_for(subject, on(SERVER)).environment.name == "tensorrt-8.5.3"
    assert wanted_version(read_subject(str(RTX))).startswith("rtx-1.7")


def test_an_environment_that_is_not_known_here_gives_way_to_one_of_its_version(
    on: Callable[[Host], Settings],
) -> None:
    subject = read_subject(str(STAMPED))
    assert subject.stamp
    assert subject.stamp["environment"]["name"] not in default_catalog()
    assert place_for(subject, on(SERVER)).environment.name == "tensorrt-8.6.0"


def test_without_a_gpu_each_candidate_says_why(on: Callable[[Host], Settings]) -> None:
    with pytest.raises(ResolutionError, match="can infer here") as caught:
        place_for(read_subject(str(BARE)), on(LAPTOP))
    told = dict(line.split(": ", 1) for line in caught.value.details)
    assert "GPU" in told["tensorrt-8.5.3"]
    assert "--runner docker" in told["ngc-tensorrt-23.03"]


def test_a_stamp_of_another_file_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = shutil.copy(BARE, tmp_path / "a.engine")
    (tmp_path / "a.engine.json").write_text('{"sha256": "00"}')
    assert read_subject(str(engine)).stamp is None
    assert "is not used" in capsys.readouterr().err


def test_the_reference_needs_no_gpu(on: Callable[[Host], Settings], tmp_path: Path) -> None:
    subject = read_subject(str(write_digits(tmp_path / "digits.onnx")))
    place = place_for(subject, on(LAPTOP))
    assert (subject.runtime, place.environment.name) == ("onnxruntime", "rtx-1.7")
    assert place.environment.provides("onnxruntime")
    assert not place.options.needs_gpu
    assert shown_params(subject, str, "/in/digits.onnx") == {
        "runtime": "onnxruntime",
        "path": "/in/digits.onnx",
    }


def stamped_engine(folder: Path, onnx: str, digest: str) -> Path:
    engine = Path(shutil.copy(BARE, folder / "a.engine"))
    stamp = {"sha256": file_digest(engine), "source": {"onnx": {"name": onnx, "sha256": digest}}}
    engine.with_name("a.engine.json").write_text(json.dumps(stamp))
    return engine


def test_an_engine_stands_for_the_onnx_file_it_was_built_from(tmp_path: Path) -> None:
    onnx = write_digits(tmp_path / "digits.onnx")
    engine = stamped_engine(tmp_path, "digits.onnx", file_digest(onnx))
    subject = read_subject(str(engine), runtime="onnxruntime")
    assert (subject.runtime, subject.path) == ("onnxruntime", onnx)
    model = load(onnx)
    model.producer_name = "somebody else"
    save(model, onnx)
    with pytest.raises(ArtifactError, match="changed since"):
        read_subject(str(engine), runtime="onnxruntime")
    assert read_subject(str(engine), runtime="onnxruntime", onnx=onnx).path == onnx
    onnx.unlink()
    with pytest.raises(UsageError, match="not beside it"):
        source_onnx(read_subject(str(engine)))


@pytest.mark.parametrize(
    ("text", "runtime", "said"),
    [
        ("nothing.engine", None, "does not exist"),
        ("digits.onnx", "engine", "does not run in engine"),
        ("digits.onnx", "torch", "does not run in torch"),
        ("a.engine", "torch", "does not run in torch"),
        ("a.engine", "onnxruntime", "no stamp tells"),
        ("m.py:model", "onnxruntime", "does not run in onnxruntime"),
        ("m.py:model", "caffe", "not known"),
        ("m.py", None, "names no factory"),
    ],
)
def test_what_cannot_run_there_is_refused(
    text: str, runtime: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "digits.onnx")
    shutil.copy(BARE, tmp_path / "a.engine")
    (tmp_path / "m.py").write_text("def model(): ...\n")
    with pytest.raises(UsageError, match=said):
        read_subject(text, runtime=runtime)


def test_few_files_are_mounted_one_by_one_and_many_by_folder(tmp_path: Path) -> None:
    subject = read_subject(str(BARE))
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    files = [folder / f"{i}.png" for i in range(20)] + [folder / "deep" / "a.png"]
    for file in files:
        file.touch()
    (tmp_path / "link.png").symlink_to(files[0])
    few = mounts(subject, [tmp_path / "link.png"])
    assert [mount.source for mount in few] == [BARE.resolve(), files[0].resolve()]
    many = mounts(subject, files)
    assert [mount.source for mount in many] == [BARE.resolve(), folder.resolve()]
    assert all(mount.read_only for mount in many)


def test_a_torch_model_runs_where_its_packages_are(on: Callable[[Host], Settings]) -> None:
    subject = read_subject("torchvision:resnet18", weights="DEFAULT")
    place = place_for(subject, on(LAPTOP))
    assert place.environment.provides("torchvision")
    assert (place.options.needs_torch, place.options.needs_packages) == (True, ("torchvision",))
    assert shown_params(subject, str, None)["model"]["name"] == "resnet18"
    assert dataclasses.is_dataclass(place.environment)
