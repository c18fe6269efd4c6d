"""Doing one thing to many scans: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mrbridge import progress
from mrbridge.errors import MrbridgeError, MrbridgeWarning

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_scans(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    label: str,
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """Apply `function` to every item and yield each with its result, in order.

    An item that fails with a `MrbridgeError` yields the error, and the others go on. Any other
    exception is a bug and is raised. Warnings of other processes are repeated in this one.

    Args:
        function: picklable (defined in a module), as are items and results.
        items: what to do it to.
        workers: processes; 1 or fewer do the work in this process.
        label: what the progress bar says.

    Raises:
        MrbridgeError: a process was killed, most often for want of memory.
    """
    outcomes = _here(function, items) if workers <= 1 else _beside(function, items, workers)
    yield from progress.track(outcomes, label, total=len(items))


def _here(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    for item in items:
        try:
            yield item, function(item)
        except MrbridgeError as error:
            yield item, error


def _beside(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    # Spawned rather than forked: a fork of a process with threads (torch has them) can hang.
    pool = ProcessPoolExecutor(
        min(workers, max(1, len(items))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_calm,
    )
    try:
        futures = [pool.submit(_call, function, item) for item in items]
        for item, future in zip(items, futures, strict=True):
            try:
                result, messages = future.result()
            except BrokenProcessPool:
                raise MrbridgeError(
                    "a worker process was killed", remedy="Use fewer workers: memory ran out."
                ) from None
            for message in messages:
                warnings.warn(message, MrbridgeWarning, stacklevel=2)
            yield item, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _call(
    function: Callable[[Item], Result], item: Item
) -> tuple[Result | MrbridgeError, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MrbridgeWarning)
        result: Result | MrbridgeError
        try:
            result = function(item)
        except MrbridgeError as error:
            result = error
    return result, [str(w.message) for w in caught if issubclass(w.category, MrbridgeWarning)]


def _calm() -> None:
    """One thread a process: with as many processes as cores, more would only queue."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
