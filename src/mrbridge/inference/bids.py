"""A BIDS dataset in, its derivatives out; what is up to date is kept.

Source: BIDS 1.10, "BIDS Derivatives" and "BIDS URI".
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError, OutputError
from mrbridge.inference.additional_scans import AdditionalScan
from mrbridge.inference.batch import REPORT, Item, States, check_not_taken, translate_batch
from mrbridge.inference.derivatives import LINK, check_derivatives, describe
from mrbridge.inference.output import (
    Translation,
    Translations,
    output_name,
    provenance,
    uncertainty_path,
    write_synthesis,
)
from mrbridge.inference.synthesis import Request, synthesise
from mrbridge.io.atomic import read_json, sha256_of, sidecar_path, write_json, write_text
from mrbridge.io.bids import NOT_RAW, find_scans
from mrbridge.io.formats import unreadable_folders
from mrbridge.io.metadata import read_metadata
from mrbridge.io.ownership import is_ours, must_be_ours
from mrbridge.io.scans import (
    FoundScans,
    Scan,
    log_left_out,
    outside,
    prefer_raw,
    select,
    why_left_out,
)
from mrbridge.manifest import in_words
from mrbridge.parallel import Workers
from mrbridge.preprocessing.skull_strip import skull_stripped
from mrbridge.progress import track
from mrbridge.reports import counted
from mrbridge.volume import Verdict

log = logging.getLogger(__name__)

TABLE = Path("logs", "group.tsv")
"""The file that lists the state of every scan."""

_NOT_OURS = "by another program"
"""What `_difference` returns for an image that mrbridge did not write."""

_INHERITED = (
    *("SkullStripped", "BodyPart", "BodyPartDetails", "BodyPartDetailsOntology", "Simulated"),
    *("AnatomicalLandmarkCoordinates", "AnatomicalLandmarkCoordinateSystem"),
    *("AnatomicalLandmarkCoordinateUnits", "AnatomicalLandmarkCoordinateSystemDescription"),
)
"""Metadata of the source that hold for its translation: of the body and of its position. The others
describe an acquisition."""


def translate_dataset(request: Request, root: Path, out: Path, workers: Workers) -> Translations:
    """Translate the scans of a BIDS dataset into derivatives.

    Raises:
        InputError: there is nothing to translate.
        OutputError: the derivatives cannot be written there.
        SomeScansFailed, Interrupted: see `batch.translate_batch`.
    """
    check_derivatives(root, out)
    found, ignored = _find(request, root, out)
    log_left_out(ignored, root)
    describe(root, out)
    return translate_batch(
        request,
        partial(_translate_item, request, root),
        [item for _, item in found],
        ignored,
        root,
        out,
        workers=workers,
        unreadable=list(unreadable_folders(root, NOT_RAW)),
        earlier=partial(_earlier, out / REPORT),
    )


def check_dataset(request: Request, root: Path, out: Path) -> list[str]:
    """Write a table of whether every scan has its translation; the states in it: `done`, `missing`,
    or how the translation differs from the one that the request would give. InputError if there is
    nothing to translate, OutputError if the table cannot be written."""
    check_derivatives(root, out)
    must_be_ours(out / TABLE)
    found, _ = _find(request, root, out)
    states: list[str] = []
    rows = ["participant_id\tsession_id\tsource\toutput\tstate"]
    for scan, item in track(found, "check", len(found)):
        try:
            difference = _difference(item.output, _fingerprint(request, item))
        except InputError as error:
            difference = error.what
        states.append("missing" if difference is None else difference or "done")
        cells = (
            f"sub-{scan.subject}",
            f"ses-{scan.session}" if scan.session else "n/a",
            scan.path.relative_to(root).as_posix(),
            item.output.relative_to(out).as_posix(),
            states[-1],
        )
        rows.append("\t".join(cells))
    write_text(out / TABLE, "\n".join(rows) + "\n")
    return states


Found = tuple[list[tuple[Scan, Item]], list[tuple[Path, str]]]
"""The scans to translate, and the files that are left out with the reason."""


def _find(request: Request, root: Path, out: Path) -> Found:
    """The scans to translate, and what is left out.

    In each session, the scans of the first contrast of `Bundle.preferred` that is there.

    Raises:
        InputError: there are none.
    """
    settings, to = request.settings, request.target_for(None)
    selection = select(settings.participants, settings.sessions, settings.bids_filter)
    taken = request.bundle.preferred(to)
    everything = find_scans(
        root,
        (*taken, to),
        datatypes={datatype for contrast in taken for datatype in selection.datatypes(contrast)},
        raw_first=False,
        force=settings.force,
    )
    others = [scan for scan in everything.scans if scan.contrast == to]
    found = FoundScans(
        [scan for scan in everything.scans if scan.contrast != to],
        everything.ignored + [(s.path, f"is {s.contrast}, not {in_words(taken)}") for s in others],
    )
    if not found.scans:
        remedy = f"To make {taken[0]} from its {len(others)} {to} scans, use --to {taken[0]}."
        raise InputError(
            f"holds no {in_words(taken)} scan to translate into {to}"
            f"{why_left_out(everything.ignored)}",
            path=root,
            remedy=remedy if others else "Name a BIDS dataset with scans of this contrast.",
        )
    chosen = selection.apply(found, root)
    if not chosen.scans:
        rest = counted(len(found.scans), "does", "do")
        raise InputError(
            f"has no {in_words(taken)} scan that fits the selection ({rest} not)",
            path=root,
            remedy="Check the participants, the sessions and the filter file.",
        )
    subjects = {scan.subject for scan in chosen.scans}
    for label in selection.participants:
        if label not in subjects:
            log.warning("sub-%s: has no %s scan that fits the selection", label, in_words(taken))
    if settings.bids_filter is not None and not selection.queries.keys() & set(taken):
        log.warning(
            "%s: has no query '%s', so it leaves out nothing",
            settings.bids_filter,
            taken[0].lower(),
        )
    return _by_session(request, outside(prefer_raw(chosen), out), root, out)


def _by_session(request: Request, found: FoundScans, root: Path, out: Path) -> Found:
    """The scans of the first contrast in each session, with the others that are used with them."""
    sessions: dict[tuple[str | None, str | None], dict[str, list[Scan]]] = {}
    for scan in found.scans:
        session = sessions.setdefault((scan.subject, scan.session), {})
        session.setdefault(scan.contrast, []).append(scan)
    to, ignored = request.target_for(None), list(found.ignored)
    items = []
    for session in sessions.values():
        first, *others = [one for one in request.bundle.preferred(to) if one in session]
        used = tuple(
            AdditionalScan(session[contrast][0].path, contrast, is_needed=False)
            for contrast in request.combined((first, *others))[1:]
        )
        for scan in session[first]:
            folder = out / scan.path.relative_to(root).parent
            output = folder / output_name(request, scan.path, to)
            items.append((scan, Item(scan.path, output, to, additional=used)))
        ignored += [
            (scan.path, f"is {contrast}, not {first}")
            for contrast in others
            for scan in session[contrast]
            if all(one.path != scan.path for one in used)
        ]
    return items, ignored


def _translate_item(request: Request, root: Path, item: Item) -> Translation:
    """Translate a scan, unless its translation is up to date."""
    path, output, settings = item.source, item.output, request.settings
    check_not_taken(item)
    fingerprint = _fingerprint(request, item)
    difference = _difference(output, fingerprint)
    map_path = uncertainty_path(output) if settings.uncertainty else None
    if difference == "" and map_path is not None and not map_path.exists():
        difference = None
    metadata = read_metadata(path, root)
    facts = _inherited(metadata)
    if request.bundle.manifest.standard.brain != "none":
        facts["SkullStripped"] = True  # whatever the source is
    if difference == "" and not settings.overwrite:
        return Translation(
            path,
            output,
            item.contrast,
            request.bundle.hash,
            skipped=True,
            source_sha256=fingerprint["Source"],
            uncertainty=map_path,
            verdict=_refreshed(sidecar_path(output), facts),
        )
    is_foreign = difference == _NOT_OURS
    if is_foreign or (difference and not settings.overwrite):
        remedy = "Move it away, or name another place." if is_foreign else "Use --overwrite."
        raise OutputError(f"already exists, {difference}", path=output, remedy=remedy)
    must_be_ours(sidecar_path(output))
    scan = request.read(path)
    if metadata.get("SyntheticData") is True:
        scan = replace(scan, synthetic=True)
    synthesis = synthesise(replace(request, additional=item.additional), scan, path)

    def uri(file: Path) -> str:
        return f"bids:{LINK}:{file.relative_to(root).as_posix()}"

    sidecar = provenance(request, synthesis, uri(path), uri) | facts
    if "SkullStripped" not in sidecar and (measured := skull_stripped(scan)) is not None:
        sidecar["SkullStripped"] = measured
    if "SkullStripped" not in sidecar:
        log.warning(
            "%s: it is unknown whether the skull was removed, which BIDS requires of derivatives. "
            'State it, as in T1w.json: {"SkullStripped": true}, and run this again',
            path.name,
        )

    def with_fingerprint(image: Path) -> dict[str, Any]:
        return sidecar | {"Fingerprint": fingerprint | {"SHA256": sha256_of(image)}}

    result = write_synthesis(request, synthesis, path, output, with_fingerprint)
    return replace(result, source_sha256=fingerprint["Source"])


def _inherited(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of the source's sidecar that hold for its translation."""
    facts = {key: metadata[key] for key in _INHERITED if metadata.get(key) is not None}
    if not isinstance(facts.get("SkullStripped"), bool):
        facts.pop("SkullStripped", None)  # the standard requires true or false
    return facts


