"""Map a function over scans: in this process, in local processes, or on a Dask cluster."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mrbridge import interruption, progress
from mrbridge.errors import MrbridgeError, MrbridgeWarning, as_error, warn
from mrbridge.settings import Positive

Item = TypeVar("Item")
Result = TypeVar("Result")

Workers = Positive | str
"""The number of processes, or the address of the scheduler of a Dask cluster."""


def map_scans(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: Workers = 1,
    label: str,
    imports: Sequence[str] = (),
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    """Apply `function` to every item and yield each with its result, in order.

    A failing item yields its error and does not stop the others; an unexpected exception becomes a
    `MrbridgeError` (`errors.as_error`). Warnings and logs of other processes are repeated in
    this one.

    An item whose process is killed is tried again: in a process of its own, or by another worker of
    the cluster. If it kills several, it yields an error. On a cluster, a failing item is tried once
    more by another worker, on another machine if possible, in case a disk is missing on one. So an
    item may be done twice, which must do no harm.

    Memory does not grow with the number of items: only a few results for each process are computed
    ahead.

    Args:
        function: picklable (defined in a module), as are items and results.
        items: its arguments. On a cluster, paths are absolute and mean the same files on all
            machines (`reachable`).
        workers: number of processes, with 1 or fewer this one; or the address of a Dask scheduler,
            such as `tcp://127.0.0.1:8786`.
        label: the label of the progress bar.
        imports: slow modules, besides its own, that `function` imports when it is called: processes
            share the import.

    Raises:
        SettingsError: the cluster cannot be used.
        MrbridgeError: the connection to the cluster was lost.
        KeyboardInterrupt: a signal came; other processes have ended, and their finished results
            were yielded before.
    """
    if isinstance(workers, str):
        from mrbridge.parallel.cluster import on_cluster

        outcomes = on_cluster(function, items, workers)
    elif workers <= 1:
        outcomes = _here(function, items)
    else:
        from mrbridge.parallel.processes import in_processes

        outcomes = in_processes(function, items, workers, imports)
    yield from progress.track(outcomes, label, total=len(items))


def reachable(path: Any, workers: Workers) -> Any:
    """A path that all workers understand: an absolute one for those of a cluster.

    Args:
        path: one path, a list of several, or something else, which is returned unchanged.
        workers: see `map_scans`.
    """
    if not isinstance(workers, str):
        return path
    if isinstance(path, str | Path):
        return Path(path).absolute()
    return [Path(one).absolute() for one in path] if isinstance(path, list | tuple) else path


def _here(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | MrbridgeError]]:
    for item in items:
        interruption.check()
        try:
            result: Result | MrbridgeError = function(item)
        except Warning:  # the user made warnings errors
            raise
        except Exception as error:
            result = as_error(error)
        yield item, result


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The result from another process.

    Attributes:
        result: the result of the function, or its error.
        heard: its warnings and log records (`listening`).
    """

    result: Result | MrbridgeError
    heard: tuple[Heard, ...] = ()

    def replayed(self) -> Result | MrbridgeError:
        """The result, after its warnings and logs are repeated in this process."""
        for logger, level, words in self.heard:
            if logger is None:
                warn(words)
            else:
                logging.getLogger(logger).log(level, "%s", words)
        return self.result


def packed(function: Callable[[Item], Result], item: Item) -> bytes:
    """A function and its item, pickled for `call`.

    If unpickling fails there, such as for a model that is gone, that is the error of this item. In
    a pool it would be the end of the process.
    """
    return pickle.dumps((function, item))


def call(packed: bytes) -> Outcome[Any]:
    """Call a `packed` function in another process, and collect its warnings and logs."""
    with listening() as heard:
        result: Any
        try:
            function, item = pickle.loads(packed)
            result = function(item)
        except Exception as error:
            result = as_error(error)
    return Outcome(result, tuple(heard))


def killed(processes: str) -> Outcome[Any]:
    """The outcome of an item that killed all processes that worked on it."""
    return Outcome(
        MrbridgeError(
            f"{processes} were killed while processing it, most often for lack of memory",
            remedy="Provide more memory, or leave it out.",
        )
    )


def use_one_thread() -> None:
    """Compute with one thread in this process, even if PyTorch was imported before."""
    import mrbridge.one_thread  # noqa: F401

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


Heard = tuple[str | None, int, str]
"""Name of the logger, level, message; a warning has no logger."""


class _Listener(logging.Handler):
    def __init__(self, heard: list[Heard]) -> None:
        super().__init__(logging.INFO)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((record.name, record.levelno, record.getMessage()))


@contextmanager
def listening() -> Iterator[list[Heard]]:
    """Collect what mrbridge logs and warns of, for the process that shows it."""
    logger = logging.getLogger("mrbridge")
    before = logger.handlers, logger.propagate, logger.level
    heard: list[Heard] = []

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, MrbridgeWarning):
            heard.append((None, logging.WARNING, str(message)))

    logger.handlers, logger.propagate = [_Listener(heard)], False
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():  # puts back `showwarning`, too
            warnings.simplefilter("always", MrbridgeWarning)
            warnings.showwarning = show
            yield heard
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
