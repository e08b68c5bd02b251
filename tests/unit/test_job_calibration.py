"""The calibration data that jobs read, and what TensorRT's calibrator is fed from it."""

import ctypes
import os
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import trtenv

sys.path.insert(0, str(Path(trtenv.__file__).parent / "jobs"))

import calibration
import calibrator
import cuda
from worker import JobError

EXAMPLES = Path(trtenv.__file__).parents[1] / "examples" / "data"


class JobIO:
    def __init__(self, folder: Path = Path()) -> None:
        self.folder, self.logs = folder, list[str]()

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def log(self, text: str) -> None:
        self.logs.append(text)

    def progress(self, phase: str, done: int | None = None, total: int | None = None) -> None:
        pass


def wanted(name: str, *shape: int, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def asked(data: Path, **more: Any) -> dict[str, Any]:
    plain = {"cache": None, "method": "entropy", "mean": None, "std": None, "scale": 1.0}
    return {**plain, "data": str(data), **more}


def read(data: Path, *inputs: dict[str, Any], job: JobIO | None = None, **more: Any) -> list[Any]:
    return list(calibration.batches(asked(data, **more), list(inputs), job or JobIO()))


def refused(data: Path, *inputs: dict[str, Any], **more: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        read(data, *inputs, **more)
    return caught.value


def save(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def grey(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


@pytest.mark.parametrize(
    ("batch", "sizes", "expected"),
    [
        (None, {"min": [1, 3], "opt": [8, 3], "max": [16, 3]}, [8, 3]),
        (4, {"min": [1, 3], "opt": [8, 3], "max": [16, 3]}, [4, 3]),
        (4, {"min": [8, 3], "opt": [8, 3], "max": [8, 3]}, [8, 3]),
        (4, {"min": [], "opt": [], "max": []}, []),
    ],
)
def test_the_optimum_is_calibrated_at_unless_a_batch_is_given_that_may_change(
    batch: int | None, sizes: dict[str, list[int]], expected: list[int]
) -> None:
    found = calibration.describe_inputs([("x", "half")], {"x": sizes}, batch)
    assert found == [{"name": "x", "dtype": "float16", "shape": expected}]


def test_a_type_that_no_array_has_is_refused() -> None:
    sizes = {"min": [1], "opt": [1], "max": [1]}
    with pytest.raises(JobError, match="`x` is bf16"):
        calibration.describe_inputs([("x", "bf16")], {"x": sizes})


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), batch=st.integers(1, 5), kind=st.sampled_from(["npy", "npz", "zip"]))
def test_every_row_comes_once_in_order_and_the_first_fill_up_the_last_batch(
    tmp_path_factory: pytest.TempPathFactory, rows: int, batch: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("data") / f"data.{kind.replace('zip', 'npz')}"
    array = np.arange(rows * 6, dtype=np.float64).reshape(rows, 2, 3)
    if kind == "npy":
        np.save(path, array)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, x=array, unused=array)
    found = [each["x"] for each in read(path, wanted("x", batch, 2, 3))]
    assert {each.shape for each in found} == {(batch, 2, 3)}
    assert all(each.dtype == np.float32 and each.flags["C_CONTIGUOUS"] for each in found)
    together = np.concatenate(found)
    assert len(together) - rows < batch
    np.testing.assert_array_equal(together, np.resize(array, together.shape))


def test_inputs_of_several_arrays_go_together(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, image=np.zeros((5, 2)), size=np.ones((5, 1), np.int64))
    found = read(path, wanted("size", 2, 1, dtype="int32"), wanted("image", 2, 2))
    assert [{name: array.shape for name, array in each.items()} for each in found] == [
        {"size": (2, 1), "image": (2, 2)}
    ] * 3
    np.savez(path, image=np.zeros((5, 2)), size=np.ones((2, 1)))
    error = refused(path, wanted("image", 2, 2), wanted("size", 2, 1))
    assert "different numbers of batches: image 3, size 1" in error.message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x.npy", np.zeros((4, 3)), "has shape 4x3; the model is calibrated at Nx2x3"),
        ("x.npy", np.zeros((0, 2, 3)), "has shape 0x2x3"),
        ("x.npy", np.zeros((4, 2, 3), complex), "is complex128; the input is float32"),
        ("x.npy", np.asfortranarray(np.zeros((4, 2, 3))), "Fortran order"),
        ("x.npy", np.zeros((4, 2, 3), object), "Python objects"),
        ("x.npy", np.full((4, 2, 3), np.nan), "`x` holds values that are NaN or infinite"),
        ("x.npz", {"y": np.zeros((4, 2, 3))}, "has no array for input `x`; it has `y`"),
        ("x.txt", np.zeros((4, 2, 3)), "neither a folder nor .npz nor .npy"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, name: str, array: Any, message: str
) -> None:
    path = tmp_path / name
    with path.open("wb") as handle:
        if isinstance(array, dict):
            np.savez(handle, **array)
        else:
            np.save(handle, array)
    error = refused(path, wanted("x", 2, 2, 3))
    assert message in error.message
    assert error.hint


def test_damaged_files_are_errors_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 2, 3)))
    cut(path)
    assert "is cut short" in refused(path, wanted("x", 2, 2, 3)).message
    path.write_bytes(b"\x93NUMPY")
    assert refused(path, wanted("x", 2, 2, 3)).kind == "calibration"
    archive = tmp_path / "x.npz"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("x.npy", b"nothing")
    assert "holds no array `x`" in refused(archive, wanted("x", 2, 2, 3)).message
    cut(archive)
    assert "cannot be read" in refused(archive, wanted("x", 2, 2, 3)).message
    assert "cannot be read" in refused(tmp_path / "no.npz", wanted("x", 2, 2, 3)).message


