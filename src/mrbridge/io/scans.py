"""Scans that were found, before they are opened, and the files that were left out."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mrbridge.io.atomic import suffix_of
from mrbridge.io.bids_name import BidsName, parse_name
from mrbridge.io.remote import not_fetched
from mrbridge.urls import shown

__all__ = ["FoundScans", "Scan", "log_left_out", "outside", "prefer_raw", "why_left_out"]

log = logging.getLogger(__name__)

_DERIVED = ("space", "cohort", "res", "den", "label", "desc")
"""Entities that no raw image has (BIDS 1.10, "BIDS Derivatives")."""

_REASONS = 10  # that are listed


@dataclass(frozen=True)
class Scan:
    """One file and what is known of it before it is opened.

    Attributes:
        path: the file.
        subject, session: None where nothing tells them.
        contrast: a BIDS suffix such as T1w.
        name: the file's name.
        split: `train`, `val` or `test` if the user named one.
        series: which series of `path`, where it holds DICOM files.
        files: below `path`, those that hold the series, so that they are not searched again.
    """

    path: Path
    subject: str | None
    session: str | None
    contrast: str
    name: str
    split: str | None = None
    series: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundScans:
    """The scans in natural order, and the files that were left out, each with the reason."""

    scans: list[Scan]
    ignored: list[tuple[Path, str]] = field(default_factory=list)


def prefer_raw(found: FoundScans) -> FoundScans:
    """One file for each scan with a BIDS name; what is left out is ignored, with the reason.

    Of one name in several formats or spellings (`_T1w.nii.gz`, `_T1w.nii`, `_T1W.nii.gz`) the first
    stays, in this order; what is not fetched comes last. Of the scans of one contrast in a folder
    raw ones come before derived ones (`desc-brain`), and `desc-preproc` before any other `desc`.
    """
    groups: dict[tuple[object, ...], list[tuple[Scan, BidsName]]] = defaultdict(list)
    for scan in found.scans:
        name = parse_name(scan.path)
        if name is not None:
            groups[scan.path.parent, scan.subject, scan.session, scan.contrast].append((scan, name))
    reasons: dict[Path, str] = {}
    for group in groups.values():
        best = min(_distance(name) for _, name in group)
        first = "the raw scan is there" if best == 0 else "desc-preproc is there"
        alike: dict[str, list[tuple[Scan, BidsName]]] = defaultdict(list)
        for scan, name in group:
            if _distance(name) > best:
                what = next(f"{key}-{name.entities[key]}" for key in reversed(_DERIVED)
                            if key in name.entities)  # fmt: skip
                reasons[scan.path] = f"is derived ({what}), and {first}"
            else:
                alike[str(replace(name, suffix="", extension=""))].append((scan, name))
        for several in alike.values():
            kept = min(several, key=_oddity) if len(several) > 1 else several[0]
            for one in several:
                if one is not kept:
                    reasons[one[0].path] = "is the same scan in another format or spelling"
    return FoundScans(
        [scan for scan in found.scans if scan.path not in reasons],
        [*found.ignored, *reasons.items()],
    )


def _distance(name: BidsName) -> int:
    """How far from the raw scan: 0 raw, 1 preprocessed, 2 otherwise derived."""
    if not any(key in name.entities for key in _DERIVED):
        return 0
    return 1 if name.entities.get("desc", "preproc") == "preproc" else 2


def _oddity(item: tuple[Scan, BidsName]) -> tuple[bool, bool, int, str]:
    scan, name = item
    formats = (".nii.gz", ".nii")
    place = formats.index(suffix) if (suffix := suffix_of(scan.path)) in formats else len(formats)
    return not_fetched(scan.path) is not None, name.suffix != scan.contrast, place, scan.name


def outside(found: FoundScans, out: Path) -> FoundScans:
    """The scans without those in or above a folder of results."""
    place = Path(os.path.realpath(out))

    def is_result(path: Path) -> bool:
        path = Path(os.path.realpath(path))  # which a cyclic link does not stop
        return path == place or place in path.parents or path in place.parents

    return FoundScans(found.scans, [item for item in found.ignored if not is_result(item[0])])


def log_left_out(ignored: Sequence[tuple[Path, str]], root: Path | None = None) -> None:
    """Say what was left out, by reason: how many files, and one of them.

    Args:
        ignored: files with reasons.
        root: paths are shown relative to it; None shows no paths.
    """
    counts = Counter(reason for _, reason in ignored)
    examples = {reason: path for path, reason in reversed(ignored)}
    for reason, count in counts.most_common(_REASONS):
        path = examples[reason]
        files = "1 file" if count == 1 else f"{count} files"
        if root is not None:
            below = shown(path.relative_to(root) if path.is_relative_to(root) else path)
            files = below if count == 1 else f"{files}, such as {below}"
        log.info("left out (%s): %s", reason, files)
    if len(counts) > _REASONS:
        log.info("left out for %d other reasons: see report.json", len(counts) - _REASONS)


def why_left_out(ignored: Sequence[tuple[Path | str, str]]) -> str:
    """The most common reasons, in brackets for the line of an error; empty without any."""
    counts = Counter(reason for _, reason in ignored).most_common(3)
    reasons = "; ".join(
        f"{count} file{'s' if count > 1 else ''}: {reason}" for reason, count in counts
    )
    return f" (left out: {reasons})" if reasons else ""
