"""What a training starts with: the initial model, the data, and the weights of the losses."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mrbridge import models
from mrbridge.bundle import Bundle, BundleManifest, load_bundle, read_manifest
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.pairs import Pairs, found_pairs, known_pairs
from mrbridge.dataset.sampling import HeldOut, SliceBank, UnpairedSlices
from mrbridge.dataset.simulated import CONTRASTS, SimulatedPairs
from mrbridge.dataset.store import Store
from mrbridge.errors import BundleError, SettingsError
from mrbridge.training.examples import IntensityMapping, fit_intensity_mappings
from mrbridge.training.model import TranslationModel
from mrbridge.training.settings import PRESETS, LossWeights, TrainSettings

log = logging.getLogger(__name__)

_HARDLY_ANY = 0.25
"""Share of slices without a partner, of the contrast with more of them, up to which a training
leaves the unpaired losses out."""


def find_initial_model(
    start: str | Path, settings: TrainSettings, source: str, target: str
) -> Bundle | None:
    """The bundle whose generators a training starts from; None for random weights.

    Args:
        start: `scratch`; `auto`, the shipped model if it fits; `shipped`; or the path of a run or
            bundle.
        settings: of the training.
        source, target: its contrasts, in either order in the bundle.

    Raises:
        SettingsError: the bundle has other generators or contrasts.
        BundleError: there is none, or it is damaged.
    """
    if start == "scratch":
        return None
    try:
        # By its path, since the working directory may hold a folder called `shipped`.
        model = models.shipped() if start == "auto" else start
        manifest = read_manifest(model)
    except BundleError as error:
        if start != "auto":
            raise
        log.warning("starting from random weights: %s", error)
        return None
    differs = []
    if manifest.networks.generator != settings.networks.generator:
        differs.append("generators")
    if {manifest.source, manifest.target} != {source, target}:
        differs.append("contrasts")
    if not differs:
        log.info("starting from the model %s", models.SHIPPED if start == "auto" else model)
        return load_bundle(model)
    if start == "auto":
        if "contrasts" in differs and not settings.simulated_weight:  # else `for_contrasts` logs it
            log.info(
                "starting from random weights: the shipped model translates %s and %s, not %s",
                *(manifest.source, manifest.target, f"{source} to {target}"),
            )
        return None
    raise SettingsError(
        f"this training cannot start from {model}: it has other {' and other '.join(differs)}",
        remedy="Use the preset that it was trained with, or --from scratch.",
    )


def check_simulated(source: str, target: str, store: Path) -> None:
    """Refuse simulated pairs of contrasts that cannot be simulated.

    Raises:
        SettingsError: one of them cannot.
    """
    unknown = [contrast for contrast in (source, target) if contrast not in CONTRASTS]
    if unknown:
        raise SettingsError(
            f"{' and '.join(unknown)} cannot be simulated",
            path=store,
            remedy="Train without simulated pairs: leave out simulated_weight, or set it to 0.",
        )


def for_contrasts(settings: TrainSettings, store: Store, initial: Bundle | None) -> TrainSettings:
    """Settings without the preset's simulated pairs if a contrast cannot be simulated.

    Args:
        settings: of a new training.
        store: its data.
        initial: the model that it starts from, if any.

    Raises:
        SettingsError: the settings ask for simulated pairs, unlike their preset.
    """
    source, target = store.manifest.settings.source, store.manifest.settings.target
    if not settings.simulated_weight or {source, target} <= set(CONTRASTS):
        return settings
    if settings.simulated_weight != PRESETS[settings.preset].simulated_weight:
        check_simulated(source, target, store.path)
    log.info(
        "training %s to %s%s without simulated pairs: only %s and %s can be simulated, and only "
        "these does the shipped model translate",
        *(source, target, "" if initial else " from random weights,", *CONTRASTS),
    )
    return settings.changed({"simulated_weight": 0.0})


def training_slices(store: Store, settings: TrainSettings) -> UnpairedSlices:
    """The training slices of a store, with their pairs; simulated pairs are added later.

    Raises:
        SettingsError: the settings need pairs and the store has none.
        StoreError: a contrast has no training slice.
    """
    size = settings.networks.image_size
    dataset = UnpairedSlices(store, size, settings.seed, Augmentation(settings.augment, size))
    dataset.pairs = choose_pairs(settings, store, dataset.banks)
    return dataset


def choose_pairs(
    settings: TrainSettings, store: Store, banks: tuple[SliceBank, SliceBank]
) -> Pairs:
    """The pairs of training slices that the settings allow.

    Raises:
        SettingsError: the settings need pairs and the store has none.
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
                "found %d pairs of slices that show the same anatomy; --set find_pairs=false "
                "trains without them",
                len(found),
            )
        pairs = pairs + found
    for i, j in pairs:
        banks[1].lay_over(banks[1].places[j][0], banks[0].places[i][0])
    return pairs


