"""Chooses how containers get their GPUs on this machine, and starts them so.

Where the daemon turns out to be unable, the next way is tried and said: a container is never started
without the GPU that it needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtenv import console
from trtenv.errors import GpuUnavailable, TrtenvError
from trtenv.runners.container import Gpus
from trtenv.runners.daemon import DaemonFacts
from trtenv.runners.daemon_errors import cannot_give_gpus
from trtenv.runners.driverlibs import device_nodes, read_driver
from trtenv.runners.gpumodes import Signs, judge, nothing_works, render, to_try, wish_of
from trtenv.runners.lifecycle import Container
from trtenv.runners.protocol import GPU_MODES, RunOptions

if TYPE_CHECKING:
    from docker import DockerClient

# docker-py's own name for any socket of this machine, beside the address that a user knows.
SOCKETS = ("unix://", "http+docker://localhost")
HOOK = "nvidia-container-runtime-hook"
# A user's PATH may lack where the daemon looks.
HOOK_FOLDERS = (
    "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/nvidia/toolkit:/run/current-system/sw/bin"
)
CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
# https://docs.nvidia.com/jetson: on every L4T release, and not on other 64-bit ARM machines.
JETSON = Path("/etc/nv_tegra_release")


def read_signs(facts: DaemonFacts) -> Signs:
    """Looks at this machine, as far as that tells something of the daemon's."""
    if not is_local(facts):
        return Signs()
    driver, no_driver = None, ""
    try:
        driver = read_driver()
    except GpuUnavailable as error:
        no_driver = error.message
    return Signs(
        local=True,
        jetson=JETSON.exists(),
        hook=bool(shutil.which(HOOK) or shutil.which(HOOK, path=HOOK_FOLDERS)),
        cdi_files=cdi_files(facts.cdi_folders or CDI_FOLDERS),
        driver=driver,
        no_driver=no_driver,
    )


def is_local(facts: DaemonFacts) -> bool:
    """Whether the daemon sees our files: one kernel, reached by a socket, with its data on our disks.

    A client in a container, and one beside a virtual machine (Docker Desktop), lack one of these.
    """
    here = facts.url.startswith(SOCKETS) and facts.kernel == os.uname().release
    return here and facts.free_bytes is not None


def cdi_files(folders: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Descriptions of NVIDIA's GPUs, as YAML or JSON; by their text, which both spell alike."""
    found = []
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if path.suffix in (".yaml", ".json") and "nvidia.com/gpu" in text:
                found.append(str(path))
    return tuple(found)


class GpuChoice:
    """Of one daemon. Remembers what it refused: a second container does not ask again."""

    def __init__(self, facts: DaemonFacts, signs: Signs | None = None) -> None:
        self._signs = read_signs(facts) if signs is None else signs
        self._judgements = judge(facts, self._signs)
        self._refused: dict[str, str] = {}

    def planned(self, options: RunOptions, library_path: Callable[[], str]) -> Gpus:
        """The first choice, for a line to be read; where none works, the one that most machines have."""
        try:
            mode = self._modes(options)[0]
        except GpuUnavailable:
            usual = [one.mode for one in self._judgements if not one.ignored]
            if options.gpu_mode != "auto" or usual == ["devices"]:
                raise
            mode = next(mode for mode in GPU_MODES if mode in usual)
        return self._part(mode, options, library_path)

    @contextmanager
    def running(
        self,
        client: DockerClient,
        options: RunOptions,
        library_path: Callable[[], str],
        make_body: Callable[[Gpus], dict[str, Any]],
    ) -> Iterator[Container]:
        """A started container, with its GPUs by the first mode that the daemon can."""
        wish = wish_of(options)
        # Where the user, or a CDI name, leaves one way only, the daemon's answer is the answer.
        free = options.gpu_mode == "auto" and wish != "none" and "=" not in wish
        with ExitStack() as stack:
            modes, container = self._modes(options), None
            while container is None:
                body = make_body(self._part(modes[0], options, library_path))
                try:
                    container = stack.enter_context(Container(client, body, options.name))
                except TrtenvError as error:
                    own_runtime = options.runtime and not isinstance(error, GpuUnavailable)
                    if not free or own_runtime or not cannot_give_gpus(error):
                        raise
                    modes = self._after(modes, error)
            yield container

    def _modes(self, options: RunOptions) -> list[str]:
        if wish_of(options) == "none":
            return ["none"]
        modes = to_try(options, self._judgements)
        left = [mode for mode in modes if mode not in self._refused]
        if not left and options.gpu_mode == "auto":
            raise nothing_works(self._judgements, self._refused)
        return left or modes

    def _after(self, modes: list[str], error: TrtenvError) -> list[str]:
        refused, *left = modes
        self._refused[refused] = error.message
        if not left:
            raise nothing_works(self._judgements, self._refused) from error
        console.say(f"note: no GPU by --gpu-mode {refused}: {error.message}; trying {left[0]}")
        return left

    def _part(self, mode: str, options: RunOptions, library_path: Callable[[], str]) -> Gpus:
        if mode != "devices":
            return render(mode, options)
        driver = self._signs.driver
        if driver is None:
            raise GpuUnavailable(self._signs.no_driver or "no NVIDIA driver is seen from here")
        nodes = device_nodes(wish_of(options), driver)
        return render(mode, options, driver=driver, nodes=nodes, library_path=library_path())
