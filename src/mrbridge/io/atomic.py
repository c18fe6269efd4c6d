"""What keeps files whole: atomic writing, limits, checksums.

A result is written to a temporary file in the same folder, flushed to disk and renamed, so that at
any instant an old file is whole and a new one is whole or absent.
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

from mrbridge.errors import InputError, OutputError, must_be_here
from mrbridge.io.remote import fetch, remove, upload
from mrbridge.io.temporary import discard, sweep, temporary_name
from mrbridge.json_text import parse_json
from mrbridge.urls import url_of

MAX_VOXELS = 2**30
"""The most voxels that a volume may have; a header that promises more is taken for damage."""

MAX_PIXELS = 2**22
"""The most pixels that a 2D image may have: translating it takes about 250 bytes a pixel."""

MAX_IMAGE_BYTES = 2**29
"""The largest picture file that is opened."""

_PART_BYTES = 2**24
"""The part of a file that a checksum reads at a time."""

_swept: set[Path] = set()
_paired: dict[Path, tuple[Path, Path, Path]] = {}
"""Images that `paired` writes: their sidecars, and where old images and sidecars wait."""
_aside: dict[Path, Path] = {}
"""Sidecars that `paired` replaces, and where the old ones wait."""


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case, `.nii.gz` as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; what is written there becomes `path` on success.

    The folder is made where it is missing. On any failure the temporary file is removed and an
    old `path` stays as it was.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    path = Path(path)
    must_be_here(path)
    with writing(path):
        if path.is_dir():
            raise OutputError("is a folder", path=path, remedy="Choose another name.")
        if path.exists() and not path.is_file():
            raise OutputError(
                "is a pipe or a device, not a file", path=path, remedy="Choose another name."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as temporary:
            yield temporary
            settle(temporary, path)


def settle(finished: Path, path: Path) -> None:
    """Flush a finished file to disk and give it its final name, in the same folder; send it to its
    URL before, where the folder mirrors one.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path):
        _set_aside(path)
        upload(finished, path)
        _keep_mode(_aside.get(path, path), finished)
        _flush(finished)
        os.replace(finished, path)
        _flush(path.parent)


def _keep_mode(old: Path, new: Path) -> None:
    """Let what is made again be as private as what it replaces."""
    with suppress(OSError):
        if not old.is_symlink():
            new.chmod(stat.S_IMODE(old.stat().st_mode))


@contextmanager
def paired(image: Path, sidecar: Path) -> Iterator[None]:
    """Within it an image is written, then the sidecar that describes it.

    A sidecar never stands next to an image that it does not describe: the old one goes
    just before the new image comes. Where either cannot be written, both are as they were.

    Raises:
        OutputError: a folder is in the place of the sidecar.
    """
    if sidecar.is_dir():
        raise OutputError("is a folder", path=sidecar, remedy="Choose another name.")
    old_image = image.with_name(temporary_name(suffix_of(image)))
    old_sidecar = sidecar.with_name(temporary_name(suffix_of(sidecar)))
    _paired[image] = sidecar, old_image, old_sidecar
    try:
        yield
    except BaseException:
        if image not in _paired:  # it has come, and cannot stay without its sidecar
            with suppress(OSError):
                sidecar.unlink(missing_ok=True)
                os.replace(old_image, image) if old_image.exists() else image.unlink()
        if old_sidecar.exists() and not sidecar.exists():
            with suppress(OSError):
                os.replace(old_sidecar, sidecar)
        raise
    finally:
        _paired.pop(image, None)
        _aside.pop(sidecar, None)
        for old in (old_image, old_sidecar):
            with suppress(OSError):
                discard(old)


def _set_aside(image: Path) -> None:
    """Before a paired image takes its place: let its old sidecar go, and keep the old image."""
    if image not in _paired:
        return
    sidecar, old_image, old_sidecar = _paired.pop(image)
    if url_of(sidecar) is not None:
        remove(sidecar)
        return
    with suppress(OSError):  # it does not exist, or the file system has no hard links
        os.link(image, old_image)
    if sidecar.exists():
        os.replace(sidecar, old_sidecar)
        _aside[sidecar] = old_sidecar


@contextmanager
def atomic_folder(path: str | Path, *, flushed: bool = False) -> Iterator[Path]:
    """Yield a temporary empty folder next to `path`; on success it replaces `path`.

    Its files are flushed to disk one by one only where it is `flushed` (a prepared scan has
    hundreds): the others' owner keeps a checksum and finds damage when reading.

    Raises:
        OutputError: the folder cannot be written.
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

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically. NaN and infinity are refused (ValueError).

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, constant: Callable[[str], Any] | None = None) -> Any:
    """The content of a JSON file, local or remote.

    Args:
        path: the file.
        constant: returns the value of NaN and infinities, as for `parse_json`.

    Raises:
        InputError: it is remote and cannot be fetched.
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    fetch(path)
    return parse_json(path.read_text(encoding="utf-8"), constant)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    fetch(Path(path))
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            part = memoryview(bytearray(min(_PART_BYTES, os.fstat(file.fileno()).st_size) or 1))
            while read := file.readinto(part):
                digest.update(part[:read])
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", path=path, remedy="Check the file."
        ) from None
    return digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, errors of the system are errors of writing to `path`.

    Raises:
        OutputError: there was one.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            path=path,
            remedy="Check the free space and the permissions, or choose another place.",
        ) from error


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
    """Let two paths change places in one step, so that no kill finds either absent; False where
    the system cannot (Linux can, by renameat2).
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
