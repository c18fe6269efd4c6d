"""Devices, instruction sets and memory: what makes this machine fast."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import torch

from mrbridge.errors import SettingsError
from mrbridge.quiet import Shared
from mrbridge.threads import tune_malloc

T = TypeVar("T")


def choose_device(wanted: str) -> torch.device:
    """The device called `auto`, `cpu` or `cuda` (`auto` prefers CUDA, which is experimental);
    SettingsError if there is no such device."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted not in ("cpu", "cuda"):
        raise SettingsError(
            f"there is no device '{wanted}'", remedy="Choose one of auto, cpu, cuda."
        )
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError("PyTorch finds no CUDA device", remedy="Use --device cpu or auto.")
    return torch.device(wanted)


def vector_extension() -> str:
    """The widest vector instructions to use on this CPU: `AVX512`, `AVX2` or `DEFAULT` (neither).

    PyTorch's own kernels obey `ATEN_CPU_CAPABILITY`, oneDNN's `ONEDNN_MAX_CPU_ISA`. The lower of
    the two counts, so that one variable suffices to exclude an instruction set.
    """
    extension = torch.backends.cpu.get_cpu_capability()
    limit = _onednn_limit()
    if limit in ("SSE41", "AVX") or extension not in ("AVX512", "AVX2"):
        return "DEFAULT"
    return "AVX2" if limit in ("AVX2", "AVX2_VNNI", "AVX2_VNNI_2") else extension


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware.

    A CPU needs AVX512_BF16 or AMX, both processor and environment (see `vector_extension`):
    without them, oneDNN emulates bfloat16 many times slower than it computes in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    in_hardware = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    is_allowed = _onednn_limit() not in ("AVX512_CORE", "AVX512_CORE_VNNI")
    return bool(in_hardware) and is_allowed and vector_extension() == "AVX512"


def _onednn_limit() -> str:
    """The most recent instruction set that oneDNN may use, in upper case; empty without a limit.

    Source: oneDNN's developer guide, "CPU Dispatcher Control"; the prefix DNNL is the older one.
    """
    variables = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    return next((os.environ[name].upper() for name in variables if os.environ.get(name)), "")


@contextmanager
def quick_kernels(device: torch.device) -> Iterator[None]:
    """Within this context, CUDA uses its fastest kernels; on a CPU nothing changes.

    Matrices in float32 are multiplied in TF32 (10 bits of mantissa, 8 of exponent), as cuDNN does
    with convolutions anyway. cuDNN tries its algorithms once for each size, which pays off if sizes
    repeat; another process may choose other algorithms.
    """
    if device.type != "cuda":
        yield
        return
    precision, tries = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = tries


@contextmanager
def _with_its_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_keeping_threads = Shared(_with_its_threads)


def in_threads(
    work: Callable[[Iterable[T]], Iterator[object]], items: Iterable[T], most: int
) -> Iterator[None]:
    """Process items in several threads, in each of which PyTorch uses one thread only.

    Threads that share a small layer wait for each other after every operation; threads with a batch
    of their own do not. The results do not depend on the number of threads either.

    Args:
        work: called once in each thread; takes the items of this thread, processes them and yields
            after each.
        most: the maximum number of threads; PyTorch's own number is another limit.

    Yields:
        After each item.

    Raises:
        Whatever `work` raises; items that were not started are then skipped.
    """
    todo = deque(items)
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    count = len(todo)

    def remaining() -> Iterator[T]:
        with suppress(IndexError):
            while True:
                yield todo.popleft()

    def run() -> None:
        try:
            torch.set_num_threads(1)  # in this thread, and in those that start later
            for _ in work(remaining()):
                done.put(None)
        except BaseException as error:
            done.put(error)

    with _keeping_threads():
        threads = [Thread(target=run) for _ in range(min(torch.get_num_threads(), count, most))]
        try:
            for thread in threads:
                thread.start()
            for _ in range(count):
                error = done.get()
                if error is not None:
                    raise error
                yield
        finally:
            todo.clear()
            for thread in threads:
                if thread.is_alive():  # a signal may come before it starts
                    thread.join()


def keep_memory() -> None:
    """Keep freed memory for the next training step instead of returning it to the system.

    This changes the whole process permanently. So only the command line and the worker processes of
    a training call it. A program that calls `mrbridge.train` may opt in by calling it first.

    By default, glibc maps large blocks again each time, and each new page costs a page fault: a
    training step that allocates and frees a gigabyte spends a tenth of its time on them.
    """
    tune_malloc(mmap_max=0, trim_threshold=2**31 - 1)
