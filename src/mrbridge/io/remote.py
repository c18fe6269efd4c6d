"""Remote files: local copies of files at URLs that fsspec supports, such as `s3://bucket/bids`.

`localise` gives a URL a path in the temporary folder, its mirror. It lists the names at the URL
and writes a stub for each: a line of text with the size, which no format reads as a scan. `fetch`
replaces stubs by the content before it is read, `release` makes stubs again, `upload` sends a
finished file. For local paths these do nothing, so that readers and writers work on paths. A URL
that cannot be read is an InputError, one that cannot be written an OutputError.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import re
import shlex
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mrbridge.errors import InputError, MrbridgeError, OutputError, SettingsError
from mrbridge.io.temporary import sweep, temporary_name
from mrbridge.quiet import Shared, at_level
from mrbridge.text import MIRROR_SUFFIX, is_url, masked, parts, url_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_STUB = b"mrbridge: a stub, not fetched yet; bytes: "
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # an upload is all or nothing
_EXTRA_CLOUD = {"s3", "s3a", "gs", "gcs"}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# The beginning of files whose content git-annex (DataLad) or Git LFS has not fetched:
# https://git-annex.branchable.com/internals/pointer_file; docs/spec.md of git-lfs.
_ANNEX_POINTER = re.compile(rb"((\.\./)*\.git)?/annex/objects/")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_POINTER_BYTES = 32768  # no pointer is larger

_mirrors: dict[int, Path] = {}  # the folder of all mirrors, by process


def localise(place: Any) -> Any:
    """The local path of a URL, where the names at the URL are listed now.

    Args:
        place: a path, a URL (as text or path), several of them, or None. A path in a mirror stays.

    Raises:
        InputError: the URL cannot be reached. It is not an error that nothing exists there: it may
            be the place of an output. Or it is an object in memory.
        SettingsError: fsspec does not know this kind of URL or lacks a package for it, or the URL
            contains a password.
    """
    if isinstance(place, list | tuple):
        return [localise(item) for item in place]
    if not is_url(place):
        if place is None or isinstance(place, str | os.PathLike):
            return place
        raise InputError(
            f"a {type(place).__name__} is not a path",
            remedy="Save it, and pass its path: only translate and view take objects.",
        )
    path = path_of(place)
    if url_of(path) is not None:
        _list(path)
    return path


def path_of(url: str | Path) -> Path:
    """The path of a URL's mirror, whether it exists or not; of `file://`, the path itself.

    Raises:
        SettingsError: it is a chain of URLs, contains a password, or is incomplete.
    """
    text = masked(str(url))
    if "::" in text:
        raise SettingsError(f"{text}: is a chain of URLs", remedy="Name only the last one.")
    kind, rest = parts(url)
    if kind in ("file", "local"):
        return Path("/", rest)
    if text != str(url):
        raise SettingsError(
            f"{text}: contains a name, a password or a signature, which others may read in the "
            "list of processes",
            remedy="Leave it out; docs/how-to/cloud.md says where credentials belong.",
        )
    names = rest.split("/")
    if not rest or not _are_plain(names):
        raise SettingsError(f"{text}: is not a complete URL", remedy="Write s3://bucket/name.")
    return _mirrors_of_process() / kind / Path(*names)


def path_in_table(place: str, folder: Path) -> Path:
    """The path of a file that a table names: a URL, or relative to the folder of the table, which
    may be remote. Whether a remote file exists is noticed when it is fetched."""
    path = path_of(place) if is_url(place) else folder / place
    if url_of(path) is None:
        return path
    path = Path(os.path.normpath(path))
    if url_of(path) is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_stub(path, None)
    return path


def fetch(path: Path) -> None:
    """Bring the content of a file, or of all files in a folder, into the mirror; all must arrive
    completely. A local file is only checked for its content (`not_fetched`)."""
    url = url_of(path)
    if url is None:
        error = not_fetched(path)
        if error is not None:
            raise error
        return
    if not _mirrors_above(path).is_dir():
        raise InputError(
            "was mirrored by another machine",
            path=path,
            remedy="Let TMPDIR name a folder that all workers share.",
        )
    files = path.rglob("*") if path.is_dir() else [path]
    stubs = [file for file in files if file.is_file() and _stub_size(file) is not None]
    if stubs:
        _download(stubs)


def not_fetched(path: Path) -> InputError | None:
    """The error for a local file whose content is elsewhere: a broken link, or a pointer of
    git-annex or Git LFS. None if its content is here, or if nothing exists."""
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


def release(path: Path) -> None:
    """Replace a fetched file, or all files in a folder, by stubs, which take no space."""
    if url_of(path) is None:
        return
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and _stub_size(file) is None:
            _write_stub(file, file.stat().st_size)


def release_when_done(
    outcomes: Iterable[tuple[Item, Result]],
    items: Sequence[Item],
    touched: Callable[[Item], Sequence[Path]],
) -> Iterator[tuple[Item, Result]]:
    """Pass on outcomes, and release what no later item needs: a dataset may be larger than the
    temporary folder.

    Args:
        touched: the files and folders that an item reads or writes.
    """
    users = Counter(path for item in items for path in touched(item))
    for item, result in outcomes:
        paths = touched(item)
        users.subtract(paths)
        for path in paths:
            if not users[path]:
                release(path)
        yield item, result


def upload(finished: Path, path: Path) -> None:
    """Send a finished file or folder to the URL of which `path` is the mirror.

    The deepest files of a folder go first: of a Zarr array the chunks before the metadata, which
    make it complete. Other files at the URL are removed last.
    """
    url = url_of(path)
    if url is None:
        return
    if url.startswith(("http://", "https://")):
        raise OutputError(
            "can only be read", path=path, remedy="Name a folder, or a bucket as s3://bucket/name."
        )
    with reported(path, OutputError):
        system, key = open_url(url)
        if finished.is_file():
            _put(system, finished, key)
            return
        files = [file for file in finished.rglob("*") if file.is_file()]
        files.sort(key=lambda file: (-len(file.parts), str(file)))
        keys = [f"{key}/{file.relative_to(finished).as_posix()}" for file in files]
        for file, its_key in zip(files, keys, strict=True):
            _put(system, file, its_key)
        system.invalidate_cache()
        others = set(system.find(key)) - {system._strip_protocol(its_key) for its_key in keys}
        if others:
            system.rm(sorted(others))


def remove(path: Path) -> None:
    """Remove a file or folder, also at its URL."""
    url = url_of(path)
    if url is not None:
        with reported(path, OutputError):
            system, key = open_url(url)
            system.invalidate_cache()
            if system.exists(key):
                system.rm(key, recursive=path.is_dir())
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _list(path: Path) -> None:
    """Write a stub for every file at a URL, and remove the stubs of deleted files."""
    url = url_of(path)
    assert url is not None
    with reported(path, InputError):
        listed = dict(_names_and_sizes(url))
    path.parent.mkdir(parents=True, exist_ok=True)
    present = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    for file in present:
        if str(file.relative_to(path)) not in listed:
            file.unlink()
    for name, size in listed.items():
        file = path / name if name else path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_stub(file, size)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise InputError(
                "is both a file and a folder", path=file, remedy="Rename one of them."
            ) from None


def _names_and_sizes(url: str) -> Iterator[tuple[str, int | None]]:
    """The files below a URL with their sizes in bytes; of a single file, the empty name."""
    system, key = open_url(url)
    system.invalidate_cache()
    root = key.rstrip("/")
    for found, facts in system.find(root, detail=True).items():
        name = str(found)[len(root) + 1 :]
        is_below = str(found) == root or str(found).startswith(f"{root}/")
        # The key of an object may be anything, also `../../etc`.
        if is_below and (not name or _are_plain(name.split("/"))):
            size = facts.get("size")
            yield name, None if size is None else int(size)


def _are_plain(names: list[str]) -> bool:
    return all(name not in ("", ".", "..") and "\\" not in name for name in names)


def _write_stub(path: Path, size: int | None) -> None:
    """Write the stub of a file; its size in bytes may be unknown."""
    text = _STUB + str("" if size is None else size).encode()
    if not path.exists():
        path.write_bytes(text)
        return
    temporary = _temporary(path)  # another thread may be reading the old file
    temporary.write_bytes(text)
    os.replace(temporary, path)


def _stub_size(file: Path) -> int | None:
    """The size in a stub, -1 if it is not known; None if it is not a stub."""
    try:
        with open(file, "rb") as stream:
            text = stream.read(len(_STUB) + 20)
    except FileNotFoundError:
        return None
    return int(text[len(_STUB) :] or -1) if text.startswith(_STUB) else None


def _download(stubs: Sequence[Path]) -> None:
    """Replace stubs by their files, each when it is complete."""
    temporaries = [_temporary(file) for file in stubs]
    try:
        with reported(stubs[0], InputError):
            system, _ = open_url(url_of(stubs[0]) or "")
            keys = [system._strip_protocol(url_of(file)) for file in stubs]
            system.get(keys, [str(temporary) for temporary in temporaries])
        for temporary, file in zip(temporaries, stubs, strict=True):
            listed, size = _stub_size(file), temporary.stat().st_size
            if listed not in (None, -1, size):
                raise InputError(
                    f"arrived with {size} bytes of {listed}",
                    path=file,
                    remedy="The transfer broke off, or the file was changed: run this again.",
                )
            os.replace(temporary, file)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _put(system: Any, file: Path, key: str) -> None:
    """Send one file, which gets its name only when it is complete."""
    kinds = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if kinds & _OBJECT_STORES:
        system.put_file(str(file), key)
        return
    unfinished = f"{key.rpartition('/')[0]}/.~{uuid.uuid4().hex}"
    try:
        system.put_file(str(file), unfinished)
        system.mv(unfinished, key)
    except BaseException:
        if system.exists(unfinished):
            system.rm_file(unfinished)
        raise


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the key in it."""
    import fsspec

    system, key = fsspec.core.url_to_fs(url)
    return system, str(key)


