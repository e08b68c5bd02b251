"""Chooses the environment for a job: pure, from a wish, the catalogue and the host's facts.

The answer carries why it won and, for every other candidate, why it lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trtenv.catalog.host import Host
from trtenv.catalog.model import Environment
from trtenv.dialect.versions import buildable, compute_capabilities
from trtenv.errors import ResolutionError, UsageError

RUNNERS = ("docker", "venv")
PACKAGED = ("export", "run")


class Wish(NamedTuple):
    """What a job needs. `environment` wins over `trt`; both empty means the best that runs here.

    job: "build" and "infer" need TensorRT, "any" needs nothing of it; "export", and "run" for what runs
    without TensorRT, need the packages in `needs`.
    """

    environment: str | None = None
    trt: str | None = None
    runner: str = "auto"
    job: str = "build"
    needs: tuple[str, ...] = ("torch",)
    compute_capabilities: tuple[str, ...] = ()
    anywhere: bool = False  # TensorRT-RTX engines may be for another GPU than this host's


class Refusal(NamedTuple):
    name: str
    reason: str


class Choice(NamedTuple):
    environment: Environment
    runner: str
    reason: str
    refused: tuple[Refusal, ...] = ()


def resolve(
    wish: Wish, catalog: Mapping[str, Environment], host: Host, *, lenient: bool = False
) -> Choice:
    """ResolutionError lists every candidate and the reason it lost.

    `lenient`, for dry runs, takes the best of those that lost and says why it would not run.
    UsageError for targets that none of the candidates can build for, whatever the machine.
    """
    candidates = asked_for(wish, catalog)
    if not candidates:
        raise ResolutionError(
            f"no environment has {_wanted(wish)}",
            hint="`trtenv env list` shows them all",
        )
    able = [env for env in candidates if _target(wish, env) is None]
    if not able:
        raise _no_target(wish, candidates)
    fits: list[tuple[Environment, str]] = []
    refused: list[Refusal] = []
    for env in candidates:
        runner, reason = place(wish, env, host)
        if reason is None:
            fits.append((env, runner))
        else:
            refused.append(Refusal(env.name, reason))
    if not fits and lenient:
        return _would_be(wish, able, host, refused)
    if not fits:
        raise _nothing_fits(wish, refused)
    winner, runner = max(fits, key=lambda fit: _rank(fit[0]))
    losers = [Refusal(env.name, f"{winner.name} ranks higher") for env, _ in fits if env != winner]
    return Choice(winner, runner, _why(wish, len(fits)), (*refused, *losers))


def place(wish: Wish, env: Environment, host: Host) -> tuple[str, str | None]:
    """The runner for this environment, and the reason it cannot run here, None if it can."""
    runner, reason = _runner(wish.runner, env, host)
    return runner, reason or _content(wish, env) or _machine(env, host) or _gpu(wish, env, host)


def asked_for(wish: Wish, catalog: Mapping[str, Environment]) -> list[Environment]:
    """The candidates. UnknownEnvironment for a name that the catalogue does not have."""
    if wish.environment is not None:
        return [catalog[wish.environment]]
    found = [env for env in catalog.values() if wish.trt is None or env.matches_trt(wish.trt)]
    if wish.job in PACKAGED:
        # What lacks a package of the model's is no candidate; named, it is, and says why it loses.
        found = [env for env in found if all(map(env.provides, wish.needs))]
    return found


def _wanted(wish: Wish) -> str:
    return f"TensorRT `{wish.trt}`" if wish.trt else " and ".join(wish.needs)


def _runner(asked: str, env: Environment, host: Host) -> tuple[str, str | None]:
    """Docker where a daemon answers, the embedded venv where none does, unless told otherwise."""
    able = {"image": ("docker",), "wheel": RUNNERS, "python": ("venv",)}[env.kind]
    wanted = [runner for runner in able if asked in ("auto", runner)]
    if not wanted:
        return asked, f"it runs only with --runner {able[0]}"
    reasons = []
    for runner in wanted:
        reason = _no_docker(env, host) if runner == "docker" else _no_venv(env, host)
        if reason is None:
            return runner, None
        reasons.append(reason)
    return wanted[-1], "; ".join(reasons)


def _no_docker(env: Environment, host: Host) -> str | None:
    if env.not_pullable:
        return env.not_pullable
    if host.no_daemon and "container daemon" not in host.no_daemon:
        return f"no container daemon: {host.no_daemon}"
    return host.no_daemon


def _no_venv(env: Environment, host: Host) -> str | None:
    if env.kind == "python" or host.pythons & set(env.python):
        return None
    return f"no Python {' or '.join(env.python)} found for its wheels"


def _content(wish: Wish, env: Environment) -> str | None:
    if wish.job in PACKAGED:
        missing = [package for package in wish.needs if not env.provides(package)]
        return f"it holds no {' and no '.join(missing)}" if missing else None
    if wish.job in ("build", "infer") and not env.tensorrt and wish.environment is None:
        return "its TensorRT version is not known"
    if env.serving and wish.environment is None:
        return "it is for serving: name it with --env to use it"
    return None


def _machine(env: Environment, host: Host) -> str | None:
    if host.machine in env.arch:
        return None
    return f"it is for {' and '.join(env.arch)}; this machine is {host.machine}"


def _gpu(wish: Wish, env: Environment, host: Host) -> str | None:
    if wish.job not in ("build", "infer"):
        return None
    if env.flavour == "tensorrt-rtx" and wish.job == "build":
        # Built on the CPU, for any GPU: only where nothing names a target does this host's matter.
        if reason := _target(wish, env):
            return reason
        targeted = wish.environment or wish.trt or wish.compute_capabilities or wish.anywhere
        if targeted or not host.gpus:
            return None
        return _capability(env, host)
    if not host.gpus:
        return host.gpu_problem or "TensorRT builds and runs only with an NVIDIA GPU; none found"
    return driver_problem(env, host.driver) or _capability(env, host)


def _target(wish: Wish, env: Environment) -> str | None:
    """TensorRT builds for the GPU it runs on: what --sm means to it, the dialect says."""
    if not wish.compute_capabilities or wish.job != "build":
        return None
    known = buildable(env.flavour, env.tensorrt or "")
    missing = [sm for sm in wish.compute_capabilities if known and sm not in known]
    if not missing:
        return None
    return f"it builds for compute capability {', '.join(known)}, not for {', '.join(missing)}"


def _no_target(wish: Wish, candidates: Iterable[Environment]) -> UsageError:
    lines = [f"{env.name}: {_target(wish, env)}" for env in candidates]
    every = ", ".join(wish.compute_capabilities)
    return UsageError(
        lines[0]
        if len(lines) == 1
        else f"none of {len(lines)} environments builds for compute capability {every}",
        hint="name others with --sm, or drop it for the release's portable default",
        details=lines if len(lines) > 1 else (),
    )


def _capability(env: Environment, host: Host) -> str | None:
    known = compute_capabilities(env.flavour, env.tensorrt or "")
    found = host.compute_capability
    if known is None or found is None or known.admits(found):
        return None
    return f"compute capability {found} is out of its range: {known.describe()}"


def driver_problem(env: Environment, driver: str | None) -> str | None:
    """Found and needed; data-centre branches that NVIDIA keeps compatible count as new enough."""
    if env.driver is None or driver is None:
        return None
    needed, found = _numbers(env.driver), _numbers(driver)
    if found >= needed:
        return None
    # Written as in `450.51+ R450, 418.xx`: the R numbers repeat the branch without its minimum.
    for low in re.findall(r"(?<![R\d.])\d+(?:\.\d+)*", env.driver_alternatives or ""):
        branch = _numbers(low)
        if found[0] == branch[0] and found >= branch:
            return None
    return f"driver {driver} is too old (needs {env.driver} or newer)"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _rank(env: Environment) -> tuple[object, ...]:
    """Higher is better: an image of TensorRT, then TensorRT-RTX, then old wheels; then the newest."""
    group = 2 if env.kind != "wheel" else int(env.flavour == "tensorrt-rtx")
    sure = env.confidence == "stated"
    return group, env.version or (), env.has_torch, sure, env.name


def _would_be(
    wish: Wish, candidates: Iterable[Environment], host: Host, refused: Iterable[Refusal]
) -> Choice:
    best = max(
        candidates, key=lambda env: (not env.not_pullable, host.machine in env.arch, _rank(env))
    )
    runner, reason = place(wish, best, host)
    return Choice(best, runner, f"would not run here: {reason}", tuple(refused))


def _why(wish: Wish, count: int) -> str:
    if wish.environment:
        return "asked for by name"
    among = f"the best of {count} that can run here" if count > 1 else "the only one that runs here"
    return among if wish.trt is None else f"{among} with TensorRT {wish.trt}"


def _kind(wish: Wish) -> str:
    return f"with {' and '.join(wish.needs)}" if wish.job in PACKAGED else "candidates"


def _nothing_fits(wish: Wish, refused: Iterable[Refusal]) -> ResolutionError:
    refused = list(refused)
    lines = [f"{entry.name}: {entry.reason}" for entry in refused]
    return ResolutionError(
        f"no environment fits: none of {len(refused)} {_kind(wish)} can {wish.job} here"
        if len(refused) > 1
        else f"environment `{refused[0].name}` cannot {wish.job} here: {refused[0].reason}",
        hint="`trtenv doctor` says what this machine lacks",
        details=lines if len(refused) > 1 else (),
    )
