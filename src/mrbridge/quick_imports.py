"""Imports without the search for garbage that makes those of large libraries long."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from mrbridge import interruption


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without looking for cycles meanwhile, and never look through what was imported.

    An import makes hundreds of thousands of objects that stay; Python's collector goes through
    them again and again while their number grows. See `gc.freeze` in Python's documentation.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with interruption.held():
            yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
