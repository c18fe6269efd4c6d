"""Between a URL and its mirror: fetching what is read, sending what is written.

A file of the mirror is a stub until it is read: a line that says so, and the size that was listed.
Readers call `fetch` first, which does nothing for a local path; who forgets it
finds a stub, which no format takes for a scan. fsspec does the transfers.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mrbridge.errors import InputError, MrbridgeError, OutputError, SettingsError
from mrbridge.quiet import Shared, at_level
from mrbridge.urls import MIRROR_SUFFIX, url_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_STUB = b"mrbridge: a stub, not fetched yet; bytes: "
_ALL_OR_NOTHING = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Object stores: what is sent is there as a whole, or not at all."""

_CLOUD = {"s3", "s3a", "gs", "gcs"}
"""What the extra `cloud` is for."""

_ANNEX_POINTER = re.compile(rb"((\.\./)*\.git)?/annex/objects/")
"""How an unlocked file of git-annex begins, or a link where the system has none
(https://git-annex.branchable.com/internals/pointer_file)."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
"""How a pointer of Git LFS begins (docs/spec.md of git-lfs)."""

_POINTER_BYTES = 32768
"""No pointer is larger."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def fetch(path: Path) -> None:
    """Make sure that a file, or all below a folder, is here.

    Args:
        path: of a mirror; one at which nothing was listed is left alone. Of any other it is only
            looked whether its content is here.

    Raises:
        InputError: it is not at its URL any more, may not be read, or did not arrive whole; or it
            is of a DataLad data set or a Git LFS repository that has its name only.
    """
    url = url_of(path)
    if url is None:
        error = not_fetched(path)
        if error is not None:
            raise error
        return
    if not _root(path).is_dir():
        raise InputError(
            "was mirrored by another machine",
            path=path,
            remedy="Let TMPDIR name a folder that all workers share.",
        )
    found = path.rglob("*") if path.is_dir() else [path]
    wanted = [file for file in found if file.is_file() and _stub_size(file) is not None]
    if wanted:
        _get(wanted, url)


def not_fetched(path: Path) -> InputError | None:
    """The error of a file of which only the name is here: a link of git-annex (which DataLad uses)
    or a pointer of git-annex or Git LFS in its place, or any other broken link. None for what is
    here or does not exist."""
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
            if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
                return None
            with open(path, "rb") as stream:
                start = stream.read(200)
        except OSError:  # whoever reads it says why
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


def release(path: Path) -> None:
    """Make a fetched file, or all below a folder, stubs again, which take no room; they can be
    fetched again."""
    if url_of(path) is None:
        return
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and _stub_size(file) is None:
            write_stub(file, file.stat().st_size)


def release_when_done(
    outcomes: Iterable[tuple[Item, Result]],
    items: Sequence[Item],
    touched: Callable[[Item], Sequence[Path]],
) -> Iterator[tuple[Item, Result]]:
    """Pass on outcomes, and release what no later item touches: a cohort is larger than a temporary
    folder.

    Args:
        outcomes: items with their results, one after the other.
        items: all of them.
        touched: the files and folders that an item reads or writes.
    """
    waiting = Counter(path for item in items for path in touched(item))
    for item, result in outcomes:
        paths = touched(item)
        waiting.subtract(paths)
        for path in paths:
            if not waiting[path]:
                release(path)
        yield item, result


def write_stub(path: Path, size: int | None) -> None:
    """Put a stub in the place of a file of the mirror.

    Args:
        path: where.
        size: of the file at the URL, in bytes, where it is known.
    """
    told = _STUB + str("" if size is None else size).encode()
    if not path.exists():
        path.write_bytes(told)
        return
    temporary = _temporary(path)  # somebody may be reading the old one
    temporary.write_bytes(told)
    os.replace(temporary, path)


def send(finished: Path, path: Path) -> None:
    """Send a finished file, or all files of a finished folder, to the URL that `path` mirrors.

    In a folder what lies deepest goes first, and at last what the URL still had besides: of a Zarr
    array the chunks go before the metadata that say that it is there.

    Raises:
        OutputError: the URL cannot be written.
    """
    url = url_of(path)
    if url is None:
        return
    if url.startswith(("http://", "https://")):
        raise OutputError(
            "can only be read", path=path, remedy="Name a folder, or a bucket as s3://bucket/name."
        )
    with reaching(path, OutputError):
        system, key = open_url(url)
        if finished.is_file():
            _put(system, finished, key)
            return
        files = sorted((file for file in finished.rglob("*") if file.is_file()), key=_depth_first)
        keys = [f"{key}/{file.relative_to(finished).as_posix()}" for file in files]
        for file, its_key in zip(files, keys, strict=True):
            _put(system, file, its_key)
        system.invalidate_cache()
        others = set(system.find(key)) - {system._strip_protocol(one) for one in keys}
        if others:
            system.rm(sorted(others))


