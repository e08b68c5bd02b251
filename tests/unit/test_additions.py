"""torchvision and ultralytics on demand: what is asked of pip, where it lies, what it is called."""

import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trtenv.catalog.model import Environment
from trtenv.catalog.resolve import Choice
from trtenv.cli.env import addable
from trtenv.errors import EnvironmentFailed, UsageError
from trtenv.paths import templates_folder
from trtenv.pipeline.place import Place
from trtenv.runners import imagebuild
from trtenv.runners.imagebuild import ImagePlan, ensure_image, plan_image, render
from trtenv.runners.imagecontext import local_wheels
from trtenv.runners.protocol import RunOptions
from trtenv.runners.wheels import (
    Lock,
    Package,
    build_tag,
    default_build,
    how_to_make,
    recipe_for,
    requirement_layers,
)

RTX = Environment(
    name="rtx-1.7",
    kind="wheel",
    flavour="tensorrt-rtx",
    tensorrt="1.7.1.116",
    python=("3.11", "3.12"),
    requirements=("tensorrt-rtx-cu12==1.7.1.116", "numpy==2.4.6"),
    torch_requirements=("torch==2.13.0", "onnxscript==0.7.2"),
)
NO_TORCH = dataclasses.replace(RTX, name="tensorrt-8.6.0", torch_requirements=())
HAS_VISION = dataclasses.replace(RTX, holds=frozenset({"tensorrt", "torch", "torchvision"}))
IMAGE = Environment(name="ngc", image="nvcr.io/x", holds=frozenset({"tensorrt", "torchvision"}))
ULTRALYTICS = "ultralytics-opencv-headless==8.4.190"


@pytest.mark.parametrize(
    ("environment", "on_demand"),
    [
        (RTX, ("torchvision", "ultralytics", "metrics")),
        (HAS_VISION, ("ultralytics", "metrics")),
        (NO_TORCH, ()),
        (IMAGE, ()),
    ],
)
def test_wheel_environments_with_torch_can_be_given_more(
    environment: Environment, on_demand: tuple[str, ...]
) -> None:
    assert environment.on_demand == on_demand
    assert environment.to_dict()["on_demand"] == list(on_demand)
    assert all(map(environment.provides, on_demand))
    assert environment.provides("ultralytics") is ("ultralytics" in on_demand)
    assert not environment.provides("yolov5")


def test_only_what_a_model_needs_is_added() -> None:
    assert RTX.additions(("torch",)) == ()
    assert RTX.additions(("torch", "torchvision")) == ("torchvision",)
    assert RTX.additions(("torch", "ultralytics")) == ("torchvision", ULTRALYTICS)
    assert RTX.additions(("torchvision", "ultralytics")) == ("torchvision", ULTRALYTICS)
    assert HAS_VISION.additions(("torchvision",)) == ()
    assert IMAGE.additions(("torchvision",)) == ()


def test_a_variant_has_a_folder_of_its_own_and_the_same_base_and_torch() -> None:
    plain, vision, yolo = (
        recipe_for(RTX, torch=True, packages=packages, torch_build="cpu", python="3.11")
        for packages in ((), ("torchvision",), ("ultralytics",))
    )
    assert len({plain.key, vision.key, yolo.key}) == 3
    assert vision.base == yolo.base == plain.base
    assert vision.plain == yolo.plain == plain


def test_a_lock_is_brought_up_to_date() -> None:
    def lock(*packages: tuple[str, str]) -> Lock:
        found = [Package(name=n, version=v, sha256="aa", url="file:///w.whl") for n, v in packages]
        return Lock(python="3.11", platform="linux/amd64", packages=tuple(found))

    torch = lock(("onnxscript", "0.7.2"), ("torch", "2.13.0+cpu"))
    added = lock(("pillow", "12.0"), ("torch", "2.13.0"), ("torchvision", "0.28.0"))
    assert torch.updated(added) == lock(
        ("onnxscript", "0.7.2"), ("pillow", "12.0"), ("torch", "2.13.0"), ("torchvision", "0.28.0")
    )


def test_a_default_build_is_asked_for_such_that_no_cpu_build_will_do() -> None:
    assert build_tag("2.13.0+cpu") == "cpu"
    assert build_tag("2.13.0") == ""
    assert default_build("torch", "2.13.0+cpu") == "torch===2.13.0"
    wheel = {"sha256": "aa", "url": "file:///w.whl"}
    requirements = [
        Package(name=name, version=version, **wheel).requirement
        for name, version in (("torch", "2.13.0"), ("torch", "2.13.0+cpu"), ("onnx", "1.23.2"))
    ]
    assert requirements == [
        "torch===2.13.0 --hash=sha256:aa",
        "torch==2.13.0+cpu --hash=sha256:aa",
        "onnx==1.23.2 --hash=sha256:aa",
    ]


