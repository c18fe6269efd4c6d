"""Files of which only the name is here: git-annex (which DataLad uses), Git LFS, broken links.

Sources: https://git-annex.branchable.com/internals/pointer_file; docs/spec.md of git-lfs.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from mrbridge.errors import InputError

# An unlocked file of git-annex, or a link on a system without links.
_ANNEX_POINTER = re.compile(rb"((\.\./)*\.git)?/annex/objects/")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_MOST_BYTES = 32768  # no pointer is larger


def not_fetched(path: Path) -> InputError | None:
    """The error for a file whose content is not here; None if it is, or if nothing exists."""
    if path.is_symlink() and not path.exists():
        if "annex/objects" not in Path(os.readlink(path)).as_posix():
            return InputError(
                "is a link to a file that does not exist",
                path=path,
                remedy="Restore the file, or remove the link.",
            )
        start = b"/annex/objects/"
    else:
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                return None
            with open(path, "rb") as stream:
                start = stream.read(200)
        except OSError:  # the reader reports it
            return None
    if start.startswith(_LFS_POINTER):
        return InputError("is not fetched (git lfs pull)", path=path, remedy="Run: git lfs pull")
    if _ANNEX_POINTER.match(start):
        return InputError(
            "is not fetched (datalad get)",
            path=path,
            remedy=f"Run: datalad get {shlex.quote(str(path))}",
        )
    return None
