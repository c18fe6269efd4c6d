"""The verb `train`: from a store to a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrbridge import models
from mrbridge.bundle import Bundle, load_bundle, read_manifest
from mrbridge.dataset.loader import batches_from, plain_errors
from mrbridge.dataset.sampling import HeldOut, held_out_slices
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import BundleError, Interrupted, MrbridgeError, SettingsError, warn
from mrbridge.extensions import code_in, completed, require
from mrbridge.hardware import choose_device, quick_kernels
from mrbridge.manifest import MOST_SCANS, BundleManifest
from mrbridge.reports import counted, html_table
from mrbridge.settings import checked, read_yaml
from mrbridge.training.checkpoint import (
    check_resumable,
    identity,
    load_state,
    repair_bundle,
    restore,
    resumed_settings,
)
from mrbridge.training.distributed import Ranks, process_group
from mrbridge.training.examples import (
    fit_intensity_mappings,
    for_contrasts,
    is_2d,
    simulated_pairs,
    training_slices,
    weights_for,
)
from mrbridge.training.folder import (
    CHECKPOINT,
    check_replaceable,
    check_target,
    check_unused,
    make_folder,
    only_training,
)
from mrbridge.training.loop import AfterValidation, Plan, RunRecorder, StopOnSignal, run_loop
from mrbridge.training.model import TranslationModel
from mrbridge.training.monitor import EarlyStopping
from mrbridge.training.settings import TrainSettings, resolve

log = logging.getLogger(__name__)

_UNLIMITED = 10**9  # steps of a training that ends by the clock


@dataclass(frozen=True, repr=False)
class Run:
    """A training on disk.

    Attributes:
        path: its folder; `path / "bundle"` is the trained model.
        settings: all settings, defaults included.
        rows: one mapping of numbers an epoch, as in metrics.csv.
        kept_beginning: whether the bundle is still the initial model, since no state was better.
    """

    path: Path
    settings: TrainSettings
    rows: list[dict[str, float]]
    kept_beginning: bool = False

    def __repr__(self) -> str:
        epoch = int(self.rows[-1].get("epoch", 0)) if self.rows else 0
        return f"Run({self.path}, preset {self.settings.preset}, {counted(epoch, 'epoch')})"

    def _repr_html_(self) -> str:
        last = {name: f"{value:.4g}" for name, value in (self.rows or [{}])[-1].items()}
        return html_table(
            {"folder": self.path, "preset": self.settings.preset, **last}.items(), ("run", "")
        )


@checked
def train(
    store: str | Path | Store,
    run: str | Path,
    settings: TrainSettings | Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    start: str | Path = "auto",
    overwrite: bool = False,
    allow_code: bool = False,
    after_validation: AfterValidation | None = None,
    **overrides: Any,
) -> Run:
    """Train a translation model on a prepared store.

    `train("store", "run", preset="unet", epochs=30)`. If `torchrun` started several processes, they
    train together.

    Args:
        store: the store, its path or its URL.
        run: the run's folder.
        settings: all settings, or those that differ from the preset's; of a resumed run, those that
            differ from its own.
        resume: continue the run, exactly from where it stopped.
        device: `auto`, `cpu` or `cuda`.
        start: initial weights of a new run: `auto` (the shipped model if networks and contrasts are
            its own, otherwise random weights), `scratch` (random), `shipped`, or a run or bundle.
        overwrite: replace the run in the folder.
        allow_code: import code that the store, the resumed run or the initial model names
            (`module:Name`). Code that `settings` name is imported in any case.
        after_validation: called after each validation with the share of the training that is done,
            in [0, 1], and the epoch's numbers, as in metrics.csv; if it returns True, the training
            ends there.
        overrides: single settings, by name; nested ones as mappings.

    Raises:
        BundleError: the initial model is missing or damaged.
        OutputError: the folder is not empty, and neither `resume` nor `overwrite` applies.
        SettingsError: a setting is unknown or impossible, the resumed run cannot take a change or
            this store, or `run` is a URL.
        StoreError: the store cannot be used.
        Interrupted: a signal stopped the training; a checkpoint is written.
        MrbridgeError: losses became infinite or NaN, and it never reached a usable state.
    """
    check_target(run, resume=resume, overwrite=overwrite)
    run = Path(run)
    changes: TrainSettings | Mapping[str, Any]
    if isinstance(settings, TrainSettings):
        changes = settings.changed(overrides) if overrides else settings
    else:
        changes = {**(settings or {}), **overrides}
    new: TrainSettings | None = None
    if not resume:
        new = completed(changes if isinstance(changes, TrainSettings) else resolve(changes))
    with (
        process_group(choose_device(device)) as (ranks, own_device),
        # Every step seeds PyTorch's random numbers, which may be the caller's too.
        torch.random.fork_rng(devices=[own_device] if own_device.type == "cuda" else []),
        only_training(run, resume) if ranks.is_first else nullcontext(),
    ):
        opened = store if isinstance(store, Store) else Store.open(store)
        require(code_in(opened.manifest.settings.standard), allow_code, opened.path)
        if new is None:
            state = load_state(run / CHECKPOINT)
            first = _Start(resumed_settings(state, run, changes), state)
            del state  # `_train` frees its memory
            require(code_in(first.settings), allow_code, run)
        else:
            if ranks.is_first:  # the others might see what it has written
                (check_replaceable if overwrite else check_unused)(run)
            prepared = opened.manifest.settings
            initial = find_initial_model(start, new, prepared, allow_code=allow_code)
            first = _Start(for_contrasts(new, opened), initial=initial)
        return _train(opened, run, first, own_device, ranks, overwrite, after_validation)


def train_or_resume(
    store: str | Path | Store,
    run: Path,
    settings: TrainSettings,
    *,
    allow_code: bool = False,
    **more: Any,
) -> Run:
    """Train, or resume the run in the folder if it has a checkpoint: for many trainings in a row.

    A run without a checkpoint is replaced. Code that `settings` name is imported in any case.
    Arguments and errors as of `train`.
    """
    if not (run / CHECKPOINT).exists():
        more |= {"overwrite": run.exists(), "allow_code": allow_code}
        return train(store, run, settings, resume=False, **more)
    opened = store if isinstance(store, Store) else Store.open(store)
    require(code_in(opened.manifest.settings.standard), allow_code, opened.path)
    path = run / "settings.yaml"
    kept = TrainSettings.build(read_yaml(path), origin=path)
    is_named = set(code_in(kept)) <= set(code_in(completed(settings)))
    return train(opened, run, resume=True, allow_code=allow_code or is_named, **more)


@dataclass
class _Start:
    """Where a training starts: from the last checkpoint of its run, a model, or random weights."""

    settings: TrainSettings
    state: dict[str, Any] | None = None
    initial: Bundle | None = None

    @property
    def initial_size(self) -> int | None:
        """`least_size` of the run's initial model; None if it has none."""
        if self.state is not None:
            kept = self.state["keeper"]
            return kept.get("least_size", 0) if kept["begun"] else None
        return None if self.initial is None else self.initial.manifest.least_size

    @property
    def scans(self) -> frozenset[str]:
        """Those that the initial model, or the run so far, was trained on."""
        if self.state is not None:
            return frozenset(self.state["keeper"].get("data", {}).get("trained_on", ()))
        return frozenset(() if self.initial is None else self.initial.manifest.trained_on)


