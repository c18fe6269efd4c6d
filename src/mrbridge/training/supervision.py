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

_LOSSES = (
    "adversarial_weight",
    "cycle_weight",
    "identity_weight",
    "back_translation_weight",
    "simulated_weight",
)
_UNPAIRED = (*_LOSSES, "beginning_share")


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
    for i, j in pairs:
        banks[1].lay_over(banks[1].places[j][0], banks[0].places[i][0])
    return pairs


def share_weights(
    settings: TrainSettings, dataset: UnpairedSlices, begun: bool = False
) -> TrainSettings:
    """The settings with the weights that are left for this data.

    All but the paired one are cut to the share of slices without a partner, and so is the
    beginning's share in what is shipped: pairs know better. Nothing warms up where there is nothing
    to learn from before, nor where training goes on from a model.

    Args:
        settings: of the training.
        dataset: its slices and pairs.
        begun: whether it goes on from a model.

    Raises:
        SettingsError: no loss has any weight.
    """
    pairs = bool(dataset.pairs and settings.paired_weight)
    share = 1.0
    if settings.supervision == "paired":
        share = 0.0
    elif pairs:
        alone = max(
            1 - len({pair[side] for pair in dataset.pairs}) / len(bank)
            for side, bank in enumerate(dataset.banks)
        )
        share = alone if alone > _HARDLY_ANY else 0.0
        log.info("the share of slices without a partner is what other losses weigh: %.2f", share)
    if share < 1:
        settings = settings.changed({name: share * getattr(settings, name) for name in _UNPAIRED})
    if not pairs and not any(getattr(settings, name) for name in _LOSSES):
        raise SettingsError(
            "there is nothing to learn from: no loss has any weight",
            remedy="Raise one of them, such as --set "
            + ("paired_weight=1." if share == 0 else "back_translation_weight=1."),
        )
    if begun or not (pairs or settings.simulated_weight):
        settings = settings.changed({"warm_up": 0.0})
    return settings
