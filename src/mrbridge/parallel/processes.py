"""Mapping over scans in local processes, each of which may be killed."""

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
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

from mrbridge import interruption
from mrbridge.errors import MrbridgeError
from mrbridge.parallel import Item, Outcome, Result, call, killed, packed, use_one_thread
from mrbridge.quiet import Shared, tolerate_warnings

AHEAD = 4
"""Items for each process that are submitted before the oldest result is taken: enough that no
process is idle, and a bound on the results in memory behind a slow item."""

TRIES = 3
"""The number of processes that one item may kill."""

GRACE_SECONDS = 3.0
"""The time in which a process may remove its temporary files."""


@contextmanager
def _safe_path() -> Iterator[None]:
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


safe_path = Shared(_safe_path)
"""Within `safe_path()`, processes start without the working directory on their import path. It is
often a folder of data, which may hold a `json.py` or a `numpy.py`."""


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, imports: Sequence[str]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """See `mrbridge.parallel.map_scans`."""
    with safe_path():
        yield from _in_processes(function, items, workers, imports)


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, imports: Sequence[str]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    its_module = str(getattr(function, "func", function).__module__)  # of a `partial`, too
    context = _context([its_module, *imports])
    rest = iter(items)
    waiting: deque[tuple[Item, Future[Outcome[Any]]]] = deque()
    is_broken = True
    try:
        while is_broken:
            is_broken = False
            pool = _pool(min(workers, max(1, len(items))), context)
            try:
                for item in rest:
                    waiting.append((item, _submit(pool, packed(function, item))))
                    if len(waiting) > AHEAD * workers:
                        yield _oldest(waiting)
                while waiting:
                    yield _oldest(waiting)
            except BrokenProcessPool:
                is_broken = True
            except BaseException:  # a signal, or the caller no longer takes results
                _stop(pool)
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            # Any of them may have killed the process: one at a time, each can only kill its own.
            while waiting:
                item, future = waiting[0]
                is_lost = isinstance(future.exception(), BrokenProcessPool)
                outcome = _repeat(packed(function, item), context) if is_lost else future.result()
                waiting.popleft()
                yield item, outcome.replayed()
    except KeyboardInterrupt:
        for item, future in waiting:
            if future.done() and not future.cancelled() and future.exception() is None:
                yield item, future.result().replayed()
        raise


def _pool(workers: int, context: BaseContext) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        process.kill()


def _set_up() -> None:
    """Set up a new process."""
    use_one_thread()
    tolerate_warnings()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    end_with_parent()


_at_work = False


def _end(number: int, frame: object) -> None:
    """On a signal: clean up, and end the process."""
    if not _at_work:
        os._exit(1)
    timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _work(work: bytes) -> Outcome[Any]:
    """Work on one item; a signal ends the process."""
    global _at_work
    _at_work = True
    try:
        return call(work)
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        _at_work = False


def end_with_parent() -> None:
    """End this process when its parent has ended, which sends no signal if it is killed.

    The queues of a pool do not show it: every process has both their ends open.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _submit(pool: ProcessPoolExecutor, work: bytes) -> Future[Outcome[Any]]:
    """Submit an item to a pool; a broken pool answers at once."""
    try:
        return pool.submit(_work, work)
    except BrokenProcessPool as error:
        refused: Future[Outcome[Any]] = Future()
        refused.set_exception(error)
        return refused


def _oldest(
    waiting: deque[tuple[Item, Future[Outcome[Any]]]],
) -> tuple[Item, Any]:
    """Wait for the result of the oldest item, and remove both from the queue."""
    interruption.check()
    item, future = waiting[0]
    outcome = future.result()
    waiting.popleft()
    return item, outcome.replayed()


def _repeat(work: bytes, context: BaseContext) -> Outcome[Any]:
    """Repeat an item that may have killed a process, with no other process that needs memory."""
    for _ in range(TRIES - 1):
        with _pool(1, context) as pool:
            try:
                return pool.submit(_work, work).result()
            except BrokenProcessPool:
                continue
            except BaseException:
                _stop(pool)
                raise
    return killed(f"{TRIES} processes")


def _context(imports: Sequence[str]) -> BaseContext:
    """How processes start: never as a fork of this one, since forks of PyTorch's threads may hang.

    They are forks of a server that only imports, so that the import of PyTorch is paid once; on
    systems without fork servers each starts afresh. The imports of the first pool apply to all
    later pools of this process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mrbridge.one_thread", *imports])
    return context
