"""export, build and convert: from a model to stamped engines."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trtenv import console
from trtenv.cli.jobflags import (
    AnswerFlags,
    BuildFlags,
    BuildRequest,
    ExportFlags,
    ShapeFlags,
    TargetFlags,
    TaskFlags,
)
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import ModelRefused, UsageError
from trtenv.pipeline.convert import Outcome, Target, Work, carry_out, export_place, plan_engines
from trtenv.pipeline.export import choose_max_opset
from trtenv.pipeline.place import Place
from trtenv.spec.build import BuildSpec
from trtenv.spec.model import BY_SUFFIX, ModelRef, parse_model
from trtenv.spec.shapes import hull


def register(app: typer.Typer, name: str) -> None:
    commands: dict[str, Callable[..., None]] = {
        "convert": convert,
        "export": export,
        "build": build,
    }
    app.command(name)(commands[name])


ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
KNOWN_SUFFIXES = (*ENGINE_SUFFIXES, *BY_SUFFIX, ".py", ".safetensors", ".json", ".log")
MODEL = typer.Argument(
    help="FILE.py:FACTORY, torchvision:NAME, ultralytics:FILE, yolov5:FILE, or a .onnx, .pt, .ts or "
    ".pt2 file.",
    metavar="MODEL",
)
Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="PATH")]
Extra = Annotated[
    list[str] | None,
    typer.Argument(help="After --: raw flags of trtexec, checked first.", metavar="[-- EXTRA]"),
]


@takes(
    target=TargetFlags,
    shape=ShapeFlags,
    build_=BuildFlags,
    export_=ExportFlags,
    task=TaskFlags,
    run=RunFlags,
    answer=AnswerFlags,
)
def convert(
    model: Annotated[str, MODEL],
    extra: Extra = None,
    output: Output = None,
    *,
    target: TargetFlags,
    shape: ShapeFlags,
    build_: BuildRequest,
    export_: ExportFlags,
    task: TaskFlags,
    run: RunFlags,
    answer: AnswerFlags,
) -> None:
    """Export MODEL and build an engine for each target; the ONNX is kept. -o names a folder."""
    ref, profiles = parse_model(model), shape.profiles()
    if ref.kind == "onnx" and export_ != ExportFlags():
        raise UsageError(
            f"`{model}` is ONNX already: nothing is exported",
            hint="drop the options of the export: --weights, --opset, --exporter and the like",
        )
    folder = output_folder(output)
    settings = run.settings(force=answer.force, dry_run=answer.dry_run)
    spec = build_.spec(profiles, extra or ())
    check_single(spec, target.targets())
    plans, refused = plan_engines(
        target.targets(),
        spec,
        settings,
        lambda place, wanted: folder / place.engine_name(ref.stem, wanted),
    )
    if not plans and not answer.dry_run:
        finish(refused, answer)
    onnx = ref.path if ref.kind == "onnx" and ref.path else folder / f"{ref.stem}.onnx"
    card = card_for(onnx, task) if ref.kind == "onnx" else None
    work = Work(
        onnx=onnx,
        export=None,
        export_place=None,
        plans=tuple(plans),
        refused=tuple(refused),
        spec=spec,
    )
    if ref.kind != "onnx":
        versions = [plan.place.target for plan in plans]
        limit = choose_max_opset(versions, export_.opset)
        exported = export_.spec(ref, hull(profiles), limit, onnx, task.wish())
        place = export_place(exported, plans, settings, export_.export_env)
        work = work._replace(export=exported, export_place=place)
    perform(work, answer, card)


@takes(
    shape=ShapeFlags,
    target=TargetFlags,
    export_=ExportFlags,
    task=TaskFlags,
    run=RunFlags,
    answer=AnswerFlags,
)
def export(
    model: Annotated[str, MODEL],
    output: Output = None,
    *,
    shape: ShapeFlags,
    target: TargetFlags,
    export_: ExportFlags,
    task: TaskFlags,
    run: RunFlags,
    answer: AnswerFlags,
) -> None:
    """Export MODEL to a checked ONNX file. --trt and --env name what it will be built for."""
    ref, shapes = parse_model(model), hull(shape.profiles())
    if ref.kind == "onnx":
        raise UsageError(f"`{model}` is ONNX already", hint=f"trtenv build {model}")
    settings = run.settings(force=answer.force, dry_run=answer.dry_run)
    asked = target.targets()
    plans, refused = plan_engines(
        [entry for entry in asked if entry != Target()],
        BuildSpec(),
        settings,
        lambda place, _: Path(place.environment.name),
    )
    if refused:
        finish(refused, answer)
    versions = [plan.place.target for plan in plans]
    file = output_file(output, (".onnx",)) or output_folder(output) / f"{ref.stem}.onnx"
    limit = choose_max_opset(versions, export_.opset)
    spec = export_.spec(ref, shapes, limit, file, task.wish())
    place = export_place(spec, plans, settings, export_.export_env)
    perform(Work(onnx=spec.output, export=spec, export_place=place, plans=()), answer)


@takes(
    target=TargetFlags,
    shape=ShapeFlags,
    build_=BuildFlags,
    task=TaskFlags,
    run=RunFlags,
    answer=AnswerFlags,
)
def build(
    onnx: Annotated[Path, typer.Argument(help="An ONNX file.", metavar="MODEL.onnx")],
    extra: Extra = None,
    output: Output = None,
    *,
    target: TargetFlags,
    shape: ShapeFlags,
    build_: BuildRequest,
    task: TaskFlags,
    run: RunFlags,
    answer: AnswerFlags,
) -> None:
    """Build an engine from an ONNX file. -o names the engine, or a folder for several targets."""
    if answer.dry_run and onnx.suffix == ".onnx" and not onnx.exists():
        # What would be said to TensorRT can be shown without a model to say it of.
        ref = ModelRef(str(onnx), "onnx", onnx, "")
    else:
        ref = parse_model(str(onnx))
    if ref.kind != "onnx" or ref.path is None:
        raise UsageError(f"`{onnx}` is no ONNX file", hint=f"trtenv convert {onnx}")
    settings = run.settings(force=answer.force, dry_run=answer.dry_run)
    targets = list(dict.fromkeys(target.targets()))
    file = output_file(output, ENGINE_SUFFIXES)
    if file and len(targets) > 1:
        raise UsageError(f"`{file}` names one engine, and there are {len(targets)} targets")
    folder = Path() if file else output_folder(output)

    def name(place: Place, spec: BuildSpec) -> Path:
        return file or folder / place.engine_name(ref.stem, spec)

    spec = build_.spec(shape.profiles(), extra or ())
    check_single(spec, targets)
    card = card_for(ref.path, task)
    plans, refused = plan_engines(targets, spec, settings, name)
    if not plans and not answer.dry_run:
        finish(refused, answer)
    perform(
        Work(
            onnx=ref.path,
            export=None,
            export_place=None,
            plans=tuple(plans),
            refused=tuple(refused),
            spec=spec,
            named=file,
        ),
        answer,
        card,
    )


def card_for(onnx: Path, task: TaskFlags) -> dict[str, Any] | None:
    """The task card of engines from this file, where options change it: known before they are built."""
    wish = task.wish()
    if not wish or not onnx.exists():
        return None
    from trtenv.engine.taskmeta import card_of_metadata, merged
    from trtenv.pipeline.onnxmodel import read_onnx

    return merged(card_of_metadata(read_onnx(onnx).metadata), wish)


def check_single(spec: BuildSpec, targets: Sequence[Target]) -> None:
    """UsageError where several engines would write one file."""
    if "export_layer_info" in spec.wishes and len(set(targets)) > 1:
        raise UsageError(
            f"--export-layer-info names one file, and there are {len(set(targets))} targets",
            hint="run one target at a time",
        )


def output_file(output: Path | None, suffixes: Sequence[str]) -> Path | None:
    """-o, where it names a file of this kind; None where it names a folder, or nothing."""
    named = output is not None and not output.is_dir() and output.suffix in suffixes
    return output if named else None


def output_folder(output: Path | None) -> Path:
    """-o, where it names a folder; what looks like a file of another kind is a mistake."""
    if output and not output.is_dir() and (output.exists() or output.suffix in KNOWN_SUFFIXES):
        raise UsageError(f"`{output}` is no folder", hint="name a folder with -o")
    return output or Path()


def perform(work: Work, answer: AnswerFlags, card: dict[str, Any] | None = None) -> None:
    if answer.dry_run:
        from trtenv.pipeline.dryrun import describe, unplaced

        shown, refused = unplaced(work)
        show_jobs([*describe(work), *shown], refused, answer)
    else:
        outcomes = carry_out(work)
        for outcome in outcomes if card else ():
            if card and outcome.output and not outcome.error:
                from trtenv.pipeline.enginestamp import restamp

                outcome.stamp = restamp(outcome.output, card)
        finish(outcomes, answer)


def show_jobs(jobs: list[dict[str, Any]], refused: Sequence[Outcome], answer: AnswerFlags) -> None:
    if answer.json:
        console.document(
            {"dry_run": True, "jobs": jobs, "refused": [entry.to_dict() for entry in refused]}
        )
    else:
        for job in jobs:
            show_job(job)
    end_with(refused)
    if any(job.get("dialect", {}).get("refused") for job in jobs):
        raise typer.Exit(UsageError.exit_code)
    if any((job.get("lint") or {}).get("verdict") == "blocked" for job in jobs):
        raise typer.Exit(ModelRefused.exit_code)


def show_job(job: dict[str, Any]) -> None:
    if job["environment"]:
        where = f"{job['kind']} in {job['environment']} ({job['runner']})"
        console.data(f"# {where}: {job['reason']}")
    if said := job.get("dialect"):
        show_dialect(said)
    for finding in (job.get("lint") or {}).get("findings", ()):
        if finding["verdict"] != "note":
            console.data(f"# {finding['verdict']}: {finding['message']}")
    if job["environment"]:
        console.data(console.to_json({"kind": job["kind"], "params": job["params"]}))
        console.data(job["command"])


def show_dialect(said: dict[str, Any]) -> None:
    """What became of each option, then the request in the words of both back ends."""
    console.data(f"# {said['flavour']} {said['version']}, built by {said['builder']}")
    rows = [
        (
            entry["option"],
            entry["outcome"],
            "; ".join(filter(None, (entry["reason"], entry["instead"]))) or "-",
            entry["source"] or "-",
        )
        for entry in said["options"]
        if entry["option"] != "network"
    ]
    if rows:
        console.table(("OPTION", "OUTCOME", "WHY", "SOURCE"), rows)
    for kind in ("graph", "api"):
        for step in said[kind]:
            console.data(f"{kind}: " + " ".join(f"{name}={value}" for name, value in step.items()))
    if said["trtexec"]["argv"]:
        if said["trtexec"]["graph"]:
            console.data("# trtexec gets the file that the steps on the graph make:")
        console.data(shlex.join(said["trtexec"]["argv"]))
    for reason in said["trtexec"]["why_not"]:
        console.data(f"# no trtexec: {reason}")


def finish(outcomes: Sequence[Outcome], answer: AnswerFlags) -> None:
    """Print what came out; with any failure the exit code is the first failure's."""
    failed = [outcome for outcome in outcomes if outcome.error]
    if answer.json:
        console.document({"outcomes": [outcome.to_dict() for outcome in outcomes]})
    elif len(outcomes) == 1 and failed and failed[0].error:
        raise failed[0].error
    else:
        console.table(
            ("TARGET", "RESULT", "SIZE", "SECONDS", "FILE"), [_row(entry) for entry in outcomes]
        )
    end_with(failed)


def end_with(failed: Sequence[Outcome]) -> None:
    """Say each error; the exit code is the first one's."""
    errors = [outcome.error for outcome in failed if outcome.error]
    for error in errors:
        console.error(error)
    if errors:
        raise typer.Exit(errors[0].exit_code)


def _row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.error:
        return outcome.target, "failed", "-", "-", "-"
    stamp = outcome.stamp
    seconds = stamp.get("build", {}).get("seconds")
    return (
        outcome.target,
        "unchanged" if outcome.unchanged else "made",
        f"{stamp.get('size', 0) / 1e6:.1f} MB",
        "-" if seconds is None else f"{seconds:.1f}",
        str(outcome.output),
    )
