"""Unpaired training samples and held-out slices, drawn from a prepared store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mrbridge.dataset.augment import Augmentation, to_float32
from mrbridge.dataset.pairs import Pairs, shift_onto
from mrbridge.dataset.simulated import SimulatedPairs, group_augmentation
from mrbridge.dataset.store import ScanRecord, Store
from mrbridge.errors import StoreError
from mrbridge.preprocessing.geometry import fit_size

PAIR = 9
"""Number of the pairs among the parts of a sample; 0 is the source, 1 the target, 2 simulated."""

MEMORY_LIMIT = 2 * 2**30
"""Bytes of float16 slices that are kept in memory; larger stores are read slice by slice."""


class Sample(NamedTuple):
    """One training sample: two slices that need not show the same anatomy.

    Attributes:
        source: shape (1, rows, columns), range [-1, 1].
        target: the same shape and range.
        simulated: slices of a simulated subject, shape (4, rows, columns): the source contrast as
            input and as ground truth, then the same of the target contrast; (0, rows, columns) if
            there are none.
        paired: two slices that show the same anatomy, source contrast first, shape (2, rows,
            columns); (0, rows, columns) if there are none.
    """

    source: Tensor
    target: Tensor
    simulated: Tensor
    paired: Tensor


class SliceBank:
    """All stored slices of one contrast and split, each fitted to square images.

    A scan is read when its first slice is asked for, fitted once, and kept in half precision, as
    it is stored.

    Args:
        split: `train`, `val` or `test`.
        image_size: rows and columns of the images.
    """

    def __init__(self, store: Store, contrast: str, split: str, image_size: int) -> None:
        self.store = store
        self.image_size = image_size
        self.places: list[tuple[ScanRecord, int]] = [
            (record, position)
            for record in store.records(contrast=contrast, split=split)
            for start, stop in record.segments[split]
            for position in range(start, stop)
        ]
        scans = {record.id: record.shape[0] for record, _ in self.places}
        size = 2 * image_size**2 * sum(scans.values())
        self._kept: dict[str, NDArray[np.float16]] | None = {} if size <= MEMORY_LIMIT else None
        self._shifts: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Slice `index`, shape (image_size, image_size), range [-1, 1]."""
        return self.at(*self.places[index])

    def at(self, record: ScanRecord, position: int) -> NDArray[np.float32]:
        """The slice at a stored position of a scan, fitted to the image size."""
        if self._kept is None:
            return to_float32(
                torch.from_numpy(self._fitted(self.store.slice(record, position), record))
            )
        if record.id not in self._kept:
            self._kept[record.id] = self._fitted(self.store.slices(record), record)
        return to_float32(torch.from_numpy(self._kept[record.id][position]))

    def lay_over(self, record: ScanRecord, other: ScanRecord) -> None:
        """Shift a scan in the images so that it matches another one of the same field of view.

        Scans are centred otherwise, and the slices of a pair would be some pixels apart. A scan
        that was shifted before stays there.

        Args:
            other: centred.
        """
        if record.id not in self._shifts:
            self._shifts[record.id] = shift_onto(other, record, self.image_size)
            if self._kept is not None:
                self._kept.pop(record.id, None)

    def scans(self) -> Iterator[NDArray[np.float16]]:
        """All slices in order, one scan at a time: (slices, image_size, image_size)."""
        for _, places in groupby(self.places, key=lambda place: place[0].id):
            records, positions = zip(*places, strict=True)
            yield self._fitted(self.store.slices(records[0]), records[0])[list(positions)]

    def _fitted(self, images: NDArray[np.float16], record: ScanRecord) -> NDArray[np.float16]:
        size, shift = self.image_size, self._shifts.get(record.id, (0, 0))
        return np.ascontiguousarray(fit_size(images, size, size, shift=shift))


