"""The verb `train`: from a store to a run."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.plugins.environments import LightningEnvironment
from pydantic import BaseModel

from mrbridge import models
from mrbridge.bundle import BundleManifest, load_bundle
from mrbridge.data.augment import Augmentation
from mrbridge.data.dataset import HeldOut, UnpairedSlices, held_out_slices
from mrbridge.data.loader import batches_from, plain_errors
from mrbridge.data.simulated import SimulatedPairs
from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeError,
    MrbridgeWarning,
    SettingsError,
)
from mrbridge.hardware import choose_device, fast_bfloat16, quick_kernels
from mrbridge.io.lock import only_writer
from mrbridge.io.safety import write_text
from mrbridge.io.temporary import LOCK, sweep
from mrbridge.preparation.store import Store
from mrbridge.quiet import at_level
from mrbridge.training.callbacks import Keeper, StopOnSignal
from mrbridge.training.checkpoint import load_state
from mrbridge.training.compiling import pays
from mrbridge.training.concert import Concert
from mrbridge.training.cyclegan import CycleGAN
from mrbridge.training.looks import Looks, learn_looks
from mrbridge.training.names import must_be_run, refuse_foreign, refuse_url
from mrbridge.training.ranks import Ranks, meeting
from mrbridge.training.resume import (
    check_count,
    check_critics,
    check_data,
    check_settings,
    identity,
    mend_bundle,
    resumed_settings,
)
from mrbridge.training.settings import TrainSettings, resolve
from mrbridge.training.start import beginning, for_contrasts
from mrbridge.training.supervision import choose_pairs, share_weights
from mrbridge.training.watch import Watch

log = logging.getLogger(__name__)

_FOREVER = 10**9  # steps, where the clock decides


@dataclass(frozen=True)
class Run:
    """A training on disk.

    Attributes:
        path: its folder; `path / "bundle"` is what it ships.
        settings: the resolved settings, as asked for: pairs may leave the other losses less.
        rows: one mapping of numbers an epoch, as in `metrics.csv`.
        kept_beginning: whether the bundle is still the model that training began with, since no
            state was better.
    """

    path: Path
    settings: TrainSettings
    rows: list[dict[str, float]]
    kept_beginning: bool = False


def train(
    store: str | Path | Store,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    resume: bool = False,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    start: str | Path = "auto",
    overwrite: bool = False,
) -> Run:
    """Train a translation model on a prepared store.

    Where `torchrun` started several processes, they train it together.

    Args:
        store: the store, its path or its URL.
        out: the run's folder.
        settings: of a new run; None takes the default preset.
        resume: go on with the run in `out`, exactly where it stopped, with its own settings.
        changes: of a resumed run's settings; only keys of `training.resume.RESUMABLE`.
        device: `auto`, `cpu` or `cuda`.
        start: of a new run: `auto` (the shipped model where networks and contrasts are its own,
            otherwise random weights), `scratch` (random weights), `shipped`, or a run or bundle.
        overwrite: a new run replaces the one in `out`.

    Raises:
        BundleError: the model to start from is absent or damaged.
        OutputError: `out` holds something already and neither `resume` nor `overwrite` is given, or
            something else than a run.
        SettingsError: a change or a store that a resumed run cannot take, or `out` is a URL.
        StoreError: the store cannot be used.
        Interrupted: somebody asked for an end; a checkpoint is written.
        MrbridgeError: losses became infinite or NaN, and no state was any good.
    """
    refuse_url(out)
    if resume and overwrite:
        raise SettingsError(
            "a run is either resumed or overwritten", path=out, remedy="Leave out one of the two."
        )
    with (
        meeting(choose_device(device)) as (ranks, chosen),
        _as_it_was(chosen),
        _alone(Path(out), resume, ranks),
    ):
        given = (settings, resume, changes or {}, chosen, start, overwrite, ranks)
        return _train(store, Path(out), *given)


def _train(
    store: str | Path | Store,
    run: Path,
    settings: TrainSettings | None,
    resume: bool,
    changes: dict[str, Any],
    chosen: torch.device,
    start: str | Path,
    overwrite: bool,
    ranks: Ranks,
) -> Run:
    """Train as one of `ranks`."""
    store = store if isinstance(store, Store) else Store.open(store)
    state = load_state(run / "checkpoints" / "last.ckpt") if resume else None
    prepared = store.manifest.settings
    begun = None
    if state is not None:
        check_settings(state, run)
        asked = resumed_settings(run, changes)
        check_count(state, ranks.count, run)
        check_data(state, store, run)
    else:
        if ranks.is_first:  # the others might find what it has written
            (must_be_run if overwrite else refuse_foreign)(run)
        asked = settings or resolve(None)
        begun = beginning(start, asked, prepared.source, prepared.target)
        contrasts = prepared.source, prepared.target
        asked = for_contrasts(asked, *contrasts, store.path, begun=begun is not None)
    is_begun = begun is not None if state is None else bool(state["keeper"]["begun"])

    held_out = held_out_slices(store, asked.networks.image_size, asked.validation_slices)
    dataset = _dataset(store, asked)
    dataset.pairs = choose_pairs(asked, store, dataset.banks)
    settings = share_weights(asked, dataset, is_begun)
    if state is not None:
        check_critics(state, settings, run)
        if ranks.is_first:
            mend_bundle(state, run, partial(_shipped_weights, settings, run))
    together = settings.batch_size * ranks.count
    steps_per_epoch = settings.steps_per_epoch or max(1, len(dataset) // together)
    last_step = _FOREVER if settings.minutes else settings.epochs * steps_per_epoch
    if state is not None and _is_complete(state, settings, last_step):
        log.info("the run is complete already")
        kept = state["keeper"]
        return Run(run, asked, kept["rows"], Watch(**kept["watch"]).keeps_beginning)
    if not held_out.held_out:
        warnings.warn(
            "the store holds nothing out: validation scores are of training slices",
            MrbridgeWarning,
            stacklevel=2,
        )
    model = CycleGAN(settings, ranks)
    if begun is not None:
        model.begin_from(begun, prepared.target)
        _learn_looks(model, dataset, (prepared.source, prepared.target), chosen)
    # Only now: what cannot be trained leaves no folder that would be in the way of the next try.
    if ranks.is_first:
        if overwrite and run.is_dir():
            for entry in run.iterdir():
                if entry.name != LOCK:  # it is held
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in (run, run / "checkpoints", run / "samples"):
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        sweep(run / "bundle")
        write_text(run / "settings.yaml", as_yaml(asked))
        dataset.simulated = _simulated(store, settings, run / "simulated.npz")
    ranks.wait()
    if not ranks.is_first:  # only now, when they lie there ready to be read
        dataset.simulated = _simulated(store, settings, run / "simulated.npz")
    if state is not None:
        _restore(model, state, run / "checkpoints" / "last.ckpt")
    ranks.agree(model)
    if pays(settings, last_step, chosen):
        model.compile_networks()
    manifest = _manifest(store, settings, held_out)
    with StopOnSignal() as signals, plain_errors(), quick_kernels(chosen):
        keeper = None
        if ranks.is_first:
            keeper = Keeper(
                *(run, settings, manifest, held_out, steps_per_epoch, signals),
                *(identity(store), asked, state, None if begun is None else begun.manifest),
            )
        del state  # its tensors live on in the model and the optimisers
        concert = Concert(ranks, signals, keeper)
        loader = batches_from(
            dataset, settings.batch_size, model.step, last_step, chosen, ranks.share
        )
        _trainer(settings, chosen, concert.callbacks()).fit(model, loader)
        if signals.requested and not concert.finished:
            raise Interrupted(
                f"stopped at step {model.step}", path=run, remedy="Go on with --resume."
            )
    if keeper is None:
        return Run(run, asked, [])
    rows = keeper.record.rows
    if rows and not math.isfinite(rows[-1].get("generators", 0)) and not keeper.watch.best_is_right:
        raise MrbridgeError(
            "the training diverged: its losses are not finite, and no state was any good",
            path=run,
            remedy="Train again with a lower learning_rate.",
        )
    return Run(run, asked, keeper.record.rows, keeper.watch.keeps_beginning)


@contextmanager
def _alone(run: Path, resume: bool, ranks: Ranks) -> Iterator[None]:
    """Be the only training that writes into a run."""
    if not ranks.is_first or (resume and not run.is_dir()):  # whoever reads it says what is wrong
        yield
        return
    is_new = not run.exists()
    try:
        with only_writer(run):
            yield
    finally:
        if is_new:  # what cannot be trained leaves no folder
            with suppress(OSError):
                run.rmdir()


def _restore(model: CycleGAN, state: dict[str, Any], path: Path) -> None:
    """Let a model go on from a checkpoint.

    Raises:
        InputError: it is of other networks.
    """
    try:
        model.restore(state)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        raise InputError(
            "does not fit the networks of settings.yaml: one of the two was edited or exchanged",
            path=path,
            remedy="Put back the file that belongs here, or start a new run.",
        ) from None


def _shipped_weights(settings: TrainSettings, run: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The weights that a checkpoint of the run ships."""
    model = CycleGAN(settings)
    _restore(model, state, run / "checkpoints" / "best.ckpt")
    return model.shipped_weights()


