"""Where inputs come from and outputs go: a path of this machine, or a URL that fsspec knows.

`here` is the one door. A URL becomes a folder of names (a mirror) in the temporary folder: what is
read is fetched when it is read, what is written is sent when it is finished, each by
`mrbridge.io.transfer`. So every reader and writer works on paths, and `file://` is one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError, SettingsError
from mrbridge.io.safety import sweep, temporary_name
from mrbridge.io.transfer import open_url, reaching, write_stub
from mrbridge.urls import MIRROR_SUFFIX, is_url, masked, parts, url_of

_mirrors: list[tuple[int, Path]] = []


def here(place: Any) -> Any:
    """A place as a path: of a URL its mirror, whose names are listed now.

    Args:
        place: a path, a URL (in text, or as a path), several of them, or something else, which is
            given back. What lies below a mirror already stays.

    Raises:
        InputError: the URL cannot be reached, or there is no such bucket. That nothing lies there
            is no error yet: it may be the place of an output.
        SettingsError: fsspec knows no such URL, lacks a package for it, or it holds a password.
    """
    if isinstance(place, list | tuple):
        return [here(one) for one in place]
    if not is_url(place):
        return place
    path = path_of(place)
    if url_of(path) is not None:
        _mirror(path)
    return path


def path_of(url: str | Path) -> Path:
    """Where a URL is mirrored, whether anything lies there or not; the path of a `file://` one.

    Raises:
        SettingsError: it is a chain of URLs, holds a password, or names nothing.
    """
    told = masked(str(url))
    if "::" in told:
        raise SettingsError(f"{told}: is a chain of URLs", remedy="Name only the last one.")
    kind, rest = parts(url)
    if kind in ("file", "local"):
        return Path("/", rest)
    if told != str(url):
        raise SettingsError(
            f"{told}: holds a name, a password or a signature, which others may read in lists of "
            "processes",
            remedy="Leave it out; docs/how-to/cloud.md tells where credentials belong.",
        )
    names = rest.split("/")
    if not rest or not _is_plain(names):
        raise SettingsError(f"{told}: is not a complete URL", remedy="Write s3://bucket/name.")
    return _root() / kind / Path(*names)


def named(place: str, folder: Path) -> Path:
    """The path of a file that a table names: by URL, or from the table's folder, which may be a
    mirror. Whether it is at its URL is told when it is read.

    Raises:
        SettingsError: it is no URL that can be taken.
    """
    path = path_of(place) if is_url(place) else folder / place
    if url_of(path) is None:
        return path
    path = Path(os.path.normpath(path))
    if url_of(path) is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_stub(path, None)
    return path


def _mirror(path: Path) -> None:
    """List what lies at a URL, as stubs in its mirror; what is gone there goes here too."""
    url = url_of(path)
    assert url is not None
    with reaching(path, InputError):
        listed = dict(_listed(url))
    path.parent.mkdir(parents=True, exist_ok=True)
    present = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    for file in present:
        if str(file.relative_to(path)) not in listed:
            file.unlink()
    for name, size in listed.items():
        file = path / name if name else path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_stub(file, size)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise InputError(
                "is both a file and a folder", path=file, remedy="Rename one of them."
            ) from None


def _listed(url: str) -> Iterator[tuple[str, int | None]]:
    """Names below a URL with sizes in bytes; of a single file, the empty name."""
    system, key = open_url(url)
    system.invalidate_cache()
    root = key.rstrip("/")
    for found, facts in system.find(root, detail=True).items():
        name = str(found)[len(root) + 1 :]
        below = str(found) == root or str(found).startswith(f"{root}/")
        # A key of an object store may be anything, `../../etc` too.
        if below and (not name or _is_plain(name.split("/"))):
            size = facts.get("size")
            yield name, None if size is None else int(size)


def _is_plain(names: list[str]) -> bool:
    return all(name not in ("", ".", "..") and "\\" not in name for name in names)


def _root() -> Path:
    """The temporary folder of this process's mirrors; it goes when the process ends."""
    for pid, root in _mirrors:
        if pid == os.getpid() and root.is_dir():
            return root
    folder = Path(tempfile.gettempdir()).resolve()
    sweep(folder)
    root = folder / temporary_name(MIRROR_SUFFIX)
    root.mkdir(mode=0o700)
    _mirrors.append((os.getpid(), root))
    atexit.register(_clear, os.getpid(), root)
    return root


def _clear(pid: int, root: Path) -> None:
    if pid == os.getpid():
        shutil.rmtree(root, ignore_errors=True)
