"""The scans of a DICOM folder as preparation takes them: one a series, subjects by pseudonym."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from mrbridge.io.dicom.choose import choose_series
from mrbridge.io.dicom.files import calm, nameless
from mrbridge.io.dicom.series import Listing, Series, find_series
from mrbridge.io.scans import FoundScans, Scan


def find_scans(
    root: Path, wanted: str | None, *, allow_gaps: bool = False, force: bool = False
) -> FoundScans:
    """The series of a folder or zip, of any number of patients, that are whole.

    Args:
        root: the folder or zip.
        wanted: the contrast of all of them; None takes that of each series' header.
        allow_gaps: also those that lack slices.
        force: with `wanted`, also series that are known to be something else.

    Returns:
        Scans whose `series` is a SeriesInstanceUID. Subject and session are hashes of the patient's
        and the study's identifier: equal for one patient, without a name in it. Their `files` are
        those of the series and the damaged ones next to them, each of which may be a slice of it.
        What is ignored has no file's name: manifests keep it, and it may name the patient.

    Raises:
        InputError: the zip cannot be opened.
    """
    with nameless(root):
        listing = find_series(root)
    reasons = [reason for _, reason in listing.ignored] + [one.what for one in listing.damaged]
    found = FoundScans([], [(root / "a file", reason) for reason in reasons])
    suspects = _suspects(listing)
    plain = {
        (series.study, series.contrast)
        for series in listing.series
        if series.is_image and not series.identity.is_doubtful
    }
    for series in listing.series:
        contrast = wanted or series.contrast
        forced = force and wanted is not None and series.refusal is None and not series.gaps
        whole = series.why_not is None or (allow_gaps and series.is_image and series.gaps > 0)
        reason = series.why_not
        if contrast is None:
            reason = reason or f"has an unknown contrast: {series.contrast_reason}"
        elif wanted is None and series.identity.is_doubtful and (series.study, contrast) in plain:
            whole, reason = (
                False,
                f"is less certain than a plain {contrast}: {series.contrast_reason}",
            )
        if contrast is None or not (whole or forced):
            found.ignored.append((root / _name(series), reason or ""))
            continue
        study = _pseudonym(series.study)
        patient = series.slices[0].text("PatientID")
        subject = _pseudonym(f"patient {patient}" if patient else series.study)
        found.scans.append(
            Scan(
                *(root, subject, study, contrast, _name(series)),
                series=series.selector,
                files=_files(series, root, suspects),
            )
        )
    return found


def _files(series: Series, root: Path, suspects: dict[Path | None, set[str]]) -> tuple[str, ...]:
    """Names of the files that hold a series, or may."""
    held = {part.file for echo in series.echoes for part in echo}
    folders = {file.shown.parent for file in held}
    maybe = {name for folder in (*folders, None) for name in suspects.get(folder, ())}
    return tuple(sorted(maybe | {file.below(root) for file in held}))


def _suspects(listing: Listing) -> dict[Path | None, set[str]]:
    """Damaged files, each a slice of an unknown series, by the folder that shows whose:
    their own; None, which means any, where no series has a file in it."""
    root = listing.path
    folders = {
        part.file.shown.parent
        for series in listing.series
        for echo in series.echoes
        for part in echo
    }
    suspects: dict[Path | None, set[str]] = defaultdict(set)
    for error in listing.damaged:
        path = error.path or root
        suspects[path.parent if path.parent in folders else None].add(
            path.relative_to(root).as_posix()
        )
    return suspects


@calm()
def series_sha256(root: Path, selector: str, files: Collection[str] = ()) -> str:
    """The SHA-256 of a series: of its files' bytes, in the order of their UIDs.

    Args:
        root: the folder or zip.
        selector: of the series.
        files: in it, those of the series; none looks through all.

    Raises:
        InputError: there is no such series, or it cannot be read.
    """
    with nameless(root):
        series = choose_series(find_series(root, files), None, selector, force=True)
    digest = hashlib.sha256()
    parts = {part.file: part.uid for echo in series.echoes for part in echo}
    for file in sorted(parts, key=lambda file: (parts[file], file.below(root))):
        with file.open() as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _name(series: Series) -> str:
    return f"series-{series.label.replace(':', '-')}"


def _pseudonym(name: str) -> str:
    return hashlib.sha256(f"mrbridge {name}".encode()).hexdigest()[:12]
