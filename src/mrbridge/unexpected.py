"""Exceptions that are not mrbridge's own, as errors in one line; details go into a file."""

from __future__ import annotations

import errno
import os
import platform
import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mrbridge import __version__
from mrbridge.errors import InputError, MrbridgeError, OutputError
from mrbridge.user_folders import lasting_folder

_NO_MEMORY = re.compile(
    r"out of memory|(not enough|insufficient) memory|(can(no|')t|failed to) allocate|"
    r"bad[_ ]alloc|failed to map segment",
    re.IGNORECASE,
)
"""How PyTorch, ONNX Runtime, ITK and C++ say it; NumPy raises MemoryError."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_KEPT = 10  # files of details


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
        return InputError("is a link that leads back to itself", path=path, remedy="Remove it.")
    details = _write_details(error)
    where = "repeat it with -v" if details is None else f"add {details}"
    return MrbridgeError(
        f"mrbridge {__version__} failed unexpectedly ({type(error).__name__})",
        remedy=f"Please report it, and {where}.",
    )


def too_large(path: str | Path | None = None) -> MrbridgeError:
    """What comes of a scan that asks for more memory than there is."""
    return MrbridgeError(
        "needs more memory than there is", path=path, remedy="Check the voxel sizes in its header."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the computer or a GPU."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return not isinstance(error, MrbridgeError) and _NO_MEMORY.search(str(error)) is not None


@contextmanager
def at_work_on(path: Path) -> Iterator[None]:
    """Within it, lack of memory is an error of the file at `path`.

    Raises:
        MrbridgeError: there was not enough memory.
    """
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
            f"cannot be written ({what})" if path else what, path=path, remedy="Make room."
        )
    return InputError(
        f"cannot be used ({what})" if path else what,
        path=path,
        remedy="Check the name, the space and the permissions.",
    )


def _write_details(error: BaseException) -> Path | None:
    """Write the traceback to a file that only the user may read; None where that is impossible."""
    text = (
        f"mrbridge {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n\n"
        + "".join(traceback.format_exception(type(error), error, error.__traceback__))
    )
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    for folder in (lasting_folder("XDG_STATE_HOME", ".local/state"), None):
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
