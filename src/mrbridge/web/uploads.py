"""Uploads: what a request brings, within the limits, under names that are safe."""

from __future__ import annotations

import re
import secrets
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from mrbridge.io.atomic import suffix_of
from mrbridge.io.formats import FORMATS, is_readable
from mrbridge.web.guard import Refused
from mrbridge.web.jobs import Job, Jobs, gone
from mrbridge.web.worker import Task

_MOST_FILES = 20_000  # of one upload
_LONGEST_NAME = 150

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["scan"],
                "properties": {
                    "scan": _FILES | {"description": "A scan; several files are a DICOM folder."},
                    "truth": _FILES | {"description": "The true scan, to compare with."},
                    "also": _FILES
                    | {
                        "description": "Other scans of the person, which the result is made from, "
                        "too; all DICOM files together are one."
                    },
                    "to": {"type": "string", "description": "Contrast to synthesise."},
                    "model": {"type": "integer", "description": "Which model of /api/health."},
                    "uncertainty": {"type": "boolean", "description": "Also an uncertainty map."},
                    "force": {"type": "boolean", "description": "Translate what is refused."},
                    "allow_gaps": {"type": "boolean", "description": "DICOM: fill gaps."},
                    "series": {"type": "string", "description": "DICOM: number or UID."},
                    "start": {"type": "boolean", "description": "false: only look at it."},
                },
            }
        }
    },
}


def _choices_of(form: FormData, jobs: Jobs) -> dict[str, Any]:
    """The choices of a request, such as `to`, as attributes of a task; Refused if there is no such
    model, or it does not make the contrast."""
    number = str(form.get("model") or 0)
    if not number.isdecimal() or int(number) >= len(jobs.models):
        raise Refused(422, "There is no such model", "Choose one that /api/health lists.")
    to = form.get("to") or None
    makes = jobs.models[int(number)]["contrasts"]
    if to is not None and to not in makes:
        raise Refused(422, f"This model makes {' and '.join(makes)}", "Choose one of them.")
    return {
        "model": int(number),
        "to": to,
        "uncertainty": _is_true(form.get("uncertainty")),
        "force": _is_true(form.get("force")),
        "allow_gaps": _is_true(form.get("allow_gaps")),
        "series": form.get("series") or None,
    }


def _is_true(value: Any) -> bool:
    return str(value or "").lower() in ("1", "true", "yes", "on")


def _bytes_of(request: Request) -> int:
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise Refused(411, "The size of the upload is unknown", "Send Content-Length.")
    return int(length)


async def _form_of(request: Request) -> FormData:
    """The fields of a request; Refused if they cannot be read."""
    try:
        return await request.form(max_files=_MOST_FILES, max_fields=20)
    except (MultiPartException, HTTPException) as error:
        detail = getattr(error, "detail", None) or str(error)
        raise Refused(400, f"The upload cannot be read ({detail})", "Send it again.") from error


async def receive(request: Request, jobs: Jobs) -> Job:
    """Receive an upload, and add it to the jobs; Refused if it is too large, or not a scan that can
    be accepted now."""
    size = _bytes_of(request)
    with jobs.reserved(size):
        form = await _form_of(request)
        name, folder = jobs.new_folder()
        try:
            choices = _choices_of(form, jobs)
            limit = jobs.settings.upload_mib << 20
            scan = await run_in_threadpool(_keep, _files(form, "scan"), folder / "scan", limit)
            if scan is None:
                raise Refused(422, "The upload has no scan", "Send it in the field 'scan'.")
            task = Task("look", scan, None, folder / "results", folder / "views", **choices)
            task = replace(task, **await run_in_threadpool(_keep_more, form, folder, jobs, task))
            start = form.get("start") in (None, "") or _is_true(form.get("start"))
            return jobs.add(Job(name, folder, task, start, size))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            await form.close()


async def receive_start(request: Request, job: Job, jobs: Jobs) -> None:
    """Start the translation of a scan that was looked at, with what the request brings.

    Raises:
        Refused: what it brings cannot be accepted, or the translation cannot start now.
    """
    with jobs.reserved(_bytes_of(request), new=False):
        form = await _form_of(request)
        folder = job.folder / f"more-{secrets.token_hex(4)}"
        try:
            changes = _choices_of(form, jobs)
            task = replace(job.task, **changes)
            folder.mkdir(mode=0o700)
            changes |= await run_in_threadpool(_keep_more, form, folder, jobs, task)
            jobs.start(job, **changes)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, FileNotFoundError):  # removed during the upload
                raise gone() from None
            raise
        finally:
            await form.close()


