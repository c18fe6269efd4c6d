"""The training loop: steps, validation, checkpoints, early stopping, signals."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console, Group
from rich.live import Live
from torch import Tensor

from mrbridge import interruption, progress
from mrbridge.bundle import save_bundle
from mrbridge.dataset.sampling import HeldOut, Sample
from mrbridge.errors import Interrupted
from mrbridge.manifest import BundleManifest
from mrbridge.reports import counted
from mrbridge.training import monitor
from mrbridge.training.checkpoint import copy_checkpoint, save_checkpoint
from mrbridge.training.logging import TrainingLog, sample_sheet
from mrbridge.training.model import TranslationModel
from mrbridge.training.monitor import GRACE, EarlyStopping, Reference, read_both
from mrbridge.training.settings import TrainSettings
from mrbridge.training.validation import (
    ValidationImages,
    calibrate,
    criterion,
    shipped_translations,
    synthesise,
    validation_scores,
)
from mrbridge.training.words import best_epoch, epoch_line, view

log = logging.getLogger(__name__)

AfterValidation = Callable[[float, Mapping[str, float]], bool]
"""Called after each validation with the share of the training that is done, in [0, 1], and the
epoch's numbers, as in metrics.csv; returns whether the training ends here."""


class StopOnSignal:
    """Context manager: the first SIGINT or SIGTERM requests a stop, a second SIGINT forces it.

    Signals reach the main thread only; in others it does nothing. A signal that the caller ignores
    stays ignored. One that came before, on the command line, still counts.

    Raises:
        Interrupted: on a second SIGINT.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        interruption.check()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise Interrupted(
                "stopped at once", remedy="Continue from the last checkpoint with --resume."
            )
        if not self.requested:
            log.warning("stopping after this step; a checkpoint is written")
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first step.

    Attributes:
        manifest: of the bundle, without scores and weights.
        data: what identifies the store's data (`checkpoint.identity`), and the scans that the run
            was trained on (`BundleManifest.trained_on`).
        initial_size: `least_size` of the initial model; None if training started from random
            weights.
        initial_scans: those that the initial model was trained on.
    """

    run: Path
    settings: TrainSettings
    manifest: BundleManifest
    validation: HeldOut
    steps_per_epoch: int
    data: dict[str, Any]
    initial_size: int | None
    initial_scans: tuple[str, ...] = ()
    after_validation: AfterValidation | None = None


def run_loop(
    model: TranslationModel,
    batches: Iterable[Sample],
    recorder: RunRecorder | None,
    signals: StopOnSignal,
) -> bool:
    """Train until the end, a pause, a reason to stop early, or a signal (to any of the processes);
    whether the training is finished, rather than stopped to be resumed. The model is on its device,
    its state restored; there is a batch for each step from its step on. Only the first of the
    processes that train together has a recorder."""
    ranks, stops, finished = model.ranks, False, False
    if recorder is not None:
        recorder.start()
    ranks.barrier()
    for batch in batches:
        (progress,) = ranks.from_first(recorder.progress() if recorder else 0.0)
        # Before the step, so that the first process writes its checkpoint after it.
        signals.requested = ranks.any(signals.requested)
        images = Sample(*(part.to(model.device, non_blocking=True) for part in batch))
        losses = model.training_step(images, progress)
        if recorder is not None:
            recorder.after_step(losses)
            finished = recorder.finished
            stops = finished or signals.requested or recorder.is_pause()
        stops, finished, signals.requested = map(
            bool, ranks.from_first(stops, finished, signals.requested)
        )
        if stops:
            break
    return finished


