"""The folder that downloads fill: whose it is, what is whole in it, who writes, how they end."""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mrbridge import progress
from mrbridge.download.http import Stopped
from mrbridge.errors import Interrupted, MrbridgeError, OutputError
from mrbridge.io.lock import only_writer
from mrbridge.io.safety import is_temporary, sweep, write_json, write_text
from mrbridge.json_text import parse_json

RECORD = ".mrbridge-download.json"
_IDENTITY = ("source", "dataset", "version")
_OLD_LOCK = ".mrbridge-download-lock"  # which older versions left
_SPARE = 64 << 20  # bytes of disk that are left free

Item = TypeVar("Item")


class Folder:
    """What earlier downloads into a folder left on record, and one writer at a time.

    Attributes:
        path: the folder.
        record: JSON that `save` writes; `identity` is part of it.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        """Look at a folder; nothing is written.

        Raises:
            OutputError: it holds something that was not begun by this download.
        """
        self.path = path
        self._identity = identity
        self._guard = threading.Lock()
        self.record = self._read()

    def _read(self) -> dict[str, Any]:
        path, identity = self.path, self._identity
        if path.is_file():
            raise OutputError("is a file", path=path, remedy="Name a new folder.")
        if not (path / RECORD).is_file():
            if path.is_dir() and any(_counts(entry) for entry in path.iterdir()):
                raise OutputError(
                    "is not empty and was not begun by mrbridge download",
                    path=path,
                    remedy="Name a new folder.",
                )
            return {**identity}
        try:
            found: dict[str, Any] = parse_json((path / RECORD).read_text(encoding="utf-8"))
            if not all(isinstance(found.get(key, ""), str) for key in _IDENTITY):
                raise ValueError
            differs = any(found.get(key, value) != value for key, value in identity.items())
        except (OSError, ValueError, AttributeError):
            raise OutputError(
                "is damaged or was edited", path=path / RECORD, remedy="Name a new folder."
            ) from None
        if differs:
            holds = " ".join(str(found[key]) for key in _IDENTITY if key in found)
            raise OutputError(f"holds {holds}", path=path, remedy="Name a new folder.")
        return {**found, **identity}

    def save(self, **changes: Any) -> None:
        """Change the record and write it; threads may call this."""
        with self._guard:
            self.record = {**self.record, **copy.deepcopy(changes)}
            write_json(self.path / RECORD, self.record)

    def must_have_room(self, count: int) -> None:
        """Refuse a disk on which `count` more bytes do not fit.

        Raises:
            OutputError: they do not.
        """
        place = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        if count + _SPARE > free:
            raise OutputError(
                f"needs {in_words(count)}, {in_words(free)} are free",
                path=self.path,
                remedy="Free some space, choose another disk, or name fewer --subjects.",
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one who writes here.

        Raises:
            OutputError: another process writes, or the folder cannot be written.
        """
        try:
            with only_writer(self.path, "is being filled by another download"):
                for place in (self.path, *self.path.glob("sub-*/**/anat")):
                    sweep(place)
                self.record = self._read()  # another may have written since it was looked at
                self.save()
                yield
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror or error})",
                path=self.path,
                remedy="Check the permissions, or choose another place.",
            ) from error


def _counts(entry: Path) -> bool:
    return entry.name != _OLD_LOCK and not is_temporary(entry)


def together(
    items: Sequence[Item],
    work: Callable[[Item], None],
    *,
    workers: int,
    stop: threading.Event,
    label: str | None = None,
) -> dict[Item, MrbridgeError]:
    """Do `work` for every item in several threads; give those that failed.

    A disk that is full fails for all: then nothing more is begun.

    Args:
        items: what to do it for.
        work: may raise; a `MrbridgeError` concerns only the item.
        workers: threads.
        stop: is set where all shall end.
        label: of a bar that counts the items.

    Raises:
        Interrupted: Ctrl-C, or a signal that acts like it.
        OutputError: something cannot be written.
    """
    failed: dict[Item, MrbridgeError] = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            done: Iterable[Future[None]] = as_completed(futures)
            for future in progress.track(done, label, len(items)) if label else done:
                error = future.exception()
                if isinstance(error, MrbridgeError) and not isinstance(error, OutputError):
                    failed[futures[future]] = error
                elif error is not None:
                    raise error
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt | Stopped):
                raise
            raise Interrupted(
                "was interrupted", remedy="Run the same command again: it goes on from here."
            ) from None
    return failed


def write_citation(
    folder: Path, *, title: str, url: str, authors: Sequence[str], **more: str
) -> None:
    """Write CITATION.cff, which BIDS knows.

    Source: https://github.com/citation-file-format/citation-file-format (1.2.0)
    """
    told = {
        "cff-version": "1.2.0",
        "message": "If you use this data set, please cite it.",
        "type": "dataset",
        "title": title,
        # Whole names: which part of one is the family's cannot be told from a list.
        "authors": [{"name": author} for author in authors],
        **more,
        "url": url,
    }
    write_text(folder / "CITATION.cff", yaml.safe_dump(told, sort_keys=False, allow_unicode=True))


def in_words(count: int | None) -> str:
    """A number of bytes with a decimal unit."""
    if count is None:
        return "an unknown size"
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
