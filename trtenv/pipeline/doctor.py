"""Looks at this machine and says what can run here, what cannot, and what mends it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from trtenv.catalog.host import Host
from trtenv.catalog.model import Environment
from trtenv.catalog.resolve import Wish, place
from trtenv.paths import cache_folder
from trtenv.pipeline.staging import PREFIX
from trtenv.runners.daemon import DaemonFacts, daemon_facts
from trtenv.runners.gpuchoice import read_signs
from trtenv.runners.gpumodes import Judgement, judge, nothing_works
from trtenv.runners.gpus import read_gpus

# An NGC PyTorch image unpacks to about 20 GB; a wheel environment with torch takes about 2 GB.
ROOM_FOR_IMAGES = 25 * 10**9
ROOM_FOR_VENVS = 4 * 10**9
INDEX_TIMEOUT = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """state: `ok`, `absent` (fine, if not wanted) or `problem`; a remedy is a command or a change."""

    topic: str
    state: str
    text: str
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(catalog: Mapping[str, Environment]) -> Iterator[Finding]:
    """Findings as they come: a slow daemon does not hold back what is known already."""
    facts = daemon_facts()
    yield from _daemon(facts)
    driver, gpus, problem = read_gpus()
    yield _gpus(driver, [f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus], problem)
    if facts.reachable:
        yield from _gpu_modes(judge(facts, read_signs(facts)), has_gpu=bool(gpus))
    yield from _disk(facts)
    pythons = sorted(
        {minor for env in catalog.values() if env.kind == "wheel" for minor in env.python}
    )
    found = _interpreters(pythons)
    yield from _pythons(found, pythons)
    yield _index()
    host = Host(
        machine=os.uname().machine,
        driver=driver,
        gpus=gpus,
        gpu_problem=problem,
        no_daemon=None if facts.reachable else facts.reason or "unknown",
        pythons=frozenset(found),
    )
    yield _summary(catalog, host)


def _daemon(facts: DaemonFacts) -> Iterator[Finding]:
    if not facts.reachable:
        yield Finding("container daemon", "absent", facts.reason or "none answers", facts.hint)
        return
    mode = "rootless" if facts.rootless else "as root"
    text = f"{facts.name} {facts.version} at {facts.url}, {mode}, cgroup v{facts.cgroup_version}"
    yield Finding("container daemon", "ok", text)
    if not facts.limits_memory:
        yield Finding(
            "memory limits",
            "problem",
            "the daemon cannot limit a container's memory",
            "enable the memory cgroup: boot with cgroup_enable=memory",
        )


def _gpus(driver: str | None, gpus: list[str], problem: str | None) -> Finding:
    if problem:
        return Finding("GPU", "problem", problem, "reload the driver, or reboot after its update")
    if driver is None:
        return Finding(
            "GPU", "absent", "no NVIDIA driver; TensorRT-RTX engines are built without one"
        )
    return Finding("GPU", "ok", f"driver {driver}: {', '.join(gpus) or 'no GPU'}")


def _gpu_modes(judgements: Sequence[Judgement], *, has_gpu: bool) -> Iterator[Finding]:
    """Each way to a GPU in containers; a problem only where there is a GPU and no way to it."""
    for one in judgements:
        if one.works is None:
            yield Finding(f"--gpu-mode {one.mode}", "absent", f"not known: {one.why}")
        else:
            state = "ok" if one.works else "absent"
            remedy = None if one.works or not has_gpu else one.remedy
            yield Finding(f"--gpu-mode {one.mode}", state, one.why, remedy)
    modes = [one.mode for one in judgements if one.works is not False]
    if modes:
        state = "ok" if any(one.works for one in judgements) else "absent"
        yield Finding("GPU in containers", state, f"--gpu-mode auto tries {', '.join(modes)}")
    elif has_gpu:
        error = nothing_works(judgements)
        yield Finding("GPU in containers", "problem", error.message, error.hint)
    else:
        yield Finding("GPU in containers", "absent", "none of these works, and there is no GPU")


def _disk(facts: DaemonFacts) -> Iterator[Finding]:
    if facts.reachable and facts.free_bytes is not None:
        yield _room("disk for images", facts.data_root, facts.free_bytes, ROOM_FOR_IMAGES)
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    yield _room("disk for venvs", str(folder), free, ROOM_FOR_VENVS)


def _room(topic: str, where: str, free: int, needed: int) -> Finding:
    text = f"{free / 1e9:.0f} GB free at {where}"
    if free >= needed:
        return Finding(topic, "ok", text)
    remedy = (
        f"free some: {needed / 1e9:.0f} GB are wanted (`docker system df`, `trtenv env remove`)"
    )
    return Finding(topic, "problem", text, remedy)


def _interpreters(pythons: list[str]) -> dict[str, str]:
    from trtenv.runners.interpreters import available

    seen = {minor: available((minor,)) for minor in pythons}
    return {minor: str(found.executable) for minor, found in seen.items() if found}


def _pythons(found: Mapping[str, str], wanted: list[str]) -> Iterator[Finding]:
    for minor, executable in found.items():
        yield Finding("interpreter", "ok", f"Python {minor}: {executable}")
    missing = [minor for minor in wanted if minor not in found]
    if missing:
        yield Finding(
            "interpreter",
            "absent",
            f"no Python {', '.join(missing)}",
            f"if its wheels are wanted: uv python install {missing[0]}, or pyenv install {missing[0]}",
        )


def _index() -> Finding:
    """Asks as pip does, with the user's own indexes, proxies and certificates."""
    argv = [
        sys.executable,
        "-m",
        "pip",
        "index",
        "versions",
        "pip",
        "--retries",
        "0",
        "--timeout",
        "8",
    ]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=INDEX_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return Finding("package index", "problem", "pip got no answer", "check proxy and network")
    if "No module named pip" in done.stderr:
        return Finding("package index", "absent", "not asked: no pip beside trtenv")
    if done.returncode == 0:
        return Finding("package index", "ok", "pip reaches it")
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return Finding("package index", "problem", last, "check `pip config list`, proxy and network")


