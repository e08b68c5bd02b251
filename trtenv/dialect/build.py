"""Says a BuildSpec in the words of one TensorRT: steps of the Python API, or an argv for trtexec.

Pure; everything that differs between versions is a row in data/build/GROUP.toml, under the name
of its option:

    flavour    "tensorrt" where not given, or "tensorrt-rtx"
    since, until   holds for since <= version < until; a version known only as 8.6 is its last patch
    value      of a choice, or the part (a pool, a tactic source); a list names several
    with, unless   only with, or without, what another option implies: "typed" or "refit"
    graph      what is done to the ONNX graph before either back end sees it
    api        steps for jobs/build.py; a row without it says nothing about the API
    trtexec    flags; a row without them says nothing about trtexec
    noop       why the wish needs nothing: it is dropped, and said to be
    refused, instead   why it cannot be, and what to ask for
    note       what the user should know
    source     where that is from

The first row that holds and speaks of a back end decides for it; where none does, the wish is
refused, naming the versions that can. "@" stands for the value, "@mib" and the like for a form of
it (dialect/forms.py). Adding a TensorRT is adding rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trtenv.dialect.forms import fill_flags, fill_step
from trtenv.dialect.release import release_note
from trtenv.dialect.rows import Row, expand, holds, padded, rows, span, speaks_of, too_new
from trtenv.dialect.trtexec import check_extra, check_twice
from trtenv.errors import UsageError
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import BY_NAME, OPTIONS
from trtenv.spec.values import parse_size

Step = dict[str, Any]
BACKENDS = ("api", "trtexec")
# Options whose parts TensorRT versions know one by one.
PARTS = ("mem_pool_size", "tactic_sources", "preview")
OTHER_FORM = "give another value, or choose another TensorRT"
OTHER_WORD = "name another type or layout, or choose a newer TensorRT"
CONSTRAINED = ("keep_fp32", "layer_precisions", "layer_output_types")


class Entry(NamedTuple):
    """What became of one wish in one back end: `translated`, `dropped` or `refused`."""

    option: str
    value: Any
    outcome: str
    graph: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    flags: tuple[str, ...] = ()
    reason: str | None = None
    instead: str | None = None
    source: str | None = None

    @property
    def flag(self) -> str:
        return BY_NAME[self.option].flag if self.option in BY_NAME else self.option

    def to_dict(self) -> dict[str, Any]:
        return {
            "option": self.option,
            "value": self.value,
            "outcome": self.outcome,
            "graph": list(self.graph),
            "api": list(self.steps),
            "trtexec": list(self.flags),
            "reason": self.reason,
            "instead": self.instead,
            "source": self.source,
        }


class Translation(NamedTuple):
    """A request in the words of one TensorRT, through the back end `builder`.

    graph: rewrites of the ONNX file, in order; steps: for the API; flags: for trtexec, without
    --onnx and --saveEngine; notes: what was put differently.
    """

    builder: str
    entries: tuple[Entry, ...]
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def graph(self) -> tuple[Step, ...]:
        return tuple(step for entry in self.entries for step in entry.graph)

    @property
    def steps(self) -> tuple[Step, ...]:
        found = [step for entry in self.entries for step in entry.steps]
        return tuple(step for index, step in enumerate(found) if step not in found[:index])

    @property
    def refused(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.outcome == "refused")

    def argv(self, onnx: str, output: str) -> list[str]:
        return ["trtexec", f"--onnx={onnx}", f"--saveEngine={output}", *self.flags]


def translate(
    spec: BuildSpec, flavour: str, version: str, backends: Sequence[str] = BACKENDS
) -> Translation:
    """UsageError where this version cannot do what is asked, saying what to do instead."""
    found = study(spec, flavour, version, backends)
    raise_refused(found, flavour, version)
    return found


def raise_refused(found: Translation, flavour: str, version: str) -> None:
    if not found.refused:
        return
    first = found.refused[0]
    raise UsageError(
        f"{flavour} {version} cannot do `{describe(first)}`: {first.reason}",
        hint=first.instead,
        details=[f"{describe(entry)}: {entry.reason}" for entry in found.refused[1:]],
    )


def study(
    spec: BuildSpec, flavour: str, version: str, backends: Sequence[str] = BACKENDS
) -> Translation:
    """The translation with its refusals: through the back end asked for, or the one that can."""
    number, unsure = padded(version), release_note(flavour, version)
    asked = spec.builder
    extra = check_extra(spec.extra, flavour, version) if spec.extra else ()
    if spec.extra and asked == "api":
        raise UsageError(
            "flags after -- are trtexec's own; --builder api cannot say them",
            hint="drop --builder api",
        )
    notes = [*([unsure] if unsure else []), *extra]
    candidates = ["trtexec"] if spec.extra and asked == "auto" else [asked]
    if candidates == ["auto"]:
        candidates = list(backends)
    tried = [_through(backend, spec, flavour, number, backends) for backend in candidates]
    best = min(tried, key=lambda found: len(found.refused))
    if asked == "auto" and best.builder == "trtexec" and not best.refused:
        why = _why_not_api(spec, tried)
        notes.append(f"built by trtexec: {why}")
    notes += [f"{entry.flag}: {entry.reason}" for entry in best.entries if _noteworthy(entry)]
    flags = _joined(best.entries)
    check_twice(flags, spec.extra, number)
    flags += spec.extra
    return Translation(best.builder, best.entries, tuple(flags), tuple(dict.fromkeys(notes)))


def _why_not_api(spec: BuildSpec, tried: Sequence[Translation]) -> str:
    if spec.extra:
        return "raw flags were given"
    refused = [entry.flag for found in tried if found.builder == "api" for entry in found.refused]
    return f"the Python API cannot say {', '.join(refused)}"


def _noteworthy(entry: Entry) -> bool:
    return bool(entry.reason) and entry.outcome != "refused" and entry.option != "timing_cache"


def _through(
    backend: str, spec: BuildSpec, flavour: str, number: tuple[int, ...], backends: Sequence[str]
) -> Translation:
    if backend not in backends:
        missing = Entry(
            "builder",
            backend,
            "refused",
            reason=f"this environment has no {backend}",
            instead="choose an image with TensorRT's samples, or --builder api",
        )
        return Translation(backend, (missing,))
    context = implied(spec)
    entries = []
    for option, key, value, asked in wishes(spec):
        entry = _entry(backend, option, key, value, flavour, number, context)
        quiet = option == "profiling_verbosity" and backend == "trtexec"
        if asked or (entry.outcome == "translated" and not quiet):
            entries.append(entry)
    return Translation(backend, tuple(entries))


def implied(spec: BuildSpec) -> frozenset[str]:
    typed = {"strongly_typed", "allow_weight_streaming"} & spec.wishes.keys()
    others = {"refit", "exclude_lean_runtime"} & spec.wishes.keys()
    return frozenset([*(["typed"] if typed else []), *others])


def wishes(spec: BuildSpec) -> Iterator[tuple[str, str | None, Any, bool]]:
    """Option, part or choice, value, and whether it was asked for rather than implied."""
    yield "network", None, None, False
    if "explicit_batch" in spec.wishes:
        yield "explicit_batch", None, True, True
    if spec.profiles:
        yield "profiles", "one" if len(spec.profiles) == 1 else "several", spec.profiles, True
    given: dict[str, Any] = {"precision": "tf32", "timing_cache": "auto", **spec.wishes}
    constrained = any(name in given for name in CONSTRAINED)
    if constrained:
        given.setdefault("precision_constraints", "obey")
    # What the engine's layers run in is read afterwards: they must tell it.
    given.setdefault("profiling_verbosity", "detailed")
    for option in OPTIONS:
        name = option.name
        if name not in given or not option.dialect or name in ("explicit_batch", "quantization"):
            continue
        for key, value in _parts(name, given):
            yield name, key, value, name in spec.wishes


def _parts(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str | None, Any]]:
    value = given[name]
    if name in PARTS:
        yield from sorted(value.items())
    elif name == "calibration":
        forced = "qdq" if given["precision"] == "fp8" else given.get("quantization", "auto")
        # What TensorRT may choose from includes INT8; FP8 is asked for by name.
        yield forced, {"data": value, "to": "fp8" if given["precision"] == "fp8" else "int8"}
    elif name == "timing_cache":
        yield value if value in ("auto", "none") else "file", value
    elif BY_NAME[name].off:
        yield "on" if value else "off", value
    else:
        yield value if isinstance(value, str) else None, value


def _entry(
    backend: str,
    option: str,
    key: str | None,
    value: Any,
    flavour: str,
    number: tuple[int, ...],
    context: frozenset[str],
) -> Entry:
    group = BY_NAME[option].group if option in BY_NAME else "network"
    same = [row for row in rows(group).get(option, ()) if speaks_of(row, key)]
    holding = [row for row in same if holds(row, flavour, number, context)]
    shown = _shown(option, key, value)
    for row in holding:
        source = expand(row["source"])
        if "refused" in row:
            refusal = {"reason": row["refused"], "instead": row["instead"], "source": source}
            return Entry(option, shown, "refused", **refusal)
        if "noop" in row:
            return Entry(option, shown, "dropped", reason=row["noop"], source=source)
        if backend in row:
            missing = too_new(option, value, backend, number) if flavour == "tensorrt" else None
            if missing:
                return Entry(option, shown, "refused", reason=missing, instead=OTHER_WORD)
            try:
                return Entry(
                    option,
                    shown,
                    "translated",
                    graph=_graph(row, key, value),
                    steps=_steps(row, key, value) if backend == "api" else (),
                    flags=_flags(row, key, value) if backend == "trtexec" else (),
                    reason=row.get("note"),
                    source=source,
                )
            except ValueError as error:  # a value that this form cannot hold
                return Entry(
                    option, shown, "refused", reason=str(error), instead=OTHER_FORM, source=source
                )
    other = [row for row in holding if any(name in row for name in BACKENDS)]
    if other:
        who = "trtexec" if backend == "api" else "the Python API"
        instead = f"--builder {'trtexec' if backend == 'api' else 'api'}"
        return Entry(option, shown, "refused", reason=f"only {who} can", instead=instead)
    able = ", ".join(dict.fromkeys(span(row) for row in same if "refused" not in row))
    return Entry(
        option,
        shown,
        "refused",
        reason="this version has no such thing",
        instead=f"drop it, or choose from: {able or 'no known version'}",
    )


def _shown(option: str, key: str | None, value: Any) -> Any:
    """The value as JSON, and as people read it."""
    if option == "calibration":
        return value["data"]
    if option in BY_NAME and BY_NAME[option].parse is parse_size:
        return f"{value}B"
    if option == "profiles":
        return [{name: str(shape) for name, shape in profile.items()} for profile in value]
    if option in PARTS:
        return f"{'+' if value else '-'}{key}" if isinstance(value, bool) else f"{key}:{value}B"
    return key if isinstance(value, bool) and key else value


def _graph(row: Row, key: str | None, value: Any) -> tuple[Step, ...]:
    """Without steps whose entries are all None: types that stay as they are."""
    found = [fill_step(step, key, value) for step in row.get("graph", ())]
    return tuple(step for step in found if step.get("value") is None or any(step["value"]))


def _steps(row: Row, key: str | None, value: Any) -> tuple[Step, ...]:
    return tuple(fill_step(step, key, value) for step in row["api"])


def _flags(row: Row, key: str | None, value: Any) -> tuple[str, ...]:
    return tuple(flag for text in row["trtexec"] for flag in fill_flags(text, key, value))


def _joined(entries: Sequence[Entry]) -> list[str]:
    """trtexec reads a flag once: parts of one list that several wishes gave are put together."""
    found: list[str] = []
    for entry in entries:
        before = list(found)
        for flag in entry.flags:
            name, equals, value = flag.partition("=")
            same = [index for index, old in enumerate(before) if old.partition("=")[0] == name]
            if same and equals:
                found[same[0]] += f",{value}"
            elif not same:
                found.append(flag)
    return found


def describe(entry: Entry) -> str:
    """As a user types it."""
    if entry.value is None or entry.value is True:
        return entry.flag
    if isinstance(entry.value, str | int | float):
        return f"{entry.flag} {entry.value}"
    return entry.flag
