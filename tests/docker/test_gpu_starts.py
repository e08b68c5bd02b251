"""GPUs asked of real daemons, on machines without one.

A copy of /dev/null stands for each of the driver's device nodes, a file with the head of an ELF file for
each of its libraries, and a shell script for nvidia-smi. The daemons and their refusals are real. That a
program computes on a GPU so given is shown in tests/gpu/test_gpu_containers.py alone.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from daemons import Dockerd, Engine, podman_service
from test_command_line import essence

from trtenv.catalog.model import Environment
from trtenv.errors import GpuUnavailable, HostError
from trtenv.runners import docker as docker_runner
from trtenv.runners.docker import DockerRunner
from trtenv.runners.driverlibs import Driver, read_driver
from trtenv.runners.gpuchoice import cdi_files
from trtenv.runners.gpumodes import Signs
from trtenv.runners.gpus import NvmlGpu
from trtenv.runners.protocol import Mount, RunOptions

pytestmark = pytest.mark.docker

GPUS = (NvmlGpu(0, "GPU-aaaa", 1), NvmlGpu(1, "GPU-bbbb", 0))
NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1")
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1")
LOOK = """
ls /dev | grep nvidia; ls /trtenv/driver; echo $LD_LIBRARY_PATH; nvidia-smi -L
head -c 4 /trtenv/driver/libcuda.so.1 | tail -c 3; echo
for node in /dev/nvidia*; do echo hello > $node || echo "cannot write $node"; done
touch /trtenv/driver/libcuda.so.1 && echo "the driver can be changed"
grep -E 'Cap(Eff|Prm|Bnd)' /proc/self/status; id -u
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """The driver's files, as its installer leaves them."""
    monkeypatch.chdir(tmp_path)  # what exec mounts, wherever the tests were started
    if os.getuid() != 0:
        pytest.skip("only root can make device nodes")
    dev, proc, library = (tmp_path / name for name in ("dev", "proc", "lib"))
    for folder in (dev, proc, library):
        folder.mkdir()
    for name in NODES:
        os.mknod(dev / name, 0o20666, os.makedev(1, 3))
        (dev / name).chmod(0o666)  # whatever the umask
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1.2  Release Build  (x)\n"
    (proc / "version").write_text(line)
    for name in LIBRARIES:
        file = library / (name.partition(".so")[0] + ".so.580.1.2")
        file.write_bytes(b"\x7fELF\x02 stands for a library")
        file.chmod(0o666)  # the mount keeps it from being changed, not its mode
        (library / name).symlink_to(file.name)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho smi says $1\n")
    smi.chmod(0o755)
    return read_driver(proc, dev, [library])._replace(smi=smi, gpus=lambda: GPUS)


def look(
    environment: Environment, runner: DockerRunner, options: RunOptions, folder: Path
) -> list[str]:
    """What an ordinary user without capabilities sees inside."""
    out = folder / "out"
    out.mkdir()
    out.chmod(0o777)
    mounts = [Mount(out, "/out", read_only=False)]
    given: dict[str, Any] = {"gpus": options.gpus, "gpu_mode": options.gpu_mode}
    said = RunOptions(**given, mounts=mounts, user="1000:1000")
    code = runner.execute(environment, said, ["sh", "-c", f"({LOOK}) > /out/said 2>&1"])
    assert code == 0
    return (out / "said").read_text().splitlines()


SEEN = [
    "libcuda.so.1",
    "libcuda.so.580.1.2",
    "libnvidia-ml.so.1",
    "libnvidia-ml.so.580.1.2",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-ptxjitcompiler.so.580.1.2",
    "/trtenv/driver",
    "smi says -L",
    "ELF",
    "touch: cannot touch '/trtenv/driver/libcuda.so.1': Read-only file system",
    "CapPrm:\t0000000000000000",
    "CapEff:\t0000000000000000",
    "CapBnd:\t0000000000000000",
    "1000",
]


