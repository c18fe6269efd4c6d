"""The user's folders for what mrbridge keeps between runs (XDG Base Directory Specification)."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path


def user_folder(variable: str, default: str) -> Path:
    """A folder of mrbridge below the one that an environment variable names.

    A user without a home, as in a container with a number but no name for them, gets a private
    temporary folder, which is removed at the end of the process.

    Args:
        variable: such as `XDG_CACHE_HOME`.
        default: below the user's home, such as `.cache`.
    """
    return lasting_folder(variable, default) or _private()


def lasting_folder(variable: str, default: str) -> Path | None:
    """As `user_folder`, but None for a user without a home."""
    named = os.environ.get(variable)
    if named and os.path.isabs(named):
        return Path(named) / "mrbridge"
    try:
        return Path.home() / default / "mrbridge"
    except RuntimeError:
        return None


@functools.cache
def _private() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mrbridge-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
