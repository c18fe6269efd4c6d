"""The verb `inspect`: what a dataset holds, and what is wrong with it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge import parallel
from mrbridge.errors import InputError, Interrupted, MrbridgeError, must_exist
from mrbridge.inspection.findings import SEVERITIES, Finding, Group, finding
from mrbridge.inspection.headers import Item, below, holds_store, list_headers, table_of
from mrbridge.io.bids import find_all_scans
from mrbridge.io.formats import is_dicom
from mrbridge.io.remote import localise
from mrbridge.io.scans import Scan, why_left_out
from mrbridge.reports import counted, render, some
from mrbridge.settings import checked
from mrbridge.text import shown

if TYPE_CHECKING:
    from mrbridge.inspection.facts import Entry, Facts

_IMPORTS = ("mrbridge.dataset.prepare",)
_NAMED = 5  # scans that the table leaves out, in words


@dataclass(frozen=True, repr=False)
class Inspection:
    """What a dataset holds; after its images were read, also what is wrong with it.

    Attributes:
        form: `dicom`, `files`, `table` or `store`.
        ignored: files that are not scans of a contrast that mrbridge knows, each with the reason.
        items: the scans by their headers; empty if the images were read.
        splits: of a store, the slices of each contrast in each split and in none.
        facts: measurements of every scan whose image could be read.
        failed: the scans whose image could not be read, each with the reason.
        findings: the worst first.
        headline, summary: the verdict in one line, and in some sentences.
        seconds: how long the images took; None if only headers were read.
        report, table: the page, and the table for `prepare`, if they were written.
        left_out: scans that the table leaves out, each with the reason.
    """

    path: Path
    form: str
    ignored: list[tuple[str, str]]
    items: list[Item] = field(default_factory=list)
    splits: dict[str, dict[str, int]] | None = None
    facts: list[Facts] = field(default_factory=list)
    failed: list[tuple[Entry, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    headline: str = ""
    summary: str = ""
    seconds: float | None = None
    report: Path | None = None
    table: Path | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name in reports. Folders and files of DICOM often bear the names of patients."""
        return "DICOM" if self.form == "dicom" else self.path.resolve().name or "data"

    @property
    def contrasts(self) -> dict[str, int]:
        """The number of scans of each contrast whose image could be read."""
        return dict(sorted(Counter(one.contrast for one in self.facts).items()))

    @property
    def verdict(self) -> str:
        """Headline and summary."""
        return f"{self.headline}. {self.summary}"

    def findings_json(self) -> dict[str, Any]:
        """What does not depend on how the images were read, for JSON."""
        return {
            "form": self.form,
            "contrasts": self.contrasts,
            "headline": self.headline,
            "verdict": self.verdict,
            "findings": [one.as_json() for one in self.findings],
            "failed": [{"scan": entry.name, "reason": reason} for entry, reason in self.failed],
            "ignored": self._ignored_json(),
        }

    def as_json(self) -> dict[str, Any]:
        """The answer of `--json`."""
        result: dict[str, Any] = {"path": shown(self.path)}
        if self.seconds is None:
            items = [asdict(item) for item in self.items]
            result |= {"form": self.form, "items": items, "ignored": self._ignored_json()}
            return result if self.splits is None else result | {"splits": self.splits}
        result |= self.findings_json() | {"seconds": round(self.seconds, 1)}
        if self.table is not None:
            left_out = [{"scan": name, "reason": reason} for name, reason in self.left_out]
            result |= {"table": str(self.table), "left_out": left_out}
        if self.report is not None:
            complete = self.report.with_suffix(".findings.json")
            result |= {"report": str(self.report), "complete": str(complete)}
        return result | {"peak_memory_mib": _peak_memory_mib()}

    def _ignored_json(self) -> list[dict[str, Any]]:
        if self.form != "dicom":
            return [{"file": name, "reason": reason} for name, reason in self.ignored]
        # Counted only: scanners and archives name files after the patient.
        counts = Counter(reason for _, reason in self.ignored)
        return [{"files": count, "reason": reason} for reason, count in counts.items()]

    def __repr__(self) -> str:
        return "\n".join(self._listing() if self.seconds is None else self._findings())

    def _repr_html_(self) -> str:
        rows = [
            (i.name, i.kind, i.contrast or "", i.shape or "", i.spacing_mm or "", i.problem or "")
            for i in self.items
        ]
        return render("inspection_notebook.html.j2", result=self, rows=rows)

    def _listing(self) -> list[str]:
        """A table of the headers, the problems, and the files that were left out."""
        usable = sum(item.problem is None for item in self.items)
        noun = {"dicom": "series", "store": "scans"}.get(self.form, "files")
        line = f"{usable} of {len(self.items)} {noun} can be used as they are"
        if self.form != "dicom":
            counts = Counter(item.contrast or "of unknown contrast" for item in self.items)
            line += ": " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        lines = [table_of(self.items, self.form), line]
        for item in self.items:
            if item.contrast and self.form == "dicom":
                lines.append(f"  {item.name}: {item.contrast}, {item.reason}")
            lines += [f"  {item.name}: {text}" for text in (*item.notes, item.problem) if text]
        if self.splits is not None:
            from mrbridge.dataset.store import splits_in_words

            lines.append(f"Splits: {splits_in_words(self.splits)}")
        for reason, count in Counter(reason for _, reason in self.ignored).most_common():
            lines.append(f"left out ({reason}): {counted(count, 'file')}")
        if self.form != "store" and any(item.kind != "picture" for item in self.items):
            lines.append("Only headers and sizes were checked; -o FILE.html reads the images too.")
        return lines

    def _findings(self) -> list[str]:
        """The verdict, the findings, and what was written."""
        lines = [self.verdict, *map(str, self.findings)]
        if self.table is not None:
            kept = len(self.facts) + len(self.failed) - len(self.left_out)
            line = f"Table: {self.table} ({counted(kept, 'scan')}"
            if self.left_out:
                names = (f"{name} {reason}" for name, reason in self.left_out)
                line += f", without {len(self.left_out)}: {some(names, _NAMED, '; ')}"
            lines.append(line + ")")
        if self.report is not None:
            lines.append(f"Report: {self.report}; complete list: {self.as_json()['complete']}")
        memory = _peak_memory_mib()
        tail = "" if memory is None else f", {memory} MiB of memory in the main process"
        return [*lines, f"Time: {self.seconds:.0f} s{tail}"]


