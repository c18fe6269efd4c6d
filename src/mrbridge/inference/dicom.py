"""Translating a DICOM series: chosen by contrast or by name, back as a derived series or NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.errors import InputError, OutputError
from mrbridge.inference.job import Job, Translation, check, note, provenance, sidecar
from mrbridge.io import FORMATS, write
from mrbridge.io.dicom import (
    DicomHeader,
    Listing,
    Origin,
    choose_series,
    find_series,
    must_be_ours,
    read_series,
    write_series,
)
from mrbridge.io.safety import suffix_of, write_json
from mrbridge.volume import Volume


def translate_dicom(
    job: Job, path: Path, out: Path, *, series: str | None, allow_gaps: bool, form: str | None
) -> Translation:
    """Translate one series of a folder, a zip or a file.

    Args:
        job: model and wishes.
        path: what holds the series.
        out: the folder of the derived series; for NIfTI a file, or a folder.
        series: which one, by number or UID; None chooses by contrast.
        allow_gaps: fill missing slices by interpolation.
        form: `dicom` or `nifti`; None takes NIfTI where `out` is named so, else DICOM.

    Raises:
        InputError: no series fits or several do, or it cannot be used.
        OutputError: the output cannot be written there.
    """
    form = _form(form, out)
    if job.volume is not None or job.assume is not None:
        raise InputError("is DICOM", path=path, remedy="Leave --volume and --assume.")
    if form == "dicom":
        _refuse_place(path, out)
    listing = find_series(path)
    chosen = choose_series(listing, _wanted(job), series)
    scan = read_series(chosen, allow_gaps=allow_gaps)
    to = check(job, scan, path)
    made = job.translator.translate(scan, to, match=job.match)
    report = _report(job, scan, to, listing)
    if form == "dicom":
        origin = Origin(to, "mrbridge", __version__, job.translator.bundle.hash)
        write_series(made, out, origin, report)
        return Translation(path, out, to, job.translator.bundle.hash)
    if FORMATS.get(suffix_of(out)) != "nifti":
        out = out / f"series-{chosen.label.replace(':', '-')}_desc-synth_{to}.nii.gz"
    write(made, out, synthetic_note=note(to))
    source = f"urn:oid:{chosen.uid}"
    write_json(sidecar(out), provenance(job, source, to) | {"Source": report["series"]})
    return Translation(path, out, to, job.translator.bundle.hash)


def _form(form: str | None, out: Path) -> str:
    nifti = FORMATS.get(suffix_of(out)) == "nifti"
    if form is None:
        return "nifti" if nifti else "dicom"
    if form == "dicom" and nifti:
        raise OutputError("is the name of a NIfTI file", path=out, remedy="Name a folder.")
    return form


def _refuse_place(path: Path, out: Path) -> None:
    """Refuse a folder that would be taken for the source's, or whose files would be lost."""
    source, place = path.resolve(), out.resolve()
    if place == source or (source.is_dir() and source in place.parents) or place in source.parents:
        raise OutputError(
            "lies in the folder of the source, or around it", path=out, remedy="Name another."
        )
    if FORMATS.get(suffix_of(out)) == "picture":
        raise OutputError("is the name of a picture", path=out, remedy="Name a folder.")
    must_be_ours(out)


def _wanted(job: Job) -> list[str]:
    """The contrasts that can be made into what is wanted, the likeliest first."""
    source, target = job.translator.bundle.source, job.translator.bundle.target
    if job.to is None:
        return [source, target]
    return [target if job.to == source else source]


def _report(job: Job, scan: Volume, to: str, listing: Listing) -> dict[str, Any]:
    """What was done. File names and UIDs only: folders are often called after the patient."""
    header = scan.header
    assert isinstance(header, DicomHeader)
    series = header.series
    return {
        "synthetic": True,
        "note": f"Synthetic {to}, for research, not for diagnosis.",
        "created_by": f"mrbridge {__version__}",
        "model": job.translator.bundle.hash,
        "contrast": to,
        "series": {
            "uid": series.uid,
            "number": series.number,
            "contrast": scan.contrast,
            "contrast_reason": series.contrast_reason,
            "slices": len(series.slices),
            "echoes": len(series.echoes),
            "interpolated_mm": [round(header.geometry.positions[n], 3) for n in header.filled],
            "notes": list(scan.notes),
        },
        "not_translated": [
            {"series": other.uid, "number": other.number, "kind": other.kind}
            for other in listing.series
            if other is not series
        ],
        "ignored": [{"file": path.name, "reason": reason} for path, reason in listing.ignored],
    }