def test_the_command_that_makes_it_is_told() -> None:
    assert how_to_make(RTX, ("ultralytics",)) == "trtenv env build rtx-1.7 --with ultralytics"
    assert how_to_make(RTX, ()) == "trtenv env build rtx-1.7"


@pytest.mark.parametrize(
    ("runner", "needs", "name"),
    [
        ("venv", (), "rtx-1.7"),
        ("venv", ("torchvision",), "rtx-1.7@torchvision"),
        ("docker", (), "rtx-1.7@docker"),
        ("docker", ("ultralytics",), "rtx-1.7@docker+ultralytics"),
    ],
)
def test_the_lock_has_an_entry_for_each_variant(
    runner: str, needs: tuple[str, ...], name: str
) -> None:
    settings: Any = None
    options = RunOptions(needs_torch=True, needs_packages=needs)
    assert Place(Choice(RTX, runner, "asked for by name"), settings, options).lock_name == name


def test_what_it_cannot_be_given_is_refused() -> None:
    assert addable(RTX, ["torchvision"], torch=True) == ("torchvision",)
    with pytest.raises(UsageError, match="cannot be given `yolov5`") as caught:
        addable(RTX, ["yolov5"], torch=True)
    assert "torchvision or ultralytics" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"`tensorrt-8\.6\.0` cannot be given `torchvision`"):
        addable(NO_TORCH, ["torchvision"], torch=True)
    with pytest.raises(UsageError, match="needs torch"):
        addable(RTX, ["torchvision"], torch=False)


# Images

PLAIN = ImagePlan(environment=RTX, base="debian-python:12")
VISION = dataclasses.replace(PLAIN, packages=("torchvision",))
YOLO = dataclasses.replace(PLAIN, packages=("ultralytics",))
PINS = "tensorrt-rtx-cu12==1.7.1.116 torch==2.13.0 numpy==2.4.6 onnxscript==0.7.2"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def test_additions_are_layers_after_torch_and_before_extras() -> None:
    layers = requirement_layers(RTX, torch=True, packages=("ultralytics",), extras=("rich",))
    assert list(layers) == ["TensorRT", "torch", "rest", "torchvision", "additions", "extras"]
    assert layers["torchvision"] == ("torchvision",)
    assert layers["additions"] == (ULTRALYTICS,)
    assert "torchvision" not in requirement_layers(RTX, torch=False, packages=("ultralytics",))


def test_the_dockerfile_of_a_models_needs() -> None:
    plain, vision, yolo = (render(plan, digest="") for plan in (PLAIN, VISION, YOLO))
    layer = f"""
# torchvision
# For the torch that is installed, and of its build.
RUN sh /build/torchvision.sh {CPU_INDEX} {PINS} torchvision
"""
    more = f"""
# additions
RUN sh /build/pip.sh {PINS} torchvision {ULTRALYTICS}
"""
    assert layer in vision
    assert layer + more in yolo
    # All that is before comes from the daemon's cache.
    assert plain.startswith(vision.partition(layer)[0])
    assert 'dev.trtenv.package.torchvision="yes"' in vision
    assert "package.ultralytics" not in vision
    assert "dev.trtenv.package" not in plain
    assert len({plan.tag for plan in (PLAIN, VISION, YOLO)}) == 3


def test_an_image_is_planned_for_what_the_job_needs() -> None:
    options = RunOptions(needs_torch=True, needs_packages=("torchvision",), base_image=PLAIN.base)
    assert plan_image(RTX, options) == dataclasses.replace(VISION, chosen=True)
    assert plan_image(HAS_VISION, options).packages == ()


class Api:
    """A daemon that has these images, the newest last."""

    def __init__(self, plans: tuple[ImagePlan, ...]) -> None:
        self.plans = plans

    def inspect_image(self, reference: str) -> Any:
        from docker.errors import NotFound

        raise NotFound(reference)  # what is here was built from another base image

    def images(self, filters: dict[str, str]) -> Iterator[dict[str, Any]]:
        for created, plan in enumerate(self.plans):
            labels = imagebuild._labels(plan, plan.hash)
            yield {"RepoTags": [plan.tag], "Created": created, "Labels": labels}


