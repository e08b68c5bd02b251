"""The Dockerfile of a wheel environment, its build context, and what the daemon's words become."""

import dataclasses
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed
from trtenv.runners import imagebuild
from trtenv.runners.imagebuild import (
    ImagePlan,
    dockerfile,
    ensure_image,
    plan_image,
    render,
)
from trtenv.runners.imagecontext import local_wheels, pip_conf, write_context
from trtenv.runners.protocol import RunOptions

RTX = Environment(
    name="rtx-1.7",
    kind="wheel",
    flavour="tensorrt-rtx",
    tensorrt="1.7.1.116",
    python=("3.11", "3.12"),
    requirements=("tensorrt-rtx-cu12==1.7.1.116", "numpy==2.4.6"),
    torch_requirements=("torch==2.13.0", "onnxscript==0.7.2"),
)
PLAN = ImagePlan(environment=RTX, base="debian-python:12")
PLAIN = dataclasses.replace(PLAN, torch=False)

EXPECTED = r"""# Rendered by trtenv from templates/Dockerfile.j2; do not edit. Environment rtx-1.7.

# What the host hands in (CA bundle, pip's settings, wheels, pip itself) stays in this stage.
FROM debian-python:12 AS build
LABEL dev.trtenv.build="rtx-1.7"
USER root
RUN python3 -c 'import sys; found = "%d.%d" % sys.version_info[:2]; wanted = "3.11 3.12"; found in wanted.split() or sys.exit("the base image has Python %s; rtx-1.7 needs one of: %s" % (found, wanted))'
RUN python3 -m venv --without-pip /opt/trtenv
COPY build /build

# TensorRT
RUN sh /build/pip.sh tensorrt-rtx-cu12==1.7.1.116

# torch
# PyTorch's own index is asked for the CPU build of these, and for nothing else.
RUN sh /build/pip.sh --no-deps --retries 0 --timeout 5 --extra-index-url https://download.pytorch.org/whl/cpu \
        torch==2.13.0+cpu || \
    echo 'note: no CPU build of PyTorch within reach; installing the default build, which is larger'; \
    sh /build/pip.sh tensorrt-rtx-cu12==1.7.1.116 torch==2.13.0

# rest
RUN sh /build/pip.sh tensorrt-rtx-cu12==1.7.1.116 torch==2.13.0 numpy==2.4.6 onnxscript==0.7.2

# extras
RUN sh /build/pip.sh tensorrt-rtx-cu12==1.7.1.116 torch==2.13.0 numpy==2.4.6 onnxscript==0.7.2 'pillow>=12' 'it'"'"'s'

# The loader looks into no Python package: one folder names every library of the wheels.
RUN mkdir /opt/trtenv/libs && cd /opt/trtenv/lib/python3*/site-packages && \
    find "$PWD" \( -path '*/nvidia/*/lib/lib*.so*' -o -path "$PWD/tensorrt*/lib*.so*" \) \
        -exec ln -s '{}' /opt/trtenv/libs ';'

FROM debian-python:12
USER root
COPY --from=build /opt/trtenv /opt/trtenv
RUN echo 'trtenv:x:10001:10001::/home/trtenv:/bin/sh' >> /etc/passwd && \
    echo 'trtenv:x:10001:' >> /etc/group && \
    mkdir -p /home/trtenv && chown 10001:10001 /home/trtenv
ENV PATH=/opt/trtenv/bin:$PATH \
    LD_LIBRARY_PATH=/opt/trtenv/libs \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONNOUSERSITE=1
LABEL dev.trtenv.environment="rtx-1.7" \
      dev.trtenv.hash="0123" \
      dev.trtenv.requirements="KEY" \
      dev.trtenv.torch="yes" \
      org.opencontainers.image.title="trtenv rtx-1.7" \
      org.opencontainers.image.version="1.7.1.116"
USER 10001:10001
WORKDIR /home/trtenv
CMD ["python3"]
"""


def test_the_whole_dockerfile() -> None:
    plan = dataclasses.replace(PLAN, extras=("pillow>=12", "it's"))
    assert render(plan, digest="0123") == EXPECTED.replace("KEY", PLAN.key)


def test_without_torch_no_layer_speaks_of_it() -> None:
    text = render(PLAIN)
    assert "pytorch.org" not in text
    assert "torch==" not in text
    assert 'dev.trtenv.torch="no"' in text


def test_the_tag_is_the_hash_of_the_whole() -> None:
    assert PLAN.tag == f"trtenv/rtx-1.7:{PLAN.hash[:12]}"
    assert f'dev.trtenv.hash="{PLAN.hash}"' in render(PLAN)


def test_how_it_is_built_does_not_change_what_it_is_called() -> None:
    assert dataclasses.replace(PLAN, network="host", chosen=True).tag == PLAN.tag


