import dataclasses

import pytest

from trtenv.catalog.host import Gpu, Host
from trtenv.catalog.model import Environment
from trtenv.catalog.resolve import Wish, driver_problem, place, resolve
from trtenv.errors import ResolutionError, UsageError

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-1", "9.0", 85 * 10**9)
RTX4090 = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-2", "8.9", 24 * 10**9)


def image(name: str, tensorrt: str, **facts: object) -> Environment:
    return Environment(
        name=name,
        image=f"nvcr.io/nvidia/{name}",
        tensorrt=tensorrt,
        arch=("x86_64",),
        confidence="stated",
        **facts,  # type: ignore[arg-type]
    )


NGC = image(
    "ngc-pytorch-24.08", "10.3.0.26", driver="560.35.03",
    driver_alternatives="470.57+ R470, 535.86+ R535, 550.54+ R550", torch="2.5.0a0",
    holds=frozenset({"tensorrt", "torch"}),
)  # fmt: skip
OLD = image("ngc-tensorrt-20.12", "7.2.2", driver="455")
RTX = Environment(
    name="rtx-1.7", kind="wheel", flavour="tensorrt-rtx", tensorrt="1.7.1.116", arch=("x86_64",),
    python=("3.11", "3.12"), requirements=("tensorrt-rtx-cu12==1.7.1.116",),
    torch_requirements=("torch==2.13.0",), confidence="measured",
)  # fmt: skip
WHEEL = Environment(
    name="tensorrt-8.6.0", kind="wheel", tensorrt="8.6.0", arch=("x86_64",), python=("3.10",),
    requirements=("tensorrt==8.6.0",), confidence="measured",
)  # fmt: skip
JETSON = Environment(
    name="l4t-tensorrt-8.5.2", image="nvcr.io/x", tensorrt="8.5.2", arch=("aarch64",)
)
CATALOG = {env.name: env for env in (NGC, OLD, RTX, WHEEL, JETSON)}

LAPTOP = Host(machine="x86_64", no_daemon="nothing listens", pythons=frozenset({"3.11"}))
DOCKER_LAPTOP = Host(machine="x86_64", pythons=frozenset({"3.11"}))
WORKSTATION = Host(machine="x86_64", driver="560.35.03", gpus=(RTX4090,), pythons=frozenset())
SERVER = Host(machine="x86_64", driver="580.65.06", gpus=(H100,), pythons=frozenset({"3.10"}))


def reason(wish: Wish, env: Environment, host: Host) -> str:
    return place(wish, env, host)[1] or ""


def test_laptop_without_gpu_and_daemon_gets_the_embedded_default() -> None:
    choice = resolve(Wish(), CATALOG, LAPTOP)
    assert (choice.environment.name, choice.runner) == ("rtx-1.7", "venv")
    assert {entry.name for entry in choice.refused} == set(CATALOG) - {"rtx-1.7"}


def test_wheels_run_in_containers_where_a_daemon_answers() -> None:
    assert resolve(Wish(), CATALOG, DOCKER_LAPTOP).runner == "docker"
    assert resolve(Wish(runner="venv"), CATALOG, DOCKER_LAPTOP).runner == "venv"


def test_gpu_host_gets_the_newest_image_that_fits() -> None:
    choice = resolve(Wish(), CATALOG, WORKSTATION)
    assert choice.environment.name == "ngc-pytorch-24.08"
    assert "best of" in choice.reason


def test_version_prefix_narrows_the_candidates() -> None:
    assert resolve(Wish(trt="8"), CATALOG, SERVER).environment.name == "tensorrt-8.6.0"
    assert resolve(Wish(trt="rtx-1.7"), CATALOG, LAPTOP).environment.name == "rtx-1.7"
    older = dataclasses.replace(RTX, name="rtx-1.4", tensorrt="1.4.0.76")
    found = resolve(Wish(trt="rtx"), {**CATALOG, "rtx-1.4": older}, LAPTOP)
    assert (found.environment.name, [entry.name for entry in found.refused]) == (
        "rtx-1.7",
        ["rtx-1.4"],
    )


def test_unknown_version_says_so() -> None:
    with pytest.raises(ResolutionError, match=r"no environment has TensorRT `8\.7`"):
        resolve(Wish(trt="8.7"), CATALOG, LAPTOP)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "wish", [Wish(trt="rtx"), Wish(trt="rtx-1.7"), Wish(environment="rtx-1.7")]
)
def test_targets_that_no_candidate_builds_for_are_refused_before_anything_starts(
    wish: Wish, lenient: bool
) -> None:
    for wrong in ("6.1", "9.9"):
        asked = wish._replace(compute_capabilities=("8.6", wrong))
        with pytest.raises(UsageError, match=rf"7\.5, 8\.0, 8\.6.*, not for {wrong}$"):
            resolve(asked, CATALOG, LAPTOP, lenient=lenient)
    fine = wish._replace(compute_capabilities=("8.6", "12.1"))
    assert resolve(fine, CATALOG, LAPTOP, lenient=lenient).environment.name == "rtx-1.7"
    # Nothing is built: whatever the capabilities are, an export runs.
    assert resolve(asked._replace(job="export"), CATALOG, LAPTOP).environment.name == "rtx-1.7"


