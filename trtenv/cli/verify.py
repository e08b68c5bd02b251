"""verify: whether an engine does what its model does, in numbers and in accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.cli.jobflags import TaskFlags
from trtenv.cli.modelflags import PlaceFlags, merged_card
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.comparison import Places, VerifySpec
    from trtenv.pipeline.running import Subject
    from trtenv.pipeline.truth import Truth
    from trtenv.spec.task import TaskCard

RANDOM = "random"


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(verify)


@dataclass(frozen=True, kw_only=True)
class AgainstFlags(PlaceFlags):
    """What it is held against, and where both run."""

    against: Annotated[
        str | None,
        typer.Option(
            help="An ONNX file, a PyTorch model or another engine. Default: the ONNX file that the "
            "engine was built from.",
            metavar="MODEL",
        ),
    ] = None
    weights: Annotated[
        str | None, typer.Option(help="Of a PyTorch model as reference.", metavar="FILE")
    ] = None
    against_env: Annotated[
        str | None, typer.Option(help="Where the reference runs.", metavar="NAME")
    ] = None
    profile: Annotated[
        int | None,
        typer.Option(help="Optimization profile. Default: one that fits.", metavar="N", min=0),
    ] = None

    def reference(self, subject: Subject) -> Subject:
        """UsageError where nothing tells what the engine was made from."""
        from trtenv.pipeline.running import read_subject, source_onnx

        if self.against is not None:
            return read_subject(self.against, weights=self.weights)
        if self.weights is not None:
            raise UsageError(
                "--weights are a PyTorch reference's, and there is none",
                hint="--against FILE.py:FACTORY",
            )
        if subject.runtime != "engine":
            raise UsageError(
                f"nothing tells what `{subject.name}` was made from",
                hint="name it: --against FILE.py:FACTORY --weights FILE",
            )
        try:
            return read_subject(str(source_onnx(subject)))
        except (UsageError, ArtifactError) as error:
            raise type(error)(error.message, hint="name the reference: --against FILE") from error


@dataclass(frozen=True, kw_only=True)
class InputFlags:
    """What both are given, and what is known of it."""

    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            "--input",
            "--inputs",
            help="Images, folders, patterns, .npz or .npy; or random, the default. May repeat.",
            metavar="PATH",
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            help="At most so many inputs; of random ones, batches at each shape (4).",
            metavar="N",
            min=1,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Of random inputs.", metavar="N", min=0)] = 0
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Where the model does not know its own: image:1x3x224x224..8x3x224x224.",
            metavar="SHAPES",
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Truths of images: CSV or folders of classes; COCO or YOLO boxes; masks.",
            metavar="PATH",
        ),
    ] = None
    task: Annotated[
        str | None, typer.Option(help="classify, detect or segment.", metavar="KIND")
    ] = None
    names: Annotated[
        Path | None, typer.Option(help="Of the classes, one a line, or JSON.", metavar="FILE")
    ] = None
    layout: Annotated[
        str | None, typer.Option(help="Of the outputs, as `infer` takes it.", metavar="NAME")
    ] = None
    preprocess: Annotated[
        str | None, typer.Option(help="JSON, or a file of it, as for `infer`.", metavar="JSON")
    ] = None

    def card(self, known: TaskCard | None) -> TaskCard | None:
        """What is known of the model, with what is said here."""
        flags = TaskFlags(
            task=self.task, labels=self.names, layout=self.layout, preprocess=self.preprocess
        )
        wish = flags.wish()
        return merged_card(known, wish) if wish else known

    def classes(self, card: TaskCard | None) -> str | None:
        """The folder of classes, whose images are the inputs where no others are named."""
        if self.labels is None:
            return None
        if self.labels.is_dir() and (card is None or card.kind == "classification"):
            return str(self.labels)
        raise UsageError("--labels are of images", hint="name the images: --inputs FOLDER")

    def sizes(self) -> dict[str, dict[str, list[int]]]:
        if self.shapes is None:
            return {}
        from trtenv.spec.shapes import parse_shapes

        return {name: shape.to_dict() for name, shape in parse_shapes(self.shapes).items()}


@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """When it counts as wrong, and what is done then."""

    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE or OUTPUT:KEY=VALUE; KEY is rel, max_abs, mean_abs, max_rel, cosine, equal "
            "or top1. Default: rel and equal by precision.",
            metavar="LIMIT",
        ),
    ] = None
    min_metric: Annotated[
        float | None, typer.Option(help="With --labels: percent, at least.", metavar="PERCENT")
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(help="With --labels: points below the reference, at most.", metavar="POINTS"),
    ] = None
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the first tensor inside that differs.")
    ] = False
    no_stamp: Annotated[
        bool, typer.Option("--no-stamp", help="Leave the engine's stamp as it is.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the jobs; start nothing.")] = (
        False
    )
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False

    def check(self, given: InputFlags) -> None:
        for flag, value in (("--min-metric", self.min_metric), ("--max-drop", self.max_drop)):
            if value is not None and given.labels is None:
                raise UsageError(f"{flag} is about accuracy", hint="add --labels PATH")
            if value is not None and not 0 <= value <= 100:
                raise UsageError(f"{flag}: `{value:g}` is not between 0 and 100")
        if self.min_metric is not None and 0 < self.min_metric <= 1:
            raise UsageError(
                f"--min-metric is in percent: {self.min_metric:g} % is next to nothing",
                hint=f"--min-metric {100 * self.min_metric:g}",
            )


@takes(against=AgainstFlags, given=InputFlags, limit=LimitFlags, run=RunFlags)
def verify(
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="An engine, or an ONNX file.")],
    *,
    against: AgainstFlags,
    given: InputFlags,
    limit: LimitFlags,
    run: RunFlags,
) -> None:
    """Run an engine and the model it was made from on the same inputs, and say whether they agree."""
    from trtenv.pipeline.comparison import choose_places

    limit.check(given)
    spec = read_spec(engine, against, given, limit)
    settings = run.settings(dry_run=limit.dry_run)
    places = choose_places(
        spec, settings, against.place(spec.subject, settings), against.against_env
    )
    if spec.reference.runtime == "engine":
        against.refuse_unfit(spec.reference, places.reference)
    if not places.one:
        choice = places.reference.choice
        console.say(f"{choice.environment.name}: runs the reference ({choice.runner})")
    if limit.dry_run:
        show_plan(spec, places, as_json=limit.json)
        return
    from trtenv.pipeline.verify import verify as run_verify
    from trtenv.pipeline.verify import write_verdict

    report = run_verify(spec, places)
    if not limit.no_stamp:
        report = report._replace(stamped=write_verdict(report))
    if limit.json:
        console.document(report.to_dict())
    else:
        from trtenv.cli.verifyshow import show

        show(report)
    if problem := report.failure():
        console.error(problem)
        raise typer.Exit(problem.exit_code)


def read_spec(
    engine: str, against: AgainstFlags, given: InputFlags, limit: LimitFlags
) -> VerifySpec:
    from trtenv.pipeline.bisect import check as check_bisect
    from trtenv.pipeline.comparison import VerifySpec
    from trtenv.pipeline.inputs import find_sources
    from trtenv.pipeline.running import read_subject
    from trtenv.pipeline.tolerances import parse_limits, tolerance_for

    asked = parse_limits(limit.tolerance or ())
    subject = read_subject(engine)
    if subject.runtime == "torch":
        raise UsageError(
            f"`{engine}` is a PyTorch model: it is what others are held against",
            hint=f"trtenv verify MODEL.onnx --against {engine}",
        )
    if against.profile is not None and subject.runtime != "engine":
        raise UsageError(f"--profile is of an engine, and `{subject.name}` is none")
    reference = against.reference(subject)
    card = given.card(subject.task or reference.task)
    subject = subject._replace(task=card)
    texts = given.inputs or [given.classes(card) or RANDOM]
    sources = None if texts == [RANDOM] else find_sources(texts)
    if sources and sources.kind == "raw":
        raise UsageError("raw bytes have no shape", hint="give .npz or .npy arrays")
    if sources and sources.kind == "images" and card is None:
        raise UsageError(
            f"nothing tells how images become the input of `{subject.name}`",
            hint="--task classify, detect or segment, with --preprocess; or give .npz arrays",
        )
    spec = VerifySpec(
        subject,
        reference,
        tolerance_for(subject, reference, asked),
        sources=sources,
        truth=read_truth(given, card, sources),
        samples=given.samples,
        seed=given.seed,
        shapes=given.sizes() or recorded_values(subject, against.profile or 0),
        runner={"profile": against.profile} if against.profile is not None else {},
        min_metric=limit.min_metric,
        max_drop=limit.max_drop,
        bisect=limit.bisect,
    )
    if spec.bisect:
        check_bisect(spec)
    return spec


def read_truth(given: InputFlags, card: TaskCard | None, sources: Any) -> Truth | None:
    if given.labels is None:
        return None
    from trtenv.pipeline.truth import find_truth

    if sources is None or sources.kind != "images" or card is None:
        raise UsageError("--labels are of images", hint="name the images: --inputs FOLDER")
    return find_truth(given.labels, card, sources.files)


def recorded_values(subject: Subject, profile: int) -> dict[str, dict[str, list[int]]]:
    """Of inputs whose values are shapes; of all others the engine itself knows the sizes.

    Of an ONNX file the shapes that it was exported for, as its metadata tells.
    """
    from trtenv.engine.rebuild import at
    from trtenv.pipeline.running import exported_shapes

    if subject.runtime == "onnxruntime":
        graph = subject.found.onnx if subject.found else None
        # An input that nothing reads may be gone from the graph.
        known = [entry.name for entry in graph.inputs] if graph else []
        told = exported_shapes(subject).items()
        return {name: shape.to_dict() for name, shape in told if name in known}
    profiles = at(subject.stamp, "engine", "profiles") or []
    if profile >= len(profiles):
        return {}
    return {name: sizes for name, sizes in profiles[profile].items() if "values_of" in sizes}


def show_plan(spec: VerifySpec, places: Places, *, as_json: bool) -> None:
    from trtenv.pipeline.verifydry import describe

    jobs = describe(spec, places)
    if as_json:
        console.document({"dry_run": True, "jobs": jobs, "refused": []})
        return
    from trtenv.cli.convert import show_job

    for job in jobs:
        show_job(job)
