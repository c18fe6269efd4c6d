"""What a researcher wants to know first, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from mrbridge.inspection.facts import Facts
from mrbridge.inspection.finding import Finding
from mrbridge.inspection.hidden import are_most
from mrbridge.page import counted
from mrbridge.volume import CONTRASTS

_HEADLINES = {
    "fault": "Not fit to train on as it is",
    "warning": "Look at some scans before you train",
    "note": "Fit to train on, with remarks",
}
_NOTHING = "Nothing wrong was found"
_PAIRED = "Fit to train on, but not as unpaired data: the contrasts are paired in hiding"
_FEW = 4  # subjects from which on preparation keeps one aside for a test


def headline(facts: Sequence[Facts], findings: Sequence[Finding]) -> str:
    """The verdict in a line, without a full stop.

    Args:
        facts: of all scans.
        findings: the worst first.
    """
    if not findings:
        return _NOTHING
    hidden = sum(len(finding.groups) for finding in findings if finding.kind == "hidden pairs")
    if findings[0].severity == "note" and are_most(hidden, facts):
        return _PAIRED
    return _HEADLINES[findings[0].severity]


def sentences(facts: Sequence[Facts], findings: Sequence[Finding]) -> str:
    """What there is, how much was found, and what can be done with it."""
    contrasts = sorted(Counter(one.contrast for one in facts).items())
    told = ", ".join(f"{count} {contrast}" for contrast, count in contrasts)
    subjects = {one.job.scan.subject for one in facts} - {None}
    people = f" of {counted(len(subjects), 'subject')}" if subjects else ""
    parts = [f"{counted(len(facts), 'scan')}{people} ({told})"]
    severities = Counter(finding.severity for finding in findings)
    found = [counted(severities[s], s) for s in ("fault", "warning", "note") if severities[s]]
    if found:
        parts.append(" and ".join(found))
    parts += _both_contrasts(facts)
    if 0 < len(subjects) < _FEW:
        few = "1 subject is" if len(subjects) == 1 else f"{len(subjects)} subjects are"
        parts.append(f"{few} too few for prepare to keep one aside for a test")
    return ". ".join(parts) + "."


def _both_contrasts(facts: Sequence[Facts]) -> list[str]:
    """How many subjects (sessions) have the first two contrasts that there are, and whether on one
    grid: who wants to score syntheses, or to train on pairs, needs both."""
    for pair in combinations(CONTRASTS, 2):
        if {one.contrast for one in facts}.issuperset(pair):
            break
    else:
        return []
    persons: dict[tuple[str, str | None], dict[str, set[str]]] = defaultdict(
        lambda: defaultdict(set)
    )
    for one in facts:
        scan = one.job.scan
        if scan.subject is not None and not one.is_picture:
            persons[scan.subject, scan.session][one.contrast].add(one.grid)
    both = [grids for grids in persons.values() if all(grids.get(c) for c in pair)]
    if not both:
        return []
    apart = sum(not grids[pair[0]] & grids[pair[1]] for grids in both)
    sessions = any(session is not None for _, session in persons)
    whose = "subjects' sessions" if sessions else "subjects"
    text = f"{len(both)} of {len(persons)} {whose} have both {pair[0]} and {pair[1]}, "
    if not apart:
        return [text + "on one grid: syntheses can be scored on them"]
    some = "" if apart == len(both) else f" ({apart} of them)"
    remedy = "evaluate registers them, prepare does with --register rigid"
    return [f"{text}on different grids{some}: {remedy}"]