@checked
def inspect(
    path: str | Path,
    out: str | Path | None = None,
    fix: str | Path | None = None,
    workers: parallel.Workers = 1,
    *,
    images: bool = False,
    overwrite: bool = False,
) -> Inspection:
    """List the scans of a dataset from their headers, or read and check their images.

    The source is never changed. The result is the same for any number of workers.

    Args:
        path: a BIDS dataset, folders of NIfTI files or 2D images, a table, a folder or zip of
            DICOM files, a prepared store, or (headers only) a single scan.
        out: write a page (.html) with the findings, and next to it `.findings.json` with all scans
            and findings. The images are read.
        fix: write a table (.csv) for `prepare` without exact copies and scans that cannot be read.
            The images are read.
        workers: processes, or the address of a Dask scheduler whose workers have access to the same
            files at the same absolute paths.
        images: read and check the images even if nothing is written.
        overwrite: replace an existing table; an existing page is replaced in any case.

    Raises:
        InputError: there are no scans, or a table cannot describe them.
        OutputError: page or table cannot be written there.
        StoreError: a store is damaged.
    """
    path = Path(localise(path))
    page, table = (None if place is None else Path(localise(place)) for place in (out, fix))
    must_exist(path)
    if page is None and table is None and not images:
        listing = list_headers(path)
        if not listing.items:
            raise InputError(
                f"holds no scan{why_left_out(listing.ignored)}",
                path=path,
                remedy="Name a folder or file of scans.",
            )
        return Inspection(path, listing.form, listing.ignored, listing.items, listing.splits)
    from mrbridge.inspection import report

    if page is not None:
        report.check_place(page)
    if table is not None:
        report.check_table(table, overwrite=overwrite)
        report.check_source(path)
    result = _read_images(path, workers)
    if table is not None:
        left_out = report.write_table(result, table, overwrite=overwrite)
        result = replace(result, table=table, left_out=left_out)
    if page is not None:
        report.write_report(result, page)
        result = replace(result, report=page)
    return result