def test_what_the_daemon_refuses_falls_through_to_the_drivers_files(
    engine: Engine,
    runner: DockerRunner,
    environment: Environment,
    driver: Driver,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A hook that was installed after the daemon was started: it is there, and does not count."""
    chosen = DockerRunner(Signs(local=True, hook=True, driver=driver))
    with closing(chosen.client):
        for count, (wish, node) in enumerate([("0", "nvidia1"), ("GPU-bbbb", "nvidia0")]):
            (tmp_path / wish).mkdir()
            found = look(environment, chosen, RunOptions(gpus=wish), tmp_path / wish)
            assert found == ["nvidia-uvm", "nvidia-uvm-tools", node, "nvidiactl", *SEEN]
            note = "no GPU by --gpu-mode toolkit: Docker cannot give a GPU to containers"
            # Podman is not asked for what it would pass over in silence; Docker is asked once.
            asked = engine.name == "docker" and count == 0
            assert (note in capsys.readouterr().err) == asked


def test_a_mode_that_was_named_is_the_only_one_tried(
    engine: Engine, runner: DockerRunner, environment: Environment, driver: Driver, tmp_path: Path
) -> None:
    chosen = DockerRunner(Signs(local=True, hook=True, driver=driver))
    with closing(chosen.client), pytest.raises(GpuUnavailable) as failed:
        look(environment, chosen, RunOptions(gpus="all", gpu_mode="toolkit"), tmp_path)
    words = "Toolkit is not installed" if engine.name == "docker" else "drops such a wish"
    assert words in failed.value.message
    assert "--gpus none" in (failed.value.hint or "")


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
@pytest.mark.parametrize("gpus", ["all", "none"])
def test_a_runtime_of_the_users_own_is_no_way_among_others(
    runner: DockerRunner, environment: Environment, driver: Driver, gpus: str
) -> None:
    chosen = DockerRunner(Signs(local=True, hook=True, driver=driver))
    with closing(chosen.client), pytest.raises(HostError, match="no runtime `nosuch`"):
        chosen.execute(environment, RunOptions(gpus=gpus, runtime="nosuch"), ["true"])


def test_where_all_fail_each_is_told(
    runner: DockerRunner, environment: Environment, tmp_path: Path
) -> None:
    chosen = DockerRunner(Signs(local=True, hook=True, no_driver="no driver here"))
    with closing(chosen.client), pytest.raises(GpuUnavailable) as failed:
        look(environment, chosen, RunOptions(gpus="all"), tmp_path)
    message = failed.value.message
    assert all(f"{mode}: " in message for mode in ("toolkit", "cdi", "runtime", "devices"))
    assert "devices: no driver here" in message


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
@pytest.mark.parametrize(("mode", "gpus"), [("devices", "0"), ("cdi", "0,1"), ("toolkit", "1")])
def test_the_line_that_is_shown_makes_the_same_container(
    runner: DockerRunner,
    environment: Environment,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    gpus: str,
) -> None:
    if not shutil.which("docker"):
        pytest.skip("needs Docker's command line")
    chosen = DockerRunner(Signs(local=True, driver=driver))
    bodies: list[dict[str, Any]] = []
    render = docker_runner.docker_run

    def remember(body: dict[str, Any], name: str | None) -> list[str]:
        bodies.append(body)
        return render(body, name)

    monkeypatch.setattr(docker_runner, "docker_run", remember)
    options = RunOptions(gpus=gpus, gpu_mode=mode)
    line = shlex.join(chosen.command_line(environment, options, ["true"]))
    created = f"docker create {line.removeprefix('docker run --rm ')}"
    typed = subprocess.run(["sh", "-c", created], check=True, capture_output=True, text=True)
    api = runner.client.api
    made = [typed.stdout.strip(), api.create_container_from_config(bodies[0])["Id"]]
    try:
        first, second = (api.inspect_container(one) for one in made)
        assert essence(first) == essence(second)
        assert (mode == "devices") == bool(second["HostConfig"]["Devices"])
    finally:
        for one in made:
            api.remove_container(one, v=True)


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_the_images_own_library_path_stays_behind_the_drivers(
    runner: DockerRunner, environment: Environment, driver: Driver, tmp_path: Path
) -> None:
    """NVIDIA's images have one, and torch's libraries are found by it."""
    api, tag = runner.client.api, "trtenv-library-path:test"
    container = api.create_container(environment.image, "true")["Id"]
    repository, _, version = tag.partition(":")
    api.commit(container, repository, version, changes=["ENV LD_LIBRARY_PATH=/image/lib"])
    api.remove_container(container)
    chosen = DockerRunner(Signs(local=True, driver=driver))
    try:
        with closing(chosen.client):
            found = look(
                Environment(name="test", image=tag), chosen, RunOptions(gpus="0"), tmp_path
            )
        assert "/trtenv/driver:/image/lib" in found
    finally:
        api.remove_image(tag)


DESCRIPTION = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {{deviceNodes: [{{path: /dev/nvidia0, hostPath: {driver.dev}/nvidia0}}]}}
- name: GPU-bbbb
  containerEdits: {{deviceNodes: [{{path: /dev/nvidia1, hostPath: {driver.dev}/nvidia1}}]}}
- name: all
  containerEdits:
    deviceNodes:
    - {{path: /dev/nvidia0, hostPath: {driver.dev}/nvidia0}}
    - {{path: /dev/nvidia1, hostPath: {driver.dev}/nvidia1}}
containerEdits:
  mounts:
  - hostPath: {library}
    containerPath: /trtenv/driver/libcuda.so.1
    options: [ro, nosuid, nodev, bind]
  - {{hostPath: {driver.smi}, containerPath: /usr/bin/nvidia-smi, options: [ro, bind]}}
"""


@pytest.fixture
def described(driver: Driver, tmp_path: Path) -> Path:
    """A folder with a CDI description, as `nvidia-ctk cdi generate` writes it."""
    folder = tmp_path / "cdi"
    folder.mkdir()
    library = dict(driver.libraries)["libcuda.so.1"]
    (folder / "nvidia.yaml").write_text(DESCRIPTION.format(driver=driver, library=library))
    return folder


@pytest.fixture
def docker_with_cdi(
    base_archive: bytes, described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dockerd]:
    """A daemon of our own, whose CDI descriptions lie in a folder of the test."""
    said = subprocess.run(["dockerd", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+)", said.stdout)
    if os.getuid() != 0 or not found or int(found[1]) < 25:
        pytest.skip(f"needs root, and Docker 25 or newer for CDI: {said.stdout.strip()}")
    folder = tmp_path / "d"
    folder.mkdir()
    settings = folder / "daemon.json"
    settings.write_text('{"features": {"cdi": true}, "experimental": true}')
    started = Dockerd(folder, "--config-file", settings, "--cdi-spec-dir", described)
    monkeypatch.setenv("DOCKER_HOST", started.url)
    try:
        with closing(docker.DockerClient(started.url)) as client:
            client.api.load_image(base_archive, quiet=True)
        yield started
    finally:
        started.stop()


@pytest.mark.cdi
@pytest.mark.usefixtures("docker_with_cdi")
def test_docker_with_cdi(environment: Environment, described: Path, tmp_path: Path) -> None:
    runner = DockerRunner()  # reads this machine, with what the daemon says of its CDI folder
    with closing(runner.client):
        assert cdi_files(runner.facts.cdi_folders) == (str(described / "nvidia.yaml"),)
        for number, (gpus, nodes) in enumerate(
            (
                ("all", ["nvidia0", "nvidia1"]),
                ("0", ["nvidia0"]),
                ("GPU-bbbb", ["nvidia1"]),
                ("0,GPU-bbbb", ["nvidia0", "nvidia1"]),
                ("nvidia.com/gpu=0", ["nvidia0"]),
            )
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            found = look(environment, runner, RunOptions(gpus=gpus), folder)
            assert found[: len(nodes) + 1] == [*nodes, "libcuda.so.1"]
            assert "smi says -L" in found
            assert "cannot write" not in "".join(found)
        with pytest.raises(GpuUnavailable, match=r"nvidia\.com/gpu=9") as failed:
            look(environment, runner, RunOptions(gpus="9"), tmp_path)
        assert "toolkit: the NVIDIA Container Toolkit is not installed" in failed.value.message


# Podman 5.4 reads /etc/cdi and nothing else: the test's folder is put there, for this process alone.
WITH_DESCRIPTION = """
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
mkdir -p /etc/cdi && cp "$2/nvidia.yaml" /etc/cdi
shift 2 && exec "$@"
"""


@pytest.fixture
def podman_with_cdi(
    base_archive: bytes, described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Environment]:
    said = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)", said.stdout)
    if os.getuid() != 0 or not found or (int(found[1]), int(found[2])) < (5, 4):
        pytest.skip(f"needs root, and Podman 5.4 or newer for CDI: {said.stdout.strip()}")
    folder, layer = tmp_path / "p", tmp_path / "layer"
    folder.mkdir()
    layer.mkdir()
    prefix = ("unshare", "--mount", "sh", "-ec", WITH_DESCRIPTION, "sh", layer, described)
    with podman_service(folder, *prefix) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with closing(docker.DockerClient(address)) as client:
            client.api.load_image(base_archive, quiet=True)
            # By its id: for this Podman the name belongs to docker.io.
            yield Environment(name="test", image=client.images.list()[0].id)


@pytest.mark.cdi
@pytest.mark.podman
def test_podman_with_cdi(podman_with_cdi: Environment, described: Path, tmp_path: Path) -> None:
    """The description lies where this process does not see it: told by Signs, which read it else."""
    signs = Signs(local=True, cdi_files=(str(described / "nvidia.yaml"),), no_driver="not needed")
    runner = DockerRunner(signs)
    with closing(runner.client):
        for gpus, nodes in (("all", ["nvidia0", "nvidia1"]), ("GPU-bbbb", ["nvidia1"])):
            (tmp_path / gpus).mkdir()
            found = look(podman_with_cdi, runner, RunOptions(gpus=gpus), tmp_path / gpus)
            assert found[: len(nodes) + 1] == [*nodes, "libcuda.so.1"]
            assert "smi says -L" in found
        with pytest.raises(GpuUnavailable, match=r"nvidia\.com/gpu=9"):
            look(podman_with_cdi, runner, RunOptions(gpus="9"), tmp_path)
