"""What changes for a user between two TensorRTs, in either direction and across flavours.

Puts side by side what the tables say of each of the two; decides nothing of its own. Comparing a
version with itself finds nothing, and exchanging the two exchanges the two sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trtenv.dialect import operators
from trtenv.dialect.apichanges import ApiChange, api_changes, behaviours
from trtenv.dialect.describe import Answer, Wish, answer, wishes
from trtenv.dialect.operators import TAKEN
from trtenv.dialect.release import Facts, Release, facts
from trtenv.dialect.trtexec import Flag, flags

# Outcome before and after -> what that is for the user; both translated: see `_kind`.
KINDS = {
    ("translated", "refused"): "refused",
    ("dropped", "refused"): "refused",
    ("refused", "translated"): "possible",
    ("refused", "dropped"): "possible",
    ("translated", "dropped"): "needless",
    ("dropped", "translated"): "effective",
}


class WishChange(NamedTuple):
    """refused, possible, needless (a no-op now), effective (none before), or said `differently`."""

    kind: str
    wish: Wish
    old: Answer
    new: Answer

    def to_dict(self) -> dict[str, Any]:
        sides = {"old": self.old.to_dict(), "new": self.new.to_dict()}
        return {"kind": self.kind, **self.wish.to_dict(), **sides}


class FlagChange(NamedTuple):
    """Of trtexec: gone, new, deprecated or undeprecated; `at`: the version with which it changed."""

    kind: str
    at: str
    flag: Flag

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "at": self.at, **self.flag._asdict()}


class Change(NamedTuple):
    """Of anything that has a state on both sides: an operator, a plugin, a tensor type, a default."""

    what: str
    old: str
    new: str
    sure: bool = True
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


class Comparison(NamedTuple):
    """trtexec and api: None where they cannot be compared, see the notes."""

    old: Release
    new: Release
    facts: tuple[Facts, Facts]
    options: tuple[WishChange, ...]
    behaviour: tuple[Change, ...]
    trtexec: tuple[FlagChange, ...] | None
    operators: tuple[Change, ...] | None
    types: Mapping[str, int]
    features: tuple[Change, ...]
    plugins: tuple[Change, ...]
    api: tuple[ApiChange, ...] | None
    notes: tuple[str, ...]

    @property
    def empty(self) -> bool:
        tables = (self.options, self.behaviour, self.trtexec, self.operators, self.types)
        more = (self.features, self.plugins, self.api)
        return self.facts[0] == self.facts[1] and not any((*tables, *more))

    def to_dict(self) -> dict[str, Any]:
        def dicts(found: Iterable[Any] | None) -> list[dict[str, Any]] | None:
            return None if found is None else [entry.to_dict() for entry in found]

        return {
            "old": {**self.old.to_dict(), **self.facts[0].to_dict()},
            "new": {**self.new.to_dict(), **self.facts[1].to_dict()},
            "options": dicts(self.options),
            "behaviour": dicts(self.behaviour),
            "trtexec": dicts(self.trtexec),
            "operators": dicts(self.operators),
            "operator_types": dict(self.types),
            "onnx": dicts(self.features),
            "plugins": dicts(self.plugins),
            "api": dicts(self.api),
            "notes": list(self.notes),
        }


def compare(old: Release, new: Release) -> Comparison:
    same = old.flavour == new.flavour
    both_trtexec = old.flavour == new.flavour == "tensorrt"
    known, types = _operators(old, new)
    notes = [f"{side.title}: {note}" for side in (old, new) for note in side.notes]
    if not both_trtexec:
        notes.append("what trtexec is told is not compared: TensorRT-RTX has no trtexec")
    if not same:
        notes.append("Python names are not compared across products: TensorRT-RTX is tensorrt_rtx")
    if known is None:
        silent = " and ".join(side.title for side in (old, new) if _table(side) is None)
        notes.append(f"no table of ONNX operators is known for {silent}")
    return Comparison(
        old,
        new,
        facts=(facts(old), facts(new)),
        options=tuple(_wishes(old, new)),
        behaviour=tuple(_behaviour(old, new)),
        trtexec=tuple(_flags(old.number, new.number)) if both_trtexec else None,
        operators=known,
        types=types,
        features=tuple(_features(old, new)),
        plugins=tuple(_plugins(old, new)),
        api=tuple(api_changes(old.flavour, old.number, new.number)) if same else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _wishes(old: Release, new: Release) -> Iterable[WishChange]:
    for wish in wishes():
        before = answer(wish, old.flavour, old.number)
        after = answer(wish, new.flavour, new.number)
        kind = _kind(before, after, api_only=old.flavour != new.flavour)
        if kind:
            yield WishChange(kind, wish, before, after)


def _kind(before: Answer, after: Answer, *, api_only: bool) -> str | None:
    if before.outcome == after.outcome == "translated":
        # A note alone may differ: what happens to the graph, or in the environment.
        words = [
            (entry.api, entry.reason, None if api_only else entry.trtexec)
            for entry in (before, after)
        ]
        return "differently" if words[0] != words[1] else None
    return KINDS.get((before.outcome, after.outcome))


def _behaviour(old: Release, new: Release) -> Iterable[Change]:
    before, after = (behaviours(side.flavour, side.number) for side in (old, new))
    for what in before:
        if what in after and before[what][0] != after[what][0]:
            source = _sources(before[what][1], after[what][1])
            yield Change(what, before[what][0], after[what][0], source=source)


def _flags(old: tuple[int, ...], new: tuple[int, ...]) -> Iterable[FlagChange]:
    for flag in flags().values():
        here, there = flag.known_to(old), flag.known_to(new)
        worn, wearing = flag.deprecated_in(old), flag.deprecated_in(new)
        if here != there:
            came = there == (old < new)
            at = flag.since if came else flag.until or ""
            yield FlagChange("new" if there else "gone", at, flag)
        elif here and worn != wearing:
            yield FlagChange(
                "deprecated" if wearing else "undeprecated", flag.deprecated or "", flag
            )


def _table(release: Release) -> bool | None:
    """None where no table of operators speaks for this version or an older one."""
    fact = operators.operator_support(release.flavour, release.patch, "Relu")
    return None if fact.support == "unknown" else fact.sure


def _operators(old: Release, new: Release) -> tuple[tuple[Change, ...] | None, Mapping[str, int]]:
    """Operators won and lost; and how many more take a type (less: below 0), where both tables say."""
    if _table(old) is None or _table(new) is None:
        return None, {}
    found, types = [], Counter[str]()
    for name in operators.names("operators", old.flavour, new.flavour):
        before = operators.operator_support(old.flavour, old.patch, name)
        after = operators.operator_support(new.flavour, new.patch, name)
        if {before.support in TAKEN, after.support in TAKEN} == {True, False}:
            sure = before.sure and after.sure
            source = _sources(before.source, after.source)
            found.append(Change(name, before.support, after.support, sure, source))
        elif before.types and after.types:
            types.update({kind: 1 for kind in after.types if kind not in before.types})
            types.subtract({kind: 1 for kind in before.types if kind not in after.types})
    return tuple(found), {kind: count for kind, count in sorted(types.items()) if count}


def _features(old: Release, new: Release) -> Iterable[Change]:
    for name in operators.names("onnx_features", old.flavour, new.flavour):
        before, after = (operators.feature(side.flavour, side.patch, name) for side in (old, new))
        if before and after and before.how != after.how:
            source = _sources(before.source, after.source)
            yield Change(name, before.how, after.how, before.sure and after.sure, source)


def _plugins(old: Release, new: Release) -> Iterable[Change]:
    for name in operators.names("operators_plugins", old.flavour, new.flavour):
        before, after = (
            operators.plugin_support(side.flavour, side.patch, name) for side in (old, new)
        )
        if bool(before) != bool(after):
            known = before or after
            assert known
            yield Change(name, _has(before), _has(after), known.sure, known.source)


def _sources(*texts: str) -> str:
    return "; ".join(dict.fromkeys(texts))


def _has(plugin: operators.FeatureFact | None) -> str:
    return "yes" if plugin else "no"
