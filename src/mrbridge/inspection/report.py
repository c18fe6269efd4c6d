"""The page of an inspection: one file that needs nothing beside itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from mrbridge import __version__
from mrbridge.inspection.drawing import histograms, tile
from mrbridge.inspection.facts import Facts, by_contrast
from mrbridge.inspection.finding import Finding, Group
from mrbridge.inspection.inspect import Inspection, peak_memory
from mrbridge.io.names import natural_key
from mrbridge.io.safety import write_text
from mrbridge.page import counted, page, words_table

_OUTCOMES = {
    "fault": ("worse", "Not fit to train on as it is"),
    "warning": ("mixed", "Look at some scans before you train"),
    "note": ("better", "Fit to train on, with remarks"),
    None: ("better", "Nothing wrong was found"),
}
_ROWS = 40  # of a table of subjects
_TILES = 24  # of a montage
_GROUPS = 12  # of a finding that are shown with thumbnails
_IN_GROUP = 4  # thumbnails of a group
_PAIRS = 200  # hidden pairs that are named
_NAMED = 4  # files named for each reason
_GRIDS = 12


def write_report(found: Inspection, out: Path) -> None:
    """Write the page.

    Raises:
        OutputError: it cannot be written.
    """
    sections = [
        _head(found),
        _findings(found),
        _counts(found),
        _grids(found),
        _intensities(found),
        _montages(found),
        _left_out(found),
        _provenance(found),
    ]
    write_text(out, page(f"{_called(found)}: inspection", sections))


def _called(found: Inspection) -> str:
    """What the page is about. Folders and files of DICOM often bear names of patients."""
    return "DICOM" if found.form == "dicom" else found.path.resolve().name or "data"


def _head(found: Inspection) -> str:
    outcome, words = _OUTCOMES[found.worst]
    rows = "".join(
        f"<li><strong>{finding.severity}</strong>: {escape(finding.kind)}{_extent(finding)}</li>\n"
        for finding in found.findings
    )
    listed = f"<ul>\n{rows}</ul>\n" if rows else ""
    return (
        f"<h1>{escape(_called(found))}: what is there?</h1>\n"
        f'<p class="faint">{datetime.now(UTC):%Y-%m-%d}, mrbridge {__version__}</p>\n'
        f'<div class="verdict {outcome}"><strong>{words}</strong>{escape(found.verdict)}'
        f"{listed}</div>\n"
    )


def _extent(finding: Finding) -> str:
    if not finding.groups:
        return ""
    several = any(len(group.names) > 1 for group in finding.groups)
    return f" ({counted(len(finding.groups), 'group' if several else 'scan')})"


def _findings(found: Inspection) -> str:
    if not found.findings:
        return ""
    facts = {one.name: one for one in found.facts}
    parts = ["<h2>Findings</h2>\n"]
    for finding in found.findings:
        parts.append(
            f"<h3>{escape(finding.kind[:1].upper() + finding.kind[1:])} "
            f'<span class="severity {finding.severity}">{finding.severity}</span></h3>\n'
            f"<p>{escape(finding.text)}</p>\n<p><strong>What to do:</strong> "
            f"{escape(finding.remedy)}</p>\n{_groups(finding, facts)}"
        )
    return "".join(parts)


def _groups(finding: Finding, facts: dict[str, Facts]) -> str:
    shown = finding.groups[:_GROUPS]
    pictured = [group for group in shown if any(name in facts for name in group.names)]
    parts = [f'<div class="groups">\n{"".join(_group(g, facts) for g in pictured)}</div>\n']
    named = [group for group in finding.groups if group not in pictured]
    if finding.kind == "hidden pairs":
        named = list(finding.groups)
    if named:
        rows = [(" = ".join(group.names), group.remark) for group in named[:_PAIRS]]
        count = "1 entry" if len(named) == 1 else f"{len(named)} entries"
        shut = "" if pictured else " open"
        parts.append(
            f"<details{shut}><summary>{count} by name</summary>\n{words_table(rows)}</details>\n"
        )
        if len(named) > _PAIRS:
            parts.append(
                f'<p class="faint">The first {_PAIRS} of {len(named)}; --json tells all.</p>\n'
            )
    return "".join(parts) if pictured or named else ""


def _group(group: Group, facts: dict[str, Facts]) -> str:
    known = [name for name in group.names if name in facts]
    tiles = "".join(tile(facts[name]) for name in known[:_IN_GROUP])
    more = len(group.names) - min(len(known), _IN_GROUP)
    remark = group.remark + (f" and {more} more" if more else "")
    told = f"<p>{escape(remark)}</p>\n" if remark else ""
    return f'<div class="together"><div class="tiles">{tiles}</div>{told}</div>\n'


def _counts(found: Inspection) -> str:
    contrasts = list(found.contrasts)
    persons: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found.facts:
        scan = one.job.scan
        persons[scan.subject or "", scan.session or ""][one.contrast] += 1
        for split in one.job.splits:
            splits[split][one.contrast] += 1
    rows = [["all", *(str(found.contrasts[c]) for c in contrasts)]]
    rows += [[split, *(str(counts[c]) for c in contrasts)] for split, counts in splits.items()]
    parts = ["<h2>Scans</h2>\n", _table(["", *contrasts], rows)]
    if set(persons) != {("", "")}:
        ordered = sorted(persons.items(), key=lambda item: natural_key(" ".join(item[0])))
        rows = [
            [subject or "not known", session or "–", *(str(counts[c]) for c in contrasts)]
            for (subject, session), counts in ordered[:_ROWS]
        ]
        parts.append("<h3>By subject and session</h3>\n")
        parts.append(_table(["subject", "session", *contrasts], rows))
        if len(ordered) > _ROWS:
            parts.append(
                f'<p class="faint">The first {_ROWS} of {len(ordered)}; the findings name those '
                "that lack a contrast.</p>\n"
            )
    return "".join(parts)


def _grids(found: Inspection) -> str:
    kinds = Counter((one.contrast, one.shape, _spacing(one)) for one in found.facts)
    rows = [
        [contrast, " × ".join(map(str, shape)), spacing, str(count)]
        for (contrast, shape, spacing), count in kinds.most_common(_GRIDS)
    ]
    more = len(kinds) - _GRIDS
    tail = f'<p class="faint">And {more} rarer ones.</p>\n' if more > 0 else ""
    heads = ["contrast", "slices × rows × columns", "mm", "scans"]
    return f"<h2>Grids and spacings</h2>\n{_table(heads, rows)}{tail}"


def _spacing(one: Facts) -> str:
    if one.spacing is None:
        return "picture"
    return " × ".join(f"{step:.3g}" for step in one.spacing)


def _intensities(found: Inspection) -> str:
    outliers = [
        name
        for finding in found.findings
        if finding.kind == "unusual intensities"
        for group in finding.groups
        for name in group.names
    ]
    parts = [
        histograms(contrast, scans, outliers)
        for contrast, scans in by_contrast(found.facts).items()
    ]
    rows = [
        [contrast, *_ends([one.range[0] for one in scans]), *_ends([one.range[1] for one in scans])]
        for contrast, scans in by_contrast(found.facts).items()
    ]
    heads = ["contrast", "black, from", "to", "white, from", "to"]
    return (
        f'<h2>Intensities</h2>\n<div class="beside">{"".join(parts)}</div>\n'
        f"{_table(heads, rows)}"
        '<p class="faint">Each scan by its own range: the intensities that become black and white, '
        "in the units of the file.</p>\n"
    )


def _ends(values: Sequence[float]) -> list[str]:
    return [f"{end:.4g}".replace("-", "−") for end in (min(values), max(values))]


def _montages(found: Inspection) -> str:
    parts = ["<h2>Montages</h2>\n"]
    for contrast, scans in by_contrast(found.facts).items():
        count = min(_TILES, len(scans))
        chosen = [scans[int((k + 0.5) * len(scans) / count)] for k in range(count)]
        some = f", {count} of {len(scans)}, evenly spread" if count < len(scans) else ""
        tiles = "".join(tile(one) for one in chosen)
        parts.append(f'<h3>{escape(contrast)}{some}</h3>\n<div class="tiles">\n{tiles}</div>\n')
    parts.append(
        '<p class="faint">The slice in the middle, the patient\'s right on the left of a volume; '
        "beside it the sagittal plane in the middle, the face to the left.</p>\n"
    )
    return "".join(parts)


def _left_out(found: Inspection) -> str:
    names: dict[str, list[str]] = {}
    for name, reason in found.ignored:
        names.setdefault(reason, []).append(name)
    if not names:
        return ""
    rows = []
    for reason, files in names.items():
        several = f", … ({len(files)} files)" if len(files) > _NAMED else ""
        told = ", ".join(files[:_NAMED]) + several
        rows.append((counted(len(files), "file") if found.form == "dicom" else told, reason))
    return f"<h2>Not looked at</h2>\n{words_table(rows[:_ROWS])}"


def _provenance(found: Inspection) -> str:
    peak = peak_memory()
    memory = "" if peak is None else f", with at most {peak / 2**20:.0f} MiB of memory"
    return (
        "<h2>How it was done</h2>\n"
        f"<p>{counted(len(found.facts), 'scan')} in {found.seconds:.0f} s{memory} in the main "
        "process. Looked for were unequal counts, copies, near copies, wrong contrasts, turned "
        "images, truncated fields of view, noise, motion, unusual intensities and hidden pairs. "
        "Copies are found by the SHA-256 of their voxels; near copies by a perceptual "
        "hash and the correlation of fine structure in thumbnails of the middle slice; hidden "
        "pairs by mutual information, in place and shifted. A scan is an outlier beyond five "
        "robust standard deviations of its contrast. What is not found here may still be there: "
        "only the middle slice and the sagittal plane of a volume are compared.</p>\n"
        "<p>For research, not for diagnosis.</p>\n"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>' if k == 0 else f"<td>{escape(cell)}</td>"
            for k, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>'
        "</table></div>\n"
    )
