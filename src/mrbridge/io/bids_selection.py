"""Which scans of a BIDS data set: by participant, by session, by the queries of a filter file.

Sources: the BIDS-App convention (Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209) for
`--participant-label`; fMRIPrep's `--bids-filter-file` for the queries, whose words are PyBIDS'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError, SettingsError
from mrbridge.io import names
from mrbridge.io.bids import DATATYPES
from mrbridge.io.bids_name import ENTITIES, BidsName, parse_name
from mrbridge.io.scans import FoundScans, Scan
from mrbridge.json_text import decode, parse_json
from mrbridge.volume import CONTRASTS

_ENTITIES = {
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
"""What PyBIDS calls entities that have another name in file names."""

_NUMBERED = ("run", "echo", "flip", "inv", "split", "chunk")
"""Entities whose values are indices: 1 and 01 are the same."""

_PARTS = ("suffix", "datatype", "extension")


@dataclass(frozen=True)
class Selection:
    """Which scans are wanted; nothing given, all of them.

    Attributes:
        participants, sessions: labels, with or without `sub-` and `ses-`.
        queries: by contrast, what the entities of its scans must be.
        origin: the filter file that the queries come from.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    queries: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: Path | None = None

    def apply(self, found: FoundScans, root: Path) -> FoundScans:
        """Those of the scans that are wanted; the others are ignored, with the reason.

        Args:
            found: the scans of a BIDS data set.
            root: the data set.

        Raises:
            InputError: the data set has no such participant or session.
        """
        present = {
            "participant": {path.name[4:] for path in root.glob("sub-*") if path.is_dir()},
            "session": {path.name[4:] for path in root.glob("sub-*/ses-*") if path.is_dir()}
            | {scan.session for scan in found.scans if scan.session},
        }
        self._check(root, "participant", self.participants, present["participant"])
        self._check(root, "session", self.sessions, present["session"])
        kept: list[Scan] = []
        ignored = list(found.ignored)
        for scan in found.scans:
            reason = self._against(scan)
            if reason is None:
                kept.append(scan)
            else:
                ignored.append((scan.path, reason))
        return FoundScans(kept, ignored)

    def datatypes(self, contrast: str) -> tuple[str | None, ...]:
        """The folders of a subject in which scans of a contrast are looked for."""
        wanted = self.queries.get(contrast, {}).get("datatype", DATATYPES)
        several = wanted if isinstance(wanted, list | tuple) else (wanted,)
        return tuple(None if one is None else str(one) for one in several)

    def _check(self, root: Path, kind: str, wanted: Sequence[str], present: set[str]) -> None:
        absent = [label for label in wanted if label not in present]
        if not absent:
            return
        there = sorted(present, key=names.natural_key)
        some = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
        raise InputError(
            f"has no {kind} {' and no '.join(absent)}",
            path=root,
            remedy=f"It has {some}." if there else f"It has no {kind}s.",
        )

    def _against(self, scan: Scan) -> str | None:
        """Why a scan is not wanted; None if it is."""
        if self.participants and scan.subject not in self.participants:
            return "is of another participant than asked for"
        if self.sessions and scan.session not in self.sessions:
            return "is of another session than asked for"
        name = parse_name(scan.path)
        for key, wanted in self.queries.get(scan.contrast, {}).items():
            if name is None or not _matches(key, _value(name, scan.path, key), wanted):
                return f"is left out by the filter file ({key})"
        return None


def labels(given: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Labels as users write them, `01` or `sub-01`, without the prefix and without repetition."""
    return tuple(dict.fromkeys(label.removeprefix(prefix) for label in given))


def select(
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    filter_file: str | Path | None = None,
) -> Selection:
    """Take labels and a filter file.

    Raises:
        InputError: the filter file cannot be read.
        SettingsError: it asks for an entity that does not exist.
    """
    queries = {} if filter_file is None else _read_queries(Path(filter_file))
    return Selection(
        labels(participants, "sub-"),
        labels(sessions, "ses-"),
        queries,
        None if filter_file is None else Path(filter_file),
    )


def _read_queries(path: Path) -> dict[str, dict[str, Any]]:
    """The queries of our contrasts; those for other images, such as `bold`, say nothing to us."""
    remedy = 'Write queries such as {"t1w": {"session": "01", "acquisition": null}}.'
    try:
        queries = parse_json(decode(path.read_bytes())[0])
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path, remedy=remedy) from None
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", path=path, remedy=remedy) from None
    if not isinstance(queries, dict) or not all(
        isinstance(query, dict) for query in queries.values()
    ):
        raise InputError("holds no queries by kind of image", path=path, remedy=remedy)
    contrasts = {contrast.lower(): contrast for contrast in CONTRASTS}
    return {
        contrasts[kind.lower()]: {_entity(key, path): value for key, value in query.items()}
        for kind, query in queries.items()
        if kind.lower() in contrasts
    }


def _entity(key: str, path: Path) -> str:
    known = {*_ENTITIES, *ENTITIES, *_PARTS}
    if key in known:
        return _ENTITIES.get(key, key)
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
    if wanted == names.ANY:
        return True
    label = str(wanted).removeprefix(f"{key}-")
    if key == "extension":
        return value.lstrip(".") == label.lstrip(".")
    if key in _NUMBERED and label.isdecimal() and value.isdecimal():
        return label.lstrip("0") == value.lstrip("0")
    return value == label
