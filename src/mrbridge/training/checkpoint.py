"""Checkpoints, and what it takes to resume from one.

A checkpoint holds tensors and plain values only. The file is a zip, as PyTorch writes it; the
comment at its end is the SHA-256 of everything before. Checkpoints of older versions have none:
their CRCs are checked instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mrbridge.bundle import load_bundle, save_bundle
from mrbridge.dataset.store import Store
from mrbridge.errors import BundleError, InputError, SettingsError, warn
from mrbridge.io.atomic import atomic_path
from mrbridge.manifest import BundleManifest
from mrbridge.reports import counted
from mrbridge.settings import read_yaml
from mrbridge.training.model import TranslationModel, is_of_critic
from mrbridge.training.settings import LossWeights, TrainSettings

log = logging.getLogger(__name__)

_STATE: dict[str, type] = {"step": int, "networks": dict, "optimizers": object, "pools": object}
_KEPT: dict[str, type] = {"watch": dict, "begun": object, "rows": list}
_END = b"PK\x05\x06"  # the end of a zip's directory; its last two bytes count the comment's
_END_BYTES = 22
_MARK = b"mrbridge sha256 "
_COMMENT_BYTES = len(_MARK) + 64
_BLOCK = 1 << 24
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to a temporary file in the same folder, flush it, and rename it; OutputError if
    it cannot be written."""
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # how PyTorch reports a full disk
            raise OSError(f"PyTorch: {_first_line(error)}") from error
        _sign(temporary)


def copy_checkpoint(existing: Path, name: Path) -> None:
    """Copy a checkpoint, rather than link it: damage to one file leaves the other intact.
    OutputError if it cannot be written."""
    with atomic_path(name) as temporary:
        shutil.copyfile(existing, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (only tensors and plain values are accepted, nothing is executed);
    InputError if it is absent or damaged."""
    if not path.is_file():
        best = _best_beside(path)
        remedy = f"Continue from the best state: copy {best} to this name."
        if best is None:
            remedy = "Name another run, or remove this one and train it without --resume."
        raise InputError("there is no checkpoint to resume from", path=path, remedy=remedy)
    try:
        _check(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise _unusable(path, f"the checkpoint is damaged ({_first_line(error)})") from None
    if not isinstance(state, dict):
        raise _unusable(path, "is not a training checkpoint")
    return state


def load_state(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a training, as `load_checkpoint`; InputError if it is not one, too."""
    state = load_checkpoint(path)
    kept = state.get("keeper")
    if not (_holds(state, _STATE) and isinstance(kept, dict) and _holds(kept, _KEPT)):
        raise _unusable(path, "is not a training checkpoint")
    return state


def _holds(values: dict[str, Any], types: dict[str, type]) -> bool:
    return all(key in values and isinstance(values[key], kind) for key, kind in types.items())


def _unusable(path: Path, what: str) -> InputError:
    best = _best_beside(path)
    remedy = f"Continue from the best state: copy {best} over it." if best else "Train again."
    return InputError(what, path=path, remedy=remedy)


def _best_beside(path: Path) -> Path | None:
    """The checkpoint of the best state, if it exists and can replace `path`."""
    best = path.with_name("best.ckpt")
    # In older versions the two may be hard links to one file.
    is_same = path == best or (path.exists() and best.exists() and path.samefile(best))
    return best if best.is_file() and not is_same else None


def _sign(path: Path) -> None:
    """Write the file's checksum into the comment of the zip."""
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size - _END_BYTES)
        end = file.read()
        if not end.startswith(_END) or end[-2:] != b"\0\0":
            raise OSError("PyTorch: did not write a zip file")
        digest = _digest(path, size - 2)
        file.seek(size - 2)
        file.write(_COMMENT_BYTES.to_bytes(2, "little") + _MARK + digest.encode())


