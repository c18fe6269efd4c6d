"""What the validations of a training add up to: the best state, and whether to go on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mrbridge.training.settings import TrainSettings

HELD = 2
"""Validations in a row with a verdict before a training is stopped or sent back."""

MOST_RESTARTS = 3
RATE_OF_RESTART = 0.5
"""What every restart leaves of the learning rate."""

GRACE = 0.1
"""Share of a training from random weights that passes before a verdict stops or sends it back:
nothing has gone wrong yet where nothing was ever right."""


@dataclass
class Watch:
    """What the validations of a training add up to: the best of them, and whether to go on.

    A state without a verdict is better than any with one, whatever their criteria.

    Attributes:
        best: the best criterion so far.
        best_is_right: whether that state had no verdict.
        keeps_beginning: whether that state is still the model that the training began with.
        since_best: validations since then.
        held: validations in a row that had a verdict.
        restarts: how often the training was sent back.
        standing: what is wrong by direction, in words; None before the first look.
    """

    best: float = -math.inf
    best_is_right: bool = False
    keeps_beginning: bool = False
    since_best: int = 0
    held: int = 0
    restarts: int = 0
    standing: dict[str, str] | None = None

    @property
    def rate(self) -> float:
        """What restarts have left of the learning rate."""
        return RATE_OF_RESTART**self.restarts

    def begin(self, criterion: float) -> None:
        """Take the model that the training began with for the best so far."""
        self.best = criterion if math.isfinite(criterion) else -math.inf
        self.best_is_right = self.keeps_beginning = True

    def note(self, criterion: float, is_right: bool, counts: bool = True) -> bool:
        """Count a validation; returns whether its state is the best so far.

        Args:
            criterion: larger is better.
            is_right: whether it has no verdict.
            counts: whether a verdict counts towards stopping or going back.
        """
        if is_right != self.best_is_right:
            is_best = is_right
        else:
            # Without anything to ship yet, a criterion that is not finite must do.
            has_none = not math.isfinite(self.best) and not self.keeps_beginning
            is_best = criterion > self.best or has_none
        if is_best:
            self.best = criterion if math.isfinite(criterion) else -math.inf
            self.best_is_right, self.keeps_beginning = is_right, False
        self.since_best = 0 if is_best else self.since_best + 1
        self.held = self.held + 1 if counts and not is_right else 0
        return is_best

    def news(self, wrong: dict[str, str]) -> list[str]:
        """Take what is wrong by direction, in words; returns what was not so at the last look."""
        before = self.standing or {}
        self.standing = wrong
        return [told for direction, told in wrong.items() if before.get(direction) != told]

    def wants_restart(self, settings: TrainSettings) -> bool:
        """Whether the training is to go back to its best state."""
        may = settings.guard == "restart" and self.restarts < MOST_RESTARTS
        return may and self.held >= HELD

    def restart(self) -> None:
        """The training has gone back: a new chance."""
        self.restarts += 1
        self.held = self.since_best = 0

    def why_end(self, settings: TrainSettings) -> str | None:
        """Why the training ends before its time, in words; None where it goes on."""
        if self.wants_restart(settings):
            return None
        if settings.guard != "warn" and self.held >= HELD:
            after = f", after {self.restarts} restarts" if self.restarts else ""
            return f"it has gone wrong in {self.held} validations in a row{after}"
        if settings.patience is not None and self.since_best >= settings.patience:
            return f"no validation was better in the last {self.since_best}"
        return None

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint: the arguments that make an equal one."""
        return asdict(self)