def test_a_target_narrows_the_candidates() -> None:
    older = dataclasses.replace(RTX, name="rtx-1.4", tensorrt="1.4.0.76")
    unsure = dataclasses.replace(RTX, name="rtx-1.9", tensorrt="1.9")
    wish = Wish(trt="rtx", compute_capabilities=("12.1",))
    found = resolve(wish, {"rtx-1.4": older, **CATALOG}, LAPTOP)
    assert (found.environment.name, found.refused[0].name) == ("rtx-1.7", "rtx-1.4")
    wish = wish._replace(compute_capabilities=("9.9",), runner="venv")
    with pytest.raises(UsageError, match="none of 2 environments") as caught:
        resolve(wish, {"rtx-1.4": older, **CATALOG}, LAPTOP)
    assert len(caught.value.details) == 2
    assert not reason(wish, unsure, LAPTOP)


def test_every_loser_is_listed_with_its_reason() -> None:
    with pytest.raises(ResolutionError) as caught:
        resolve(Wish(trt="10"), {**CATALOG, "b": image("b", "10.1")}, DOCKER_LAPTOP)
    assert len(caught.value.details) == 2
    assert all("only with an NVIDIA GPU" in line for line in caught.value.details)


def test_driver_too_old_names_found_and_needed() -> None:
    host = Host(machine="x86_64", driver="545.23", gpus=(RTX4090,))
    assert reason(Wish(), NGC, host) == "driver 545.23 is too old (needs 560.35.03 or newer)"


@pytest.mark.parametrize(
    ("driver", "fits"),
    [("560.35.03", True), ("570.10", True), ("550.54.14", True), ("550.53", False), ("535.86.10", True), ("525.1", False)],
)  # fmt: skip
def test_data_centre_branches_count_from_their_own_minimum(driver: str, fits: bool) -> None:
    assert (driver_problem(NGC, driver) is None) is fits


def test_gpu_newer_than_the_tensorrt_is_refused() -> None:
    blackwell = Host(machine="x86_64", driver="580.1", gpus=(Gpu(0, "B", "u", "12.0", 1),))
    assert "12.0 is out of its range" in reason(Wish(), NGC, blackwell)


def test_rtx_needs_no_gpu_but_on_a_hopper_host_it_is_not_the_best() -> None:
    assert (
        reason(
            Wish(trt="rtx-1.7", runner="venv"),
            RTX,
            Host(machine="x86_64", gpus=(H100,), pythons=frozenset({"3.12"})),
        )
        == ""
    )
    assert "9.0 is out of its range" in reason(Wish(), RTX, SERVER)


def test_other_machine_and_missing_interpreter_are_reasons() -> None:
    assert "this machine is x86_64" in reason(Wish(), JETSON, WORKSTATION)
    assert "no Python 3.10" in reason(Wish(runner="venv"), WHEEL, LAPTOP)


def test_export_needs_torch() -> None:
    assert reason(Wish(job="export"), OLD, SERVER) == "it holds no torch"
    assert resolve(Wish(job="export"), CATALOG, LAPTOP).environment.name == "rtx-1.7"


def test_dry_run_takes_what_would_be_best_and_says_why_it_would_not_run() -> None:
    choice = resolve(Wish(trt="10"), CATALOG, LAPTOP, lenient=True)
    assert choice.environment.name == "ngc-pytorch-24.08"
    assert choice.reason.startswith("would not run here: no container daemon")


def test_export_of_a_model_that_needs_more_than_torch() -> None:
    wish = Wish(job="export", needs=("torch", "yolov5"))
    with pytest.raises(ResolutionError, match="no environment has"):
        resolve(wish, CATALOG, LAPTOP)
    named = Wish(environment="rtx-1.7", job="export", needs=("torch", "yolov5"))
    with pytest.raises(ResolutionError, match="holds no yolov5"):
        resolve(named, CATALOG, LAPTOP)


def test_wheels_with_torch_export_what_can_be_added_to_them() -> None:
    wish = Wish(job="export", needs=("torch", "torchvision"))
    assert resolve(wish, CATALOG, LAPTOP).environment.name == "rtx-1.7"
    assert "holds no torchvision" in reason(wish, NGC, SERVER)
    assert "holds no torch and no torchvision" in reason(wish, WHEEL, SERVER)


def test_named_environment_that_cannot_run_is_one_sentence() -> None:
    with pytest.raises(ResolutionError, match=r"`ngc-pytorch-24\.08` cannot build here"):
        resolve(Wish(environment="ngc-pytorch-24.08"), CATALOG, LAPTOP)
