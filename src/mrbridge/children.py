"""Python processes that mrbridge starts: they never import from the working directory.

The working directory is often a folder of data, which may hold a `json.py` or a `numpy.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mrbridge.quiet import Shared

SAFE_PATH = "PYTHONSAFEPATH"
"""With it set, Python leaves the working directory out of `sys.path` (as with `python -P`)."""


@contextmanager
def _safe_path() -> Iterator[None]:
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


safe_path = Shared(_safe_path)
"""Within `safe_path()`, processes start without the working directory on their import path."""
