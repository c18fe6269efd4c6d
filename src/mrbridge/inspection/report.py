"""What an inspection writes: a page of bounded length, the complete list in JSON, and the table of
`--fix`: the scans for `prepare`, without copies and unreadable scans.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrbridge import __version__
from mrbridge.errors import InputError, MrbridgeError, OutputError
from mrbridge.inspection.duplicates import are_most, exact_copies
from mrbridge.inspection.facts import BINS, Facts, by_contrast, load
from mrbridge.inspection.findings import SEVERITIES, Finding, Group
from mrbridge.inspection.headers import holds_store
from mrbridge.io.atomic import write_text
from mrbridge.io.formats import is_dicom
from mrbridge.io.names import natural_key
from mrbridge.io.ownership import must_be_our_page, must_be_ours
from mrbridge.reports import counted, csv_table, render, some_files
from mrbridge.text import url_of
from mrbridge.viewer import Embedded, embedded, packed_viewer
from mrbridge.volume import CONTRASTS

if TYPE_CHECKING:
    from mrbridge.inspection.inspect import Inspection

# Of the page:
_ROWS = 40  # of a table
_GRIDS = 12
_TILES = 24  # of a montage
_GROUPS = 12  # of a finding that are shown with thumbnails
_IN_GROUP = 4  # thumbnails of a group
_NAMES = 200  # groups of a finding that are listed by name
_OPEN = 60  # names that are visible without a click
_OUTLIERS = 6  # histograms of single scans
_WIDTH, _HEIGHT = 520, 150  # pixels of a histogram

_COLUMNS = ("subject", "session", "contrast", "path", "split")  # of the table
_PREFERENCE = ("test", "val")  # splits whose copy is kept; then the first

_FEWEST_SUBJECTS = 4  # with which prepare keeps one for a test
_HEADLINES = {
    "fault": "Not fit for training as it is",
    "warning": "Look at some scans before training",
    "note": "Fit for training, with remarks",
}


def headline(facts: Sequence[Facts], findings: Sequence[Finding]) -> str:
    """The verdict in one line, without a full stop; findings with the worst first."""
    if not findings:
        return "No problems found"
    pairs = sum(len(one.groups) for one in findings if one.kind == "undeclared pairs")
    if findings[0].severity == "note" and are_most(pairs, facts):
        return "Fit for training, but not as unpaired data: most scans form undeclared pairs"
    return _HEADLINES[findings[0].severity]


def summary(facts: Sequence[Facts], findings: Sequence[Finding]) -> str:
    """How many scans and findings there are, and how the scans can be used."""
    counts = Counter(one.contrast for one in facts)
    contrasts = ", ".join(f"{count} {contrast}" for contrast, count in sorted(counts.items()))
    subjects = {one.subject for one in facts} - {None}
    of_subjects = f" of {counted(len(subjects), 'subject')}" if subjects else ""
    parts = [f"{counted(len(facts), 'scan')}{of_subjects} ({contrasts})"]
    severities = Counter(finding.severity for finding in findings)
    numbers = [counted(severities[s], s) for s in SEVERITIES if severities[s]]
    parts += [", ".join(numbers)] if numbers else []
    parts += _complete_sessions(facts)
    if 0 < len(subjects) < _FEWEST_SUBJECTS:
        few = f"{counted(len(subjects), 'subject')} {'is' if len(subjects) == 1 else 'are'}"
        parts.append(f"{few} too few for prepare to keep one for a test")
    return ". ".join(parts) + "."


def _complete_sessions(facts: Sequence[Facts]) -> list[str]:
    """How many sessions have both of the first two contrasts, as scoring needs, and whether on one
    grid."""
    known = {one.contrast for one in facts}
    pair = next((pair for pair in combinations(CONTRASTS, 2) if known.issuperset(pair)), None)
    grids: dict[tuple[str, str | None], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in facts:
        if one.subject is not None and not one.is_2d:
            grids[one.subject, one.session][one.contrast].add(one.grid)
    both = [of_one for of_one in grids.values() if pair and all(of_one.get(c) for c in pair)]
    if pair is None or not both:
        return []
    noun = "sessions" if any(session is not None for _, session in grids) else "subjects"
    text = f"{len(both)} of {len(grids)} {noun} have both {pair[0]} and {pair[1]}"
    different = sum(not of_one[pair[0]] & of_one[pair[1]] for of_one in both)
    if not different:
        return [f"{text}, on one grid: synthetic images can be scored on them"]
    some = "" if different == len(both) else f" ({different} of them)"
    remedy = "evaluate registers them, prepare does with --register rigid"
    return [f"{text}, on different grids{some}: {remedy}"]


def check_place(out: Path) -> None:
    """Refuse a page that would replace a scan or a file of another program.

    Raises:
        OutputError: the name does not end in .html, or mrbridge did not write the file there.
    """
    must_be_our_page(out)
    must_be_ours(out.with_suffix(".findings.json"))


def write_report(result: Inspection, out: Path) -> None:
    """Write the page and, next to it, `.findings.json`; the same for any number of workers.
    OutputError if they cannot be written."""
    complete = out.with_suffix(".findings.json")
    write_text(out, render("inspection.html.j2", **_variables(result), json_name=complete.name))
    content = {"mrbridge": __version__, "of": result.title} | result.findings_json()
    content |= {"scans": [one.as_json() for one in result.facts]}
    # File names may hold bytes that are not text: json writes them as escapes.
    write_text(complete, json.dumps(content, indent=1) + "\n")


def _variables(result: Inspection) -> dict[str, Any]:
    """The variables of the template."""
    facts = {one.name: one for one in result.facts}
    sessions, session_count = _sessions(result)
    grids, grid_count = _grids(result.facts)
    return {
        "title": result.title,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "headline": result.headline,
        "summary": result.summary,
        "worst": result.findings[0].severity if result.findings else None,
        "findings": result.findings,
        "extent": _extent,
        "shown": lambda finding: _shown(finding, facts),
        "png": _png,
        "contrasts": list(result.contrasts),
        "counts": _counts(result),
        "sessions": sessions,
        "session_count": session_count,
        "grids": grids,
        "grid_count": grid_count,
        "histograms": _histograms(result),
        "ranges": [
            [contrast, *_ends([s.range[0] for s in scans]), *_ends([s.range[1] for s in scans])]
            for contrast, scans in by_contrast(result.facts).items()
        ],
        "montages": [
            (contrast, _evenly_spaced(scans), len(scans))
            for contrast, scans in by_contrast(result.facts).items()
        ],
        "ignored": _ignored(result),
        "viewers": _viewers(result),
        "packed": packed_viewer(),
    }


def _viewers(result: Inspection) -> list[Embedded]:
    """The worst scan, if there is a finding about one, and a typical one, for the viewer."""
    facts = {one.name: one for one in result.facts}
    named = [n for finding in result.findings for group in finding.groups for n in group.names]
    worst = next((facts[name] for name in named if name in facts), None)
    typical = _typical([one for one in result.facts if one is not worst])
    viewers = []
    for title, one in (("the worst scan", worst), ("a typical scan", typical)):
        if one is None:
            continue
        try:
            scan = load(one.entry)
        except MrbridgeError:  # it was removed meanwhile
            continue
        stacks = {"source": (one.contrast, scan.slices + 1)}  # from 0: background is black
        viewers.append(
            embedded(f"{title}: {one.name}", stacks, scan.foreground, scan.properties.spacing)
        )
    return viewers


def _typical(facts: Sequence[Facts]) -> Facts | None:
    """The scan whose histogram is nearest to the median of the most frequent contrast."""
    if not facts:
        return None
    scans = max(by_contrast(facts).values(), key=len)
    shares = np.stack([one.histogram for one in scans])  # (scans, BINS)
    return scans[int(np.abs(shares - np.median(shares, axis=0)).sum(axis=1).argmin())]


def _extent(finding: Finding) -> str:
    if not finding.groups or finding.first_sentence[0].isdigit():  # the sentence says how many
        return ""
    several = any(len(group.names) > 1 for group in finding.groups)
    return f" ({counted(len(finding.groups), 'group' if several else 'scan')})"


def _shown(finding: Finding, facts: dict[str, Facts]) -> dict[str, Any]:
    """The first groups with thumbnails; the others, or all pairs if there are others, by name."""
    first = finding.groups[:_GROUPS]
    with_tiles = [group for group in first if any(name in facts for name in group.names)]
    named = [group for group in finding.groups if group not in with_tiles]
    if named and finding.kind == "undeclared pairs":
        named = list(finding.groups)
    return {
        "groups": [_tiles(group, facts) for group in with_tiles],
        "names": [str(group) for group in named[:_NAMES]],
        "count": len(named),
        "open": not with_tiles or len(named) <= _OPEN,
    }


def _tiles(group: Group, facts: dict[str, Facts]) -> dict[str, Any]:
    """The first scans of a group, and the remark below their thumbnails."""
    scans = [facts[name] for name in group.names if name in facts][:_IN_GROUP]
    remarks = [group.remark] if group.remark else []
    if len(scans) < len(group.names):
        remarks.insert(0, f"{counted(len(group.names), 'scan')}, {len(scans)} shown")
    return {"scans": scans, "remark": "; ".join(remarks)}


def _counts(result: Inspection) -> list[list[str]]:
    """Scans of each contrast, in all and by split."""
    splits: dict[str, Counter[str]] = {"all": Counter(result.contrasts)}
    for one in result.facts:
        for split in one.entry.splits:
            splits.setdefault(split, Counter())[one.contrast] += 1
    return [[name, *_row(counts, result)] for name, counts in splits.items()]


def _sessions(result: Inspection) -> tuple[list[list[str]], int]:
    """Scans of each contrast by subject and session, and the number of rows without a limit."""
    sessions: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in result.facts:
        sessions[one.subject or "", one.session or ""][one.contrast] += 1
    if set(sessions) == {("", "")}:
        return [], 0
    ordered = sorted(sessions.items(), key=lambda item: natural_key(" ".join(item[0])))
    rows = [
        [subject or "unknown", session or "–", *_row(counts, result)]
        for (subject, session), counts in ordered[:_ROWS]
    ]
    return rows, len(ordered)


def _row(counts: Counter[str], result: Inspection) -> list[str]:
    return [str(counts[contrast]) for contrast in result.contrasts]


def _grids(facts: Sequence[Facts]) -> tuple[list[list[str]], int]:
    """The most common shapes and spacings, and their number without a limit."""

    def spacing(one: Facts) -> str:
        return "2D image" if one.spacing is None else " × ".join(f"{s:.3g}" for s in one.spacing)

    kinds = Counter((one.contrast, one.shape, spacing(one)) for one in facts)
    rows = [
        [contrast, " × ".join(map(str, shape)), spacing, str(count)]
        for (contrast, shape, spacing), count in kinds.most_common(_GRIDS)
    ]
    return sorted(rows, key=lambda row: row[0]), len(kinds)


def _ends(values: Sequence[float]) -> list[str]:
    ends = min(values), max(values)
    texts = [f"{end:,.0f}" if abs(end) >= 1000 else f"{end:.4g}" for end in ends]
    return [text.replace("-", "−") for text in texts]


def _evenly_spaced(scans: Sequence[Facts]) -> list[Facts]:
    count = _TILES if len(scans) > 1.5 * _TILES else len(scans)
    return [scans[int((k + 0.5) * len(scans) / count)] for k in range(count)]


def _ignored(result: Inspection) -> list[tuple[str, str]]:
    """Files, or for DICOM their number, by the reason why they are left out."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in result.ignored:
        names[reason].append(name)
    return [
        (counted(len(files), "file") if result.form == "dicom" else some_files(files), reason)
        for reason, files in list(names.items())[:_ROWS]
    ]


