"""The process that holds the models: it looks at uploaded scans and translates them, one by one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mrbridge.errors import MrbridgeError, as_error
from mrbridge.parallel import listening
from mrbridge.parallel.processes import end_with_parent, safe_path
from mrbridge.threads import share_the_machine

_STOPPED_SECONDS = 60.0  # after which a stopped worker counts as ended


@dataclass(frozen=True)
class Task:
    """What the worker is to do with one scan. Picklable.

    Attributes:
        kind: `look` or `translate`.
        scan: the uploaded file, or the folder of DICOM files.
        truth: the true scan of the other contrast, to compare with; or None.
        also: other scans of the person, which the result is made from, too.
        results: the folder of what is given to the user.
        views: the folder of the volumes that the page shows.
        model: the index of the model.
        to: contrast to synthesise; None: the one that the scan is not.
        uncertainty: whether an uncertainty map is wanted.
        force: whether a scan is translated that would be refused.
        allow_gaps: DICOM: whether missing slices are interpolated.
        series: DICOM: number or UID of the series; None: by contrast.
    """

    kind: str
    scan: Path
    truth: Path | None
    results: Path
    views: Path
    model: int = 0
    to: str | None = None
    uncertainty: bool = False
    force: bool = False
    allow_gaps: bool = False
    series: str | None = None
    also: tuple[Path, ...] = ()


def work(
    connection: Connection, models: Sequence[str | Path], device: str, allow_code: bool = False
) -> None:
    """Load the models, then do tasks until the connection is closed.

    It answers `(0, "loaded", facts of the models)`, then for each pair of a number and a task any
    times `(number, "progress", share)`, and once `(number, "done", result)` or `(number, "failed",
    MrbridgeError)`. What mrbridge logs or warns of may name files: it goes to the user, into no
    log.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    share_the_machine()
    end_with_parent()
    try:
        from mrbridge.web import tasks

        with listening():
            translators, facts = tasks.load(models, device, allow_code)
    except Exception as error:
        connection.send((0, "failed", as_error(error)))
        return
    connection.send((0, "loaded", facts))
    number = 0
    task: Task

    def report(share: float) -> None:
        connection.send((number, "progress", share))

    while True:
        try:
            number, task = connection.recv()
        except EOFError:
            return
        start = time.monotonic()
        try:
            with listening() as heard:
                if task.kind == "look":
                    result = tasks.look(task, translators)
                else:
                    result = tasks.translate(task, translators[task.model], report)
        except Exception as error:
            connection.send((number, "failed", _about(error, task)))
        else:
            notes = [words for _, _, words in heard]
            result |= {"notes": notes, "seconds": time.monotonic() - start}
            connection.send((number, "done", result))


class Worker:
    """The process that works, as the server sees it.

    Args:
        models, device, allow_code: see `work`.
    """

    def __init__(self, models: Sequence[str | Path], device: str, allow_code: bool) -> None:
        self._arguments = models, device, allow_code
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._stopped_since: float | None = None
        self._number = 0  # of the last task

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return None if self._process is None else self._process.pid

    def start(self) -> list[dict[str, Any]]:
        """Start it, and wait until it has loaded the models; what it says about them. MrbridgeError
        if a model cannot be loaded."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._stopped_since = None
        with safe_path():
            self._process = context.Process(
                target=work, args=(theirs, *self._arguments), name="mrbridge-worker", daemon=True
            )
            self._process.start()
        theirs.close()
        try:
            while (answer := self._receive(1.0)) is None:
                pass
        except (EOFError, OSError):
            self.kill()
            raise MrbridgeError(
                "the worker process ended while it loaded the model", remedy="Check the memory."
            ) from None
        _, kind, content = answer
        if kind == "failed":
            raise content
        loaded: list[dict[str, Any]] = content
        return loaded

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()

    def send(self, task: Task) -> None:
        """Give it a task; it is started again if it has ended.

        Raises:
            MrbridgeError: it cannot be started again.
            OSError: it ended at this moment.
        """
        if self._process is None or not self._process.is_alive():
            self.kill()
            self.start()
        assert self._connection is not None
        self._number += 1
        self._connection.send((self._number, task))

    def answer(self, seconds: float) -> tuple[str, Any] | None:
        """What it says next about the last task; None if it says nothing for some seconds.

        Answers about any other task are ignored, so that no scan gets the result of another.

        Raises:
            EOFError, OSError: it has ended, or was stopped (SIGSTOP) and not continued.
        """
        received = self._receive(seconds)
        if received is None or received[0] != self._number:
            return None
        return received[1:]

    def _receive(self, seconds: float) -> tuple[int, str, Any] | None:
        """The next message of the process, with the number of its task; see `answer`."""
        assert self._connection is not None
        if self._connection.poll(seconds):
            self._stopped_since = None
            message: tuple[int, str, Any] = self._connection.recv()
            return message
        if not self._is_stopped():
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = time.monotonic()
        elif time.monotonic() - self._stopped_since > _STOPPED_SECONDS:
            raise EOFError
        return None

    def _is_stopped(self) -> bool:
        if self.pid is None or not hasattr(os, "waitid"):
            return False
        with suppress(ChildProcessError):
            look = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, look) is not None
        return False


def _about(error: Exception, task: Task) -> MrbridgeError:
    """The error with the name that the user gave the scan, in place of its path on the server."""
    reported = as_error(error)
    what, remedy = reported.what, reported.remedy
    for scan in (task.scan, *task.also):
        what, remedy = (text.replace(f"{scan.parent}{os.sep}", "") for text in (what, remedy))
    path = reported.path
    is_named = path is not None and not (path == task.scan and path.is_dir())
    return type(reported)(what, path=path.name if path and is_named else None, remedy=remedy)
