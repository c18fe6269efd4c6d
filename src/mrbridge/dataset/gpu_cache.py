"""Training slices in the memory of a GPU: batches are gathered and augmented there.

A GPU would wait for slices that are read, changed and sent one by one. If all are there in half
precision, only the numbers of the next slices and of their changes are sent, drawn on the CPU as
always.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrbridge.dataset.augment import Augmentation, to_device
from mrbridge.dataset.sampling import PAIR, Sample, SliceBank, UnpairedSlices
from mrbridge.progress import track

SHARE = 0.25
"""The most of the device's free memory that slices may take; the rest is for training."""


def fits(dataset: UnpairedSlices, device: torch.device) -> bool:
    """Whether all slices fit into `SHARE` of what a CUDA device has free.

    A CPU has nothing to gain: slices are in its memory already.
    """
    if device.type != "cuda":
        return False
    slices = sum(len(bank) for bank in dataset.banks)
    free, _ = torch.cuda.mem_get_info(device)
    return slices * 2 * dataset.banks[0].image_size ** 2 <= SHARE * free


class GpuSlices:
    """The samples of a dataset, made in batches on a device.

    Sample n is that of the dataset, up to rounding, but for the noise: it is drawn on the device,
    and is a function of the seed, of the batch's position in the sequence and of its size.

    Args:
        dataset: which slices, which changes.
        device: keeps the slices, in half precision.

    Raises:
        StoreError: a scan cannot be read.
    """

    def __init__(self, dataset: UnpairedSlices, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        # Each (slices, 1 or 4, rows, columns).
        self._parts = {part: _sent(bank, device) for part, bank in enumerate(dataset.banks)}
        self._pairs = torch.tensor(dataset.pairs, device=device)  # (pairs, 2)
        self._size = dataset.banks[0].image_size
        self._changes = {
            part: Augmentation(change.settings, self._size, device, change.intensities)
            for part, change in (
                (0, dataset.augment),
                (1, dataset.augment),
                (2, dataset.vary),
                (PAIR, dataset.move),
            )
            if change is not None
        }
        self._noise = torch.Generator(device)

    def batch(self, first: int, count: int) -> Sample:
        """Samples `first` to `first + count` of the endless sequence, stacked.

        Returns:
            On the device: source and target (count, 1, rows, columns), simulated groups (count, 4,
            rows, columns), pairs (count, 2, rows, columns); (count, 0, rows, columns) without
            groups or pairs.
        """
        indices = range(first, first + count)
        source, target = (
            self._changed(self._gathered(part, indices), part, indices) for part in (0, 1)
        )
        group = pair = torch.empty(count, 0, self._size, self._size, device=self.device)
        if self.dataset.simulated is not None:
            # Mixed on the CPU, as they are drawn.
            drawn = np.stack([self.dataset.simulated.group(index) for index in indices])
            group = self._changed(to_device(drawn, self.device), 2, indices)
        if self.dataset.pairs:
            places = np.array([self.dataset.place(PAIR, index) for index in indices])
            sides = self._pairs[to_device(places, self.device)].unbind(1)
            both = [self._parts[part][side] for part, side in enumerate(sides)]
            pair = self._changed(torch.cat(both, dim=1).float(), PAIR, indices)
        return Sample(source, target, group, pair)

    def _gathered(self, part: int, indices: range) -> Tensor:
        places = np.array([self.dataset.place(part, index) for index in indices])
        return self._parts[part][to_device(places, self.device)].float()

    def _changed(self, images: Tensor, part: int, indices: range) -> Tensor:
        if part not in self._changes:
            return images
        change = self._changes[part]
        rows = change.draw([self.dataset.rng(part, index) for index in indices])
        noise = None
        if change.settings.noise:
            seeds = np.random.SeedSequence([self.dataset.seed, 6 + part, indices.start])
            self._noise.manual_seed(int(seeds.generate_state(1)[0]))
            shape = change.noise_shape(images.shape)
            noise = torch.randn(shape, generator=self._noise, device=self.device)
        return change.apply(images, rows, noise)


@dataclass(frozen=True)
class GpuBatches:
    """Batches `first_step` (included) to `last_step` (excluded); attributes as the arguments of
    `loader.batches_from`."""

    slices: GpuSlices
    batch_size: int
    first_step: int
    last_step: int
    share: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[Sample]:
        for step in range(self.first_step, self.last_step):
            first = (step * self.share[1] + self.share[0]) * self.batch_size
            yield self.slices.batch(first, self.batch_size)


def _sent(bank: SliceBank, device: torch.device) -> Tensor:
    """All slices of a bank, (slices, 1, rows, columns), float16; the CPU holds one scan at most."""
    kept = torch.empty(
        (len(bank), 1, bank.image_size, bank.image_size), dtype=torch.float16, device=device
    )
    scans = len({record.id for record, _ in bank.places})
    first = 0
    for images in track(bank.scans(), "read", scans):
        kept[first : first + len(images), 0] = torch.from_numpy(images).to(device)
        first += len(images)
    return kept