def _read_images(path: Path, workers: parallel.Workers) -> Inspection:
    """Measure every scan, and run the checks."""
    from mrbridge.inspection.facts import measure
    from mrbridge.inspection.findings import find_unknown
    from mrbridge.inspection.report import headline, summary

    if path.is_file() and path.suffix.lower() not in (".csv", ".tsv", ".zip"):
        raise InputError(
            "is a single file, and checks compare several scans",
            path=path,
            remedy="Name its folder, or leave out -o and --fix.",
        )
    start = time.monotonic()
    form, entries, ignored = _entries(path.absolute())  # workers may run in another folder
    facts: list[Facts] = []
    failed: list[tuple[Entry, str]] = []
    try:
        for entry, result in parallel.map_scans(
            measure, entries, workers=workers, label="Inspecting", imports=_IMPORTS
        ):
            if isinstance(result, MrbridgeError):
                failed.append((entry, result.what))
            else:
                facts.append(result)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted after {len(facts) + len(failed)} of {len(entries)} scans",
            path=path,
            remedy="Nothing is written.",
            counts={"done": len(facts), "failed": len(failed), "scans": len(entries)},
        ) from None
    if not facts:
        reasons = Counter([*(r for _, r in failed), *(r for _, r in ignored)]).most_common(3)
        why = "; ".join(f"{counted(count, 'file')}: {reason}" for reason, count in reasons)
        raise InputError(
            "holds no scan that can be inspected" + (f" ({why})" if why else ""),
            path=path,
            remedy="Name files or folders after their contrast, or use a table (subject, "
            "session, contrast, path).",
        )
    findings = run_checks(facts, failed, workers)
    return Inspection(
        path,
        form,
        ignored,
        facts=facts,
        failed=failed,
        findings=findings + find_unknown(facts),
        headline=headline(facts, findings),
        summary=summary(facts, findings),
        seconds=time.monotonic() - start,
    )


def run_checks(
    facts: Sequence[Facts],
    failed: Sequence[tuple[Entry, str]] = (),
    workers: parallel.Workers = 1,
) -> list[Finding]:
    """All findings, the worst first.

    `facts` are of at least one scan; `failed` are those that could not be read, with the reasons.
    """
    from mrbridge.inspection.duplicates import find_duplicates, find_undeclared_pairs
    from mrbridge.inspection.findings import find_outliers

    findings = []
    if failed:
        groups = [Group((entry.name,), reason) for entry, reason in failed]
        findings.append(finding("unreadable", groups, scans=counted(len(failed), "scan")))
    findings += find_undeclared_pairs(facts, workers)
    findings += find_duplicates(facts)
    findings += find_outliers(facts)
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def _entries(path: Path) -> tuple[str, list[Entry], list[tuple[str, str]]]:
    """Form, scans, and the files that are left out, each with the reason."""
    from mrbridge.dataset.store import Store
    from mrbridge.inspection.facts import Entry

    if holds_store(path):
        store = Store.open(path)
        left_out = [*store.manifest.failures, *store.manifest.ignored]
        entries = [
            Entry(r.id, Scan(path, r.subject, r.session, r.contrast, r.name), r)
            for r in store.records()
        ]
        return "store", entries, [(remark.name, remark.reason) for remark in left_out]
    found = find_all_scans(path)
    root = path if path.is_dir() else path.parent
    form = "dicom" if is_dicom(path) else "files" if path.is_dir() else "table"
    counts: Counter[str] = Counter()
    entries = []
    for scan in found.scans:
        # Series numbers are unique only within a patient.
        name = f"{scan.subject} {scan.name}" if scan.series else below(scan.path, root)
        counts[name] += 1  # a table may name a file twice
        entries.append(Entry(name if counts[name] == 1 else f"{name} ({counts[name]})", scan))
    return form, entries, [(below(file, root), reason) for file, reason in found.ignored]


def _peak_memory_mib() -> int | None:
    """The largest memory of this process so far; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, else KiB
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
