"""bench on the host: what is asked for, what the GPU went through, what is said of it, and files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from commands import run
from digits_onnx import write_digits
from referencing import Registry, Resource
from samples import EVERY, check_known

from trtenv.catalog.host import Gpu
from trtenv.engine.digests import file_digest
from trtenv.engine.stamp import stamp_path
from trtenv.errors import HostError, JobFailed, UsageError
from trtenv.pipeline import bench as pipeline
from trtenv.pipeline import benchdry, benchplot, benchreport, gpu_watch
from trtenv.pipeline.bench import Candidate
from trtenv.pipeline.benchreport import Measured, Report
from trtenv.pipeline.gpu_watch import GpuWatch, Sample, Watched
from trtenv.spec.bench import BenchSpec, Case, check_case, read_cases

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "schemas"
GPU = Gpu(index=0, name="NVIDIA H100", uuid="GPU-1", compute_capability="9.0", memory=80 << 30)
INPUTS = [{"name": "image", "shape": [-1, 3, 224, 224]}]
PROFILES = [
    {"image": {"min": [1, 3, 224, 224], "opt": [8, 3, 224, 224], "max": [16, 3, 224, 224]}},
    {"image": {"min": [32, 3, 224, 224], "opt": [32, 3, 224, 224], "max": [64, 3, 224, 224]}},
]
ENGINE = ROOT / "tests" / "data" / "engines" / "trt860_ampereplus.engine"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def validate(name: str, document: Any) -> None:
    schemas = {path.name: json.loads(path.read_text()) for path in SCHEMAS.iterdir()}
    registry: Registry[Any] = Registry().with_resources(
        (key, Resource.from_contents(schema)) for key, schema in schemas.items()
    )
    schema = schemas[f"{name}.schema.json"]
    jsonschema.Draft202012Validator(schema, registry=registry).validate(document)


@pytest.mark.parametrize(
    ("batch", "shapes", "expected"),
    [
        (None, (), [(None, {})]),
        ("1,8", (), [(1, {}), (8, {})]),
        ("8, 1,8", (), [(8, {}), (1, {})]),
        (None, ("x:1x3,y:2",), [(None, {"x": (1, 3), "y": (2,)})]),
        ("2", ("x:1x3", "x:1x4"), [(2, {"x": (1, 3)}), (2, {"x": (1, 4)})]),
        (None, ("1x3",), [(None, {"": (1, 3)})]),
        (None, ("x:scalar",), [(None, {"x": ()})]),
    ],
)
def test_cases(batch: str | None, shapes: tuple[str, ...], expected: list[Any]) -> None:
    assert read_cases(batch, shapes) == tuple(Case(count, sizes) for count, sizes in expected)


@pytest.mark.parametrize(
    ("batch", "shapes", "words"),
    [
        ("0", (), "--batch: 0 is out of range"),
        ("1,,2", (), "--batch: `` is no whole number"),
        ("a", (), "--batch: `a` is no whole number"),
        (None, ("x:1x3..2x3",), "is a range"),
        (None, ("x:1xa",), "is no shape"),
        (",".join(map(str, range(1, 102))), (), "101 shapes are asked for"),
    ],
)
def test_cases_that_are_none(batch: str | None, shapes: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", "\\(")):
        read_cases(batch, shapes)


FINE = [
    (Case(), PROFILES),
    (Case(1), PROFILES),
    (Case(64), PROFILES),
    (Case(None, {"image": (4, 3, 224, 224)}), PROFILES),
    (Case(2, {"": (1, 3, 224, 224)}), PROFILES),
    (Case(2), []),
    (Case(2), [{"image": {"min": [7], "opt": [9], "max": [9], "values_of": [1]}}]),
]


@pytest.mark.parametrize(("case", "profiles"), FINE)
def test_shapes_that_an_engine_takes(case: Case, profiles: list[Any]) -> None:
    check_case(case, INPUTS, profiles, "m.engine")


@pytest.mark.parametrize(
    ("case", "inputs", "words"),
    [
        (Case(17), INPUTS, "profile 1: `image` is 32x3x224x224..64x3x224x224"),
        (Case(None, {"image": (1, 3, 32, 32)}), INPUTS, "does not take image:1x3x32x32"),
        (Case(None, {"image": (1, 3)}), INPUTS, "does not take image:1x3"),
        (Case(None, {"img": (1, 3)}), INPUTS, "has no input `img`; its inputs are `image`"),
        (Case(8), [{"name": "x", "shape": [1, 4]}], "does not take a batch of 8: `x` 1x4"),
        (
            Case(None, {"": (1,)}),
            [{"name": "a", "shape": [1]}, {"name": "b", "shape": [1]}],
            "has several inputs, and a shape names none",
        ),
    ],
)
def test_shapes_that_it_does_not_take(case: Case, inputs: list[Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_case(case, inputs, PROFILES if inputs is INPUTS else [], "m.engine")
    assert words in caught.value.message


@pytest.mark.parametrize(("flavour", "version"), EVERY)
@pytest.mark.parametrize(
    "spec", [BenchSpec(), BenchSpec(streams=4, cuda_graph=True, transfers=False, duration=0.5)]
)
def test_the_equal_run_of_trtexec_is_in_its_words(
    spec: BenchSpec, flavour: str, version: str
) -> None:
    flags, refused = benchdry.measuring(spec, flavour, version)
    if flavour == "tensorrt":
        check_known(flags, version)
        assert any(flag.startswith("--iterations=10") for flag in flags)
        assert not refused or version.startswith(("7.", "8.0", "8.2", "8.4"))
    else:
        assert not flags


def engine(folder: Path, profiles: list[Any] = PROFILES) -> Path:
    path = folder / "m.engine"
    path.write_bytes(ENGINE.read_bytes())
    stamp = {
        "engine": {"inputs": INPUTS, "profiles": profiles, "version": "8.6.0"},
        "sha256": file_digest(path),
    }
    stamp_path(path).write_text(json.dumps(stamp))
    return path


def subject(path: Path) -> Any:
    from trtenv.pipeline.running import read_subject

    return read_subject(str(path))


def candidate(folder: Path, spec: BenchSpec, **runner: Any) -> Candidate:
    found = subject(engine(folder))
    place: Any = SimpleNamespace(target=("tensorrt", "8.6.0"))
    return Candidate(found, place, spec, *pipeline.optimum([found]), runner)


@pytest.mark.parametrize(
    ("case", "shapes"),
    [
        (Case(), "image:8x3x224x224"),
        (Case(2), "image:2x3x224x224"),
        (Case(2, {"": (1, 3, 224, 224)}), "image:2x3x224x224"),
        (Case(None, {"image": (5, 3, 224, 224)}), "image:5x3x224x224"),
    ],
)
def test_a_line_of_trtexec_for_each_row(folder: Path, case: Case, shapes: str) -> None:
    found = benchdry.trtexec(candidate(folder, BenchSpec(cases=(case,))))
    assert found["argv"] == [
        [
            *("trtexec", f"--loadEngine={folder / 'm.engine'}", f"--shapes={shapes}"),
            *("--iterations=10", "--duration=3", "--warmUp=200", "--percentile=90,95,99"),
        ]
    ]
    assert found["why_not"] == []


def test_the_profile_is_said_where_trtexec_knows_how(folder: Path) -> None:
    found = benchdry.trtexec(candidate(folder, BenchSpec(), profile=1))
    assert found["why_not"] == ["--profile: this version's trtexec runs the first profile"]


@pytest.mark.parametrize(
    ("spec", "profile", "words"),
    [
        (BenchSpec(cuda_graph=True), None, "--cuda-graph belongs to an engine"),
        (BenchSpec(), 0, "--profile belongs to an engine"),
        (BenchSpec(transfers=False), None, "all that a caller waits for"),
        (BenchSpec(cases=(Case(None, {"x": (1,)}),)), None, "no input `x`"),
        (BenchSpec(cases=(Case(None, {"image": (1, 3, 32, 32)}),)), None, "`image` is ?x1x32x32"),
    ],
)
def test_what_an_onnx_file_cannot(
    folder: Path, spec: BenchSpec, profile: int | None, words: str
) -> None:
    model = subject(write_digits(folder / "digits.onnx"))
    with pytest.raises(UsageError) as caught:
        pipeline.check_spec(spec, [model], profile)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("cases", "profile", "words"),
    [
        ((Case(17),), None, "does not take batch 17"),
        ((Case(8), Case(32)), 0, "does not take batch 32: `image` is 1x3x224x224..16x3x224x224"),
        ((Case(8),), 2, "--profile 2: `m.engine` has 2, counted from 0"),
    ],
)
def test_what_the_stamp_says_an_engine_cannot(
    folder: Path, cases: tuple[Case, ...], profile: int | None, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.check_spec(BenchSpec(cases=cases), [subject(engine(folder))], profile)
    assert words in caught.value.message


def test_models_without_profiles_get_the_optimum_of_one_that_has_some(folder: Path) -> None:
    shaped = {"min": [1], "opt": [640], "max": [999], "values_of": [1]}
    path = engine(folder, [{**PROFILES[0], "size": shaped}])
    onnx = subject(write_digits(folder / "digits.onnx"))
    sizes, values = pipeline.optimum([onnx, subject(path)])
    assert sizes == {"image": [8, 3, 224, 224], "size": [1]}
    assert values == {"size": [640]}
    assert pipeline.optimum([onnx]) == ({}, {})


class NvmlError(Exception):
    pass


def fake_nvml(**more: Any) -> Any:
    """NVML as far as it is asked; `more` replaces functions."""

    def refuse(*_: Any) -> None:
        raise NvmlError("Not Supported")

    names = (
        *("DeviceGetPowerUsage", "DeviceGetUtilizationRates", "DeviceGetClockInfo"),
        *("DeviceGetTemperature", "DeviceGetCurrentClocksThrottleReasons"),
        *("DeviceGetComputeRunningProcesses", "DeviceGetGraphicsRunningProcesses"),
        *("DeviceGetEnforcedPowerLimit", "DeviceGetMaxClockInfo", "SystemGetDriverVersion"),
        *("Init", "Shutdown", "DeviceGetHandleByUUID"),
    )
    functions = {f"nvml{name}": refuse for name in names}
    functions |= {"nvmlInit": lambda: None, "nvmlShutdown": lambda: None}
    functions["nvmlDeviceGetHandleByUUID"] = lambda uuid: uuid
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0}
    found = {f"nvml{name}": function for name, function in more.items()}
    return SimpleNamespace(NVMLError=NvmlError, **constants, **{**functions, **found})


def test_without_a_driver_nothing_is_watched() -> None:
    def missing() -> None:
        raise NvmlError("Library Not Found")

    for watch in (GpuWatch(None), GpuWatch(GPU, fake_nvml(Init=missing))):
        with watch:
            pass
        assert watch.found is None


def test_what_a_gpu_does_not_tell_is_null() -> None:
    with GpuWatch(GPU, fake_nvml(), interval=0.001) as watch:
        time.sleep(0.02)
    assert watch.found
    assert watch.found.during
    told = watch.found.to_dict()
    assert told["others"] == []
    assert told["max_sm_mhz"] is told["driver"] is told["before"]["power_w"] is None
    found = gpu_watch.conditions(watch.found, 0, time.time())
    assert found
    assert found["samples"] == len(watch.found.during)
    assert found["sm_mhz"] is found["throttle"] is None
    assert gpu_watch.notes(watch.found, [found]) == []


def test_clocks_heat_power_and_processes_are_sampled() -> None:
    process = SimpleNamespace(pid=7, usedGpuMemory=5 << 20)
    nvml = fake_nvml(
        DeviceGetClockInfo=lambda _, kind: {1: 1980, 2: 2619}[kind],
        DeviceGetMaxClockInfo=lambda _, kind: {1: 1980, 2: 2619}[kind],
        DeviceGetTemperature=lambda *_: 41,
        DeviceGetPowerUsage=lambda _: 123_456,
        DeviceGetEnforcedPowerLimit=lambda _: 700_000,
        DeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=99),
        DeviceGetCurrentClocksThrottleReasons=lambda _: 0x04 | 0x01,
        DeviceGetComputeRunningProcesses=lambda _: [process],
        SystemGetDriverVersion=lambda: b"580.159.04",
    )
    with GpuWatch(GPU, nvml, interval=0.001) as watch:
        time.sleep(0.02)
    assert watch.found
    told = watch.found.to_dict()
    assert (told["driver"], told["power_limit_w"]) == ("580.159.04", 700)
    assert told["before"] == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "temperature_c": 41,
        "power_w": 123.456,
        "utilisation": 99,
        "throttle": ["power cap"],
    }
    assert told["others"] == [{"pid": 7, "memory_bytes": 5 << 20}]


def watched(
    before: dict[int, int | None], *during: Any, after: dict[int, int | None] | None = None
) -> Watched:
    """Samples with processes, or with other fields, at times 1, 2 and so on."""
    samples = [
        Sample(time=number, **(entry if "sm_mhz" in entry else {"processes": entry}))
        for number, entry in enumerate(during, 1)
    ]
    return Watched(
        GPU,
        "580",
        {"max_sm_mhz": 1980, "max_memory_mhz": None, "power_limit_w": None},
        Sample(0, processes=before),
        tuple(samples),
        Sample(99, processes=after or {}),
    )


@pytest.mark.parametrize(
    ("found", "family", "expected"),
    [
        (watched({}, {5: 100}), {5}, {}),
        (watched({}, {5: 100}), set(), {}),  # of a container: the only newcomer
        (watched({4: 9}, {4: 9, 5: 100}, after={4: 9}), {5}, {4: 9}),
        (watched({4: 9}, {4: 99, 5: 100}, {4: 50}), {5}, {4: 99}),
        (watched({}, {5: 100}, {5: 100, 6: 7}), {5}, {6: 7}),
        (watched({}, {6: 7}, {5: 100, 6: 7}), {5}, {6: 7}),
        (watched({}, {5: 100}, {5: 100, 6: 7}), set(), {6: 7}),
        (watched({}, {5: 100}, after={6: None}), {5}, {6: None}),
    ],
)
def test_whose_processes_they_are(
    found: Watched, family: set[int], expected: dict[int, int | None]
) -> None:
    others = gpu_watch.others(found, lambda pid: pid in family)
    assert {entry["pid"]: entry["memory_bytes"] for entry in others} == expected


def test_our_own_processes_are_known_by_their_parents() -> None:
    assert gpu_watch.descends_from_us(os.getpid())
    assert not gpu_watch.descends_from_us(os.getppid())
    assert not gpu_watch.descends_from_us(2**22 + 1)


def test_notes_say_what_makes_figures_worth_less() -> None:
    found = watched(
        {4: 9 << 20},
        {"sm_mhz": 1980, "throttle": 0},
        {"sm_mhz": 1410, "throttle": 0x04 | 0x40},
        {"sm_mhz": 1700, "throttle": 0},
        {"sm_mhz": 1700, "throttle": 0},
    )
    windows = [gpu_watch.conditions(found, 0, 2.5), gpu_watch.conditions(found, 2.5, 9), None]
    assert windows[0]
    assert windows[0]["throttle"] == {"power cap": 0.5, "hardware thermal slowdown": 0.5}
    assert windows[0]["sm_mhz"] == {"min": 1410, "median": 1695, "max": 1980}
    notes = {entry["kind"]: entry["message"] for entry in gpu_watch.notes(found, windows)}
    assert "power cap in 50% of the samples" in notes["throttled"]
    assert notes["other-users"] == "others used the GPU: pid 4 (9 MiB)"
    assert notes["clocks-not-locked"].startswith("the SM clock went from 1410 to 1980 MHz")


def test_a_steady_clock_and_nobody_else_need_no_note() -> None:
    found = watched({}, {"sm_mhz": 1980, "throttle": 1}, {"sm_mhz": 1965, "throttle": 0})
    assert gpu_watch.notes(found, [gpu_watch.conditions(found, 0, 9)]) == []
    assert gpu_watch.conditions(found, 50, 60) is None


def test_a_gpu_that_was_busy_before_is_told_unless_we_kept_it_busy() -> None:
    found = watched({})._replace(before=Sample(0, utilisation=30))
    assert gpu_watch.notes(found, [])[0]["message"] == "the GPU was 30 % busy before"
    assert gpu_watch.notes(found, [], idle_before=False) == []


@pytest.mark.parametrize(
    ("wish", "expected"), [(None, 0), ("all", 0), ("1", 1), ("GPU-2,0", 1), ("none", None)]
)
def test_the_watched_gpu_is_the_first_of_the_jobs(wish: str | None, expected: int | None) -> None:
    gpus = (GPU, Gpu(1, "NVIDIA L4", "GPU-2", "8.9", 24 << 30))
    place: Any = SimpleNamespace(
        settings=SimpleNamespace(host=SimpleNamespace(gpus=gpus)),
        options=SimpleNamespace(gpus=wish, needs_gpu=True),
    )
    assert pipeline.watched_gpu(place) == (None if expected is None else gpus[expected])


def summary(median: float) -> dict[str, Any]:
    ranks = {"90": median * 1.1, "99": median * 1.5}
    numbers = {"mean": median, "deviation": 0.1, "median": median, "min": median, "max": median * 2}
    return {"n": 10, **numbers, "percentiles": ranks}


def raw_row(batch: int, gpu: float | None, latency: float | None, enqueue: float = 0.1) -> Any:
    """As the job writes it."""
    return {
        "batch": batch,
        "shapes": {"image": [batch, 3, 8, 8]},
        "gpu_ms": summary(gpu) if gpu else None,
        "enqueue_ms": summary(enqueue) if gpu else None,
        "latency_ms": summary(latency) if latency else None,
        "throughput": {
            "batches": 100,
            "seconds": 100 * (latency or gpu or 1) / 1e3,
            "streams": 1,
        },
        "window": [1.0, 3.0],
    }


def measured(name: str, *rows: Any, watched: Watched | None = None) -> Measured:
    found = Measured(
        model={
            "name": name,
            "runtime": "engine",
            "sha256": "0",
            "flavour": "tensorrt",
            "version": "8.6.0",
        },
        environment={
            "name": "tensorrt-8.6.0",
            "runner": "venv",
            "reference": "r",
            "digest": "d",
            "measured": {"devices": [{"name": GPU.name}]},
        },
        runner={"runtime": "engine"},
        load_seconds=1.5,
        rows=list(rows),
    )
    benchreport.judge(found, watched, BenchSpec(), first=True)
    return found


def report() -> Report:
    entries = [
        measured(
            "a.engine",
            raw_row(1, 1.0, 1.25),
            raw_row(8, 4.0, 5.0),
            watched=watched({4: 9}, {"sm_mhz": 1980, "throttle": 4}, {"sm_mhz": 1410}),
        ),
        measured(
            "b.engine", raw_row(1, 0.5, 1.0, 0.45), raw_row(8, 1.0, 2.0), raw_row(16, 2.0, 4.0)
        ),
        measured("c.onnx", raw_row(8, None, 50.0)),
        Measured(model={**measured("d").model}, error=JobFailed("it broke", hint="mend it")),
    ]
    benchreport.compare(entries)
    return Report(spec=BenchSpec(cases=read_cases("1,8", ())), engines=entries)


def test_models_are_compared_row_by_row_with_the_first_that_has_the_row() -> None:
    first, second, third, _ = report().engines
    assert first.rows[0]["ratio"] == {"gpu_ms": 1.0, "latency_ms": 1.0, "throughput": 1.0}
    assert second.rows[1]["ratio"] == {"gpu_ms": 4.0, "latency_ms": 2.5, "throughput": 2.5}
    assert second.rows[2]["ratio"] == {"gpu_ms": 1.0, "latency_ms": 1.0, "throughput": 1.0}
    assert third.rows[0]["ratio"] == {"gpu_ms": None, "latency_ms": 0.1, "throughput": 0.1}
    assert second.rows[1]["throughput"]["images_per_second"] == 4000


def test_a_host_that_is_slower_than_its_gpu_is_told() -> None:
    _, second, _, _ = report().engines
    (note,) = second.notes
    assert note["kind"] == "host-bound"
    assert note["message"].endswith("1x3x8x8 no faster than it is computed; --cuda-graph may help")


def test_what_was_asked_for_and_not_had_is_told() -> None:
    found = measured("a.engine", raw_row(1, 1.0, 1.2))
    found.rows, found.runner = [raw_row(1, 1.0, 1.2)], {"no_cuda_graph": "it waits for the host"}
    benchreport.judge(found, None, BenchSpec(streams=2, cuda_graph=True), first=True)
    notes = {entry["kind"]: entry["message"] for entry in found.notes}
    assert notes["no-cuda-graph"] == "measured without a CUDA graph: it waits for the host"
    assert notes["fewer-streams"] == "memory was there for 1 batches in flight, not for 2"


def test_another_gpu_than_the_watched_one_tells_nothing() -> None:
    found = measured("a.engine", raw_row(1, 1.0, 1.2))
    assert found.environment
    found.environment["measured"]["devices"][0]["name"] = "NVIDIA L4"
    found.rows = [raw_row(1, 1.0, 1.2)]
    benchreport.judge(found, watched({4: 1}, {4: 1}), BenchSpec(), first=True)
    assert [note["kind"] for note in found.notes] == ["not-watched"]
    assert found.gpu is None
    assert found.rows[0]["conditions"] is None


def test_the_document_is_as_its_schema_says() -> None:
    document = json.loads(json.dumps(report().to_dict()))
    validate("bench", document)
    assert document["engines"][0]["gpu"]["others"] == [{"pid": 4, "memory_bytes": 9}]
    assert document["engines"][3]["error"]["message"] == "it broke"


def test_rows_of_a_run_that_ended_early_are_whole(folder: Path) -> None:
    out = folder / "out" / "1-runtime.bench"
    out.mkdir(parents=True)
    (out / "rows.jsonl").write_text('{"batch": 1}\n{"batch": 2}\n{"ba')
    assert pipeline.finished(folder / "out") == [{"batch": 1}, {"batch": 2}]
    assert pipeline.finished(folder / "nothing") == []


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_what_ends_it_early_loses_nothing_that_was_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    def measure(one: Candidate, found: Measured, *, first: bool) -> None:
        found.rows = [{**raw_row(1, 1.0, 1.0), "throughput": {"images_per_second": 1000.0}}]
        if not first:
            raise end

    monkeypatch.setattr(pipeline, "measure", measure)
    one = candidate(folder, BenchSpec())
    found = pipeline.carry_out([one, one, one], BenchSpec())
    assert found.stopped is end
    assert [len(entry.rows) for entry in found.engines] == [1, 1]
    assert found.to_dict()["interrupted"] is True


def test_one_that_fails_does_not_stop_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(one: Candidate, found: Measured, *, first: bool) -> None:
        if first:
            raise JobFailed("no memory")

    monkeypatch.setattr(pipeline, "measure", measure)
    one = candidate(folder, BenchSpec())
    found = pipeline.carry_out([one, one], BenchSpec())
    assert [bool(entry.error) for entry in found.engines] == [True, False]
    assert str(found.engines[0].error) == "no memory"


def test_results_are_written_whole_and_over_nothing_else(folder: Path) -> None:
    path = folder / "r.json"
    benchreport.check_output(path, force=False)
    benchreport.write(report().to_dict(), path)
    assert json.loads(path.read_text())["engines"]
    assert list(folder.glob(".trtenv-*")) == []
    benchreport.check_output(path, force=False)
    other = folder / "notes.json"
    other.write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="is no result of"):
        benchreport.check_output(other, force=False)
    benchreport.check_output(other, force=True)
    with pytest.raises(UsageError, match="names no file"):
        benchreport.check_output(folder / "nowhere" / "r.json", force=False)


@pytest.mark.parametrize(("name", "kind"), [("s.txt", UsageError), ("no/s.png", UsageError)])
def test_plots_that_cannot_be(folder: Path, name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        benchplot.check_plot(folder / name)


def test_a_plot_without_matplotlib_is_refused_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchplot, "find_spec", lambda name: None)
    with pytest.raises(HostError) as caught:
        benchplot.check_plot(folder / "s.png")
    assert caught.value.hint == "pip install 'trtenv[plot]'"


def test_a_line_of_the_plot_is_one_model_at_sizes_that_differ_in_the_batch() -> None:
    engines = report().to_dict()["engines"]
    engines[1]["model"]["name"] = "a.engine"
    engines[1]["rows"] += [{**engines[1]["rows"][0], "shapes": {"image": [1, 3, 9, 9]}}]
    found = [(entry.label, entry.batches) for entry in benchplot.series(engines)]
    assert found == [
        ("1. a.engine (tensorrt-8.6.0), 3x8x8", [1, 8]),
        ("2. a.engine (tensorrt-8.6.0), 3x8x8", [1, 8, 16]),
        ("2. a.engine (tensorrt-8.6.0), 3x9x9", [1]),
        ("c.onnx, 3x8x8", [8]),
    ]


@pytest.mark.process  # for its first picture matplotlib asks fc-list for fonts
@pytest.mark.parametrize(("name", "start"), [("s.png", b"\x89PNG"), ("s.svg", b"<?xml")])
@pytest.mark.parametrize("rows", [1, 3])
def test_plots(folder: Path, name: str, start: bytes, rows: int) -> None:
    document = report().to_dict()
    for entry in document["engines"]:
        del entry["rows"][rows:]
    benchplot.draw(document, folder / name)
    assert (folder / name).read_bytes().startswith(start)
    assert list(folder.glob(".trtenv-*")) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bench nothing.engine", "`nothing.engine` does not exist"),
        ("bench digits.onnx --batch 0", "--batch: 0 is out of range"),
        ("bench digits.onnx --percentile 101", "--percentile: `101` is no percentile"),
        ("bench digits.onnx --onnx", "--onnx: no engine is named"),
        ("bench digits.onnx --weights x.pt", "--weights belongs to a PyTorch model"),
        ("bench digits.onnx --device-memory x", "--device-memory: `x` is not known"),
        ("bench digits.onnx --device-memory driver", "--device-memory belongs to an engine"),
        ("bench digits.onnx --plot digits.onnx", "neither PNG nor SVG"),
        ("bench digits.onnx -o digits.onnx", "is no result of `trtenv bench`"),
        ("bench m.engine --batch 17", "does not take batch 17"),
    ],
)
def test_requests_that_are_wrong(
    capsys: pytest.CaptureFixture[str], folder: Path, line: str, words: str
) -> None:
    write_digits(folder / "digits.onnx")
    engine(folder)
    code, _, said = run(capsys, *line.split())
    assert (code, words in said) == (2, True), said


@pytest.mark.process  # it looks for the interpreters of wheel environments
def test_a_dry_run_says_the_job_and_the_run_of_trtexec(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_digits(folder / "digits.onnx")
    line = f"bench {engine(folder)} digits.onnx --batch 1,8 --env rtx-1.7 --runner venv"
    code, out, said = run(capsys, *line.split(), "--dry-run", "--json", "--unchecked")
    assert code == 0, said
    document = json.loads(out)
    validate("bench-dry-run", document)
    first, second = document["jobs"]
    assert [case["batch"] for case in first["params"]["cases"]] == [1, 8]
    assert first["trtexec"]["why_not"]
    assert second["trtexec"] is None
    assert second["params"]["hints"] == {"image": [8, 3, 224, 224]}
