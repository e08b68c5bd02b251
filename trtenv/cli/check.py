"""check: whether an engine will run somewhere, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtenv import console
from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.catalog.model import Environment
    from trtenv.engine.compat import Place, Report

EXITS = {"runs": 0, "will not run": 10, "unknown": 11}


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(check)


def check(
    engine: Annotated[
        Path | None, typer.Argument(metavar="ENGINE", help="An engine, with its stamp beside it.")
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", help="In this environment.", metavar="NAME")
    ] = None,
    trt: Annotated[
        str | None,
        typer.Option("--trt", help="By this TensorRT: 8.5.3, or rtx-1.7.1.", metavar="VERSION"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="On this machine: orin-jp6, rtx-4090.", metavar="NAME"),
    ] = None,
    host: Annotated[bool, typer.Option("--host", help="Here. The default.")] = False,
    ultralytics: Annotated[
        bool, typer.Option("--ultralytics", help="Ultralytics loads it, metadata and all.")
    ] = False,
    list_targets: Annotated[
        bool, typer.Option("--list-targets", help="The names that --target takes.")
    ] = False,
    lock: Annotated[Path, typer.Option(help="Lock file.", metavar="FILE")] = Path("trtenv.lock"),
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say whether an engine will run somewhere, and why; needs neither TensorRT nor a GPU."""
    if list_targets:
        show_targets(as_json=json)
        return
    if engine is None:
        raise UsageError("no engine is named", hint="trtenv check model.engine --target orin-jp6")
    for one, other in ((env and trt, "--env and --trt"), (target and host, "--target and --host")):
        if one:
            raise UsageError(f"{other} exclude each other", hint="run it once for each")
    from trtenv.engine.compat import check as judge
    from trtenv.engine.inspect import inspect

    place = place_of(env, trt, target, lock, host=host)
    report = judge(inspect(engine), replace(place, ultralytics=place.ultralytics or ultralytics))
    if json:
        console.document(report.to_dict())
    else:
        show(report)
    if code := EXITS[report.verdict]:
        raise typer.Exit(code)


def place_of(
    env: str | None, trt: str | None, target: str | None, lock: Path, *, host: bool
) -> Place:
    """The machine first, then the TensorRT in it, which beats that of a JetPack."""
    from trtenv.engine.compat import Place

    place = Place(name="")
    names = []
    if target:
        place = named_machine(target)
        names.append(place.name)
    elif host or not (env or trt):
        place = this_machine()
        names.append(place.name)
    if env:
        from trtenv.pipeline.catalog import catalog_with_lock

        place = with_environment(place, catalog_with_lock(lock)[env])
        names.append(env)
    elif trt:
        from trtenv.dialect.versions import RTX, check_version, split_flavour

        flavour, version = split_flavour(trt.strip())
        known = None if trt.strip() == RTX else check_version(version, what="TensorRT")
        place = replace(place, flavour=flavour, tensorrt=known, builder=None)
        names.append(f"TensorRT {trt.strip()}")
    return replace(place, name=" with ".join(names))


def named_machine(name: str) -> Place:
    from trtenv.engine.compat import Place
    from trtenv.engine.targets import builder_for, find_target

    found = find_target(name)
    builder = None
    if found.jetson:
        from trtenv.catalog.load import default_catalog

        builder = builder_for(found, default_catalog().values())
    return Place(
        name=found.name,
        flavour="tensorrt" if found.tensorrt else None,
        tensorrt=found.tensorrt,
        builder=builder,
        gpu=found.gpu,
        compute_capability=found.compute_capability,
        jetson=found.jetson,
        os="linux",
        arch=(found.arch,),
    )


def this_machine() -> Place:
    """By its first GPU, which TensorRT takes unless told otherwise."""
    from trtenv.engine.compat import Place
    from trtenv.engine.targets import is_jetson
    from trtenv.pipeline.host import read_host

    found = read_host(daemon=False)
    gpu = found.gpus[0] if found.gpus else None
    problem = None if gpu else found.gpu_problem or "no NVIDIA GPU was found on this machine"
    return Place(
        name="this machine",
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        jetson=bool(gpu and found.machine == "aarch64" and is_jetson(gpu.compute_capability)),
        os="linux",
        arch=(found.machine,),
        gpu_problem=problem,
        driver=found.driver,
    )


def with_environment(place: Place, env: Environment) -> Place:
    from trtenv.catalog.resolve import driver_problem

    if place.arch and env.arch and not set(place.arch) & set(env.arch):
        raise UsageError(
            f"`{env.name}` is for {' and '.join(env.arch)}, {place.name} is {place.arch[0]}",
            hint="choose another with `trtenv env list`",
        )
    return replace(
        place,
        flavour=env.flavour,
        tensorrt=env.tensorrt,
        environment=env.name,
        os="linux",
        arch=place.arch or env.arch,
        driver_needed=env.driver,
        driver_problem=driver_problem(env, place.driver),
        ultralytics="ultralytics" in env.holds,
    )


def show(report: Report) -> None:
    for item in report.findings:
        console.data(f"{item.verdict:<12}  {item.rule}: {item.message}")
        if item.verdict in ("will not run", "unknown"):
            console.data(f"{'':<12}  source: {item.source}")
        if item.hint:
            console.data(f"{'':<12}  -> {item.hint}")
    console.data(f"{report.path}: {report.engine}; {report.place.name}: {report.verdict}")
    left = [item.rule for item in report.findings if item.verdict == "not judged"]
    if left:
        console.data(f"not judged: {', '.join(left)}")
    if report.rebuild:
        console.data(f"rebuild it there, beside the ONNX file:\n  {report.rebuild}")
    elif report.verdict == "will not run":
        console.data("no command to rebuild it: no stamp holds the request, or no build can help")


def show_targets(*, as_json: bool) -> None:
    from trtenv.engine.targets import every_target

    found = list(every_target().values())
    if as_json:
        console.document({"targets": [entry.to_dict() for entry in found]})
        return
    console.table(
        ("TARGET", "GPU", "COMPUTE CAPABILITY", "CPU", "TENSORRT"),
        [
            (
                entry.name,
                entry.gpu or "any of these",
                entry.compute_capability,
                entry.arch,
                entry.tensorrt or "-",
            )
            for entry in found
        ],
    )
