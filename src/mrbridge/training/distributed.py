"""Training on several devices: one process for each, of this machine or of `torchrun`.

All processes hold the same weights at every step: they start with those of the first one and apply
the mean of all gradients. Why not DistributedDataParallel: docs/decisions/0009-scale.md.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, distributed as dist, nn

from mrbridge import console
from mrbridge.errors import Interrupted, MrbridgeError, SettingsError, as_error
from mrbridge.hardware import keep_memory
from mrbridge.parallel.processes import safe_path
from mrbridge.reports import counted
from mrbridge.threads import is_count_given, sharing_the_machine

_RENDEZVOUS = "MRBRIDGE_RENDEZVOUS"
"""The variable with the URL of the file by which the processes of `launch` find each other."""

_TIMEOUT = timedelta(hours=2)
"""How long processes wait for the one that validates. The launcher notices if a process dies."""

_GRACE_SECONDS = 5

T = TypeVar("T")


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
    """Join the other processes, if `torchrun` or `launch` started any.

    Args:
        device: of the training; of several CUDA devices each process gets its own.

    Yields:
        This process among them, and its device.

    Raises:
        SettingsError: there are more processes on this machine than CUDA devices, or the
            environment's variables are not those of `torchrun`.
    """
    count = console.number_of("WORLD_SIZE", 1)
    if count == 1:
        yield Ranks(), device
        return
    rank, local = console.number_of("RANK"), console.number_of("LOCAL_RANK", 0)
    backend = "gloo"
    if device.type == "cuda":
        available = torch.cuda.device_count()
        if local >= available:
            raise SettingsError(
                f"process {local + 1} of this machine has no CUDA device; there are {available}",
                remedy=f"Start {counted(available, 'process', 'processes')}, or use --device cpu.",
            )
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    url = os.environ.get(_RENDEZVOUS, "env://")
    try:
        dist.init_process_group(backend, url, _TIMEOUT, world_size=count, rank=rank)
    except ValueError as error:
        raise SettingsError(
            f"WORLD_SIZE is {count}, and the processes cannot find one another ({error})",
            remedy="Unset WORLD_SIZE and RANK, or start with torchrun.",
        ) from None
    try:
        yield Ranks(rank, count), device
    finally:
        dist.destroy_process_group()


def launch(count: int, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Run a function that trains in several processes of this machine.

    Args:
        count: how many processes; on CUDA each has a device of its own.
        work: a function of a module, such as `training.run.train`.
        arguments, options: of `work`; they are pickled, and so is the result.

    Returns:
        The first process's result.

    Raises:
        MrbridgeError: what `work` raises in any process, or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    results: list[Connection] = []
    with tempfile.TemporaryDirectory() as folder, _forwarded_signals(processes) as received:
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                _RENDEZVOUS: f"file://{folder}/rendezvous",  # needs no port
            }
            call = (work, arguments, options)
            process: BaseProcess = context.Process(
                target=_run_rank, args=(variables, console.verbosity, theirs, *call)
            )
            with sharing_the_machine(), safe_path():
                process.start()
            theirs.close()
            processes.append(process)
            results.append(ours)
        try:
            outcomes: dict[Any, Any] = {}
            while len(outcomes) < count:
                for connection in wait([one for one in results if one not in outcomes]):
                    outcome = outcomes[connection] = _receive(connection, bool(received))
                    if _has_failed(outcome) and not received:
                        raise outcome  # the others wait for this process
            in_order = [outcomes[connection] for connection in results]
            # The first process says where it stopped. A signal may have killed another one that was
            # about to end.
            for error in sorted(filter(_is_error, in_order), key=_has_failed):
                raise error
            return in_order[0]
        finally:
            for process in processes:
                process.join(_GRACE_SECONDS)
            for process in processes:
                process.kill()
                process.join()


def _receive(connection: Any, is_stopped: bool) -> Any:
    """A process's result, or the error with which it ended."""
    try:
        return connection.recv()
    except EOFError:
        if is_stopped:
            return _interrupted_early()
        return MrbridgeError(
            "a process of the training was killed, most often for lack of memory",
            remedy="Continue with --resume.",
        )


def _is_error(outcome: object) -> TypeGuard[MrbridgeError]:
    return isinstance(outcome, MrbridgeError)


def _has_failed(outcome: object) -> bool:
    return _is_error(outcome) and not isinstance(outcome, Interrupted)


def _run_rank(
    variables: dict[str, str],
    verbosity: console.Verbosity,
    connection: Connection,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Work as one of several processes, on its share of the cores; only the first one logs."""
    os.environ.update(variables)
    if not is_count_given():
        torch.set_num_threads(max(1, torch.get_num_threads() // int(variables["WORLD_SIZE"])))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    keep_memory()
    console.set_up()
    console.listen(verbosity.quiet or variables["RANK"] != "0", verbosity.verbose, verbosity.json)
    try:
        result = work(*arguments, **options)
    except KeyboardInterrupt:
        result = _interrupted_early()
    except Exception as error:
        result = as_error(error)
    connection.send(result)
    console.flush(0)
    os._exit(0)  # at once: a thread of Gloo sometimes aborts a normal exit


def _interrupted_early() -> Interrupted:
    return Interrupted("stopped before the first step", remedy="Start again, or --resume.")


@contextmanager
def _forwarded_signals(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Forward signals to the processes, as SIGTERM: a terminal sends SIGINT to them too.

    Yields:
        The signals that came.
    """
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