def _refreshed(sidecar: Path, facts: dict[str, Any]) -> Verdict | None:
    """Update the sidecar of a translation that is kept with what that of its source says now; the
    verdict in it, None if there is none."""
    content = read_json(sidecar, lambda _: None)  # NaN and infinity become null
    if {**content, **facts} != content:
        write_json(sidecar, {**content, **facts})
    try:
        entry = content["InputCheck"]
        return Verdict(entry["Level"], tuple(map(str, entry["Reasons"])))
    except (KeyError, TypeError):
        return None


def _earlier(report: Path) -> States:
    """The entries of an earlier run's report; none if it cannot be read."""
    try:
        content = read_json(report, lambda _: None)
        return {
            state: [entry for entry in content[state] if isinstance(entry, dict)]
            for state in ("done", "skipped", "failed")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _fingerprint(request: Request, item: Item) -> dict[str, Any]:
    """All that decides over the voxels of a translation; InputError if the scan cannot be read."""
    translator, settings = request.translator, request.settings
    bundle, match = request.bundle, request.match
    additional = {str(one.contrast): sha256_of(Path(str(one.path))) for one in item.additional}
    options = {
        "Planes": None if translator.planes == bundle.manifest.planes else translator.planes,
        "NumberType": None if settings.dtype == "float32" else settings.dtype,
        "Match": None if match is None else hashlib.sha256(match.voxels.tobytes()).hexdigest(),
        "Volume": settings.volume,
        "Uncertainty": settings.uncertainty or None,
        "Additional": additional or None,
        "Grid": None if request.grid is None else request.grid.key,
        "Assume": settings.assume,
    }
    return {
        "Source": sha256_of(item.source),
        "Model": bundle.hash,
        "Options": {key: value for key, value in options.items() if value is not None},
    }


def _difference(output: Path, fingerprint: dict[str, Any]) -> str | None:
    """How a translation that is there differs from one with this fingerprint.

    Returns:
        "" if it is the same, bit for bit; None if there is none, or an unfinished one; otherwise
        the difference.
    """
    if not output.is_file():
        return None
    sidecar = sidecar_path(output)
    try:
        recorded = read_json(sidecar)["Fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        recorded = None
    if not isinstance(recorded, dict):  # killed between image and sidecar, or not ours
        return None if is_ours(output) else _NOT_OURS
    if recorded.get("SHA256") != sha256_of(output):
        return "and was changed since it was written" if is_ours(output) else _NOT_OURS
    names = {"Source": "of another source file", "Model": "by another model"}
    for key, value in fingerprint.items():
        if recorded.get(key) != value:
            return names.get(key, "with other options")
    return ""