def test_an_npy_file_and_a_folder_are_of_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    both = wanted("x", 2, 2), wanted("y", 2, 2)
    assert "one input" in refused(tmp_path / "x.npy", *both).message
    assert "one input; this one has x, y" in refused(tmp_path, *both).message


def test_a_large_array_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((64, 1 << 16), np.float32))  # 16 MiB
    tracemalloc.start()
    count = 0
    for _ in calibration.batches(asked(tmp_path / "x.npz"), [wanted("x", 1, 1 << 16)], JobIO()):
        count += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 64
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((2, 1, 4, 6), 1), ((2, 3, 4, 6), 3), ((2, 4, 6, 1), 1), ((2, 4, 6, 3), 3)],
)
def test_images_have_the_channels_and_the_layout_of_the_input(
    tmp_path: Path, shape: tuple[int, ...], channels: int
) -> None:
    colour = np.zeros((4, 6, 3), np.uint8)
    colour[...] = (10, 20, 30)
    save(tmp_path, {"b.png": grey(50), "a.png": colour, "deep/c.png": grey(90, 8, 12)})
    (tmp_path / "labels.txt").write_text("no image")
    first, second = (each["x"] for each in read(tmp_path, wanted("x", *shape)))
    assert first.shape == second.shape == shape
    axis = 1 if shape[1] == channels else 3
    sample = np.moveaxis(first[0], axis - 1, 0)[:, 0, 0]
    assert sample.tolist() == ([10, 20, 30] if channels == 3 else [18])
    assert np.all(first[1] == 50)
    assert np.all(second[0] == 90)
    np.testing.assert_array_equal(second[1], first[0])


