"""Builds a wheel environment as an image, where isolation or another machine's daemon is wanted.

An image is named after the hash of its Dockerfile, so an equal request finds it built. Equal
Dockerfiles may still hold different transitive dependencies: what counts is the image's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trtenv import console
from trtenv.catalog.model import Environment
from trtenv.errors import EnvironmentFailed, TrtenvError
from trtenv.paths import templates_folder
from trtenv.runners import daemon, pip
from trtenv.runners.daemon_errors import explain
from trtenv.runners.imagecontext import pip_script, torchvision_script, write_context
from trtenv.runners.protocol import LOG_TAIL_LINES, RunOptions
from trtenv.runners.wheels import (
    CPU_INDEX,
    cpu_requirement,
    how_to_make,
    recipe_for,
    requirement_layers,
)

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "ImagePlan",
    "build_image",
    "dockerfile",
    "ensure_image",
    "plan_image",
    "remove_stages",
    "render",
]

LABEL: Final = "dev.trtenv"
PACKAGE: Final = f"{LABEL}.package."
REPOSITORY: Final = "trtenv"
# Docker writes stderr of a build red, terminal or not.
COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# "Step 5/18 : RUN ..." of Docker, "[1/2] STEP 5/8: RUN ..." of Podman.
STEP: Final = re.compile(r"(?:\[\d+/\d+\] )?STEP (\d+/\d+) ?:", re.IGNORECASE)
PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """What is asked for: equal plans render the same Dockerfile on every machine.

    `network` is that of the build: None is the daemon's own choice, "host" helps where its bridge
    does not reach the package index.
    """

    environment: Environment
    base: str
    torch: bool = True
    packages: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    network: str | None = None
    chosen: bool = False

    @property
    def key(self) -> str:
        """Of the catalogue's requirements alone: the same for every base image and extra."""
        recipe = recipe_for(self.environment, torch=False, torch_build="cpu", python="")
        return recipe.key

    @property
    def hash(self) -> str:
        content = render(self, digest="") + pip_script().decode()
        if self.packages:
            content += torchvision_script().decode()
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def tag(self) -> str:
        return f"{REPOSITORY}/{self.environment.name}:{self.hash[:12]}"


def plan_image(environment: Environment, options: RunOptions) -> ImagePlan:
    """`chosen` plans name a base image or extra packages of the user's."""
    base = options.base_image or os.environ.get("TRTENV_BASE_IMAGE")
    extras = tuple(options.extra_requirements)
    return ImagePlan(
        environment=environment,
        base=base or f"python:{environment.python[0]}-slim-bookworm",
        torch=options.needs_torch,
        packages=tuple(name for name in environment.on_demand if name in options.needs_packages),
        extras=extras,
        network=os.environ.get("TRTENV_BUILD_NETWORK"),
        chosen=bool(base or extras),
    )


def dockerfile(environment: Environment, options: RunOptions) -> str:
    """For people to read: `env build --dry-run`."""
    return render(plan_image(environment, options))


def render(plan: ImagePlan, *, digest: str | None = None) -> str:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  a Dockerfile is no HTML
    )
    templates.filters["quote"] = shlex.quote
    env = plan.environment
    layers = requirement_layers(env, torch=plan.torch, packages=plan.packages, extras=plan.extras)
    family = [cpu_requirement(each) for each in layers.get("torch", ())]
    return templates.get_template("Dockerfile.j2").render(
        name=env.name,
        base=plan.base,
        python=env.python,
        layers={title: list(members) for title, members in layers.items()},
        cpu_index=CPU_INDEX,
        cpu_torch=[each for each in family if each],
        build_label=f'{LABEL}.build="{env.name}"',
        labels=[
            f"{key}={json.dumps(value)}"
            for key, value in _labels(plan, plan.hash if digest is None else digest).items()
        ],
    )


def _labels(plan: ImagePlan, digest: str) -> dict[str, str]:
    env = plan.environment
    held = set(env.additions(plan.packages))  # ultralytics brings torchvision
    added = {
        f"{PACKAGE}{name}": "yes" for name in env.on_demand if held >= {*env.additions([name])}
    }
    return {
        f"{LABEL}.environment": env.name,
        f"{LABEL}.hash": digest,
        **added,
        f"{LABEL}.requirements": plan.key,
        f"{LABEL}.torch": "yes" if plan.torch else "no",
        "org.opencontainers.image.title": f"trtenv {env.name}",
        "org.opencontainers.image.version": env.tensorrt or "unknown",
    }


