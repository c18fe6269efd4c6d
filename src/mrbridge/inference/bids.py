"""A BIDS dataset in, its derivatives out; what is up to date is kept."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError, OutputError
from mrbridge.inference.batch import (
    REPORT,
    Item,
    States,
    check_not_taken,
    translate_batch,
    with_taken,
)
from mrbridge.inference.derivatives import LINK, check_derivatives, describe
from mrbridge.inference.output import (
    Translation,
    Translations,
    provenance,
    sidecar_path,
    write_synthesis,
)
from mrbridge.inference.synthesis import Request, synthesise
from mrbridge.io import read
from mrbridge.io.atomic import read_json, sha256_of, write_json, write_text
from mrbridge.io.bids import NOT_RAW, find_scans
from mrbridge.io.bids_name import derivative_name, parse_name
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
from mrbridge.preprocessing.foreground import foreground_mask, has_surroundings
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.progress import track
from mrbridge.volume import Volume

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

_LITRES = 0.7, 2.2
"""The brain of the ICBM 152 template, larger than most, has 1.9 litres with its fluid. Measured in
the same way, heads of open-ms-raw have 2.4 to 2.9, skull-stripped brains of open-ms-mni 1.1."""

_EXTENT_MM = 115.0, 200.0
"""The shortest and the longest extent along any axis. Brains of open-ms-mni measure 118 to 159, the
template's 144 to 180; a head of open-ms-raw that is truncated to 114 still has 2.4 litres."""


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
    found = _find(request, root, out)
    log_left_out(found.ignored, root)
    describe(root, out)
    return translate_batch(
        request,
        partial(_translate_item, request, root),
        with_taken(_item(request, scan, root, out) for scan in found.scans),
        found,
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
    found = _find(request, root, out)
    states: list[tuple[Scan, str]] = []
    rows = ["participant_id\tsession_id\tsource\toutput\tstate"]
    for scan in track(found.scans, "check", len(found.scans)):
        output = _item(request, scan, root, out).output
        try:
            difference = _difference(output, _fingerprint(request, scan.path))
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


def _contrasts(request: Request) -> tuple[str, str]:
    """The contrasts that are taken and synthesised."""
    bundle = request.translator.bundle
    source, target = bundle.source, bundle.target
    return (source, target) if request.settings.to in (None, target) else (target, source)


def _find(request: Request, root: Path, out: Path) -> FoundScans:
    """The scans to translate, and what is left out.

    Raises:
        InputError: there are none.
    """
    settings = request.settings
    selection = select(settings.participants, settings.sessions, settings.bids_filter)
    taken, made = _contrasts(request)
    everything = find_scans(
        root,
        taken,
        made,
        datatypes=selection.datatypes(taken),
        raw_first=False,
        force=settings.force,
    )
    others = [scan for scan in everything.scans if scan.contrast != taken]
    found = FoundScans(
        [scan for scan in everything.scans if scan.contrast == taken],
        everything.ignored + [(s.path, f"is {s.contrast}, not {taken}") for s in others],
    )
    if not found.scans:
        remedy = f"To make {taken} from its {len(others)} {made} scans, use --to {taken}."
        raise InputError(
            f"holds no {taken} scan to make {made} from{why_left_out(everything.ignored)}",
            path=root,
            remedy=remedy if others else "Name a BIDS dataset with scans of this contrast.",
        )
    chosen = selection.apply(found, root)
    if not chosen.scans:
        raise InputError(
            f"has no {taken} scan that fits what was asked for ({len(found.scans)} do not)",
            path=root,
            remedy="Check the participants, the sessions and the filter file.",
        )
    subjects = {scan.subject for scan in chosen.scans}
    for label in selection.participants:
        if label not in subjects:
            log.warning("sub-%s: has no %s scan that fits what was asked for", label, taken)
    if selection.origin is not None and taken not in selection.queries:
        log.warning(
            "%s: has no query '%s', so it leaves out nothing", selection.origin, taken.lower()
        )
    return outside(prefer_raw(chosen), out)


def _item(request: Request, scan: Scan, root: Path, out: Path) -> Item:
    name = parse_name(scan.path)
    assert name is not None  # `find_scans` takes no other names
    to = _contrasts(request)[1]
    folder = out / scan.path.relative_to(root).parent
    return Item(scan.path, folder / derivative_name(name, to), to)


def _translate_item(request: Request, root: Path, item: Item) -> Translation:
    """Translate a scan, unless its translation is up to date."""
    bundle, path, output = request.translator.bundle, item.source, item.output
    check_not_taken(item)
    fingerprint = _fingerprint(request, path)
    difference = _difference(output, fingerprint)
    metadata = read_metadata(path, root)
    facts = _inherited(metadata)
    if bundle.manifest.standard.brain != "none":
        facts["SkullStripped"] = True  # whatever the source is
    digest = fingerprint["Source"]
    if difference == "" and not request.settings.overwrite:
        _refresh(sidecar_path(output), facts)
        return Translation(
            path, output, item.contrast, bundle.hash, skipped=True, source_sha256=digest
        )
    if difference == _NOT_OURS:
        raise OutputError(
            f"is there already, {difference}",
            path=output,
            remedy="Move it away, or name another place.",
        )
    if difference and not request.settings.overwrite:
        raise OutputError(
            f"is there already, {difference}", path=output, remedy="Replace it with --overwrite."
        )
    must_be_ours(sidecar_path(output))
    scan = read(path, volume=request.settings.volume, assume=request.settings.assume)
    if metadata.get("SyntheticData") is True:
        scan = replace(scan, synthetic=True)
    synthesis = synthesise(request, scan, path)
    sidecar = provenance(bundle, synthesis, f"bids:{LINK}:{path.relative_to(root).as_posix()}")
    sidecar |= facts
    if "SkullStripped" not in sidecar and (measured := skull_stripped(scan)) is not None:
        sidecar["SkullStripped"] = measured
    if "SkullStripped" not in sidecar:
        log.warning(
            "%s: nothing says whether the skull was removed, which BIDS requires of derivatives. "
            'State it, as in T1w.json: {"SkullStripped": true}, and run this again',
            path.name,
        )

    def with_fingerprint(image: Path) -> dict[str, Any]:
        return sidecar | {"Fingerprint": fingerprint | {"SHA256": sha256_of(image)}}

    write_synthesis(synthesis, output, with_fingerprint)
    return Translation(
        path,
        output,
        synthesis.contrast,
        bundle.hash,
        rounding=synthesis.rounding,
        notes=scan.notes,
        source_sha256=digest,
    )


def _inherited(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of the source's sidecar that hold for its translation."""
    facts = {key: metadata[key] for key in _INHERITED if metadata.get(key) is not None}
    if not isinstance(facts.get("SkullStripped"), bool):
        facts.pop("SkullStripped", None)  # the standard wants true or false
    return facts


def _refresh(sidecar: Path, facts: dict[str, Any]) -> None:
    """Update a sidecar with what the sidecar of its source says now."""
    content = read_json(sidecar, _null)
    if {**content, **facts} != content:
        write_json(sidecar, {**content, **facts})


def _null(constant: str) -> None:
    """The replacement of NaN and infinity, which JSON does not have."""


def _earlier(report: Path) -> States:
    """The entries of an earlier run's report; none if it cannot be read."""
    try:
        content = read_json(report, _null)
        return {
            state: [entry for entry in content[state] if isinstance(entry, dict)]
            for state in ("done", "skipped", "failed")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _fingerprint(request: Request, scan: Path) -> dict[str, Any]:
    """All that decides over the voxels of a translation.

    Raises:
        InputError: the scan cannot be read.
    """
    translator, settings = request.translator, request.settings
    bundle, match = translator.bundle, request.match
    options = {
        "Planes": None if translator.planes == bundle.manifest.planes else translator.planes,
        "NumberType": None if settings.dtype == "float32" else settings.dtype,
        "Match": None if match is None else hashlib.sha256(match.voxels.tobytes()).hexdigest(),
        "Volume": settings.volume,
        "Assume": settings.assume,
    }
    return {
        "Source": sha256_of(scan),
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
        return "and was changed since it was made" if is_ours(output) else _NOT_OURS
    names = {"Source": "of another source file", "Model": "by another model"}
    for key, value in fingerprint.items():
        if recorded.get(key) != value:
            return names.get(key, "with other options")
    return ""


def skull_stripped(scan: Volume) -> bool | None:
    """Whether the skull was removed; None if the image does not show it.

    Noise in the air, or more volume than any brain has, show that it was not. Zero all around, the
    volume of a brain and the extent of a brain along each axis show that it was: a head of that
    extent is larger, and a part of a head with that volume is flatter.
    """
    slices, grid = to_slices(scan, None)
    shown = foreground_mask(slices)
    spacing = grid.spacing or (0.0, 0.0, 0.0)
    litres = np.count_nonzero(shown) * math.prod(spacing) / 1e6
    if litres > _LITRES[1] or has_surroundings(slices, shown):
        return False
    extent = [
        np.ptp(np.flatnonzero(shown.any(axis=others))) * step if shown.any() else 0.0
        for others, step in zip(((1, 2), (0, 2), (0, 1)), spacing, strict=True)
    ]
    is_a_brain = litres > _LITRES[0] and min(extent) > _EXTENT_MM[0] and max(extent) < _EXTENT_MM[1]
    return True if is_a_brain else None
