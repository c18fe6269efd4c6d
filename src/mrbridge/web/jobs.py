"""Uploaded scans and their translations: states, limits, and the worker process behind them."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mrbridge.errors import MrbridgeError, as_error
from mrbridge.io.temporary import sweep, temporary_name
from mrbridge.reports import counted
from mrbridge.web.guard import Refused
from mrbridge.web.settings import ServeSettings
from mrbridge.web.worker import Task, Worker

log = logging.getLogger(__name__)

State = Literal["ready", "queued", "running", "done", "failed", "cancelled"]
"""`ready`: looked at, and waiting for the user to start the translation."""

ENDED: tuple[State, ...] = ("done", "failed", "cancelled")

_POLL_SECONDS = 0.1
_TIDY_SECONDS = 30.0
_SECONDS_PER_VOXEL = 3e-7  # for everything but the networks, measured on a 1 mm head
_SECONDS_PER_SCAN = 1.0  # mostly for the check of the input
_SECONDS_PER_REGISTRATION = 8.0  # of an additional scan
_UNCERTAINTY = 1.3  # how many times as long networks take with an uncertainty map


@dataclass
class Job:
    """One scan, and its translation.

    Attributes:
        start: whether it is translated as soon as it was looked at.
        state, progress: how far it is; the share that is done, from 0 to 1.
        facts: what looking at it found; see `mrbridge.web.tasks.look`.
        result: the files, volumes and remarks of the translation.
        size: bytes of the upload, or of the whole folder once it was worked on.
        version: increases with every change.
    """

    id: str
    folder: Path
    task: Task
    start: bool
    size: int
    state: State = "queued"
    progress: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    touched: float = field(default_factory=time.monotonic)
    version: int = 0

    @property
    def views(self) -> dict[str, Any]:
        """The volumes that the page can show."""
        return self.facts.get("views", {}) | self.result.get("views", {})

    def path_of(self, name: str) -> Path | None:
        """The file of a name that the job has announced; None for any other name."""
        if name in {file["name"] for file in self.result.get("files", ())}:
            return self.task.results / name
        if name in {view["name"] for view in self.views.values()}:
            return self.task.views / name
        return None


class Jobs:
    """The jobs of a server, and the worker process that does them one after the other.

    Args:
        models: the paths of models, or `shipped`.

    Attributes:
        models: what the worker says about the models.
        worker: the process.
        closing: whether the server ends.

    Raises:
        MrbridgeError: a model cannot be loaded.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        settings: ServeSettings,
        device: str = "auto",
        *,
        allow_code: bool = False,
    ) -> None:
        self.settings = settings
        self.worker = Worker(models, device, allow_code)
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._changed = threading.Condition()
        self.closing = False
        self._current: Job | None = None
        self._reserved = 0
        self._correction = 1.0
        temporary = Path(tempfile.gettempdir())
        sweep(temporary)  # what a server left that was killed
        self.folder = temporary / temporary_name("-serve")
        self.folder.mkdir(mode=0o700)
        try:
            self.models = self.worker.start()
        except BaseException:
            self.close()
            raise
        self._threads = [
            threading.Thread(target=one, daemon=True) for one in (self._work, self._tidy)
        ]
        for one in self._threads:
            one.start()

    def close(self) -> None:
        """End the worker, and remove all files."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()
        self.worker.kill()
        for one in getattr(self, "_threads", ()):
            one.join(5)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_idle(self) -> bool:
        """Whether no scan is queued, and the worker waits for the next one."""
        with self._changed:
            return not self._queue and self._current is None

    # -- what requests do

    @contextmanager
    def reserved(self, size: int, *, new: bool = True) -> Iterator[None]:
        """Reserve room for an upload of `size` bytes, of a new scan or not, while it is received;
        Refused if it is too large, or there are too many scans for a new one."""
        settings = self.settings
        if size > settings.upload_mib << 20:
            raise Refused(
                413, f"The upload exceeds {settings.upload_mib} MiB", "Upload one scan at a time."
            )
        with self._changed:
            if new:
                self._check_room()
            used = sum(job.size for job in self._jobs.values()) + self._reserved
            if used + size > settings.total_mib << 20:
                raise Refused(
                    507,
                    f"Scans and results would exceed {settings.total_mib} MiB",
                    "Remove a scan first.",
                )
            self._reserved += size
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= size

    def _check_queue(self) -> None:
        waiting = sum(job.state == "queued" for job in self._jobs.values())
        if waiting >= self.settings.waiting:
            many = counted(waiting, "scan is", "scans are")
            raise Refused(429, f"{many} waiting", "Try again when one is done.")

    def _check_room(self) -> None:
        self._check_queue()
        if len(self._jobs) >= self.settings.jobs:
            many = counted(self.settings.jobs, "scan")
            raise Refused(429, f"The server keeps {many}", "Remove one of them first.")

    def new_folder(self) -> tuple[str, Path]:
        """A random name for a job, and its folder."""
        name = secrets.token_urlsafe(12)
        folder = self.folder / name
        for part in ("scan", "truth", "results", "views"):
            (folder / part).mkdir(parents=True, mode=0o700)
        return name, folder

    def add(self, job: Job) -> Job:
        """Queue a job, whose files are in its folder already; Refused if meanwhile there are too
        many, or too many wait."""
        with self._changed:
            self._check_room()
            self._jobs[job.id] = job
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def start(self, job: Job, **changes: Any) -> None:
        """Start the translation of a job that is ready, failed, cancelled or done, with changes of
        its task, such as `to`. Refused if it is queued or running already, was not looked at, was
        removed, or too many wait."""
        with self._changed:
            if self._jobs.get(job.id) is not job:
                raise gone()
            if job.state in ("queued", "running"):
                raise Refused(409, "The scan is being processed", "Wait, or cancel it.")
            if not job.facts:
                raise Refused(409, "The scan could not be read", "Upload it again.")
            self._check_queue()
            before = job.task
            job.task = replace(before, kind="translate", **changes)
            job.start, job.result, job.error, job.progress = True, {}, None, 0.0
            for earlier in job.task.results.iterdir():
                shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
            for unused in {*before.also} - {*job.task.also}:
                shutil.rmtree(unused.parent, ignore_errors=True)
            job.state = "queued"
            self._touch(job)
            self._queue.append(job)
            self._changed.notify_all()

    def get(self, name: str) -> Job | None:
        """A job by its name."""
        job = self._jobs.get(name)
        if job is not None:
            job.touched = time.monotonic()
        return job

    def all(self) -> list[Job]:
        """All jobs, the oldest first."""
        return list(self._jobs.values())

    def cancel(self, job: Job) -> None:
        """Stop a job that waits or runs; its scan stays."""
        with self._changed:
            if job.state in ("queued", "running"):
                if job in self._queue:
                    self._queue.remove(job)
                job.state = "cancelled"  # which `_do` sees
                self._touch(job)
                self._changed.notify_all()

    def remove(self, job: Job) -> None:
        """Stop a job, and remove its files."""
        self.cancel(job)
        with self._changed:
            self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)
        log.info("scan %s: removed", job.id)

    def as_json(self, job: Job) -> dict[str, Any]:
        """The state of a job, for JSON; never one that is only half changed."""
        with self._changed:
            facts, result = job.facts, job.result
            seconds = None
            if "work" in facts:
                seconds = [
                    round(self._seconds(job, number) * self._correction, 2)
                    for number in range(len(self.models))
                ]
            return {
                "id": job.id,
                "name": _name(job.task.scan),
                "also": [_name(scan) for scan in job.task.also],
                "state": job.state,
                "version": job.version,
                "progress": round(job.progress, 3),
                "waiting_for": self._queue.index(job) if job in self._queue else 0,
                "scan": facts.get("scan"),
                "verdict": facts.get("verdict"),
                "target": result.get("target") or job.task.to or facts.get("target"),
                "maps": facts.get("maps"),
                "model": job.task.model,
                "estimated_seconds": seconds and seconds[job.task.model],
                "estimates": seconds,
                "seconds": result.get("seconds") and round(result["seconds"], 2),
                "notes": _not_in(result.get("notes", facts.get("notes", [])), facts.get("verdict")),
                "comparison": result.get("comparison") or None,
                "views": job.views,
                "files": result.get("files", []),
                "error": job.error,
            }

    # -- the worker

    def _work(self) -> None:
        while True:
            with self._changed:
                self._current = None
                while not self._queue and not self.closing:
                    self._changed.wait()
                if self.closing:
                    return
                # Looking takes a second: it need not wait for translations.
                looks = (job for job in self._queue if job.task.kind == "look")
                job = next(looks, self._queue[0])
                self._queue.remove(job)
                self._current = job
                job.state = "running"
                self._touch(job)
            try:
                self._do(job)
            except (EOFError, OSError):
                if not self.closing:
                    what = "the worker process was stopped, perhaps for lack of memory"
                    self._fail(job, MrbridgeError(what, remedy="Start the translation again."))
                    self._replace_worker()
            except Exception as error:  # a worker cannot be started again, for example
                self._fail(job, as_error(error))
            if job.id not in self._jobs:  # removed while the worker wrote
                shutil.rmtree(job.folder, ignore_errors=True)

    def _do(self, job: Job) -> None:
        """Send a task to the worker, and follow it to its end.

        Raises:
            EOFError, OSError: the worker has ended.
            MrbridgeError: it has ended before, and could not be started again.
        """
        self.worker.send(job.task)
        while True:
            if job.state != "running" or self.closing:
                self._replace_worker()
                return
            answer = self.worker.answer(_POLL_SECONDS)
            if answer is None:
                continue
            kind, content = answer
            if kind == "progress":
                with self._changed:
                    job.progress = max(job.progress, content)
                    self._touch(job)
            elif kind == "failed":
                self._fail(job, content)
                return
            else:
                self._finish(job, content)
                return

    def _finish(self, job: Job, result: dict[str, Any]) -> None:
        size = _size_of(job.folder)
        with self._changed:
            job.size = size
            if job.state != "running":
                return
            if job.task.kind == "look":
                job.facts = result
                job.state = "queued" if job.start else "ready"
                if job.start:
                    job.task = replace(job.task, kind="translate")
                    self._queue.append(job)
                    self._changed.notify_all()
            else:
                job.result, job.state, job.progress = result, "done", 1.0
                self._learn(job, result["seconds"])
                log.info("scan %s: done in %.1f s", job.id, result["seconds"])
            self._touch(job)

    def _learn(self, job: Job, seconds: float) -> None:
        """Correct later estimates by how long this job took."""
        if job.task.also:
            return  # they may be on the grid of the scan, and take no registration
        expected = self._seconds(job, job.task.model)
        self._correction = 0.5 * self._correction + 0.5 * seconds / max(expected, 0.1)

    def _seconds(self, job: Job, model: int) -> float:
        """The time that a translation by a model is expected to take, before the correction."""
        work = job.facts["work"]
        networks = work["pixels"][model] * self.models[model]["seconds_per_pixel"]
        if job.task.uncertainty:
            networks *= _UNCERTAINTY
        others = len(job.task.also) * _SECONDS_PER_REGISTRATION
        return float(networks + work["voxels"] * _SECONDS_PER_VOXEL + _SECONDS_PER_SCAN + others)

    def _fail(self, job: Job, error: MrbridgeError) -> None:
        with self._changed:
            if job.state != "running":
                return
            job.state = "failed"
            job.error = {"what": error.what, "remedy": error.remedy, "text": str(error)}
            log.info("scan %s: failed", job.id)
            self._touch(job)

    def _replace_worker(self) -> None:
        self.worker.kill()
        if not self.closing:
            with suppress(MrbridgeError):  # reported with the next job
                self.worker.start()

    def _touch(self, job: Job) -> None:
        job.version += 1
        job.touched = time.monotonic()

    def remove_old(self) -> None:
        """Remove the scans that were not asked for during `keep_minutes`."""
        oldest = time.monotonic() - 60 * self.settings.keep_minutes
        for job in self.all():
            if job.touched < oldest and job.state not in ("queued", "running"):
                self.remove(job)

    def _tidy(self) -> None:
        while not self.closing:
            self.remove_old()
            with self._changed:
                self._changed.wait(_TIDY_SECONDS)


def gone() -> Refused:
    """The refusal of a scan that is not there (any more)."""
    return Refused(404, "There is no such scan", "It may have been removed.")


def _name(scan: Path) -> str:
    return "DICOM series" if scan.is_dir() else scan.name


def _not_in(notes: Sequence[str], verdict: Mapping[str, Any] | None) -> list[str]:
    """The notes that are not among the reasons of the verdict."""
    reasons = " ".join(verdict["reasons"]).casefold() if verdict else ""
    return [note for note in notes if note.casefold() not in reasons]


def _size_of(folder: Path) -> int:
    """The bytes of all files below a folder, some of which may be removed meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.lstat().st_size
    return size
