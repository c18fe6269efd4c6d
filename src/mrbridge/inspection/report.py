"""The page of an inspection: one file that needs nothing beside itself, of bounded length."""

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
from mrbridge.inspection.inspect import Inspection, findings_beside
from mrbridge.inspection.verdict import sentences
from mrbridge.io.names import natural_key
from mrbridge.io.safety import write_text
from mrbridge.page import counted, page, words_table

_OUTCOMES = {
    "fault": "worse",
    "warning": "mixed",
    "note": "better",
    None: "better",
}
_ROWS = 40  # of a table of subjects
_TILES = 24  # of a montage
_GROUPS = 12  # of a finding that are shown with thumbnails
_IN_GROUP = 4  # thumbnails of a group
_BY_NAME = 200  # groups of a finding that are named
_OPEN = 60  # names that are shown without a click
_NAMED = 4  # files named for each reason
_GRIDS = 12


def write_report(found: Inspection, out: Path) -> None:
    """Write the page, the same for any number of workers.

    Raises:
        OutputError: it cannot be written.
    """
    sections = [
        _head(found),
        _findings(found, findings_beside(out).name),
        _counts(found),
        _grids(found),
        _intensities(found),
        _montages(found),
        _left_out(found),
        _provenance(found, findings_beside(out).name),
    ]
    write_text(out, page(f"{found.called}: inspection", sections))


def _head(found: Inspection) -> str:
    rows = "".join(
        f"<li><strong>{finding.severity}</strong>: {escape(finding.kind)}{_extent(finding)}. "
        f"{escape(finding.gist)}</li>\n"
        for finding in found.findings
    )
    listed = f"<ul>\n{rows}</ul>\n" if rows else ""
    return (
        f"<h1>{escape(found.called)}: what is there?</h1>\n"
        f'<p class="faint">{datetime.now(UTC):%Y-%m-%d}, mrbridge {__version__}</p>\n'
        f'<div class="verdict {_OUTCOMES[found.worst]}"><strong>{escape(found.headline)}</strong>'
        f"{escape(sentences(found.facts, found.findings))}"
        f"{listed}</div>\n"
    )


def _extent(finding: Finding) -> str:
    if not finding.groups or finding.gist[0].isdigit():  # that says how many
        return ""
    several = any(len(group.names) > 1 for group in finding.groups)
    return f" ({counted(len(finding.groups), 'group' if several else 'scan')})"


def _findings(found: Inspection, complete: str) -> str:
    if not found.findings:
        return ""
    facts = {one.name: one for one in found.facts}
    parts = ["<h2>Findings</h2>\n"]
    for finding in found.findings:
        parts.append(
            f"<h3>{escape(finding.kind[:1].upper() + finding.kind[1:])} "
            f'<span class="severity {finding.severity}">{finding.severity}</span></h3>\n'
            f"<p>{escape(finding.text)}</p>\n<p><strong>What to do:</strong> "
            f"{escape(finding.remedy)}</p>\n{_groups(finding, facts, complete)}"
        )
    return "".join(parts)


def _groups(finding: Finding, facts: dict[str, Facts], complete: str) -> str:
    """The first groups as pictures; the others, or all pairs where there are others, by name."""
    shown = finding.groups[:_GROUPS]
    pictured = [group for group in shown if any(name in facts for name in group.names)]
    parts = [f'<div class="groups">\n{"".join(_group(g, facts) for g in pictured)}</div>\n']
    named = [group for group in finding.groups if group not in pictured]
    if named and finding.kind == "hidden pairs":
        named = list(finding.groups)
    if named:
        names = "".join(f"<li>{escape(group.words())}</li>\n" for group in named[:_BY_NAME])
        count = "1 entry" if len(named) == 1 else f"{len(named)} entries"
        is_open = " open" if not pictured or len(named) <= _OPEN else ""
        parts.append(
            f"<details{is_open}><summary>{count} by name</summary>\n"
            f'<ul class="names">\n{names}</ul></details>\n'
        )
        if len(named) > _BY_NAME:
            parts.append(
                f'<p class="faint">The first {_BY_NAME} of {len(named)}; {escape(complete)}, '
                "beside this page, names all.</p>\n"
            )
    return "".join(parts) if pictured or named else ""


def _group(group: Group, facts: dict[str, Facts]) -> str:
    known = [name for name in group.names if name in facts][:_IN_GROUP]
    tiles = "".join(tile(facts[name]) for name in known)
    more = len(group.names) - len(known)
    remarks = [f"{len(group.names)} scans, {len(known)} shown"] if more else []
    remarks += [group.remark] if group.remark else []
    told = f"<p>{escape('; '.join(remarks))}</p>\n" if remarks else ""
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
    rows.sort(key=lambda row: row[0])
    more = len(kinds) - _GRIDS
    tail = f'<p class="faint">And {more} rarer ones.</p>\n' if more > 0 else ""
    heads = ["contrast", "slices × rows × columns", "mm", "scans"]
    return f"<h2>Grids and spacings</h2>\n{_table(heads, rows)}{tail}"


def _spacing(one: Facts) -> str:
    if one.spacing is None:
        return "picture"
    return " × ".join(f"{step:.3g}" for step in one.spacing)


def _intensities(found: Inspection) -> str:
    outliers = {
        name
        for finding in found.findings
        if finding.kind == "unusual intensities"
        for group in finding.groups
        for name in group.names
    }
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
    ends = min(values), max(values)
    told = [f"{end:,.0f}" if abs(end) >= 1000 else f"{end:.4g}" for end in ends]
    return [end.replace("-", "−") for end in told]


def _montages(found: Inspection) -> str:
    parts = ["<h2>Montages</h2>\n"]
    for contrast, scans in by_contrast(found.facts).items():
        count = _TILES if len(scans) > 1.5 * _TILES else len(scans)
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


def _provenance(found: Inspection, complete: str) -> str:
    return (
        "<h2>How it was done</h2>\n"
        "<p>All scans and findings, with all measures, are in "
        f"{escape(complete)}, beside this page. Looked for were unequal counts, copies, near "
        "copies, wrong contrasts, turned images, truncated fields of view, noise, motion, unusual "
        "intensities and hidden pairs. "
        "Copies are found by the SHA-256 of their voxels; near copies by a perceptual "
        "hash and the correlation of fine structure in thumbnails of the middle slice; hidden "
        "pairs by edges, then mutual information, in place and shifted. A scan is an outlier "
        "beyond five robust standard deviations of its contrast. What is not found here may still "
        "be there: only the middle slice and the sagittal plane of a volume are compared.</p>\n"
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
