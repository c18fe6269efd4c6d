"""Training on several devices: one process for each, started by `torchrun`.

All processes hold the same weights at every step: they start with those of the first one and apply
the mean of all gradients. Why not DistributedDataParallel: docs/decisions/0009-scale.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mrbridge.errors import SettingsError

_TIMEOUT = timedelta(hours=2)
"""How long processes wait for the one that validates. `torchrun` notices if a process dies."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default the only one.

    Attributes:
        rank: its number, from 0; the first one validates and writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place (all-reduce).

        Args:
            tensors: float32, of the same shapes in all processes, on the device of the training.
        """
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, images: Tensor) -> Tensor:
        """The images of all processes, (count x batch, …), in the order of the ranks."""
        if self.count == 1:
            return images
        images = images.contiguous()
        parts = [torch.empty_like(images) for _ in range(self.count)]
        dist.all_gather(parts, images)
        return torch.cat(parts)

    def own_part(self, images: Tensor) -> Tensor:
        """This process's part of what `gather` returned."""
        return images if self.count == 1 else images.chunk(self.count)[self.rank]

    def broadcast(self, network: nn.Module) -> None:
        """Copy weights and buffers from the first process to all others."""
        if self.count > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def from_first(self, *numbers: float) -> list[float]:
        """The first process's numbers; those of the other processes are ignored."""
        values = torch.tensor(numbers, dtype=torch.float64)
        if self.count > 1:
            dist.broadcast(values, 0)
        result: list[float] = values.tolist()
        return result

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        self.any(False)


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the other processes, if `torchrun` started any.

    Args:
        device: of the training; of several CUDA devices each process gets its own.

    Yields:
        This process among them, and its device.

    Raises:
        SettingsError: there are more processes on this machine than CUDA devices.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(), device
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    backend = "gloo"
    if device.type == "cuda":
        available = torch.cuda.device_count()
        if local >= available:
            raise SettingsError(
                f"process {local + 1} of this machine has no CUDA device; there are {available}",
                remedy=f"Start {available} processes, or use --device cpu.",
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield Ranks(rank, count), device
    finally:
        dist.destroy_process_group()
