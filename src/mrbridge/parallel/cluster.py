"""Mapping over scans on a Dask cluster whose workers see the same files at the same paths.

When a worker dies, Dask gives the item to another one, until `allowed-failures` + 1 workers (a
setting of the scheduler, 3 by default) have died at it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from mrbridge.errors import MrbridgeError, SettingsError
from mrbridge.parallel import Item, Outcome, Result, call, killed, packed, use_one_thread
from mrbridge.quiet import at_level
from mrbridge.threads import tune_malloc

log = logging.getLogger(__name__)

AHEAD = 4
"""Items for each worker that are submitted before the oldest result is taken."""

REACH_SECONDS = 10
"""The time in which a scheduler must answer."""

WORKERLESS_SECONDS = 60
"""The time for which a cluster may be without workers: those of a job queue come and go."""

_one_at_a_time = threading.Lock()
"""In a worker: warnings, logs and thread counts belong to the process, not to its threads."""


def on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """See `mrbridge.parallel.map_scans`."""
    with _client(address) as client:
        ahead = AHEAD * _check_workers(client, address)
        waiting: deque[tuple[Item, Any]] = deque()
        for item in items:
            waiting.append((item, _submit(client, function, item)))
            if len(waiting) > ahead:
                yield _oldest(client, function, waiting)
        while waiting:
            yield _oldest(client, function, waiting)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A client of a scheduler.

    Raises:
        SettingsError: Dask is not installed, or the scheduler does not answer.
        MrbridgeError: the scheduler went away.
    """
    if importlib.util.find_spec("distributed") is None:
        raise SettingsError(
            "--dask needs distributed",
            remedy="Run pip install 'mrbridge[dask]', or use --workers.",
        )
    import distributed

    # Their messages have several lines; the errors below have one.
    names = [f"distributed.{name}" for name in ("client", "core", "scheduler")]
    with at_level(logging.CRITICAL, *names):
        try:
            client = distributed.Client(address, timeout=REACH_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError):
            raise SettingsError(
                f"no Dask scheduler answers at {address}",
                remedy="Start one with: dask scheduler --host 127.0.0.1.",
            ) from None
        try:
            yield client
        except (CancelledError, distributed.CancelledError, distributed.comm.CommClosedError):
            raise MrbridgeError(
                f"the connection to the Dask scheduler at {address} was lost",
                remedy="Start it and run this again: finished scans are kept.",
            ) from None
        finally:
            client.close(timeout=REACH_SECONDS)


def _check_workers(client: Any, address: str) -> int:
    """The number of workers of a cluster; SettingsError if it has none, or they have another
    mrbridge."""
    try:
        client.wait_for_workers(1, timeout=WORKERLESS_SECONDS)
    except TimeoutError:
        raise SettingsError(
            f"the Dask cluster at {address} has no workers",
            remedy=f"Start some with: dask worker {address} --nthreads 1.",
        ) from None
    ours = importlib.metadata.version("mrbridge")
    found = client.run(importlib.metadata.version, "mrbridge", on_error="return")
    for worker, theirs in found.items():
        if theirs != ours:
            has = f"has mrbridge {theirs}" if isinstance(theirs, str) else "has no mrbridge"
            raise SettingsError(
                f"the Dask worker {worker} {has}, and this is {ours}",
                remedy="Install the same version everywhere.",
            )
    threads = client.nthreads()
    if any(count > 1 for count in threads.values()):
        log.warning(
            "some Dask workers have several threads, of which mrbridge uses one: start them with "
            "--nthreads 1, as many as there are cores"
        )
    return len(threads)


def _submit(
    client: Any, function: Callable[[Item], Result], item: Item, but: str | None = None
) -> Any:
    """Submit an item, if possible to another machine, or at least another worker, than `but`."""
    others: list[str] = []
    if but is not None:
        workers = [worker for worker in client.nthreads() if worker != but]
        others = [worker for worker in workers if _host(worker) != _host(but)] or workers
    return client.submit(
        _call_there,
        packed(function, item),
        pure=False,  # it has side effects
        workers=others or None,
        allow_other_workers=bool(others),  # these may die
    )


def _host(worker: str) -> str:
    return worker.rpartition(":")[0]


def _call_there(work: bytes) -> tuple[Outcome[Any], str]:
    """Work on an item in a worker; returns the outcome and the address of the worker."""
    from distributed import get_worker

    with _one_at_a_time:
        use_one_thread()
        keep_some_memory()
        return call(work), get_worker().address


def keep_some_memory() -> None:
    """Let glibc keep freed memory, though Dask has it return all beyond 64 KiB to the system.

    Dask starts workers with `MALLOC_TRIM_THRESHOLD_=65536`. Each new block is then mapped again, a
    page fault for every 4 KiB: a translation takes 1.7 times as long. Source: `mallopt(3)`, and
    "pre-spawn-environ" in Dask's configuration reference.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        tune_malloc(mmap_threshold=32 << 20, trim_threshold=256 << 20)  # the first: its maximum


def _oldest(
    client: Any, function: Callable[[Item], Result], waiting: deque[tuple[Item, Any]]
) -> tuple[Item, Result | MrbridgeError]:
    """Wait for the result of the oldest item; one that failed is tried once more.

    So is one whose workers died: it may only have waited in them behind the item that killed them.
    """
    from distributed import KilledWorker

    item, future = waiting.popleft()
    try:
        outcome, worker = _received(client, future)
        again = isinstance(outcome.result, MrbridgeError) and len(client.nthreads()) > 1
    except KilledWorker:
        outcome, worker, again = killed("several workers"), None, True
    if again:
        try:
            outcome, _ = _received(client, _submit(client, function, item, but=worker))
        except KilledWorker:
            outcome = killed("several workers")
    return item, outcome.replayed()


def _received(client: Any, future: Any) -> Any:
    """Wait for a result as long as there are workers; MrbridgeError if they are gone."""
    from distributed import wait

    while not future.done():
        try:
            with client.as_current():
                wait(future, timeout=WORKERLESS_SECONDS)
        except TimeoutError:
            if not client.nthreads():
                raise MrbridgeError(
                    "the Dask cluster lost all its workers",
                    remedy="Start some and run this again: finished scans are kept.",
                ) from None
    return future.result()
