"""The loader of a training: batches from a given step on."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from mrbridge.data.dataset import Sample, UnpairedSlices


def batches_from(
    dataset: UnpairedSlices, batch_size: int, first_step: int, last_step: int
) -> DataLoader[Sample]:
    """Batches `first_step` (included) to `last_step` (excluded) of the endless sequence."""
    order = range(first_step * batch_size, last_step * batch_size)
    # A generator of its own: without one, the loader draws from the global random state.
    return DataLoader(
        dataset, batch_size=batch_size, sampler=order, generator=torch.Generator(), drop_last=True
    )