def _check(path: Path) -> None:
    """Verify the checksum; ValueError if it differs."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _COMMENT_BYTES))
        comment = file.read()
    if comment.startswith(_MARK):
        if _digest(path, size - _COMMENT_BYTES - 2).encode() != comment[len(_MARK) :]:
            raise ValueError("its checksum differs")
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the CRC of {damaged} differs")
    log.debug("%s: has no checksum; its CRCs are correct", path)


def _digest(path: Path, size: int) -> str:
    """The SHA-256 of the first bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (block := file.read(min(_BLOCK, size))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    """The first sentence of PyTorch's message, which may be a paragraph."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:200]


RESUMABLE = (
    "epochs",
    "minutes",
    "stop_after_epochs",
    "validate_every",
    "compile",
    "guard",
    "patience",
)
"""Settings that may change when a run is resumed; with any other change it would be another run."""


def resumed_settings(
    state: dict[str, Any], run: Path, changes: TrainSettings | Mapping[str, Any]
) -> TrainSettings:
    """The settings of a resumed run: those of its folder, with changes to those that may change, or
    all settings. SettingsError if there are none, they are not those of the checkpoint, or another
    setting would change."""
    path = run / "settings.yaml"
    kept = TrainSettings.build(read_yaml(path), origin=path)
    before, now = state["keeper"].get("settings", {}), kept.model_dump(mode="json")
    differs = sorted(
        key for key in now if key not in RESUMABLE and now[key] != before.get(key, now[key])
    )
    if differs:
        raise SettingsError(
            f"is not what checkpoints/last.ckpt was trained with ({', '.join(differs)} differ): "
            "one of the two was edited or replaced",
            path=path,
            remedy="Put back the file that belongs here, or start a new run.",
        )
    if isinstance(changes, TrainSettings):
        settings = changes
    elif changes.get("epochs") and kept.minutes and "minutes" not in changes:
        raise SettingsError(
            f"this run trains for {counted(kept.minutes, 'minute')}, so epochs has no effect",
            path=run,
            remedy="Raise minutes, or add --set minutes=null to train by epochs.",
        )
    else:
        settings = kept.changed({"stop_after_epochs": None, **changes})
    fixed = [
        key
        for key in TrainSettings.model_fields
        if key not in RESUMABLE and getattr(settings, key) != getattr(kept, key)
    ]
    if fixed:
        raise SettingsError(
            f"a resumed run keeps its {', '.join(sorted(fixed))}",
            path=run,
            remedy=f"Only {', '.join(RESUMABLE)} may change; start a new run for the rest.",
        )
    return settings


def check_resumable(
    state: dict[str, Any], run: Path, store: Store, weights: LossWeights, processes: int
) -> None:
    """Refuse to resume a run with other data, losses or processes than it was trained with.

    Other scans of the same kind are accepted with a warning.

    Raises:
        SettingsError: the number of processes, the contrasts or the preprocessing differ, or the
            adversarial loss has a weight and the checkpoint no critics.
    """
    before = state.get("processes", 1)
    if before != processes:
        many = counted(before, "process", "processes together")
        raise SettingsError(
            f"this run was trained by {many}, not by {processes}",
            path=run,
            remedy=f"Continue with {before} processes (--devices or torchrun)."
            if before > 1
            else "Continue with a single process.",
        )
    now = identity(store)
    known = state["keeper"].get("data", now)
    what = None
    if known["contrasts"] != now["contrasts"]:
        was, is_now = (" to ".join(data["contrasts"]) for data in (known, now))
        what = f"translates {was}, not {is_now}"
    elif known["standard"] != now["standard"]:
        what = "was trained on scans with other preprocessing"
    elif weights.unpaired["adversarial"] and not any(map(is_of_critic, state["networks"])):
        # The checkpoint has none if the store left all weight to pairs, and this one does not.
        what = "was trained without critics, which the adversarial loss on these scans needs"
    if what is not None:
        remedy = "Name the run's own store, or start a new run with --from this one."
        raise SettingsError(f"this run {what}", path=run, remedy=remedy)
    if known["scans"] != now["scans"]:
        warn(
            f"{run}: the store holds other scans than this run was trained on, or splits them "
            "otherwise; it continues with these",
            run,
        )


def identity(store: Store) -> dict[str, Any]:
    """What identifies a store's data, regardless of its path."""
    scans = [(one.contrast, one.data_sha256, one.segments) for one in store.records()]
    return {
        "contrasts": list(store.contrasts),
        "standard": store.manifest.settings.standard.model_dump(mode="json"),
        "scans": hashlib.sha256(json.dumps(scans).encode()).hexdigest(),
    }


def restore(model: TranslationModel, state: dict[str, Any], path: Path) -> None:
    """Load a checkpoint's state into a model; InputError if it is of other networks."""
    try:
        model.restore(state)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        raise InputError(
            "does not fit the networks of settings.yaml: one of the two was edited or replaced",
            path=path,
            remedy="Put back the file that belongs here, or start a new run.",
        ) from None


def repair_bundle(
    state: dict[str, Any], run: Path, settings: TrainSettings, weights: LossWeights
) -> None:
    """Write a missing, damaged or foreign bundle again from the best checkpoint, with a warning;
    BundleError if that does not hold it."""
    folder, best = run / "bundle", run / "checkpoints" / "best.ckpt"
    known = _manifest_in(state)
    present: str | None = None
    with suppress(BundleError):
        present = load_bundle(folder, allow_code=True).hash  # `train` asked already
    if present is not None and (known is None or present == known.get("weights_sha256")):
        return
    best_state = load_state(best) if best.is_file() else None
    manifest = None if best_state is None else _manifest_in(best_state)
    if manifest is not None and present == manifest.get("weights_sha256"):
        return  # killed between the best checkpoint and the last
    what = "is missing or damaged" if present is None else "is not that of the checkpoints"
    if best_state is None or manifest is None:
        if known is None:
            return  # killed before the first bundle: the next validation writes it
        raise BundleError(
            f"{what}, and checkpoints/best.ckpt does not hold it",
            path=folder,
            remedy="Put the run's own files back, or start a new run.",
        )
    minutes = round(best_state["keeper"]["seconds"] / 60, 2)
    manifest = manifest | {"trained": manifest["trained"] | {"minutes": minutes}}
    model = TranslationModel(settings, weights)
    restore(model, best_state, best)
    tensors = model.bundle_weights(scale_heads=manifest.get("uncertainty") is not None)
    save_bundle(BundleManifest.build(manifest, origin=best), tensors, folder)
    log.warning("%s: %s; it was written again from checkpoints/best.ckpt", folder, what)


def _manifest_in(state: dict[str, Any]) -> dict[str, Any] | None:
    """The bundle's manifest in a checkpoint; None if there was none, or in an older version."""
    manifest = state["keeper"].get("bundle")
    is_known = isinstance(manifest, dict) and isinstance(manifest.get("trained"), dict)
    return manifest if is_known else None
