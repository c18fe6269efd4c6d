"""Atomic writing, JSON files and checksums.

A result is written to a temporary file in the same folder, flushed to disk and renamed, so that at
any instant an old file is whole and a new one is whole or absent. Whatever writes raises an
OutputError if a file or its folder cannot be written; whatever reads, an InputError.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError, OutputError, about, must_be_here
from mrbridge.io.remote import fetch, remove, upload
from mrbridge.io.temporary import discard, sweep, temporary_name
from mrbridge.text import parse_json, url_of

_swept: set[Path] = set()


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case, `.nii.gz` as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """The file's name without the suffix, `.nii.gz` as one."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(path))]


def sidecar_path(image: Path) -> Path:
    """The path of the JSON file that describes an image."""
    return image.with_name(stem_of(image) + ".json")


@contextmanager
def atomic_path(path: str | Path, sidecar: Callable[[Path], Any] | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path`; what is written there becomes `path` on success.

    The folder is created if it is missing. On any failure the temporary file is removed and an
    old `path` stays as it was.

    Args:
        sidecar: returns the content of the file's sidecar, from the path of the complete file. A
            sidecar is never next to an image that it does not describe: the old one goes just
            before the new file takes its place.
    """
    path = Path(path)
    with _new_file(path) as temporary:
        yield temporary
        if sidecar is None:
            settle(temporary, path)
            return
        described = sidecar_path(path)
        with _new_file(described) as description, _temporary(described) as old:
            _write(description, _as_json(sidecar(temporary)))
            if url_of(described) is not None:
                remove(described)
            elif described.exists():
                _keep_mode(described, description)
                os.replace(described, old)
            try:
                settle(temporary, path)
            except BaseException:
                if old.exists() and temporary.exists():  # the old image is still there
                    os.replace(old, described)
                raise
            settle(description, described)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file that may take the place of `path`, in its folder."""
    must_be_here(path)
    with writing(path):
        if path.exists() and not path.is_file():
            what = "is a folder" if path.is_dir() else "is a pipe or a device, not a file"
            raise OutputError(what, remedy="Choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as temporary:
            yield temporary


def settle(finished: Path, path: Path) -> None:
    """Flush a finished file to disk and give it its final name, in the same folder; if the folder
    is the mirror of a URL, send it there first."""
    with writing(path):
        upload(finished, path)
        _keep_mode(path, finished)
        _flush(finished)
        os.replace(finished, path)
        _flush(path.parent)


def _keep_mode(old: Path, new: Path) -> None:
    """Give a new file the permissions of the one that it replaces."""
    with suppress(OSError):
        if not old.is_symlink():
            new.chmod(stat.S_IMODE(old.stat().st_mode))


@contextmanager
def atomic_folder(path: str | Path, *, flushed: bool = False) -> Iterator[Path]:
    """Yield a temporary empty folder next to `path`; on success it replaces `path`.

    Its files are flushed to disk one by one only if `flushed`: a prepared scan has hundreds of
    files, and a checksum that shows damage when it is read.
    """
    path = Path(path)
    must_be_here(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as temporary:
            temporary.mkdir()
            yield temporary
            upload(temporary, path)
            for entry in (temporary, *temporary.iterdir()):
                _keep_mode(path / entry.relative_to(temporary), entry)
            if flushed:
                for file in temporary.iterdir():
                    _flush(file)
                _flush(temporary)
            if not path.exists():
                os.replace(temporary, path)
            elif not _exchange(temporary, path):
                with _temporary(path) as old:
                    os.replace(path, old)
                    os.replace(temporary, path)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically.

    Bytes of file names that are not text (surrogates in Python) are written as escapes.
    """
    with atomic_path(path) as temporary:
        _write(temporary, text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically. NaN and infinity are refused (ValueError)."""
    write_text(path, _as_json(value))


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def read_json(path: Path, constant: Callable[[str], Any] | None = None) -> Any:
    """The content of a JSON file, local or remote; arguments as for `parse_json`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    fetch(path)
    return parse_json(path.read_text(encoding="utf-8"), constant)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    path = Path(path)
    fetch(path)
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path, remedy: str = "Check the file.") -> Iterator[None]:
    """Within it, errors of the system, and InputErrors without a path, are about reading `path`."""
    with about(path):
        try:
            yield
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise InputError(what, remedy=remedy) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, errors of the system, and OutputErrors without one, are about writing `path`."""
    with about(path, OutputError):
        try:
            yield
        except OSError as error:
            remedy = "Check the free space and the permissions, or choose another place."
            if isinstance(error, FileExistsError | NotADirectoryError):
                remedy = "A part of its path is a file, not a folder: choose another place."
            what = f"cannot be written ({error.strerror or error})"
            raise OutputError(what, remedy=remedy) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # The suffix stays, because writers choose the format by it; the stem does not, because with
    # ours it could exceed the 255 bytes that a name may have.
    if path.parent not in _swept:
        _swept.add(path.parent)
        sweep(path.parent)
    temporary = path.with_name(temporary_name(suffix_of(path)))
    try:
        yield temporary
    finally:
        discard(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step, so that neither is ever absent; False if the system cannot
    (Linux can, by renameat2).
    """
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _flush(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # Some systems cannot flush a folder; the rename is still atomic.
        if not path.is_dir():
            raise
