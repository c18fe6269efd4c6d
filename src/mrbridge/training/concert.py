"""What processes that train together tell each other around every step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mrbridge.training.callbacks import Keeper, StopOnSignal
from mrbridge.training.cyclegan import CycleGAN
from mrbridge.training.ranks import Ranks


class Concert(pl.Callback):
    """Lets all processes do what the first one's keeper decides; alone, it does nothing.

    Args:
        ranks: this process among them.
        signals: says whether somebody asked this process for an end; then all end.
        keeper: of the first process.
    """

    def __init__(self, ranks: Ranks, signals: StopOnSignal, keeper: Keeper | None) -> None:
        self.ranks, self.signals, self.keeper = ranks, signals, keeper
        self._finished = False
        self._restarts = keeper.watch.restarts if keeper else 0

    @property
    def finished(self) -> bool:
        """Whether the training came to its end, rather than to that of a session."""
        return self.keeper.finished if self.keeper else self._finished

    def callbacks(self) -> list[pl.Callback]:
        """The keeper and this one, in the order in which they must be called."""
        alone = [] if self.ranks.count == 1 else [self]
        return [*([self.keeper] if self.keeper else []), *alone]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, and take what the first one begins with."""
        self.signals.listen()
        self.ranks.wait()  # the first one scores what it begins with

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the first one's rates, which may follow its clock."""
        assert isinstance(pl_module, CycleGAN)
        rates = [pl_module.rate_share, pl_module.unpaired_share]
        pl_module.rate_share, pl_module.unpaired_share = self.ranks.of_first(rates)
        # Before the step, so that the first one writes its checkpoint after it.
        self.signals.requested = self.ranks.any(self.signals.requested)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop where the first one stops, go back where it went back."""
        model = pl_module
        assert isinstance(model, CycleGAN)
        restarts = self.keeper.watch.restarts if self.keeper else 0
        told = [trainer.should_stop, self.finished, self.signals.requested, restarts]
        told = self.ranks.of_first(told)
        trainer.should_stop, self._finished, self.signals.requested, restarts = told
        if restarts != self._restarts:
            self._restarts = restarts
            state = self.ranks.of_first(model.state() if self.ranks.is_first else None)
            if not self.ranks.is_first:
                model.restore(state)
                trainer.strategy.setup_optimizers(trainer)
