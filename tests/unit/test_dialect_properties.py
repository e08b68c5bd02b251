"""Of any request and any TensorRT: each wish is said, dropped with a reason or refused with one."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import EVERY, TENSORRT, TEXTS, check_known, grammar, words

from trtenv.dialect.build import BACKENDS, study
from trtenv.dialect.forms import FORMS, TOKEN
from trtenv.dialect.rows import FIRST, SOURCES, holds, padded, rows, speaks_of
from trtenv.dialect.trtexec import check_extra, flags
from trtenv.dialect.versions import parse_version
from trtenv.errors import TrtenvError, UsageError
from trtenv.spec.build import BuildSpec
from trtenv.spec.options import BY_NAME, OPTIONS, Option
from trtenv.spec.shapes import ShapeRange
from trtenv.spec.values import LAYOUTS, POOLS, TYPES

GROUPS = tuple(dict.fromkeys(option.group for option in OPTIONS))
ROWS = [
    (group, name, row) for group in GROUPS for name, listed in rows(group).items() for row in listed
]
# Options without an entry of their own: how INT8 is made is a word of the entry for calibration.
CARRIED = {"quantization": "calibration"}
PARTS = ("mem_pool_size", "tactic_sources", "preview")

NAMES = st.text("abc_*./:0", min_size=1, max_size=6)


def some(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, min_size=1, max_size=3).map(",".join)


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


def decimals() -> st.SearchStrategy[str]:
    return st.one_of(st.integers(0, 99).map(str), st.sampled_from(["0.5", "99.9", "3.25"]))


SIZES = joined(st.integers(1, 4096).map(str), st.sampled_from(["", "B", "K", "M", "G"]))
LAYER_TYPE = st.lists(st.sampled_from(TYPES), min_size=1, max_size=2).map("+".join)
LAYOUT = st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=2).map("+".join)
GRAMMARS = {
    "parse_size": SIZES,
    "number": decimals(),
    "numbers": some(decimals()),
    "percentiles": some(decimals()),
    "names": some(NAMES),
    "pools": some(joined(st.sampled_from(POOLS), st.just(":"), SIZES)),
    "layer_types": some(joined(NAMES, st.just(":"), LAYER_TYPE)),
    "layer_devices": some(joined(NAMES, st.just(":"), st.sampled_from(["GPU", "DLA"]))),
    "io_formats": some(joined(st.sampled_from(["", *(f"{name}:" for name in TYPES)]), LAYOUT)),
    "compute_capabilities": some(st.sampled_from(["7.5", "86", "sm89", "SM_120"])),
    **{name: st.sampled_from(TEXTS[name]) for name in ("file", "data", "output", "cache")},
}


def written(option: Option) -> st.SearchStrategy[str]:
    """Texts of this option's grammar."""
    maker, held = grammar(option)
    if maker == "choice":
        return st.sampled_from(words(option))
    if maker == "switches":
        return some(joined(st.sampled_from("+-"), st.sampled_from(words(option))))
    if maker == "integer":
        return st.integers(held["low"], held["high"] or 2**31 - 1).map(str)
    return GRAMMARS[maker]


def wish(option: Option) -> st.SearchStrategy[Any]:
    if option.parse is None:
        return st.booleans() if option.off else st.just(True)
    texts = written(option).filter(lambda text: readable(option, text))
    return (st.lists(texts, min_size=1, max_size=2) if option.many else texts).map(option.read)


def readable(option: Option, text: str) -> bool:
    """Not so for a list that names one thing twice."""
    try:
        option.read([text] if option.many else text)
    except UsageError:
        return False
    return True


SIZE = st.integers(1, 64)
DIMS = st.lists(SIZE, max_size=4).map(tuple)
SHAPES = st.dictionaries(
    st.text("ab:,", max_size=3), DIMS.map(lambda dims: ShapeRange(dims, dims, dims)), min_size=1,
    max_size=2,
)  # fmt: skip
SPECS = st.builds(
    BuildSpec,
    profiles=st.lists(SHAPES, max_size=2).map(tuple),
    wishes=st.lists(st.sampled_from(OPTIONS), max_size=6, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({option.name: wish(option) for option in chosen})
    ),
    builder=st.sampled_from(("auto", *BACKENDS)),
    extra=st.one_of(st.just(()), st.lists(st.sampled_from(sorted(flags())), max_size=2).map(tuple)),
)


