"""Processes of this computer, one of which may be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from mrbridge import interruption
from mrbridge.children import safe_path
from mrbridge.errors import MrbridgeError
from mrbridge.quiet import tolerate_warnings
from mrbridge.scale.calls import Item, Outcome, Result, call, calm, killer, packed

AHEAD = 4
"""Items a process that are handed out before the oldest result is taken: enough that no process
waits, and a bound on the results that wait in memory behind a slow one."""

TRIES = 3
"""Processes that one item may kill."""

GRACE_SECONDS = 3.0
"""How long a process may take to end its work in order: temporary files are removed."""


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, imports: Sequence[str]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """See `mrbridge.scale.map_scans`."""
    with safe_path():
        yield from _in_processes(function, items, workers, imports)


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, imports: Sequence[str]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    context = _context([_module(function), *imports])
    rest = iter(items)
    is_broken = True
    while is_broken:
        is_broken = False
        pool = _pool(min(workers, max(1, len(items))), context)
        waiting: deque[tuple[Item, Future[Outcome[Any]]]] = deque()
        try:
            for item in rest:
                waiting.append((item, _hand_out(pool, packed(function, item))))
                if len(waiting) > AHEAD * workers:
                    yield _oldest(waiting)
            while waiting:
                yield _oldest(waiting)
        except BrokenProcessPool:
            is_broken = True
        except KeyboardInterrupt:
            _stop(pool)
            for item, future in waiting:
                if future.done() and not future.cancelled() and future.exception() is None:
                    yield item, future.result().told()
            raise
        except BaseException:  # nobody waits for the results any more
            _stop(pool)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        # Who killed a process is not known; one at a time, each can only kill its own.
        for item, future in waiting:
            is_lost = isinstance(future.exception(), BrokenProcessPool)
            outcome = _alone(packed(function, item), context) if is_lost else future.result()
            yield item, outcome.told()


def _pool(workers: int, context: BaseContext) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool whatever they do."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        process.kill()


def _begin() -> None:
    """What a process does first."""
    calm()
    tolerate_warnings()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()


_at_work = False


def _end(number: int, frame: object) -> None:
    """On a signal: end the work in order, and the process with it."""
    if not _at_work:
        os._exit(1)
    timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _work(work: bytes) -> Outcome[Any]:
    """Do one item; a signal meanwhile is the end of this process."""
    global _at_work
    _at_work = True
    try:
        return call(work)
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        _at_work = False


def _end_with(parent: BaseProcess | None) -> None:
    """End when the process that hands out the work is gone: killed, it could not say so.

    The pool's queues would never tell: each process holds both ends of them.
    """
    if parent is not None:
        parent.join()
        os._exit(1)


def _hand_out(pool: ProcessPoolExecutor, work: bytes) -> Future[Outcome[Any]]:
    """Hand an item to a pool; a broken one answers at once that it is."""
    try:
        return pool.submit(_work, work)
    except BrokenProcessPool as error:
        refused: Future[Outcome[Any]] = Future()
        refused.set_exception(error)
        return refused


def _oldest(
    waiting: deque[tuple[Item, Future[Outcome[Any]]]],
) -> tuple[Item, Any]:
    """Wait for the result of the item that was handed out first, and take both."""
    interruption.check()
    item, future = waiting[0]
    outcome = future.result()
    waiting.popleft()
    return item, outcome.told()


def _alone(work: bytes, context: BaseContext) -> Outcome[Any]:
    """Do again what may have killed a process, with nothing beside it that wants memory."""
    for _ in range(TRIES - 1):
        with _pool(1, context) as pool:
            try:
                return pool.submit(_work, work).result()
            except BrokenProcessPool:
                continue
            except BaseException:
                _stop(pool)
                raise
    return killer(f"{TRIES} processes")


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
