"""Doing one thing to many scans: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import TypeVar

from mrbridge import progress
from mrbridge.errors import MrbridgeError, MrbridgeWarning

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = tuple[Result | MrbridgeError, list[str]]
"""What a process sends back: a result or an error, and the warnings on the way to it."""

_AHEAD = 4
"""Items a process that are handed out before the oldest result is taken: enough that no process
waits, and a bound on the results that wait in memory behind a slow one."""


def map_scans(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    label: str,
    imports: Sequence[str] = (),
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """Apply `function` to every item and yield each with its result, in order.

    An item that fails with a `MrbridgeError` yields the error, and the others go on. Any other
    exception is a bug and is raised. Warnings of other processes are repeated in this one.

    Memory does not grow with the number of items: results that nobody holds on to are gone, and at
    most a few a process are made ahead.

    Args:
        function: picklable (defined in a module), as are items and results.
        items: what to do it to.
        workers: processes; 1 or fewer do the work in this process.
        label: what the progress bar says.
        imports: modules, besides its own, that `function` imports when it is called and that take
            long: processes share one import.

    Raises:
        MrbridgeError: a process was killed, most often for want of memory.
    """
    if workers <= 1:
        outcomes = _here(function, items)
    else:
        outcomes = _beside(function, items, workers, [_module(function), *imports])
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
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, imports: Sequence[str]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    pool = ProcessPoolExecutor(
        min(workers, max(1, len(items))), mp_context=_context(imports), initializer=_calm
    )
    try:
        waiting: deque[tuple[Item, Future[Outcome[Result]]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(_call, function, item)))
            if len(waiting) > _AHEAD * workers:
                yield _oldest(waiting)
        while waiting:
            yield _oldest(waiting)
    except BrokenProcessPool:
        raise MrbridgeError(
            "a worker process was killed", remedy="Use fewer workers: memory ran out."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _context(imports: Sequence[str]) -> BaseContext:
    """How processes start: never as a fork of this one, whose threads (torch has them) it may hang.

    They are forks of a server that does nothing but import, so that the seconds that PyTorch and
    others take are paid once; where a system has no such thing, each starts anew. The first list
    of imports holds for all of a process's pools.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mrbridge.one_thread", *imports])
    return context


def _module(function: Callable[..., object]) -> str:
    """Where a function, or the function in a `functools.partial`, is defined."""
    return str(getattr(function, "func", function).__module__)


def _oldest(
    waiting: deque[tuple[Item, Future[Outcome[Result]]]],
) -> tuple[Item, Result | MrbridgeError]:
    """Take the item that was handed out first, wait for its result, repeat its warnings."""
    item, future = waiting.popleft()
    result, messages = future.result()
    for message in messages:
        warnings.warn(message, MrbridgeWarning, stacklevel=3)
    return item, result


def _call(function: Callable[[Item], Result], item: Item) -> Outcome[Result]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MrbridgeWarning)
        result: Result | MrbridgeError
        try:
            result = function(item)
        except MrbridgeError as error:
            result = error
    return result, [str(w.message) for w in caught if issubclass(w.category, MrbridgeWarning)]


def _calm() -> None:
    """One thread a process, also where a script imported PyTorch before."""
    import mrbridge.one_thread  # noqa: F401

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
