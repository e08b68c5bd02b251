"""The rule of compat.py on GPUs: the model, hardware compatibility, what TensorRT-RTX was built for."""

from __future__ import annotations

from trtenv.dialect.versions import parse_version
from trtenv.engine.compatfacts import (
    NEEDS_STAMP,
    NOT_JUDGED,
    RTX_DOCS,
    RUNS,
    UNKNOWN,
    WILL_NOT_RUN,
    Answer,
    Engine,
    Place,
    capability,
)
from trtenv.engine.header import Flavour
from trtenv.engine.rebuild import at
from trtenv.engine.targets import is_jetson, same_model


def gpu(engine: Engine, place: Place) -> Answer:
    there = place.compute_capability
    if place.gpu_problem:
        return Answer(UNKNOWN, place.gpu_problem)
    if there is None:
        return Answer(NOT_JUDGED, "no GPU is named", "add --target NAME, or --host")
    if engine.flavour is Flavour.TENSORRT_RTX:
        return _rtx_gpu(engine, there)
    return _tensorrt_gpu(engine, place, there)


def _tensorrt_gpu(engine: Engine, place: Place, there: str) -> Answer:
    if engine.level == "ampere-plus":
        return _ampere(place, there)
    built = engine.compute_capability
    if built is None:
        return _by_kernels(engine, there)
    pair = f"built on compute capability {built}, for {there}"
    if engine.level == "same-compute-capability":
        if place.jetson:
            return Answer(WILL_NOT_RUN, "hardware-compatible engines are not for JetPack")
        return Answer(RUNS if built == there else WILL_NOT_RUN, f"{pair}, built same-sm")
    if built == there:
        return _model(engine, place, there)
    if engine.level == "none":
        return Answer(WILL_NOT_RUN, f"{pair}, and not hardware-compatible")
    # Ampere and later build and run AMPERE_PLUS, Jetson apart.
    if _old(there) or _old(built) or place.jetson or is_jetson(built):
        return Answer(WILL_NOT_RUN, f"{pair}: no level of hardware compatibility spans these")
    return Answer(UNKNOWN, f"{pair}: whether it is hardware-compatible, {NEEDS_STAMP}")


def _ampere(place: Place, there: str) -> Answer:
    if place.jetson:
        return Answer(WILL_NOT_RUN, "hardware-compatible engines are not for JetPack")
    if _old(there):
        return Answer(
            WILL_NOT_RUN, f"built for Ampere and later, compute capability 8.0 on, not {there}"
        )
    return Answer(RUNS, f"built for Ampere and later: compute capability {there} is")


def _model(engine: Engine, place: Place, there: str) -> Answer:
    if engine.gpu and place.gpu and same_model(engine.gpu, place.gpu):
        return Answer(RUNS, f"built on {engine.gpu}, the same model")
    if engine.gpu and place.gpu:
        what = f"built on {engine.gpu}, for {place.gpu}, both of compute capability {there}"
    else:
        what = f"compute capability {there} is right, the GPU model is not known"
    return Answer(
        UNKNOWN,
        f"{what}: engines are for the model that built them. Another one of the same compute "
        "capability loads them with a warning, and may run slower or fail",
        None if engine.gpu else NEEDS_STAMP,
    )


def _by_kernels(engine: Engine, there: str) -> Answer:
    facts = engine.found.gpu
    digits = (facts.family or "").removeprefix("sm") if facts else ""
    if not digits.isdigit() or len(digits) < 2:
        return Answer(UNKNOWN, "nothing in the file tells the GPU that built it", NEEDS_STAMP)
    family = f"{digits[:-1]}.{digits[-1]}"
    if parse_version(there) < parse_version(family):
        return Answer(
            WILL_NOT_RUN,
            f"kernels for compute capability {family} inside, and the GPU is older: {there}",
            None,
            "docs.nvidia.com/cuda/cuda-c-programming-guide, binary compatibility",
        )
    return Answer(
        UNKNOWN, f"kernels for {family} tell the family alone: {family} or newer", NEEDS_STAMP
    )


def _rtx_gpu(engine: Engine, there: str) -> Answer:
    asked = engine.targets
    if asked is None:
        said = at(engine.stamp, "targets", "compute_capabilities")
        if not isinstance(said, list):
            return Answer(UNKNOWN, "what it was built for is not known", None, RTX_DOCS)
        asked = tuple(filter(None, map(capability, said)))
    named = ", ".join(asked)
    if there in asked:
        return Answer(RUNS, f"built for compute capability {named}", None, RTX_DOCS)
    newest = max((parse_version(item) for item in asked if item != "later"), default=())
    if "later" in asked and parse_version(there) > newest:
        return Answer(UNKNOWN, f"built for {named}: {there} is later, untested", None, RTX_DOCS)
    return Answer(WILL_NOT_RUN, f"built for {named}, not for {there}", None, RTX_DOCS)


def _old(compute_capability: str) -> bool:
    return parse_version(compute_capability) < (8, 0)
