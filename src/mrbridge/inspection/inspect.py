"""Looking at every scan of a data set or store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrbridge import scale
from mrbridge.errors import InputError, Interrupted, MrbridgeError, OutputError
from mrbridge.inspection.alike import find_alike
from mrbridge.inspection.facts import Facts, Job, find_facts
from mrbridge.inspection.finding import Finding, Group, Severity, by_severity
from mrbridge.inspection.hidden import find_hidden_pairs
from mrbridge.inspection.sanity import find_faults
from mrbridge.inspection.verdict import headline, sentences
from mrbridge.io.bids import find_all_scans
from mrbridge.io.formats import is_dicom
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.places import here
from mrbridge.io.scans import Scan
from mrbridge.page import counted
from mrbridge.preparation.inspect import told_of_ignored
from mrbridge.preparation.store import Store, is_store
from mrbridge.urls import shown

_SHOWN = 3  # groups of a finding, in words
_IMPORTS = ("mrbridge.preparation.pipeline",)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        path: what was inspected.
        form: `store`, `dicom` or `files`.
        facts: of every scan that could be read.
        failed: the scans that could not, each with the reason.
        ignored: files that are no scans of a contrast that mrbridge knows, each with the reason.
        findings: the worst first.
        seconds: how long it took.
    """

    path: Path
    form: str
    facts: list[Facts]
    failed: list[tuple[Job, str]]
    ignored: list[tuple[str, str]]
    findings: list[Finding]
    seconds: float

    @property
    def called(self) -> str:
        """What it is of. Folders and files of DICOM often bear names of patients."""
        return "DICOM" if self.form == "dicom" else self.path.resolve().name or "data"

    @property
    def contrasts(self) -> dict[str, int]:
        """How many scans of each contrast could be read."""
        return dict(sorted(Counter(one.contrast for one in self.facts).items()))

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding."""
        return self.findings[0].severity if self.findings else None

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        return headline(self.facts, self.findings)

    @property
    def verdict(self) -> str:
        """In a line and some sentences."""
        return f"{self.headline}. {sentences(self.facts, self.findings)}"

    def words(self) -> str:
        """The verdict, then a line for each finding."""
        lines = [self.verdict]
        for finding in self.findings:
            names = "; ".join(group.words() for group in finding.groups[:_SHOWN])
            more = len(finding.groups) - _SHOWN
            tail = f" {names}" + (f"; and {more} more" if more > 0 else "") if names else ""
            lines.append(f"{finding.severity}: {finding.kind}: {finding.text}{tail}")
        return "\n".join(lines)

    def told(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "path": shown(self.path),
            "form": self.form,
            "contrasts": self.contrasts,
            "headline": self.headline,
            "verdict": self.verdict,
            "findings": [finding.told() for finding in self.findings],
            "failed": [{"scan": job.name, "reason": reason} for job, reason in self.failed],
            "ignored": told_of_ignored(self.form, self.ignored),
            "seconds": round(self.seconds, 1),
        }


def inspect_images(path: str | Path, *, workers: scale.Workers = 1) -> Inspection:
    """Read every scan and look for what is wrong. The source is never changed.

    What is found is the same for any number of workers.

    Args:
        path: a BIDS data set, folders of NIfTI files or pictures, a table, a folder or zip of
            DICOM files, or a prepared store.
        workers: processes, or the address of a Dask scheduler, whose workers see the same files
            at the same absolute paths.

    Raises:
        InputError: there is nothing that can be read.
        StoreError: a store is damaged.
    """
    path, began = Path(here(path)), time.monotonic()
    form, jobs, ignored = _jobs(path.absolute())  # as all workers understand it
    facts: list[Facts] = []
    failed: list[tuple[Job, str]] = []
    try:
        for job, outcome in scale.map_scans(
            find_facts, jobs, workers=workers, label="Inspecting", imports=_IMPORTS
        ):
            if isinstance(outcome, MrbridgeError):
                failed.append((job, outcome.what))
            else:
                facts.append(outcome)
    except KeyboardInterrupt:
        counts = {"done": len(facts), "failed": len(failed), "scans": len(jobs)}
        raise Interrupted(
            f"interrupted after {len(facts) + len(failed)} of {len(jobs)} scans",
            path=path,
            remedy="Nothing is written.",
            counts=counts,
        ) from None
    if not facts:
        reasons = Counter([*(r for _, r in failed), *(r for _, r in ignored)]).most_common(3)
        told = "; ".join(f"{counted(count, 'file')}: {reason}" for reason, count in reasons)
        raise InputError(
            "holds no scan that can be inspected" + (f" ({told})" if told else ""),
            path=path,
            remedy="Name files or folders after their contrast, or give a table (subject, "
            "session, contrast, path).",
        )
    findings = find_everything(facts, failed, workers)
    return Inspection(path, form, facts, failed, ignored, findings, time.monotonic() - began)


def find_everything(
    facts: Sequence[Facts],
    failed: Sequence[tuple[Job, str]] = (),
    workers: scale.Workers = 1,
) -> list[Finding]:
    """All findings, the worst first.

    Args:
        facts: of the scans that could be read, at least one.
        failed: those that could not, each with the reason.
        workers: who reads scans again, where these facts are not enough.
    """
    told = (
        *(_unreadable(failed), find_hidden_pairs(facts, workers)),
        *(find_alike(facts), find_faults(facts)),
    )
    return by_severity([finding for some in told for finding in some])


def _jobs(path: Path) -> tuple[str, list[Job], list[tuple[str, str]]]:
    if (path / "manifest.json").is_file() and is_store(path):
        store = Store.open(path)
        records = store.records()
        scans = [Scan(path, r.subject, r.session, r.contrast, r.name) for r in records]
        left = [*store.manifest.failures, *store.manifest.ignored]
        ignored = [(remark.name, remark.reason) for remark in left]
        jobs = [Job(r.id, scan, r) for r, scan in zip(records, scans, strict=True)]
        return "store", jobs, ignored
    found = find_all_scans(path)
    root = path if path.is_dir() else path.parent
    ignored = [(_below(file, root), reason) for file, reason in found.ignored]
    form = "dicom" if is_dicom(path) else "files"
    names: Counter[str] = Counter()
    jobs = []
    for scan in found.scans:
        name = _name(scan, root)
        names[name] += 1  # a table may name a file twice
        unique = name if names[name] == 1 else f"{name} ({names[name]})"
        jobs.append(Job(unique, scan, allow_gaps=True))
    return form, jobs, ignored


def _name(scan: Scan, root: Path) -> str:
    if scan.series is None:
        return _below(scan.path, root)
    return f"{scan.subject} {scan.name}"  # numbers of series start again with every patient


def _below(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else shown(file)


def _unreadable(failed: Sequence[tuple[Job, str]]) -> list[Finding]:
    if not failed:
        return []
    groups = tuple(Group((job.name,), reason) for job, reason in failed)
    return [
        Finding(
            "unreadable scans",
            "fault",
            f"{counted(len(failed), 'scan')} cannot be used.",
            "Fetch or export them again; --fix leaves them out.",
            groups,
        )
    ]


def findings_beside(page: Path) -> Path:
    """Where all scans and findings lie, beside a page."""
    return page.with_suffix(".findings.json")


def check_report(out: Path) -> None:
    """Refuse a place where a page does not belong: it could be a scan.

    Raises:
        OutputError: the name does not end as a page's does, or mrbridge did not make what lies
            there.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(
            "is not a name for a page", path=out, remedy="Let it end in .html, as report.html does."
        )
    must_be_ours(out)
    must_be_ours(findings_beside(out))
