"""Which series of a study to use: one to read, or all for a prepared dataset."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from mrbridge.errors import InputError, warn
from mrbridge.io.dicom.files import calm, nameless
from mrbridge.io.dicom.series import UNREADABLE, Listing, Series, find_series
from mrbridge.io.scans import FoundScans, Scan, why_left_out
from mrbridge.reports import counted

# What programs that remove names write as PatientID, in small letters and digits only.
_PLACEHOLDER = re.compile(
    r"0+|x+|na|nil|none|null|unknown|removed|redacted|default|noid|test|patient|subject|"
    r"(?:patient|subject|id)?(?:anon|anonym|anonymous|anonymi[sz]ed?|anonymisiert|deid|"
    r"deidentified)(?:patient|subject|id)?"
)


def choose_series(
    listing: Listing,
    contrasts: Sequence[str] | None,
    named: str | None = None,
    *,
    force: bool = False,
) -> Series:
    """Choose the series to read.

    A series that is known to be something else is never chosen. One whose description contradicts
    its timing is chosen only where no plain one fits, and one of unknown contrast only where
    nothing else does.

    Args:
        contrasts: those that are wanted, the first that there is wins; None takes any.
        named: a SeriesNumber, `number:echo`, or SeriesInstanceUID, which decides instead.
        force: also take a series known to be something else, if it is named or the only one.

    Raises:
        InputError: none or several fit, the one that is named cannot be read or is something else,
            or a file is damaged that might be a slice of it.
    """
    if listing.damaged:
        raise listing.damaged[0]
    if named is not None:
        return _named(listing, named, force=force)
    for what, fitting in _pools(listing, contrasts, force=force):
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InputError(
                f"holds {len(fitting)} {what}: {_in_words(fitting)}",
                path=listing.path,
                remedy=f"Choose one with --series (of translate), as in --series "
                f"{fitting[0].label}, or put it into a folder of its own.",
            )
    for one in listing.series:
        if one.refusal and one.refusal.path and one.contrast in (contrasts or (one.contrast,)):
            raise _as_error(one, listing.path)
    if not listing.series:
        raise InputError(
            f"holds no DICOM series{why_left_out(listing.ignored)}",
            path=listing.path,
            remedy="Name the folder of a study.",
        )
    wanted = f"{' or '.join(contrasts)} series" if contrasts else "series"
    raise InputError(
        f"holds no {wanted} that can be used: {_in_words(listing.series, why=True)}",
        path=listing.path,
        remedy="Choose one with --series, or see mrbridge inspect.",
    )


def _pools(
    listing: Listing, contrasts: Sequence[str] | None, *, force: bool
) -> Iterator[tuple[str, list[Series]]]:
    """The series that may be chosen, the best first, each group with its name for messages."""
    images = [one for one in listing.series if one.is_image]
    acquired = [one for one in images if not one.synthetic]
    for pool in (acquired, images):
        if contrasts is None:
            yield "series", pool
            continue
        for doubtful, contrast in product((False, True), contrasts):
            alike = [one for one in pool if one.contrast == contrast]
            fitting = [one for one in alike if one.identity.is_doubtful == doubtful]
            yield f"series of {contrast}", fitting
    yield "series of unknown contrast", [one for one in images if one.identity.is_unknown]
    if force:
        yield "series", [one for one in listing.series if one.refusal is None]


def _named(listing: Listing, named: str, *, force: bool) -> Series:
    fitting = [one for one in listing.series if named in (one.label, one.uid, one.selector)]
    # The number without an echo means all echoes of a series.
    fitting = fitting or [one for one in listing.series if named == str(one.number)]
    if len(fitting) > 1:  # magnitude and phase images of one series bear one number
        fitting = [one for one in fitting if one.is_image] or fitting
    if len(fitting) > 1:
        candidates = ", ".join(f"{one.label} of {one.uid}" for one in fitting)
        raise InputError(
            f"holds {len(fitting)} series that '{named}' may mean: {candidates}",
            path=listing.path,
            remedy="Name one by number and echo, or by its UID.",
        )
    if not fitting:
        raise InputError(
            f"holds no series '{named}'; there are: {_in_words(listing.series) or 'none'}",
            path=listing.path,
            remedy="Choose one of them.",
        )
    identity = fitting[0].identity
    if identity.is_other and identity.kind not in UNREADABLE and not force:
        raise InputError(
            f"series {fitting[0].label} {identity.reason}",
            path=listing.path,
            remedy="Choose another series, or use --force.",
        )
    if fitting[0].refusal is not None:
        raise _as_error(fitting[0], listing.path)
    return fitting[0]


def _as_error(series: Series, path: Path) -> InputError:
    """The refusal of a series, with the faulty file or the folder."""
    refusal = series.refusal
    assert refusal is not None
    what = f"series {series.label}: {refusal.what}"
    return InputError(what, path=refusal.path or path, remedy=refusal.remedy)


def _in_words(series: Iterable[Series], *, why: bool = False) -> str:
    return "; ".join(one.words + (f": {one.what_is_wrong}" if why else "") for one in series)


def find_scans(
    root: Path, wanted: str | None, *, allow_gaps: bool = False, force: bool = False
) -> FoundScans:
    """The complete series of a folder or zip, of any number of patients.

    Args:
        wanted: the contrast of all of them; None takes that of each series' header.
        allow_gaps: also those that lack slices.
        force: with `wanted`, also series that are known to be something else.

    Returns:
        Scans whose `series` is a SeriesInstanceUID. Subject and session are hashes of the patient's
        and the study's identifier: equal for one patient, without a name in it. Without PatientID,
        or with a placeholder such as ANONYMOUS, each study is a subject of its own, with a warning
        if there are several. Their `files` are those of the series and the damaged ones next to
        them, each of which may be a slice of it. What is ignored has no file's name: manifests keep
        it, and it may name the patient.
    """
    with nameless(root):
        listing = find_series(root)
    reasons = [reason for _, reason in listing.ignored] + [one.what for one in listing.damaged]
    found = FoundScans([], [(root / "a file", reason) for reason in reasons])
    suspects = _suspects(listing)
    certain = {
        (series.study, series.contrast)
        for series in listing.series
        if series.is_image and not series.identity.is_doubtful
    }

    def why_not(series: Series, contrast: str | None) -> str | None:
        if contrast is None:
            return series.why_not or f"has an unknown contrast: {series.identity.reason}"
        if wanted is None and series.identity.is_doubtful and (series.study, contrast) in certain:
            return f"is less certain than a plain {contrast}: {series.identity.reason}"
        has_filled_gaps = allow_gaps and series.is_image and series.gaps > 0
        is_forced = force and wanted is not None and series.refusal is None and not series.gaps
        return None if has_filled_gaps or is_forced else series.why_not

    used: list[Series] = []
    for series in listing.series:
        contrast = wanted or series.contrast
        reason = why_not(series, contrast)
        if contrast is None or reason is not None:
            found.ignored.append((root / _name_of(series), reason or ""))
            continue
        used.append(series)
        patient = _patient_id(series)
        found.scans.append(
            Scan(
                root,
                subject=_pseudonym(f"patient {patient}" if patient else series.study),
                session=_pseudonym(series.study),
                contrast=contrast,
                name=_name_of(series),
                series=series.selector,
                files=_files(series, root, suspects),
            )
        )
    _warn_of_patients(used)
    return found


def _patient_id(series: Series) -> str:
    """The PatientID of a series in small letters; empty if it is absent or a placeholder."""
    first = series.slices[0]
    known = first.patient.get("PatientID", "")
    return "" if _PLACEHOLDER.fullmatch(known) else first.text("PatientID").casefold()


def _warn_of_patients(used: Sequence[Series]) -> None:
    """Warn if it is not certain which studies are of one person."""
    nameless_studies = {one.study for one in used if not _patient_id(one)}
    if len(nameless_studies) > 1:
        warn(
            f"{len(nameless_studies)} studies have no PatientID, or a placeholder such as "
            "ANONYMOUS or 0: each counts as another person. If one person has several of them, "
            "give each person a PatientID: else they may be in several splits"
        )
    born: dict[str, set[str]] = defaultdict(set)
    identifiers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in used:
        person, known = _patient_id(one), one.slices[0].patient
        date, name = (known.get(key, "") for key in ("PatientBirthDate", "PatientName"))
        if date:
            born[person].add(date)
        if person and date and name and not _PLACEHOLDER.fullmatch(name):
            identifiers[name, date].add(person)
    doubled = [ids for ids in identifiers.values() if len(ids) > 1]
    # One name and date for all is what a program wrote that removes them.
    if doubled and (len(identifiers) > 1 or len(doubled[0]) == 2):
        warn(
            f"{counted(len(doubled), 'name')} with one birth date and several PatientIDs: the "
            "studies of each PatientID count as those of another person, and may be in another "
            "split. Give each person one PatientID"
        )
    several = sum(len(dates) > 1 for patient, dates in born.items() if patient)
    if several:
        warn(
            f"{counted(several, 'PatientID')} with several birth dates: the "
            "studies of each count as those of one person. Give each person a PatientID"
        )


def _files(series: Series, root: Path, suspects: dict[Path | None, set[str]]) -> tuple[str, ...]:
    """Names of the files that hold a series, and of damaged ones that may belong to it."""
    folders = {file.shown.parent for file in series.files}
    maybe = {name for folder in (*folders, None) for name in suspects.get(folder, ())}
    return tuple(sorted(maybe | {file.below(root) for file in series.files}))


def _suspects(listing: Listing) -> dict[Path | None, set[str]]:
    """Damaged files, each a slice of an unknown series, by their folder; by None, which stands for
    any series, if no series has a file in their folder."""
    root = listing.path
    folders = {file.shown.parent for series in listing.series for file in series.files}
    suspects: dict[Path | None, set[str]] = defaultdict(set)
    for error in listing.damaged:
        path = error.path or root
        suspects[path.parent if path.parent in folders else None].add(
            path.relative_to(root).as_posix()
        )
    return suspects


@calm()
def series_sha256(root: Path, selector: str, files: Collection[str] = ()) -> str:
    """The SHA-256 of a series: of its files' bytes, in the order of their UIDs. `files` are those
    of the series; none looks through all."""
    with nameless(root):
        series = choose_series(find_series(root, files), None, selector, force=True)
    digest = hashlib.sha256()
    parts = {part.file: part.uid for echo in series.echoes for part in echo}
    for file in sorted(parts, key=lambda file: (parts[file], file.below(root))):
        with file.open() as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _name_of(series: Series) -> str:
    return f"series-{series.label.replace(':', '-')}"


def _pseudonym(name: str) -> str:
    return hashlib.sha256(f"mrbridge {name}".encode()).hexdigest()[:12]