def _mirrors_of_process() -> Path:
    """The temporary folder of this process's mirrors, which is removed when the process ends."""
    root = _mirrors.get(os.getpid())
    if root is None or not root.is_dir():
        folder = Path(tempfile.gettempdir()).resolve()
        sweep(folder)
        root = _mirrors[os.getpid()] = folder / temporary_name(MIRROR_SUFFIX)
        root.mkdir(mode=0o700)
        atexit.register(_clear, os.getpid(), root)
    return root


def _clear(pid: int, root: Path) -> None:
    if pid == os.getpid():  # not in a fork
        shutil.rmtree(root, ignore_errors=True)


def _mirrors_above(path: Path) -> Path:
    """The temporary folder of all mirrors that contains a path."""
    return next(parent for parent in path.parents if parent.name.endswith(MIRROR_SUFFIX))


def _temporary(path: Path) -> Path:
    """A new name in the folder of mirrors, outside of every mirror."""
    folder = _mirrors_above(path) / ".unfinished"
    folder.mkdir(exist_ok=True)
    return folder / uuid.uuid4().hex


# They log many lines about what is reported in one.
_quiet_file_systems = Shared(lambda: at_level(logging.CRITICAL, "gcsfs", "s3fs"))


@contextmanager
def reported(path: Path, kind: type[MrbridgeError]) -> Iterator[None]:
    """Translate errors of file systems in its block into errors of `kind` about `path`."""
    try:
        with _quiet_file_systems():
            yield
    except MrbridgeError:
        raise
    except Exception as error:  # each of fsspec's many file systems has its own
        raise _as_error(error, path, kind) from error


