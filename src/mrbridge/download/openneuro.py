"""Data sets of OpenNeuro: the wanted contrasts of one snapshot, as they lie in the archive.

Source: https://docs.openneuro.org; licence: https://docs.openneuro.org/faq.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrbridge import progress
from mrbridge.download.files import already_there, fetch
from mrbridge.download.folder import Folder, together, write_citation
from mrbridge.download.http import Session
from mrbridge.download.report import Plan, Report
from mrbridge.download.snapshot import SITE, Archive, RemoteFile, Snapshot, is_scan
from mrbridge.io.safety import write_text

TERMS = (
    "OpenNeuro releases newly published data sets, and new versions of older ones, under CC0 "
    "(https://docs.openneuro.org/faq.html)"
)


def download_openneuro(
    session: Session,
    dataset: str,
    out: Path,
    *,
    version: str | None = None,
    contrasts: Sequence[str] = ("T1w", "T2w"),
    subjects: Sequence[str] | None = None,
    site: str = SITE,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Report:
    """Transfer the scans of some contrasts of a data set, with what describes them.

    Args:
        session: the connections.
        dataset: such as ds002330.
        out: the folder; it becomes a BIDS data set.
        version: such as 1.1.0; None for the newest, or for the one that is in the folder.
        contrasts: BIDS suffixes.
        subjects: labels, with or without `sub-`; None for all.
        site: a mirror's address.
        dry_run: only plan.
        overwrite: fetch again also the scans that are there.

    Raises:
        InputError: there is no such thing, or no way to it.
        OutputError: the folder holds something else, or there is no room.
        Interrupted: Ctrl-C.
    """
    begun = Folder(out, {"source": "openneuro", "dataset": dataset}).record.get("version")
    labels = None if subjects is None else [label.removeprefix("sub-") for label in subjects]
    snapshot = Archive(session, site).list_files(dataset, version or begun, contrasts, labels)
    folder = Folder(out, {"source": "openneuro", "dataset": dataset, "version": snapshot.version})
    missing = [
        file
        for file in snapshot.files
        if (overwrite and is_scan(file.path)) or not _is_there(out, file)
    ]
    to_come = sum((file.expected.size or 0) - already_there(out / file.path) for file in missing)
    plan = Plan(
        title=f"{dataset} {snapshot.version}",
        files=len(snapshot.files),
        bytes=sum(file.expected.size or 0 for file in snapshot.files),
        missing_files=len(missing),
        missing_bytes=to_come,
        licence=snapshot.licence,
    )
    folder.must_have_room(to_come)
    failed: dict[str, str] = {}
    if not dry_run:
        plan.announce()
        with folder.writing():
            folder.save(url=snapshot.url)
            _write_licence(out, snapshot)
            failed = _transfer(session, out, missing, plan)
    scans = sum(is_scan(file.path) and _is_there(out, file) for file in snapshot.files)
    return Report(str(out), plan, scans, failed, dry_run)


def _transfer(
    session: Session, out: Path, missing: Sequence[RemoteFile], plan: Plan
) -> dict[str, str]:
    total = sum(file.expected.size or 0 for file in missing)
    with progress.transfer(plan.title, total) as advance:

        def one(file: RemoteFile) -> None:
            fetch(session, file.url, out / file.path, file.expected, advance)

        failed = together(missing, one, workers=session.settings.workers, stop=session.stop)
    return {file.path: str(error) for file, error in failed.items()}


def _write_licence(out: Path, snapshot: Snapshot) -> None:
    """Licence and citation beside the data, unless it brings its own or they are there."""
    own = {file.path for file in snapshot.files} | {path.name for path in out.iterdir()}
    about = snapshot.about
    name = str(about.get("Name") or snapshot.dataset)
    doi = str(about.get("DatasetDOI") or "").removeprefix("doi:")
    if "LICENSE" not in own:
        text = (
            f"{name} ({snapshot.dataset}, version {snapshot.version}, {snapshot.url})\n\n"
            f"Licence in its dataset_description.json: {snapshot.licence}\n{TERMS}.\n"
        )
        if about.get("HowToAcknowledge"):
            text += f"\nHow to acknowledge: {about['HowToAcknowledge']}\n"
        write_text(out / "LICENSE", text)
    if "CITATION.cff" not in own:
        authors = [str(author) for author in about.get("Authors") or [] if author]
        more = {"version": snapshot.version} | ({"doi": doi} if doi.startswith("10.") else {})
        if snapshot.licence.upper() in ("CC0", "CC0-1.0"):
            more["license"] = "CC0-1.0"
        write_citation(
            out,
            title=name,
            url=snapshot.url,
            authors=authors or [f"The authors of {snapshot.dataset}"],
            **more,
        )


def _is_there(out: Path, file: RemoteFile) -> bool:
    """A file has its final name only when it was whole; a scan's size tells whether it still is.

    Tables and descriptions people may have changed since: they stay.
    """
    path = out / file.path
    if not path.is_file():
        return False
    return path.stat().st_size == file.expected.size or not is_scan(file.path)
