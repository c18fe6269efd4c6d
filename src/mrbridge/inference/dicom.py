"""Translating a DICOM series: chosen by contrast or by name, back as a derived series or NIfTI."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.bundle import Bundle
from mrbridge.errors import OutputError
from mrbridge.inference.outputs import write_synthesis
from mrbridge.inference.synthesis import Synthesis, provenance, sidecar_path
from mrbridge.io import FORMATS, ownership
from mrbridge.io.dicom import (
    DicomHeader,
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
from mrbridge.io.safety import suffix_of
from mrbridge.volume import Volume

log = logging.getLogger(__name__)
_MOST_LINES = 10  # of what is left out, on the terminal


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        path: what holds the series: a folder, a zip or a file.
        out: the folder of the derived series; for NIfTI a file, or a folder.
        bundle: the model.
        to: the contrast to make, None makes what the model can.
        series: which one, by number or UID; None chooses by contrast.
        allow_gaps: fill missing slices by interpolation.
        form: `dicom` or `nifti`; None takes NIfTI where `out` is named so, else DICOM.
        force: also a series that is known to be something else than an anatomical scan.
        overwrite: replace an earlier derived series also where it was made of another one.
    """

    path: Path
    out: Path
    bundle: Bundle
    to: str | None
    series: str | None
    allow_gaps: bool
    form: str | None
    force: bool = False
    overwrite: bool = False


def translate_series(plan: Plan, make: Callable[[Volume], Synthesis]) -> tuple[Path, str]:
    """Translate one series of a folder, a zip or a file.

    Args:
        plan: what is to be done.
        make: translates a scan, or refuses it.

    Returns:
        The folder or file that was written, and the contrast that was made.

    Raises:
        InputError: no series fits or several do, or it cannot be used.
        OutputError: the output cannot be written there.
    """
    form = _form(plan.form, plan.out)
    _refuse_place(plan.path, plan.out, form)
    with nameless(plan.path):
        listing = find_series(plan.path)
        chosen = choose_series(listing, _wanted(plan), plan.series, force=plan.force)
        source = f"urn:oid:{chosen.uid}"
        if form == "dicom" and not plan.overwrite:
            must_be_ours(plan.out, source)
        scan = read_series(chosen, allow_gaps=plan.allow_gaps)
    synthesis = make(scan)
    to = synthesis.contrast
    told = provenance(plan.bundle, synthesis, source)
    series, left_out = _told_of(synthesis.source), _left_out(listing, chosen)
    for line in _in_words(left_out):
        log.info("left out: %s", line)
    if form == "dicom":
        origin = Origin(to, "mrbridge", __version__, plan.bundle.hash)
        report = told | {"series": series} | left_out
        write_series(synthesis.made, plan.out, origin, report)
        return plan.out, to
    out = plan.out
    if not _is_nifti(out):
        out = out / f"series-{chosen.label.replace(':', '-')}_desc-synth_{to}.nii.gz"
    write_synthesis(synthesis, out, lambda: told | {"SourceSeries": series, "LeftOut": left_out})
    return out, to


def _form(form: str | None, out: Path) -> str:
    nifti = _is_nifti(out)
    if form is None:
        return "nifti" if nifti else "dicom"
    if form == "dicom" and nifti:
        raise OutputError("is the name of a NIfTI file", path=out, remedy="Name a folder.")
    return form


def _is_nifti(out: Path) -> bool:
    return FORMATS.get(suffix_of(out)) == "nifti"


def _refuse_place(path: Path, out: Path, form: str) -> None:
    """Refuse what would be taken for the source's, or whose files would be lost."""
    source, place = path.resolve(), out.resolve()
    inside = place == source or (source.is_dir() and source in place.parents)
    if form == "nifti":
        if inside:  # it would be no folder of DICOM files any more
            raise OutputError("lies in the folder of the source", path=out, remedy="Name another.")
        if _is_nifti(out):
            ownership.must_be_ours(out)
            ownership.must_be_ours(sidecar_path(out))
        return
    if inside or place in source.parents:
        raise OutputError(
            "lies in the folder of the source, or around it", path=out, remedy="Name another."
        )
    if suffix_of(out) in (".dcm", ".zip", *FORMATS):
        raise OutputError(
            "is the name of a file; a derived series has many", path=out, remedy="Name a folder."
        )
    must_be_ours(out)


def _wanted(plan: Plan) -> list[str]:
    """The contrasts that can be made into what is wanted, the likeliest first."""
    source, target = plan.bundle.source, plan.bundle.target
    if plan.to is None:
        return [source, target]
    return [target if plan.to == source else source]


def _told_of(scan: Volume) -> dict[str, Any]:
    """What was translated. UIDs only: folders are often called after the patient."""
    header = scan.header
    assert isinstance(header, DicomHeader)
    series = header.series
    return {
        "uid": series.uid,
        "number": series.number,
        "contrast": scan.contrast,
        "contrast_reason": series.contrast_reason,
        "slices": len(series.slices),
        "echoes": len(series.echoes),
        "interpolated_mm": [round(header.geometry.positions[n], 3) for n in header.filled],
        "notes": list(scan.notes),
    }


def _why_not(series: Series) -> str:
    """Why a series was not translated, without the remedy."""
    if series.identity.is_other or series.refusal is not None:
        return series.what_is_wrong
    return series.why_not or "not chosen"


def _left_out(listing: Listing, chosen: Series) -> dict[str, Any]:
    """What was not translated; files are counted: their names may be patients' names."""
    reasons = Counter(reason for _, reason in listing.ignored)
    return {
        "not_translated": [
            {
                "uid": other.uid,
                "number": other.number,
                "part": other.part,
                "kind": other.kind,
                "contrast": other.contrast,
                "reason": _why_not(other),
            }
            for other in listing.series
            if other is not chosen
        ],
        "ignored": [{"files": count, "reason": reason} for reason, count in reasons.items()],
    }


def _in_words(left_out: dict[str, Any]) -> list[str]:
    """What was not translated, a line each."""
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
