"""Where a training begins: random weights, the shipped model, or another one."""

from __future__ import annotations

import logging
from pathlib import Path

from mrbridge import models
from mrbridge.bundle import Bundle, load_bundle, read_manifest
from mrbridge.errors import BundleError, SettingsError
from mrbridge.training.settings import TrainSettings

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
    model = models.SHIPPED if start == "auto" else start
    try:
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
        log.info("starting from the model %s", model)
        return load_bundle(model)
    if start == "auto":
        return None
    raise SettingsError(
        f"this training cannot start from {model}: it has other {' and other '.join(unlike)}",
        remedy="Take the preset that it was trained with, or --from scratch.",
    )
