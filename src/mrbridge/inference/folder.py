"""The verb `translate` on a folder of files, and what its results are called."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.errors import InputError, Interrupted, MrbridgeError, OutputError
from mrbridge.inference.data_set import SLOW_IMPORTS
from mrbridge.inference.derivatives import REPORT
from mrbridge.inference.job import Job, Translation, translate_file
from mrbridge.inference.synthesis import sidecar_path
from mrbridge.io import FORMATS, is_readable
from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.io.contrast import Identity, of_path
from mrbridge.io.formats import is_file, is_picture, unreadable_folders
from mrbridge.io.names import guess_subject, natural_key
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.safety import sha256_of, sweep, write_json
from mrbridge.io.scans import FoundScans, Scan, log_left_out, prefer_raw, why_left_out
from mrbridge.io.transfer import fetch, not_fetched
from mrbridge.scale import Workers, map_scans

log = logging.getLogger(__name__)


def translate_folder(job: Job, folder: Path, out: Path, workers: Workers) -> list[Translation]:
    """Translate a folder file by file; what fails does not stop the others.

    Raises:
        InputError: it holds nothing to translate.
        OutputError: `out` is the folder itself, or the name of a file.
    """
    if out.resolve() == folder.resolve():
        raise OutputError("is the input itself", path=out, remedy="Name another output folder.")
    if out.suffix and is_readable(out):
        raise OutputError(
            "is the name of a file, but the input is a folder", path=out, remedy="Name a folder."
        )
    must_be_ours(out / REPORT)
    chosen, ignored = _choose(job, folder, out)
    log_left_out(ignored, folder)
    items: list[_Item] = []
    taken: set[Path] = set()  # sidecars: those of `a.nii` and `a.nii.gz` are one
    for path in chosen:
        known = _identity_below(folder, path).contrast
        to = job.contrast_of(known)
        output = out / path.relative_to(folder).parent / _name(path, to)
        place = output if is_picture(output) else sidecar_path(output)
        items.append(_Item(path, output, known, to, place in taken))
        taken.add(place)
    done = [
        Translation(path, None, None, job.translator.bundle.hash, reason)
        for path, reason in unreadable_folders(folder)
    ]
    function = partial(_file_of_folder, job)
    interrupted = False
    try:
        for item, result in map_scans(
            function, items, workers=job.workers(workers), label="translate", imports=SLOW_IMPORTS
        ):
            if isinstance(result, MrbridgeError):
                result.path = result.path or item.path
                log.error("%s", result)
                model = job.translator.bundle.hash
                result = Translation(item.path, None, item.to, model, result.what)
            done.append(result)
    except KeyboardInterrupt:
        interrupted = True
    report = _report(job, folder, out, done, ignored)
    write_json(out / REPORT, report | ({"interrupted": True} if interrupted else {}))
    if interrupted:
        raise Interrupted(
            f"interrupted after {len(done)} of {len(items)} scans",
            path=out / REPORT,
            remedy="It lists them.",
            result=done,
        )
    return done


@dataclass(frozen=True)
class _Item:
    """A file of a folder: the contrast that it is known to have, the one to make, and where to,
    unless that place is taken."""

    path: Path
    output: Path
    known: str | None
    to: str
    is_taken: bool


def _file_of_folder(job: Job, item: _Item) -> Translation:
    sweep(item.output.parent)
    if item.is_taken:
        raise OutputError(f"{item.output.name} is made of another scan already", path=item.path)
    digest = sha256_of(item.path)
    made = translate_file(job, item.path, item.output, item.known)
    return replace(made, source_sha256=digest)


def _choose(job: Job, folder: Path, out: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Which files of a folder to translate, and why not the others."""
    results = out.resolve()
    below = folder.resolve() in results.parents  # else what is there may be what was named
    paths = [
        p
        for p in sorted(folder.rglob("*"), key=natural_key)
        if (is_file(p) or (p.is_symlink() and not p.exists()))
        and not (below and p.parent.resolve().is_relative_to(results))
        and not any(part.startswith(".") for part in p.relative_to(folder).parts[:-1])
    ]
    ignored = [(p, "is hidden") for p in paths if p.name.startswith(".") and is_readable(p)]
    paths = [p for p in paths if not p.name.startswith(".")]
    images = [p for p in paths if is_readable(p)]
    for p in paths:
        if not is_readable(p):
            missing = not_fetched(p)
            ignored.append((p, missing.what if missing else "not an image that mrbridge reads"))
    bundle = job.translator.bundle
    wanted = bundle.source if job.to in (None, bundle.target) else bundle.target
    known = {p: _identity_below(folder, p) for p in images}
    usable = [p for p in images if job.force or not known[p].is_other]
    chosen = [p for p in usable if known[p].contrast == wanted]
    if job.to is None and not chosen:
        chosen = [p for p in usable if known[p].contrast == bundle.target]
    chosen = chosen or [p for p in usable if known[p].contrast is None]
    if not chosen:
        raise InputError(
            f"holds no {wanted} scan among {len(images)} images"
            + why_left_out([*((p, _why_not(known[p])) for p in images), *ignored]),
            path=folder,
            remedy="Name a folder of scans, and the contrast to make with --to.",
        )
    taken = set(chosen)
    ignored += [(p, _why_not(known[p])) for p in images if p not in taken]
    scans = [_scan(folder, p, known[p].contrast or wanted) for p in chosen]
    found = prefer_raw(FoundScans(scans, ignored))
    return [scan.path for scan in found.scans], found.ignored