def _png(thumbnail: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    Image.fromarray(thumbnail).save(stream, "PNG")
    return stream.getvalue()


def _histograms(result: Inspection) -> list[dict[str, Any]]:
    """SVG paths by contrast: the median histogram, a band of 90 % of the scans, and outliers."""
    outliers = {
        name
        for finding in result.findings
        if finding.kind == "unusual intensities"
        for group in finding.groups
        for name in group.names
    }
    plots = []
    for contrast, scans in by_contrast(result.facts).items():
        shares = np.stack([one.histogram for one in scans])  # (scans, BINS)
        # 8-bit images whose window was changed have empty bins between their levels.
        smooth = np.apply_along_axis(np.convolve, 1, shares, np.array([0.25, 0.5, 0.25]), "same")
        low, median, high = np.percentile(smooth, (5, 50, 95), axis=0)
        unusual = [n for n, one in enumerate(scans) if one.name in outliers]
        drawn = unusual[:_OUTLIERS]
        top = max(float(high.max()), *(float(smooth[n].max()) for n in drawn), 1e-9)
        caption = f"Intensities inside the head, {contrast}"
        if len(scans) > 1:
            caption += f": median and 5th to 95th percentile of {len(scans)} scans"
        plots.append(
            {
                "width": _WIDTH,
                "height": _HEIGHT,
                "caption": caption,
                "band": " ".join([*_points(high, top), *_points(low, top)[::-1]]),
                "median": " ".join(_points(median, top)),
                "outliers": [(scans[n].name, " ".join(_points(smooth[n], top))) for n in drawn],
                "outlier_count": len(unusual),
            }
        )
    return plots


def _points(values: NDArray[np.float64], top: float) -> list[str]:
    heights = _HEIGHT * (1 - values / top)
    return [f"{x:.1f},{y:.1f}" for x, y in zip(np.linspace(0, _WIDTH, BINS), heights, strict=True)]


def check_table(table: Path, *, overwrite: bool = False) -> None:
    """Refuse to write a table in the place of another file, or without .csv at its end:
    OutputError."""
    if table.suffix.lower() != ".csv":
        raise OutputError("is not the name of a table", path=table, remedy="Use a name with .csv.")
    if table.is_file() and overwrite:
        with open(table, encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(_COLUMNS):
                raise OutputError(
                    "is not a table of mrbridge inspect", path=table, remedy="Name a new file."
                )
    elif table.exists():
        remedy = "Name a new file, or replace it with --overwrite."
        raise OutputError("exists", path=table, remedy=remedy)


def check_source(source: Path) -> None:
    """Refuse sources that a table cannot describe, because its rows name files (a store, or DICOM
    files): InputError."""
    if holds_store(source):
        what, remedy = "a store", "Correct the data from which the store was prepared."
    elif is_dicom(source):
        what, remedy = "DICOM", "Leave out --fix, and remove the series that the report names."
    else:
        return
    raise InputError(f"is {what}, but a table lists files", path=source, remedy=remedy)


def write_table(
    result: Inspection, table: Path, *, overwrite: bool = False
) -> list[tuple[str, str]]:
    """Write all scans that can be read, without exact copies; the scans that are left out, each
    with the reason. Of copies of one contrast one is kept: a held-out one if there is one, else the
    first. Copies under several contrasts are all left out, because the right label is unknown.
    OutputError if it cannot be written, or something exists there by now."""
    check_table(table, overwrite=overwrite)
    left_out = [(entry.name, reason) for entry, reason in result.failed]
    copies = _copies(result.facts)
    rows = []
    folder = table.resolve().parent
    for one in result.facts:
        scan = one.entry.scan
        path = _relative(folder, scan.path)
        reason = copies.get(one.name) or _why_not_a_cell(path)
        if reason:
            left_out.append((one.name, reason))
        else:
            subject, session = one.subject or "", one.session or ""
            rows.append([subject, session, one.contrast, path, scan.split or ""])
    write_text(table, csv_table(_COLUMNS, rows))
    return left_out


def _relative(folder: Path, scan: Path) -> str:
    """A scan in a table of the folder: a URL, or a path relative to the folder; an absolute path if
    only the table is at a URL."""
    path = scan.parent.resolve() / scan.name  # files of a DataLad dataset are links themselves
    return url_of(path) or (str(path) if url_of(folder) else os.path.relpath(path, folder))


def _copies(facts: Sequence[Facts]) -> dict[str, str]:
    """The copies to leave out, each with the reason."""
    reasons: dict[str, str] = {}
    for group in exact_copies(facts):
        if len({one.contrast for one in group}) > 1:
            reasons |= {one.name: "has a copy under another contrast" for one in group}
            continue
        kept = min(group, key=_rank)  # the first of the lowest rank
        reasons |= {one.name: f"is a copy of {kept.name}" for one in group if one is not kept}
    return reasons


def _rank(one: Facts) -> int:
    return next((n for n, split in enumerate(_PREFERENCE) if split in one.entry.splits), 2)


def _why_not_a_cell(path: str) -> str | None:
    """Why a table cannot hold this name; None if it can."""
    if path != path.strip() or len(path.splitlines()) > 1:
        return "has a name with spaces at its ends or line breaks"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not text"
    return None
