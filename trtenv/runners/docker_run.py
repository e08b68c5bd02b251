"""The `docker run` that equals a create request, for people to read, paste and change. Pure.

It is read off the request itself, so that the two cannot differ.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["docker_run"]

# Flags whose value, or list of values, is what the request says.
FLAGS = (
    ("--runtime", "Runtime"),
    ("--network", "NetworkMode"),
    ("--cap-drop", "CapDrop"),
    ("--cap-add", "CapAdd"),
    ("--security-opt", "SecurityOpt"),
    ("--group-add", "GroupAdd"),
    ("--pids-limit", "PidsLimit"),
    ("--userns", "UsernsMode"),
    ("--volume", "Binds"),
)


def docker_run(body: Mapping[str, Any], name: str | None = None) -> list[str]:
    """The command that a user would type for this body, fit for shlex.join."""
    image, argv = body["Image"], list(body["Cmd"])
    line = ["docker", "run", "--rm", "-i", *(["-t"] if body["Tty"] else [])]
    if name:
        line += ["--name", name]
    line += _host_flags(body["HostConfig"])
    line += ["--user", body["User"], "--workdir", body["WorkingDir"]]
    for variable in body["Env"]:
        line += ["--env", variable]
    if "Entrypoint" in body:
        line += ["--entrypoint", body["Entrypoint"][0]]
        argv = [*body["Entrypoint"][1:], *argv]
    return [*line, image, *argv]


def _host_flags(host: Mapping[str, Any]) -> Iterator[str]:
    for request in host.get("DeviceRequests", ()):
        yield from _gpu_flags(request)
    for device in host.get("Devices", ()):
        names = (device["PathOnHost"], device["PathInContainer"], device["CgroupPermissions"])
        yield from ("--device", ":".join(names))
    yield from ("--shm-size", _size(host["ShmSize"]))
    if "Memory" in host:
        yield from ("--memory", _size(host["Memory"]), "--memory-swap", _size(host["MemorySwap"]))
    for limit in host.get("Ulimits", ()):
        yield from ("--ulimit", f"{limit['Name']}={limit['Soft']}")
    for flag, key in FLAGS:
        values = host.get(key, [])
        for value in values if isinstance(values, list) else (values,):
            yield from (flag, str(value))
    for target, options in host.get("Tmpfs", {}).items():
        yield from ("--tmpfs", f"{target}:{options}")
    for mount in host["Mounts"]:
        yield from ("--mount", _mount_flag(mount))


def _gpu_flags(request: Mapping[str, Any]) -> Iterator[str]:
    ids = request.get("DeviceIDs", ())
    if request["Driver"] == "cdi":
        for device in ids:
            yield from ("--device", device)
    else:
        # Docker reads the value as CSV: more than one device needs quotes of its own.
        yield from ("--gpus", f'"device={",".join(ids)}"' if ids else "all")


def _mount_flag(mount: Mapping[str, Any]) -> str:
    """As CSV: a path may hold commas and quotes."""
    text = io.StringIO()
    fields = [f"type={mount['Type']}", f"source={mount['Source']}", f"target={mount['Target']}"]
    csv.writer(text, lineterminator="").writerow(
        fields + (["readonly"] if mount["ReadOnly"] else [])
    )
    return text.getvalue()


def _size(count: int) -> str:
    return f"{count // 2**30}g" if count % 2**30 == 0 else str(count)
