"""bench: how fast engines run, side by side and with the models that they came from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtenv import console
from trtenv.cli.jobflags import AnswerFlags
from trtenv.cli.modelflags import EngineFlags, PlaceFlags
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.bench import Candidate
    from trtenv.pipeline.benchreport import Measured, Report
    from trtenv.pipeline.running import Subject
    from trtenv.spec.bench import BenchSpec


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(bench)


@dataclass(frozen=True, kw_only=True)
class ModelsFlags(PlaceFlags):
    """What else is measured, and where."""

    onnx: Annotated[
        bool,
        typer.Option("--onnx", help="Also the ONNX files of the engines, in ONNX Runtime."),
    ] = False
    torch: Annotated[
        list[str] | None,
        typer.Option(help="Also this PyTorch model, as `trtenv export` takes it.", metavar="MODEL"),
    ] = None
    weights: Annotated[str | None, typer.Option(help="Of the PyTorch model.", metavar="FILE")] = (
        None
    )

    def subjects(self, models: Sequence[str]) -> list[Subject]:
        """What is named, in order; then the ONNX files and the PyTorch models."""
        from trtenv.pipeline.running import read_subject

        found = [read_subject(text) for text in models]
        engines = [subject for subject in found if subject.runtime == "engine"]
        if self.onnx:
            if not engines:
                raise UsageError("--onnx: no engine is named, whose ONNX file could be measured")
            known = {subject.path for subject in found}
            try:
                beside = [read_subject(subject.text, runtime="onnxruntime") for subject in engines]
            except (UsageError, ArtifactError) as error:
                hint = "name the ONNX file as a model of its own, without --onnx"
                raise type(error)(error.message, hint=hint) from error
            found += {one.path: one for one in beside if one.path not in known}.values()
        found += [
            read_subject(text, runtime="torch", weights=self.weights) for text in self.torch or ()
        ]
        if self.weights and not self.torch:
            raise UsageError("--weights belongs to a PyTorch model", hint="name one: --torch MODEL")
        return found


@dataclass(frozen=True, kw_only=True)
class MeasureFlags(EngineFlags):
    """What is measured, and for how long; units and defaults are trtexec's."""

    batch: Annotated[
        str | None,
        typer.Option(
            help="1,8,32: a row for each. Default: the profile's optimum.", metavar="LIST"
        ),
    ] = None
    shapes: Annotated[
        list[str] | None,
        typer.Option(help="image:1x3x224x224; again for another row.", metavar="SHAPES"),
    ] = None
    warm_up: Annotated[
        float, typer.Option(help="Before each row, in milliseconds.", metavar="MS", min=0)
    ] = 200
    duration: Annotated[
        float, typer.Option(help="Of each measure at least, in seconds.", metavar="S", min=0)
    ] = 3
    iterations: Annotated[
        int, typer.Option(help="Of each measure at least.", metavar="N", min=1)
    ] = 10
    streams: Annotated[
        int, typer.Option(help="Batches in flight, for throughput.", metavar="N", min=1, max=64)
    ] = 1
    percentile: Annotated[
        str, typer.Option(help="Reported besides the median.", metavar="LIST")
    ] = "90,95,99"
    data_transfers: Annotated[
        bool,
        typer.Option(
            "--data-transfers/--no-data-transfers", help="Copy inputs and outputs for each batch."
        ),
    ] = True

    def spec(self) -> BenchSpec:
        from trtenv.spec.bench import BenchSpec, read_cases
        from trtenv.spec.values import percentiles

        try:
            wanted = percentiles(self.percentile)
        except UsageError as error:
            raise UsageError(f"--percentile: {error.message}", hint=error.hint) from error
        return BenchSpec(
            cases=read_cases(self.batch, self.shapes or ()),
            warm_up=plain(self.warm_up),
            duration=plain(self.duration),
            iterations=self.iterations,
            streams=self.streams,
            percentiles=tuple(sorted(set(wanted))),
            transfers=self.data_transfers,
            cuda_graph=self.cuda_graph,
        )


def plain(value: float) -> float:
    """3 and not 3.0, as old versions of trtexec want it."""
    return int(value) if value.is_integer() else value


