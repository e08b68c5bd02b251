"""What a machine is, as values: the facts that choosing an environment needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVIDIA's management library names it; memory in bytes."""

    index: int
    name: str
    uuid: str
    compute_capability: str
    memory: int


class Host(NamedTuple):
    """`daemon` and `pythons` are None where nobody asked; `no_daemon` says why none answers."""

    machine: str
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str | None = None
    no_daemon: str | None = None
    pythons: frozenset[str] = frozenset()

    @property
    def compute_capability(self) -> str | None:
        """Of the first GPU: the one TensorRT builds on unless told otherwise."""
        return self.gpus[0].compute_capability if self.gpus else None
