"""Batches of training samples from a given step on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.data import DataLoader

from mrbridge.dataset.gpu_cache import GpuBatches, GpuSlices, fits
from mrbridge.dataset.sampling import Sample, UnpairedSlices
from mrbridge.errors import MrbridgeError
from mrbridge.threads import usable_cores

_SPARE_FROM = 4  # processors
_BURST = 8
"""Samples made at a time if the training process makes them itself. Each step evicts the loader's
data from the caches: the first sample after a step takes up to twice the time of the next."""
_PROCESSES_FOR_CUDA = 8  # at most: one makes some hundred samples per second, a GPU takes more
_CPU = torch.device("cpu")


def batches_from(
    dataset: UnpairedSlices,
    batch_size: int,
    first_step: int,
    last_step: int,
    device: torch.device = _CPU,
    share: tuple[int, int] = (0, 1),
) -> DataLoader[Sample] | GpuBatches | BatchesInBursts:
    """Batches `first_step` (included) to `last_step` (excluded) of the endless sequence.

    A CUDA device with room for all slices keeps and augments them itself. Otherwise, with enough
    processors, worker processes prepare batches while a step is computed: one for training on a
    CPU, more for CUDA. On two cores one would only displace the threads of training, which wait for
    one another at every operation.

    Args:
        dataset: of the samples, its simulated pairs included.
        batch_size: samples in a batch.
        first_step, last_step: one batch per step.
        device: of the training.
        share: (n, of m) if m processes train together: of every step's m batches the n-th.
    """
    if fits(dataset, device):
        slices = GpuSlices(dataset, device)
        return GpuBatches(slices, batch_size, first_step, last_step, share)
    processes = _processes(device)
    batches = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=_Indices(batch_size, first_step, last_step, share),
        drop_last=True,
        collate_fn=_together,
        num_workers=processes,
        prefetch_factor=4 if processes else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_training,
        # A generator of its own: without one, the loader draws from the global random state.
        generator=torch.Generator(),
    )
    return batches if processes else BatchesInBursts(batches, max(1, _BURST // batch_size))


@dataclass(frozen=True)
class BatchesInBursts:
    """The same batches, `burst` of them made at a time."""

    batches: DataLoader[Sample]
    burst: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Sample]:
        batches = iter(self.batches)
        while burst := list(islice(batches, self.burst)):
            yield from burst


def _together(samples: list[Sample]) -> Sample:
    """Samples as a batch; a single one is not copied."""
    parts = zip(*samples, strict=True)
    return Sample(*(part[0][None] if len(part) == 1 else torch.stack(part) for part in parts))


@dataclass(frozen=True)
class _Indices:
    """Indices of the samples of some steps, in order; every process takes its share."""

    batch_size: int
    first_step: int
    last_step: int
    share: tuple[int, int]

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        number, count = self.share
        for step in range(self.first_step, self.last_step):
            start = (step * count + number) * self.batch_size
            yield from range(start, start + self.batch_size)


def _processes(device: torch.device) -> int:
    processors = usable_cores()
    if processors < _SPARE_FROM:
        return 0
    return min(_PROCESSES_FOR_CUDA, processors // 2) if device.type == "cuda" else 1


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of the loader's process read as if they were raised here.

    PyTorch raises them again with the traceback of that process as their message.

    Raises:
        MrbridgeError: what was raised within.
    """
    try:
        yield
    except MrbridgeError as error:
        if not error.what.startswith("Caught "):
            raise
        last_line = error.what.strip().splitlines()[-1]
        raise type(error)(last_line.partition(": ")[2]) from None


def _leave_signals_to_the_training(worker: int) -> None:
    """Terminals and schedulers signal all processes; this one must outlive the last step.

    It ends when the training process ends it, or is gone. SIGTERM cannot be ignored: PyTorch and
    Python send it to remaining workers when training exits, and then wait.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
