"""The loader of a training: batches from a given step on, made beside the training."""

from __future__ import annotations

import signal

import torch
from torch.utils.data import DataLoader

from mrbridge.data.dataset import Sample, UnpairedSlices


def batches_from(
    dataset: UnpairedSlices, batch_size: int, first_step: int, last_step: int
) -> DataLoader[Sample]:
    """Batches `first_step` (included) to `last_step` (excluded) of the endless sequence.

    One process prepares them while the last step is computed. It runs PyTorch on one thread, where
    small images are changed several times faster than on all of them.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(first_step * batch_size, last_step * batch_size),
        drop_last=True,
        num_workers=1,
        prefetch_factor=4,
        worker_init_fn=_leave_signals_to_the_training,
        # A generator of its own: without one, the loader draws from the global random state.
        generator=torch.Generator(),
    )


def _leave_signals_to_the_training(worker: int) -> None:
    """A terminal sends Ctrl-C to this process too; it must outlive the training's last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
