"""What a container of ours may see and do, as the JSON body of Docker's create request. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from trtenv.errors import HostError, UsageError
from trtenv.runners.daemon import DaemonFacts
from trtenv.runners.protocol import JOBS_FOLDER, Mount, RunOptions

ROOT = "/trtenv"
HOME = f"{ROOT}/home"
WORKER = ("python3", f"{ROOT}/jobs/worker.py")
WORKDIR = "/workdir"
SHELL = ("bash",)
LABEL = "dev.trtenv"

GIB = 2**30
DEFAULT_SHM = 16 * GIB
# A fork bomb ends here; 256 cores with a few thread pools each do not.
PIDS_LIMIT = 8192
# What NVIDIA's images ask for in their banner.
ULIMITS = (("memlock", -1), ("stack", 67108864))


@dataclass(frozen=True, slots=True)
class Bind:
    """A path of the host and where it appears inside."""

    source: Path
    target: str
    read_only: bool = True


class Gpus(NamedTuple):
    """What a create request gets for its GPUs; `host` are fields of HostConfig."""

    host: Mapping[str, Any] = MappingProxyType({})
    variables: Mapping[str, str] = MappingProxyType({})
    binds: Sequence[Bind] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who runs trtenv; `groups` are the supplementary ones, through which files may be readable."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def current(cls) -> Caller:
        others = tuple(sorted(set(os.getgroups()) - {os.getgid()}))
        return cls(os.getuid(), os.getgid(), others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`entrypoint` None keeps the image's own."""

    argv: Sequence[str]
    entrypoint: Sequence[str] | None = None
    workdir: str
    tty: bool = False


def session_binds(staging: Path) -> list[Bind]:
    """The folders of one run. passwd and group let libraries ask who runs them."""
    return [
        Bind(JOBS_FOLDER, f"{ROOT}/jobs"),
        Bind(staging / "jobs", f"{ROOT}/session"),
        Bind(staging / "out", f"{ROOT}/out", read_only=False),
        *home_binds(staging),
    ]


def home_binds(staging: Path) -> list[Bind]:
    return [
        Bind(staging / "home", HOME, read_only=False),
        Bind(staging / "etc" / "passwd", "/etc/passwd"),
        Bind(staging / "etc" / "group", "/etc/group"),
    ]


def option_binds(mounts: Sequence[Mount]) -> list[Bind]:
    """A mount without a target gets a place of its own, under its own name."""
    return [
        Bind(
            absolute(mount.source),
            mount.target or f"{ROOT}/in/{index}/{absolute(mount.source).name or 'root'}",
            mount.read_only,
        )
        for index, mount in enumerate(mounts)
    ]


def without_doubles(binds: Sequence[Bind]) -> list[Bind]:
    """Of binds with one target the last counts: what the user mounts replaces what we mount."""
    return list({os.path.normpath(bind.target): bind for bind in binds}.values())


def inside(path: Path, binds: Sequence[Bind]) -> str:
    """Where a host path appears; the innermost bind counts. ValueError where none shows it."""
    path = absolute(path)
    found = [bind for bind in binds if path.is_relative_to(bind.source)]
    if not found:
        raise ValueError(f"{path} is below no mount")
    bind = max(found, key=lambda bind: len(bind.source.parts))
    rest = path.relative_to(bind.source)
    return str(PurePosixPath(bind.target, rest))


def absolute(path: Path) -> Path:
    """Without `..`, yet through symlinks: a link keeps the name that the user gave it."""
    return Path(os.path.abspath(path))  # noqa: PTH100  Path.absolute() keeps `..`


def user_of(options: RunOptions, facts: DaemonFacts, caller: Caller) -> str:
    """A rootless daemon's containers know the caller as root; any other user is a stranger."""
    return options.user or ("0:0" if facts.rootless else f"{caller.uid}:{caller.gid}")


def passwd(user: str) -> str:
    """root, nobody and the one who runs; the caller's real name is nobody's business inside."""
    uid, _, gid = user.partition(":")
    lines = [
        f"root:x:0:0:root:{HOME if uid == '0' else '/root'}:/bin/bash",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    ]
    if uid.isdigit() and uid not in ("0", "65534"):
        lines.append(f"trtenv:x:{uid}:{gid or uid}:trtenv:{HOME}:/bin/bash")
    return "\n".join(lines) + "\n"


