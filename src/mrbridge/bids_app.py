"""`mrbridge_bids`: `mrbridge translate` by the convention of the BIDS Apps.

Source: Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209, and
https://bids-apps.neuroimaging.io.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrbridge import cli, verbs
from mrbridge.console import answer
from mrbridge.errors import InputError, SomeScansFailed, must_exist
from mrbridge.interruption import quick_imports
from mrbridge.models import locate
from mrbridge.options import verb

if TYPE_CHECKING:
    from mrbridge.inference.settings import TranslateSettings
    from mrbridge.verb_settings import BidsApp


@verb(
    "mrbridge.verb_settings:BidsApp",
    "mrbridge_bids bids bids/derivatives/mrbridge participant --to T2w",
)
def bids_app(options: BidsApp, settings: TranslateSettings) -> None:
    """Translate the scans of a BIDS dataset into the contrast that was not acquired.

    All its results are synthetic: for research, not for diagnosis.
    """
    bids_dir, output_dir, place = options.bids_dir, options.output_dir, locate(options.model)
    must_exist(bids_dir)
    from mrbridge.io.bids import is_bids
    from mrbridge.verb_settings import Translate

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