def test_pixels_are_scaled_then_the_mean_is_taken_and_divided_by_the_deviation(
    tmp_path: Path,
) -> None:
    save(tmp_path, {"a.png": np.full((4, 6, 3), 255, np.uint8)})
    how = {"scale": 1 / 255, "mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 2.0]}
    found = read(tmp_path, wanted("x", 1, 3, 4, 6), **how)[0]["x"]
    np.testing.assert_allclose(found[0, :, 0, 0], [1, 3, 0.5], rtol=1e-6)
    how = {"mean": [55.0], "std": [2.0]}
    assert np.all(read(tmp_path, wanted("x", 1, 4, 6, 3), **how)[0]["x"] == 100)


def test_the_examples_pictures_are_what_the_models_take() -> None:
    found = read(EXAMPLES, wanted("image", 8, 1, 32, 32), scale=1 / 255)
    with Image.open(EXAMPLES / "digit_0.png") as image:
        pixels = np.asarray(image.convert("L"), np.float32) / 255
    np.testing.assert_allclose(found[0]["image"][2, 0], pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "more", "message"),
    [
        (wanted("x", 1, 4, 8, 8), {}, "no picture of 1 or 3 channels"),
        (wanted("x", 1, 3), {}, "images do not fit input `x` of shape 1x3"),
        (wanted("x", 1, 3, 8, 8), {"mean": [1.0, 2.0]}, "`mean` has 2 values for 3 channels"),
        (wanted("x", 1, 1, 8, 8), {"std": [0.0]}, "deviation of 0"),
        (wanted("x", 1, 1, 8, 8, dtype="uint8"), {"scale": 0.5}, "takes whole numbers"),
    ],
)
def test_images_that_cannot_fit_are_refused(
    tmp_path: Path, entry: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    save(tmp_path, {"a.png": grey(1)})
    assert message in refused(tmp_path, entry, **more).message


def test_unreadable_images_are_left_out_and_told_of_up_to_a_half(tmp_path: Path) -> None:
    save(tmp_path, {"a.png": grey(1), "b.png": grey(2)})
    (tmp_path / "c.jpg").write_bytes(b"no image")
    cut(tmp_path / "b.png")
    job = JobIO()
    entry = wanted("x", 1, 1, 4, 6)
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert len(read(tmp_path, entry, job=job)) == 2
    assert [line.split()[1] for line in job.logs] == ["b.png", "c.jpg"]
    (tmp_path / "d.png").unlink()
    error = refused(tmp_path, entry)
    assert "more than half of the 3 images" in error.message


def test_what_is_no_regular_file_is_left_out_and_never_opened(tmp_path: Path) -> None:
    save(tmp_path, {"a.png": grey(1), "b.png": grey(2)})
    (tmp_path / "c.png").symlink_to(tmp_path / "b.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    job = JobIO()
    assert len(read(tmp_path, wanted("x", 1, 1, 4, 6), job=job)) == 3
    assert [line.split()[1] for line in job.logs] == ["fifo.png", "zeros.png"]
    assert "no regular file" in job.logs[0]


def test_a_folder_without_images_and_an_environment_without_pillow_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".hidden.png").touch()
    assert "no images in" in refused(tmp_path, wanted("x", 1, 1, 4, 6)).message
    monkeypatch.setitem(sys.modules, "PIL", None)
    error = refused(tmp_path, wanted("x", 1, 1, 4, 6))
    assert error.kind == "missing-module"
    assert ".npz" in str(error.hint)


class Driver:
    """Stands in for libcuda.so.1, which no machine without a GPU has: host memory at the addresses."""

    def __init__(self, fails: dict[str, int] | None = None) -> None:
        self.memory = dict[int, Any]()
        self.calls = list[str]()
        self._fails = fails or {}

    def __getattr__(self, name: str) -> Any:
        def call(*argv: Any) -> int:
            self.calls.append(name)
            if name in self._fails:
                return self._fails[name]
            known = getattr(type(self), f"_{name}", None)
            return int(known(self, *argv)) if known else 0

        return call

    def _cuGetErrorString(self, _: int, text: Any) -> int:
        text._obj.value = b"in its own words"
        return 0

    def _cuMemAlloc_v2(self, pointer: Any, size: Any) -> int:
        made = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(made)
        self.memory[pointer._obj.value] = made
        return 0

    def _cuMemcpyHtoD_v2(self, target: Any, source: Any, size: Any) -> int:
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def _cuMemcpyDtoH_v2(self, target: Any, source: Any, size: Any) -> int:
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def _cuMemFree_v2(self, pointer: Any) -> int:
        del self.memory[pointer.value]
        return 0


def test_device_buffers_hold_what_was_put_in() -> None:
    driver = Driver()
    device = cuda.Device(driver=driver)
    assert driver.calls == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]
    buffer = device.buffer(48)
    array = np.arange(12, dtype=np.float32)
    buffer.upload(array)
    back = np.zeros_like(array)
    buffer.download(back)
    np.testing.assert_array_equal(back, array)
    with pytest.raises(ValueError, match="96 bytes for a buffer of 48"):
        buffer.upload(array.astype(np.float64))
    with pytest.raises(ValueError, match="buffer of 48"):
        buffer.upload(array.reshape(3, 4).T)
    buffer.free()
    buffer.free()
    assert not driver.memory


@pytest.mark.parametrize(("status", "kind"), [(2, "out-of-memory"), (100, "cuda")])
def test_a_failing_driver_is_quoted(status: int, kind: str) -> None:
    device = cuda.Device(driver=Driver({"cuMemAlloc_v2": status}))
    with pytest.raises(JobError, match=f"CUDA error {status}: in its own words") as caught:
        device.buffer(1)
    assert caught.value.kind == kind


def test_without_a_driver_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    with pytest.raises(JobError) as caught:
        cuda.Device()
    assert caught.value.kind == "no-gpu"


class Parent:
    """Stands in for the bindings' calibrator, which unit tests cannot import; tests/venvs has the real."""


