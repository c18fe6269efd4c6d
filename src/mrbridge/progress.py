"""Progress bars with the time left, on terminals only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mrbridge.interruption import check

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

_bars: list[Progress] = []
_reports: list[Callable[[float], None]] = []
_levels: list[_Level] = []


@dataclass
class _Level:
    """How much of a loop is done."""

    done: int
    total: int


@contextmanager
def reported(report: Callable[[float], None]) -> Iterator[None]:
    """Within it, loops that are tracked are not shown, but reported: for one thread.

    Args:
        report: called with the share of the outermost loop that is done, from 0 to 1, in which
            nested loops count as parts of its items.
    """
    _reports.append(report)
    try:
        yield
    finally:
        _reports.remove(report)


def wanted() -> bool:
    """Whether to show progress: on a terminal, unless only errors are logged (`-q`)."""
    return sys.stderr.isatty() and logging.getLogger("mrbridge").level < logging.ERROR


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`; on a terminal, show how many are done and the time left.

    Nested progress, such as of the slices of each scan, gets a line of its own below.
    """
    if _reports:
        yield from _reporting(items, total)
        return
    if not wanted():
        for item in items:
            check()  # a signal's exception may have been lost in a callback
            yield item
        return
    outer = _bars[-1:]  # at once: another thread may close its bar
    if outer:
        task = outer[0].add_task(label, total=total)
        try:
            yield from outer[0].track(items, task_id=task)
        finally:
            outer[0].remove_task(task)
        return
    with _bar("MofNCompleteColumn") as bar:
        _bars.append(bar)
        try:
            yield from bar.track(items, description=label, total=total)
        finally:
            _bars.remove(bar)


@contextmanager
def transfer(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function that takes numbers of received bytes, and on a terminal shows speed and time left.

    Several threads may call it. `total` is None if it is unknown.
    """
    if not wanted():
        yield lambda count: None
        return
    with _bar("DownloadColumn", "TransferSpeedColumn") as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _bar(*middle: str) -> Progress:
    """A bar on standard error, with these columns of `rich.progress` before the time left."""
    from rich import progress
    from rich.console import Console

    columns = [getattr(progress, name)() for name in ("BarColumn", *middle, "TimeRemainingColumn")]
    label = progress.TextColumn("{task.description}")
    return progress.Progress(label, *columns, console=Console(stderr=True))


def _reporting(items: Iterable[T], total: int | None) -> Iterator[T]:
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    level = _Level(0, max(total, 1))
    _levels.append(level)
    try:
        for item in items:
            check()
            yield item
            level.done = min(level.done + 1, level.total)
            share, part = 0.0, 1.0
            for one in _levels:
                part /= one.total
                share += one.done * part
            _reports[-1](share)
    finally:
        _levels.remove(level)
