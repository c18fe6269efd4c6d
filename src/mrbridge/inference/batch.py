"""Many scans: the runner of folders and BIDS datasets, and the scans of a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeError,
    OutputError,
    ScanRefused,
    SomeScansFailed,
)
from mrbridge.inference.additional_scans import AdditionalScan
from mrbridge.inference.output import NOTE, Translation, Translations, output_name, translate_to
from mrbridge.inference.synthesis import Request
from mrbridge.io import is_readable
from mrbridge.io.atomic import sha256_of, sidecar_path, write_json
from mrbridge.io.contrast import Identity, of_path
from mrbridge.io.formats import all_files, is_2d, is_file, unreadable_folders
from mrbridge.io.names import folded, guess_subject, natural_key
from mrbridge.io.ownership import must_be_ours, must_be_writable
from mrbridge.io.remote import not_fetched, release_when_done
from mrbridge.io.scans import FoundScans, Scan, log_left_out, prefer_raw, why_left_out
from mrbridge.io.temporary import sweep
from mrbridge.manifest import in_words
from mrbridge.parallel import Workers, map_scans
from mrbridge.reports import counted
from mrbridge.volume import Verdict

log = logging.getLogger(__name__)

REPORT = "report.json"
"""The name of the file that lists what was translated, kept, left out, and what failed."""

States = dict[str, list[dict[str, Any]]]
"""The entries of a report, under `done`, `skipped` and `failed`."""


@dataclass(frozen=True)
class Item:
    """One scan of a batch.

    Attributes:
        contrast: the contrast to synthesise.
        known: its own contrast, if its name or folders say it.
        is_taken: whether another scan of the batch has this output, or its sidecar.
        additional: other scans of its session.
    """

    source: Path
    output: Path
    contrast: str
    known: str | None = None
    is_taken: bool = False
    additional: tuple[AdditionalScan, ...] = ()


def _with_taken(items: Iterable[Item]) -> list[Item]:
    """Mark items whose output or sidecar is that of an earlier one: `a.nii` and `a.nii.gz`, and on
    Windows and macOS also `a.nii` and `A.nii`."""
    marked: list[Item] = []
    taken: set[str] = set()
    for item in items:
        place = folded(item.output if is_2d(item.output) else sidecar_path(item.output))
        marked.append(replace(item, is_taken=place in taken))
        taken.add(place)
    return marked


def translate_batch(
    request: Request,
    translate_one: Callable[[Item], Translation],
    items: Iterable[Item],
    ignored: Sequence[tuple[Path, str]],
    root: Path,
    out: Path,
    *,
    workers: Workers,
    unreadable: Sequence[tuple[Path, str]] = (),
    earlier: Callable[[], States] = dict,
) -> Translations:
    """Translate scans, and write `report.json`; a scan that fails does not stop the others.

    Args:
        translate_one: translates one scan; picklable if `workers` are other processes.
        ignored: the files that are left out, with the reason.
        root, out: the folders of the scans and of the outputs.
        workers: see `mrbridge.parallel.map_scans`; a model that is only in memory is
            used only in this process.
        unreadable: folders that cannot be read, with the reason.
        earlier: returns the entries of an earlier report, which stay if their scans are not among
            these.

    Raises:
        SomeScansFailed: some failed; its `result` holds all.
        Interrupted: a signal came; its `result` holds what is done.
    """
    bundle, items = request.bundle, _with_taken(items)
    if bundle.path is None:
        workers = 1
    target = request.target_for(None)
    done = Translations(
        Translation(path, None, target, bundle.hash, error=reason) for path, reason in unreadable
    )
    outcomes = map_scans(
        translate_one,
        items,
        workers=workers,
        label="translate",
        imports=("mrbridge.inference.slices",),
    )
    outcomes = release_when_done(outcomes, items, lambda item: [item.source, item.output])
    interrupted = False
    try:
        for item, result in outcomes:
            if isinstance(result, MrbridgeError):
                result.path = result.path or item.source
                log.error("%s", result)
                error = result.what
                refused = Verdict("refused", (error,)) if isinstance(result, ScanRefused) else None
                result = Translation(
                    item.source, None, item.contrast, bundle.hash, error=error, verdict=refused
                )
            done.append(result)
    except KeyboardInterrupt:
        interrupted = True
    sweep(out)
    states: States = {"done": [], "skipped": [], "failed": []}
    for one in done:
        states[one.state].append(one.as_json(root, out))
    report = {
        "synthetic": True,
        "note": NOTE,
        "created_by": f"mrbridge {__version__}",
        "model": bundle.hash,
        **_merged(earlier(), states),
        "ignored": [
            {"source": path.relative_to(root).as_posix(), "reason": reason}
            for path, reason in ignored
        ],
    }
    write_json(out / REPORT, report | ({"interrupted": True} if interrupted else {}))
    if interrupted:
        raise Interrupted(
            f"interrupted after {len(done)} of {len(items)} scans",
            path=out / REPORT,
            remedy="It lists them. Run it again.",
            result=done,
        )
    failed = sum(one.state == "failed" for one in done)
    if failed:
        raise SomeScansFailed(
            f"{failed} of {len(done)} scans failed",
            path=out / REPORT,
            remedy="It lists them.",
            result=done,
        )
    return done


def _merged(earlier: States, now: States) -> States:
    """The entries of this run, after those of earlier runs about other scans."""
    sources = {entry["source"] for entries in now.values() for entry in entries}
    return {
        state: [e for e in earlier.get(state, []) if e.get("source") not in sources] + entries
        for state, entries in now.items()
    }


def translate_folder(request: Request, folder: Path, out: Path, workers: Workers) -> Translations:
    """Translate a folder file by file.

    Raises:
        InputError: it holds nothing to translate.
        OutputError: `out` is the folder itself, or the name of a file.
        SomeScansFailed, Interrupted: see `translate_batch`.
    """
    check_output_folder(folder, out)
    must_be_ours(out / REPORT)
    found = _find(request, folder, out)
    log_left_out(found.ignored, folder)
    items = []
    for scan in found.scans:
        known = _identity_below(folder, scan.path).contrast
        to = request.target_for(known)
        output = out / scan.path.relative_to(folder).parent / output_name(request, scan.path, to)
        items.append(Item(scan.path, output, to, known))
    return translate_batch(
        request,
        partial(_translate_item, request),
        items,
        found.ignored,
        folder,
        out,
        workers=workers,
        unreadable=list(unreadable_folders(folder)),
    )


def check_output_folder(folder: Path, out: Path) -> None:
    """Refuse an output folder that is the input, or the name of a file, or cannot be written:
    OutputError."""
    if out.resolve() == folder.resolve():
        raise OutputError("is the input itself", path=out, remedy="Name another output folder.")
    if out.suffix and is_readable(out):
        raise OutputError(
            "is the name of a file, but the input is a folder", path=out, remedy="Name a folder."
        )
    must_be_writable(out)


def check_not_taken(item: Item) -> None:
    """Refuse an output that belongs to another scan (OutputError), and remove what a killed run
    left there."""
    sweep(item.output.parent)
    if item.is_taken:
        raise OutputError(
            f"{item.output.name} is the output of another scan already",
            path=item.source,
            remedy="Rename one: names that differ only in format or case have one output.",
        )


def _translate_item(request: Request, item: Item) -> Translation:
    check_not_taken(item)
    digest = sha256_of(item.source)
    result = translate_to(request, item.source, item.output, item.known)
    return replace(result, source_sha256=digest)


def _find(request: Request, folder: Path, out: Path) -> FoundScans:
    """The files of a folder to translate, and why the others are left out; InputError if there are
    none."""
    results = out.resolve()
    is_below = folder.resolve() in results.parents  # otherwise `out` may hold the input
    paths = [
        p
        for p in sorted(all_files(folder), key=natural_key)
        if (is_file(p) or (p.is_symlink() and not p.exists()))
        and not (is_below and p.parent.resolve().is_relative_to(results))
    ]
    ignored = [(p, "is hidden") for p in paths if p.name.startswith(".") and is_readable(p)]
    paths = [p for p in paths if not p.name.startswith(".")]
    images = [p for p in paths if is_readable(p)]
    for p in paths:
        if not is_readable(p):
            missing = not_fetched(p)
            ignored.append((p, missing.what if missing else "not an image that mrbridge reads"))
    settings, to = request.settings, request.target_for(None)
    taken = request.bundle.preferred(to)
    known = {p: _identity_below(folder, p) for p in images}
    usable = [p for p in images if settings.force or not known[p].objection]
    there = {known[p].contrast for p in usable}
    wanted = next((contrast for contrast in taken if contrast in there), taken[0])
    chosen = [p for p in usable if known[p].contrast == wanted]
    if settings.to is None and not chosen:
        chosen = [p for p in usable if known[p].contrast == to]
    chosen = chosen or [p for p in usable if known[p].contrast is None]
    if not chosen:
        raise InputError(
            f"holds no {in_words(taken)} scan among {counted(len(images), 'image')}"
            + why_left_out([*((p, _why_not(known[p])) for p in images), *ignored]),
            path=folder,
            remedy="Name a folder of scans, and the target contrast with --to.",
        )
    others = set(images) - set(chosen)
    ignored += [(p, _why_not(known[p])) for p in images if p in others]
    scans = []
    for p in chosen:
        person = guess_subject(p.relative_to(folder), is_2d=is_2d(p))
        scans.append(Scan(p, *person, known[p].contrast or wanted, p.name))
    return prefer_raw(FoundScans(scans, ignored))


def _why_not(identity: Identity) -> str:
    """Why a file is left out: it is something else, or there is something better."""
    if identity.contrast and not identity.objection:
        return f"is {identity.contrast}"
    return identity.objection or identity.reason


def _identity_below(folder: Path, path: Path) -> Identity:
    """What the path of an image says about it, from the folder that the user named downwards."""
    return of_path(Path(folder.resolve().name, path.relative_to(folder)))
