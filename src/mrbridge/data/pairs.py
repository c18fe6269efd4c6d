"""Slices of both contrasts that show the same anatomy: those that are known, those that are found.

Data sets that pass for unpaired often hold pairs that nobody wrote down. Two slices of one head in
register share far more information than slices of two heads, and they lose it when one of them is
shifted by a few pixels, which slices of different heads do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mrbridge.data.dataset import SliceBank, shift_onto
from mrbridge.data.likeness import are_in_register, best_matches
from mrbridge.preparation.store import ScanRecord, Store

Pairs = list[tuple[int, int]]
"""Indices of training slices: of the source contrast, of the target contrast."""

_MOST = 2_000  # slices of a contrast; all of them are held in memory
_THUMBNAIL = 64  # rows and columns


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
    """Training slices that show the same anatomy pixel by pixel, by their images only.

    Slices that are known to be of one subject are left aside: who wants those as pairs says so.

    Two slices are a pair if each is the other's best match by mutual information and if a shift by
    three pixels takes much of the shared information away (`mrbridge.data.likeness`). Beyond 2,000
    slices of a contrast none are searched.
    """
    if max(len(bank) for bank in banks) > _MOST:
        return []
    images = [[bank[n] for n in range(len(bank))] for bank in banks]
    return [
        (i, j)
        for i, j in best_matches(*map(_thumbnails, images))
        if not _of_one_subject(banks[0].places[i][0], banks[1].places[j][0])
        and are_in_register(images[0][i], _laid_over(banks, images[1][j], i, j))
    ]


def _laid_over(
    banks: tuple[SliceBank, SliceBank], image: NDArray[np.float32], i: int, j: int
) -> NDArray[np.float32]:
    """Slice j of the target, moved to lie on slice i of the source: each is cropped by itself."""
    shift = shift_onto(banks[0].places[i][0], banks[1].places[j][0], len(image))
    return np.roll(image, shift, (0, 1))


def _of_one_subject(one: ScanRecord, other: ScanRecord) -> bool:
    return one.subject is not None and one.subject == other.subject


def _thumbnails(images: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint8]]:
    """Images in [-1, 1], small, as bytes."""
    small = [
        functional.adaptive_avg_pool2d(torch.from_numpy(image)[None], _THUMBNAIL)[0].numpy()
        for image in images
    ]
    return [np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8) for image in small]
