"""What a build of an image is given: the Dockerfile, and from the host what pip needs.

All but the Dockerfile lies in `build/`, which only the first stage sees.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from trtenv.catalog.model import Environment
from trtenv.paths import templates_folder
from trtenv.runners import pip
from trtenv.runners.wheels import normalise, requirement_layers, split_requirement

__all__ = [
    "ca_bundle",
    "local_wheels",
    "pip_conf",
    "pip_script",
    "torchvision_script",
    "write_context",
]


def pip_script() -> bytes:
    return (templates_folder() / "pip.sh").read_bytes()


def torchvision_script() -> bytes:
    return (templates_folder() / "torchvision.sh").read_bytes()


def write_context(
    file: IO[bytes],
    dockerfile: str,
    environment: Environment,
    settings: Mapping[str, Sequence[str]],
    *,
    extras: Iterable[str] = (),
) -> None:
    """A tar with nothing in it but what the Dockerfile names."""
    wheels = local_wheels(settings.get("find-links", ()), environment, extras)
    with tarfile.open(fileobj=file, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile.encode())
        _add(tar, "build/ca.crt", ca_bundle(settings, os.environ))
        _add(tar, "build/pip.conf", pip_conf(settings).encode())
        _add(tar, "build/pip.sh", pip_script())
        _add(tar, "build/torchvision.sh", torchvision_script())
        _add(tar, "build/pip.whl", pip.bundled_wheel(environment.python[0]).read_bytes())
        # Also without wheels: pip is pointed at the folder.
        _add(tar, "build/wheels/README", b"Wheels of the host's find-links folders.\n")
        for wheel in wheels:
            tar.add(wheel, f"build/wheels/{wheel.name}", filter=_anonymous)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(content))


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info


def ca_bundle(settings: Mapping[str, Sequence[str]], variables: Mapping[str, str]) -> bytes:
    """The one that the host's own pip trusts; empty where nothing is configured."""
    named = [*settings.get("cert", ())]
    named += [variables.get("SSL_CERT_FILE", ""), variables.get("REQUESTS_CA_BUNDLE", "")]
    found = next((Path(name) for name in named if name and Path(name).is_file()), None)
    return found.read_bytes() if found else b""


def pip_conf(settings: Mapping[str, Sequence[str]]) -> str:
    """The user's indexes, as far as a container reaches them."""
    lines = ["[global]"]
    for key in ("index-url", "extra-index-url", "find-links"):
        urls = [url for url in settings.get(key, ()) if url.startswith(("http://", "https://"))]
        if urls:
            lines.append(f"{key} =" + "".join(f"\n    {url}" for url in urls))
    if hosts := settings.get("trusted-host"):
        lines.append("trusted-host =" + "".join(f"\n    {host}" for host in hosts))
    return "\n".join(lines) + "\n"


def local_wheels(
    links: Iterable[str], environment: Environment, extras: Iterable[str] = ()
) -> list[Path]:
    """Wheels in the host's find-links folders that a pinned requirement may want, and every torchvision:
    which one fits is for pip to say.

    Those of torch and its additions too where none is asked for: the context stays the same, and so
    do cached layers.
    """
    layers = requirement_layers(
        environment, torch=environment.has_torch, packages=environment.on_demand, extras=extras
    )
    pins = dict(split_requirement(each) for members in layers.values() for each in members)
    found = {
        wheel.name: wheel
        for folder in _folders(links)
        for wheel in sorted(folder.glob("*.whl"))
        if _fits(wheel, pins, environment.python)
    }
    return [found[name] for name in sorted(found)]


def _folders(links: Iterable[str]) -> Iterator[Path]:
    for link in links:
        folder = Path(urlsplit(link).path if link.startswith("file:") else link).expanduser()
        if folder.is_dir():
            yield folder


def _fits(wheel: Path, pins: Mapping[str, str | None], minors: Sequence[str]) -> bool:
    """`2.13.0` wants 2.13.0+cpu too. pip makes the final choice."""
    parts = wheel.stem.split("-")
    if len(parts) < 5:
        return False
    name, version, python, abi = normalise(parts[0]), parts[1], parts[-3], parts[-2]
    wanted = pins.get(name)
    if name == "torchvision" and name in pins and wanted is None:
        wanted = version
    if wanted is None or version not in (wanted, *[version] * version.startswith(f"{wanted}+")):
        return False
    exact = {f"cp{minor.replace('.', '')}" for minor in minors}
    return abi == "abi3" or any(tag in exact or tag == "py3" for tag in python.split("."))
