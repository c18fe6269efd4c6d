"""A DICOM series in, chosen by contrast or number; a derived series or NIfTI out."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.errors import InputError, OutputError
from mrbridge.inference.output import Translation, provenance, write_synthesis
from mrbridge.inference.synthesis import Request, synthesise
from mrbridge.io import FORMATS, ownership
from mrbridge.io.atomic import sha256_of, sidecar_path, suffix_of
from mrbridge.io.dicom import (
    PARAMETRIC_MAP,
    Listing,
    Origin,
    Series,
    choose_series,
    find_series,
    must_be_ours,
    nameless,
    read_series,
    write_series,
)
from mrbridge.volume import Volume

log = logging.getLogger(__name__)
_MOST_LINES = 10  # about what is left out, on the terminal


def translate_series(request: Request, path: Path, out: Path) -> Translation:
    """Translate one series of a folder, a zip or a file into the folder of the derived series; for
    NIfTI into a file, or a folder. InputError if no series fits, several do, or it cannot be used;
    OutputError if the output cannot be written there."""
    settings = request.settings
    if settings.volume is not None or settings.assume is not None:
        raise InputError("is DICOM", path=path, remedy="Leave out --volume and --assume.")
    form = _form(settings.form, out)
    if form == "dicom" and request.grid is not None:
        raise OutputError(
            "a derived DICOM series has the slices of its source: positions, frame of reference "
            "and references to its images would not hold on another grid",
            path=out,
            remedy="Use --as nifti, or leave out --spacing and --grid.",
        )
    _check_place(path, out, form)
    bundle, to = request.bundle, settings.to
    wanted = bundle.contrasts if to is None else bundle.preferred(to)  # the likeliest first
    with nameless(path):
        listing = find_series(path)
        chosen = choose_series(listing, wanted, settings.series, force=settings.force)
        source = f"urn:oid:{chosen.uid}"
        if form == "dicom" and not settings.overwrite:
            must_be_ours(out, source)
        scan = read_series(chosen, allow_gaps=settings.allow_gaps)
    synthesis = synthesise(request, scan, path)
    sidecar = provenance(request, synthesis, source, lambda file: f"sha256:{sha256_of(file)}")
    series, left_out = _series_entry(chosen, scan), _left_out(listing, chosen)
    for line in _lines(left_out):
        log.info("left out: %s", line)
    if form == "nifti":
        if not _is_nifti(out):
            name = f"series-{chosen.label.replace(':', '-')}_desc-synth_{synthesis.contrast}.nii.gz"
            out = out / name
        sidecar |= {"SourceSeries": series, "LeftOut": left_out}
        return write_synthesis(request, synthesis, path, out, lambda image: sidecar)
    origin = Origin(
        synthesis.contrast, "mrbridge", __version__, request.bundle.hash, synthesis.verdict.level
    )
    report = sidecar | {"series": series} | left_out
    write_series(synthesis.volume, out, origin, report, synthesis.uncertainty)
    made = None if synthesis.uncertainty is None else out / PARAMETRIC_MAP
    return Translation.of(request, synthesis, path, out, made)


def _form(form: str | None, out: Path) -> str:
    nifti = _is_nifti(out)
    if form is None:
        return "nifti" if nifti else "dicom"
    if form == "dicom" and nifti:
        raise OutputError("is the name of a NIfTI file", path=out, remedy="Name a folder.")
    return form


def _is_nifti(out: Path) -> bool:
    return FORMATS.get(suffix_of(out)) == "nifti"


def _check_place(path: Path, out: Path, form: str) -> None:
    """Refuse a place where the result would mix with the source, or replace other files:
    OutputError."""
    source, place = path.resolve(), out.resolve()
    inside = place == source or (source.is_dir() and source in place.parents)
    if form == "nifti":
        if inside:  # readers of that folder would find a file that is not DICOM
            raise OutputError("is in the folder of the source", path=out, remedy="Name another.")
        if _is_nifti(out):
            ownership.must_be_ours(out)
            ownership.must_be_ours(sidecar_path(out))
        return
    if inside or place in source.parents:
        raise OutputError(
            "is in the folder of the source, or contains it", path=out, remedy="Name another."
        )
    if suffix_of(out) in (".dcm", ".zip", *FORMATS):
        raise OutputError(
            "is the name of a file; a derived series has many", path=out, remedy="Name a folder."
        )
    must_be_ours(out)


def _series_entry(series: Series, scan: Volume) -> dict[str, Any]:
    """The series that was translated. By UID only: folders often bear the name of the patient."""
    return {
        "uid": series.uid,
        "number": series.number,
        "contrast": scan.contrast,
        "contrast_reason": series.identity.reason,
        "slices": len(series.slices),
        "echoes": len(series.echoes),
        "interpolated_mm": [round(series.stack.positions[n], 3) for n in series.stack.missing],
        "notes": list(scan.notes),
    }


def _left_out(listing: Listing, chosen: Series) -> dict[str, Any]:
    """What was not translated. Files are counted: their names may be those of patients."""
    reasons = Counter(reason for _, reason in listing.ignored)

    def why_not(series: Series) -> str:
        if series.identity.is_other or series.refusal is not None:
            return series.what_is_wrong  # without the remedy
        return series.why_not or "not chosen"

    return {
        "not_translated": [
            {
                "uid": other.uid,
                "number": other.number,
                "part": other.part,
                "kind": other.kind,
                "contrast": other.contrast,
                "reason": why_not(other),
            }
            for other in listing.series
            if other is not chosen
        ],
        "ignored": [{"files": count, "reason": reason} for reason, count in reasons.items()],
    }


def _lines(left_out: dict[str, Any]) -> list[str]:
    """What was not translated, one line each."""
    lines = []
    for other in left_out["not_translated"]:
        part = "" if other["part"] is None else f":{other['part']}"
        label = other["uid"] if other["number"] is None else other["number"]
        anatomical = other["kind"] == "anatomical" and other["contrast"]
        kind = other["contrast"] if anatomical else other["kind"]
        lines.append(f"series {label}{part} ({kind}): {other['reason']}")
    for item in left_out["ignored"]:
        lines.append(f"{item['files']} file{'s' * (item['files'] > 1)}: {item['reason']}")
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"{more} more (see the report)"]
