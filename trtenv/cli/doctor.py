"""doctor and clean: what this machine can run, and what was left behind."""

from typing import Annotated

import typer

from trtenv import console
from trtenv.cli.options import report_removed


def register(app: typer.Typer, name: str) -> None:
    app.command(name)(doctor if name == "doctor" else clean)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Look at this machine: container daemon, GPU, driver, disk, interpreters, package index."""
    from trtenv.catalog.load import default_catalog
    from trtenv.pipeline.doctor import examine

    catalog = default_catalog()
    findings = []
    for finding in examine(catalog):
        findings.append(finding)
        if not json:
            console.data(f"{finding.state:<7} {finding.topic}: {finding.text}")
            if finding.remedy:
                console.data(f"        -> {finding.remedy}")
    if json:
        console.document({"findings": [finding.to_dict() for finding in findings]})
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(4)


def clean(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also containers whose trtenv still runs, and the cache of image builds."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Remove containers and staging folders that a killed trtenv left behind."""
    from trtenv.pipeline.doctor import sweep

    removed = list(sweep(everything=everything))
    report_removed(removed, "nothing was left behind", as_json=json)
