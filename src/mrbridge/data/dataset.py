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

from mrbridge.data.augment import Augmentation
from mrbridge.data.simulated import SimulatedPairs, varied
from mrbridge.errors import StoreError
from mrbridge.preparation.geometry import centred_start, fit_size
from mrbridge.preparation.store import ScanRecord, Store

PAIR = 9
"""The number of the pairs among the parts of a sample."""

MEMORY_LIMIT = 2 * 2**30
"""Bytes of float16 slices that are kept in memory; a larger store is read slice by slice."""


class Sample(NamedTuple):
    """One training sample: two slices that need not show the same anatomy.

    Attributes:
        source: shape (1, rows, columns), range [-1, 1].
        target: the same shape and range.
        simulated: slices of a simulated subject, shape (4, rows, columns): the source contrast as
            seen and as it shall be answered, then the target contrast likewise; (0, rows, columns)
            where none is wanted.
        paired: two slices that show the same anatomy, source contrast first, shape (2, rows,
            columns); (0, rows, columns) where there are none.
    """

    source: Tensor
    target: Tensor
    simulated: Tensor
    paired: Tensor


class SliceBank:
    """All stored slices of one contrast and split, each fitted to square images.

    A scan is read when its first slice is asked for, fitted once, and kept as it is stored, in
    half precision.

    Args:
        store: a prepared store.
        contrast: which scans.
        split: which part of them, `train`, `val` or `test`.
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
            return _widened(self._fitted(self.store.slice(record, position), record))
        if record.id not in self._kept:
            self._kept[record.id] = self._fitted(self.store.slices(record), record)
        return _widened(self._kept[record.id][position])

    def lay_over(self, record: ScanRecord, other: ScanRecord) -> None:
        """Place a scan in the images so that it lies on another one of the same field of view.

        Each scan is cropped to its own head, and its middle becomes that of the images: the slices
        of a pair would lie apart by some pixels. Scans of different fields of view stay as they
        are, and so does a scan that was placed before.

        Args:
            record: of this bank.
            other: placed by its own middle.
        """
        if record.id not in self._shifts:
            self._shifts[record.id] = shift_onto(other, record, self.image_size)
            if self._kept is not None:
                self._kept.pop(record.id, None)

    def scans(self) -> Iterator[NDArray[np.float16]]:
        """All slices in their order, a scan at a time: (slices, image_size, image_size)."""
        for _, places in groupby(self.places, key=lambda place: place[0].id):
            records, positions = zip(*places, strict=True)
            yield self._fitted(self.store.slices(records[0]), records[0])[list(positions)]

    def _fitted(self, images: NDArray[np.float16], record: ScanRecord) -> NDArray[np.float16]:
        size, shift = self.image_size, self._shifts.get(record.id, (0, 0))
        return np.ascontiguousarray(fit_size(images, size, size, shift=shift)[0])


def shift_onto(fixed: ScanRecord, moving: ScanRecord, image_size: int) -> tuple[int, int]:
    """By how many rows and columns a scan in the middle of the images must move to lie on another.

    (0, 0) where their fields of view differ: then nothing is known of where they lie.
    """
    if fixed.grid_hash != moving.grid_hash:
        return 0, 0
    starts = [
        np.array([centred_start(image_size, size) for size in record.shape[1:]])
        - np.array(record.origin)
        for record in (fixed, moving)
    ]
    down, right = np.round(starts[0] - starts[1]).astype(int).tolist()
    return down, right


class UnpairedSlices(Dataset[Sample]):
    """An endless, reproducible sequence of unpaired samples.

    Sample n is a function only of the seed and n, so a stopped training goes on exactly where it
    was, in any number of processes. Each contrast runs through a new random order of all its slices
    before any slice comes again; the two orders know nothing of each other.

    Args:
        store: a prepared store.
        image_size: rows and columns of the images.
        seed: of orders and changes.
        augment: random changes; None leaves the slices as they are.
        simulated: adds simulated slices to every sample; None adds none.

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
        settings = store.manifest.settings
        self.banks = (
            SliceBank(store, settings.source, "train", image_size),
            SliceBank(store, settings.target, "train", image_size),
        )
        for bank, contrast in zip(self.banks, (settings.source, settings.target), strict=True):
            if not len(bank):
                raise StoreError(
                    f"holds no training slice of {contrast}",
                    path=store.path,
                    remedy="Prepare it again with scans of both contrasts.",
                )
        self.seed = seed
        self.augment = augment
        self.simulated = simulated
        self.pairs: list[tuple[int, int]] = []
        """Indices of source and target slices that show the same anatomy, if any shall be used."""
        self.move = None if augment is None else augment.without_looks()
        self.vary = None if augment is None else varied(image_size)
        self._nothing = torch.empty(0, image_size, image_size)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """How many samples make an epoch: every slice of the larger contrast once."""
        return max(len(bank) for bank in self.banks)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the sequence, which goes on beyond the first epoch."""
        seen = np.stack([self.banks[side][self.place(side, index)][None] for side in (0, 1)])
        source, target = self._changed(seen, (0, 1), index, self.augment)
        # All slices of a group or pair as one image: changed apart, they would no longer match.
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
        """What decides how a part (0 source, 1 target, 2 simulated, `PAIR`) of a sample changes."""
        return np.random.default_rng([self.seed, 2 + part, index])

    def _changed(
        self,
        images: NDArray[np.float32],
        parts: tuple[int, ...],
        index: int,
        change: Augmentation | None,
    ) -> Tensor:
        """Images of some parts as they go into a batch, (parts, slices, rows, columns)."""
        if change is not None:
            images = change(images, [self.rng(part, index) for part in parts])
        return torch.from_numpy(images)


@dataclass(frozen=True)
class HeldOut:
    """Slices for validation.

    Attributes:
        source: shape (slices, 1, rows, columns), range [-1, 1].
        target: likewise, of another number of slices unless paired.
        paired: whether slice i of both shows the same anatomy.
        held_out: whether training never sees their subjects or slices.
    """

    source: Tensor
    target: Tensor
    paired: bool
    held_out: bool


def held_out_slices(store: Store, image_size: int, count: int) -> HeldOut:
    """Choose up to `count` slices of each contrast, evenly spread, pairs where there are any.

    The validation split is taken; a store without one gives training slices, told by `held_out`.
    """
    settings = store.manifest.settings
    contrasts = (settings.source, settings.target)
    split = "val" if all(store.records(contrast=c, split="val") for c in contrasts) else "train"
    banks = [SliceBank(store, contrast, split, image_size) for contrast in contrasts]
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
    """At most `count` indices, each from the middle of an equal share of what is available."""
    count = min(available, count)
    return [int((k + 0.5) * available / count) for k in range(count)]


def _stack(images: list[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(images))[:, None]


def _widened(images: NDArray[np.float16]) -> NDArray[np.float32]:
    """Half precision made single by PyTorch, which takes a twentieth of the time of NumPy."""
    wide: NDArray[np.float32] = torch.from_numpy(images).float().numpy()
    return wide