def _is_complete(state: dict[str, Any], settings: TrainSettings, last_step: int) -> bool:
    if Watch(**state["keeper"]["watch"]).why_end(settings) is not None:
        return True
    if settings.minutes is not None:
        return bool(state["keeper"]["seconds"] >= 60 * settings.minutes)
    return bool(state["step"] >= last_step)


def _trainer(
    settings: TrainSettings, device: torch.device, callbacks: list[pl.Callback]
) -> pl.Trainer:
    fast = settings.precision == "auto" and fast_bfloat16(device)
    bfloat16 = settings.precision == "bfloat16" or fast
    return pl.Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision="bf16-mixed" if bfloat16 else "32-true",
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Named, so that Lightning finds neither SLURM, whose requeueing it would take into its
        # own hands, nor torchrun: to Lightning each process is the only one (`training.ranks`).
        plugins=[LightningEnvironment()],
    )


@contextmanager
def _as_it_was(device: torch.device) -> Iterator[None]:
    """Within it Lightning is quiet; afterwards the process is as before.

    Lightning announces hardware and hints that say nothing to our users. Every step seeds PyTorch's
    random numbers, which may be the caller's too.
    """
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        at_level(logging.ERROR, "lightning.pytorch", "lightning.fabric"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", module="lightning")
        yield


def _dataset(store: Store, settings: TrainSettings) -> UnpairedSlices:
    size = settings.networks.image_size
    augment = Augmentation(settings.augment, size)
    return UnpairedSlices(store, size, settings.seed, augment)


def _learn_looks(
    model: CycleGAN, dataset: UnpairedSlices, contrasts: tuple[str, str], device: torch.device
) -> None:
    """Bring the simulated subjects' answers to the contrast of the data."""
    if model.settings.simulated_weight:
        source, target = model.looks
        assert isinstance(source, Looks)
        assert isinstance(target, Looks)
        canonical = load_bundle(models.shipped())
        learn_looks((source, target), canonical, dataset.banks, contrasts, device)


def _simulated(store: Store, settings: TrainSettings, cache: Path) -> SimulatedPairs | None:
    if not settings.simulated_weight:
        return None
    prepared = store.manifest.settings
    return SimulatedPairs(
        prepared.standard,
        _holds_pictures(store),
        prepared.source,
        prepared.target,
        settings.networks.image_size,
        settings.simulated_subjects,
        settings.seed,
        cache,
    )


def _holds_pictures(store: Store) -> bool:
    return all(record.is_picture for record in store.records())


def _manifest(store: Store, settings: TrainSettings, held_out: HeldOut) -> BundleManifest:
    prepared = store.manifest.settings
    records = store.records()
    subjects = {record.subject for record in records if record.subject is not None}
    trained: dict[str, Any] = {
        "scans": {
            contrast: len(store.records(contrast=contrast, split="train"))
            for contrast in (prepared.source, prepared.target)
        },
        "subjects": len(subjects),
        "validation": "held-out slices" if held_out.held_out else "training slices",
        "validation_pairs": held_out.paired,
    }
    return BundleManifest(
        source=prepared.source,
        target=prepared.target,
        preset=settings.preset,
        networks=settings.networks,
        standard=prepared.standard,
        typical=store.manifest.typical,
        pictures=_holds_pictures(store),
        planes=settings.planes,
        least_size=settings.networks.image_size,
        trained=trained,
        scores={},
    )


def as_yaml(settings: BaseModel) -> str:
    """Settings as YAML in the order in which they are declared."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