def ensure_image(environment: Environment, client: DockerClient, options: RunOptions) -> str:
    """The tag of an image that will do, built if there is none."""
    plan = plan_image(environment, options)
    if found := _find(client, plan):
        return found
    if not options.pull:
        raise EnvironmentFailed(
            f"environment `{environment.name}` has no image on this machine",
            hint=how_to_make(environment, options.needs_packages),
        )
    return build_image(plan, client)


def _find(client: DockerClient, plan: ImagePlan) -> str | None:
    """That very image; where the user asks for no particular one, any of these requirements.

    So an image once built from a company's own base image is what later commands use, and one
    with torch serves where none is needed. What was added for a model comes last: with it torch may
    be another build.
    """
    if daemon.find_image(client, plan.tag):
        return plan.tag
    if plan.chosen:
        return None
    labels = _labels(plan, "")
    mark = f"{LABEL}.environment"
    with daemon.translated():
        # One label only: Podman 4.3 finds nothing by two.
        images = client.api.images(filters={"label": f"{mark}={labels[mark]}"})
    added = [key for key in labels if key.startswith(PACKAGE)]
    wanted = [f"{LABEL}.requirements", *([f"{LABEL}.torch"] if plan.torch else []), *added]
    fitting = [
        image for image in images if all(image["Labels"].get(key) == labels[key] for key in wanted)
    ]

    def rank(image: Mapping[str, Any]) -> tuple[int, int]:
        more = sum(key.startswith(PACKAGE) for key in image["Labels"])
        return -more, image["Created"]

    for image in sorted(fitting, key=rank, reverse=True):
        for tag in sorted(image.get("RepoTags") or ()):
            if not tag.endswith(":latest"):
                return str(tag)
    return None


def build_image(plan: ImagePlan, client: DockerClient) -> str:
    """Build it anew; returns the tag. EnvironmentFailed holds the last lines of the build."""
    settings = pip.user_settings()
    with (
        console.Step(f"Building {plan.tag}") as step,
        tempfile.TemporaryFile() as context,
        daemon.translated(plan.base),
    ):
        write_context(context, render(plan), plan.environment, settings, extras=plan.extras)
        context.seek(0)
        events = client.api.build(
            fileobj=context,
            custom_context=True,
            tag=plan.tag,
            network_mode=plan.network,
            buildargs=_proxies(os.environ),
            rm=True,
            forcerm=True,
            decode=True,
        )
        _follow(events, step, plan)
        client.api.tag(plan.tag, f"{REPOSITORY}/{plan.environment.name}", "latest")
    return plan.tag


def remove_stages(client: DockerClient, name: str | None = None) -> int:
    """Remove what earlier builds left as cache, with whatever the host handed in; returns bytes.

    Of one environment, or of all. A later build of it then installs everything again.
    """
    mark = f"{LABEL}.build={name}" if name else f"{LABEL}.build"
    with daemon.translated():
        pruned = client.api.prune_images(filters={"dangling": True, "label": mark})
    return int(pruned.get("SpaceReclaimed") or 0)


def _proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """As build arguments that Docker knows beforehand: those enter no layer and no history."""
    names = [*PROXIES, *(name.lower() for name in PROXIES)]
    return {name: variables[name] for name in names if variables.get(name)}


def _follow(events: Iterable[Mapping[str, Any]], step: console.Step, plan: ImagePlan) -> None:
    tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
    at = problem = ""
    for event in events:  # to the end, also past an error: only then is the connection given back
        problem = problem or str(event.get("error", ""))
        for line in COLOUR.sub("", str(event.get("stream", ""))).splitlines():
            if found := STEP.match(line):
                at = found[1]
            if line.strip():
                tail.append(line.rstrip())
                console.detail(line.rstrip())
                step.update(f"step {at}: {line.strip()[:60]}")
            if line.startswith("note: "):  # the Dockerfile's own words
                console.say(line)
    if problem:
        raise _failure(problem.strip(), list(tail), at, plan)


def _failure(problem: str, tail: Sequence[str], at: str, plan: ImagePlan) -> TrtenvError:
    hint = pip.hint_for(tail)
    if "network" in problem or hint == pip.NO_INDEX:
        host = "let the build use the host's network: TRTENV_BUILD_NETWORK=host"
        hint = f"{hint}; or {host}" if hint else host
    elif "returned a non-zero code" not in problem and "exit status" not in problem:
        return explain(problem, image=plan.base)
    return EnvironmentFailed(
        f"the image of `{plan.environment.name}` was not built: step {at or 1} failed",
        hint=hint or "the whole log: run it again with -v",
        details=[*tail, problem[-200:]],
    )