def _summary(catalog: Mapping[str, Environment], host: Host) -> Finding:
    able = [env for env in catalog.values() if place(Wish(anywhere=True), env, host)[1] is None]
    if not able:
        return Finding("what can run", "problem", "no environment", "mend one of the above")
    flavours = {
        flavour: [e.name for e in able if e.flavour == flavour]
        for flavour in ("tensorrt", "tensorrt-rtx")
    }
    parts = [
        f"{len(names)} of {flavour}: {names[0]} ... {names[-1]}"
        for flavour, names in flavours.items()
        if names
    ]
    return Finding("what can run", "ok", "; ".join(parts) + " (trtenv env list --runnable)")


def sweep(*, everything: bool) -> Iterator[str]:
    """Remove what a killed trtenv left: containers, half-made venvs and staging folders."""
    from trtenv.errors import DaemonUnavailable
    from trtenv.runners.docker import DockerRunner
    from trtenv.runners.imagebuild import remove_stages
    from trtenv.runners.venv import VenvRunner

    with suppress(DaemonUnavailable):  # no daemon, no containers
        docker = DockerRunner()
        yield from (f"container {left.name}" for left in docker.clean(everything=everything))
        # A build that runs beside this needs its stages: only where everything is to go.
        if everything and (freed := remove_stages(docker.client)):
            yield f"stages of image builds, {freed / 1e6:.0f} MB"
    yield from (str(path) for path in VenvRunner().clean())
    for note in (cache_folder() / "staging").glob(PREFIX + "*"):
        match = re.fullmatch(re.escape(PREFIX) + r"(\d+)-\w+", note.name)
        if match and not _alive(int(match[1])):
            folder = note.readlink()
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                yield str(folder)
            note.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
