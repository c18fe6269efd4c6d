"""SIGINT and SIGTERM on the command line: the first ends the work in order, a second one at once.

Only the command line listens. Elsewhere signals do what the caller's program made of them, and
`held` and `check` have no effect.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EXIT_CODE = 3

_REPEATED_SECONDS = 0.2  # `timeout` and schedulers send a signal to the process, then to its group
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class _State:
    """When a signal came, how many blocks hold it back, and the exit code once it is decided."""

    asked: float | None = None
    held: int = 0
    code: int | None = None


_state = _State()


def listen() -> None:
    """Take over the signals, unless the caller ignores them (`nohup`); hold them until `begin`."""
    if not _state.held:  # else it listens since the program began
        _state.asked, _state.held, _state.code = None, 1, None
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def begin() -> None:
    """Let signals interrupt from now on; KeyboardInterrupt if one has come already."""
    _state.held = 0
    check()


def finish(code: int) -> None:
    """The work is over: a signal ends the process with the exit code that it has anyway."""
    _state.code = code
    # A KeyboardInterrupt within `exec` of a string (dataclasses do that) sets a flag even if it is
    # caught, and `python -m` then ends by SIGINT. Another such `exec` clears it; see
    # run_eval_code_obj in CPython's pythonrun.c.
    exec("")


def was_asked() -> bool:
    """Whether a signal has come."""
    return _state.asked is not None


def check() -> None:
    """End here (KeyboardInterrupt) if a signal has come, also one whose exception was lost in a
    callback."""
    if was_asked() and not _state.held:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Within it a signal waits: a module that is half imported, or one file of two, is of no use.

    Raises:
        KeyboardInterrupt: at the end, if one has come.
    """
    _state.held += 1
    try:
        yield
    finally:
        _state.held = max(0, _state.held - 1)
    check()


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without looking for cycles meanwhile, and never look through what was imported.

    An import makes hundreds of thousands of objects that stay; Python's collector goes through
    them again and again while their number grows. See `gc.freeze` in Python's documentation.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with held():
            yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _on_signal(number: int, frame: object) -> None:
    now = time.monotonic()
    if _state.code is not None:
        os._exit(_state.code)
    if _state.asked is None:
        _state.asked = now
        check()
    elif now - _state.asked > _REPEATED_SECONDS:
        try:
            os.write(2, b"error: interrupted again, stopped immediately\n")
        finally:
            os._exit(EXIT_CODE)
