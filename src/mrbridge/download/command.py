"""`mrbridge download`: its verbs and their options. Heavy imports are inside the verbs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from mrbridge.console import answer, listen
from mrbridge.errors import must_be_here
from mrbridge.options import Assignments, Config, Json, OverwriteData, Quiet, Verbose, layered

app = typer.Typer(
    name="download",
    help="Download public data sets as BIDS, with their licence and citation.",
    epilog="Example: mrbridge download ixi --contrast T1w T2w -o ixi",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

Out = Annotated[
    Path, typer.Option("-o", "--out", help="A new folder, or one in which to resume a download.")
]
Contrast = Annotated[
    list[str] | None, typer.Option("--contrast", help="One or several (default: T1w T2w).")
]
Subjects = Annotated[
    list[str] | None,
    typer.Option("--subjects", help="One or several, such as 002 012 (default: all)."),
]
Mirror = Annotated[
    str | None, typer.Option(metavar="URL", help="Another server with the same data.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be downloaded, then exit.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, max=32, help="Parallel downloads (default: 4).")
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: mrbridge download ixi --contrast T1w T2w -o ixi")
def ixi(
    out: Out,
    contrast: Contrast = None,
    subjects: Subjects = None,
    mirror: Mirror = None,
    dry_run: DryRun = False,
    overwrite: OverwriteData = False,
    workers: Workers = None,
    config: Config = None,
    assignments: Assignments = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """IXI: nearly 600 healthy subjects, T1w, T2w and PDw. CC BY-SA 3.0."""
    _run("ixi", **locals())


@app.command(
    epilog="Example: mrbridge download openneuro ds002330 --version 1.1.0 -o ds002330  "
    "(others with T1w and T2w: ds002382 1.0.1, ds003717 1.0.1, ds003745 1.0.0, ds004285 1.0.0)",
)
def openneuro(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Accession number, such as ds002330.")
    ],
    out: Out,
    version: Annotated[str | None, typer.Option(help="Such as 1.1.0 (default: newest).")] = None,
    contrast: Contrast = None,
    subjects: Subjects = None,
    mirror: Mirror = None,
    dry_run: DryRun = False,
    overwrite: OverwriteData = False,
    workers: Workers = None,
    config: Config = None,
    assignments: Assignments = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """A data set of OpenNeuro: the scans of some contrasts and their metadata."""
    _run("openneuro", **locals())


def _run(
    archive: str,
    out: Path,
    *,
    contrast: list[str] | None,
    mirror: str | None,
    workers: int | None,
    config: Path | None,
    assignments: list[str] | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Download from an archive, whose module has `SITE` and `download`."""
    listen(quiet, verbose, as_json)
    must_be_here(out)
    changes = layered(config, assignments, {"workers": workers})
    from mrbridge.download.http import DownloadSettings, Session

    module = import_module(f"mrbridge.download.{archive}")
    with Session(DownloadSettings().changed(changes)) as session:
        report = module.download(
            session,
            out,
            contrasts=contrast or ("T1w", "T2w"),
            site=mirror or module.SITE,
            **options,
        )
    answer(report.as_json(), str(report))
    report.raise_if_incomplete()
