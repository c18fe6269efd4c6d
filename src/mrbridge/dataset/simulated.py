"""Simulated pairs: slices of simulated subjects, of whom both contrasts are known.

A purely unpaired objective tends to copy, or to swap tissues, for hundreds of epochs. Simulated
subjects teach a generator how fluid, grey and white matter, bone and fat look in the other
contrast, without any pair of real scans.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mrbridge.dataset.augment import Augmentation, to_float32
from mrbridge.dataset.settings import AugmentSettings
from mrbridge.io.atomic import atomic_path
from mrbridge.phantom.subjects import VariedSubject, varied_subject
from mrbridge.preprocessing.foreground import crop_to_head
from mrbridge.preprocessing.geometry import fit_size, to_slices
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import IntensitySettings, PreprocessSettings
from mrbridge.progress import track

CANONICAL = {
    "T1w": IntensityNormalisation(low=0.0095, high=0.075, knee=0.042),
    "T2w": IntensityNormalisation(low=0.0, high=0.68),
    "PDw": IntensityNormalisation(low=0.0, high=0.75),
    "FLAIR": IntensityNormalisation(low=0.0, high=0.36, knee=0.12),
}
"""The canonical signals in [-1, 1]: the same in every subject, whole head or stripped brain.

In T1w white matter is just below the knee and fluid just above black; in T2w fluid is 1; in FLAIR
the knee is between grey matter and most lesions.
"""

_PAIR = ("T1w", "T2w")
_VARIETY = AugmentSettings(rotate_degrees=12, scale=0.15, shift=0.04, gamma=0.6, noise=0.03)

_MIX_OFTEN = 0.7  # how often parts of a slice come from another slice, and
_MIX_SHARE = (0.1, 0.5)  # which share of it
_MIX_KNOTS = (5, 12)  # knots along an edge of the random field that outlines the parts

_DARK_OFTEN = 0.7  # how often fluid of T1w is brought down towards black, and
_DARK_SHARE = (0.6, 1.4)  # how far: 1 is as dark as the darkest; but
_DARK_SHARE_OF_HEADS = (0.0, 0.6)  # if there is a skull, which is darker than fluid
_CUT_AWAY = 0.5  # share of every slice that is black if all but the brain was cut away
_FLUID = 0.85  # canonical T2w from which a pixel is only fluid, and
_ENOUGH_FLUID = 60  # how many such pixels tell its level
_BRIGHT = 0.5  # fluid that would be brighter than that in T1w is left unchanged

_FIELD_OF_VIEW_MM = 256.0
_LEAST_FOREGROUND = 0.02
_SEED = 982_451_653  # added to the training's seed: the demo's own subjects have small seeds


class SimulatedPairs:
    """Groups of slices of simulated subjects: each contrast as input and as ground truth.

    Inputs vary in protocol, noise, bias field, slice thickness, skull or none; ground truth is
    canonical.

    Args:
        standard: preprocessing of the store's scans.
        pictures: whether they are 2D images, which have no spacing and a fixed range.
        source: contrast of the first two slices of a group, one of T1w, T2w, PDw and FLAIR.
        target: contrast of the other two.
        seed: of the subjects and of the order of the groups.
        cache: a file that keeps the groups, since a subject at 1 mm takes seconds to simulate; one
            that is damaged or of other arguments is replaced. None: no file.

    Raises:
        OutputError: `cache` cannot be written.
    """

    def __init__(
        self,
        standard: PreprocessSettings,
        pictures: bool,
        source: str,
        target: str,
        image_size: int,
        subjects: int,
        seed: int,
        cache: Path | None = None,
    ) -> None:
        self.seed = seed
        self._contrasts = source, target
        if pictures:
            straight = IntensitySettings(knee_percentile=100)
            spacing = _FIELD_OF_VIEW_MM / image_size
            standard = PreprocessSettings(spacing_mm=spacing, intensity=straight)
        # All subjects are stripped if those of the store are.
        stripped = True if standard.brain != "none" else None
        # They are roughly aligned with the template, on one grid with their ground truth; and a
        # network that has seen noise does not mind its absence.
        simulated = standard.model_copy(update={"brain": "none", "align": "none", "denoise": False})
        shape = [3, standard.model_dump(mode="json"), source, target, image_size, subjects, seed]
        key = hashlib.sha256(json.dumps(shape).encode()).hexdigest()  # of all but the code
        cached = None if cache is None else _read_cache(cache, key)
        if cached is None:
            groups = [
                subject_groups(
                    varied_subject(
                        _SEED + seed,
                        index,
                        standard.spacing_mm or 1.0,
                        stripped,
                        contrasts=(source, target),
                    ),
                    simulated,
                    (source, target),
                    image_size,
                )
                for index in track(range(subjects), "simulate", subjects)
            ]
            ends = np.cumsum([len(group) for group in groups])
            cached = np.concatenate(groups), ends
            if cache is not None:
                with atomic_path(cache) as temporary, open(temporary, "wb") as file:
                    np.savez(file, key=np.array(key), groups=cached[0], ends=ends)
        self.groups, self._ends = cached

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, index: int) -> NDArray[np.float32]:
        """Group `index` of an endless random sequence.

        Returns:
            Shape (4, rows, columns), range [-1, 1]: the source contrast as input and as ground
            truth, then the same of the target contrast.
        """
        rng = np.random.default_rng([self.seed, 5, index])
        # A subject is drawn first, then one of its slices: thick slices are few.
        subject = int(rng.integers(len(self._ends)))
        start = int(self._ends[subject - 1]) if subject else 0
        return draw_group(self.groups[start : self._ends[subject]], rng, self._contrasts)


def draw_group(
    groups: NDArray[np.float16],
    rng: np.random.Generator,
    contrasts: Sequence[str] = _PAIR,
    mixed: float = _MIX_OFTEN,
) -> NDArray[np.float32]:
    """One of a subject's groups, with parts of another and darker fluid in its T1w input.

    Args:
        groups: of one subject, (groups, 2 contrasts, rows, columns).
        contrasts: of a group, in its order; fluid is darkened if T1w and T2w are among them.
        mixed: how often parts of a slice come from another slice.
    """
    group = _mixed(groups, rng, mixed)
    if set(_PAIR) <= set(contrasts) and rng.random() < _DARK_OFTEN:
        t1w, true_t2w = 2 * contrasts.index("T1w"), 2 * contrasts.index("T2w") + 1
        # Slices at the edge of a whole head are mostly black, too: the subject decides.
        is_brain = (groups[::8, t1w, ::2, ::2] <= -1).mean(axis=(1, 2)).min() > _CUT_AWAY
        share = rng.uniform(*(_DARK_SHARE if is_brain else _DARK_SHARE_OF_HEADS))
        _darken_fluid(group[t1w], group[true_t2w] > _FLUID, share)
    return group


def _darken_fluid(t1w: NDArray[np.float32], fluid: NDArray[np.bool_], share: float) -> None:
    """Stretch a T1w slice downwards, in place, until its fluid is near its darkest value.

    In scans that were stripped and corrected, fluid is often as dark as the background; what is
    half as dark is then cortex next to a sulcus, not fluid. Signal equations seldom give that. In
    whole heads bone stays darker than fluid, or they would differ in position only.
    """
    if np.count_nonzero(fluid) < _ENOUGH_FLUID:
        return
    # Multiplying by masks takes a tenth of the time of indexing by them.
    outside = t1w <= -1
    darkest = float((t1w + np.float32(2) * outside).min())
    usual = float(torch.from_numpy(t1w[fluid]).median())
    level = darkest + share * max(0.0, usual - darkest)
    if level < _BRIGHT:
        stretched = darkest + (t1w - level) * ((1 - darkest) / (1 - level))
        t1w[:] = (np.clip(stretched, darkest, 1) + 1) * ~outside - 1


def _mixed(
    groups: NDArray[np.float16], rng: np.random.Generator, often: float
) -> NDArray[np.float32]:
    """One of a subject's groups, mostly with parts of another.

    If all subjects come from one template, a network learns the position of each tissue in a head,
    and paints white matter over ventricles larger than any that it saw. Parts of
    another slice, rotated at random, make it look at the image instead (after CutMix, Yun et al.
    2019, arXiv:1905.04899; both slices are of one scan, so that intensities keep their meaning).
    """
    group = torch.from_numpy(groups[rng.integers(len(groups))])
    if rng.random() >= often:
        return to_float32(group)
    donor = torch.from_numpy(groups[rng.integers(len(groups))])
    donor = torch.rot90(donor, int(rng.integers(4)), dims=(1, 2))
    knots = int(rng.integers(*_MIX_KNOTS))
    field = torch.from_numpy(rng.standard_normal((1, 1, knots, knots), np.float32))
    # At half the size, which takes a quarter of the time and is good enough for an outline.
    size = [-(-pixels // 2) for pixels in group.shape[1:]]
    outline = torch.nn.functional.interpolate(field, size=size, mode="bicubic")[0, 0]
    level = np.quantile(outline[::2, ::2].numpy(), 1 - rng.uniform(*_MIX_SHARE))
    halved = outline > level
    chosen = halved.repeat_interleave(2, 0).repeat_interleave(2, 1)
    rows, columns = group.shape[1:]
    return to_float32(torch.where(chosen[:rows, :columns], donor, group))


def group_augmentation(image_size: int, contrasts: int = 2) -> Augmentation:
    """Augmentation of groups: all images move together, the intensities of inputs change."""
    inputs = tuple(range(0, 2 * contrasts, 2))
    return Augmentation(_VARIETY, image_size, intensities=inputs)


def subject_groups(
    subject: VariedSubject,
    standard: PreprocessSettings,
    contrasts: tuple[str, str],
    image_size: int,
) -> NDArray[np.float16]:
    """Axial slices of a subject that show the head, (slices, 4, rows, columns) as in `group`."""
    images, foreground = subject_stacks(subject, standard, contrasts)
    shown = foreground.mean(axis=(1, 2)) >= _LEAST_FOREGROUND
    fitted = [fit_size(slices[shown], image_size, image_size) for slices in images]
    return np.stack(fitted, axis=1).astype(np.float16)


def subject_stacks(
    subject: VariedSubject, standard: PreprocessSettings, contrasts: Sequence[str]
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """The images of `group`, each (slices, rows, columns), and where the first shows a head."""
    images = []
    # The same crop for all: they match.
    crop = crop_to_head(subject.seen[contrasts[0]], standard.margin_mm).crop
    for contrast in contrasts:
        scan = preprocess(subject.seen[contrast], standard, crop=crop)
        truth, _ = to_slices(crop(subject.canonical[contrast]), standard.spacing_mm)
        truth = CANONICAL[contrast].normalise(truth)
        images += [scan.slices, np.pad(truth, scan.added, constant_values=-1)]
        if contrast == contrasts[0]:
            foreground = scan.foreground
    return images, foreground


def _read_cache(cache: Path, key: str) -> tuple[NDArray[np.float16], NDArray[np.int64]] | None:
    """The groups in a file of this key; None without one, or if it is damaged."""
    try:
        # An archive of arrays, each with a checksum that is verified as it is read.
        with np.load(cache, allow_pickle=False) as cached:
            return (cached["groups"], cached["ends"]) if str(cached["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
