"""`mrbridge_bids`: `mrbridge translate` by the convention of the BIDS Apps.

Source: Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209, and
https://bids-apps.neuroimaging.io.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import Field

from mrbridge import __version__, cli, verbs
from mrbridge.console import answer
from mrbridge.errors import InputError, SomeScansFailed, must_exist
from mrbridge.interruption import quick_imports
from mrbridge.models import locate
from mrbridge.options import verb
from mrbridge.settings import Option, VerbSettings
from mrbridge.verb_settings import AllowCode, Device, Model, Translate

if TYPE_CHECKING:
    from mrbridge.inference.settings import TranslateSettings


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mrbridge {__version__}")
        raise typer.Exit


class BidsApp(VerbSettings):
    stage = "mrbridge.inference.settings:TranslateSettings"
    setting_keys = (
        *("participants", "sessions", "bids_filter", "to", "combine", "planes", "spacing"),
        *("dtype", "overwrite"),
    )

    bids_dir: Annotated[Path, Option(metavar="BIDS_DIR", argument=True)] = Field(
        description="The BIDS dataset."
    )
    output_dir: Annotated[Path, Option(metavar="OUTPUT_DIR", argument=True)] = Field(
        description="The folder of the derivatives."
    )
    analysis_level: Annotated[
        Literal["participant", "group"], Option(metavar="participant|group", argument=True)
    ] = Field(
        description="participant: translate the scans. group: list which scans have a translation "
        "by this model, in OUTPUT_DIR/logs/group.tsv."
    )
    model: Model = None
    device: Device = "auto"
    allow_code: AllowCode = False
    version: Annotated[bool, Option(callback=_print_version)] = Field(
        False, description="Print the version."
    )


@verb(
    "mrbridge.bids_app:BidsApp",
    "mrbridge_bids bids bids/derivatives/mrbridge participant --to T2w",
)
def bids_app(options: BidsApp, settings: TranslateSettings) -> None:
    """Translate the scans of a BIDS dataset into the contrast that was not acquired.

    All its results are synthetic: for research, not for diagnosis.
    """
    bids_dir, output_dir, place = options.bids_dir, options.output_dir, locate(options.model)
    must_exist(bids_dir)
    from mrbridge.io.bids import is_bids

    if not (bids_dir.is_dir() and is_bids(bids_dir)):
        raise InputError(
            "is not a BIDS dataset",
            path=bids_dir,
            remedy="It has sub-… folders; see bids-validator.",
        )
    if options.analysis_level == "participant":
        same = options.model_dump(include={"model", "device", "allow_code"})
        verbs.translate.function(Translate(image=bids_dir, out=output_dir, **same), settings)
        return
    with quick_imports():
        from mrbridge.bundle import load_bundle
        from mrbridge.inference.bids import TABLE, check_dataset
        from mrbridge.inference.output_grid import OutputGrid
        from mrbridge.inference.synthesis import Request
        from mrbridge.inference.translator import Translator

    bundle = load_bundle(place, allow_code=options.allow_code)
    grid = OutputGrid(settings.spacing) if settings.spacing else None
    request = Request(Translator(bundle, options.device, settings.planes), settings, grid=grid)
    if settings.to is not None:
        bundle.must_make(settings.to)
    states = Counter(check_dataset(request, bids_dir, output_dir))
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
    cli.main(arguments, bids_app)


if __name__ == "__main__":
    main()
