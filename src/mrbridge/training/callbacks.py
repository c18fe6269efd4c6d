"""What happens around the training steps: schedule, validation, checkpoints, signals."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mrbridge import interruption
from mrbridge.bundle import BundleManifest, save_bundle
from mrbridge.data.dataset import HeldOut, Sample
from mrbridge.errors import Interrupted
from mrbridge.training import guard, pictures
from mrbridge.training.checkpoint import copy_checkpoint, load_state, save_checkpoint
from mrbridge.training.cyclegan import CycleGAN
from mrbridge.training.guard import Reference, readings
from mrbridge.training.live import LiveView, clock, epoch_line
from mrbridge.training.record import Record
from mrbridge.training.settings import TrainSettings
from mrbridge.training.validation import (
    Syntheses,
    criterion,
    shipped_syntheses,
    synthesise,
    validation_scores,
)
from mrbridge.training.watch import GRACE, Watch

log = logging.getLogger(__name__)


class StopOnSignal:
    """Within it, the first SIGINT or SIGTERM asks for an orderly stop, a second SIGINT forces it.

    Raises:
        Interrupted: on a second SIGINT. KeyboardInterrupt would not do: Lightning makes exit code 1
            of it.

    Signals reach the main thread only; elsewhere it does nothing. A signal that the caller ignores
    stays ignored. One that came before, on the command line, is not forgotten.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        interruption.check()
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals over; what they did before comes back at the end."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before = signal.signal(number, self._ask)
                    self._before.setdefault(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise Interrupted(
                "stopped at once", remedy="Go on from the last checkpoint with --resume."
            )
        if not self.requested:
            log.warning("stopping after this step; a checkpoint is written")
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Keeper(pl.Callback):
    """Keeps a run: sets the learning rate, counts, validates, guards, saves, stops.

    `bundle` and `checkpoints/best.ckpt` hold one state, the best one: at first the model that the
    training begins with, if any; then whatever is better by `criterion` and looks right to `guard`.

    Args:
        run: the run's folder.
        settings: of the training.
        manifest: of the bundle, without scores and weights.
        held_out: the validation slices.
        steps_per_epoch: optimiser steps that make an epoch.
        signals: says whether somebody asked for an end.
        data: what tells the store's data from another's (`training.resume`).
        asked: the settings as they lie in the run's folder, so that another session finds out
            whether they still do.
        state: what an earlier session's checkpoint holds, if any.
        beginning: of the bundle that a new training begins with, whose weights are in the model
            already; None where there is none, or where the training goes on.
    """

    def __init__(
        self,
        run: Path,
        settings: TrainSettings,
        manifest: BundleManifest,
        held_out: HeldOut,
        steps_per_epoch: int,
        signals: StopOnSignal,
        data: dict[str, Any],
        asked: TrainSettings,
        state: dict[str, Any] | None,
        beginning: BundleManifest | None = None,
    ) -> None:
        self.run, self.settings, self.manifest = run, settings, manifest
        self.held_out, self.steps_per_epoch, self.signals = held_out, steps_per_epoch, signals
        self.data, self.asked = data, asked
        kept = state["keeper"] if state else {}
        self.seconds: float = kept.get("seconds", 0.0)
        self.watch = Watch(**kept.get("watch", {}))
        # Kept too: whoever was stopped before the first step ships the beginning when resumed.
        self.least_size: int = kept.get("least_size", beginning.least_size if beginning else 0)
        self.shipped: dict[str, Any] | None = kept.get("bundle")
        self.begun: bool = kept.get("begun", beginning is not None)
        reference = kept.get("reference")
        self.reference = None if reference is None else Reference.from_state(reference)
        self.sums: dict[str, Tensor] = kept.get("sums", {})
        self.summed: int = kept.get("summed", 0)
        rows = kept.get("rows", [])
        if state and rows and self.summed and rows[-1]["step"] == state["step"]:
            rows = rows[:-1]  # the clock had cut this epoch, which is now made whole
        self.record = Record(run, rows)
        self.live = LiveView()
        self.finished = False
        self._is_new = state is None or state["step"] == 0
        self._tick = 0.0
        self._epoch_began = 0.0
        self._steps_in_session_epoch = 0

    def _progress(self, step: int) -> float:
        """Share of the training that is done, in [0, 1]."""
        if self.settings.minutes is not None:
            return min(1.0, self.seconds / (60 * self.settings.minutes))
        return step / (self.settings.epochs * self.steps_per_epoch)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the generators do before they learn anything; ship them if it is something."""
        assert isinstance(pl_module, CycleGAN)
        self.signals.listen()  # Lightning has put a handler of its own in front
        self.live.start()
        if self._is_new:
            # Before anything is shipped, so that a run with a bundle can always be resumed.
            self._save(pl_module)
            made, scores = self._look(pl_module, 0)
            self.reference = self._find_reference(pl_module, made)
            if self.begun:
                self.watch.begin(criterion(scores, bool(pl_module.beginning)))
                self._ship(pl_module, 0, scores)
                self._save_best(pl_module)
        self._tick = self._epoch_began = time.monotonic()

    def _find_reference(self, model: CycleGAN, made: Syntheses) -> Reference | None:
        """What tells the guard which tissues are bright: the beginning, or the shipped model."""
        if self.begun:
            return Reference.of("the model it began with", made.to_target, made.to_source)
        source, target = self.manifest.source, self.manifest.target
        known = shipped_syntheses(model, source, target, self.held_out)
        return None if known is None else Reference.of("the shipped model", *known)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate: constant, then linearly to zero."""
        assert isinstance(pl_module, CycleGAN)
        progress = self._progress(pl_module.step)
        share = rate_share(progress, self.settings.decay_from)
        pl_module.rate_share = share * self.watch.rate
        warm_up = self.settings.warm_up
        pl_module.unpaired_share = min(1.0, progress / warm_up) if warm_up else 1.0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
    ) -> None:
        """Count; at the end of an epoch validate and save; stop when it is time."""
        model = pl_module
        assert isinstance(model, CycleGAN)
        for name, value in outputs.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.float()
        self.summed += 1
        self._steps_in_session_epoch += 1
        epoch, rest = divmod(model.step, self.steps_per_epoch)
        if rest == 0 and model.device.type == "cuda":
            torch.cuda.synchronize(model.device)  # or its work would not be in anybody's time
        now = time.monotonic()
        self.seconds += now - self._tick
        self._tick = now

        if self.settings.minutes is not None:
            self.finished = self.seconds >= 60 * self.settings.minutes
        else:
            self.finished = model.step >= self.settings.epochs * self.steps_per_epoch
        if rest == 0 or self.finished:
            self._end_epoch(model, epoch + (rest > 0))
        elif self.signals.requested:
            self._save(model)
        if self.live.is_on:
            self._show(model, outputs)
        if self.finished or self.signals.requested or self._is_pause(model):
            trainer.should_stop = True
        self._tick = time.monotonic()  # validation and saving do not count as training time

    def _is_pause(self, model: CycleGAN) -> bool:
        """Whether this is where the settings end the session."""
        epoch, rest = divmod(model.step, self.steps_per_epoch)
        stop_after = self.settings.stop_after_epochs
        return stop_after is not None and rest == 0 and epoch >= stop_after

    def _end_epoch(self, model: CycleGAN, epoch: int) -> None:
        settings = self.settings
        elapsed = time.monotonic() - self._epoch_began
        row = {"epoch": float(epoch), "step": float(model.step)}
        row |= {name: float(value) / self.summed for name, value in self.sums.items()}
        row["learning_rate"] = settings.learning_rate * model.rate_share
        row["seconds"] = self.seconds
        images = 2 * settings.batch_size * self._steps_in_session_epoch * model.ranks.count
        row["images_per_second"] = images / elapsed
        if model.step % self.steps_per_epoch == 0:
            self.sums, self.summed = {}, 0
        if epoch % settings.validate_every == 0 or self.finished:
            self._validate(model, epoch, row)
        else:
            self.record.add(row)
            if self.signals.requested or self._is_pause(model):
                self._save(model)
        wrong = self.watch.standing if "criterion" in row else None
        log.info("%s", epoch_line(row, wrong or {}))
        self._epoch_began = time.monotonic()
        self._steps_in_session_epoch = 0

    def _validate(self, model: CycleGAN, epoch: int, row: dict[str, float]) -> None:
        """Score, guard, record and save a state; ship it, go back from it, or end with it."""
        made, scores = self._look(model, epoch)
        row |= scores
        row["criterion"] = criterion(scores, bool(model.beginning))
        is_right = self._guard(made, row)
        self.record.add(row)
        counts = self.begun or self._progress(model.step) >= GRACE
        is_best = self.watch.note(row["criterion"], is_right, counts)
        # The checkpoint comes last: whoever is killed before it does all of this again.
        pictures.save_animation(self.run / "samples", self.run / "progress.gif")
        if is_best:
            self._ship(model, epoch, scores)
            self._save_best(model)
        goes_back = not self.finished and self.watch.wants_restart(self.settings)
        if goes_back:
            self._go_back(model)
        if goes_back or not is_best:
            self._save(model)
        why = self.watch.why_end(self.settings)
        if why is not None and not self.finished:
            self.finished = True
            log.warning("the training ends here: %s; the best state stays in the bundle", why)

    def _guard(self, made: Syntheses, row: dict[str, float]) -> bool:
        """Put what the guard reads into a row and say what is new; returns whether all is right."""
        told = readings(made, self.reference)
        row |= guard.columns(told)
        name = None if self.reference is None else self.reference.name
        wrong = guard.words(told, self.manifest.source, self.manifest.target, name)
        for sentence in self.watch.news(wrong):
            log.warning("%s", sentence)
        return not wrong

    def _go_back(self, model: CycleGAN) -> None:
        """Take the best state again, with a lower learning rate; time and steps go on.

        With the step goes the order of the slices: the training does not repeat what led it astray.
        """
        if self.watch.best_is_right:
            state = load_state(self.run / "checkpoints" / "best.ckpt")
        else:
            state = _untrained(model)  # nothing was ever right
        model.restore(state | {"step": model.step})
        model.trainer.strategy.setup_optimizers(model.trainer)  # they take over the state's
        self.watch.restart()
        log.warning(
            "back to %s with %g times the learning rate (restart %d)",
            "the best state" if self.watch.best_is_right else "the beginning",
            self.watch.rate,
            self.watch.restarts,
        )

    def _look(self, model: CycleGAN, epoch: int) -> tuple[Syntheses, dict[str, float]]:
        """Synthesise and score the held-out slices, and draw the sample sheet of an epoch."""
        made = synthesise(model, self.held_out)
        scores = validation_scores(made, self.held_out.paired)
        title = f"epoch {epoch}, step {model.step}"
        source, target = self.manifest.source, self.manifest.target
        sheet = pictures.sample_sheet(made, self.settings.sample_slices, source, target, title)
        pictures.save_sheet(sheet, self.run / "samples" / f"epoch_{epoch:04d}.png")
        self.record.show(made, sheet, epoch)
        return made, scores

    def _ship(self, model: CycleGAN, epoch: int, scores: dict[str, float]) -> None:
        trained = self.manifest.trained | {
            "epochs": epoch,
            "steps": model.step,
            "minutes": round(self.seconds / 60, 2),
        }
        least_size = self.manifest.least_size
        if self.watch.keeps_beginning:
            trained["kept"] = "the model it began with"
            least_size = self.least_size  # it has not got used to this training's surroundings
        told = {"trained": trained, "scores": scores, "least_size": least_size}
        manifest = self.manifest.model_copy(update=told)
        bundle = save_bundle(manifest, model.shipped_weights(), self.run / "bundle")
        self.shipped = bundle.manifest.model_dump(mode="json")
        del self.shipped["trained"]["minutes"]  # `seconds` tells them

    def _save_best(self, model: CycleGAN) -> None:
        folder = self.run / "checkpoints"
        # In this order: a run that is killed in between makes the best state again.
        self._save(model, "best.ckpt")
        copy_checkpoint(folder / "best.ckpt", folder / "last.ckpt")

    def _save(self, model: CycleGAN, name: str = "last.ckpt") -> None:
        state = model.state()
        state["keeper"] = {
            "seconds": self.seconds,
            "watch": self.watch.state(),
            "begun": self.begun,
            "least_size": self.least_size,
            "reference": None if self.reference is None else self.reference.state(),
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "summed": self.summed,
            "rows": self.record.rows,
            "data": self.data,
            "settings": self.asked.model_dump(mode="json"),
            "bundle": self.shipped,
        }
        save_checkpoint(state, self.run / "checkpoints" / name)

    def _show(self, model: CycleGAN, outputs: dict[str, Tensor]) -> None:
        """Redraw the live view."""
        done = self._progress(model.step)
        epoch, step = divmod(model.step, self.steps_per_epoch)
        elapsed = max(1e-9, time.monotonic() - self._epoch_began)
        images = 2 * self.settings.batch_size * self._steps_in_session_epoch * model.ranks.count
        speed = images / elapsed
        numbers = {
            "epoch": f"{epoch + 1}, step {step} of {self.steps_per_epoch}",
            "losses": "  ".join(f"{name} {float(value):.3f}" for name, value in outputs.items()),
            "images a second": f"{speed:.2f}",
            "time left": clock(self.seconds * (1 - done) / done) if done > 0 else "",
        }
        if self.record.rows:
            numbers["last epoch"] = epoch_line(self.record.rows[-1], {})
        if self.watch.standing is not None:
            numbers["guard"] = "; ".join(self.watch.standing.values()) or "nothing wrong"
        self.live.update(numbers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what the training came to, if to nothing, and close what is open."""
        if self.finished and self.watch.keeps_beginning:
            log.warning(
                "training did not improve on the model it began with (criterion %.4g): the bundle "
                "is still that model",
                self.watch.best,
            )
        self.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close what is open."""
        self.close()

    def close(self) -> None:
        """Give the terminal back and flush the records."""
        self.live.stop()
        self.record.close()


def _untrained(model: CycleGAN) -> dict[str, Any]:
    """The state of a model before its first step: the random weights of its seed."""
    fresh = CycleGAN(model.settings)
    looks = {name: v for name, v in model.state_dict().items() if name.startswith("looks.")}
    return {
        "networks": fresh.state_dict() | looks,  # what the data look like is not learned by steps
        "optimizers": None,
        "pools": [fresh.source_pool.state_dict(), fresh.target_pool.state_dict()],
    }


def rate_share(progress: float, decay_from: float) -> float:
    """The learning rate as a share of its start: 1, then from `decay_from` on linearly to 0.

    Args:
        progress: share of the training that is done, in [0, 1].
        decay_from: share from which it falls; 1 keeps it constant.
    """
    if progress <= decay_from or decay_from >= 1:
        return 1.0
    return max(0.0, (1 - progress) / (1 - decay_from))