def _keep_more(form: FormData, folder: Path, jobs: Jobs, task: Task) -> dict[str, Any]:
    """Keep the true scan and the additional scans of a request; gives the changes of its task.
    Refused if they cannot be accepted, or the model does not take so many."""
    limit = jobs.settings.upload_mib << 20
    also = _scans(_files(form, "also"))
    model, count = jobs.models[task.model], len(also) if "also" in form else len(task.also)
    if count and not model["takes_several"]:
        raise Refused(422, "This model takes one scan", "Leave out the others.")
    if count > (most := len(model["contrasts"]) - 2):
        raise Refused(
            422,
            f"This model takes no more than {most} additional scans",
            "Send one of each contrast, none of the contrast to synthesise.",
        )
    changes: dict[str, Any] = {}
    truth = _keep(_files(form, "truth"), folder / "truth", limit)
    if truth is not None:
        changes["truth"] = truth
    if "also" in form:
        kept = (_keep(one, folder / f"also-{n}", limit) for n, one in enumerate(also))
        changes["also"] = tuple(path for path in kept if path is not None)
    return changes


def _files(form: FormData, field: str) -> list[UploadFile]:
    return [one for one in form.getlist(field) if isinstance(one, UploadFile) and one.filename]


def _scans(files: list[UploadFile]) -> list[list[UploadFile]]:
    """Files by scan: an image or zip is one, all others are the files of a DICOM folder."""
    images, series = [], []
    for one in files:
        path = Path(safe_name(one.filename or ""))
        if is_readable(path) or path.suffix.lower() == ".zip":
            images.append([one])
        else:
            series.append(one)
    return [*images, series] if series else images


def _keep(files: list[UploadFile], folder: Path, limit: int) -> Path | None:
    """Move the files of a scan into a folder; the path of the scan, None without files.

    Several files are a DICOM folder. They keep their names, which show what is a damaged slice and
    what is something else. Files of the same name, of different folders, get folders of their own.

    Raises:
        Refused: a zip would unpack to too much, or has names that lead elsewhere.
    """
    if not files:
        return None
    folder.mkdir(mode=0o700, exist_ok=True)
    if len(files) == 1:
        path = folder / safe_name(files[0].filename or "")
        _move(files[0], path)
        if path.suffix.lower() == ".zip":
            check_zip(path, limit)
        return path
    if any(is_readable(Path(safe_name(one.filename or ""))) for one in files):
        raise Refused(422, "These are several scans", "Upload them one by one.")
    series = folder / "dicom"
    series.mkdir()
    for number, one in enumerate(files):
        path = series / safe_name(one.filename or "")
        if path.exists():
            path = series / f"{number:05}" / path.name
            path.parent.mkdir()
        _move(one, path)
    return series


def _move(upload: UploadFile, path: Path) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)


def safe_name(name: str) -> str:
    """The last part of an uploaded name, without what means something to a file system.

    The name is kept, since it may say which contrast the scan is.

    Raises:
        Refused: nothing is left.
    """
    last = re.split(r"[/\\]", name)[-1]
    last = re.sub(r'[\x00-\x1f\x7f:*?"<>|]', "_", last).strip(" .")[-_LONGEST_NAME:]
    if not last:
        raise Refused(422, "The file has no name", "Send it with its name.")
    return last


def check_zip(path: Path, limit: int) -> None:
    """Refuse a zip that would unpack to more than `limit` bytes, or has names that lead out of it.

    Zips are read in place and never unpacked: this refuses at once what is refused later anyway.
    A zip may hold a DICOM study, not NIfTI files.

    Raises:
        Refused: it is damaged, too large, holds NIfTI files or names that lead elsewhere.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Refused(422, "The zip is damaged or incomplete", "Create it again.") from error
    if len(members) > _MOST_FILES:
        raise Refused(
            413, f"The zip holds more than {_MOST_FILES:,} files", "Upload one series at a time."
        )
    if sum(one.file_size for one in members) > limit:
        raise Refused(
            413, f"The zip unpacks to more than {limit >> 20} MiB", "Upload one series at a time."
        )
    if any(FORMATS.get(suffix_of(one.filename)) == "nifti" for one in members):
        raise Refused(422, "The zip holds NIfTI files", "Unpack it, and add the files one by one.")
    for one in members:
        parts = re.split(r"[/\\]", one.filename)
        if ".." in parts or one.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise Refused(422, "The zip has names that lead out of it", "Create it again.")