def entries_due(spec: BuildSpec) -> Counter[str]:
    due = Counter(
        {
            name: len(value) if name in PARTS else 1
            for name, value in spec.wishes.items()
            if BY_NAME[name].dialect and name not in CARRIED
        }
    )
    return due + Counter(["profiles"] if spec.profiles else [])


@settings(max_examples=400, deadline=None)
@given(SPECS, st.sampled_from(EVERY))
def test_no_wish_is_lost(spec: BuildSpec, place: tuple[str, str]) -> None:
    flavour, version = place
    try:
        found = study(spec.check(), flavour, version)
    except TrtenvError:  # of the whole request, with its reason; nothing else may come out
        return
    implied = ("network", "precision", "precision_constraints", "timing_cache")
    implied += ("profiling_verbosity",)
    counted = Counter(entry.option for entry in found.entries)
    due = entries_due(spec)
    assert {name: counted[name] for name in due} == dict(due)
    assert set(counted) - set(due) <= set(implied)
    for entry in found.entries:
        assert entry.outcome in ("translated", "dropped", "refused")
        if entry.outcome != "translated":
            assert entry.reason
            assert (entry.steps, entry.flags, entry.graph) == ((), (), ())
        json.dumps(entry.to_dict())
    if found.builder == "trtexec" and not found.refused:
        check_known(found.flags, version)
    if found.builder == "api" and not found.refused:
        assert not spec.extra
        assert any(entry.steps for entry in found.entries) == bool(found.steps)


@settings(max_examples=300, deadline=None)
@example(BY_NAME["workspace"], "9" * 400)
@example(BY_NAME["avg_runs"], "1\x1f")
@example(BY_NAME["duration"], "1\x1f")
@example(BY_NAME["calibration"], "~nobody-at-all")
@example(BY_NAME["static_plugins"], "~nobody-at-all/x")
@example(BY_NAME["export_layer_info"], "~nobody-at-all/x")
@given(st.sampled_from([option for option in OPTIONS if option.parse]), st.text(max_size=20))
def test_any_text_is_a_value_or_a_usage_error(option: Option, text: str) -> None:
    with suppress(UsageError):
        option.read([text] if option.many else text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from(sorted(flags())),
                  st.sampled_from(sorted(flags())).map(lambda name: f"{name}=1")), max_size=3,
    ),
    st.sampled_from(EVERY),
)  # fmt: skip
def test_any_raw_flags_give_notes_or_a_usage_error(
    extra: list[str], place: tuple[str, str]
) -> None:
    try:
        notes = check_extra(extra, *place)
    except UsageError:
        return
    assert place[0] == "tensorrt"
    assert all(flags()[text.partition("=")[0]].known_to(padded(place[1])) for text in extra)
    assert all(isinstance(note, str) for note in notes)


# The rows themselves.

CONTEXTS = ("typed", "refit", "exclude_lean_runtime")  # of dialect.build.implied
KEYS = {"flavour", "since", "until", "value", "with", "unless", "graph", "api", "trtexec", "noop"}
KEYS |= {"refused", "instead", "note", "source"}
# What jobs/build.py does, and what is done to the graph before. Rows may say nothing else.
API = {
    "network_flag": "name",
    "parser_flag": "name",
    "set_flag": "name",
    "clear_flag": "name",
    "set": "name value",
    "set_enum": "name enum value",
    "memory_pool": "name value",
    "tactic_source": "name value",
    "preview": "name value",
    "io_formats": "name value",
    "layer_precisions": "value",
    "layer_output_types": "value",
    "layer_device_types": "value",
    "compute_capabilities": "value",
    "load_libraries": "value",
    "plugin_registry": "value",
    "profiles": "",
    "calibrate": "",
    "timing_cache": "",
    "export_layer_info": "",
}
GRAPH = {
    "cast": "to",
    "keep_fp32": "value",
    "input_types": "value",
    "output_types": "value",
    "quantize": "to",
}


