"""The infer job on images: what streams through it, and what is left when something goes wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import inferring
import numpy as np
import pytest
from digits_onnx import EXAMPLES, PICTURES, pictures, write_digits
from inferring import JobIO, brightness, greys, level, lines, parameters, run, source
from PIL import Image
from runtime import infer, runners, stream, workers
from worker import JobError

DIGITS = {"kind": "classification", "labels": [f"digit {n}" for n in range(10)]}


def levels(count: int) -> list[int]:
    return [40 + 13 * number % 160 for number in range(count)]


def damaged(path: Path, keep: int = 20) -> dict[str, Any]:
    path.write_bytes(path.read_bytes()[:keep])
    return source(path)


def test_digits_are_what_they_are(tmp_path: Path) -> None:
    files = [source(EXAMPLES / "data" / f"digit_{digit}.png") for digit in PICTURES]
    model = write_digits(tmp_path / "digits.onnx")
    everything = ["json", "csv", "npz", "npy", "pictures", "sheet"]
    out = tmp_path / "out"
    values = run(model, files, out, task=DIGITS, save=everything, options={"top_k": 3})
    found = lines(out)
    assert [entry["file"] for entry in found] == [file["name"] for file in files]
    assert [entry["top"][0]["label"] for entry in found] == [f"digit {n}" for n in PICTURES]
    assert [entry["size"] for entry in found] == [[32, 32]] * 4
    rows = list(csv.reader((out / "results.csv").read_text().splitlines()))
    assert rows[0] == ["file", "rank", "index", "label", "score"]
    assert [row[:4] for row in rows[1::3]] == [
        [f"digit_{n}.png", "1", str(n), f"digit {n}"] for n in PICTURES
    ]
    reference = runners.open_runner({"runtime": "onnxruntime", "path": str(model)}, JobIO(tmp_path))
    expected = reference.run({"image": pictures()})["logits"]
    for row, digit in zip(expected, PICTURES, strict=True):
        with np.load(out / "outputs" / f"digit_{digit}.npz") as saved:
            assert saved["logits"] == pytest.approx(row, abs=1e-5)
        array = np.load(out / "outputs" / f"digit_{digit}.logits.npy")
        assert array == pytest.approx(row, abs=1e-5)
        with Image.open(out / "pictures" / f"digit_{digit}.png") as picture:
            picture.load()
    with Image.open(out / "sheet.png") as sheet:
        sheet.load()
    assert (values["images"], values["failed"], values["batches"]) == (4, 0, 1)
    assert values["runner"]["runtime"] == "onnxruntime"
    assert "python" in values["environment"]


@pytest.mark.parametrize(
    ("shape", "batch", "batches"),
    [
        (("n", 3, 8, 8), None, 5),  # 8 where nothing says how many
        (("n", 3, 8, 8), 7, 6),  # a short last batch
        ((4, 3, 8, 8), None, 10),  # fixed: the last one is filled up
        ((1, 3, 8, 8), None, 37),
        (("n", 8, 8, 3), 50, 1),
    ],
)
def test_results_keep_the_order_of_the_inputs(
    tmp_path: Path, shape: tuple[int | str, ...], batch: int | None, batches: int
) -> None:
    model = brightness(tmp_path / "m.onnx", shape)
    files = greys(tmp_path / "in", levels(37))
    values = run(model, files, tmp_path / "out", batch=batch, save=["json", "npz"])
    found = lines(tmp_path / "out")
    assert [entry["file"] for entry in found] == [file["name"] for file in files]
    assert [level(entry) for entry in found] == levels(37)
    assert (values["images"], values["batches"]) == (37, batches)
    with np.load(tmp_path / "out" / "outputs" / "00036.npz") as saved:
        assert saved["scores"].shape == (2,)


def test_broken_files_are_told_and_their_places_taken(tmp_path: Path) -> None:
    files = greys(tmp_path / "in", levels(20))
    for number in (0, 3, 4, 19):
        files[number] = damaged(Path(files[number]["path"]))
    files[7] = source(tmp_path / "gone.png")
    job = JobIO(tmp_path / "out")
    values = infer.run(parameters(brightness(tmp_path / "m.onnx"), files, batch=5), job)
    found = lines(tmp_path / "out")
    assert [entry["file"] for entry in found] == [file["name"] for file in files]
    broken = [number for number, entry in enumerate(found) if "error" in entry]
    assert broken == [0, 3, 4, 7, 19]
    assert [level(found[n]) for n in range(20) if n not in broken] == [
        value for n, value in enumerate(levels(20)) if n not in broken
    ]
    assert (values["images"], values["failed"], values["batches"]) == (15, 5, 3)
    assert [entry["file"] for entry in values["failures"]] == [files[n]["name"] for n in broken]
    assert len(job.logs) == 5


def test_nothing_but_broken_files_is_an_error(tmp_path: Path) -> None:
    files = [damaged(Path(file["path"])) for file in greys(tmp_path / "in", levels(3))]
    with pytest.raises(JobError) as caught:
        run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out")
    assert caught.value.kind == "no-input"
    assert "00000.png" in caught.value.message
    assert all("error" in entry for entry in lines(tmp_path / "out"))


def test_images_need_a_task(tmp_path: Path) -> None:
    files = greys(tmp_path / "in", [1])
    with pytest.raises(JobError) as caught:
        run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out", task=None)
    assert "--task" in str(caught.value.hint)


def test_a_fixed_batch_cannot_be_another(tmp_path: Path) -> None:
    model = brightness(tmp_path / "m.onnx", (4, 3, 8, 8))
    with pytest.raises(JobError, match="batches of 4"):
        run(model, greys(tmp_path / "in", [1]), tmp_path / "out", batch=3)


def test_images_of_their_own_size_share_a_batch_with_their_like(tmp_path: Path) -> None:
    model = brightness(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    files = greys(tmp_path / "a", levels(6)) + greys(tmp_path / "b", levels(5), (16, 24))
    files += greys(tmp_path / "c", levels(2))
    for number, file in enumerate(files):
        file["name"] = f"{number}.png"
    values = run(model, files, tmp_path / "out", size="image", batch=4)
    assert [level(entry) for entry in lines(tmp_path / "out")] == levels(6) + levels(5) + levels(2)
    assert values["batches"] == 2 + 2 + 1


def test_thousands_of_images_in_bounded_memory(tmp_path: Path) -> None:
    """Rows are prepared in as many places as there were at the start, and the slots are the runner's own."""
    few = greys(tmp_path / "in", range(256))
    files = [dict(few[13 * n % 256], name=f"{n}.png") for n in range(10000)]
    grown = []

    def measure(done: int) -> None:
        grown.append((done, resident()))

    job = JobIO(tmp_path / "out", measure)
    values = infer.run(parameters(brightness(tmp_path / "m.onnx"), files, batch=64), job)
    assert values["images"] == 10000
    found = lines(tmp_path / "out")
    assert [int(entry["file"][:-4]) for entry in found] == list(range(10000))
    assert [level(entry) for entry in found[::97]] == [13 * n % 256 for n in range(0, 10000, 97)]
    warm = max(size for done, size in grown if done < 3000)
    assert max(size for _, size in grown) - warm < 24 << 20
    assert len(job.phases) <= 5 * values["seconds"] + 4


def resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_no_more_rows_are_prepared_than_there_are_places(tmp_path: Path) -> None:
    files = greys(tmp_path / "in", levels(30))
    asked = list[int]()

    class Pool:
        rows = np.zeros((9, 1), np.float32)

        def prepare(self, paths: list[str], cells: list[int]) -> Any:
            asked.extend(cells)
            return Done([(None, (8, 8), None, None)] * len(paths))

    ahead = stream.Ahead(files, Pool(), 9, 2, stream.Stages())
    held = list[stream.Item]()
    for item in ahead:
        held.append(item)
        assert len(asked) - (item.index + 1 - len(held)) <= 9
        if len(held) == 4:
            ahead.release(held)
            held = []
    assert len(asked) == 30


class Done:
    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_leaves_what_is_done_whole(
    tmp_path: Path, number: signal.Signals
) -> None:
    files = greys(tmp_path / "in", levels(400))
    sent = threading.Event()

    def interrupt(done: int) -> None:
        if done >= 64 and not sent.is_set():
            sent.set()
            signal.raise_signal(number)

    job = JobIO(tmp_path / "out", interrupt)
    wanted = ["json", "csv", "npz", "pictures", "sheet"]
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        infer.run(parameters(brightness(tmp_path / "m.onnx"), files, batch=4, save=wanted), job)
    assert signal.getsignal(number) is before
    found = lines(tmp_path / "out")
    assert 64 <= len(found) < 400
    assert [level(entry) for entry in found] == levels(400)[: len(found)]
    check_whole(tmp_path / "out", len(found))


def check_whole(out: Path, count: int) -> None:
    """As many files as there are results, and none that is half-written."""
    assert not list(out.rglob("*.part"))
    assert (
        len({row[0] for row in csv.reader((out / "results.csv").read_text().splitlines())})
        == count + 1
    )
    for path in out.rglob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    saved = [path.stem for path in sorted((out / "outputs").iterdir())]
    assert saved == [f"{n:05d}" for n in range(count)]
    shown = sorted((out / "pictures").iterdir())
    assert [path.stem for path in shown] == saved
    for path in [*shown, out / "sheet.png"]:
        with Image.open(path) as image:
            image.load()


def test_a_runner_that_fails_leaves_the_results_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.reference import OnnxRuntimeRunner

    compute, calls = OnnxRuntimeRunner.compute, iter(range(1000))

    def failing(self: Any, feed: Any) -> Any:
        if next(calls) == 6:
            raise JobError("cuda", "the GPU fell off the bus")
        return compute(self, feed)

    monkeypatch.setattr(OnnxRuntimeRunner, "compute", failing)
    files = greys(tmp_path / "in", levels(60))
    with pytest.raises(JobError, match="fell off"):
        run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out", batch=4, save=["json", "csv"])
    assert [level(entry) for entry in lines(tmp_path / "out")][:24] == levels(60)[:24]
    assert (tmp_path / "out" / "results.csv").exists()


