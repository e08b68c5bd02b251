"""Recipes, locks and the choice of torch's build, and what pip's own words become."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed
from trtenv.runners import pip
from trtenv.runners.wheels import (
    CPU_INDEX,
    Lock,
    Package,
    Recipe,
    cpu_requirement,
    library_folders,
    recipe_for,
    requirement_layers,
    split_requirement,
    wanted_torch_build,
    with_cpu_torch,
)

RTX = Environment(
    name="rtx-1.7",
    kind="wheel",
    flavour="tensorrt-rtx",
    tensorrt="1.7.1.116",
    python=("3.11", "3.12"),
    requirements=("tensorrt-rtx-cu12==1.7.1.116", "numpy==2.4.6", "onnx==1.23.2"),
    torch_requirements=("torch==2.13.0", "onnxscript==0.7.2"),
)
RECIPE = Recipe(
    name="rtx-1.7",
    requirements=RTX.requirements,
    torch_requirements=RTX.torch_requirements,
    torch_build="cpu",
    python="3.11",
    platform="linux/amd64",
)


def test_the_key_is_the_same_on_every_machine() -> None:
    assert RECIPE.folder == "rtx-1.7-1e58533cf55e"


@pytest.mark.parametrize(
    "change",
    [
        {"requirements": ("tensorrt-rtx-cu12==1.6.1.120",)},
        {"torch_requirements": ("torch==2.12.0",)},
        {"torch_requirements": ()},
        {"torch_build": "default"},
        {"python": "3.12"},
        {"platform": "linux/arm64"},
    ],
)
def test_whatever_changes_the_content_changes_the_key(change: dict[str, Any]) -> None:
    assert dataclasses.replace(RECIPE, **change).key != RECIPE.key


def test_variants_share_one_base() -> None:
    other = dataclasses.replace(RECIPE, torch_build="default")
    without = dataclasses.replace(RECIPE, torch_requirements=())
    assert RECIPE.base.key == other.base.key == without.key


def test_an_environment_without_torch_cannot_have_it_added() -> None:
    old = dataclasses.replace(RTX, name="tensorrt-8.6.0", torch_requirements=())
    with pytest.raises(EnvironmentFailed, match=r"`tensorrt-8.6.0` has no torch"):
        recipe_for(old, torch=True, torch_build="cpu", python="3.10")


@pytest.mark.parametrize(
    ("requirement", "name", "version"),
    [
        ("torch==2.13.0", "torch", "2.13.0"),
        ("torch == 2.13.0+cpu", "torch", "2.13.0+cpu"),
        ("tensorrt_rtx.cu12==1.7.1.116", "tensorrt-rtx-cu12", "1.7.1.116"),
        ("ultralytics[export]==8.4.0", "ultralytics", "8.4.0"),
        ("numpy>=1.23,<2", "numpy", None),
        ("numpy==1.*", "numpy", None),
        ("numpy==1.23.5; python_version < '3.12'", "numpy", None),
        ("onnx", "onnx", None),
    ],
)
def test_requirements_are_split(requirement: str, name: str, version: str | None) -> None:
    assert split_requirement(requirement) == (name, version)


@pytest.mark.parametrize(
    ("gpu", "system", "machine", "build"),
    [
        (False, "Linux", "x86_64", "cpu"),
        (True, "Linux", "x86_64", "default"),
        (False, "Linux", "aarch64", "default"),
        (False, "Darwin", "arm64", "default"),
    ],
)
def test_torch_is_the_cpu_build_where_there_is_no_gpu(
    gpu: bool, system: str, machine: str, build: str
) -> None:
    assert wanted_torch_build(gpu=gpu, system=system, machine=machine) == build


@pytest.mark.parametrize(
    ("requirement", "cpu"),
    [
        ("torch==2.13.0", "torch==2.13.0+cpu"),
        ("torchvision==0.28.0", "torchvision==0.28.0+cpu"),
        ("torch==2.13.0+cu130", None),
        ("torch>=2", None),
        ("onnx==1.23.2", None),
    ],
)
def test_only_torchs_own_pinned_packages_have_a_cpu_build(
    requirement: str, cpu: str | None
) -> None:
    assert cpu_requirement(requirement) == cpu


def test_the_cpu_build_takes_the_place_of_the_default_one() -> None:
    url = f"torch @ {CPU_INDEX}/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=00"
    assert with_cpu_torch(RTX.torch_requirements, {"torch==2.13.0+cpu": url}) == (
        url,
        "onnxscript==0.7.2",
    )


def test_a_cpu_torch_never_stands_beside_another_torchvision() -> None:
    both = ("torch==2.13.0", "torchvision==0.28.0")
    found = {"torch==2.13.0+cpu": "torch==2.13.0+cpu", "torchvision==0.28.0+cpu": None}
    assert with_cpu_torch(both, found) is None


def test_layers_are_ordered_by_how_rarely_they_change() -> None:
    layers = requirement_layers(RTX, torch=True, extras=("pillow==12.0.0",))
    assert list(layers.items()) == [
        ("TensorRT", ("tensorrt-rtx-cu12==1.7.1.116",)),
        ("torch", ("torch==2.13.0",)),
        ("rest", ("numpy==2.4.6", "onnx==1.23.2", "onnxscript==0.7.2")),
        ("extras", ("pillow==12.0.0",)),
    ]
    assert list(requirement_layers(RTX, torch=False)) == ["TensorRT", "rest"]


def item(name: str, version: str, url: str, sha256: str | None, *, direct: bool = False) -> Any:
    archive = {"hashes": {"sha256": sha256}} if sha256 else {}
    return {
        "download_info": {"url": url, "archive_info": archive},
        "is_direct": direct,
        "metadata": {"name": name, "version": version, "requires_dist": ["x"]},
        "requested": True,
    }


REPORT = {
    "version": "1",
    "install": [
        item("torch", "2.13.0+cpu", f"{CPU_INDEX}/torch.whl", "aa" * 32, direct=True),
        item("ml_dtypes", "0.6.0", "https://bob:secret@mirror.example/m.whl", "bb" * 32),
    ],
}


def test_a_lock_is_what_pip_reports_sorted_and_without_secrets() -> None:
    lock = Lock.from_report(REPORT, RECIPE)
    assert [each.name for each in lock.packages] == ["ml-dtypes", "torch"]
    assert "secret" not in lock.to_json()
    assert "bob" not in lock.to_json()
    assert lock.packages[0].url == "https://mirror.example/m.whl"
    assert lock.version_of("torch") == "2.13.0+cpu"


def test_a_lock_survives_its_file() -> None:
    lock = Lock.from_report(REPORT, RECIPE)
    assert Lock.from_json(lock.to_json()) == lock
    assert json.loads(lock.to_json())["format"] == 1


def test_a_lock_pins_by_hash_and_by_address_only_where_the_index_is_not_the_users() -> None:
    lock = Lock.from_report(REPORT, RECIPE)
    assert [each.requirement for each in lock.packages] == [
        f"ml-dtypes==0.6.0 --hash=sha256:{'bb' * 32}",
        f"torch @ {CPU_INDEX}/torch.whl --hash=sha256:{'aa' * 32}",
    ]


def test_the_digest_is_of_the_packages_not_of_where_they_came_from() -> None:
    package = Package(name="onnx", version="1.23.2", sha256="cc" * 32, url="file:///wheels/o.whl")
    lock = Lock(python="3.11", platform="linux/amd64", packages=(package,))
    moved = dataclasses.replace(package, url="https://mirror.example/o.whl")
    assert dataclasses.replace(lock, packages=(moved,)).digest == lock.digest
    assert dataclasses.replace(lock, python="3.12").digest != lock.digest
    assert lock.digest == "sha256:e08d228bcc76ab9210c48a3ca80f7b723313af11ccdd684b2b67c6e436a63a9f"


def test_what_has_no_hash_cannot_be_locked() -> None:
    report = {"install": [item("mine", "1.0", "file:///src/mine", None)]}
    with pytest.raises(EnvironmentFailed, match=r"mine 1\.0 cannot be pinned"):
        Lock.from_report(report, RECIPE)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "packages": 3}'])
def test_a_foreign_file_is_no_lock(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Lock.from_json(text)


def test_libraries_are_found_where_wheels_keep_them(tmp_path: Path) -> None:
    for name in (
        "nvidia/cublas/lib/libcublas.so.12",
        "nvidia/cu13/lib/libcudart.so.13",
        "nvidia/empty/lib/__init__.py",
        "tensorrt/libnvinfer.so.8",
        "tensorrt_rtx/__init__.py",
        "tensorrt_rtx_libs/libtensorrt_rtx.so.1",
        "numpy.libs/libopenblas.so",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert [str(folder.relative_to(tmp_path)) for folder in library_folders(tmp_path)] == [
        "nvidia/cu13/lib",
        "nvidia/cublas/lib",
        "tensorrt",
        "tensorrt_rtx_libs",
    ]


def test_pip_keeps_the_users_sources_and_nothing_else_of_the_callers_python() -> None:
    before = {
        "HOME": "/home/bob",
        "HTTPS_PROXY": "http://proxy:3128",
        "PIP_CONSTRAINT": "mine.txt",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_TARGET": "/elsewhere",
        "PIP_USER": "1",
        "PYTHONHOME": "/opt/python",
        "PYTHONPATH": "/work",
    }
    assert pip.clean_variables(before) == {
        "HOME": "/home/bob",
        "HTTPS_PROXY": "http://proxy:3128",
        "PIP_CONSTRAINT": "mine.txt",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_NO_INPUT": "1",
        "PIP_USER": "0",
        "PYTHONNOUSERSITE": "1",
    }


# Taken from pip 26.3 with `--progress-bar raw`.
OUTPUT = """\
Looking in links: /wheels
Processing /wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (from -r r.txt (line 4))
Collecting tensorrt_rtx_cu12_libs==1.7.1.116 (from tensorrt-rtx-cu12==1.7.1.116)
  Downloading tensorrt_rtx_cu12_libs-1.7.1.116-py3-none-manylinux_2_28_x86_64.whl (95.2 MB)
