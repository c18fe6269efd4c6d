"""Slices of both contrasts that show the same anatomy: those that are known, those that are found.

Data sets that pass for unpaired often hold pairs that nobody wrote down. Two slices of one head in
register share far more information than slices of two heads, and they lose it when one of them is
shifted by a few pixels, which slices of different heads do not.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from mrbridge.data.dataset import SliceBank
from mrbridge.preparation.store import ScanRecord, Store

Pairs = list[tuple[int, int]]
"""Indices of training slices: of the source contrast, of the target contrast."""

_MOST = 2_000  # slices of a contrast; the search grows with the product of the two numbers
_AT_ONCE = 64  # images of which joint histograms are made together
_THUMBNAIL = 64  # rows and columns
_LEVELS = 16  # of intensity, in thumbnails
_FINE_LEVELS = 32
_SHIFT = 3  # pixels
_BACKGROUND = -0.9
_LEAST_PIXELS = 500
_SHARPNESS, _LOSS = 1.6, 0.02
"""How much more information the slices of a pair share in place than shifted by 3 pixels, as a
ratio and as a difference. True pairs have at least 2.1 and 0.05, other people's slices at most 1.3
and 0.004 (two open data sets, `benchmarks/found_pairs.py`)."""


def known_pairs(store: Store, banks: tuple[SliceBank, SliceBank]) -> Pairs:
    """Training slices of one subject, session and grid at the same place."""
    places = [
        {(record.id, position): index for index, (record, position) in enumerate(bank.places)}
        for bank in banks
    ]
    return [
        (places[0][source.id, i], places[1][target.id, j])
        for source, target, positions in store.pairs("train")
        for i, j in positions
    ]


def found_pairs(banks: tuple[SliceBank, SliceBank]) -> Pairs:
    """Training slices that show the same anatomy pixel by pixel, told by their images alone.

    Slices that are known to be of one subject are left aside: who wants those as pairs says so.

    Two slices are a pair if each is the other's best match by normalised mutual information
    (Studholme et al. 1999, doi:10.1016/S0031-3203(98)00091-0) and if a shift by three pixels takes
    much of the shared information away. Beyond 2,000 slices of a contrast none are searched.
    """
    if max(len(bank) for bank in banks) > _MOST:
        return []
    images = tuple(np.stack([bank[n] for n in range(len(bank))]) for bank in banks)
    return [
        (i, j)
        for i, j in best_matches(images[0], images[1])
        if not _of_one_subject(banks[0].places[i][0], banks[1].places[j][0])
        and are_in_register(images[0][i], images[1][j])
    ]


def best_matches(sources: NDArray[np.float32], targets: NDArray[np.float32]) -> Pairs:
    """Images that are each other's best match by normalised mutual information of thumbnails.

    Every image has a best match, right or not: `are_in_register` tells.

    Args:
        sources, targets: shape (images, rows, columns), range [-1, 1].
    """
    shared = _shared_information(_thumbnails(sources), _thumbnails(targets))
    best_target, best_source = shared.argmax(axis=1), shared.argmax(axis=0)
    return [(i, int(j)) for i, j in enumerate(best_target) if best_source[j] == i]


def _of_one_subject(one: ScanRecord, other: ScanRecord) -> bool:
    return one.subject is not None and one.subject == other.subject


def are_in_register(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two slices, shape (rows, columns), range [-1, 1], show the same pixel by pixel."""
    here, there = information(one, other)
    return here > _SHARPNESS * there and here - there > _LOSS


def information(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    """Normalised mutual information, less 1, of two slices in place and 3 pixels apart.

    Counted within the anatomy of both, away from its edge: outlines are alike in many heads.

    Args:
        one, other: shape (rows, columns), range [-1, 1].

    Returns:
        Both from 0, where nothing is shared, to 1; the second a mean over four directions. Zeros
        where there is next to no common anatomy.
    """
    anatomy = (one > _BACKGROUND) & (other > _BACKGROUND)
    inside = torch.from_numpy(ndimage.binary_erosion(anatomy, iterations=_SHIFT + 1))
    if int(inside.sum()) < _LEAST_PIXELS:
        return 0.0, 0.0
    first, second = (_levels(torch.from_numpy(image), _FINE_LEVELS) for image in (one, other))
    steps = [(0, 0), (_SHIFT, 0), (-_SHIFT, 0), (0, _SHIFT), (0, -_SHIFT)]
    moved = torch.stack([second.roll(step, (0, 1))[inside] for step in steps])
    shared = _shared_information(first[inside][None, None], moved[:, None])[0] - 1
    return float(shared[0]), float(shared[1:].mean())


def _thumbnails(images: NDArray[np.float32]) -> Tensor:
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images)[:, None], _THUMBNAIL)
    return _levels(small[:, 0], _LEVELS)


def _levels(images: Tensor, count: int) -> Tensor:
    """Images in [-1, 1] as whole numbers from 0 to count - 1."""
    return ((images + 1) * (count / 2)).long().clamp(0, count - 1)


def _shared_information(one: Tensor, other: Tensor) -> NDArray[np.float32]:
    """Normalised mutual information, (H(x) + H(y)) / H(x, y), of every image with every other.

    Args:
        one, other: whole numbers, (images, rows, columns).

    Returns:
        (images of one, images of other), 1 where nothing is shared, 2 where all is.
    """
    counts = int(max(one.max(), other.max())) + 1
    pixels = one[0].numel()
    # Joint histograms of some images with some others at a time, as one product of matrices.
    together = torch.cat(
        [
            torch.cat([_joint_entropy(part, few, counts) for few in other.split(_AT_ONCE)], dim=1)
            for part in one.split(_AT_ONCE)
        ]
    )
    alone = [
        torch.cat(
            [_entropy(_one_hot(few, counts).sum(2) / pixels, (1,)) for few in stack.split(_AT_ONCE)]
        )
        for stack in (one, other)
    ]
    return ((alone[0][:, None] + alone[1]) / together.clamp(min=1e-9)).numpy()


def _joint_entropy(one: Tensor, other: Tensor, counts: int) -> Tensor:
    first, second = (_one_hot(stack, counts).flatten(0, 1) for stack in (one, other))
    joint = (first @ second.T) / one[0].numel()
    return _entropy(joint.view(len(one), counts, len(other), counts), (1, 3))


def _one_hot(images: Tensor, counts: int) -> Tensor:
    """(images, levels, pixels), 1 where a pixel is of a level."""
    return (images.flatten(1)[:, None] == torch.arange(counts)[:, None]).float()


def _entropy(shares: Tensor, axes: tuple[int, ...]) -> Tensor:
    return -(shares * shares.clamp(min=1e-12).log()).sum(dim=axes)
