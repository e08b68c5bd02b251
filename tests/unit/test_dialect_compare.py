"""dialect show and diff: what must be told, and that it is what a build would really be told."""

import csv
import json
import re
from typing import Any

import pytest
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import VERSIONS, single_wishes

from trtenv.cli.tables import WIDTH
from trtenv.dialect.apichanges import ApiFact, behaviours
from trtenv.dialect.build import implied, study
from trtenv.dialect.build import wishes as said_wishes
from trtenv.dialect.compare import Comparison, compare
from trtenv.dialect.describe import GRAPH, STEPS, Wish, answer, describe, wishes
from trtenv.dialect.release import release, release_note
from trtenv.dialect.rows import padded, rows
from trtenv.dialect.versions import DATA, known_releases
from trtenv.errors import UsageError
from trtenv.spec.options import OPTIONS

KNOWN = [
    *known_releases("tensorrt"),
    *("8.0", "8.2", "8.4", "8.5", "8.6", "10.0", "10.2.0.19", "8.1", "11.6"),
    *(f"rtx-{version}" for version in known_releases("tensorrt-rtx")),
    "rtx-1.2",
]
# Here a value may be refused although another one is taken.
BY_VALUE = {"workspace", "mem_pool_size", "input_io_formats", "output_io_formats", "profiles"}
BY_VALUE |= {"layer_precisions", "layer_output_types", "duration", "warm_up", "percentile"}
API_ROWS = list(csv.DictReader((DATA / "api_changes.csv").read_text().splitlines()))


def compared(old: str, new: str) -> Comparison:
    return compare(release(old), release(new))


def options(found: Comparison, kind: str) -> set[str]:
    return {change.wish.asked for change in found.options if change.kind == kind}


def flags(found: Comparison, kind: str) -> dict[str, str | None]:
    return {
        change.flag.name: change.flag.instead
        for change in found.trtexec or ()
        if change.kind == kind
    }


def names(found: Comparison, *kinds: str) -> dict[str, str]:
    return {change.what: change.instead for change in found.api or () if change.kind in kinds}


def test_what_changes_from_8_6_to_11_1() -> None:
    found = compared("8.6", "11.1")
    gone = flags(found, "gone")
    assert gone["--fp16"] == "ModelOpt AutoCast + strongly typed ONNX"
    assert gone["--workspace"] == "--memPoolSize=workspace:<MiB>"
    assert gone["--buildOnly"] == "--skipInference"
    assert "--explicitBatch" in gone
    assert "--stronglyTyped" not in flags(found, "deprecated")  # 8.6 did not have it
    assert "--useCudaGraph" in flags(found, "deprecated")
    assert {"--noCudaGraph", "--profile", "--setBuildRoute"} <= set(flags(found, "new"))
    assert {"--precision best", "--heuristic", "--min-timing N"} <= options(found, "refused")
    assert {"--precision bf16", "--max-tactics N"} <= options(found, "possible")
    assert {"--cuda-graph", "--spin-wait", "--no-data-transfers"} <= options(found, "needless")
    assert {"--no-cuda-graph", "--data-transfers"} <= options(found, "effective")
    fp16 = next(c for c in found.options if c.wish == Wish("precision", "fp16"))
    assert (fp16.kind, fp16.old.trtexec) == ("differently", ("--fp16",))
    assert fp16.new.api == fp16.new.trtexec == ("the graph is cast to float16",)
    meaning = {change.what: (change.old, change.new) for change in found.behaviour}
    assert meaning["CUDA graphs when trtexec measures"] == (
        "off: --useCudaGraph",
        "on: --noCudaGraph",
    )
    assert meaning["--memPoolSize=workspace:4G of trtexec"][1] == "4 GiB"
    lost = names(found, "gone", "replaced")
    assert lost["config.max_workspace_size"].startswith("config.set_memory_pool_limit")
    assert lost["context.set_binding_shape(i, dims)"] == "context.set_input_shape(name, dims)"
    assert "BuilderFlag.BF16" not in names(found, "gone", "new")  # came and went in between
    # What took the place of the replacement, which has gone too.
    assert lost["BuilderFlag.STRICT_TYPES"] == "types in the ONNX graph"
    assert "Gelu" in {c.what for c in found.operators or () if c.new == "yes"}
    assert "BatchedNMS_TRT" in {c.what for c in found.plugins if c.new == "no"}
    assert [fact.opset and fact.opset.max for fact in found.facts] == [17, 24]


