"""`mrbridge download`: its verbs. Heavy imports are inside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrbridge.console import answer
from mrbridge.errors import must_be_here
from mrbridge.options import verb

if TYPE_CHECKING:
    from mrbridge.download.folder import Report
    from mrbridge.download.settings import DownloadSettings

app = typer.Typer(
    name="download",
    help="Download public datasets as BIDS.",
    epilog="Example: mrbridge download ixi --contrast T1w T2w -o ixi",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

Out = Annotated[
    Path, typer.Option("-o", "--out", help="A new folder, or one in which to resume a download.")
]

_OPTIONS = ("contrast", "subjects", "mirror", "dry_run", "overwrite", "workers")


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: mrbridge download ixi --contrast T1w T2w -o ixi")
@verb("mrbridge.download.settings.DownloadSettings", *_OPTIONS)
def ixi(out: Out, settings: DownloadSettings) -> None:
    """IXI: nearly 600 healthy subjects, T1w, T2w and PDw. CC BY-SA 3.0."""
    must_be_here(out)
    from mrbridge.download.ixi import download

    _report(download(out, settings))


@app.command(
    epilog="Example: mrbridge download openneuro ds002330 --version 1.1.0 -o ds002330  "
    "(others with T1w and T2w: ds002382 1.0.1, ds003717 1.0.1, ds003745 1.0.0, ds004285 1.0.0)",
)
@verb("mrbridge.download.settings.DownloadSettings", *_OPTIONS)
def openneuro(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Accession number, such as ds002330.")
    ],
    out: Out,
    settings: DownloadSettings,
    version: Annotated[str | None, typer.Option(help="Such as 1.1.0 [default: newest].")] = None,
) -> None:
    """A data set of OpenNeuro: the scans of some contrasts and their metadata."""
    must_be_here(out)
    from mrbridge.download.openneuro import download

    _report(download(dataset, out, settings, version=version))


VERBS = (ixi, openneuro)


def _report(report: Report) -> None:
    answer(report.as_json(), str(report))
    report.raise_if_incomplete()