class UnpairedSlices(Dataset[Sample]):
    """An endless, reproducible sequence of unpaired samples.

    Sample n is a function of the seed and n only, so a stopped training continues exactly, in any
    number of processes. Each contrast runs through a new random order of all its slices before any
    slice comes again; the two orders are independent.

    Args:
        image_size: rows and columns of the images.
        seed: of orders and changes.
        augment: random changes; None: none.
        simulated: adds simulated slices to every sample; None: none.

    Raises:
        StoreError: the store has no training slice of a contrast.
    """

    def __init__(
        self,
        store: Store,
        image_size: int,
        seed: int,
        augment: Augmentation | None = None,
        simulated: SimulatedPairs | None = None,
    ) -> None:
        source, target = store.contrasts
        self.banks = (
            SliceBank(store, source, "train", image_size),
            SliceBank(store, target, "train", image_size),
        )
        for bank, contrast in zip(self.banks, store.contrasts, strict=True):
            if not len(bank):
                raise StoreError(
                    f"holds no training slice of {contrast}",
                    path=store.path,
                    remedy="Prepare it again with scans of both contrasts.",
                )
        self.seed = seed
        self.augment = augment
        self.simulated = simulated
        self.pairs: Pairs = []
        """Slices that show the same anatomy, if they are to be used."""
        self.move = None if augment is None else augment.moves_only()
        self.vary = None if augment is None else group_augmentation(image_size)
        self._nothing = torch.empty(0, image_size, image_size)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """How many samples make an epoch: every slice of the larger contrast once."""
        return max(len(bank) for bank in self.banks)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the sequence, which continues beyond the first epoch."""
        seen = np.stack([self.banks[side][self.place(side, index)][None] for side in (0, 1)])
        source, target = self._changed(seen, (0, 1), index, self.augment)
        # All slices of a group or pair as one image: changed separately, they would not match.
        group = pair = self._nothing
        if self.simulated is not None:
            (group,) = self._changed(self.simulated.group(index)[None], (2,), index, self.vary)
        if self.pairs:
            places = zip(self.banks, self.pairs[self.place(PAIR, index)], strict=True)
            both = np.stack([bank[n] for bank, n in places])[None]
            (pair,) = self._changed(both, (PAIR,), index, self.move)
        return Sample(source, target, group, pair)

    def place(self, side: int, index: int) -> int:
        """Which slice (side 0 source, 1 target) or pair (`PAIR`) is in sample `index`."""
        count = len(self.pairs) if side == PAIR else len(self.banks[side])
        turn, place = divmod(index, count)
        if self._orders.get(side, (-1, None))[0] != turn:
            rng = np.random.default_rng([self.seed, side, turn])
            self._orders[side] = (turn, rng.permutation(count))
        return int(self._orders[side][1][place])

    def rng(self, part: int, index: int) -> np.random.Generator:
        """The generator of the changes to a part of a sample (see `PAIR`)."""
        return np.random.default_rng([self.seed, 2 + part, index])

    def _changed(
        self,
        images: NDArray[np.float32],
        parts: tuple[int, ...],
        index: int,
        change: Augmentation | None,
    ) -> Tensor:
        """Images of some parts of a sample, augmented: (parts, slices, rows, columns)."""
        if change is not None:
            images = change(images, [self.rng(part, index) for part in parts])
        return torch.from_numpy(images)


@dataclass(frozen=True)
class HeldOut:
    """Slices for validation.

    Attributes:
        source: shape (slices, 1, rows, columns), range [-1, 1].
        target: the same, with another number of slices unless paired.
        paired: whether slice i of both shows the same anatomy.
        held_out: whether training never sees their subjects or slices.
    """

    source: Tensor
    target: Tensor
    paired: bool
    held_out: bool


def held_out_slices(store: Store, image_size: int, count: int) -> HeldOut:
    """Choose up to `count` slices of each contrast, evenly spread, pairs if there are any.

    From the validation split; from the training split, with `held_out` False, if there is none.
    """
    has_both = all(store.records(contrast=c, split="val") for c in store.contrasts)
    split = "val" if has_both else "train"
    banks = [SliceBank(store, contrast, split, image_size) for contrast in store.contrasts]
    pairs = [
        (source, i, target, j)
        for source, target, positions in store.pairs(split)
        for i, j in positions
    ]
    if pairs and split == "val":
        chosen = [pairs[k] for k in _spread(len(pairs), count)]
        for source_record, _, target_record, _ in chosen:
            banks[1].lay_over(target_record, source_record)
        source = [banks[0].at(record, i) for record, i, _, _ in chosen]
        target = [banks[1].at(record, j) for _, _, record, j in chosen]
        return HeldOut(_stack(source), _stack(target), paired=True, held_out=True)
    source, target = ([bank[k] for k in _spread(len(bank), count)] for bank in banks)
    return HeldOut(_stack(source), _stack(target), paired=False, held_out=split == "val")


def _spread(available: int, count: int) -> list[int]:
    """At most `count` indices, each from the middle of an equal share of those available."""
    count = min(available, count)
    return [int((k + 0.5) * available / count) for k in range(count)]


def _stack(images: list[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(images))[:, None]
