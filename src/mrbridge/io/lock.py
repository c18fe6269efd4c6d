"""One writer at a time for a folder: a lock file that says who holds it.

System locks (flock, fcntl) are not to be relied on, and may block, on network disks. A file that
only one writer can create works everywhere. A dead holder on this machine is recognised by its
process; a holder elsewhere touches the file every few seconds and is dead once it has not for
`STALE_SECONDS`.

At a URL the lock is an object that is created only if absent (S3, GCS and Azure do that
in one step) and written again every few seconds. Where a store cannot create so, two writers that
start within the same second may both get the lock; the one whose lock was overwritten stops before
it writes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrbridge.errors import OutputError
from mrbridge.io.atomic import writing
from mrbridge.io.temporary import LOCK, is_alive, process_start, temporary_name, this_machine
from mrbridge.json_text import parse_json
from mrbridge.urls import shown, url_of

STALE_SECONDS = 300.0
_BEAT_SECONDS = 20.0


@contextmanager
def only_writer(
    folder: Path, message: str = "is being written by another mrbridge"
) -> Iterator[None]:
    """Be the only one that writes into a folder, which is made where it is missing.

    Of a URL it is the place there that is locked, not its mirror.

    Args:
        folder: which.
        message: the error for a second writer; who holds the folder is added.

    Raises:
        OutputError: another process holds it, or the folder cannot be written.
    """
    me = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": this_machine(),
        "start": process_start(os.getpid()),
        "since": time.time(),
    }
    url = url_of(folder)
    if url is not None:
        with _only_writer_at(url, folder, me, message):
            yield
        return
    path = folder / LOCK
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _take(path, json.dumps(me), message)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, me, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if _read(path) == me:
            with suppress(OSError):
                path.unlink()


def _take(path: Path, text: str, message: str) -> None:
    for _ in range(10):
        try:
            _create(path, text)
            return
        except FileExistsError:
            pass
        holder, stamp = _read(path), _stamp(path)
        if stamp is None:
            continue  # it has gone meanwhile
        if not _is_dead(path, holder):
            raise _held(holder, message, path.parent)
        # Two may find the same dead holder. Only one can create this, and who comes later finds
        # another lock than the dead one.
        takeover = path.with_name(f"{path.name}-takeover")
        try:
            _create(takeover, text)
        except FileExistsError:
            if time.time() - takeover.stat().st_mtime > STALE_SECONDS:
                takeover.unlink(missing_ok=True)
            time.sleep(0.05)
            continue
        try:
            if _stamp(path) == stamp:
                path.unlink(missing_ok=True)
        finally:
            takeover.unlink(missing_ok=True)
    raise OutputError(message, path=path.parent, remedy="Wait for it.")


def _held(holder: dict[str, Any] | None, message: str, folder: Path) -> OutputError:
    known = holder or {}
    who = f"process {known.get('pid', '?')} on {known.get('host', 'another computer')}"
    return OutputError(
        f"{message} ({who})", path=folder, remedy="Wait for it, or name another folder."
    )


@contextmanager
def _only_writer_at(url: str, folder: Path, me: dict[str, Any], message: str) -> Iterator[None]:
    """As `only_writer`, at a URL that `folder` mirrors."""
    from fsspec.core import url_to_fs

    try:
        system, place = url_to_fs(url)
        key = f"{place.rstrip('/')}/{LOCK}"
        for _ in range(3):
            if _create_object(system, key, me):
                break
            holder = _read_object(system, key)
            if holder is not None and not _is_holder_dead(holder):
                raise _held(holder, message, folder)
            with suppress(FileNotFoundError):
                system.rm_file(key)
        else:
            raise _held(_read_object(system, key), message, folder)
        holder = _read_object(system, key)
        if holder != me:
            raise _held(holder, message, folder)
    except OutputError:
        raise
    except Exception as error:  # every kind of URL has its own
        raise OutputError(
            f"cannot be written ({shown(str(error)) or type(error).__name__})",
            path=folder,
            remedy="Check the URL, your rights there and the network.",
        ) from error
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_SECONDS):
            with suppress(Exception):
                holder = _read_object(system, key)
                if holder is not None and {**holder, "since": 0} == {**me, "since": 0}:
                    me["since"] = time.time()
                    system.pipe_file(key, json.dumps(me).encode())

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(Exception):
            if _read_object(system, key) == me:
                system.rm_file(key)


def _create_object(system: Any, key: str, me: dict[str, Any]) -> bool:
    """Create the lock; False if it exists."""
    content = json.dumps(me).encode()
    try:
        system.pipe_file(key, content, mode="create")
    except (TypeError, NotImplementedError):  # a file system that does not know the mode
        if system.exists(key):
            return False
        system.pipe_file(key, content)
    except FileExistsError:
        return False
    return True


def _read_object(system: Any, key: str) -> dict[str, Any] | None:
    system.invalidate_cache()
    try:
        content = parse_json(system.cat_file(key).decode())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_holder_dead(holder: dict[str, Any]) -> bool:
    pid, start, since = (holder.get(key) for key in ("pid", "start", "since"))
    if holder.get("machine") == this_machine() and isinstance(pid, int):
        return not is_alive(pid, start if isinstance(start, int) else None)
    return not isinstance(since, int | float) or time.time() - since > STALE_SECONDS


def _create(path: Path, text: str) -> None:
    """Create a complete file in one step, only if absent.

    Raises:
        FileExistsError: it exists.
    """
    temporary = path.with_name(temporary_name(""))
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
    finally:
        temporary.unlink(missing_ok=True)


def _is_dead(path: Path, holder: dict[str, Any] | None) -> bool:
    if holder is not None and holder.get("machine") == this_machine():
        pid, start = holder.get("pid"), holder.get("start")
        if isinstance(pid, int) and isinstance(start, int | None):
            return not is_alive(pid, start)
    try:
        changed = path.stat().st_mtime
        # A clock of a file server may differ from ours: compare with what it says of now.
        probe = path.with_name(f"{path.name}-{os.getpid()}-now")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return False
    return now - changed > STALE_SECONDS


def _beat(path: Path, me: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        if _read(path) == me:
            with suppress(OSError):
                os.utime(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
