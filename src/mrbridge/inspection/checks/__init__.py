"""The checks of an inspection: each takes the facts of all scans and returns its findings."""

from __future__ import annotations

from collections.abc import Sequence

from mrbridge import scale
from mrbridge.inspection.checks.duplicates import find_duplicates
from mrbridge.inspection.checks.orientation import check_orientation
from mrbridge.inspection.checks.sanity import check_sanity
from mrbridge.inspection.checks.undeclared_pairs import find_undeclared_pairs
from mrbridge.inspection.facts import Entry, Facts
from mrbridge.inspection.findings import Finding, Group, by_severity, finding
from mrbridge.reports import counted


def run_checks(
    facts: Sequence[Facts],
    failed: Sequence[tuple[Entry, str]] = (),
    workers: scale.Workers = 1,
) -> list[Finding]:
    """All findings, the worst first.

    Args:
        facts: of the scans that could be read, at least one.
        failed: the others, each with the reason.
        workers: processes, or the address of a Dask scheduler, for checks that read scans again.
    """
    findings = []
    if failed:
        groups = [Group((entry.name,), reason) for entry, reason in failed]
        findings.append(finding("unreadable", groups, scans=counted(len(failed), "scan")))
    findings += find_undeclared_pairs(facts, workers)
    findings += find_duplicates(facts)
    findings += check_sanity(facts)
    findings += check_orientation(facts)
    return by_severity(findings)