def group(user: str) -> str:
    uid, _, gid = user.partition(":")
    gid = gid or uid
    lines = ["root:x:0:", "nogroup:x:65534:"]
    if gid.isdigit() and gid not in ("0", "65534"):
        lines.append(f"trtenv:x:{gid}:")
    return "\n".join(lines) + "\n"


def variables(user: str) -> dict[str, str]:
    """What makes torch and its friends work for a user whom the image does not know."""
    name = "root" if user.partition(":")[0] in ("0", "root") else "trtenv"
    cache = f"{HOME}/.cache"
    return {
        "HOME": HOME,
        "USER": name,
        "LOGNAME": name,
        # Python 3.6 opens no path beyond ASCII without it.
        "LANG": "C.UTF-8",
        "XDG_CACHE_HOME": cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torchinductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "MPLCONFIGDIR": f"{cache}/matplotlib",
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "YOLO_CONFIG_DIR": f"{HOME}/.config",
    }


def create_body(
    image: str,
    options: RunOptions,
    command: Command,
    binds: Sequence[Bind],
    *,
    facts: DaemonFacts,
    caller: Caller,
    gpus: Gpus,
) -> dict[str, Any]:
    """The body of POST /containers/create, without labels: they belong to one run."""
    user = user_of(options, facts, caller)
    environment = {**variables(user), **options.variables, **gpus.variables}
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": list(command.argv),
        "User": user,
        "WorkingDir": options.workdir or command.workdir,
        "Env": [f"{key}={value}" for key, value in environment.items()],
        "Tty": command.tty,
        "OpenStdin": True,
        # The end of the client, however it came, is the end of the worker's stdin.
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "NetworkMode": options.network,
            **_mounts(without_doubles([*gpus.binds, *binds]), facts),
            "ShmSize": options.shm_size or min(DEFAULT_SHM, facts.memory or DEFAULT_SHM),
            **_rights(user, options, facts, caller),
            **_limits(options, facts),
            **gpus.host,
        },
    }
    if command.entrypoint is not None:
        body["Entrypoint"] = list(command.entrypoint)
    return body


def _mounts(binds: Sequence[Bind], facts: DaemonFacts) -> dict[str, list[Any]]:
    """As mounts, not as "Binds": a missing source is refused, not created as root's folder."""
    mounts: list[dict[str, Any]] = []
    short: list[str] = []
    for bind in binds:
        source, target = str(bind.source), bind.target
        # Podman joins a mount's fields with commas and quotes none: those need the other form.
        if facts.name != "podman" or "," not in source + target:
            read_only = bind.read_only
            mounts.append(
                {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
            )
        elif ":" not in source + target:
            short.append(f"{source}:{target}:{'ro' if bind.read_only else 'rw'}")
        else:
            raise UsageError(
                f"Podman cannot mount `{source}`: there is a comma as well as a colon in it",
                hint="rename one of its folders",
            )
    return {"Mounts": mounts, "Binds": short} if short else {"Mounts": mounts}


def _rights(user: str, options: RunOptions, facts: DaemonFacts, caller: Caller) -> dict[str, Any]:
    security = ["no-new-privileges"]
    if facts.selinux:
        # The label of a container may not touch the user's files; relabelling them would be worse.
        security.append("label=disable")
    rights: dict[str, Any] = {"CapDrop": ["ALL"], "SecurityOpt": security}
    if user.partition(":")[0] in ("0", "root"):
        # `sudo trtenv` reads other people's models; root without this capability cannot.
        rights["CapAdd"] = ["DAC_OVERRIDE"]
    elif options.user is None and caller.groups:
        rights["GroupAdd"] = [str(gid) for gid in caller.groups]
    if facts.remapped:
        # Under userns-remap the caller's uid would be a stranger to the caller's files.
        rights["UsernsMode"] = "host"
    return rights


def _limits(options: RunOptions, facts: DaemonFacts) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if not facts.rootless:  # there, nobody may raise a limit
        limits["Ulimits"] = [{"Name": k, "Soft": v, "Hard": v} for k, v in ULIMITS]
    if facts.limits_pids:
        limits["PidsLimit"] = PIDS_LIMIT
    if options.memory:
        if not facts.limits_memory:
            raise HostError(
                "this container daemon cannot limit memory",
                hint="leave out --memory, or use a daemon with cgroup v2",
            )
        # Without swap on top: a limit that swaps is a job that seems to hang.
        limits |= {"Memory": options.memory, "MemorySwap": options.memory}
    return limits