def _scan(folder: Path, path: Path, contrast: str) -> Scan:
    subject, session = guess_subject(path.relative_to(folder), picture=is_picture(path))
    return Scan(path, subject, session, contrast, path.name)


def _why_not(identity: Identity) -> str:
    """Why a file is not translated: it is something else, or something better is there."""
    return f"is {identity.contrast}" if identity.contrast else identity.reason


def _identity_below(folder: Path, path: Path) -> Identity:
    """What a path says of its image, from the folder that was named downwards."""
    return of_path(Path(folder.resolve().name, path.relative_to(folder)))


def _name(path: Path, to: str) -> str:
    """BIDS names become names of derivatives; any other name is kept, so that folders pair up."""
    bids = parse_name(path)
    return path.name if bids is None else derivative_name(bids, to)


def output_file(job: Job, path: Path, out: Path) -> Path:
    """Where the translation of one file goes that shall lie at or in `out`.

    Raises:
        InputError: the file does not exist.
        OutputError: `out` is the name of something else than a scan.
    """
    fetch(path)
    if not path.exists():
        raise InputError("does not exist", path=path, remedy="Check the name.")
    if out.is_dir() or not out.suffix:
        known = of_path(Path(path.parent.resolve().name, path.name)).contrast
        return out / _name(path, job.contrast_of(known))
    if not is_readable(out):
        raise OutputError(
            "is of no known format", path=out, remedy=f"Name a folder, or {', '.join(FORMATS)}."
        )
    return out


def _report(
    job: Job,
    folder: Path,
    out: Path,
    done: list[Translation],
    ignored: list[tuple[Path, str]],
) -> dict[str, Any]:
    return {
        "synthetic": True,
        "note": "Synthetic images, for research, not for diagnosis.",
        "created_by": f"mrbridge {__version__}",
        "model": job.translator.bundle.hash,
        "done": [
            {
                "source": str(item.source.relative_to(folder)),
                "source_sha256": item.source_sha256,
                "output": str(item.output.relative_to(out)),
                "contrast": item.contrast,
                **({"notes": list(item.notes)} if item.notes else {}),
                **({} if item.rounding is None else {"rounding": item.rounding.told()}),
            }
            for item in done
            if item.output is not None
        ],
        "failed": [
            {"source": str(item.source.relative_to(folder)), "error": item.error}
            for item in done
            if item.error
        ],
        "ignored": [
            {"source": str(path.relative_to(folder)), "reason": reason} for path, reason in ignored
        ],
    }
