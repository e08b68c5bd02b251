"""What tests may reach, and the real parts they are given.

Unit tests reach nothing outside the process. The other tiers are marked: `docker`, `venv` and `gpu`
run when asked for (--run-docker, ...), `process` always. A tier named in TRTENV_REQUIRE runs, and a
skip in it is a failure: where a tier was promised, nothing may be skipped unseen.
"""

import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ON_REQUEST = ("docker", "venv", "gpu")
# Podman tests are Docker tests with another daemon, CDI tests those with a newer one than Debian 12 has:
# a machine may promise one without the other.
TIERS = ("cdi", "podman", *ON_REQUEST, "process")
BASE_IMAGE = "trtenv-base:bookworm"


def required() -> set[str]:
    return set(os.environ.get("TRTENV_REQUIRE", "").split(",")) - {""}


def tier(item: pytest.Item) -> str | None:
    return next((name for name in TIERS if item.get_closest_marker(name)), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in ON_REQUEST:
        parser.addoption(f"--run-{name}", action="store_true", help=f"run the tests marked {name}")


def pytest_configure(config: pytest.Config) -> None:
    if unknown := required() - set(TIERS):
        raise pytest.UsageError(f"TRTENV_REQUIRE names unknown tiers: {', '.join(unknown)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in ON_REQUEST:
        asked = item.config.getoption(f"--run-{name}") or name in required()
        if item.get_closest_marker(name) and not asked:
            pytest.skip(f"needs --run-{name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.skipped and tier(item) in required() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and TRTENV_REQUIRE promises `{tier(item)}`: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or changes what the user of this machine has."""
    monkeypatch.setenv("TRTENV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRTENV_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def nothing_outside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if tier(request.node):
        return

    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"a unit test reached outside: {args[1:]}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)


@pytest.fixture(scope="session")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small image with Python: the one that is named, the one that is here, or one made now."""
    if named := os.environ.get("TRTENV_TEST_BASE_IMAGE"):
        return named
    from trtenv.errors import TrtenvError
    from trtenv.runners.daemon import connect, find_image

    try:
        client = connect()
    except TrtenvError as error:
        pytest.skip(str(error))
    if find_image(client, BASE_IMAGE) is None:
        archive = make_base(tmp_path_factory.mktemp("base"))
        repository, _, tag = BASE_IMAGE.partition(":")
        client.api.import_image_from_file(str(archive), repository=repository, tag=tag)
    client.close()
    return BASE_IMAGE


def make_base(folder: Path) -> Path:
    if not shutil.which("debootstrap") or os.getuid() != 0:
        pytest.skip("no base image, and only root with debootstrap can make one")
    root, archive = folder / "root", folder / "base.tar"
    options = ["--variant=minbase", "--include=python3,ca-certificates"]
    subprocess.run(["debootstrap", *options, "bookworm", root], check=True, capture_output=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(root, arcname=".")
    shutil.rmtree(root)
    return archive
