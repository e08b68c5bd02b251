"""The search for the first bad tensor, and the graphs it looks into: with ONNX Runtime in the engine's place."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from digits_onnx import write_digits
from hypothesis import given
from hypothesis import strategies as st

import trtenv
from trtenv.engine.digests import file_digest
from trtenv.errors import UsageError
from trtenv.pipeline.bisect import WIDTH, own_onnx, request_of, search
from trtenv.pipeline.comparison import VerifySpec
from trtenv.pipeline.running import Subject, read_subject
from trtenv.pipeline.tolerances import tolerance_for
from trtenv.spec.shapes import ShapeRange

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

from runtime import marking


class IO:
    def __init__(self, folder: Path) -> None:
        self.out = str(folder)
        self.logs: list[str] = []

    def path(self, name: str) -> str:
        return f"{self.out}/{name}"

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass

    def log(self, text: str) -> None:
        self.logs.append(text)


@given(st.integers(1, 3000), st.data())
def test_where_all_is_bad_from_one_on_that_one_is_found(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    seen: list[list[int]] = []

    def look(picks: list[int]) -> tuple[dict[int, list[str]], bool]:
        seen.append(picks)
        return {pick: [f"bad {pick}"] for pick in picks if pick >= first}, False

    found = search(count, data.draw(st.sampled_from([None, count - 1])), look)
    assert found.tensor == first
    assert all(len(picks) <= WIDTH for picks in seen)
    assert found.looks == len(seen) <= 1 + math.log(max(count, 2), WIDTH + 1) + 1
    assert found.problems == ((f"bad {first}",) if any(first in p for p in seen) else ())


@given(st.sets(st.integers(0, 200), min_size=1))
def test_what_is_found_is_bad_and_the_one_before_was_not(bad: set[int]) -> None:
    seen: set[int] = set()

    def look(picks: list[int]) -> tuple[dict[int, list[str]], bool]:
        seen.update(picks)
        return {pick: ["bad"] for pick in picks if pick in bad}, False

    found = search(201, max(bad), look)
    assert found.tensor in bad
    before = found.tensor - 1
    assert before < 0 or (before in seen and before not in bad)


def test_nothing_bad_inside() -> None:
    found = search(100, None, lambda picks: ({}, False))
    assert (found.tensor, found.vanished) == (None, False)


def test_a_difference_that_marking_takes_away_is_told() -> None:
    found = search(100, 99, lambda picks: ({}, True))
    assert (found.tensor, found.vanished) == (99, True)


GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x, bool c) => (float[N, 4] out, int64[N] best) {
    k = Constant <value = float[1] {2.0}> ()
    two = Add (k, k)
    a = Mul (x, two)
    h = Cast <to = 10> (a)
    i = Cast <to = 7> (a)
    b = If (c) <
        then_branch = t () => (float[N, 4] tb) { tb = Neg (a) },
        else_branch = e () => (float[N, 4] eb) { eb = Identity (a) }
    >
    out = Relu (b)
    best = ArgMax <axis = 1, keepdims = 0> (out)
}
"""


@pytest.fixture
def graph(tmp_path: Path) -> str:
    path = tmp_path / "graph.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), path)
    return str(path)


def test_what_can_be_marked_is_floating_point_and_depends_on_an_input(
    graph: str, tmp_path: Path
) -> None:
    found = marking.run({"onnx": graph, "mark": None, "output": "m.onnx"}, IO(tmp_path))
    assert [entry["tensor"] for entry in found["tensors"]] == ["a", "h", "b", "out"]
    assert [entry["op"] for entry in found["tensors"]] == ["Mul", "Cast", "If", "Relu"]
    assert not (tmp_path / "m.onnx").exists()


def test_a_marked_graph_is_valid_and_tells_more(graph: str, tmp_path: Path) -> None:
    marking.run({"onnx": graph, "mark": ["a", "h"], "output": "m.onnx"}, IO(tmp_path))
    path = str(tmp_path / "m.onnx")
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["out", "best", "a", "h"]
    x = np.ones((2, 4), np.float32)
    found = dict(zip(names, session.run(None, {"x": x, "c": np.array(True)}), strict=True))
    assert (found["a"] == 4).all()
    assert found["h"].dtype == np.float16


def test_weights_beside_the_file_stay_with_it(tmp_path: Path) -> None:
    model = onnx.load(write_digits(tmp_path / "small.onnx"))
    path = tmp_path / "digits.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="digits.data", size_threshold=0,
    )  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    found = marking.run({"onnx": str(path), "mark": ["c2"], "output": "m.onnx"}, IO(out))
    assert len(found["tensors"]) == 13
    session = onnxruntime.InferenceSession(str(out / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "c2"]


def stamp(wishes: dict[str, Any]) -> dict[str, Any]:
    sizes = {"min": [1, 3], "opt": [2, 3], "max": [4, 3]}
    return {"build": {"wishes": wishes}, "engine": {"profiles": [{"x": sizes}]}}


def test_the_request_of_an_engine_is_read_from_its_stamp(tmp_path: Path) -> None:
    wishes = {"precision": "fp16", "timing_cache": "auto", "keep_fp32": ["a"], "reproducible": True}
    subject = Subject("e", "engine", path=tmp_path / "e.engine", stamp=stamp(wishes))
    spec = request_of(subject)
    assert spec.wishes == {"precision": "fp16", "keep_fp32": ["a"], "accept_precision": "any"}
    assert spec.profiles == ({"x": ShapeRange((1, 3), (2, 3), (4, 3))},)


def test_files_of_the_request_are_looked_for_beside_the_engine(tmp_path: Path) -> None:
    wishes = {"precision": "int8", "calibration": "data.npz"}
    subject = Subject("e", "engine", path=tmp_path / "e.engine", stamp=stamp(wishes))
    with pytest.raises(UsageError, match=r"`data\.npz`, which the engine was built with"):
        request_of(subject)
    (tmp_path / "data.npz").touch()
    assert request_of(subject).wishes["calibration"] == str(tmp_path / "data.npz")
    with pytest.raises(UsageError, match="no stamp tells"):
        request_of(Subject("e", "engine", path=tmp_path / "e.engine"))


def test_an_engine_is_looked_into_by_the_file_it_was_built_from(tmp_path: Path) -> None:
    """Not by the reference, where that is another one: what is wrong in its own would be gone."""
    own, other = write_digits(tmp_path / "own.onnx"), tmp_path / "other.onnx"
    model = onnx.load(own)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, other)
    source = {"onnx": {"name": "own.onnx", "sha256": file_digest(own)}}
    engine = Subject("e", "engine", path=tmp_path / "e.engine", stamp={"source": source})

    def found(reference: Path) -> Path | None:
        subject = read_subject(str(reference))
        return own_onnx(VerifySpec(engine, subject, tolerance_for(engine, subject, {})))

    assert found(other) == own
    assert found(own) is None
    own.unlink()
    assert found(other) is None