@pytest.mark.parametrize(
    "change", [{"base": "other:1"}, {"torch": False}, {"extras": ("pillow==12.0.0",)}]
)
def test_what_is_in_it_changes_what_it_is_called(change: Any) -> None:
    assert dataclasses.replace(PLAN, **change).tag != PLAN.tag


def test_extras_come_after_all_that_is_large() -> None:
    plain, more = (
        render(dataclasses.replace(PLAN, extras=extras), digest="")
        for extras in ((), ("pillow==12.0.0",))
    )
    before, _, _ = more.partition("# extras")
    assert plain.startswith(before.rstrip())


def test_options_and_variables_choose_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTENV_BASE_IMAGE", raising=False)
    plan = plan_image(RTX, RunOptions(needs_torch=True))
    assert plan == dataclasses.replace(PLAN, base="python:3.11-slim-bookworm")
    monkeypatch.setenv("TRTENV_BASE_IMAGE", "company/python:3.11")
    assert plan_image(RTX, RunOptions()).base == "company/python:3.11"
    assert dockerfile(RTX, RunOptions()).count("FROM company/python:3.11") == 2


def test_only_what_a_container_reaches_goes_into_its_pip_conf() -> None:
    settings = {
        "cert": ["/etc/ca.pem"],
        "extra-index-url": ["file:///srv/simple", "https://b.example/simple"],
        "find-links": ["/srv/wheels"],
        "index-url": ["https://mirror.example/simple"],
        "trusted-host": ["a.example", "b.example"],
    }
    assert pip_conf(settings) == (
        "[global]\n"
        "index-url =\n    https://mirror.example/simple\n"
        "extra-index-url =\n    https://b.example/simple\n"
        "trusted-host =\n    a.example\n    b.example\n"
    )
    assert pip_conf({}) == "[global]\n"


def test_proxies_are_arguments_of_the_build() -> None:
    variables = {
        "HTTPS_PROXY": "http://p:3128",
        "no_proxy": "localhost",
        "http_proxy": "",
        "X": "y",
    }
    assert imagebuild._proxies(variables) == {
        "HTTPS_PROXY": "http://p:3128",
        "no_proxy": "localhost",
    }


WHEELS = {
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": True,
    "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl": True,
    "torch-2.13.0+cpu-cp310-cp310-manylinux_2_28_x86_64.whl": False,
    "torch-2.13.1-cp311-cp311-manylinux_2_28_x86_64.whl": False,
    "tensorrt_rtx_cu12-1.7.1.116-py2.py3-none-any.whl": True,
    "numpy-2.4.6-1-cp311-cp311-manylinux_2_28_x86_64.whl": True,
    "pillow-12.0.0-cp39-abi3-manylinux_2_28_x86_64.whl": True,
    "six-1.17.0-py2.py3-none-any.whl": False,
    "broken.whl": False,
}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_local_wheels_that_a_pin_may_want_are_taken_along(tmp_path: Path, scheme: str) -> None:
    for name in WHEELS:
        (tmp_path / name).touch()
    links = [f"{scheme}{tmp_path}", "https://far.example/wheels", "/does/not/exist"]
    found = [wheel.name for wheel in local_wheels(links, RTX, ("pillow==12.0.0",))]
    assert found == sorted(name for name, wanted in WHEELS.items() if wanted)


def members(tmp_path: Path, settings: Mapping[str, list[str]]) -> dict[str, bytes]:
    file = io.BytesIO()
    write_context(file, render(PLAN), RTX, settings)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        entries = [(entry, tar.extractfile(entry)) for entry in tar]
        assert {(entry.uid, entry.mtime, entry.mode) for entry, _ in entries} == {(0, 0, 0o644)}
        return {entry.name: content.read() for entry, content in entries if content}


def test_the_context_holds_what_the_dockerfile_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist")
    (tmp_path / "ca.pem").write_text("certificates", encoding="utf-8")
    (tmp_path / "numpy-2.4.6-cp311-cp311-linux_x86_64.whl").write_bytes(b"wheel")
    settings = {"cert": [str(tmp_path / "ca.pem")], "find-links": [str(tmp_path)]}
    found = members(tmp_path, settings)
    assert sorted(found) == [
        "Dockerfile",
        "build/ca.crt",
        "build/pip.conf",
        "build/pip.sh",
        "build/pip.whl",
        "build/torchvision.sh",
        "build/wheels/README",
        "build/wheels/numpy-2.4.6-cp311-cp311-linux_x86_64.whl",
    ]
    assert found["Dockerfile"].decode() == render(PLAN)
    assert found["build/ca.crt"] == b"certificates"
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert members(tmp_path, {})["build/ca.crt"] == b""


def follow(events: list[dict[str, Any]]) -> None:
    with console.Step("building") as step:
        imagebuild._follow(events, step, PLAN)