@pytest.mark.parametrize(
    ("old", "new", "kind", "asked"),
    [
        ("8.5", "8.6", "possible", "--builder-optimization-level N"),
        ("8.5", "8.6", "possible", "--version-compatible"),
        ("8.2", "8.4", "differently", "--workspace SIZE"),
        ("7.1", "8.2", "needless", "--explicit-batch"),
        ("10.8", "10.9", "possible", "--hardware-compatible same-sm"),
        ("11.1", "8.6", "refused", "--precision bf16"),
        ("11.1", "8.6", "effective", "--cuda-graph"),
        ("10.13", "rtx-1.7", "refused", "--static-plugins FILE"),
        ("10.13", "rtx-1.7", "possible", "--sm SM"),
        ("rtx-1.7", "10.13", "refused", "--sm SM"),
    ],
)
def test_an_option_changes(old: str, new: str, kind: str, asked: str) -> None:
    assert asked in options(compared(old, new), kind)


def test_a_downgrade_says_what_is_not_there_yet() -> None:
    found = compared("11.1", "8.2")
    assert {"--noCudaGraph", "--memPoolSize"} <= set(flags(found, "gone"))
    lost = names(found, "gone", "replaced")
    assert lost["context.set_input_shape(name, dims)"] == "context.set_binding_shape(i, dims)"


def test_a_name_that_is_deprecated_still_works() -> None:
    (change,) = [
        c for c in compared("8.2", "8.6").api or () if c.what.endswith("max_workspace_size")
    ]
    assert (change.kind, change.at, change.deprecated) == ("replaced", "8.4", True)


def test_products_are_compared_as_far_as_they_have_the_same() -> None:
    found = compared("10.13", "rtx-1.7")
    assert found.trtexec is None
    assert found.api is None
    assert any("TensorRT-RTX has no trtexec" in note for note in found.notes)
    assert any("tensorrt_rtx" in note for note in found.notes)
    assert found.operators is not None
    assert "--workspace SIZE" not in options(found, "differently")  # the API's words are the same
    assert "--precision fp16" in options(found, "differently")
    assert compared("rtx-1.4", "rtx-1.5").api


@pytest.mark.parametrize("version", ["11.2", "11.4", "11.4.0.106"])
def test_the_end_of_trtexecs_public_source_is_told(version: str) -> None:
    assert any("public up to 11.1" in note for note in release(version).notes)


@pytest.mark.parametrize(
    ("version", "patch", "note"),
    [
        ("8.6", "8.6.1", "stands for its last patch"),
        ("8.6.1", "8.6.1", ""),
        ("10.3.0.26", "10.3.0.26", ""),
        ("8.9", "8.9", "no table names TensorRT 8.9: it is taken to be like 8.6.1"),
        ("11.9", "11.9", "no table names TensorRT 11.9"),
        ("rtx-1.2", "1.2", "measured with 1.4 and newer"),
    ],
)
def test_which_release_is_meant(version: str, patch: str, note: str) -> None:
    found = release(version)
    assert found.patch == patch
    assert note in " ".join(found.notes)
    assert bool(note) == bool(found.notes)


@pytest.mark.parametrize(
    ("place", "note"),
    [
        (("tensorrt", "8"), None),
        (("tensorrt", "8.5"), None),
        (("tensorrt", "8.6.2.3"), None),
        (("tensorrt", "10.99.1"), "is taken to be like 10.16"),
        (("tensorrt", "8.1"), "is taken to be like 8.0.3"),
        (("tensorrt", ""), "taken to be like the newest TensorRT"),
        (("tensorrt-rtx", "1.7.1.116"), None),
        (("tensorrt-rtx", "1.0"), "measured with 1.4"),
        (("tensorrt-rtx", "1.9"), "is taken to be like 1.7"),
    ],
)
def test_what_is_said_of_a_release_before_a_build(place: tuple[str, str], note: str | None) -> None:
    found = release_note(*place)
    assert (found is None) is (note is None)
    assert (note or "") in (found or "")