def test_pictures_and_a_sheet_alone(tmp_path: Path) -> None:
    files = greys(tmp_path / "in", levels(3), (16, 16))
    out = tmp_path / "out"
    run(brightness(tmp_path / "m.onnx"), files, out, save=["pictures", "sheet"])
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "00000.png", "00001.png", "00002.png",
    ]  # fmt: skip
    assert (out / "sheet.png").exists()
    assert not (out / "results.jsonl").exists()


@pytest.mark.process
def test_processes_find_what_threads_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "THREADS_ENOUGH", 1)
    files = greys(tmp_path / "in", levels(150))
    files[70] = damaged(Path(files[70]["path"]))
    wanted = ["json", "pictures", "sheet"]
    values = run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out", save=wanted)
    assert (values["images"], values["failed"]) == (149, 1)
    found = [entry for entry in lines(tmp_path / "out") if "error" not in entry]
    expected = [value for number, value in enumerate(levels(150)) if number != 70]
    assert [level(entry) for entry in found] == expected
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 149


@pytest.mark.process
def test_a_crashing_decoder_costs_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "THREADS_ENOUGH", 1)
    deadly = "import vision.images as i, os\nf = i.decode\n"
    deadly += "i.decode = lambda p: os._exit(3) if p.endswith('00033.png') else f(p)\n"
    start = workers.START.replace("from runtime", f"exec({deadly!r}); from runtime")
    monkeypatch.setattr(workers, "START", start)
    files = greys(tmp_path / "in", levels(80))
    values = run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out")
    assert (values["images"], values["failed"]) == (79, 1)
    assert lines(tmp_path / "out")[33]["error"] == "the decoder crashed on it"


@pytest.mark.process
def test_a_killed_job_leaves_whole_files_and_no_process(tmp_path: Path) -> None:
    files = greys(tmp_path / "in", levels(20), (200, 200)) * 400
    files = [{**file, "name": f"{number}.png"} for number, file in enumerate(files)]
    wanted = ["json", "npz", "pictures"]
    params = parameters(brightness(tmp_path / "m.onnx"), files, save=wanted, threads=5)
    folder, out = tmp_path / "job", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (folder / "job.json").write_text(json.dumps({"kind": "runtime.infer", "params": params}))
    script = Path(workers.JOBS) / "worker.py"
    with subprocess.Popen(
        [sys.executable, script, folder, out],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as job:
        assert job.stdout is not None
        children = []
        for line in job.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and (event["done"] or 0) > 50:
                text = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text()
                children = [int(pid) for pid in text.split()]
                break
        job.kill()
    assert len(children) == 5
    assert gone(children)
    text = (out / "results.jsonl").read_text()
    assert text.endswith("\n")
    assert len(lines(out)) > 16
    for path in out.rglob("*.png"):
        with Image.open(path) as image:
            image.load()
    for path in out.rglob("*.npz"):
        with np.load(path) as arrays:
            assert arrays["scores"].shape == (2,)


def gone(processes: list[int]) -> bool:
    """Whether all of them end within some seconds; a zombie has ended."""
    for _ in range(200):
        stats = [Path(f"/proc/{pid}/stat") for pid in processes]
        states = [path.read_text().rpartition(") ")[2][0] for path in stats if path.exists()]
        if all(state == "Z" for state in states):
            return True
        time.sleep(0.05)
    return False


def test_helpers_tell_levels_apart(tmp_path: Path) -> None:
    files = greys(tmp_path / "in", [0, 255])
    run(brightness(tmp_path / "m.onnx"), files, tmp_path / "out")
    assert [inferring.level(entry) for entry in lines(tmp_path / "out")] == [0, 255]


def test_the_card_that_was_used_is_told_and_names_of_inputs_count(tmp_path: Path) -> None:
    model, (file,) = brightness(tmp_path / "m.onnx"), greys(tmp_path / "in", [9])
    assert run(model, [{**file, "input": "image"}], tmp_path / "out")["task"] == inferring.CARD
    with pytest.raises(JobError, match="no input `picture`; it has image"):
        run(model, [{**file, "input": "picture"}], tmp_path / "other")


def test_an_export_s_optimum_decides_batch_and_size(tmp_path: Path) -> None:
    model = brightness(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    files = greys(tmp_path / "in", levels(6))
    params = parameters(model, files)
    params["runner"]["optimum"] = {"image": [4, 3, 16, 16]}
    values = infer.run(params, JobIO(tmp_path / "out"))
    assert (values["batch"], values["batches"]) == (4, 2)
    assert [level(entry) for entry in lines(tmp_path / "out")] == levels(6)


def test_what_is_left_out_is_told_in_one_line(tmp_path: Path) -> None:
    io = JobIO(tmp_path / "out")
    files = greys(tmp_path / "in", [9])
    os.mkfifo(tmp_path / "pipe.png")
    files.append(source(tmp_path / "pipe.png", name="a\nb\x1b[31m.png"))
    infer.run(parameters(brightness(tmp_path / "m.onnx"), files), io)
    assert io.logs == ["a\\nb\\x1b[31m.png is left out: it is no regular file"]
