"""Scans that were found, before they are opened; which of them to use; and what was left out.

Sources: the BIDS-App convention (Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209) for
`--participant-label`; fMRIPrep's `--bids-filter-file` for queries, whose words are PyBIDS'.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError, SettingsError
from mrbridge.io.atomic import reading, suffix_of
from mrbridge.io.bids_name import ENTITIES, BidsName, parse_name
from mrbridge.io.names import natural_key
from mrbridge.io.remote import not_fetched
from mrbridge.reports import counted, some
from mrbridge.text import decode, parse_json, shown
from mrbridge.volume import CONTRASTS

log = logging.getLogger(__name__)

ANY = "*"  # in a query of a filter file: the entity must be present, with any value
DATATYPES = ("anat",)  # the folders of a subject or session that hold T1w, T2w and the like
# Entities that no raw image has (BIDS 1.10, "BIDS Derivatives").
_DERIVED = ("space", "cohort", "res", "den", "label", "desc")
_REASONS = 10  # that are listed
# What PyBIDS calls entities that have another name in file names.
_PYBIDS = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "inversion": "inv",
    "modality": "mod",
    "processing": "proc",
    "staining": "stain",
    "tracer": "trc",
    "description": "desc",
}
_NUMBERED = ("run", "echo", "flip", "inv", "split", "chunk")  # indices: 1 and 01 are the same
_PARTS = ("suffix", "datatype", "extension")
_REMEDY = 'Write queries such as {"t1w": {"session": "01", "acquisition": null}}.'


@dataclass(frozen=True)
class Scan:
    """A scan and what is known about it before it is opened.

    Attributes:
        subject, session: None if unknown.
        contrast: a BIDS suffix such as T1w.
        split: `train`, `val` or `test` if the user named one.
        series: which series, if `path` holds DICOM files.
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
    """Keep one file for each scan with a BIDS name; list the others as ignored, with the reason.

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
        kept = set[str]()
        for scan, name in sorted(group, key=_oddity) if len(group) > 1 else ():
            entities = str(replace(name, suffix="", extension=""))
            if _distance(name) > best:
                key = next(key for key in reversed(_DERIVED) if key in name.entities)
                reasons[scan.path] = f"is derived ({key}-{name.entities[key]}), and {first}"
            elif entities in kept:
                reasons[scan.path] = "is the same scan in another format or spelling"
            kept.add(entities)
    return FoundScans(
        [scan for scan in found.scans if scan.path not in reasons],
        [*found.ignored, *reasons.items()],
    )


def _distance(name: BidsName) -> int:
    """How far from the raw scan: 0 raw, 1 preprocessed, 2 otherwise derived."""
    if not any(key in name.entities for key in _DERIVED):
        return 0
    return 1 if name.entities.get("desc", "preproc") == "preproc" else 2


def _oddity(item: tuple[Scan, BidsName]) -> tuple[object, ...]:
    """A sort key: of several files of one scan, the one to keep comes first."""
    (scan, name), suffix = item, suffix_of(item[0].path)
    is_other = name.suffix != scan.contrast, suffix != ".nii.gz", suffix != ".nii"
    return not_fetched(scan.path) is not None, *is_other, scan.name


@dataclass(frozen=True)
class Selection:
    """Which scans are wanted; all by default.

    Attributes:
        participants, sessions: labels, with or without `sub-` and `ses-`.
        queries: by contrast, what the entities of its scans must be.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    queries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def apply(self, found: FoundScans, root: Path) -> FoundScans:
        """Keep the scans that are wanted, and list the others as ignored, with the reason. A
        participant or session that the dataset does not have is an InputError."""
        present = {
            "participant": {path.name[4:] for path in root.glob("sub-*") if path.is_dir()},
            "session": {path.name[4:] for path in root.glob("sub-*/ses-*") if path.is_dir()}
            | {scan.session for scan in found.scans if scan.session},
        }
        for kind, wanted in (("participant", self.participants), ("session", self.sessions)):
            absent = [label for label in wanted if label not in present[kind]]
            there = sorted(present[kind], key=natural_key)
            if absent:
                raise InputError(
                    f"has no {kind} {' and no '.join(absent)}",
                    path=root,
                    remedy=f"It has {some(there, 8)}." if there else f"It has no {kind}s.",
                )
        reasons = [(scan, self._against(scan)) for scan in found.scans]
        unwanted = [(scan.path, reason) for scan, reason in reasons if reason is not None]
        kept = [scan for scan, reason in reasons if reason is None]
        return FoundScans(kept, [*found.ignored, *unwanted])

    def datatypes(self, contrast: str) -> tuple[str | None, ...]:
        """The folders of a subject in which scans of a contrast are looked for."""
        wanted = self.queries.get(contrast, {}).get("datatype", DATATYPES)
        several = wanted if isinstance(wanted, list | tuple) else (wanted,)
        return tuple(None if one is None else str(one) for one in several)

    def _against(self, scan: Scan) -> str | None:
        """Why a scan is not wanted; None if it is."""
        if self.participants and scan.subject not in self.participants:
            return "is of another participant"
        if self.sessions and scan.session not in self.sessions:
            return "is of another session"
        name = parse_name(scan.path)
        for key, wanted in self.queries.get(scan.contrast, {}).items():
            if name is None or not _matches(key, _value(name, scan.path, key), wanted):
                return f"is left out by the filter file ({key})"
        return None


