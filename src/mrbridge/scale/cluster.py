"""A Dask cluster whose workers see the same files at the same places.

Dask does what has to be done when a worker dies: it gives the item to another one, until the item
has been at work in `allowed-failures` (3, unless the scheduler is told otherwise) workers that died
and in one more. That is its setting, and it stays its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from mrbridge.errors import MrbridgeError, SettingsError
from mrbridge.quiet import at_level
from mrbridge.scale.calls import Item, Outcome, Result, call, calm, killer, packed

log = logging.getLogger(__name__)

AHEAD = 4
"""Items a worker that are sent before the oldest result is taken."""

REACH_SECONDS = 10
"""How long a scheduler may take to answer."""

WORKERLESS_SECONDS = 60
"""How long a cluster may be without workers: those of a job queue come and go."""

_one_at_a_time = threading.Lock()
"""Of a worker: warnings, logs and thread counts belong to a process, not to one of its threads."""


def on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """See `mrbridge.scale.map_scans`."""
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
            remedy="Run pip install 'mrbridge[dask]', or take --workers.",
        )
    import distributed

    # What these would say on several lines is said below on one.
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
                f"the Dask scheduler at {address} is gone",
                remedy="Start it and run this again: what is done is not done twice.",
            ) from None
        finally:
            client.close(timeout=REACH_SECONDS)


def _check_workers(client: Any, address: str) -> int:
    """How many scans a cluster can do at once.

    Raises:
        SettingsError: it has no workers, or they have another mrbridge.
    """
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
    """Send an item to the cluster, if possible to another machine or at least worker than `but`."""
    others: list[str] = []
    if but is not None:
        workers = [worker for worker in client.nthreads() if worker != but]
        others = [worker for worker in workers if _host(worker) != _host(but)] or workers
    return client.submit(
        _call_there,
        packed(function, item),
        pure=False,  # the function is asked to do something, not only to tell
        workers=others or None,
        allow_other_workers=bool(others),  # they may die meanwhile
    )


def _host(worker: str) -> str:
    return worker.rpartition(":")[0]


def _call_there(work: bytes) -> tuple[Outcome[Any], str]:
    """Do an item in a worker; tells which it was."""
    from distributed import get_worker

    with _one_at_a_time:
        calm()
        return call(work), get_worker().address


def _oldest(
    client: Any, function: Callable[[Item], Result], waiting: deque[tuple[Item, Any]]
) -> tuple[Item, Result | MrbridgeError]:
    """Wait for the result of the item that was sent first; one that failed has a second try.

    So has one whose workers died: it may only have waited in them behind another that killed them.
    """
    from distributed import KilledWorker

    item, future = waiting.popleft()
    try:
        outcome, worker = _received(client, future)
        again = isinstance(outcome.result, MrbridgeError) and len(client.nthreads()) > 1
    except KilledWorker:
        outcome, worker, again = killer("several workers"), None, True
    if again:
        try:
            outcome, _ = _received(client, _submit(client, function, item, but=worker))
        except KilledWorker:
            outcome = killer("several workers")
    return item, outcome.told()


def _received(client: Any, future: Any) -> Any:
    """Wait for a result as long as there are workers.

    Raises:
        MrbridgeError: there are none any more.
    """
    from distributed import wait

    while not future.done():
        try:
            with client.as_current():
                wait(future, timeout=WORKERLESS_SECONDS)
        except TimeoutError:
            if not client.nthreads():
                raise MrbridgeError(
                    "the Dask cluster has no workers any more",
                    remedy="Start some and run this again: what is done is not done twice.",
                ) from None
    return future.result()