def _as_error(error: Exception, path: Path, kind: type[MrbridgeError]) -> MrbridgeError:
    scheme = (url_of(path) or "").partition(":")[0]
    words = " ".join(str(error).split())[:200].rstrip(".")
    if isinstance(error, ImportError):
        package = "pip install 'mrbridge[cloud]'" if scheme in _EXTRA_CLOUD else f"this: {words}"
        kind, what, remedy = SettingsError, f"needs a package for {scheme}://", f"Run {package}."
    elif isinstance(error, ValueError) and "rotocol" in words:
        kind, what = SettingsError, f"{scheme}:// is not a known kind of URL"
        remedy = "Use s3://, gs://, or another one that fsspec knows."
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        what = f"has no space left in {_mirrors_above(path).parent} ({error.strerror})"
        remedy = "Let TMPDIR name a folder with more space."
    elif isinstance(error, FileNotFoundError):
        what = f"does not exist ({words})" if "bucket" in words else "does not exist"
        remedy = "Check bucket and name."
    elif isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        what = f"may not be {'read' if kind is InputError else 'written'} ({words})"
        remedy = "Check the credentials and what they allow (docs/how-to/cloud.md)."
    else:
        what = f"cannot be reached ({type(error).__name__}: {words})"
        remedy = "Check the network and run this again: finished work is not repeated."
    return kind(what, path=path, remedy=remedy)
