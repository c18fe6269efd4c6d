"""Batches of training samples from any step on, made by the CPU or kept on a GPU.

A GPU would wait for slices that are read, changed and sent one by one. If all fit into its memory
in half precision, only the numbers of the next slices and of their changes are sent, drawn on the
CPU as always.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mrbridge.dataset.augment import Augmentation, to_device
from mrbridge.dataset.sampling import PAIR, Sample, SliceBank, UnpairedSlices
from mrbridge.errors import MrbridgeError
from mrbridge.progress import track
from mrbridge.threads import usable_cores

SHARE = 0.25
"""The most of a GPU's free memory that slices may take; the rest is for training."""

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
) -> Iterable[Sample]:
    """Batches `first_step` (included) to `last_step` (excluded) of the endless sequence, once.

    A CUDA device with room for all slices keeps and augments them itself. Otherwise, with enough
    processors, worker processes prepare batches while a step is computed: one for training on a
    CPU, more for CUDA. On two cores one would only displace the threads of training, which wait for
    one another at every operation.

    Args:
        share: (n, of m) if m processes train together: of every step's m batches the n-th.
    """
    number, count = share
    starts = ((s * count + number) * batch_size for s in range(first_step, last_step))
    indices = (list(range(start, start + batch_size)) for start in starts)
    if fits(dataset, device):
        return map(GpuSlices(dataset, device).batch, indices)
    processes = _processes(device)
    batches = DataLoader(
        dataset,
        batch_sampler=indices,
        collate_fn=_together,
        num_workers=processes,
        prefetch_factor=4 if processes else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_training,
        # A generator of its own: without one, the loader draws from the global random state.
        generator=torch.Generator(),
    )
    return batches if processes else _in_bursts(batches, max(1, _BURST // batch_size))


def _in_bursts(batches: Iterable[Sample], size: int) -> Iterator[Sample]:
    """The same batches, `size` of them made at a time."""
    made = iter(batches)
    while burst := list(islice(made, size)):
        yield from burst


def _together(samples: list[Sample]) -> Sample:
    """Samples as a batch; a single one is not copied."""
    parts = zip(*samples, strict=True)
    return Sample(*(part[0][None] if len(part) == 1 else torch.stack(part) for part in parts))


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


def fits(dataset: UnpairedSlices, device: torch.device) -> bool:
    """Whether all slices fit into `SHARE` of what a CUDA device has free.

    A CPU has nothing to gain: slices are in its memory already. Augmentations of the user's own
    take arrays.
    """
    if device.type != "cuda" or (dataset.augment and dataset.augment.settings.extra):
        return False
    slices = sum(len(bank) for bank in dataset.banks)
    free, _ = torch.cuda.mem_get_info(device)
    return slices * 2 * dataset.banks[0].image_size ** 2 <= SHARE * free


class GpuSlices:
    """The samples of a dataset, made in batches on a device.

    Sample n is that of the dataset, up to rounding, except for the noise, which is drawn on the
    device and is a function of the seed, of the batch's position in the sequence and of its size.

    Args:
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

    def batch(self, indices: Sequence[int]) -> Sample:
        """Samples of the endless sequence, stacked.

        Returns:
            On the device: source and target (count, 1, rows, columns), simulated groups (count, 4,
            rows, columns), pairs (count, 2, rows, columns); (count, 0, rows, columns) without
            groups or pairs.
        """
        source, target = (
            self._changed(self._gathered(part, indices), part, indices) for part in (0, 1)
        )
        group = pair = torch.empty(len(indices), 0, self._size, self._size, device=self.device)
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

    def _gathered(self, part: int, indices: Sequence[int]) -> Tensor:
        places = np.array([self.dataset.place(part, index) for index in indices])
        return self._parts[part][to_device(places, self.device)].float()

    def _changed(self, images: Tensor, part: int, indices: Sequence[int]) -> Tensor:
        if part not in self._changes:
            return images
        change = self._changes[part]
        rows = change.draw([self.dataset.rng(part, index) for index in indices])
        noise = None
        if change.settings.noise:
            seeds = np.random.SeedSequence([self.dataset.seed, 6 + part, indices[0]])
            self._noise.manual_seed(int(seeds.generate_state(1)[0]))
            shape = change.noise_shape(images.shape)
            noise = torch.randn(shape, generator=self._noise, device=self.device)
        return change.apply(images, rows, noise)


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
