"""Silencing other libraries for a while, and restoring the state of the process afterwards."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any


class Shared:
    """A change of global state that several threads may make at the same time.

    `warnings.catch_warnings` and the like put back what they found. Where threads overlap, that is
    what another thread had set, and it stays. Here the first thread makes the change, and the last
    one undoes it. Call it for the context manager.

    Args:
        change: gives the context manager that makes the change and undoes it.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self._change = change
        self._lock = Lock()
        self._inside = 0
        self._undo = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Make the change for its block."""
        with self._lock:
            if not self._inside:
                self._undo.enter_context(self._change())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._undo.close()


without_warnings = Shared(lambda: warnings.catch_warnings(action="ignore"))
"""In a block `with without_warnings()`, no thread shows warnings."""


@contextmanager
def each_warning_once() -> Iterator[None]:
    """In its block, of several warnings with the same text the first is shown."""
    show, seen = warnings.showwarning, set[str]()

    def show_once(message: Warning | str, *where: Any, **more: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            show(message, *where, **more)

    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show


@contextmanager
def at_level(level: int, *names: str) -> Iterator[None]:
    """In its block, these loggers and their children drop messages below `level`."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, kept in zip(loggers, before, strict=True):
            logger.setLevel(kept)


def tolerate_warnings() -> None:
    """For programs: keep warnings as warnings if PYTHONWARNINGS would make them errors."""
    if sys.warnoptions:
        for action, *rest in list(warnings.filters):
            if action == "error":
                warnings.filters.remove((action, *rest))  # type: ignore[attr-defined]
        warnings.simplefilter("default", append=True)