def find_initial_model(
    start: str | Path,
    settings: TrainSettings,
    prepared: PrepareSettings,
    *,
    allow_code: bool = False,
) -> Bundle | None:
    """The bundle whose generators a training starts from; None for random weights.

    Args:
        start: `scratch`; `auto`, the shipped model if it fits; `shipped`; or the path of a run or
            bundle.
        prepared: how its scans were prepared; the bundle has their contrasts in either order.
        allow_code: import code that the bundle names.

    Raises:
        SettingsError: the bundle has other generators or contrasts.
        BundleError: there is none, or it is damaged.
    """
    source, target = prepared.source, prepared.target
    if start == "auto" and prepared.standard.foreground != "head":
        log.info("starting from random weights: the shipped model knows only heads")
        start = "scratch"
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
        return load_bundle(model, allow_code=allow_code)
    if start == "auto":
        if "contrasts" in differs:
            log.info(
                "starting from random weights: the shipped model starts trainings of %s and %s, "
                "not of %s and %s",
                *(manifest.source, manifest.target, source, target),
            )
        return None
    raise SettingsError(
        f"this training cannot start from {model}: it has other {' and other '.join(differs)}",
        remedy="Use the preset that it was trained with, or --from scratch.",
    )


def _train(
    store: Store,
    run: Path,
    start: _Start,
    device: torch.device,
    ranks: Ranks,
    overwrite: bool,
    after_validation: AfterValidation | None,
) -> Run:
    """Train as one of `ranks`."""
    settings = start.settings
    validation = held_out_slices(store, settings.networks.image_size, settings.validation_slices)
    dataset = training_slices(store, settings)
    weights = weights_for(settings, dataset, has_initial=start.initial_size is not None)
    samples_per_step = settings.batch_size * ranks.count
    steps_per_epoch = settings.steps_per_epoch or max(1, len(dataset) // samples_per_step)
    last_step = _UNLIMITED if settings.minutes else settings.epochs * steps_per_epoch
    known = start.scans
    if start.state is not None:
        check_resumable(start.state, run, store, weights, ranks.count)
        if ranks.is_first:
            repair_bundle(start.state, run, settings, weights)
        if _is_complete(start.state, settings, last_step):
            log.info("the run is complete already")
            kept = start.state["keeper"]
            is_initial = EarlyStopping.from_state(kept["watch"]).best_is_initial
            return Run(run, settings, kept["rows"], is_initial)
    _warn_of_leaks(store, known, "this run" if start.initial is None else "the initial model")
    if not validation.held_out:
        warn("the store has no validation split: validation scores are of training slices")
    model = TranslationModel(settings, weights, ranks)
    if start.initial is not None:
        model.initialise_from(start.initial, store.contrasts[1])
        if weights.simulated:
            mappings = model.intensity_mappings
            fit_intensity_mappings(mappings, dataset.banks, store.contrasts, device)

    # Only now: a training that cannot start leaves no folder in the way of the next attempt.
    if ranks.is_first:
        make_folder(run, settings, overwrite)
        dataset.simulated = simulated_pairs(store, settings, weights, run / "simulated.npz")
    ranks.barrier()
    if not ranks.is_first:  # only now: the first process has written the file
        dataset.simulated = simulated_pairs(store, settings, weights, run / "simulated.npz")
    ranks.broadcast(model)
    model.to_device(device)
    if start.state is not None:
        restore(model, start.state, run / CHECKPOINT)
    manifest = bundle_manifest(store, settings, validation, known)
    plan = Plan(
        run,
        settings,
        manifest,
        validation,
        steps_per_epoch,
        identity(store) | {"trained_on": list(manifest.trained_on)},
        start.initial_size,
        () if start.initial is None else start.initial.manifest.trained_on,
        after_validation,
    )
    with StopOnSignal() as signals, plain_errors(), quick_kernels(device):
        recorder = RunRecorder(plan, model, signals, start.state) if ranks.is_first else None
        start.state = None  # its tensors live on in the model and the optimisers
        share = (ranks.rank, ranks.count)
        batches = batches_from(dataset, settings.batch_size, model.step, last_step, device, share)
        with closing(recorder) if recorder else nullcontext():
            finished = run_loop(model, batches, recorder, signals)
        if signals.requested and not finished:
            raise Interrupted(
                f"stopped at step {model.step}", path=run, remedy="Continue with --resume."
            )
    return Run(run, settings, []) if recorder is None else _result(recorder)


def _warn_of_leaks(store: Store, known: Collection[str], who: str) -> None:
    """Warn if scans that the store holds out were trained on before."""
    held = [one for one in store.records() if one.segments and "train" not in one.segments]
    seen = [one for one in held if one.short_hash in known]
    if seen:
        warn(
            f"{who} was trained on {len(seen)} of the {len(held)} scans that the store holds out "
            "for validation and test: their scores will be inflated. A column split of "
            "participants.tsv or of a table keeps a split when scans are added."
        )


def bundle_manifest(
    store: Store, settings: TrainSettings, validation: HeldOut, known: Collection[str]
) -> BundleManifest:
    """The manifest of a training's bundle, without scores and weights.

    `known` are the scans that the initial model, or the run so far, was trained on.
    """
    prepared = store.manifest.settings
    scans = sorted({*known, *(one.short_hash for one in store.records(split="train"))})
    trained: dict[str, Any] = {
        "scans": {
            contrast: len(store.records(contrast=contrast, split="train"))
            for contrast in store.contrasts
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
        pictures=is_2d(store),
        planes=settings.planes,
        least_size=settings.networks.image_size,
        trained=trained,
        trained_on=tuple(scans) if len(scans) <= MOST_SCANS else (),
        scores={},
    )


def _result(recorder: RunRecorder) -> Run:
    """What has come of a training; MrbridgeError if nothing, because it diverged."""
    plan, rows, stopping = recorder.plan, recorder.log.rows, recorder.stopping
    if recorder.finished and stopping.best_is_initial:
        log.warning(
            "training did not improve on the initial model (criterion %.4g): the bundle is still "
            "that model",
            stopping.best,
        )
    if rows and not math.isfinite(rows[-1].get("generators", 0)) and not stopping.best_is_right:
        raise MrbridgeError(
            "the training diverged: its losses are not finite, and it never reached a usable state",
            path=plan.run,
            remedy="Train again with a lower learning_rate.",
        )
    return Run(plan.run, plan.settings, rows, stopping.best_is_initial)


def _is_complete(state: dict[str, Any], settings: TrainSettings, last_step: int) -> bool:
    kept = state["keeper"]
    if EarlyStopping.from_state(kept["watch"]).reason_to_stop(settings) is not None:
        return True
    if settings.minutes is not None:
        return bool(kept["seconds"] >= 60 * settings.minutes)
    return bool(state["step"] >= last_step)
