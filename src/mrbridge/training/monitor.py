"""The monitor of a training: collapse detection and early stopping.

Unpaired losses do not tell generators that translate from generators that copy their input or
invert the intensities. A reference model that knows roughly how each tissue changes does: the
initial model, or else the shipped one.

The limits below were chosen on 14 directions: two skull-stripped patients, two with thick slices,
two sets of 2D images and a simulated subject, against a reference trained on simulated subjects for
five minutes only. For 8 of them the true images are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from mrbridge.errors import SettingsError
from mrbridge.metrics import ranks
from mrbridge.training.settings import TrainSettings
from mrbridge.training.validation import Stack, ValidationImages, anatomy

INVERTED_BELOW = -0.15
"""Mean of the correlations of intensities and of gradients with the reference's.

True images have 0.50 to 0.88, with noise or without; with their intensities in reverse order, -0.80
to -0.37; pure noise, -0.01 to 0.01.
"""

INVERTED_MEAN_BELOW = -0.3
"""Without a reference: correlation of the mean synthetic with the mean real image, background
included. Only complete negatives are below 0, at -0.88 or less."""

COPY_FROM = 0.9
"""Rank correlation with the input, unless the reference's is nearly as high.

Copies with noise, with another intensity curve or histogram, or mixed with 30 % of a translation
have 0.90 to 1; true images of the other contrast, -0.83 to -0.17. Inverted images reach 0.87, and
blurred copies start there: they are detected as one or the other.
"""

COPY_WITHOUT_REFERENCE = 0.95
"""The same if nothing shows how similar the two contrasts are, as T2w and PDw."""

COLLAPSED_BELOW = 0.1
"""Standard deviation inside the anatomy as a share of the real images'; synthetic images have 0.4
or more, even blurred."""

HELD = 2
"""Validations in a row with a verdict that stop a training."""

GRACE = 0.1
"""Share of a training from random weights in which verdicts do not count towards stopping."""

_RIM = 1 / 85  # of the rows, 3 pixels of 256: the head's edge is bright inside in all contrasts
_LEAST_PIXELS = 50
_REMOVED = "restarts"
_OLD_NAMES = {"keeps_beginning": "best_is_initial", "standing": "failures"}


class Verdict(IntEnum):
    """What is wrong with a direction, as in metrics.csv, which has 0 if nothing is."""

    INVERTED = 1
    COPY = 2
    COLLAPSED = 3


@dataclass(frozen=True)
class Reading:
    """Statistics of the synthetic images of one direction.

    Attributes:
        agreement: correlation with the reference's images inside the anatomy, in [-1, 1]; without a
            reference, of the mean synthetic image with the mean real one.
        gradients: correlation of the gradients with the reference's; None without one.
        likeness: rank correlation with the input inside the anatomy, in [-1, 1].
    """

    agreement: float
    gradients: float | None
    likeness: float
    verdict: Verdict | None


@dataclass(frozen=True, eq=False)
class Reference:
    """Translations of the validation slices by a model that knows the contrasts.

    Each (slices, rows, columns), range [-1, 1]; in half precision, since they are part of every
    checkpoint. `name` is that of the model, in messages.
    """

    name: str
    to_target: Tensor
    to_source: Tensor

    @classmethod
    def of(cls, name: str, to_target: Stack, to_source: Stack) -> Reference:
        """A reference of these images, in any precision."""
        return cls(name, torch.from_numpy(to_target).half(), torch.from_numpy(to_source).half())


def read_both(synthetic: ValidationImages, reference: Reference | None) -> dict[str, Reading]:
    """Read both directions, by the names of their generators, `to_target` and `to_source`."""
    readings = {}
    for name, source, translated, real in (
        ("to_target", synthetic.source, synthetic.to_target, synthetic.target),
        ("to_source", synthetic.target, synthetic.to_source, synthetic.source),
    ):
        expected = None if reference is None else getattr(reference, name).float().numpy()
        # Validation slices differ if the store was prepared again between two sessions.
        if expected is not None and expected.shape != translated.shape:
            expected = None
        readings[name] = read(source, translated, real, expected)
    return readings


def read(source: Stack, synthetic: Stack, real: Stack, reference: Stack | None = None) -> Reading:
    """Compute the statistics of one direction.

    Args:
        source: the inputs, (slices, rows, columns), range [-1, 1].
        synthetic: their translations, the same shape and range.
        real: real images of the contrast of `synthetic`, usually of other slices, any number.
        reference: the reference's translations of `source`; ignored if nearly constant.
    """
    inside, inside_real = _inside(source), _inside(real)
    if inside.sum() < _LEAST_PIXELS or inside_real.sum() < _LEAST_PIXELS:
        return Reading(0.0, None, 0.0, None)
    if not np.isfinite(synthetic).all():
        return Reading(math.nan, None, math.nan, Verdict.COLLAPSED)
    least = COLLAPSED_BELOW * float(real[inside_real].std())
    if reference is not None and reference[inside].std() < least:
        reference = None
    likeness = rank_correlation(source[inside], synthetic[inside])
    if reference is None:
        agreement, gradients = correlation(synthetic.mean(axis=0), real.mean(axis=0)), None
        is_inverted = agreement < INVERTED_MEAN_BELOW
        copy_from = COPY_WITHOUT_REFERENCE
    else:
        agreement = correlation(synthetic[inside], reference[inside])
        gradients = gradient_correlation(synthetic, reference, inside)
        is_inverted = (agreement + gradients) / 2 < INVERTED_BELOW
        # A copy resembles the input even more than the reference's images do.
        copy_from = max(COPY_FROM, (1 + rank_correlation(source[inside], reference[inside])) / 2)
    verdict = None
    if synthetic[inside].std() < least:
        verdict = Verdict.COLLAPSED
    elif likeness > copy_from:
        verdict = Verdict.COPY
    elif is_inverted:
        verdict = Verdict.INVERTED
    return Reading(agreement, gradients, likeness, verdict)


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's correlation of two arrays of one shape, in [-1, 1]; 0 if one is constant."""
    x, y = (np.asarray(values, np.float64).ravel() for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 1e-12 else 0.0


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's correlation, in [-1, 1]: the same for every rising change of intensities."""
    return correlation(ranks(a), ranks(b))


def gradient_correlation(a: Stack, b: Stack, inside: NDArray[np.bool_]) -> float:
    """Correlation of the in-plane gradients of two stacks inside a mask, in [-1, 1].

    Gradients show which side of an edge is brighter, also under a strong receive field. A Gaussian
    of one pixel comes first, since noise is mostly gradient.
    """
    smooth = [ndimage.gaussian_filter(stack, (0, 1, 1)) for stack in (a, b)]
    first, second = ([part[inside] for part in np.gradient(one, axis=(1, 2))] for one in smooth)
    return correlation(np.concatenate(first), np.concatenate(second))


def columns(readings: Mapping[str, Reading]) -> dict[str, float]:
    """Both directions' numbers as columns of metrics.csv, `guard_agreement_to_target` and so on."""
    return {
        f"guard_{name}_{direction}": float(value or 0)
        for direction, reading in readings.items()
        for name, value in asdict(reading).items()
        if value is not None or name == "verdict"
    }


def messages(
    readings: Mapping[str, Reading], source: str, target: str, reference: str | None
) -> dict[str, str]:
    """A sentence for each direction with a verdict; `reference` is the name of the reference."""
    sentences = {}
    for direction, reading in readings.items():
        if reading.verdict is None:
            continue
        original, synthetic = (source, target) if direction == "to_target" else (target, source)
        evidence = f"bright and dark tissues are swapped compared with {reference}"
        if reading.gradients is None:
            evidence = f"its mean image is a negative of the mean real {synthetic}"
        failure = {
            Verdict.INVERTED: f"looks inverted: {evidence}",
            Verdict.COPY: f"copies its input: the synthetic {synthetic} looks like {original}",
            Verdict.COLLAPSED: "has collapsed: its output inside the head is almost constant",
        }[reading.verdict]
        sentences[direction] = f"{original} to {synthetic} {failure}"
    return sentences


def _inside(image: Stack) -> NDArray[np.bool_]:
    """The anatomy of a stack without its rim, or with it if hardly anything would be left."""
    mask = anatomy(image)
    width = max(1, round(image.shape[1] * _RIM))
    square = np.ones((1, 1 + 2 * width, 1 + 2 * width), bool)
    eroded: NDArray[np.bool_] = ndimage.binary_erosion(mask, square)
    return eroded if eroded.sum() >= _LEAST_PIXELS else mask


@dataclass
class EarlyStopping:
    """The best state so far, and whether the training should end early.

    A state without a verdict is better than any with one, whatever their criteria.

    Attributes:
        best: the best criterion so far.
        best_is_right: whether that state had no verdict.
        since_best: validations since then.
        held: validations in a row with a verdict.
        failures: the last validation's messages by direction; None before the first.
    """

    best: float = -math.inf
    best_is_right: bool = False
    best_is_initial: bool = False
    since_best: int = 0
    held: int = 0
    failures: dict[str, str] | None = None

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EarlyStopping:
        """What `asdict` saved, in this version or an older one.

        Raises:
            SettingsError: the training was restarted by guard=restart, which was removed.
        """
        if state.get(_REMOVED):
            raise SettingsError(
                "this run was restarted by guard=restart, which was removed",
                remedy="Continue it with the version that trained it, or start a new run with "
                "--from this one.",
            )
        return cls(**{_OLD_NAMES.get(k, k): v for k, v in state.items() if k != _REMOVED})

    def start_from(self, criterion: float) -> None:
        """Take the initial model as the best so far."""
        self.best = criterion if math.isfinite(criterion) else -math.inf
        self.best_is_right = self.best_is_initial = True

    def update(self, criterion: float, is_right: bool, counts: bool = True) -> bool:
        """Count a validation; returns whether its state is the best so far.

        Args:
            criterion: larger is better.
            is_right: whether the state has no verdict.
            counts: whether a verdict counts towards stopping.
        """
        if is_right != self.best_is_right:
            is_best = is_right
        else:
            # Until there is a bundle, accept a criterion that is not finite.
            has_none = not math.isfinite(self.best) and not self.best_is_initial
            is_best = criterion > self.best or has_none
        if is_best:
            self.best = criterion if math.isfinite(criterion) else -math.inf
            self.best_is_right, self.best_is_initial = is_right, False
        self.since_best = 0 if is_best else self.since_best + 1
        self.held = self.held + 1 if counts and not is_right else 0
        return is_best

    def new_failures(self, failures: dict[str, str]) -> list[str]:
        """Take a validation's messages by direction; returns those that are new."""
        before = self.failures or {}
        self.failures = failures
        return [text for direction, text in failures.items() if before.get(direction) != text]

    def reason_to_stop(self, settings: TrainSettings) -> str | None:
        """Why the training ends early; None if it continues."""
        if settings.guard == "stop" and self.held >= HELD:
            return f"it has gone wrong in {self.held} validations in a row"
        if settings.patience is not None and self.since_best >= settings.patience:
            return f"no validation was better in the last {self.since_best}"
        return None
