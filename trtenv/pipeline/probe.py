"""Reads what an environment really holds and holds it against what the catalogue says."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtenv import console
from trtenv.catalog.lock import read_lock
from trtenv.catalog.model import Environment
from trtenv.catalog.resolve import Wish
from trtenv.errors import ResolutionError
from trtenv.pipeline.place import Place, Settings
from trtenv.pipeline.staging import staging_folder
from trtenv.runners.protocol import Job

# What the catalogue declares, beside what the probe calls it.
COMPARED = {"cuda": "cuda", "cudnn": "cudnn", "torch": "torch", "python": "python"}


def probe(name: str, settings: Settings) -> dict[str, Any]:
    """Start it, read it, write the lock; returns name, identity, measured facts and differences."""
    choice = settings.resolve(Wish(environment=name, job="any"))
    whole = choice.environment.has_torch and choice.environment.kind == "wheel"
    options = replace(settings.options, needs_torch=whole, needs_gpu=bool(settings.host.gpus))
    place = Place(choice, settings, options)
    with staging_folder(Path(tempfile.gettempdir())) as staging, place.session(staging) as session:
        with console.Step(f"probing {name}") as step:
            measured = session.run(Job("probe", {}), step.on_event).values
        place.record(measured)
    env = choice.environment
    return {
        "name": name,
        "runner": choice.runner,
        "reference": place.identity.reference,
        "digest": place.identity.digest,
        "platform": place.identity.platform,
        "measured": measured,
        "differences": differences(env, measured),
    }


def differences(env: Environment, measured: dict[str, Any]) -> list[dict[str, str]]:
    """Facts of which the catalogue says something else than was found."""
    library = measured.get(env.flavour) or measured.get("libnvinfer")
    pairs = [("tensorrt", env.tensorrt, library)]
    for fact, key in COMPARED.items():
        declared = getattr(env, fact)
        if fact == "python":
            found = measured.get(key) or ""
            pairs.append((fact, _closest(declared, found), found))
        else:
            pairs.append((fact, declared, measured.get(key)))
    return [
        {"fact": fact, "declared": declared, "measured": str(found)}
        for fact, declared, found in pairs
        if declared and not agree(declared, found)
    ]


def _closest(declared: tuple[str, ...], found: str) -> str:
    return next((entry for entry in declared if agree(entry, found)), " or ".join(declared))


def agree(declared: str, found: str | None) -> bool:
    """As far as both go: 8.5 and 8.5.0.12 agree, and so do 8.6.0.12 and a library that says 8.6.0."""
    if found is None:
        return False
    left, right = re.findall(r"\d+", declared), re.findall(r"\d+", found)
    count = min(len(left), len(right), 4)
    return left[:count] == right[:count]


def adopt_image(reference: str, settings: Settings) -> str:
    """Make any image an environment of this run: probed first, unless the lock knows it already.

    Returns its name. ResolutionError where no TensorRT is inside.
    """
    name = declare_image(reference, settings)
    found = known_inside(name, settings) or probe(name, settings)["measured"]
    rtx, full = found.get("tensorrt-rtx"), found.get("tensorrt")
    if not (rtx or full):
        inside = found.get("libnvinfer")
        raise ResolutionError(
            f"image `{reference}` has no TensorRT for Python"
            + (f"; its library is {inside}" if inside else ""),
            hint="choose an image whose Python can `import tensorrt`",
        )
    adopted = replace(
        settings.catalog[name],
        flavour="tensorrt" if full else "tensorrt-rtx",
        tensorrt=full or rtx,
        torch=found.get("torch"),
        holds=frozenset({"tensorrt", "torch"} if found.get("torch") else {"tensorrt"}),
        confidence="measured",
    )
    settings.catalog = settings.catalog.replaced([adopted])
    return name


def declare_image(reference: str, settings: Settings) -> str:
    """An environment of this run for an image that the catalogue does not have."""
    name = "image-" + re.sub(r"[^a-z0-9.+-]+", "-", reference.lower()).strip("-")
    unknown = Environment(name=name, image=reference, arch=(settings.host.machine,))
    settings.catalog = settings.catalog.replaced([unknown])
    return name


def known_inside(name: str, settings: Settings) -> dict[str, Any] | None:
    """What the lock says was measured in it, if it is still the same image."""
    entry = read_lock(settings.lock).get(name)
    if entry is None:
        return None
    choice = settings.resolve(Wish(environment=name, job="any"))
    digest = Place(choice, settings, settings.options).identity.digest
    return dict(entry.measured) if entry.digest == digest else None


def adopt_name(name: str, settings: Settings) -> str:
    """A name of the catalogue as it is; what looks like an image reference becomes an environment."""
    if name in settings.catalog or not re.search(r"[:/@]", name):
        return name
    return declare_image(name, settings)
