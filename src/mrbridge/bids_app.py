"""`mrbridge_bids`: `mrbridge translate` by the convention of the BIDS Apps.

Source: Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209, and
https://bids-apps.neuroimaging.io.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrbridge import __version__, cli
from mrbridge.console import answer, listen
from mrbridge.errors import InputError, SomeScansFailed, must_exist
from mrbridge.models import locate
from mrbridge.options import (
    BidsFilter,
    Device,
    Json,
    Model,
    Overwrite,
    Participants,
    Quiet,
    Sessions,
    Verbose,
)
from mrbridge.quick_imports import quick_imports
from mrbridge.verbs import images

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
def bids_app(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="The BIDS data set.")],
    output_dir: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Where derivatives go.")],
    analysis_level: Annotated[
        Level,
        typer.Argument(
            help="participant: translate the scans. group: tell which scans have a synthesis of "
            "this model, in OUTPUT_DIR/logs/group.tsv."
        ),
    ],
    participant_label: Participants = None,
    session_label: Sessions = None,
    bids_filter_file: BidsFilter = None,
    model: Model = None,
    to: Annotated[
        str | None, typer.Option(help="The contrast to make [the model's target].")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Translate the scans of a BIDS data set into the contrast that was not acquired.

    Everything it makes is synthetic: for research, not for diagnosis.
    """
    listen(quiet, verbose, as_json)
    locate(model)
    must_exist(bids_dir)
    from mrbridge.io.bids import is_bids

    if not (bids_dir.is_dir() and is_bids(bids_dir)):
        raise InputError(
            "is not a BIDS data set",
            path=bids_dir,
            remedy="It has sub-… folders; see bids-validator.",
        )
    if analysis_level is Level.participant:
        images.translate(
            image=bids_dir,
            out=output_dir,
            model=model,
            to=to,
            device=device,
            participant_label=participant_label,
            session_label=session_label,
            bids_filter_file=bids_filter_file,
            overwrite=overwrite,
            quiet=quiet,
            verbose=verbose,
            as_json=as_json,
        )
        return
    with quick_imports():
        from mrbridge.bundle import load_bundle
        from mrbridge.inference.data_set import TABLE, Plan, check_data_set
        from mrbridge.io.bids_selection import select

    bundle = load_bundle(locate(model))
    if to is not None:
        bundle.must_make(to)
    selection = select(participant_label or (), session_label or (), bids_filter_file)
    plan = Plan(bids_dir, output_dir, bundle, to, selection)
    states = Counter(state for _, state in check_data_set(plan))
    lacking = states.total() - states["done"]
    answer(
        {"table": str(output_dir / TABLE), "states": dict(states)},
        f"{states['done']} of {states.total()} scans have their synthesis: {output_dir / TABLE}",
    )
    if lacking:
        raise SomeScansFailed(
            f"{lacking} of {states.total()} scans have no synthesis by this model",
            path=output_dir / TABLE,
            remedy="It lists them; run the participant level.",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the BIDS App and leave with its exit code."""
    cli.main(arguments, app)


if __name__ == "__main__":
    main()