def _labels(given: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Labels as users write them, `01` or `sub-01`, without the prefix and without repetition."""
    return tuple(dict.fromkeys(label.removeprefix(prefix) for label in given))


def select(
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    filter_file: str | Path | None = None,
) -> Selection:
    """A selection from labels and a filter file.

    Raises:
        InputError: the filter file cannot be read.
        SettingsError: it asks for an entity that does not exist.
    """
    queries = {} if filter_file is None else _read_queries(Path(filter_file))
    return Selection(_labels(participants, "sub-"), _labels(sessions, "ses-"), queries)


def _read_queries(path: Path) -> dict[str, dict[str, Any]]:
    """The queries of our contrasts; those for other images, such as `bold`, are skipped."""
    with reading(path, _REMEDY):
        content = path.read_bytes()
    try:
        queries = parse_json(decode(content)[0], unique=True)
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", path=path, remedy=_REMEDY) from None
    if not isinstance(queries, dict) or not all(isinstance(one, dict) for one in queries.values()):
        raise InputError("holds no queries by kind of image", path=path, remedy=_REMEDY)
    contrasts = {contrast.lower(): contrast for contrast in CONTRASTS}
    found: dict[str, dict[str, Any]] = {}
    for kind, query in queries.items():
        if kind.lower() not in contrasts:
            continue
        entities = {_entity(key, path): value for key, value in query.items()}
        if contrasts[kind.lower()] in found or len(entities) < len(query):
            what = f"has two spellings of one key ('{kind}', or an entity in it)"
            raise InputError(what, path=path, remedy=_REMEDY)
        found[contrasts[kind.lower()]] = entities
    return found


def _entity(key: str, path: Path) -> str:
    known = {*_PYBIDS, *ENTITIES, *_PARTS}
    if key in known:
        return _PYBIDS.get(key, key)
    close = get_close_matches(key, known, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"Known: {', '.join(sorted(known))}."
    raise SettingsError(f"there is no entity '{key}'", path=path, remedy=hint)


def _value(name: BidsName, path: Path, key: str) -> str | None:
    if key == "suffix":
        return name.suffix
    if key == "extension":
        return name.extension
    if key != "datatype":
        return name.entities.get(key)
    folder = path.parent.name
    return None if folder.startswith(("sub-", "ses-")) else folder


def _matches(key: str, value: str | None, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_matches(key, value, one) for one in wanted)
    if wanted is None or value is None:
        return wanted is None and value is None
    if wanted == ANY:
        return True
    label = str(wanted).removeprefix(f"{key}-")
    if key == "extension":
        return value.lstrip(".") == label.lstrip(".")
    if key in _NUMBERED and label.isdecimal() and value.isdecimal():
        return label.lstrip("0") == value.lstrip("0")
    return value == label


def outside(found: FoundScans, out: Path) -> FoundScans:
    """The scans without those in or above a folder of results."""
    place = Path(os.path.realpath(out))

    def is_result(path: Path) -> bool:
        path = Path(os.path.realpath(path))  # which a cyclic link does not stop
        return path == place or place in path.parents or path in place.parents

    return FoundScans(found.scans, [item for item in found.ignored if not is_result(item[0])])


def log_left_out(ignored: Sequence[tuple[Path, str]], root: Path | None = None) -> None:
    """Log what was left out, by reason: the number of files, and one of them, relative to `root`,
    if that is given."""
    counts = Counter(reason for _, reason in ignored)
    examples = {reason: path for path, reason in reversed(ignored)}
    for reason, count in counts.most_common(_REASONS):
        path = examples[reason]
        files = counted(count, "file")
        if root is not None:
            below = shown(path.relative_to(root) if path.is_relative_to(root) else path)
            files = below if count == 1 else f"{files}, such as {below}"
        log.info("left out (%s): %s", reason, files)
    if len(counts) > _REASONS:
        log.info("left out for %d other reasons: see report.json", len(counts) - _REASONS)


def why_left_out(ignored: Sequence[tuple[Path | str, str]]) -> str:
    """The most common reasons, in brackets, for an error message; empty if nothing was left out."""
    counts = Counter(reason for _, reason in ignored).most_common(3)
    reasons = "; ".join(f"{counted(count, 'file')}: {reason}" for reason, count in counts)
    return f" (left out: {reasons})" if reasons else ""
