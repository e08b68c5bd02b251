"""The Docker runner: environments are images, a session is one container with the job worker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed, UsageError
from trtenv.paths import cache_folder
from trtenv.runners import container as plan
from trtenv.runners import daemon, terminal
from trtenv.runners.container import Bind, Caller, Command, Gpus
from trtenv.runners.daemon import DaemonFacts
from trtenv.runners.docker_run import docker_run
from trtenv.runners.docker_session import DockerSession
from trtenv.runners.gpuchoice import GpuChoice
from trtenv.runners.gpumodes import Signs
from trtenv.runners.lifecycle import Container, Leftover, force_remove, labels, leftovers
from trtenv.runners.protocol import JOBS_FOLDER, Identity, RunOptions, Session

if TYPE_CHECKING:
    from docker import DockerClient

LOCALTIME = Path("/etc/localtime")


class DockerRunner:
    """Talks to the first daemon that answers: Docker or Podman, rootless or not."""

    name = "docker"

    def __init__(self, signs: Signs | None = None) -> None:
        """`signs`: what this machine shows of its GPUs, if not to be read from it."""
        self._signs = signs

    @cached_property
    def client(self) -> DockerClient:
        return daemon.connect()

    @cached_property
    def facts(self) -> DaemonFacts:
        return daemon.inspect_daemon(self.client, str(self.client.api.base_url))

    @cached_property
    def _gpus(self) -> GpuChoice:
        return GpuChoice(self.facts, self._signs)

    def prepare(self, environment: Environment, options: RunOptions) -> Identity:
        reference = self._reference(environment, options)
        image = daemon.find_image(self.client, reference)
        if image is None:
            if not options.pull:
                raise EnvironmentFailed(
                    f"image `{reference}` is not on this machine, and pulling is off",
                    hint=f"pull it: trtenv env pull {environment.name}",
                )
            image = self._pull(reference)
        daemon.check_platform(image, self.facts, reference)
        return daemon.identify(image, reference)

    def pull(self, environment: Environment, options: RunOptions | None = None) -> Identity:
        """Ask the registry even where an image of this name is here: a tag may have moved."""
        reference = self._reference(environment, options or RunOptions())
        if environment.kind == "image":
            self._pull(reference)
        return self.prepare(environment, options or RunOptions())

    def is_present(self, environment: Environment) -> bool:
        return bool(self._local_images(environment))

    def remove(self, environment: Environment) -> list[str]:
        """Remove its images; returns what they were called."""
        found = self._local_images(environment)
        for reference in found:
            daemon.remove_image(self.client, reference)
        return found

    def _local_images(self, environment: Environment) -> list[str]:
        if environment.kind == "image":
            reference = _image_reference(environment)
            return [reference] if daemon.find_image(self.client, reference) else []
        with daemon.translated():
            mark = f"{plan.LABEL}.environment={environment.name}"
            images = self.client.api.images(filters={"label": mark})
        return [name for image in images for name in _names(image)]

    def _pull(self, reference: str) -> dict[str, Any]:
        with console.Step(f"pulling {reference}") as step:
            daemon.pull_image(self.client, reference, step.update)
        image = daemon.find_image(self.client, reference)
        if image is None:
            raise EnvironmentFailed(f"image `{reference}` was pulled and is not here")
        return image

    def _reference(self, environment: Environment, options: RunOptions) -> str:
        if environment.kind == "wheel":
            from trtenv.runners.imagebuild import ensure_image

            return ensure_image(environment, self.client, options)
        return _image_reference(environment)

    @contextmanager
    def session(
        self, environment: Environment, options: RunOptions, staging: Path
    ) -> Iterator[Session]:
        reference = self._reference(environment, options)
        staging = plan.absolute(staging)
        for name in ("jobs", "out"):
            (staging / name).mkdir(parents=True, exist_ok=True)
        self._make_home(staging, options)
        binds = _checked(
            [*plan.session_binds(staging), *_localtime(), *plan.option_binds(options.mounts)]
        )
        command = Command(argv=plan.WORKER[1:], entrypoint=plan.WORKER[:1], workdir=plan.HOME)
        log = staging / "session.log"
        marks = labels(environment.name, "session")
        running = self._running(reference, options, command, binds, marks)
        with running as container, log.open("ab") as handle:
            yield DockerSession(container, binds, staging, log, handle, options.memory)

    def execute(self, environment: Environment, options: RunOptions, argv: Sequence[str]) -> int:
        """With a terminal on both sides where there is one; else with pipes, stderr kept apart."""
        reference = self._reference(environment, options)
        runs = cache_folder() / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=runs, ignore_cleanup_errors=True) as folder:
            staging = Path(folder)
            self._make_home(staging, options)
            as_terminal = terminal.is_terminal()
            binds = _checked([*plan.home_binds(staging), *_execute_binds(options)])
            command = Command(argv=argv or plan.SHELL, workdir=plan.WORKDIR, tty=as_terminal)
            marks = labels(environment.name, "execute")
            with self._running(reference, options, command, binds, marks) as container:
                terminal.relay(container, as_terminal=as_terminal)
                return container.wait()

    def command_line(
        self,
        environment: Environment,
        options: RunOptions,
        argv: Sequence[str],
        staging: Path | None = None,
    ) -> list[str]:
        """The `docker run` of `execute`, or, for the worker's argv, of a session.

        Without `staging` HOME is a tmpfs, and the passwd file of a session is left out: such a line
        can be pasted. No daemon is needed; where none answers, an ordinary Docker is assumed.
        """
        facts = daemon.daemon_facts()
        if not facts.reachable:
            facts = DaemonFacts(reachable=False)
        reference = environment.image or _planned_image(environment, options)
        if tuple(argv[: len(plan.WORKER)]) == plan.WORKER:
            jobs = Bind(JOBS_FOLDER, f"{plan.ROOT}/jobs")
            binds = [*(plan.session_binds(staging) if staging else [jobs]), *_localtime()]
            binds += plan.option_binds(options.mounts)
            command = Command(argv=argv[1:], entrypoint=argv[:1], workdir=plan.HOME)
        else:
            binds = _execute_binds(options)
            command = Command(
                argv=argv or plan.SHELL, workdir=plan.WORKDIR, tty=terminal.is_terminal()
            )
        body = plan.create_body(
            reference,
            options,
            command,
            plan.without_doubles(binds),
            facts=facts,
            caller=Caller.current(),
            gpus=GpuChoice(facts, self._signs).planned(
                options, lambda: self._library_path(reference)
            ),
        )
        if staging is None:
            body["HostConfig"]["Tmpfs"] = {plan.HOME: "mode=1777"}
        return docker_run(body, options.name)

    def leftovers(self, *, everything: bool = False) -> list[Leftover]:
        return leftovers(self.client, everything=everything)

    def clean(self, *, everything: bool = False) -> list[Leftover]:
        """Remove containers that a killed client left; `everything` takes those at work as well."""
        found = self.leftovers(everything=everything)
        for leftover in found:
            force_remove(self.client, leftover.id)
        return found

    def _running(
        self,
        reference: str,
        options: RunOptions,
        command: Command,
        binds: Sequence[Bind],
        marks: Mapping[str, str],
    ) -> AbstractContextManager[Container]:
        def body(gpus: Gpus) -> dict[str, Any]:
            facts, caller = self.facts, Caller.current()
            found = plan.create_body(
                reference, options, command, binds, facts=facts, caller=caller, gpus=gpus
            )
            return {**found, "Labels": dict(marks)}

        return self._gpus.running(self.client, options, lambda: self._library_path(reference), body)

    def _library_path(self, reference: str) -> str:
        """The image's own LD_LIBRARY_PATH; empty where it has none, or is not here yet."""
        image = daemon.find_image(self.client, reference) or {}
        variables = (image.get("Config") or {}).get("Env") or ()
        found = dict(entry.partition("=")[::2] for entry in variables)
        return str(found.get("LD_LIBRARY_PATH", ""))

    def _make_home(self, staging: Path, options: RunOptions) -> None:
        user = plan.user_of(options, self.facts, Caller.current())
        for name in ("home", "etc"):
            (staging / name).mkdir(parents=True, exist_ok=True)
        for name, text in (("passwd", plan.passwd(user)), ("group", plan.group(user))):
            path = staging / "etc" / name
            path.write_text(text, encoding="ascii")
            path.chmod(0o644)  # whatever the caller's umask: each user of the inside reads them


