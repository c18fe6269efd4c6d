"""What a run must have kept, and what may change, for a later session to go on with it."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mrbridge.bundle import BundleManifest, load_bundle, save_bundle
from mrbridge.errors import BundleError, MrbridgeWarning, SettingsError
from mrbridge.preparation.store import Store
from mrbridge.settings import read_yaml
from mrbridge.training.checkpoint import load_state
from mrbridge.training.cyclegan import is_of_critic
from mrbridge.training.settings import TrainSettings

log = logging.getLogger(__name__)

RESUMABLE = (
    "epochs",
    "minutes",
    "stop_after_epochs",
    "validate_every",
    "compile",
    "guard",
    "patience",
)
"""What may change when a run is resumed; anything else would make it another run."""


def resumed_settings(run: Path, changes: dict[str, Any]) -> TrainSettings:
    """The settings of a run, with changes that it can take.

    Raises:
        SettingsError: the run has none, or a change would make it another run.
    """
    path = run / "settings.yaml"
    kept = TrainSettings.build(read_yaml(path), origin=path)
    wanted = kept.changed({"stop_after_epochs": None} | changes)
    fixed = [
        key
        for key in TrainSettings.model_fields
        if key not in RESUMABLE and getattr(wanted, key) != getattr(kept, key)
    ]
    if fixed:
        raise SettingsError(
            f"a resumed run keeps its {', '.join(sorted(fixed))}",
            path=run,
            remedy=f"Only {', '.join(RESUMABLE)} may change; start a new run for the rest.",
        )
    return wanted


def check_settings(state: dict[str, Any], run: Path) -> None:
    """Refuse settings that are not those that the checkpoint was made with.

    Raises:
        SettingsError: the file was edited since, or the checkpoint is of another run.
    """
    before = state["keeper"].get("settings")
    if not isinstance(before, dict):  # of an older version
        log.debug("%s: its checkpoint does not say with which settings it was made", run)
        return
    path = run / "settings.yaml"
    now = TrainSettings.build(read_yaml(path), origin=path).model_dump(mode="json")
    differs = sorted(
        key for key in now if key not in RESUMABLE and now[key] != before.get(key, now[key])
    )
    if differs:
        raise SettingsError(
            f"is not what checkpoints/last.ckpt was trained with ({', '.join(differs)} differ): "
            "one of the two was edited or exchanged",
            path=path,
            remedy="Put back the file that belongs here, or start a new run.",
        )


def mend_bundle(
    state: dict[str, Any], run: Path, weights_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Make the bundle again where it is gone, damaged or another one than the run's, and say so.

    Args:
        state: of the last checkpoint.
        run: the run's folder.
        weights_of: gives the weights that a checkpoint ships.

    Raises:
        BundleError: it cannot be made again.
    """
    folder, best = run / "bundle", run / "checkpoints" / "best.ckpt"
    known = [_shipped(state)]
    there: str | None = None
    with suppress(BundleError):
        there = load_bundle(folder).hash
    if there is not None and (known[0] is None or there == known[0].get("weights_sha256")):
        return
    kept = load_state(best) if best.is_file() else None
    manifest = None if kept is None else _shipped(kept)
    if manifest is not None and there == manifest.get("weights_sha256"):
        return  # killed between the best checkpoint and the last
    why = "is gone or damaged" if there is None else "is not the one that the checkpoints know"
    if kept is None or manifest is None:
        if known[0] is None:
            return  # killed before the first checkpoint of what it ships: the next one ships again
        raise BundleError(
            f"{why}, and checkpoints/best.ckpt does not hold it",
            path=folder,
            remedy="Put the run's own files back, or start a new run.",
        )
    minutes = round(kept["keeper"]["seconds"] / 60, 2)
    manifest = manifest | {"trained": manifest["trained"] | {"minutes": minutes}}
    save_bundle(BundleManifest.build(manifest, origin=best), weights_of(kept), folder)
    log.warning("%s: %s; it was made again from checkpoints/best.ckpt", folder, why)


def _shipped(state: dict[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint says of the bundle; None where none was made, or in an older version."""
    told = state["keeper"].get("bundle")
    return told if isinstance(told, dict) and isinstance(told.get("trained"), dict) else None


def check_count(state: dict[str, Any], count: int, run: Path) -> None:
    """Refuse to go on with another number of processes: it would be another training.

    Raises:
        SettingsError: it is another number.
    """
    before = state.get("processes", 1)
    if before != count:
        raise SettingsError(
            f"this run was trained by {before} processes together, not by {count}",
            path=run,
            remedy=f"Go on with --devices {before}, or with as many processes of torchrun.",
        )


def check_critics(state: dict[str, Any], settings: TrainSettings, run: Path) -> None:
    """Refuse to go on with an adversarial loss that a run did not have until now.

    It happens where the run's store left all weight to pairs, and this one does not.

    Raises:
        SettingsError: the adversarial loss has a weight, and the checkpoint has no critics.
    """
    if settings.adversarial_weight and not any(map(is_of_critic, state["networks"])):
        raise SettingsError(
            "this run was trained without critics, which the adversarial loss on these scans needs",
            path=run,
            remedy="Name the run's own store, or start a new run with --from this one.",
        )


def identity(store: Store) -> dict[str, Any]:
    """What tells one store's data from another's, wherever it lies: for a checkpoint."""
    prepared = store.manifest.settings
    scans = [(one.contrast, one.data_sha256, one.segments) for one in store.records()]
    return {
        "contrasts": [prepared.source, prepared.target],
        "standard": prepared.standard.model_dump(mode="json"),
        "scans": hashlib.sha256(json.dumps(scans).encode()).hexdigest(),
    }


def check_data(state: dict[str, Any], store: Store, run: Path) -> None:
    """Refuse data of another kind than a run was trained on; say where it holds other scans.

    Raises:
        SettingsError: other contrasts, or scans that were prepared in another way: the weights
            would stand for something else than the bundle says.
    """
    before, now = state["keeper"].get("data"), identity(store)
    if before is None:
        return
    remedy = "Name the run's own store, or start a new run with --from this one."
    if before["contrasts"] != now["contrasts"]:
        was, is_now = (" to ".join(one["contrasts"]) for one in (before, now))
        raise SettingsError(f"this run translates {was}, not {is_now}", path=run, remedy=remedy)
    if before["standard"] != now["standard"]:
        raise SettingsError(
            "this run was trained on scans that were prepared in another way",
            path=run,
            remedy=remedy,
        )
    if before["scans"] != now["scans"]:
        warnings.warn(
            f"{run}: the store holds other scans than this run was trained on; it goes on with "
            "these",
            MrbridgeWarning,
            stacklevel=2,
        )
