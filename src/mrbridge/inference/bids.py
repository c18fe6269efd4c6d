"""A BIDS dataset in, its derivatives out; what is up to date is kept.

Source: BIDS 1.10, "BIDS Derivatives" and "BIDS URI".
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
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
from mrbridge.inference.synthesis import Request, report_verdict, synthesise
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
from mrbridge.parallel import Workers
from mrbridge.preprocessing.skull_strip import skull_stripped
from mrbridge.progress import track
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

    Args:
        request: the model and the settings.
        root: the dataset.
        out: the dataset of derivatives.
        workers: see `mrbridge.parallel.map_scans`.

    Raises:
        InputError: there is nothing to translate.
        OutputError: the derivatives cannot be written there.
        SomeScansFailed, Interrupted: see `batch.translate_batch`.
    """
    check_derivatives(root, out)
    found, additional = _find(request, root, out)
    log_left_out(found.ignored, root)
    describe(root, out)
    return translate_batch(
        request,
        partial(_translate_item, request, root),
        [_item(request, scan, root, out, additional) for scan in found.scans],
        found.ignored,
        root,
        out,
        workers=workers,
        unreadable=list(unreadable_folders(root, NOT_RAW)),
        earlier=partial(_earlier, out / REPORT),
    )


def check_dataset(request: Request, root: Path, out: Path) -> list[tuple[Scan, str]]:
    """Check whether every scan has its translation, and write a table of it.

    Returns:
        Every scan and its state: `done`, `missing`, or how its translation differs from the one
        that the request would give.

    Raises:
        InputError: there is nothing to translate.
        OutputError: the table cannot be written.
    """
    check_derivatives(root, out)
    must_be_ours(out / TABLE)
    found, additional = _find(request, root, out)
    states: list[tuple[Scan, str]] = []
    rows = ["participant_id\tsession_id\tsource\toutput\tstate"]
    for scan in track(found.scans, "check", len(found.scans)):
        item = _item(request, scan, root, out, additional)
        output = item.output
        try:
            difference = _difference(output, _fingerprint(request, item))
        except InputError as error:
            difference = error.what
        state = "missing" if difference is None else difference or "done"
        states.append((scan, state))
        cells = (
            f"sub-{scan.subject}",
            f"ses-{scan.session}" if scan.session else "n/a",
            scan.path.relative_to(root).as_posix(),
            output.relative_to(out).as_posix(),
            state,
        )
        rows.append("\t".join(cells))
    write_text(out / TABLE, "\n".join(rows) + "\n")
    return states


Additional = dict[Path, tuple[AdditionalScan, ...]]
"""Other scans of the session of a scan."""


def _find(request: Request, root: Path, out: Path) -> tuple[FoundScans, Additional]:
    """The scans to translate, what is left out, and the other scans of their sessions.

    In each session, the scans of the first contrast of `Request.taken` that is there.

    Raises:
        InputError: there are none.
    """
    settings, to = request.settings, request.target_for(None)
    selection = select(settings.participants, settings.sessions, settings.bids_filter)
    taken = request.taken(to)
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
        everything.ignored + [(s.path, f"is {s.contrast}, not {_either(taken)}") for s in others],
    )
    if not found.scans:
        remedy = f"To make {taken[0]} from its {len(others)} {to} scans, use --to {taken[0]}."
        raise InputError(
            f"holds no {_either(taken)} scan to translate into {to}"
            f"{why_left_out(everything.ignored)}",
            path=root,
            remedy=remedy if others else "Name a BIDS dataset with scans of this contrast.",
        )
    chosen = selection.apply(found, root)
    if not chosen.scans:
        raise InputError(
            f"has no {_either(taken)} scan that fits the selection ({len(found.scans)} do not)",
            path=root,
            remedy="Check the participants, the sessions and the filter file.",
        )
    subjects = {scan.subject for scan in chosen.scans}
    for label in selection.participants:
        if label not in subjects:
            log.warning("sub-%s: has no %s scan that fits the selection", label, _either(taken))
    if settings.bids_filter is not None and not selection.queries.keys() & set(taken):
        log.warning(
            "%s: has no query '%s', so it leaves out nothing",
            settings.bids_filter,
            taken[0].lower(),
        )
    return _by_session(request, outside(prefer_raw(chosen), out), taken)


def _either(contrasts: Sequence[str]) -> str:
    return " or ".join(contrasts)


