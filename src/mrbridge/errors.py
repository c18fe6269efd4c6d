"""Every error a user can meet. Each names the file, what is wrong and what to do.

The command line prints an error as one line on standard error and ends with its `exit_code`
(0 done; 1 some scans failed, the others done; 2 unusable arguments or input; 3 interrupted). Other
exceptions become one of these errors, too (`as_error`); their details go into a file.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.text import is_url, shortened, shown

_LONGEST = 4000
"""The most characters of what an error says: it may repeat what came from anywhere."""

_NO_MEMORY = re.compile(
    r"out of memory|(not enough|insufficient) memory|(can(no|')t|failed to) allocate|"
    r"bad[_ ]alloc|failed to map segment",
    re.IGNORECASE,
)
"""The messages of PyTorch, ONNX Runtime, ITK and C++; NumPy raises MemoryError."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_KEPT = 10  # files of details


class MrbridgeError(Exception):
    """The base of all errors that mrbridge raises on purpose.

    Args:
        what: what is wrong, without a full stop at its end.
        path: the file or folder that it is about, if there is one.
        remedy: what the user can do, as a sentence.
        result: of a batch, what is done, in the form in which it would have been returned.
        counts: of a batch, how much is done, by name. Neither crosses to another process.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        path: str | Path | None = None,
        remedy: str = "",
        result: Any = None,
        counts: dict[str, int] | None = None,
    ) -> None:
        self.what = shown(shortened(what, _LONGEST))
        self.path = None if path is None else Path(path)
        self.remedy = shown(shortened(remedy, _LONGEST))
        self.result, self.counts = result, counts or {}
        super().__init__(self.what)

    def __str__(self) -> str:
        place = "" if self.path is None else f"{shown(self.path)}: "
        remedy = f" {self.remedy}" if self.remedy else ""
        stop = "" if self.what.endswith(("?", "!", ".")) else "."
        return f"{place}{self.what}{stop}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process boundaries, where exceptions are pickled."""
        return partial(type(self), path=self.path, remedy=self.remedy), (self.what,)


class InputError(MrbridgeError):
    """A file or folder that cannot be used."""


class ScanRefused(InputError):
    """A scan that the model does not know; with `--force` it is translated."""


class OutputError(MrbridgeError):
    """A result that cannot be written where it was asked for."""


class SettingsError(MrbridgeError):
    """An option that does not exist or has an impossible value."""


class StoreError(MrbridgeError):
    """A prepared store that is absent, damaged or unfit for what was asked."""


class BundleError(MrbridgeError):
    """A bundle or run that is absent, damaged or of another version."""


class SizeError(MrbridgeError):
    """An image size that a network cannot take."""


def must_be_here(path: str | Path, remedy: str = "Name a folder of this machine.") -> None:
    """Refuse a URL where only a path will do: SettingsError."""
    if is_url(path):
        raise SettingsError("is a URL, which is not accepted here", path=path, remedy=remedy)


def must_exist(
    path: str | Path | None,
    kind: type[MrbridgeError] = InputError,
    remedy: str = "Check the path.",
) -> None:
    """Refuse a path that does not exist; None is not checked.

    The command line asks this before it imports what takes seconds.

    Raises:
        MrbridgeError: of that kind.
    """
    if path is None:
        return
    must_be_here(path)
    # A broken link may be of a DataLad dataset: reading it gives the better message.
    if not Path(path).exists() and not Path(path).is_symlink():
        raise kind("does not exist", path=path, remedy=remedy)


def must_be_new(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        OutputError: it does, or is a file.
        SettingsError: it is a URL.
    """
    must_be_here(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OutputError("is not empty", path=folder, remedy="Name a new folder.")


class SomeScansFailed(MrbridgeError):
    """Part of a batch could not be done; the rest is done, and in `result`."""

    exit_code = 1


class Interrupted(MrbridgeError):
    """The work was stopped and can be resumed; what is done is in `result`, or counted."""

    exit_code = 3


class MrbridgeWarning(UserWarning):
    """Something that was mended or assumed, and that the user should know."""


def warn(what: str, path: str | Path | None = None) -> None:
    """Issue a `MrbridgeWarning`, about a file if one is given, at the line that calls mrbridge."""
    level, frame = 2, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "mrbridge" and frame.f_back:
        level, frame = level + 1, frame.f_back
    text = what if path is None else f"{shown(path)}: {what}"
    warnings.warn(text, MrbridgeWarning, stacklevel=level)


def as_error(error: Exception) -> MrbridgeError:
    """The error in one line that stands for any exception; itself, if it is mrbridge's own."""
    if isinstance(error, MrbridgeError):
        return error
    if is_out_of_memory(error):
        return too_large()
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        path = str(error).partition("from ")[2].strip("'\"")
        return InputError("is a circular link", path=path, remedy="Remove it.")
    details = _write_details(error)
    where = "repeat it with -v" if details is None else f"add {details}"
    return MrbridgeError(
        f"mrbridge {__version__} failed unexpectedly ({type(error).__name__})",
        remedy=f"Please report it, and {where}.",
    )


def too_large(path: str | Path | None = None) -> MrbridgeError:
    """The error for a scan that needs more memory than is available."""
    return MrbridgeError(
        "needs more memory than is available",
        path=path,
        remedy="Check the voxel sizes in its header.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the computer or a GPU."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return not isinstance(error, MrbridgeError) and _NO_MEMORY.search(str(error)) is not None


@contextmanager
def about(path: Path | None, kind: type[MrbridgeError] = InputError) -> Iterator[None]:
    """Within it, errors of a kind that name no file are about `path`."""
    try:
        yield
    except kind as error:
        error.path = error.path or path
        raise


@contextmanager
def at_work_on(path: Path) -> Iterator[None]:
    """Within it, lack of memory is a MrbridgeError about the file at `path`."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise too_large(path) from error
        raise


def _of_system(error: OSError) -> MrbridgeError:
    path = error.filename if isinstance(error.filename, str) and error.filename else None
    what = (error.strerror or str(error) or type(error).__name__).strip()
    what = what[:1].lower() + what[1:]
    if error.errno in _NO_ROOM:
        return OutputError(
            f"cannot be written ({what})" if path else what,
            path=path,
            remedy="Free some disk space.",
        )
    return InputError(
        f"cannot be used ({what})" if path else what,
        path=path,
        remedy="Check the name, the free space and the permissions.",
    )


def _write_details(error: BaseException) -> Path | None:
    """Write the traceback to a file that only the user may read; None if that is impossible."""
    import platform
    import tempfile
    import time
    import traceback

    text = (
        f"mrbridge {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n\n"
        + "".join(traceback.format_exception(type(error), error, error.__traceback__))
    )
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for folder in (_state_folder(), None):
        try:
            if folder is None:
                number, place = tempfile.mkstemp(".txt", f"mrbridge-{name}-")
            else:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for old in sorted(folder.glob("error-*.txt"))[: 1 - _KEPT]:
                    with suppress(OSError):
                        old.unlink()
                number, place = tempfile.mkstemp(".txt", f"{name}-", folder)
            with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return Path(place)
    return None


def _state_folder() -> Path | None:
    """The user's folder for files about runs (XDG Base Directory Specification).

    None for a user without a home, as in a container with a number but no name for them.
    """
    named = os.environ.get("XDG_STATE_HOME")
    if named and os.path.isabs(named):
        return Path(named) / "mrbridge"
    try:
        return Path.home() / ".local" / "state" / "mrbridge"
    except RuntimeError:
        return None
