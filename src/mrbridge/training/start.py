"""Where a training begins: random weights, the shipped model, or another one; and what a preset
leaves out where its contrasts cannot be simulated."""

from __future__ import annotations

import logging
from pathlib import Path

from mrbridge import models
from mrbridge.bundle import Bundle, load_bundle, read_manifest
from mrbridge.data.simulated import CONTRASTS
from mrbridge.errors import BundleError, SettingsError
from mrbridge.training.settings import PRESETS, TrainSettings

log = logging.getLogger(__name__)


def beginning(
    start: str | Path, settings: TrainSettings, source: str, target: str
) -> Bundle | None:
    """The bundle whose generators a training goes on from; None for random weights.

    Args:
        start: `scratch`; `auto`, which is the shipped model where it fits; `shipped`; or the path
            of a run or bundle.
        settings: of the training.
        source, target: its contrasts, in either order in the bundle.

    Raises:
        SettingsError: the bundle has other generators or contrasts.
        BundleError: there is none, or it is damaged.
    """
    if start == "scratch":
        return None
    try:
        # By its path: where somebody works, a folder may be called like the word for it.
        model = models.shipped() if start == "auto" else start
        manifest = read_manifest(model)
    except BundleError as error:
        if start != "auto":
            raise
        log.warning("starting from random weights: %s", error)
        return None
    unlike = []
    if manifest.networks.generator != settings.networks.generator:
        unlike.append("generators")
    if {manifest.source, manifest.target} != {source, target}:
        unlike.append("contrasts")
    if not unlike:
        log.info("starting from the model %s", models.SHIPPED if start == "auto" else model)
        return load_bundle(model)
    if start == "auto":
        if "contrasts" in unlike and not settings.simulated_weight:  # else `for_contrasts` says it
            log.info(
                "starting from random weights: the shipped model translates %s and %s, not %s",
                *(manifest.source, manifest.target, f"{source} to {target}"),
            )
        return None
    raise SettingsError(
        f"this training cannot start from {model}: it has other {' and other '.join(unlike)}",
        remedy="Take the preset that it was trained with, or --from scratch.",
    )


def must_be_simulated(source: str, target: str, store: Path | None = None) -> None:
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


def for_contrasts(
    settings: TrainSettings, source: str, target: str, store: Path, begun: bool
) -> TrainSettings:
    """Settings that a store of these contrasts can be trained with.

    A preset's simulated pairs are left out where a contrast cannot be simulated, and that is said.

    Args:
        settings: of a new training.
        source, target: its contrasts.
        store: named in the error.
        begun: whether the training goes on from a model.

    Raises:
        SettingsError: somebody asked for simulated pairs that there cannot be.
    """
    if not settings.simulated_weight or {source, target} <= set(CONTRASTS):
        return settings
    if settings.simulated_weight != PRESETS[settings.preset].simulated_weight:
        must_be_simulated(source, target, store)
    log.info(
        "training %s to %s%s without simulated pairs: only %s and %s can be simulated, and only "
        "these does the shipped model translate",
        *(source, target, "" if begun else " from random weights,", *CONTRASTS),
    )
    return settings.changed({"simulated_weight": 0.0})