TRT = SimpleNamespace(
    __version__="8.6.0", IInt8EntropyCalibrator2=Parent, IInt8MinMaxCalibrator=Parent
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = np.arange(5, dtype=np.float32)[:, None]
    np.savez(tmp_path / "data.npz", a=rows, b=rows + 10)
    return tmp_path / "data.npz"


def fed(made: Any, driver: Driver) -> Iterator[list[float]]:
    """What lies at the addresses that TensorRT would be given for its inputs b and a."""
    while addresses := made.get_batch(["b", "a"]):
        floats = [ctypes.cast(address, ctypes.POINTER(ctypes.c_float)) for address in addresses]
        yield [float(pointer[index]) for pointer in floats for index in range(2)]


@pytest.mark.parametrize("method", ["entropy", "minmax"])
def test_the_calibrator_gives_each_input_its_batch_in_the_order_asked_for(
    data: Path, tmp_path: Path, method: str
) -> None:
    inputs, driver = [wanted("a", 2, 1), wanted("b", 2, 1)], Driver()
    device = cuda.Device(driver=driver)
    made = calibrator.make_calibrator(
        TRT, asked(data, method=method), inputs, JobIO(tmp_path), device
    )
    assert made.read_calibration_cache() is None
    assert list(fed(made, driver)) == [[10, 11, 0, 1], [12, 13, 2, 3], [14, 10, 4, 0]]
    assert made.get_batch(["b", "a"]) is None
    assert made.error is None
    assert driver.memory == {}
    made.write_calibration_cache(memoryview(b"TRT-8600"))
    assert (tmp_path / "calibration.cache").read_bytes() == b"TRT-8600"
    assert made.report == {"method": method, "batches": 3, "cache": "written"}


def test_a_cache_that_is_there_is_read_instead(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept.cache"
    cache.write_bytes(b"TRT-8600")
    made = calibrator.make_calibrator(TRT, asked(data, cache=str(cache)), [], JobIO(tmp_path))
    assert made.read_calibration_cache() == b"TRT-8600"
    assert made.report["cache"] == "read"


def test_what_goes_wrong_in_a_callback_is_kept_for_the_job(data: Path, tmp_path: Path) -> None:
    inputs = [wanted("missing", 2, 1)]
    made = calibrator.make_calibrator(TRT, asked(data), inputs, JobIO(tmp_path))
    assert made.get_batch(["missing"]) is None
    assert "no array for input `missing`" in made.error.message


def test_a_tensorrt_without_calibrators_is_told_of_quantization(data: Path) -> None:
    newer = SimpleNamespace(__version__="11.0.0")
    with pytest.raises(JobError, match="has no IInt8EntropyCalibrator2") as caught:
        calibrator.make_calibrator(newer, asked(data), [], JobIO())
    assert "qdq" in str(caught.value.hint)


class Profile:
    def __init__(self) -> None:
        self.shapes = dict[str, Any]()

    def set_shape(self, name: str, *shapes: list[int]) -> None:
        self.shapes[name] = shapes


class Config:
    """Stands in for a builder config: without a GPU TensorRT makes none."""

    int8_calibrator: Any = None
    profile: Profile | None = None
    accepts = True

    def set_calibration_profile(self, profile: Profile) -> bool:
        self.profile = profile
        return self.accepts


def tensor(name: str, *shape: int) -> SimpleNamespace:
    return SimpleNamespace(name=name, dtype="DataType.FLOAT", shape=shape, is_shape_tensor=False)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_dynamic_network_is_calibrated_at_one_shape(data: Path, dynamic: bool) -> None:
    network = SimpleNamespace(
        num_inputs=1, get_input=lambda _: tensor("a", -1 if dynamic else 8, 1)
    )
    sizes = {"min": [1 if dynamic else 8, 1], "opt": [8, 1], "max": [8, 1]}
    builder, config = SimpleNamespace(create_optimization_profile=Profile), Config()
    argv = (TRT, builder, config, network, asked(data, batch=2), {"a": sizes}, JobIO())
    made = calibrator.set_calibrator(*argv)
    assert config.int8_calibrator is made
    assert (config.profile.shapes if config.profile else None) == (
        {"a": ([2, 1], [2, 1], [2, 1])} if dynamic else None
    )
    config.accepts = False
    if dynamic:
        with pytest.raises(JobError, match="refused the calibration shapes"):
            calibrator.set_calibrator(*argv)