@pytest.mark.parametrize(
    "place", [("tensorrt", "12.0"), ("tensorrt", "6.0.1"), ("tensorrt-rtx", "9")]
)
def test_what_nothing_is_known_of_is_not_built_for(place: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="nothing is known of"):
        release_note(*place)


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["show", "6.0"], "nothing is known of TensorRT 6.0", "7.0, 7.1"),
        (["show", "12.0"], "nothing is known of TensorRT 12.0", "11.5"),
        (["show", "rtx-8.6"], "nothing is known of TensorRT-RTX 8.6", "1.7"),
        (["show", "1.7"], "nothing is known of TensorRT 1.7", "written rtx-1.7"),
        (["show", "10"], "`10` names several releases", "10.13"),
        (["show", "rtx-9"], "nothing is known of TensorRT-RTX 9", "1.7"),
        (["show", "rtx"], "`rtx` names several releases", "1.7"),
        (["show", "rtx-"], "not a version of TensorRT-RTX", "8.5"),
        (["show", "trt8.6"], "not a version of TensorRT", "8.5"),
        (["diff", "8.6", "-1"], "No such option", ""),
        (["diff", "8.6"], "Missing argument 'NEW'", ""),
        (["diff", "8.6", "newest"], "not a version", ""),
        (["fly"], "No such command", ""),
    ],
)
def test_wrong_arguments(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str, hint: str
) -> None:
    code, out, err = run(capsys, "dialect", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert hint in err


@pytest.mark.parametrize("argv", [["show", "6.0", "--json"], ["diff", "8.6", "x", "--json"]])
def test_errors_are_documents_too(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    code, out, _ = run(capsys, "dialect", *argv)
    assert (code, json.loads(out)["error"]["kind"]) == (2, "UsageError")


@pytest.mark.parametrize(
    "argv",
    [
        *(["show", version] for version in ("7.0", "8.6.1", "10.3", "11.4", "rtx-1.0", "rtx-1.7")),
        *(["diff", *pair] for pair in (("8.6", "11.1"), ("11.1", "7.0"), ("10.13", "rtx-1.7"))),
    ],
)
def test_it_is_printed_for_a_terminal_and_as_a_document(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    code, out, err = run(capsys, "dialect", *argv)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= WIDTH
    code, out, _ = run(capsys, "dialect", *argv, "--json")
    document = json.loads(out)
    told = document["options"]
    assert code == 0
    assert told
    assert all(entry["asked"] for entry in told)


def test_show_says_what_becomes_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "dialect", "show", "10.3")
    assert re.search(r"^--precision fp16 +BuilderFlag.FP16 +--fp16", out, re.MULTILINE)
    assert re.search(r"^--precision fp16 --strongly-typed +the graph is cast", out, re.MULTILINE)
    assert re.search(r"^--weightless +10.0 +--stripWeights", out, re.MULTILINE)
    assert re.search(r"^ONNX opset +9 to 20 \(stated\)", out, re.MULTILINE)


def test_nothing_changes_between_a_version_and_itself(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "dialect", "diff", "8.6.1", "8.6.1")
    assert out.endswith("no difference is known\n")


@given(st.sampled_from(KNOWN), st.sampled_from(KNOWN))
@settings(max_examples=60, deadline=None)
def test_exchanging_the_two_exchanges_the_sides(old: str, new: str) -> None:
    there, back = compared(old, new), compared(new, old)
    assert sides(there, forth=True) == sides(back, forth=False)
    json.dumps(there.to_dict())
    assert compared(old, old).empty


MIRRORED = {"gone": "new", "deprecated": "undeprecated", "refused": "possible"}
MIRRORED |= {"needless": "effective"}
MIRRORED |= {other: kind for kind, other in MIRRORED.items()}


def sides(found: Comparison, *, forth: bool) -> list[Any]:
    """All of a comparison; not `forth`: as the opposite comparison should have it."""

    def turn(kind: str, *pair: object) -> tuple[Any, ...]:
        return (kind, *pair) if forth else (MIRRORED.get(kind, kind), *reversed(pair))

    entries = [(*turn(c.kind, c.old, c.new), c.wish) for c in found.options]
    entries += [(*turn(c.kind), c.flag.name, c.at) for c in found.trtexec or ()]
    for table in (found.behaviour, found.operators or (), found.features, found.plugins):
        entries += [(*turn("", c.old, c.new), c.what, c.sure) for c in table]
    for c in found.api or ():
        pair = (c.what, c.instead) if c.kind == "replaced" else ()
        entries.append((*turn(c.kind, *pair), c.area, c.notes, c.at, *(() if pair else (c.what,))))
    types = {name: count if forth else -count for name, count in found.types.items()}
    return [sorted(map(repr, entries)), types, *turn("", *found.facts)]


@pytest.mark.parametrize(("flavour", "version"), VERSIONS)
def test_the_words_are_those_of_a_build(flavour: str, version: str) -> None:
    """What a build of each sample is told, and by which back end it cannot be told at all."""
    for spec in single_wishes():
        context = next(iter(sorted(implied(spec))), "")
        asked = [(option, key) for option, key, _, asked in said_wishes(spec) if asked]
        for backend in ("api", "trtexec"):
            found = study(spec._replace(builder=backend), flavour, version)
            for option, key in asked:
                wish = Wish(option, key, context)
                entries = [entry for entry in found.entries if entry.option == option]
                there = answer(wish, flavour, padded(version))
                words = there.api if backend == "api" else there.trtexec
                for entry in entries if len(entries) == 1 else ():
                    if entry.outcome == "dropped":
                        assert (there.outcome, there.reason) == ("dropped", entry.reason)
                    elif entry.outcome == "translated":
                        assert words is not None
                        said = (*entry.graph, *entry.steps, *entry.flags)
                        assert bool(words) == bool(said) or option == "profiles"
                        given = [flag.partition("=")[0] for flag in entry.flags]
                        assert not given or set(given) <= {w.partition("=")[0] for w in words}
                    elif option not in BY_VALUE:
                        assert words is None, (wish, backend)


def test_every_option_and_step_has_its_words() -> None:
    told = {wish.option for wish in wishes()}
    due = {option.name for option in OPTIONS if option.dialect} - {"quantization"}
    assert told == due | {"network", "profiles"}
    for group in {option.group for option in OPTIONS}:
        for listed in rows(group).values():
            for row in listed:
                assert {step["do"] for step in row.get("api", ())} <= STEPS.keys()
                assert {step["do"] for step in row.get("graph", ())} <= GRAPH.keys()


@pytest.mark.parametrize("version", KNOWN)
def test_no_word_is_left_open(version: str) -> None:
    told = json.dumps(describe(release(version)).to_dict()["options"])
    assert "@" not in told
    assert "None" not in told


@pytest.mark.parametrize("row", API_ROWS, ids=lambda row: row["old"] or row["new"])
def test_api_rows_are_whole(row: dict[str, str]) -> None:
    fact = ApiFact(**row)
    assert fact.flavour in ("tensorrt", "tensorrt-rtx")
    assert fact.area
    assert fact.source
    assert fact.old or (fact.new and fact.introduced and not fact.removed)
    if fact.old:
        assert fact.deprecated or fact.removed or fact.introduced
    bounds = [version for version in (fact.since, fact.deprecated, fact.removed) if version]
    assert all(
        re.fullmatch(r"\d+\.\d+(\.\d+)?", v) for v in (*bounds, *filter(None, [fact.introduced]))
    )
    assert bounds == sorted(bounds, key=padded)


def test_defaults_agree_with_the_options_that_change_them() -> None:
    """What a switch needs not say is the default that behaviour.csv tells."""
    for what, name in (
        ("CUDA graphs when trtexec measures", "cuda_graph"),
        ("spin-wait when trtexec measures", "spin_wait"),
        ("copies to and from the GPU when trtexec measures", "data_transfers"),
    ):
        for version in ("8.6", "10.16", "11.0", "11.4"):
            default = behaviours("tensorrt", padded(version))[what][0].partition(":")[0]
            assert answer(Wish(name, default), "tensorrt", padded(version)).outcome == "dropped"
            other = "on" if default == "off" else "off"
            assert answer(Wish(name, other), "tensorrt", padded(version)).trtexec


def test_release_is_no_guess() -> None:
    with pytest.raises(UsageError, match="nothing is known"):
        release("6.5.1")
