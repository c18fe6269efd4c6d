"""Which pairs a training learns from, and what is left for the unpaired losses."""

from __future__ import annotations

import logging

from mrbridge.data.dataset import SliceBank, UnpairedSlices
from mrbridge.data.pairs import Pairs, found_pairs, known_pairs
from mrbridge.errors import SettingsError
from mrbridge.preparation.store import Store
from mrbridge.training.settings import TrainSettings

log = logging.getLogger(__name__)

_HARDLY_ANY = 0.25
"""Share of slices without a partner, of the contrast with more of them, that is not worth the
unpaired losses."""

_UNPAIRED = (
    "adversarial_weight",
    "cycle_weight",
    "identity_weight",
    "back_translation_weight",
    "simulated_weight",
)


def choose_pairs(
    settings: TrainSettings, store: Store, banks: tuple[SliceBank, SliceBank]
) -> Pairs:
    """The pairs of training slices that the settings allow.

    Raises:
        SettingsError: pairs are wanted, and the store knows of none.
    """
    pairs: Pairs = []
    if settings.supervision != "unpaired":
        pairs = known_pairs(store, banks)
        if not pairs:
            raise SettingsError(
                f"supervision {settings.supervision} needs pairs, and the store has none",
                path=store.path,
                remedy="Prepare scans of both contrasts with subjects, or --set "
                "supervision=unpaired.",
            )
        log.info("learning from %d pairs of slices", len(pairs))
    if settings.find_pairs and settings.supervision != "paired":
        found = sorted(set(found_pairs(banks)) - set(pairs))
        if found:
            log.info(
                "found %d pairs of slices that show the same anatomy, and learns from them; "
                "--set find_pairs=false would not",
                len(found),
            )
        pairs = pairs + found
    return pairs


def share_weights(settings: TrainSettings, dataset: UnpairedSlices) -> TrainSettings:
    """The settings with all but the paired weight cut to the share of slices without a partner."""
    if not dataset.pairs:
        return settings
    alone = 0.0
    if settings.supervision != "paired":
        alone = max(
            1 - len({pair[side] for pair in dataset.pairs}) / len(bank)
            for side, bank in enumerate(dataset.banks)
        )
    share = alone if alone > _HARDLY_ANY else 0.0
    return settings.changed({name: share * getattr(settings, name) for name in _UNPAIRED})