def _by_session(
    request: Request, found: FoundScans, taken: Sequence[str]
) -> tuple[FoundScans, Additional]:
    """The scans of the first contrast in each session, and the others that go with them."""
    sessions: dict[tuple[str | None, str | None], dict[str, list[Scan]]] = {}
    for scan in found.scans:
        session = sessions.setdefault((scan.subject, scan.session), {})
        session.setdefault(scan.contrast, []).append(scan)
    scans: list[Scan] = []
    ignored = list(found.ignored)
    additional: Additional = {}
    for session in sessions.values():
        first, *others = [contrast for contrast in taken if contrast in session]
        scans += session[first]
        used = tuple(
            AdditionalScan(session[contrast][0].path, contrast, is_needed=False)
            for contrast in request.combined((first, *others))[1:]
        )
        if used:
            additional |= {scan.path: used for scan in session[first]}
        left = {scan.path: scan for contrast in others for scan in session[contrast]}
        for one in used:
            left.pop(Path(str(one.path)))
        ignored += [(path, f"is {scan.contrast}, not {first}") for path, scan in left.items()]
    return FoundScans(scans, ignored), additional


def _item(request: Request, scan: Scan, root: Path, out: Path, additional: Additional) -> Item:
    to = request.target_for(None)
    folder = out / scan.path.relative_to(root).parent
    output = folder / output_name(request, scan.path, to)
    return Item(scan.path, output, to, additional=additional.get(scan.path, ()))


def _translate_item(request: Request, root: Path, item: Item) -> Translation:
    """Translate a scan, unless its translation is up to date."""
    bundle, path, output = request.translator.bundle, item.source, item.output
    check_not_taken(item)
    fingerprint = _fingerprint(request, item)
    difference = _difference(output, fingerprint)
    if difference == "" and request.settings.uncertainty and not uncertainty_path(output).exists():
        difference = None
    metadata = read_metadata(path, root)
    facts = _inherited(metadata)
    if bundle.manifest.standard.brain != "none":
        facts["SkullStripped"] = True  # whatever the source is
    digest = fingerprint["Source"]
    made = uncertainty_path(output) if request.settings.uncertainty else None
    result = Translation(
        path, output, item.contrast, bundle.hash, source_sha256=digest, uncertainty=made
    )
    if difference == "" and not request.settings.overwrite:
        _refresh(sidecar_path(output), facts)
        return replace(result, skipped=True, verdict=_recorded_verdict(sidecar_path(output)))
    is_foreign = difference == _NOT_OURS
    if is_foreign or (difference and not request.settings.overwrite):
        remedy = "Move it away, or name another place." if is_foreign else "Use --overwrite."
        raise OutputError(f"already exists, {difference}", path=output, remedy=remedy)
    must_be_ours(sidecar_path(output))
    scan = request.read(path)
    if metadata.get("SyntheticData") is True:
        scan = replace(scan, synthetic=True)
    synthesis = synthesise(request, scan, path, item.additional)

    def uri(file: Path) -> str:
        return f"bids:{LINK}:{file.relative_to(root).as_posix()}"

    sidecar = provenance(bundle, synthesis, uri(path), uri)
    sidecar |= facts
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

    write_synthesis(synthesis, output, with_fingerprint)
    report_verdict(synthesis, path)
    return replace(
        result,
        contrast=synthesis.contrast,
        rounding=synthesis.rounding,
        notes=scan.notes,
        verdict=synthesis.verdict,
        additional=synthesis.additional,
    )


def _inherited(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of the source's sidecar that hold for its translation."""
    facts = {key: metadata[key] for key in _INHERITED if metadata.get(key) is not None}
    if not isinstance(facts.get("SkullStripped"), bool):
        facts.pop("SkullStripped", None)  # the standard requires true or false
    return facts


def _recorded_verdict(sidecar: Path) -> Verdict | None:
    """The verdict in the sidecar of a translation that is kept; None if there is none."""
    try:
        entry = read_json(sidecar, lambda _: None)["InputCheck"]
        return Verdict(entry["Level"], tuple(map(str, entry["Reasons"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refresh(sidecar: Path, facts: dict[str, Any]) -> None:
    """Update a sidecar with what the sidecar of its source says now."""
    content = read_json(sidecar, lambda _: None)  # NaN and infinity become null
    if {**content, **facts} != content:
        write_json(sidecar, {**content, **facts})


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
    """All that decides over the voxels of a translation.

    Raises:
        InputError: the scan cannot be read.
    """
    translator, settings = request.translator, request.settings
    bundle, match = translator.bundle, request.match
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