def keys_of(name: str) -> set[str | None]:
    """The choices and parts that rows of an option are asked for, as dialect.build names them."""
    if name in ("network", "explicit_batch"):
        return {None}
    special = {"profiles": {"one", "several"}, "timing_cache": {"auto", "none", "file"}}
    special |= {"mem_pool_size": set(POOLS), "calibration": {"auto", "calibration", "qdq"}}
    if name in special:
        return {*special[name]}
    option = BY_NAME[name]
    if option.off:
        return {"on", "off"}
    if option.parse and grammar(option)[0] in ("choice", "switches"):
        return {*words(option)}
    return {None}


def test_every_option_has_rows_and_every_row_an_option() -> None:
    named = {name for _, name, _ in ROWS}
    due = {option.name for option in OPTIONS if option.dialect and option.name not in CARRIED}
    assert named == due | {"network", "profiles"}
    for group, name, _ in ROWS:
        assert group == (BY_NAME[name].group if name in BY_NAME else "network")


@pytest.mark.parametrize(("group", "name", "row"), ROWS)
def test_each_row_is_whole(group: str, name: str, row: dict[str, Any]) -> None:
    assert set(row) <= KEYS
    assert row["source"].strip()
    assert set(re.findall(r"\[\w+\]", row["source"])) <= set(SOURCES)
    assert row.get("flavour", "tensorrt") in FIRST
    assert not (row.keys() & {"api", "trtexec"} and row.keys() & {"refused", "noop"})
    assert len(row.keys() & {"refused", "noop"}) <= 1
    assert ("refused" in row) == ("instead" in row)
    assert row.keys() & {"api", "trtexec", "refused", "noop"}
    assert row.get("with", "typed") in CONTEXTS
    assert row.get("unless", "typed") in CONTEXTS
    value = row.get("value", [])
    assert set(value if isinstance(value, list) else [value]) <= keys_of(name)
    for step, known in [(step, API) for step in row.get("api", ())] + [
        (step, GRAPH) for step in row.get("graph", ())
    ]:
        assert step["do"] in known
        assert set(step) - {"min_compute_capability"} == {"do", *known[step["do"]].split()}
        for text in step.values():
            assert not text.startswith("@") or text[1:] in (*FORMS, "key")
    for flag in row.get("trtexec", ()):
        assert flag == "@profiles" or flag.partition("=")[0] in flags()
        assert set(TOKEN.findall(flag)) <= {*FORMS, "key", "profiles"}


def versions_of(listed: list[dict[str, Any]]) -> Iterator[tuple[int, ...]]:
    """The first version of all, and each side of every boundary."""
    yield from (parse_version(first) for first in FIRST.values())
    for row in listed:
        yield from (parse_version(row[key]) for key in ("since", "until") if key in row)


@pytest.mark.parametrize(
    ("group", "name"), list(dict.fromkeys((group, name) for group, name, _ in ROWS))
)
def test_each_row_decides_something(group: str, name: str) -> None:
    """For some version, back end and value: a row behind rows that decide all is dead."""
    listed = list(rows(group)[name])
    deciding = set()
    contexts = [frozenset(), *(frozenset({name}) for name in CONTEXTS)]
    for key, flavour, number, context, backend in product(
        keys_of(name), FIRST, set(versions_of(listed)), contexts, BACKENDS
    ):
        for index, row in enumerate(listed):
            if (
                speaks_of(row, key)
                and holds(row, flavour, number, context)
                and row.keys() & {backend, "refused", "noop"}
            ):
                deciding.add(index)
                break
    assert deciding == set(range(len(listed)))


@pytest.mark.parametrize("version", TENSORRT)
def test_every_row_of_trtexec_is_of_its_time(version: str) -> None:
    """Also those that a row before them decides: a row's span is that of its flags."""
    number = min(padded(version), (11, 1, 999))
    for _, name, row in ROWS:
        if holds(row, "tensorrt", padded(version), frozenset({row.get("with", "")})):
            for flag in row.get("trtexec", ()):
                if flag.startswith("--"):
                    assert flags()[flag.partition("=")[0]].known_to(number), (name, flag)