class RunRecorder:
    """Records a run in its folder: counts steps, validates, saves checkpoints and the bundle, logs.

    `bundle` and `checkpoints/best.ckpt` hold the best state so far by `criterion`, of those without
    a verdict of the monitor if there are any: at first the initial model, if there is one. `state`
    is that of the checkpoint to resume from.
    """

    def __init__(
        self,
        plan: Plan,
        model: TranslationModel,
        signals: StopOnSignal,
        state: dict[str, Any] | None,
    ) -> None:
        self.plan, self.model, self.signals = plan, model, signals
        kept = state["keeper"] if state else {}
        self.seconds: float = kept.get("seconds", 0.0)
        self.stopping = EarlyStopping.from_state(kept.get("watch", {}))
        self.finished = False
        self._bundle: dict[str, Any] | None = kept.get("bundle")
        reference = kept.get("reference")
        self._reference = None if reference is None else Reference(**reference)
        self._sums: dict[str, Tensor] = kept.get("sums", {})
        self._summed: int = kept.get("summed", 0)
        rows = kept.get("rows", [])
        if state and rows and self._summed and rows[-1]["step"] == state["step"]:
            rows = rows[:-1]  # the clock ended this epoch early; it is completed now
        self.log = TrainingLog(plan.run, rows)
        self._live: Live | None = None
        self._is_new = state is None or state["step"] == 0
        self._tick = self._epoch_began = time.monotonic()
        self._steps_in_epoch = 0  # of this session

    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        settings = self.plan.settings
        if settings.minutes is not None:
            return min(1.0, self.seconds / (60 * settings.minutes))
        return self.model.step / (settings.epochs * self.plan.steps_per_epoch)

    def is_pause(self) -> bool:
        """Whether the settings end the session here."""
        epoch, rest = divmod(self.model.step, self.plan.steps_per_epoch)
        stop_after = self.plan.settings.stop_after_epochs
        return stop_after is not None and rest == 0 and epoch >= stop_after

    def start(self) -> None:
        """Validate a new training before its first step; its initial model is the first bundle."""
        if progress.wanted():
            self._live = Live(console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        if self._is_new:
            # Before the bundle, so that a run with a bundle can always be resumed.
            self._save()
            synthetic, scores = self._look(0)
            self._reference = self._find_reference(synthetic)
            if self.plan.initial_size is not None:
                self.stopping.start_from(criterion(scores, bool(self.model.initial)))
                self._save_bundle(0, scores)
                self._save_best()
        elif (rate := self.model.rate_at(self.progress())) > self.model.learning_rate:
            log.warning(
                "the learning rate rises again, from %.3g to %.3g: it falls to zero at the end of "
                "the longer training",
                *(self.model.learning_rate, rate),
            )
        self._tick = self._epoch_began = time.monotonic()

    def _find_reference(self, synthetic: ValidationImages) -> Reference | None:
        """The monitor's reference: translations by the initial model, or by the shipped one."""
        if self.plan.initial_size is not None:
            return Reference.of("the initial model", synthetic.to_target, synthetic.to_source)
        known = shipped_translations(self.model, *self._contrasts, self.plan.validation)
        return None if known is None else Reference.of("the shipped model", *known)

    def after_step(self, losses: dict[str, Tensor]) -> None:
        """Count a step; at the end of an epoch log, validate and save."""
        model = self.model
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.float()
        self._summed += 1
        self._steps_in_epoch += 1
        epoch, rest = divmod(model.step, self.plan.steps_per_epoch)
        if rest == 0 and model.device.type == "cuda":
            torch.cuda.synchronize(model.device)  # its work is asynchronous: count its time, too
        now = time.monotonic()
        self.seconds += now - self._tick
        self._tick = now
        self.finished = self.progress() >= 1
        if rest == 0 or self.finished:
            self._end_epoch(epoch + (rest > 0))
        elif self.signals.requested:
            self._save()
        if self._live is not None:  # gathering the numbers takes time, on a GPU a wait for each
            self._live.update(self._view(losses))
        self._tick = time.monotonic()  # validation and saving do not count as training time

    def _images_per_second(self) -> float:
        images = 2 * self.plan.settings.batch_size * self._steps_in_epoch * self.model.ranks.count
        return images / max(1e-9, time.monotonic() - self._epoch_began)

    def _end_epoch(self, epoch: int) -> None:
        model = self.model
        row = {
            "epoch": float(epoch),
            "step": float(model.step),
            **{name: float(value) / self._summed for name, value in self._sums.items()},
            "learning_rate": model.learning_rate,
            "seconds": self.seconds,
            "images_per_second": self._images_per_second(),
        }
        if model.step % self.plan.steps_per_epoch == 0:
            self._sums, self._summed = {}, 0
        failures: dict[str, str] = {}
        if epoch % self.plan.settings.validate_every == 0 or self.finished:
            self._validate(epoch, row)
            failures = self.stopping.failures or {}
        else:
            self.log.add(row)
            if self.signals.requested or self.is_pause():
                self._save()
        log.info("%s", epoch_line(row, self._contrasts, self._best(), failures))
        self._epoch_began = time.monotonic()
        self._steps_in_epoch = 0

    def _validate(self, epoch: int, row: dict[str, float]) -> None:
        """Score, monitor, log and save a state; end the training if it should stop early."""
        synthetic, scores = self._look(epoch)
        row |= scores
        row["criterion"] = criterion(scores, bool(self.model.initial))
        is_right = self._monitor(synthetic, row)
        self.log.add(row)
        counts = self.plan.initial_size is not None or self.progress() >= GRACE
        is_best = self.stopping.update(row["criterion"], is_right, counts)
        # The checkpoint comes last: a run that is killed before repeats all of this.
        self.log.save_animation()
        if is_best:
            self._save_bundle(epoch, scores)
            self._save_best()
        else:
            self._save()
        reason = self.stopping.reason_to_stop(self.plan.settings)
        if reason is not None and not self.finished:
            self.finished = True
            log.warning("the training ends here: %s; the best state stays in the bundle", reason)
        ends = self.plan.after_validation
        if ends is not None and ends(self.progress(), row):
            self.finished = True

    def _monitor(self, synthetic: ValidationImages, row: dict[str, float]) -> bool:
        """Add the monitor's statistics to a row and warn of failures; whether there are none."""
        readings = read_both(synthetic, self._reference)
        row |= monitor.columns(readings)
        name = None if self._reference is None else self._reference.name
        failures = monitor.messages(readings, *self._contrasts, name)
        for message in self.stopping.new_failures(failures):
            log.warning("%s", message)
        return not failures

    def _look(self, epoch: int) -> tuple[ValidationImages, dict[str, float]]:
        """Translate and score the validation slices, and draw the sample sheet of an epoch."""
        synthetic = synthesise(self.model, self.plan.validation)
        scores = validation_scores(synthetic, self.plan.validation.paired)
        title = f"epoch {epoch}, step {self.model.step}"
        rows = self.plan.settings.sample_slices
        sheet = sample_sheet(synthetic, rows, *self._contrasts, title)
        self.log.add_samples(synthetic, sheet, epoch)
        return synthetic, scores

    def _save_bundle(self, epoch: int, scores: dict[str, float]) -> None:
        manifest = self.plan.manifest
        trained = manifest.trained | {
            "epochs": epoch,
            "steps": self.model.step,
            "minutes": round(self.seconds / 60, 2),
        }
        changes: dict[str, Any] = {"trained": trained, "scores": scores}
        if self.stopping.best_is_initial:
            trained["kept"] = "the initial model"
            changes["least_size"] = self.plan.initial_size  # nothing was trained at another size
            changes["trained_on"] = self.plan.initial_scans
        known = calibrate(self.model, self.plan.validation, self._contrasts)
        manifest = manifest.model_copy(update=changes | {"uncertainty": known})
        weights = self.model.bundle_weights(scale_heads=known is not None)
        bundle = save_bundle(manifest, weights, self.plan.run / "bundle")
        self._bundle = bundle.manifest.model_dump(mode="json")
        del self._bundle["trained"]["minutes"]  # differs between equal runs; `seconds` has it

    def _save_best(self) -> None:
        folder = self.plan.run / "checkpoints"
        # In this order, so that a run that is killed in between computes the best state again.
        self._save("best.ckpt")
        copy_checkpoint(folder / "best.ckpt", folder / "last.ckpt")

    def _save(self, name: str = "last.ckpt") -> None:
        state = self.model.state()
        size = self.plan.initial_size
        state["keeper"] = {
            "seconds": self.seconds,
            "watch": asdict(self.stopping),
            "begun": size is not None,
            "least_size": size or 0,
            "reference": None if self._reference is None else dict(vars(self._reference)),
            "sums": {name: value.cpu() for name, value in self._sums.items()},
            "summed": self._summed,
            "rows": self.log.rows,
            "data": self.plan.data,
            "settings": self.plan.settings.model_dump(mode="json"),
            "bundle": self._bundle,
        }
        save_checkpoint(state, self.plan.run / "checkpoints" / name)

    @property
    def _contrasts(self) -> tuple[str, str]:
        return self.plan.manifest.source, self.plan.manifest.target

    def _best(self) -> str:
        """The best state so far, and since when."""
        epoch, since = best_epoch(self.log.rows), self.stopping.since_best
        if epoch is None and not self.stopping.best_is_initial:
            return ""
        state = "the initial model" if self.stopping.best_is_initial else f"epoch {epoch}"
        return f"{state}, {counted(since, 'validation')} ago" if since else state

    def _view(self, losses: dict[str, Tensor]) -> Group:
        settings, total = self.plan.settings, self.plan.steps_per_epoch
        epoch, step = divmod(self.model.step, total)
        of = "" if settings.minutes is not None else f" of {settings.epochs}"
        place = f"epoch {epoch}{of}"
        if step or not self.finished:
            place = f"epoch {epoch + 1}{of}, step {step} of {total}"
        return view(
            contrasts=self._contrasts,
            share=self.progress(),
            seconds=self.seconds,
            about=f"{place}; {self._images_per_second():.2f} images per second",
            rows=self.log.rows,
            losses={name: float(value) for name, value in losses.items()},
            best=self._best(),
            failures=self.stopping.failures,
        )

    def close(self) -> None:
        """Give the terminal back and flush the logs."""
        if self._live is not None:
            self._live.stop()
        self.log.close()
