"""The loader of a training: batches from a given step on, made beside it where there is room."""

from __future__ import annotations

import os
import signal

import torch
from torch.utils.data import DataLoader

from mrbridge.data.dataset import Sample, UnpairedSlices

_SPARE_FROM = 4  # processors


def batches_from(
    dataset: UnpairedSlices, batch_size: int, first_step: int, last_step: int
) -> DataLoader[Sample]:
    """Batches `first_step` (included) to `last_step` (excluded) of the endless sequence.

    Where processors are to spare, a process of its own prepares them while the last step is
    computed. On two cores it would only push the training's threads aside, which wait for one
    another at every operation.
    """
    beside = (os.cpu_count() or 1) >= _SPARE_FROM
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(first_step * batch_size, last_step * batch_size),
        drop_last=True,
        num_workers=1 if beside else 0,
        prefetch_factor=4 if beside else None,
        worker_init_fn=_leave_signals_to_the_training,
        # A generator of its own: without one, the loader draws from the global random state.
        generator=torch.Generator(),
    )


def _leave_signals_to_the_training(worker: int) -> None:
    """A terminal sends Ctrl-C to this process too; it must outlive the training's last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
