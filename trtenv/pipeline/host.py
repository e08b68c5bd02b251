"""Reads this machine: GPUs, driver, container daemon, interpreters."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence

from trtenv.catalog.host import Host
from trtenv.runners.gpus import read_gpus


def read_host(*, daemon: bool) -> Host:
    """Look around; `daemon` pings the container daemon too."""
    driver, gpus, problem = read_gpus()
    return Host(
        machine=platform.machine(),
        driver=driver,
        gpus=gpus,
        gpu_problem=problem,
        no_daemon=_ping() if daemon else "--runner venv asks for none",
    )


def _ping() -> str | None:
    from trtenv.errors import DaemonUnavailable
    from trtenv.runners.daemon import connect

    try:
        connect().close()
    except DaemonUnavailable as error:
        return error.message
    return None


def available_pythons(groups: Iterable[Sequence[str]]) -> frozenset[str]:
    """Of each group of acceptable minors, best first, the first that is here."""
    from trtenv.runners.interpreters import available

    found = (available(group) for group in groups)
    return frozenset(interpreter.minor for interpreter in found if interpreter)