Progress 0 of 95153708
Progress 74973184 of 95153708
Installing collected packages: numpy, torch, onnx
"""


def test_progress_is_told_in_a_few_words() -> None:
    file, told = "", []
    for line in OUTPUT.splitlines():
        file, text = pip.progress(line, file)
        told += [text] if text else []
    assert told == [
        "torch",
        "tensorrt_rtx_cu12_libs",
        "tensorrt_rtx_cu12_libs 0/95 MB",
        "tensorrt_rtx_cu12_libs 75/95 MB",
        "unpacking 3 packages",
    ]


# What pip 26.3 really writes, shortened to the telling lines.
FAILURES = {
    "lacks it": [
        (
            "ERROR: Could not find a version that satisfies the requirement tensorrt==8.5.3.1 (from "
            "versions: 8.6.1, 10.0.1)"
        ),
        "ERROR: No matching distribution found for tensorrt==8.5.3.1",
    ],
    "CA bundle": [
        (
            "Could not fetch URL https://mirror.example/simple/onnx/: There was a problem confirming the "
            "ssl certificate: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed "
            "certificate in certificate chain (_ssl.c:1006) - skipping"
        ),
        "ERROR: No matching distribution found for onnx==1.23.2",
    ],
    "no package index answers": [
        (
            "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) "
            "after connection broken by 'NameResolutionError(\"HTTPSConnection(host='mirror.example', "
            "port=443): Failed to resolve 'mirror.example' ([Errno -2] Name or service not known)\")'"
        ),
        "ERROR: No matching distribution found for onnx==1.23.2",
    ],
    "proxy variables": ["mirror.example didn't respond within 3.0 seconds"],
    "TRTENV_CACHE_DIR": [
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    ],
    "remove /cache/lock.json": [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have "
            "updated the package versions, please update the hashes."
        )
    ],
    "a constraint of yours": ["ERROR: ResolutionImpossible: for help visit the documentation"],
}


@pytest.mark.parametrize("words", FAILURES)
def test_failures_of_pip_come_with_what_mends_them(words: str) -> None:
    error = pip.explain(FAILURES[words], lock=Path("/cache/lock.json"))
    assert words in str(error.hint)
    assert error.details


def test_a_failure_quotes_pips_last_error() -> None:
    error = pip.explain(FAILURES["lacks it"])
    assert error.message.endswith("No matching distribution found for tensorrt==8.5.3.1")
    assert pip.explain(["something new"]).hint is None


class Answers:
    """Stands in for pip: what it answers, and what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    def __call__(self, python: Path, arguments: list[str], limit: float | None) -> Any:
        self.asked.append(arguments)
        return self.answers.pop(0)


