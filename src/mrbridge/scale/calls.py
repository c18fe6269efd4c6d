"""One call in another process: what it sends back, and what becomes of that here."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mrbridge.errors import MrbridgeError, MrbridgeWarning
from mrbridge.unexpected import as_error

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What a process sends back.

    Attributes:
        result: what the function gave, or its error.
        warned: the warnings on the way to it.
        logged: what it logged: the logger's name, the level, the words.
    """

    result: Result | MrbridgeError
    warned: tuple[str, ...] = ()
    logged: tuple[tuple[str, int, str], ...] = ()

    def told(self) -> Result | MrbridgeError:
        """The result, after what was said on the way to it is said again here."""
        for message in self.warned:
            warnings.warn(message, MrbridgeWarning, stacklevel=4)
        for name, level, words in self.logged:
            logging.getLogger(name).log(level, "%s", words)
        return self.result


def packed(function: Callable[[Item], Result], item: Item) -> bytes:
    """A function and its item, as other processes get them.

    They unpack both in `call`: what fails there, such as a model that is not to be found, is the
    error of this item. Where a pool unpacks, it is the end of the process.
    """
    return pickle.dumps((function, item))


def call(packed: bytes) -> Outcome[Any]:
    """Do what was `packed` in a process whose warnings and logs nobody sees."""
    with warnings.catch_warnings(record=True) as caught, _listening() as logged:
        warnings.simplefilter("always", MrbridgeWarning)
        result: Any
        try:
            function, item = pickle.loads(packed)
            result = function(item)
        except Exception as error:
            result = as_error(error)
    warned = [str(w.message) for w in caught if issubclass(w.category, MrbridgeWarning)]
    return Outcome(result, tuple(warned), tuple(logged))


def killer(victims: str) -> Outcome[Any]:
    """The outcome of an item that nobody survived."""
    return Outcome(
        MrbridgeError(
            f"{victims} were killed at work on it, most often for lack of memory",
            remedy="Give it more memory, or leave it out.",
        )
    )


def calm() -> None:
    """One thread a process, also where a script imported PyTorch before."""
    import mrbridge.one_thread  # noqa: F401

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


class _Listener(logging.Handler):
    def __init__(self, heard: list[tuple[str, int, str]]) -> None:
        super().__init__(logging.INFO)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((record.name, record.levelno, record.getMessage()))


@contextmanager
def _listening() -> Iterator[list[tuple[str, int, str]]]:
    """Collect what mrbridge logs; whether it is shown is decided where it arrives."""
    logger = logging.getLogger("mrbridge")
    before = logger.handlers, logger.propagate, logger.level
    heard: list[tuple[str, int, str]] = []
    logger.handlers, logger.propagate = [_Listener(heard)], False
    logger.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
