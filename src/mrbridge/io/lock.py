"""One writer at a time for a folder: a lock file that says who holds it.

System locks (flock, fcntl) are unreliable on network disks, and may block. A file that only one
writer can create works everywhere. A dead holder on this machine is recognised by its process; a
holder on another one renews the lock every few seconds and is dead if it has not for
`STALE_SECONDS`.

At a URL the lock is an object that is created only if absent, which S3, GCS and Azure do in one
step. In other stores, two writers that start within the same second may both create it; the one
whose lock was overwritten stops before it writes.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrbridge.errors import OutputError
from mrbridge.io.atomic import writing
from mrbridge.io.remote import open_url, reported
from mrbridge.io.temporary import LOCK, is_alive, process_start, temporary_name, this_machine
from mrbridge.text import parse_json, url_of

STALE_SECONDS = 300.0
_BEAT_SECONDS = 20.0

Holder = dict[str, Any]


@contextmanager
def only_writer(
    folder: Path, message: str = "is being written by another mrbridge"
) -> Iterator[None]:
    """Be the only writer of a folder, local or the mirror of a URL; it is created if missing.

    Raises:
        OutputError: another process holds it (`message`), or the folder cannot be written.
    """
    url = url_of(folder)
    lock = _FileLock(folder / LOCK) if url is None else _ObjectLock(url)
    me: Holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": this_machine(),
        "start": process_start(os.getpid()),
        "since": time.time(),
    }
    with writing(folder) if url is None else reported(folder, OutputError):
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
        if not lock.take(me):
            known = lock.read() or {}
            who = f"process {known.get('pid', '?')} on {known.get('host', 'another computer')}"
            raise OutputError(
                f"{message} ({who})", path=folder, remedy="Wait for it, or name another folder."
            )
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_BEAT_SECONDS):
            with suppress(Exception):
                lock.renew(me)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(Exception):
            if lock.read() == me:
                lock.remove()


class _FileLock:
    """A lock file; its modification time shows that its holder is alive."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, me: Holder) -> bool:
        """Create the lock, or take it over from a dead holder; False if another one holds it."""
        takeover = _FileLock(self.path.with_name(f"{LOCK}-takeover"))
        for _ in range(10):
            if _create(self.path, json.dumps(me)):
                takeover.remove_if_dead()  # of a process that was killed just then
                return True
            holder, stamp = self.read(), self._stamp()
            if stamp is None:
                continue  # it has been removed meanwhile
            if not _is_dead(holder or {}, self._age):
                return False
            # Two may find the same dead holder. Only one creates the file `takeover`; the other
            # then finds another lock than the dead one.
            if not _create(takeover.path, json.dumps(me)):
                takeover.remove_if_dead()
                time.sleep(0.05)
                continue
            try:
                if self._stamp() == stamp:
                    self.remove()
            finally:
                takeover.remove()
        return False

    def read(self) -> Holder | None:
        try:
            return _as_holder(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def renew(self, me: Holder) -> None:
        if self.read() == me:
            os.utime(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def remove_if_dead(self) -> None:
        """Remove it if its holder has ended."""
        if _is_dead(self.read() or {}, self._age):
            self.remove()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _age(self, _: Holder) -> float:
        # The clock of a file server may differ from ours: compare with its own.
        probe = self.path.with_name(f"{LOCK}-{os.getpid()}-now")
        try:
            changed = self.path.stat().st_mtime
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
        except OSError:
            return 0.0
        return now - changed


class _ObjectLock:
    """An object at a URL, whose content holds the time at which its holder last renewed it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def take(self, me: Holder) -> bool:
        """As `take` of a lock file."""
        self.system, folder = open_url(self.url)
        self.key = f"{folder.rstrip('/')}/{LOCK}"
        for _ in range(3):
            if self._create(me):
                return self.read() == me
            holder = self.read()
            if holder is not None and not _is_dead(holder, self._age):
                return False
            with suppress(FileNotFoundError):
                self.remove()
        return False

    def read(self) -> Holder | None:
        self.system.invalidate_cache()
        try:
            return _as_holder(self.system.cat_file(self.key).decode())
        except (FileNotFoundError, ValueError):
            return None

    def renew(self, me: Holder) -> None:
        holder = self.read()
        if holder is not None and {**holder, "since": 0} == {**me, "since": 0}:
            me["since"] = time.time()
            self.system.pipe_file(self.key, json.dumps(me).encode())

    def remove(self) -> None:
        self.system.rm_file(self.key)

    def _create(self, me: Holder) -> bool:
        content = json.dumps(me).encode()
        try:
            self.system.pipe_file(self.key, content, mode="create")
        except (TypeError, NotImplementedError):  # a file system that does not know the mode
            if self.system.exists(self.key):
                return False
            self.system.pipe_file(self.key, content)
        except FileExistsError:
            return False
        return True

    @staticmethod
    def _age(holder: Holder) -> float:
        since = holder.get("since")
        return time.time() - since if isinstance(since, int | float) else math.inf


def _is_dead(holder: Holder, age: Callable[[Holder], float]) -> bool:
    """Whether a holder has ended: on this machine by its process, on another one by the age of its
    lock in seconds."""
    pid, start = holder.get("pid"), holder.get("start")
    if holder.get("machine") == this_machine() and isinstance(pid, int):
        return not is_alive(pid, start if isinstance(start, int) else None)
    return age(holder) > STALE_SECONDS


def _as_holder(text: str) -> Holder | None:
    content = parse_json(text)
    return content if isinstance(content, dict) else None


def _create(path: Path, text: str) -> bool:
    """Create a complete file in one step; False if it exists."""
    temporary = path.with_name(temporary_name(""))
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
