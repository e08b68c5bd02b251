"""env list, show, probe, pull, build, remove: the environments themselves."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from trtenv import console
from trtenv.cli.options import EnvFlags, RunFlags, report_removed, takes
from trtenv.errors import DaemonUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtenv.catalog.model import Environment
    from trtenv.pipeline.place import Place
    from trtenv.runners.protocol import RunOptions

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Environment by name.")]


def register(app: typer.Typer, name: str) -> None:
    group = typer.Typer(help="The environments: list, look into, fetch and remove them.")
    group.command("list")(list_environments)
    group.command()(show)
    group.command()(probe)
    group.command()(pull)
    group.command("build")(build_image)
    group.command()(remove)
    app.add_typer(group, name=name, no_args_is_help=True)


@takes(run=EnvFlags)
def list_environments(
    trt: Annotated[
        str | None, typer.Option(help="TensorRT version: 8.5, or rtx-1.7.", metavar="VERSION")
    ] = None,
    torch: Annotated[str | None, typer.Option(help="torch version: 2.", metavar="VERSION")] = None,
    runnable: Annotated[
        bool, typer.Option("--runnable", help="Only what this machine can build in.")
    ] = False,
    json: Json = False,
    *,
    run: EnvFlags,
) -> None:
    """List environments, with what they hold."""
    from trtenv.pipeline.catalog import catalog_with_lock

    found = [
        env
        for env in catalog_with_lock(run.lock).values()
        if (trt is None or env.matches_trt(trt)) and (torch is None or env.matches_torch(torch))
    ]
    if runnable:
        from trtenv.catalog.resolve import Wish, place

        settings = run.settings()
        wish = Wish(runner=settings.runner, anywhere=True)
        host = settings.host_for(found)
        found = [env for env in found if place(wish, env, host)[1] is None]
    if json:
        console.document({"environments": [env.to_dict() for env in found]})
        return
    console.table(
        ("NAME", "TENSORRT", "CUDA", "TORCH", "PYTHON", "DRIVER", "CONFIDENCE"),
        [
            (
                env.name,
                env.tensorrt or "?",
                env.cuda or "-",
                env.torch or "-",
                " ".join(env.python) or "-",
                f">={env.driver}" if env.driver else "-",
                env.confidence or "-",
            )
            for env in found
        ],
    )


@takes(run=EnvFlags)
def show(environment: Name, json: Json = False, *, run: EnvFlags) -> None:
    """Every fact of one environment, with its source; what is locked and what was measured."""
    from trtenv.catalog.load import default_catalog
    from trtenv.catalog.lock import read_lock

    env = default_catalog()[environment]
    # A wheel environment may be locked twice: as a venv, and as an image (NAME@docker).
    entries = read_lock(run.lock).items()
    locked = {name: entry for name, entry in entries if name.partition("@")[0] == environment}
    if json:
        shown = {name: entry.to_dict() for name, entry in locked.items()}
        console.document({"environment": env.to_dict(), "locked": shown})
        return
    console.data(f"{env.name}: {env.image or ' '.join(env.requirements) or env.interpreter}")
    facts = list(env.facts())
    sources = list(dict.fromkeys(fact.source or "none given" for fact in facts))
    console.table(
        ("FACT", "VALUE", "CONFIDENCE", "SOURCE"),
        [
            (key, value, sure or "-", f"[{sources.index(source or 'none given') + 1}]")
            for key, value, source, sure in facts
        ],
    )
    for number, source in enumerate(sources, start=1):
        console.data(f"[{number}] {source}")
    if env.on_demand:
        console.data(f"\nadded when a model needs it: {', '.join(env.on_demand)}")
    if env.notes:
        console.data(f"\nnotes: {env.notes}")
    for name, entry in locked.items():
        console.data(f"\n{name}: locked in {run.lock} since {entry.date}: {entry.digest}")
        console.table(("MEASURED", "VALUE"), [(k, str(v)) for k, v in entry.measured.items()])


@takes(run=RunFlags)
def probe(
    environment: Annotated[str, typer.Argument(metavar="NAME|IMAGE", help="Name, or any image.")],
    json: Json = False,
    *,
    run: RunFlags,
) -> None:
    """Start it, read what is really inside, compare with the catalogue, write the lock."""
    from trtenv.pipeline.probe import adopt_name
    from trtenv.pipeline.probe import probe as look_inside

    settings = run.settings()
    found = look_inside(adopt_name(environment, settings), settings)
    if json:
        console.document(found)
        return
    console.data(f"{found['name']}: {found['reference']} {found['digest']}")
    devices = found["measured"].pop("devices")
    rows = [(key, str(value)) for key, value in sorted(found["measured"].items()) if value]
    console.table(("MEASURED", "VALUE"), rows)
    for device in devices:
        console.data(f"GPU: {device['name']}, compute capability {device['compute_capability']}")
    for entry in found["differences"]:
        console.say(
            f"note: the catalogue says {entry['fact']} {entry['declared']}, "
            f"inside is {entry['measured']}; the measured one counts"
        )


@takes(run=EnvFlags)
def pull(environment: Name, json: Json = False, *, run: EnvFlags) -> None:
    """Fetch an image anew, or create a wheel environment, so that later jobs start at once."""
    place = placed(environment, run)
    if place.environment.kind == "image":
        from trtenv.runners.docker import DockerRunner

        DockerRunner().pull(place.environment)
    report(place, as_json=json)


@takes(run=RunFlags)
def build_image(
    environment: Name,
    base: Annotated[
        str | None, typer.Option("--base", help="Base image with Python.", metavar="REF")
    ] = None,
    torch: Annotated[bool, typer.Option(help="With torch, for exports.")] = True,
    packages: Annotated[
        list[str] | None,
        typer.Option("--with", help="torchvision or ultralytics, as their models need."),
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", help="More pip requirements.", metavar="REQ")
    ] = None,
    show_only: Annotated[
        bool, typer.Option("--dry-run", help="Print the Dockerfile; build nothing.")
    ] = False,
    json: Json = False,
    *,
    run: RunFlags,
) -> None:
    """Build the image of a wheel environment (docker), or create its venv (--runner venv)."""
    options = replace(
        run.options(),
        needs_torch=torch,
        needs_packages=addable(run.settings().catalog[environment], packages or (), torch=torch),
        base_image=base,
        extra_requirements=tuple(require or ()),
    )
    if show_only:
        from trtenv.runners.imagebuild import dockerfile

        console.data(dockerfile(run.settings().catalog[environment], options))
        return
    report(placed(environment, run, options), as_json=json)


def addable(env: "Environment", packages: "Sequence[str]", *, torch: bool) -> tuple[str, ...]:
    """UsageError for what it cannot be given."""
    for name in packages:
        if name == "torch" or not env.provides(name):
            able = " or ".join(env.on_demand)
            raise UsageError(
                f"environment `{env.name}` cannot be given `{name}`",
                hint=f"--with takes {able}; --require adds any package to an image"
                if able
                else "wheel environments with torch can: `trtenv env list`",
            )
    if packages and not torch:
        raise UsageError(f"{packages[0]} needs torch", hint="leave out --no-torch")
    return tuple(packages)


@takes(run=EnvFlags)
def remove(environment: Name, json: Json = False, *, run: EnvFlags) -> None:
    """Remove the image or the venv of an environment from this machine."""
    from trtenv.pipeline.place import make_runner

    settings = run.settings()
    env = settings.catalog[environment]
    removed: list[str] = []
    if env.kind != "image" and run.runner != "docker":
        removed += make_runner("venv").remove(env)
    if run.runner != "venv":
        # Without a daemon there are no images to remove, unless the daemon was asked for by name.
        with suppress(*(() if run.runner == "docker" else (DaemonUnavailable,))):
            removed += make_runner("docker").remove(env)
    report_removed(removed, f"nothing of `{environment}` is on this machine", as_json=json)


def placed(name: str, run: EnvFlags, options: "RunOptions | None" = None) -> "Place":
    """Ready to be prepared: pulled, built or created when its identity is asked for."""
    from trtenv.catalog.resolve import Wish
    from trtenv.pipeline.place import Place

    settings = run.settings()
    choice = settings.resolve(Wish(environment=name, job="any"))
    return Place(choice, settings, options or settings.options)


def report(place: "Place", *, as_json: bool) -> None:
    """Prepare it, pin it in the lock, and say what it is."""
    identity = place.identity
    place.record({})
    found = {
        "name": place.environment.name,
        "runner": place.choice.runner,
        "reference": identity.reference,
        "digest": identity.digest,
        "platform": identity.platform,
        "details": dict(identity.details),
    }
    if as_json:
        console.document(found)
    else:
        console.data(f"{found['name']}: {identity.reference} {identity.digest}")
