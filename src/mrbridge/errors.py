"""Every error a user can meet. Each names the file, what is wrong and what to do.

The command line prints an error as one line on standard error and ends with its `exit_code`
(0 done; 1 some scans failed, the others done; 2 unusable arguments or input; 3 interrupted).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrbridge.json_text import shortened
from mrbridge.urls import is_url, shown

_LONGEST = 4000
"""The most characters of what an error says: it may repeat what came from anywhere."""


class MrbridgeError(Exception):
    """The base of all errors that mrbridge raises on purpose.

    Args:
        what: what is wrong, without a full stop at its end.
        path: the file or folder that it is about, when there is one.
        remedy: what the user can do, as a sentence.
    """

    exit_code = 2

    def __init__(self, what: str, *, path: str | Path | None = None, remedy: str = "") -> None:
        self.what = shown(shortened(what, _LONGEST))
        self.path = None if path is None else Path(path)
        self.remedy = shown(shortened(remedy, _LONGEST))
        super().__init__(self.what)

    def __str__(self) -> str:
        place = "" if self.path is None else f"{shown(self.path)}: "
        remedy = f" {self.remedy}" if self.remedy else ""
        stop = "" if self.what.endswith(("?", "!", ".")) else "."
        return f"{place}{self.what}{stop}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.path, self.remedy))


def _rebuild(kind: type[MrbridgeError], what: str, path: Path | None, remedy: str) -> MrbridgeError:
    """Errors cross process boundaries, where exceptions are pickled."""
    return kind(what, path=path, remedy=remedy)


class InputError(MrbridgeError):
    """A file or folder that cannot be used."""


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
    """Refuse a URL where only a path will do.

    Raises:
        SettingsError: it is one.
    """
    if is_url(path):
        raise SettingsError("is a URL, which this cannot take", path=path, remedy=remedy)


def must_exist(
    path: str | Path, kind: type[MrbridgeError] = InputError, remedy: str = "Check the path."
) -> None:
    """Refuse a path that does not exist.

    The command line asks this before it imports what takes seconds.

    Raises:
        MrbridgeError: of that kind.
    """
    must_be_here(path)
    # A broken link may be of a DataLad data set: reading it gives the better message.
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
    """Part of a batch could not be done; the rest is done.

    Args:
        what, path, remedy: as of every error.
        result: what would have been returned without it: what is done. It does not cross to
            another process.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, path: str | Path | None = None, remedy: str = "", result: Any = None
    ) -> None:
        super().__init__(what, path=path, remedy=remedy)
        self.result = result


class Interrupted(MrbridgeError):
    """The work was stopped and can be resumed.

    Args:
        what, path, remedy: as of every error.
        result: what is done, in the form in which it would have been returned, where it has one.
        counts: how much is done, by name. Neither crosses to another process.
    """

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        path: str | Path | None = None,
        remedy: str = "",
        result: Any = None,
        counts: dict[str, int] | None = None,
    ) -> None:
        super().__init__(what, path=path, remedy=remedy)
        self.result, self.counts = result, counts or {}


class MrbridgeWarning(UserWarning):
    """Something that was mended or assumed, and that the user should know."""
