"""Processes that train one model together, each on its own device and its own slices.

They are those of `torchrun`, or of `training.together`. All hold the same weights at every step:
they begin with those of the first one and follow the mean of all gradients. Why the wrapper of
PyTorch (DistributedDataParallel) is not used: docs/decisions/0009-scale.md.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mrbridge.errors import SettingsError

MEETING = "MRBRIDGE_MEETING"
"""The variable that names the file by which processes of one machine find each other."""

_PATIENCE = timedelta(hours=2)
"""How long processes wait for one that validates. Whoever is dead is noticed by the launcher."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by itself unless told otherwise.

    Attributes:
        rank: its number, from 0; the first one validates and writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that validates and writes."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which of how many equal parts of a step's samples are its own."""
        return self.rank, self.count

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place.

        Args:
            tensors: of the same shapes in all of them, float32, on the device of the training.
        """
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(together)
        parts = (together / self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def joined(self, images: Tensor) -> Tensor:
        """The images of all processes, (count x batch, …), in the order of the ranks."""
        if self.count == 1:
            return images
        images = images.contiguous()
        parts = [torch.empty_like(images) for _ in range(self.count)]
        dist.all_gather(parts, images)
        return torch.cat(parts)

    def own(self, images: Tensor) -> Tensor:
        """This process's part of what `joined` put together."""
        return images if self.count == 1 else images.chunk(self.count)[self.rank]

    def agree(self, network: nn.Module) -> None:
        """Give all processes the weights and buffers of the first one."""
        if self.count > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in one of them."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def of_first(self, value: Any) -> Any:
        """What the first one has: tensors (on the CPU), numbers and containers of them."""
        if self.count == 1:
            return value
        sent: list[Any] = [None]
        if self.is_first:
            file = io.BytesIO()
            torch.save(value, file)
            sent = [file.getvalue()]
        dist.broadcast_object_list(sent, 0, device=torch.device("cpu"))
        return torch.load(io.BytesIO(sent[0]), map_location="cpu", weights_only=True)

    def wait(self) -> None:
        """Wait until all have come here."""
        self.any(False)


@contextmanager
def meeting(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Meet the other processes, if `torchrun` or `training.together` started any.

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
        found = torch.cuda.device_count()
        if local >= found:
            raise SettingsError(
                f"process {local + 1} of this machine has no CUDA device; there are {found}",
                remedy=f"Start {found} processes, or take --device cpu.",
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    place = os.environ.get(MEETING, "env://")
    dist.init_process_group(backend, place, _PATIENCE, world_size=count, rank=rank)
    try:
        yield Ranks(rank, count), device
    finally:
        dist.destroy_process_group()
