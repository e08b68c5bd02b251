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
from trtenv.cli.options import RunFlags, takes
from trtenv.errors import UsageError

if TYPE_CHECKING:
    from trtenv.pipeline.bench import Candidate
    from trtenv.pipeline.benchreport import Measured, Report
    from trtenv.pipeline.place import Place, Settings
    from trtenv.pipeline.running import Subject
    from trtenv.spec.bench import BenchSpec


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(bench)


@dataclass(frozen=True, kw_only=True)
class ModelsFlags:
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
    env: Annotated[
        str | None, typer.Option("--env", help="Another environment than its own.", metavar="NAME")
    ] = None
    trt: Annotated[
        str | None, typer.Option("--trt", help="TensorRT version: 8.5.3.", metavar="VERSION")
    ] = None
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Load also what `trtenv check` says will not run."),
    ] = False

    def subjects(self, models: Sequence[str]) -> list[Subject]:
        """What is named, in order; then the ONNX files and the PyTorch models."""
        from trtenv.pipeline.running import read_subject

        found = [read_subject(text) for text in models]
        engines = [subject for subject in found if subject.runtime == "engine"]
        if self.onnx:
            if not engines:
                raise UsageError("--onnx: no engine is named, whose ONNX file could be measured")
            beside = (read_subject(subject.text, runtime="onnxruntime") for subject in engines)
            known = {subject.path for subject in found}
            found += {one.path: one for one in beside if one.path not in known}.values()
        found += [
            read_subject(text, runtime="torch", weights=self.weights) for text in self.torch or ()
        ]
        if self.weights and not self.torch:
            raise UsageError("--weights belongs to a PyTorch model", hint="name one: --torch MODEL")
        return found

    def place(self, subject: Subject, settings: Settings, *, engines: bool) -> Place:
        """--env and --trt are about the engines, where there are any."""
        from trtenv.cli.infer import ModelFlags

        meant = subject.runtime == "engine" or not engines
        flags = ModelFlags(
            env=self.env if meant else None,
            trt=self.trt if meant else None,
            unchecked=self.unchecked,
        )
        return flags.place(subject, settings)


@dataclass(frozen=True, kw_only=True)
class MeasureFlags:
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
    profile: Annotated[
        int | None,
        typer.Option(help="Optimization profile. Default: one that fits.", metavar="N", min=0),
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
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Launch each shape as one CUDA graph.")
    ] = False
    percentile: Annotated[
        str, typer.Option(help="Reported besides the median.", metavar="LIST")
    ] = "90,95,99"
    data_transfers: Annotated[
        bool,
        typer.Option(
            "--data-transfers/--no-data-transfers", help="Copy inputs and outputs for each batch."
        ),
    ] = True
    device_memory: Annotated[
        str, typer.Option(help="pycuda, driver, or auto: pycuda where it is.", metavar="NAME")
    ] = "auto"

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

    def runner(self) -> dict[str, Any]:
        """Keys of an engine's runner, only those that say something."""
        if self.device_memory not in ("auto", "pycuda", "driver"):
            raise UsageError(
                f"--device-memory: `{self.device_memory}` is not known", hint="auto, pycuda, driver"
            )
        given = {
            "profile": self.profile,
            "cuda_graph": self.cuda_graph or None,
            "memory": self.device_memory if self.device_memory != "auto" else None,
        }
        return {name: value for name, value in given.items() if value is not None}


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

    spec, runner = measure.spec(), measure.runner()
    subjects = models_.subjects(models)
    check_spec(spec, subjects, measure.profile)
    if plot:
        check_plot(plot)
    if output:
        check_output(output, force=answer.force)
    settings = run.settings(force=answer.force, dry_run=answer.dry_run)
    engines = any(subject.runtime == "engine" for subject in subjects)
    found = list(
        candidates(
            subjects,
            spec,
            lambda subject: models_.place(subject, settings, engines=engines),
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
        for job in jobs:
            show_job(job)
    end_with(refused)


def show_job(job: dict[str, Any]) -> None:
    console.data(f"# {job['kind']} in {job['environment']} ({job['runner']}): {job['reason']}")
    console.data(console.to_json({"kind": job["kind"], "params": job["params"]}))
    console.data(job["command"])
    if said := job["trtexec"]:
        for argv in said["argv"]:
            console.data("# by trtexec: " + shlex.join(argv))
        for reason in said["why_not"]:
            console.data(f"# not by trtexec: {reason}")
