"""What is measured and for how long, in one frozen value; and which shapes, held against an engine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from trtenv.errors import UsageError
from trtenv.spec.shapes import ONLY_INPUT, parse_shapes, render
from trtenv.spec.values import integer

Profile = Mapping[str, Mapping[str, Sequence[int]]]
MOST_STREAMS: Final = 64
MOST_CASES: Final = 100


class Case(NamedTuple):
    """One row of a result. batch: of each input with a dynamic first dimension; shapes: by name.

    What neither says is the optimum of the engine's profile.
    """

    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})

    def __str__(self) -> str:
        said = [f"{name}:{render(dims)}" for name, dims in self.shapes.items()]
        return " ".join([*said, *([f"batch {self.batch}"] if self.batch else [])]) or "the optimum"

    def to_dict(self) -> dict[str, Any]:
        shapes = {name: list(dims) for name, dims in self.shapes.items()}
        return {"batch": self.batch, "shapes": shapes}


class BenchSpec(NamedTuple):
    """warm_up in milliseconds, duration in seconds: units and defaults are trtexec's.

    Each measure lasts at least `duration` and has at least `iterations`. streams: batches in flight
    while throughput is measured. transfers: whether inputs and outputs are copied then.
    """

    cases: tuple[Case, ...] = (Case(),)
    warm_up: float = 200
    duration: float = 3
    iterations: int = 10
    streams: int = 1
    percentiles: tuple[float, ...] = (90, 95, 99)
    transfers: bool = True
    cuda_graph: bool = False
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            **self._asdict(),
            "cases": [case.to_dict() for case in self.cases],
            "percentiles": list(self.percentiles),
        }

    @property
    def wishes(self) -> dict[str, Any]:
        """The same in options of the build request, whose group `benchmark` is trtexec's measuring."""
        return {
            "iterations": self.iterations,
            "duration": self.duration,
            "warm_up": self.warm_up,
            **({"inf_streams": self.streams} if self.streams > 1 else {}),
            "cuda_graph": self.cuda_graph,
            "spin_wait": False,
            "data_transfers": self.transfers,
            "percentile": list(self.percentiles),
        }


def read_cases(batch: str | None, shapes: Sequence[str]) -> tuple[Case, ...]:
    """Each of --shapes with each of --batch, in the order given. UsageError names what is wrong."""
    whole = integer(1)
    try:
        batches = [whole(part) for part in batch.split(",")] if batch else [None]
    except UsageError as error:
        raise UsageError(f"--batch: {error.message}", hint="such as 1,8,32") from error
    given = [_sizes(text) for text in shapes] or [{}]
    found = list(
        dict.fromkeys((count, tuple(sizes.items())) for sizes in given for count in batches)
    )
    if len(found) > MOST_CASES:
        raise UsageError(f"{len(found)} shapes are asked for, and {MOST_CASES} are the most")
    return tuple(Case(count, dict(sizes)) for count, sizes in found)


def _sizes(text: str) -> dict[str, tuple[int, ...]]:
    found = parse_shapes(text)
    for name, shape in found.items():
        if shape.dynamic:
            raise UsageError(
                f"--shapes: `{name}:{shape}` is a range, and what is measured has one size",
                hint="give --shapes once for each size, or --batch 1,8,32",
            )
    return {name: shape.opt for name, shape in found.items()}


def check_case(
    case: Case, inputs: Sequence[Mapping[str, Any]], profiles: Sequence[Profile], what: str
) -> None:
    """UsageError where no profile of an engine takes these shapes, as far as its stamp tells.

    inputs: `name` and `shape`, -1 for a dynamic dimension.
    """
    known = {entry["name"]: entry["shape"] for entry in inputs}
    shapes = dict(case.shapes)
    if ONLY_INPUT in shapes and len(known) == 1:
        shapes[next(iter(known))] = shapes.pop(ONLY_INPUT)
    for name in shapes:
        if name not in known:
            listed = ", ".join(f"`{entry}`" for entry in known)
            asked = f"no input `{name}`" if name else "several inputs, and a shape names none"
            raise UsageError(f"`{what}` has {asked}; its inputs are {listed}")
    if case.batch and not any(dims and dims[0] in (-1, case.batch) for dims in known.values()):
        listed = ", ".join(f"`{name}` {_shown(dims)}" for name, dims in known.items() if dims)
        raise UsageError(
            f"`{what}` does not take a batch of {case.batch}: {listed}",
            hint="build it with a range: --shapes NAME:1x...x...",
        )
    reasons = [_misfit(case.batch, shapes, known, profile) for profile in profiles or [{}]]
    if all(reasons):
        told = "; ".join(
            f"profile {index}: {reason}" if len(reasons) > 1 else str(reason)
            for index, reason in enumerate(reasons)
        )
        raise UsageError(
            f"`{what}` does not take {case}: {told}",
            hint="ask for sizes within the range, or build it with a wider one",
        )


def _misfit(
    batch: int | None,
    shapes: Mapping[str, tuple[int, ...]],
    known: Mapping[str, Sequence[int] | None],
    profile: Profile,
) -> str | None:
    """Why this profile does not take them."""
    for name, dims in known.items():
        if dims is None:
            continue
        given = list(shapes.get(name, dims))
        if batch and dims and dims[0] == -1:
            given[0] = batch
        span = profile.get(name, {})
        if "values_of" in span:  # the values of a shape, and no sizes
            continue
        low, high = (span.get(end, dims) for end in ("min", "max"))
        fits = len(given) == len(dims) and all(
            size == -1 or ((least == -1 or least <= size) and (most == -1 or size <= most))
            for size, least, most in zip(given, low, high, strict=False)
        )
        if not fits:
            return f"`{name}` is {_shown(low)}" + (f"..{_shown(high)}" if low != high else "")
    return None


def _shown(dims: Sequence[int]) -> str:
    return render(dims).replace("-1", "?")