def remove(path: Path) -> None:
    """Remove a file or folder, and what it mirrors.

    Raises:
        OutputError: the URL cannot be written.
    """
    url = url_of(path)
    if url is not None:
        with reaching(path, OutputError):
            system, key = open_url(url)
            system.invalidate_cache()
            if system.exists(key):
                system.rm(key, recursive=path.is_dir())
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a URL, and what it calls the place."""
    import fsspec

    system, key = fsspec.core.url_to_fs(url)
    return system, str(key)


@contextmanager
def reaching(path: Path, kind: type[MrbridgeError]) -> Iterator[None]:
    """Turn what file systems raise into errors of ours.

    Args:
        path: what is mirrored.
        kind: what to raise.
    """
    try:
        with _quiet_file_systems():
            yield
    except MrbridgeError:
        raise
    except Exception as error:  # each of fsspec's many file systems has its own
        raise _told(error, path, kind) from error


# They tell over many lines what `reaching` tells in one.
_quiet_file_systems = Shared(lambda: at_level(logging.CRITICAL, "gcsfs", "s3fs"))


def _told(error: Exception, path: Path, kind: type[MrbridgeError]) -> MrbridgeError:
    scheme = (url_of(path) or "").partition(":")[0]
    words = " ".join(str(error).split())[:200].rstrip(".")
    if isinstance(error, ImportError):
        install = "pip install 'mrbridge[cloud]'" if scheme in _CLOUD else f"what is named: {words}"
        what, remedy = f"needs a package for {scheme}://", f"Run {install}."
        return SettingsError(what, path=path, remedy=remedy)
    if isinstance(error, ValueError) and "rotocol" in words:
        remedy = "Take s3://, gs://, or another one that fsspec knows."
        return SettingsError(f"no kind of URL is called {scheme}", path=path, remedy=remedy)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return kind(
            f"has no room in {_root(path).parent} ({error.strerror})",
            path=path,
            remedy="Let TMPDIR name a folder with more room.",
        )
    if isinstance(error, FileNotFoundError):
        reason = f" ({words})" if "bucket" in words else ""
        return kind(f"does not exist{reason}", path=path, remedy="Check bucket and name.")
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return kind(
            f"may not be {'read' if kind is InputError else 'written'} ({words})",
            path=path,
            remedy="Check the credentials and what they allow (docs/how-to/cloud.md).",
        )
    return kind(
        f"cannot be reached ({type(error).__name__}: {words})",
        path=path,
        remedy="Check the network and run this again: what is done is not done twice.",
    )


def _get(files: Sequence[Path], url: str) -> None:
    """Fetch files that lie at or below a URL; each appears when it is whole."""
    temporaries = [_temporary(file) for file in files]
    try:
        with reaching(files[0], InputError):
            system, _ = open_url(url)
            keys = [system._strip_protocol(url_of(file)) for file in files]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
            system.get(keys, [str(temporary) for temporary in temporaries])
        for temporary, file in zip(temporaries, files, strict=True):
            listed, got = _stub_size(file), temporary.stat().st_size
            if listed not in (None, -1, got):
                raise InputError(
                    f"came with {got} bytes of {listed}",
                    path=file,
                    remedy="It broke off or was changed meanwhile: run this again.",
                )
            os.replace(temporary, file)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _put(system: Any, file: Path, key: str) -> None:
    """Send one file, so that nobody finds part of it under its name."""
    kinds = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if kinds & _ALL_OR_NOTHING:
        system.put_file(str(file), key)
        return
    folder, _, _ = key.rpartition("/")
    unfinished = f"{folder}/.~{uuid.uuid4().hex}"
    try:
        system.put_file(str(file), unfinished)
        system.mv(unfinished, key)
    except BaseException:
        if system.exists(unfinished):
            system.rm_file(unfinished)
        raise


def _stub_size(file: Path) -> int | None:
    """The size that a stub tells, -1 where it knows none; None for what is no stub."""
    try:
        with open(file, "rb") as stream:
            told = stream.read(len(_STUB) + 20)
    except FileNotFoundError:
        return None
    if not told.startswith(_STUB):
        return None
    return int(told[len(_STUB) :] or -1)


def _temporary(path: Path) -> Path:
    """A new name in the mirror, away from where files are looked for."""
    folder = _root(path) / ".unfinished"
    folder.mkdir(exist_ok=True)
    return folder / uuid.uuid4().hex


def _root(path: Path) -> Path:
    """The temporary folder of all mirrors that a path of one of them lies in."""
    return next(above for above in path.parents if above.name.endswith(MIRROR_SUFFIX))


def _depth_first(path: Path) -> tuple[int, str]:
    return -len(path.parts), str(path)
