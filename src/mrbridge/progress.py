"""Progress bars with the time left, on terminals only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

_quiet = False
_bars: list[Progress] = []


def set_quiet(quiet: bool) -> None:
    """Switch all progress bars off (`-q`) or back on."""
    global _quiet
    _quiet = quiet


def wanted() -> bool:
    """Whether a live display makes sense: standard error is a terminal and nobody said -q."""
    return not _quiet and sys.stderr.isatty()


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing on a terminal how many are done and how long the rest will take.

    One inside another, such as the slices of each scan, gets a line of its own below it.
    """
    if not wanted():
        yield from items
        return
    outer = _bars[-1:]  # in one step: another thread may be closing its bar
    if outer:
        yield from _below(outer[0], items, label, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        _bars.append(bar)
        try:
            yield from bar.track(items, description=label, total=total)
        finally:
            _bars.remove(bar)


@contextmanager
def transfer(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many bytes came; on a terminal it shows speed and time left.

    It may be called by several threads. `total` is None where nobody knows it.
    """
    if not wanted():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _below(bar: Progress, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    task = bar.add_task(label, total=total)
    try:
        yield from bar.track(items, task_id=task)
    finally:
        bar.remove_task(task)