def weights_for(
    settings: TrainSettings, dataset: UnpairedSlices, has_initial: bool = False
) -> LossWeights:
    """The weights of the losses for the data at hand.

    All but `paired` are multiplied by the share of slices without a partner, and so is the initial
    model's share: pairs know better. There is no warm-up without pairs, or from an initial model.

    Args:
        settings: of the training.
        dataset: its slices and pairs.
        has_initial: whether training started from a model.

    Raises:
        SettingsError: no loss has a weight.
    """
    weights = LossWeights.of(settings)
    has_pairs = bool(dataset.pairs and weights.paired)
    share = 1.0
    if settings.supervision == "paired":
        share = 0.0
    elif has_pairs:
        unpaired = max(
            1 - len({pair[side] for pair in dataset.pairs}) / len(bank)
            for side, bank in enumerate(dataset.banks)
        )
        share = unpaired if unpaired > _HARDLY_ANY else 0.0
        log.info("other losses are weighted by the share of slices without a partner: %.2f", share)
    weights = weights.scaled(share)
    if not has_pairs and not weights.any_unpaired:
        raise SettingsError(
            "there is nothing to learn from: no loss has a weight",
            remedy="Raise one of them, such as --set "
            + ("paired_weight=1." if share == 0 else "back_translation_weight=1."),
        )
    if has_initial or not (has_pairs or weights.simulated):
        weights = replace(weights, warm_up=0.0)
    return weights


def fit_to_data(
    model: TranslationModel, dataset: UnpairedSlices, store: Store, device: torch.device
) -> None:
    """Fit the intensities of simulated subjects to those of the data, if there are any."""
    if model.weights.simulated:
        mappings = [one for one in model.intensity_mappings if isinstance(one, IntensityMapping)]
        prepared = store.manifest.settings
        contrasts = (prepared.source, prepared.target)
        canonical = load_bundle(models.shipped())
        fit_intensity_mappings(mappings, canonical, dataset.banks, contrasts, device)


def simulated_pairs(
    store: Store, settings: TrainSettings, weights: LossWeights, cache: Path
) -> SimulatedPairs | None:
    """The simulated subjects of a training, from `cache` if they are there; None without weight."""
    if not weights.simulated:
        return None
    prepared = store.manifest.settings
    return SimulatedPairs(
        prepared.standard,
        _is_2d(store),
        prepared.source,
        prepared.target,
        settings.networks.image_size,
        settings.simulated_subjects,
        settings.seed,
        cache,
    )


def bundle_manifest(store: Store, settings: TrainSettings, validation: HeldOut) -> BundleManifest:
    """The manifest of a training's bundle, without scores and weights."""
    prepared = store.manifest.settings
    trained: dict[str, Any] = {
        "scans": {
            contrast: len(store.records(contrast=contrast, split="train"))
            for contrast in (prepared.source, prepared.target)
        },
        "subjects": len({one.subject for one in store.records() if one.subject is not None}),
        "validation": "held-out slices" if validation.held_out else "training slices",
        "validation_pairs": validation.paired,
    }
    return BundleManifest(
        source=prepared.source,
        target=prepared.target,
        preset=settings.preset,
        networks=settings.networks,
        standard=prepared.standard,
        typical=store.manifest.typical,
        pictures=_is_2d(store),
        planes=settings.planes,
        least_size=settings.networks.image_size,
        trained=trained,
        scores={},
    )


def _is_2d(store: Store) -> bool:
    return all(record.is_2d for record in store.records())
