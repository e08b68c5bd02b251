"""What the rules of compat.py judge: the engine, as its file and its stamp tell, and the place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from trtenv.dialect.portability import Span, span
from trtenv.engine.header import Flavour
from trtenv.engine.inspect import Inspection
from trtenv.engine.rebuild import at
from trtenv.errors import ArtifactError

RUNS: Final = "runs"
WILL_NOT_RUN: Final = "will not run"
UNKNOWN: Final = "unknown"
NOT_JUDGED: Final = "not judged"
NEEDS_STAMP: Final = "only a stamp tells: engines that trtenv builds have one"
RTX_DOCS: Final = (
    "docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the engine shall run; None, or nothing, is what is left open. `driver_problem` is why the
    driver there is too old; `driver` the one that was found; `driver_needed` the oldest. `builder` is
    the environment that a rebuild is for, where `environment` names none."""

    name: str
    flavour: str | None = None
    tensorrt: str | None = None
    environment: str | None = None
    builder: str | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    jetson: bool = False
    os: str | None = None
    arch: tuple[str, ...] = ()
    gpu_problem: str | None = None
    driver: str | None = None
    driver_needed: str | None = None
    driver_problem: str | None = None
    ultralytics: bool = False


class Engine(NamedTuple):
    """What is known of the engine. `stamp` is empty unless it is of this very file; `level` and
    `version_compatible` are None where nothing tells."""

    found: Inspection
    flavour: Flavour
    built: Span | None
    version: str
    compute_capability: str | None
    gpu: str | None
    level: str | None
    version_compatible: bool | None
    targets: tuple[str, ...] | None
    os: str | None
    arch: str | None
    stamp: dict[str, Any]


class Answer(NamedTuple):
    """`source` where it is another one than the rule's."""

    verdict: str
    message: str
    hint: str | None = None
    source: str | None = None


def read_engine(found: Inspection) -> Engine:
    plan = found.plan
    if plan is None:
        raise ArtifactError(
            f"`{found.path}` holds no engine: {found.title}",
            hint=f"whether a TensorRT takes the model: trtenv lint {found.path} --trt VERSION",
        )
    ours = found.stamp and found.stamp.sha256 == "matches" and found.stamp.document
    stamp = ours or {}
    built = span(plan.version, plan.release)
    level, later = plan.hardware_compatibility, at(stamp, "targets", "version_compatible")
    said = at(stamp, "targets", "hardware_compatible")
    if level is None and said in ("none", "ampere+", "same-sm"):
        level = {"ampere+": "ampere-plus", "same-sm": "same-compute-capability"}.get(said, said)
    if built and built.before_compatibility:
        level, later = "none", False
    # As registries write it: linux/amd64, linux/arm64/v8.
    system, machine, *_ = (text(stamp, "environment", "platform") + "//").split("/")
    if at(stamp, "targets", "platform") == "windows":
        system, machine = "windows", "amd64"
    elif not machine and plan.device and plan.device.integrated:
        machine = "arm64"
    return Engine(
        found=found,
        flavour=plan.flavour,
        built=built,
        version=plan.version or plan.release or "of unknown version",
        compute_capability=plan.device.compute_capability
        if plan.device
        else capability(at(stamp, "gpu", "compute_capability")),
        gpu=text(stamp, "gpu", "name") or None,
        level=level,
        version_compatible=later if isinstance(later, bool) else None,
        targets=plan.targets,
        os=system or None,
        arch={"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine) or None,
        stamp=stamp,
    )


def text(document: object, *path: str) -> str:
    value = at(document, *path)
    return value if isinstance(value, str) else ""


def capability(value: object) -> str | None:
    """`8.6`, where a stamp holds one."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9]{1,2}\.[0-9]", value) else None
