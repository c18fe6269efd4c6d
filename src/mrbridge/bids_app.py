"""`mrbridge_bids`: `mrbridge translate` by the convention of the BIDS Apps.

Source: Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209, and
https://bids-apps.neuroimaging.io.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrbridge import __version__, cli
from mrbridge.console import answer
from mrbridge.errors import InputError, SomeScansFailed, must_exist
from mrbridge.models import locate
from mrbridge.options import Device, Model, verb
from mrbridge.quick_imports import quick_imports
from mrbridge.verbs import images

if TYPE_CHECKING:
    from mrbridge.inference.settings import TranslateSettings

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Level(StrEnum):
    """The two levels of analysis of the convention."""

    participant = "participant"
    group = "group"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mrbridge {__version__}")
        raise typer.Exit


@app.command(epilog="Example: mrbridge_bids bids bids/derivatives/mrbridge participant --to T2w")
@verb(
    "mrbridge.inference.settings.TranslateSettings",
    "participants",
    "sessions",
    "bids_filter",
    "to",
    "planes",
    "dtype",
    "overwrite",
)
def bids_app(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="The BIDS dataset.")],
    output_dir: Annotated[
        Path, typer.Argument(metavar="OUTPUT_DIR", help="The folder of the derivatives.")
    ],
    analysis_level: Annotated[
        Level,
        typer.Argument(
            help="participant: translate the scans. group: list which scans have a translation by "
            "this model, in OUTPUT_DIR/logs/group.tsv."
        ),
    ],
    settings: TranslateSettings,
    model: Model = None,
    device: Device = "auto",
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Translate the scans of a BIDS dataset into the contrast that was not acquired.

    All its results are synthetic: for research, not for diagnosis.
    """
    place = locate(model)
    must_exist(bids_dir)
    from mrbridge.io.bids import is_bids

    if not (bids_dir.is_dir() and is_bids(bids_dir)):
        raise InputError(
            "is not a BIDS dataset",
            path=bids_dir,
            remedy="It has sub-… folders; see bids-validator.",
        )
    if analysis_level is Level.participant:
        images.run_translate(bids_dir, output_dir, model, settings, device=device)
        return
    with quick_imports():
        from mrbridge.inference.bids import TABLE, check_dataset
        from mrbridge.inference.synthesis import Request
        from mrbridge.inference.translator import Translator

    request = Request(Translator(place, device, settings.planes), settings)
    if settings.to is not None:
        request.translator.bundle.must_make(settings.to)
    states = Counter(state for _, state in check_dataset(request, bids_dir, output_dir))
    lacking = states.total() - states["done"]
    answer(
        {"table": str(output_dir / TABLE), "states": dict(states)},
        f"{states['done']} of {states.total()} scans are translated: {output_dir / TABLE}",
    )
    if lacking:
        raise SomeScansFailed(
            f"{lacking} of {states.total()} scans have no translation by this model",
            path=output_dir / TABLE,
            remedy="It lists them; run the participant level.",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the BIDS App and exit with its code."""
    bids_app.complete()
    cli.main(arguments, app)


if __name__ == "__main__":
    main()