def test_a_failed_step_shows_the_last_lines_and_what_mends_it() -> None:
    # As Docker 20.10 streams it: stderr in red.
    error = "The command '/bin/sh -c sh /build/pip.sh numpy==9' returned a non-zero code: 1"
    lines: list[dict[str, Any]] = [{"stream": f"line {number}\n"} for number in range(30)]
    events: list[dict[str, Any]] = [
        {"stream": "Step 8/17 : RUN sh /build/pip.sh numpy==9"},
        *lines,
        {"stream": "\x1b[91mERROR: No matching distribution found for numpy==9\n\x1b[0m"},
        {"errorDetail": {"code": 1, "message": error}, "error": error},
    ]
    with pytest.raises(EnvironmentFailed, match=r"`rtx-1.7` was not built: step 8/17") as caught:
        follow(events)
    assert caught.value.details[-2:] == (
        "ERROR: No matching distribution found for numpy==9",
        error,
    )
    assert len(caught.value.details) == 21
    assert "package index" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            " ---> Running in 0648d9501347",
            "failed to create endpoint sad_turing on network bridge: could not find bridge docker0",
        ),
        (
            (
                "WARNING: Retrying (Retry(total=4, connect=None, read=None, redirect=None, status=None)) "
                "after connection broken by 'NameResolutionError(...)'"
            ),
            "The command '/bin/sh -c sh /build/pip.sh numpy==9' returned a non-zero code: 1",
        ),
    ],
)
def test_a_build_without_a_network_is_told_of_the_hosts(line: str, error: str) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        follow([{"stream": line}, {"error": error}])
    assert "TRTENV_BUILD_NETWORK=host" in str(caught.value.hint)


def test_a_missing_base_image_is_told_as_such() -> None:
    text = (
        "pull access denied for debian-python, repository does not exist or may require 'docker "
        "login': denied: requested access to the resource is denied"
    )
    with pytest.raises(EnvironmentFailed, match="debian-python:12"):
        follow([{"stream": "Step 1/17 : FROM debian-python:12 AS build"}, {"error": text}])


def test_notes_of_the_dockerfile_reach_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    follow(
        [{"stream": "note: no CPU build of PyTorch within reach\n"}, {"aux": {"ID": "sha256:0"}}]
    )
    assert "note: no CPU build of PyTorch within reach" in capsys.readouterr().err


class FakeApi:
    def __init__(self, images: dict[str, dict[str, str]]) -> None:
        self.present = images

    def inspect_image(self, reference: str) -> dict[str, Any]:
        if reference not in self.present:
            raise NotFound(reference)
        return {"Id": "sha256:0"}

    def images(self, filters: dict[str, str]) -> Iterator[dict[str, Any]]:
        for created, (tag, labels) in enumerate(self.present.items()):
            if filters["label"] in {f"{key}={value}" for key, value in labels.items()}:
                tags = [tag, "trtenv/rtx-1.7:latest"]
                yield {"RepoTags": tags, "Created": created, "Labels": labels}


class FakeClient:
    def __init__(self, *plans: ImagePlan) -> None:
        labels = {plan.tag: imagebuild._labels(plan, plan.hash) for plan in plans}
        self.api = FakeApi(labels)


@pytest.fixture
def no_base_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTENV_BASE_IMAGE", raising=False)


@pytest.mark.usefixtures("no_base_chosen")
@pytest.mark.parametrize(
    ("present", "torch", "expected"),
    [
        ([PLAIN, PLAN], False, PLAN),  # the newest of those that will do
        ([PLAN, PLAIN], False, PLAIN),
        ([PLAN, PLAIN], True, PLAN),
        ([plan_image(RTX, RunOptions()), PLAN], False, plan_image(RTX, RunOptions())),
    ],
)
def test_an_image_that_will_do_is_used(
    present: list[ImagePlan], torch: bool, expected: ImagePlan
) -> None:
    client: Any = FakeClient(*present)
    assert ensure_image(RTX, client, RunOptions(needs_torch=torch, pull=False)) == expected.tag


@pytest.mark.usefixtures("no_base_chosen")
@pytest.mark.parametrize(
    ("environment", "torch"),
    [
        (RTX, True),
        (dataclasses.replace(RTX, requirements=("tensorrt-rtx-cu12==1.6.1.120",)), False),
    ],
    ids=["lacks torch", "other requirements"],
)
def test_an_image_that_will_not_do_is_not(environment: Environment, torch: bool) -> None:
    client: Any = FakeClient(PLAIN)
    with pytest.raises(EnvironmentFailed, match="no image on this machine") as caught:
        ensure_image(environment, client, RunOptions(needs_torch=torch, pull=False))
    assert caught.value.hint == "trtenv env build rtx-1.7"


def test_a_base_of_the_users_own_is_not_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRTENV_BASE_IMAGE", "company/python:3.11")
    client: Any = FakeClient(PLAN)
    with pytest.raises(EnvironmentFailed):
        ensure_image(RTX, client, RunOptions(pull=False))