def found_at(url: str) -> Any:
    return {"install": [item("torch", "2.13.0+cpu", url, "aa" * 32)]}


LISTED = {"name": "torch", "versions": ["2.13.0+cpu", "2.13.0"]}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((None,), None),
        (({"name": "torch", "versions": ["2.13.0"]},), None),
        ((LISTED, None), None),
        ((LISTED, found_at("file:///wheels/torch.whl")), "torch==2.13.0+cpu"),
        ((LISTED, found_at("https://mirror.example/torch.whl")), "torch==2.13.0+cpu"),
        (
            (LISTED, found_at("https://download-r2.pytorch.org/whl/cpu/torch.whl")),
            f"torch @ https://download-r2.pytorch.org/whl/cpu/torch.whl#sha256={'aa' * 32}",
        ),
    ],
    ids=["no answer", "not there", "gone", "find-links", "own mirror", "PyTorch's index"],
)
def test_where_the_cpu_build_comes_from(
    answers: tuple[Any, ...], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Answers(*answers)
    monkeypatch.setattr(pip, "_ask", asked)
    assert pip.find_cpu_build(Path("python"), "torch==2.13.0+cpu") == expected
    assert asked.asked[0][-4:] == ["--retries", "0", "--timeout", "3"]
    assert not asked.answers


def test_settings_are_read_as_pip_merges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = (
        ":env:.find-links='/wheels'\n"
        "global.cert='/etc/ca.pem'\n"
        "global.extra-index-url='https://a.example/simple https://b.example/simple'\n"
        "global.find-links='/overridden'\n"
        "global.index-url='https://mirror.example/simple'\n"
        "global.trusted-host='\\na.example\\nb.example'\n"
        "install.index-url='https://other.example/simple'\n"
    )

    class Done:
        stdout = listed

    monkeypatch.setattr(pip, "bundled_wheel", lambda: Path("pip.whl"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Done())
    assert pip.user_settings() == {
        "cert": ["/etc/ca.pem"],
        "extra-index-url": ["https://a.example/simple", "https://b.example/simple"],
        "find-links": ["/wheels"],
        "index-url": ["https://other.example/simple"],
        "trusted-host": ["a.example", "b.example"],
    }