def _names(image: Mapping[str, Any]) -> list[str]:
    """Its tags; the id of an image that has lost its last one."""
    tags = [tag for tag in image.get("RepoTags") or () if not tag.startswith("<none>")]
    return tags or [str(image["Id"])]


def _planned_image(environment: Environment, options: RunOptions) -> str:
    from trtenv.runners.imagebuild import plan_image

    return plan_image(environment, options).tag


def _image_reference(environment: Environment) -> str:
    if environment.image is None:
        raise EnvironmentFailed(
            f"environment `{environment.name}` has no image: "
            + (environment.not_pullable or "it is no container"),
            hint="choose another: trtenv env list",
        )
    return environment.image


def _localtime() -> list[Bind]:
    return [Bind(LOCALTIME, str(LOCALTIME))] if LOCALTIME.exists() else []


def _execute_binds(options: RunOptions) -> list[Bind]:
    here = Bind(Path.cwd(), plan.WORKDIR, read_only=False)
    return [here, *_localtime(), *plan.option_binds(options.mounts)]


def _checked(binds: Sequence[Bind]) -> list[Bind]:
    """Podman makes a folder, owned by root, of a source that is missing: ask before it does."""
    binds = plan.without_doubles(binds)
    for bind in binds:
        if not bind.source.exists():
            raise UsageError(
                f"cannot mount `{bind.source}`: it does not exist", hint="create it first"
            )
    return binds
