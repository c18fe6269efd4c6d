"""Whether the generators copy their input, swap bright and dark tissues, or fade.

The losses of an unpaired training are as content with generators that copy or invert as with those
that translate. A model that knows roughly what each tissue becomes, the reference, tells them
apart: the one that the training began with, or else the one that comes with mrbridge.

The limits below were chosen on 14 directions: two skull-stripped patients, two with thick slices,
two sets of pictures and a simulated subject, against a reference that had been trained on simulated
subjects for five minutes only. For 8 of them the true images are known.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from mrbridge.training.validation import Stack, Syntheses, anatomy

INVERTED_BELOW = -0.15
"""Mean of the correlations of intensities and of gradients with the reference's.

True images have 0.50 to 0.88, with noise or not; the same images with the order of their
intensities reversed -0.80 to -0.37; pure noise -0.01 to 0.01.
"""

INVERTED_MEAN_BELOW = -0.3
"""Without a reference: correlation of the mean synthetic with the mean real image, background
included. Only what is a negative as a whole comes below 0, with -0.88 at most."""

COPY_FROM = 0.9
"""Rank correlation with the input, where the reference's own is lower.

Copies with noise, with another curve or histogram of intensities, or mixed with three tenths of a
translation have 0.90 to 1, true images of the other contrast -0.83 to -0.17. Inverted ones reach
0.87, and copies under a blur begin there: either is found as the one or the other.
"""

COPY_WITHOUT_REFERENCE = 0.95
"""The same where nothing tells how alike the two contrasts are, as T2w and PDw are."""

COLLAPSED_BELOW = 0.1
"""Spread of intensities inside the anatomy as a share of the real images'; syntheses have 0.4 and
more, even under a blur."""

_RIM = 1 / 85  # of the rows, 3 pixels of 256: the head's edge is bright inside in all contrasts
_BINS = 64
_LEAST_PIXELS = 50
_NATURAL_DISTANCE = 0.05  # what mean images may always differ by, in the range of 2


class Verdict(IntEnum):
    """What is wrong with a direction, as it stands in metrics.csv; 0 there is nothing."""

    INVERTED = 1
    COPY = 2
    COLLAPSED = 3


@dataclass(frozen=True)
class Reading:
    """What the syntheses of one direction look like.

    Attributes:
        agreement: correlation, in [-1, 1], of intensities inside the anatomy with the reference's;
            without a reference, of the mean synthetic image with the mean real one.
        gradients: correlation of the gradients with the reference's; None without one.
        likeness: rank correlation with the input inside the anatomy, in [-1, 1].
        nmi: normalised mutual information with the input, in [1, 2].
        mean_distance: mean absolute difference of the mean synthetic and the mean real image, as a
            multiple of what separates two halves of the real ones.
        verdict: what is wrong, if anything.
    """

    agreement: float
    gradients: float | None
    likeness: float
    nmi: float
    mean_distance: float
    verdict: Verdict | None


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model that knows the contrasts makes of the held-out slices.

    Half precision, so that it costs little in a checkpoint; a resumed training reads it from there.

    Attributes:
        name: as the user is told of it.
        to_target, to_source: syntheses, (slices, rows, columns), range [-1, 1].
    """

    name: str
    to_target: NDArray[np.float16]
    to_source: NDArray[np.float16]

    @classmethod
    def of(cls, name: str, to_target: Stack, to_source: Stack) -> Reference:
        """A reference of these syntheses, (slices, rows, columns), range [-1, 1]."""
        return cls(name, to_target.astype(np.float16), to_source.astype(np.float16))

    def state(self) -> dict[str, Any]:
        """Tensors and text only, for a checkpoint."""
        return {
            "name": self.name,
            "to_target": torch.from_numpy(self.to_target),
            "to_source": torch.from_numpy(self.to_source),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Reference:
        """What `state` gave."""
        return cls(state["name"], state["to_target"].numpy(), state["to_source"].numpy())


def readings(made: Syntheses, reference: Reference | None) -> dict[str, Reading]:
    """Both directions by the names of their generators, `to_target` and `to_source`."""

    def of_reference(name: str, like: Stack) -> Stack | None:
        kept = None if reference is None else getattr(reference, name)
        # Held-out slices are others where the store was prepared anew between two sessions.
        return None if kept is None or kept.shape != like.shape else kept.astype(np.float32)

    return {
        name: read(given, synthesis, real, of_reference(name, synthesis))
        for name, given, synthesis, real in (
            ("to_target", made.source, made.to_target, made.target),
            ("to_source", made.target, made.to_source, made.source),
        )
    }


def read(given: Stack, made: Stack, real: Stack, reference: Stack | None = None) -> Reading:
    """Look at the syntheses of one direction.

    Args:
        given: the inputs, (slices, rows, columns), range [-1, 1].
        made: what was made of them, the same shape and range.
        real: real images of the contrast that was to be made; of other slices, maybe other numbers.
        reference: what the reference makes of `given`; not used if it is nearly constant itself.
    """
    inside, of_real = _inside(given), _inside(real)
    if inside.sum() < _LEAST_PIXELS or of_real.sum() < _LEAST_PIXELS:
        return Reading(0.0, None, 0.0, 1.0, 0.0, None)
    if not np.isfinite(made).all():
        return Reading(math.nan, None, math.nan, math.nan, math.nan, Verdict.COLLAPSED)
    least = COLLAPSED_BELOW * float(real[of_real].std())
    if reference is not None and reference[inside].std() < least:
        reference = None
    likeness = rank_correlation(given[inside], made[inside])
    if reference is None:
        agreement, gradients = correlation(made.mean(axis=0), real.mean(axis=0)), None
        is_inverted = agreement < INVERTED_MEAN_BELOW
        copy_from = COPY_WITHOUT_REFERENCE
    else:
        agreement = correlation(made[inside], reference[inside])
        gradients = gradient_correlation(made, reference, inside)
        is_inverted = (agreement + gradients) / 2 < INVERTED_BELOW
        # Where the reference's own syntheses are like their input, a copy is still more so.
        copy_from = max(COPY_FROM, (1 + rank_correlation(given[inside], reference[inside])) / 2)
    verdict = None
    if made[inside].std() < least:
        verdict = Verdict.COLLAPSED
    elif likeness > copy_from:
        verdict = Verdict.COPY
    elif is_inverted:
        verdict = Verdict.INVERTED
    nmi = mutual_information(given[inside], made[inside])
    return Reading(agreement, gradients, likeness, nmi, mean_distance(made, real), verdict)


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's correlation of two arrays of one shape, in [-1, 1]; 0 where one is constant."""
    x, y = (np.asarray(values, np.float64).ravel() for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 1e-12 else 0.0


def rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's correlation, which no rising change of intensities hides, in [-1, 1]."""
    return correlation(stats.rankdata(a), stats.rankdata(b))


def gradient_correlation(a: Stack, b: Stack, inside: NDArray[np.bool_]) -> float:
    """Correlation of the in-plane gradients of two stacks inside a mask, in [-1, 1].

    Gradients see which side of an edge is the brighter one, wherever the receive field makes all
    of it bright. A Gaussian of one pixel comes first: noise is mostly gradient.
    """
    parts = []
    for stack in (a, b):
        smooth = ndimage.gaussian_filter(stack, (0, 1, 1))
        parts.append(np.concatenate([part[inside] for part in np.gradient(smooth, axis=(1, 2))]))
    return correlation(*parts)


def mutual_information(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Normalised mutual information (H(a) + H(b)) / H(a, b) of values in [-1, 1].

    1 for independent values, 2 where each tells the other (Studholme et al. 1999,
    doi:10.1016/S0031-3203(98)00091-0), from a joint histogram of 64 x 64 bins.
    """
    x, y = (np.clip((values + 1) * (_BINS / 2), 0, _BINS - 1).astype(np.int64) for values in (a, b))
    joint = np.bincount(x * _BINS + y, minlength=_BINS**2).reshape(_BINS, _BINS) / x.size

    def entropy(shares: NDArray[np.float64]) -> float:
        met = shares[shares > 0]
        return float(-(met * np.log(met)).sum())

    together = entropy(joint)
    return (entropy(joint.sum(0)) + entropy(joint.sum(1))) / together if together > 0 else 1.0


def mean_distance(made: Stack, real: Stack) -> float:
    """How far the mean of `made` is from the mean of `real`; 1 is as far as halves of `real` are.

    Both (slices, rows, columns), range [-1, 1]; mean absolute differences over all pixels.
    """
    natural = _NATURAL_DISTANCE
    if len(real) > 1:
        natural = max(natural, float(np.abs(real[::2].mean(0) - real[1::2].mean(0)).mean()))
    return float(np.abs(made.mean(axis=0) - real.mean(axis=0)).mean()) / natural


def columns(read: dict[str, Reading]) -> dict[str, float]:
    """Both directions' numbers as columns of an epoch's row, `guard_…_to_target` and so on."""
    told: dict[str, float] = {}
    for direction, reading in read.items():
        for name, value in asdict(reading).items():
            if name == "verdict":
                told[f"guard_{name}_{direction}"] = float(value or 0)
            elif value is not None:
                told[f"guard_{name}_{direction}"] = value
    return told


def words(
    read: dict[str, Reading], source: str, target: str, reference: str | None
) -> dict[str, str]:
    """What is wrong, a sentence for each direction that has a verdict.

    Args:
        read: both directions.
        source, target: the contrasts.
        reference: the name of the reference, if there is one.
    """
    told = {}
    for direction, reading in read.items():
        if reading.verdict is None:
            continue
        given, made = (source, target) if direction == "to_target" else (target, source)
        against = f"bright and dark tissues are swapped against {reference}"
        if reading.gradients is None:
            against = f"its mean image is a negative of the mean real {made}"
        sentence = {
            Verdict.INVERTED: f"looks inverted: {against}",
            Verdict.COPY: f"copies its input: the synthetic {made} still looks like {given}",
            Verdict.COLLAPSED: "has gone blank: there is next to nothing inside the head",
        }[reading.verdict]
        told[direction] = f"{given} to {made} {sentence}"
    return told


def _inside(image: Stack) -> NDArray[np.bool_]:
    """The anatomy of a stack without its rim; with it where nothing would be left."""
    mask = anatomy(image)
    width = max(1, round(image.shape[1] * _RIM))
    square = np.ones((1, 1 + 2 * width, 1 + 2 * width), bool)
    eroded: NDArray[np.bool_] = ndimage.binary_erosion(mask, square)
    return eroded if eroded.sum() >= _LEAST_PIXELS else mask