@pytest.mark.parametrize(
    ("present", "needs", "expected"),
    [
        ((PLAIN, VISION), (), PLAIN),  # the newer one holds more than is needed
        ((VISION, PLAIN), ("torchvision",), VISION),
        ((VISION, YOLO), ("torchvision",), VISION),
        ((PLAIN, YOLO), ("torchvision",), YOLO),
        ((PLAIN, VISION), ("ultralytics",), None),
    ],
)
def test_the_image_that_holds_least_beyond_the_need_is_used(
    present: tuple[ImagePlan, ...],
    needs: tuple[str, ...],
    expected: ImagePlan | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRTENV_BASE_IMAGE", raising=False)
    client: Any = type("Client", (), {"api": Api(present)})()
    options = RunOptions(needs_torch=True, needs_packages=needs, pull=False)
    if expected:
        assert ensure_image(RTX, client, options) == expected.tag
        return
    with pytest.raises(EnvironmentFailed) as caught:
        ensure_image(RTX, client, options)
    assert caught.value.hint == "trtenv env build rtx-1.7 --with ultralytics"


def test_local_wheels_of_any_torchvision_are_taken_along(tmp_path: Path) -> None:
    for name in (
        "torchvision-0.28.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torchvision-0.28.0-cp310-cp310-manylinux_2_28_x86_64.whl",
        "ultralytics_opencv_headless-8.4.190-py3-none-any.whl",
        "ultralytics-8.4.190-py3-none-any.whl",
    ):
        (tmp_path / name).touch()
    found = [wheel.name.split("-")[0] for wheel in local_wheels([str(tmp_path)], RTX)]
    assert found == ["torchvision", "ultralytics_opencv_headless"]
    assert local_wheels([str(tmp_path)], NO_TORCH) == []


# What torchvision.sh asks of pip. pip.sh notes its arguments, plans version 0.28.0, and fails where
# the argument that FAIL names is among them.
PIP = """#!/bin/sh
echo "$@" >> {root}/asked
case " $* " in *" --dry-run "*) echo "Would install pillow-12.0.0 torchvision-0.28.0";; esac
case "$*" in *{fail}*) exit 1;; esac
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("torch", "fail", "asked", "code"),
    [
        ("torch-2.13.0", "none", ["torch==2.13.0 torchvision"], 0),
        (
            "torch-2.13.0+cpu",
            "none",
            [
                "--dry-run torch==2.13.0 torchvision",
                "--no-deps --retries 0 --timeout 5 --extra-index-url INDEX torchvision==0.28.0+cpu",
                "torch==2.13.0 torchvision",
            ],
            0,
        ),
        (
            "torch-2.13.0+cpu",
            "torchvision==0.28.0+cpu",
            [
                "--dry-run torch==2.13.0 torchvision",
                "--no-deps --retries 0 --timeout 5 --extra-index-url INDEX torchvision==0.28.0+cpu",
                "torch===2.13.0 torchvision===0.28.0 torch==2.13.0 torchvision",
                "torch==2.13.0 torchvision",
            ],
            0,
        ),
        ("torch-2.13.0+cpu", "dry-run", ["--dry-run torch==2.13.0 torchvision"], 1),
        ("torch-2.13.0+cpu", "torchvision==", None, 1),
    ],
    ids=["default", "CPU", "no CPU torchvision", "nothing fits", "default not to be had either"],
)
def test_torchvision_in_an_image_is_of_torchs_build(
    tmp_path: Path, torch: str, fail: str, asked: list[str] | None, code: int
) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / f"{torch}.dist-info").mkdir(parents=True)
    (tmp_path / "pip.sh").write_text(PIP.format(root=tmp_path, fail=fail), encoding="utf-8")
    script = (templates_folder() / "torchvision.sh").read_text(encoding="utf-8")
    script = script.replace("/build/", f"{tmp_path}/").replace("/opt/trtenv", str(tmp_path))
    (tmp_path / "torchvision.sh").write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["sh", str(tmp_path / "torchvision.sh"), "INDEX", "torch==2.13.0", "torchvision"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    said = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    if asked is None:  # never the last step, which would set a CUDA torchvision beside a CPU torch
        assert said[-1] != "torch==2.13.0 torchvision"
    else:
        assert said == asked
    assert done.stdout.startswith("note: no CPU build of torchvision") is (
        len(said) > 3 or not asked
    )
