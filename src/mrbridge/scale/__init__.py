"""Doing one thing to many scans: in this process, in several, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mrbridge import interruption, progress
from mrbridge.errors import MrbridgeError
from mrbridge.scale.calls import Item, Result
from mrbridge.unexpected import as_error

Workers = int | str
"""Who does the work: that many processes, or a Dask cluster, named by its scheduler's address."""


def map_scans(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: Workers = 1,
    label: str,
    imports: Sequence[str] = (),
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """Apply `function` to every item and yield each with its result, in order.

    An item that fails yields the error, and the others go on: what is no `MrbridgeError` becomes
    one (`unexpected.as_error`), so that a batch survives its worst scan. Warnings and logs of other
    processes are repeated in this one.

    An item whose process is killed is done again: in a process of its own, or by another worker of
    the cluster. One that kills several yields an error. On a cluster, an item that fails is tried
    once more elsewhere, on another machine if there is one: a disk may be missing here and not
    there. So an item may be done twice, and `function` must be harmless when it is.

    Memory does not grow with the number of items: results that nobody holds on to are gone, and at
    most a few a process are made ahead.

    Args:
        function: picklable (defined in a module), as are items and results.
        items: what to do it to. On a cluster, its paths are absolute and mean the same files
            everywhere (`reachable`).
        workers: processes, of which 1 or fewer do the work in this one; or the address of a Dask
            scheduler, such as `tcp://127.0.0.1:8786`.
        label: what the progress bar says.
        imports: modules, besides its own, that `function` imports when it is called and that take
            long: processes share one import.

    Raises:
        SettingsError: the cluster cannot be used.
        MrbridgeError: the cluster went away.
        KeyboardInterrupt: a signal came; other processes have ended, and what they had finished is
            yielded before.
    """
    if isinstance(workers, str):
        from mrbridge.scale.cluster import on_cluster

        outcomes = on_cluster(function, items, workers)
    elif stays_here(workers):
        outcomes = _here(function, items)
    else:
        from mrbridge.scale.processes import in_processes

        outcomes = in_processes(function, items, workers, imports)
    yield from progress.track(outcomes, label, total=len(items))


def reachable(path: Any, workers: Workers) -> Any:
    """A path as all workers understand it: absolute, for those of a cluster.

    Args:
        path: one, several, or something else, which is given back.
        workers: who does the work.
    """
    if not isinstance(workers, str):
        return path
    if isinstance(path, str | Path):
        return Path(path).absolute()
    return [Path(one).absolute() for one in path] if isinstance(path, list | tuple) else path


def stays_here(workers: Workers) -> bool:
    """Whether the work is done in this process."""
    return not isinstance(workers, str) and workers <= 1


def _here(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    for item in items:
        interruption.check()
        try:
            result: Result | MrbridgeError = function(item)
        except Warning:  # where they are made errors, somebody wants to see them
            raise
        except Exception as error:
            result = as_error(error)
        yield item, result