@takes(models_=ModelsFlags, measure=MeasureFlags, run=RunFlags, answer=AnswerFlags)
def bench(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Engines; ONNX files and PyTorch models too."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the result as JSON.", metavar="FILE"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw it: speed.png or speed.svg. Needs matplotlib.", metavar="FILE"),
    ] = None,
    *,
    models_: ModelsFlags,
    measure: MeasureFlags,
    run: RunFlags,
    answer: AnswerFlags,
) -> None:
    """Measure models one after the other: time on the GPU, latency and throughput."""
    from trtenv.pipeline.bench import candidates, carry_out, check_spec
    from trtenv.pipeline.benchplot import check_plot
    from trtenv.pipeline.benchreport import check_output

    spec, runner = measure.spec(), measure.engine()
    subjects = models_.subjects(models)
    engines = any(subject.runtime == "engine" for subject in subjects)
    if "memory" in runner and not engines:
        raise UsageError("--device-memory belongs to an engine, and none is measured")
    check_spec(spec, subjects, measure.profile)
    if plot:
        check_plot(plot)
    if output:
        check_output(output, force=answer.force)
    settings = run.settings(force=answer.force, dry_run=answer.dry_run)
    found = list(
        candidates(
            subjects,
            spec,
            # --env and --trt are about the engines, where there are any.
            lambda subject: models_.place(
                subject, settings, asked=subject.runtime == "engine" or not engines
            ),
            runner,
        )
    )
    if answer.dry_run:
        dry_run(found, as_json=answer.json)
        return
    report = carry_out(found, spec)
    finish(report, output, plot, as_json=answer.json)


def finish(report: Report, output: Path | None, plot: Path | None, *, as_json: bool) -> None:
    """Print, write and draw what was measured, also where something ended it; then end as that does."""
    from trtenv.pipeline.benchreport import write

    document = report.to_dict()
    if as_json:
        console.document(document)
    else:
        show(report)
    if output:
        write(document, output)
        console.say(f"written to {output}")
    if plot and any(entry.rows for entry in report.engines):
        from trtenv.pipeline.benchplot import draw

        draw(document, plot)
        console.say(f"drawn to {plot}")
    end_with(report.engines)
    if report.stopped:
        console.say("ended early: what was measured by then is all there is")
        raise report.stopped


def end_with(engines: Sequence[Measured]) -> None:
    """Say each error, and whose it is; the exit code is the first one's."""
    failed = [(entry.model["name"], entry.error) for entry in engines if entry.error]
    for name, error in failed:
        if len(engines) > 1:
            console.say(f"{name}:")
        console.error(error)
    if failed:
        raise typer.Exit(failed[0][1].exit_code)


def show(report: Report) -> None:
    measured = [entry for entry in report.engines if entry.rows]
    rank = f"P{max(report.spec.percentiles):g}"
    header = ["MODEL", "ENVIRONMENT", "SHAPE", "GPU MS", rank, "ENQUEUE MS", "LATENCY MS", rank]
    header += ["IMAGES/S", *(["TIMES AS FAST"] if len(measured) > 1 else [])]
    if measured:
        console.table(header, [row for entry in measured for row in cells(entry, len(header))])
    for entry in report.engines:
        for note in entry.notes:
            console.say(f"note: {entry.model['name']}: {note['message']}")


def cells(entry: Measured, count: int) -> list[list[str]]:
    from trtenv.pipeline.benchreport import shape_text

    environment = entry.environment["name"] if entry.environment else "-"
    found = []
    for row in entry.rows:
        ratio = row["ratio"]["latency_ms"] or row["ratio"]["gpu_ms"]
        shown = [
            entry.model["name"],
            environment,
            shape_text(row),
            *times(row["gpu_ms"]),
            times(row["enqueue_ms"])[0],
            *times(row["latency_ms"]),
            f"{row['throughput']['images_per_second']:.1f}",
            f"{ratio:.2f}" if ratio else "-",
        ]
        found.append(shown[:count])
    return found


def times(summary: dict[str, Any] | None) -> tuple[str, str]:
    """The median and the highest percentile."""
    if summary is None:
        return "-", "-"
    highest = max(summary["percentiles"], key=float)
    return f"{summary['median']:.3f}", f"{summary['percentiles'][highest]:.3f}"


def dry_run(found: Sequence[Candidate | Measured], *, as_json: bool) -> None:
    from trtenv.pipeline.benchdry import describe
    from trtenv.pipeline.benchreport import Measured

    jobs = [describe(one) for one in found if not isinstance(one, Measured)]
    refused = [one for one in found if isinstance(one, Measured)]
    if as_json:
        console.document(
            {"dry_run": True, "jobs": jobs, "refused": [one.to_dict() for one in refused]}
        )
    else:
        from trtenv.cli.convert import show_job

        for job in jobs:
            show_job(job)
            said = job["trtexec"] or {"argv": [], "why_not": []}
            for argv in said["argv"]:
                console.data("# by trtexec: " + shlex.join(argv))
            for reason in said["why_not"]:
                console.data(f"# not by trtexec: {reason}")
    end_with(refused)
