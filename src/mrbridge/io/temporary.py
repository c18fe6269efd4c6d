"""Unfinished files: their names contain their writer, so that those of dead writers are removed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

LOCK = ".mrbridge-lock"  # the start of the name of lock files (`mrbridge.io.lock`)
_STALE_SECONDS = 24 * 3600
_NAME = re.compile(r"^\.~(?P<host>[0-9a-f]{6})-(?P<pid>\d+)(?:\.(?P<start>\d+))?-[0-9a-f]{8}")
_FIRST_SPACE = 4026531836  # Linux's first namespace of processes (PROC_PID_INIT_INO in proc_ns.h)


def this_machine() -> str:
    """Six digits that identify this computer, or a container with a process namespace of its own:
    processes in two containers may have the same numbers under one host name."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = _FIRST_SPACE
    host = socket.gethostname() + ("" if space == _FIRST_SPACE else f" {space}")
    return hashlib.sha256(host.encode()).hexdigest()[:6]


_HOST = this_machine()
_own: set[str] = set()  # names of this process


def temporary_name(suffix: str) -> str:
    """A new name for something unfinished, which `sweep` removes when this process has ended."""
    start = process_start(os.getpid())
    process = f"{os.getpid()}" if start is None else f"{os.getpid()}.{start}"
    name = f".~{_HOST}-{process}-{uuid.uuid4().hex[:8]}{suffix}"
    _own.add(name)
    return name


def is_temporary(path: str | Path) -> bool:
    """Whether the name is that of an unfinished file of mrbridge, or of a lock."""
    name = Path(path).name
    return _NAME.match(name) is not None or name.startswith(LOCK)


def discard(path: Path) -> None:
    """Remove something unfinished of this process, a file or a folder, if it exists."""
    _remove(path)
    _own.discard(path.name)


def sweep(folder: str | Path) -> None:
    """Remove temporary files and folders that a killed writer left in `folder`.

    Those of writers that may still run stay: a live process of this computer; or, within the last
    day, one of another computer on a shared disk or of another container. Every writer calls this
    once for each folder that it writes to. What cannot be removed stays.
    """
    with suppress(OSError):
        for entry in list(Path(folder).iterdir()):
            match = _NAME.match(entry.name)
            if match and _is_orphan(entry, match["host"], int(match["pid"]), match["start"]):
                with suppress(OSError):
                    _remove(entry)


def process_start(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since its start, which tells it from a
    later one of the same number (proc(5), field 22); None if unknown."""
    fields = _status(pid)
    return int(fields[19]) if len(fields) > 19 else None


def is_alive(pid: int, start: int | str | None = None) -> bool:
    """Whether a process of this machine runs, of any user; `start` is its `process_start`, if
    known."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    if _status(pid)[:1] == [b"Z"]:  # killed, and its parent never asks: as in many containers
        return False
    now = process_start(pid)
    return start is None or now is None or int(start) == now


def _status(pid: int) -> list[bytes]:
    """The state of a process and what follows (proc(5), fields 3 and more), on Linux."""
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _is_orphan(entry: Path, host: str, pid: int, start: str | None) -> bool:
    if entry.name in _own:
        return False
    if host == _HOST and (pid == os.getpid() or not is_alive(pid, start)):
        return True
    try:
        return time.time() - entry.lstat().st_mtime > _STALE_SECONDS
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
