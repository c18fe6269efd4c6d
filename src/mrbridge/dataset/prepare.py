"""The verb `prepare`: from any supported input to a prepared dataset (store)."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge import __version__, parallel
from mrbridge.dataset.pairs import show_one_head
from mrbridge.dataset.prepare_scan import Job, prepare_scan, prepare_scans
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.split import Request, split_scans
from mrbridge.dataset.store import (
    Manifest,
    Remark,
    ScanRecord,
    Store,
    array_path,
    data_hash,
    is_our_array,
    is_store,
    read_slices,
    write_manifest,
    write_scan,
)
from mrbridge.errors import (
    InputError,
    Interrupted,
    MrbridgeError,
    OutputError,
    SomeScansFailed,
    warn,
)
from mrbridge.extensions import completed
from mrbridge.io.atomic import write_json, writing
from mrbridge.io.bids import NOT_RAW, find_scans
from mrbridge.io.bids_name import parse_name
from mrbridge.io.formats import is_2d, unreadable_folders
from mrbridge.io.lock import only_writer
from mrbridge.io.names import folded
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.remote import localise, not_fetched, release_when_done, remove
from mrbridge.io.scans import FoundScans, Scan, log_left_out, outside, why_left_out
from mrbridge.io.temporary import is_temporary, sweep
from mrbridge.preprocessing.intensity import (
    OTHER_CONTRAST,
    IntensityNormalisation,
    learned_levels,
    median_normalisation,
    rescaled,
)
from mrbridge.preprocessing.skull_strip import hd_bet_program, mask_path
from mrbridge.reports import counted, some
from mrbridge.settings import checked
from mrbridge.text import shown

log = logging.getLogger(__name__)

_OTHER_SIZE = 1.3  # least ratio of the sizes of heads in the 2D images of two contrasts to warn of
_APART = 0.1  # by how much the skewness of T1w exceeds that of T2w if they are swapped
_COMPARED = 5  # pairs of 2D images of each subject
REPORT = "report.json"
"""In the store, next to the manifest: files that were left out, and failures."""


@checked
def prepare(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    settings: PrepareSettings | None = None,
    *,
    workers: parallel.Workers = 1,
    overwrite: bool = False,
    force: bool = False,
) -> Store:
    """Prepare a dataset for training.

    Scans that are already in the store, from the same bytes with the same settings, are kept; the
    result is the same for any number of workers.

    Args:
        source: a BIDS folder, a folder, two folders (source contrast first), or a table, by path
            or URL; see `mrbridge.io.bids.find_scans`.
        out: the store, new or to be resumed, by path or URL.
        settings: contrasts, preprocessing, split; the defaults unless given.
        workers: processes, or the address of a Dask scheduler, whose workers see the same files
            at the same absolute paths.
        overwrite: prepare all scans again, even those that are in the store already.
        force: include what its name or header says to be something else (see `find_scans`).

    Raises:
        InputError: nothing usable of one of the contrasts.
        OutputError: `out` is not a store, or cannot be written.
        SomeScansFailed: some scans could not be used; the store is complete without them.
        Interrupted: by a signal; scans that are prepared stay, and `report.json` lists them.
    """
    settings = completed(settings or PrepareSettings())
    several = list(source) if isinstance(source, list | tuple) else [source]
    roots = [Path(root) for root in parallel.reachable(localise(several), workers)]
    out = Path(parallel.reachable(localise(out), workers))
    if settings.standard.brain == "hd-bet":
        hd_bet_program()  # once, not for each scan
    scans = _find(roots, out, settings, force=force)
    _must_be_store(out)
    with only_writer(out):
        return _prepare(scans, roots, out, settings, workers, overwrite=overwrite, force=force)


def _prepare(
    scans: FoundScans,
    roots: list[Path],
    out: Path,
    settings: PrepareSettings,
    workers: parallel.Workers,
    *,
    overwrite: bool,
    force: bool,
) -> Store:
    """Prepare scans as the only writer of the store."""
    _must_be_store(out)  # once more, now that only this process writes
    with writing(out):
        (out / "scans").mkdir(parents=True, exist_ok=True)
    sweep(out)
    sweep(out / "scans")
    if overwrite:
        _remove_others(out, set())
    jobs = _jobs(scans.scans, out, settings, force=force)
    prepared: list[Request] = []
    failures = [
        Remark(name=_shown(path, roots), reason=reason)
        for root in roots
        for path, reason in unreadable_folders(root, NOT_RAW)
    ]
    ignored = [Remark(name=_shown(path, roots), reason=reason) for path, reason in scans.ignored]
    outcomes = _outcomes(jobs, workers)
    try:
        for job, outcome in release_when_done(outcomes, jobs, lambda job: job.touched):
            name = _shown(job.scan.path, roots) if job.scan.series is None else job.scan.name
            if isinstance(outcome, OutputError):
                raise outcome  # not the scan's fault, and the others would meet it, too
            if isinstance(outcome, MrbridgeError):
                if outcome.path is not None and not_fetched(outcome.path) is not None:
                    log.error("%s", outcome)  # with the command that fetches it
                failures.append(Remark(name=name, reason=outcome.what))
            elif outcome is None:
                ignored.append(Remark(name=name, reason="shows nothing"))
            else:
                prepared.append(Request(outcome, job.scan.split))
    except KeyboardInterrupt:
        # What is in the store stays, and so does an earlier manifest.
        records = [one.record for one in prepared]
        write_json(out / REPORT, _report(records, failures, ignored) | {"interrupted": True})
        raise Interrupted(
            f"interrupted after {len(prepared) + len(failures)} of {len(jobs)} scans",
            path=out,
            remedy="Run it again: it continues from here.",
            counts={"done": len(prepared), "failed": len(failures), "scans": len(jobs)},
        ) from None
    places = {job.id: place for place, job in enumerate(jobs)}
    prepared.sort(key=lambda one: places[one.record.id])
    sweep(out / "scans")  # what killed workers left
    log_left_out(
        [(Path(remark.name), remark.reason) for remark in ignored],
        None if any(job.scan.series for job in jobs) else Path(),
    )
    _check_contrasts(Counter(one.record.contrast for one in prepared), settings, failures)
    manifest = _manifest(prepared, failures, ignored, settings)
    if settings.standard.intensity.method == "nyul":
        manifest = _standard_scale(manifest, out, {job.id: job for job in jobs})
    _warn_about_copies(manifest.records)
    _warn_about_sizes(manifest.records)
    _warn_about_contrasts(manifest.records)
    _remove_others(out, {record.id for record in manifest.records})
    write_manifest(out, manifest)
    write_json(out / REPORT, _report(manifest.records, failures, ignored))
    store = Store.open(out)
    _warn_about_2d_pairs(store)
    if failures:
        raise SomeScansFailed(
            f"{len(failures)} of {len(jobs)} scans failed ({_listed(failures)}); the store "
            "is complete without them",
            path=out,
            remedy="Repair or remove them, and run mrbridge prepare again.",
            result=store,
        )
    return store


def _outcomes(
    jobs: list[Job], workers: parallel.Workers
) -> Iterator[tuple[Job, ScanRecord | MrbridgeError | None]]:
    """Prepare all scans session by session, each session in one process.

    A session whose processes were killed is split, so that one scan does not spoil the others.
    """
    sessions: dict[object, list[Job]] = {}
    for job in jobs:
        scan = job.scan
        has_reference = scan.subject is not None and not is_2d(scan.path)
        key = (scan.subject, scan.session) if has_reference else job.id
        sessions.setdefault(key, []).append(job)
    for several in sessions.values():
        several.sort(key=lambda job: job.reference is not None)
    rest = list(sessions.values())
    while rest:
        split: list[list[Job]] = []
        for several, outcome in parallel.map_scans(
            prepare_scans, rest, workers=workers, label="Preparing", imports=["zarr"]
        ):
            if not isinstance(outcome, MrbridgeError):
                yield from zip(several, outcome, strict=True)
            elif len(several) > 1:
                split += [[job] for job in several]
            else:
                yield several[0], outcome
        rest = split


def _find(roots: list[Path], out: Path, settings: PrepareSettings, *, force: bool) -> FoundScans:
    scans = outside(find_scans(roots, settings.contrasts, force=force), out)
    present = Counter(scan.contrast for scan in scans.scans)
    missing = [c for c in settings.contrasts if not present[c]]
    if missing:
        counts = ", ".join(f"{count} {contrast}" for contrast, count in sorted(present.items()))
        raise InputError(
            f"holds no {' and no '.join(missing)} scans; found {counts or 'no scans'}"
            + why_left_out(scans.ignored),
            path=roots[0] if len(roots) == 1 else None,
            remedy="Name files or folders after their contrast, or give a table (subject, "
            "session, contrast, path).",
        )
    return scans


def _must_be_store(out: Path) -> None:
    if out.exists() and not (out.is_dir() and is_store(out)):
        raise OutputError("exists and is not a store", path=out, remedy="Choose another place.")
    must_be_ours(out / REPORT)


def _jobs(scans: list[Scan], out: Path, settings: PrepareSettings, *, force: bool) -> list[Job]:
    taken: set[str] = set()
    # The first scan of the source contrast of each subject and session. Those of the target
    # contrast are registered to it, and others on its grid cropped like it.
    references: dict[tuple[str | None, str | None], Scan] = {
        (scan.subject, scan.session): scan
        for scan in reversed(scans)
        if scan.contrast == settings.source and scan.subject is not None and not is_2d(scan.path)
    }
    jobs = []
    for scan in scans:
        plain = _plain_id(scan)
        id, number = plain, 1
        while folded(id) in taken:
            number += 1
            id = f"{plain}_{number}"
        taken.add(folded(id))
        reference = references.get((scan.subject, scan.session))
        if reference is scan or is_2d(scan.path):
            reference = None
        mask = None
        if settings.standard.brain == "mask" and scan.series is None:
            mask = mask_path(scan.path, settings.standard.brain_mask)
        jobs.append(Job(scan, id, out, settings, reference, mask, force))
    return jobs


def _plain_id(scan: Scan) -> str:
    """The name of a scan in the store: its BIDS name, or subject, session, contrast and file."""
    stem = scan.name.split(".")[0]
    if parse_name(scan.name) is not None:
        return stem
    parts = [scan.subject, scan.session, scan.contrast, stem]
    return "_".join(re.sub(r"[^a-zA-Z0-9-]+", "-", part).strip("-") for part in parts if part)[:120]


def _check_contrasts(done: Counter[str], settings: PrepareSettings, failures: list[Remark]) -> None:
    missing = [c for c in settings.contrasts if not done[c]]
    if missing:
        raise InputError(
            f"no {' and no '.join(missing)} scan could be used "
            f"({_listed(failures) or 'all are empty'})",
            remedy="Repair the scans, and run mrbridge prepare again.",
        )


def _warn_about_copies(records: Sequence[ScanRecord]) -> None:
    """Warn about equal files in several splits, or as several contrasts; also about equal scans in
    files that differ, such as `.nii` and `.nii.gz`."""
    copies: dict[str, list[ScanRecord]] = {}
    for record in records:
        for digest in (record.source_sha256, record.data_sha256):
            copies.setdefault(digest, []).append(record)
    groups = {tuple(one.id for one in group): group for group in copies.values() if len(group) > 1}
    several = [
        group
        for group in groups.values()
        if len({split for one in group for split in one.segments}) > 1
        or len({one.contrast for one in group}) > 1
    ]
    if several:
        count = f"{len(several)} files are" if len(several) > 1 else "one file is"
        warn(
            f"{count} in several splits, or as several contrasts, under different names, such as "
            f"{several[0][0].id} and {several[0][1].id}: scores will be inflated. mrbridge inspect "
            "--fix writes a table without copies."
        )


def _warn_about_contrasts(records: Sequence[ScanRecord]) -> None:
    """Warn about T1w scans that look like T2w and the reverse: all of them, or single volumes. Of
    2D images, many do not show the brain."""
    signs = {"T1w": 1, "T2w": -1}
    seen = [(one, one.skewness) for one in records if one.skewness is not None]
    t1w, t2w = ([value for one, value in seen if one.contrast == contrast] for contrast in signs)
    others = [
        one.id
        for one, value in seen
        if not one.is_2d and signs.get(one.contrast, 0) * value >= OTHER_CONTRAST
    ]
    if t1w and t2w and median(t1w) > median(t2w) + _APART:
        what = "scans that are given as T1w look like T2w, and those given as T2w like T1w"
    elif others:
        count = counted(len(others), "scan is", "scans are")
        what = f"{count} very likely T2w instead of T1w, or the reverse: {some(others)}"
    else:
        return
    warn(f"{what}; names, folders, or --source and --target may be swapped")


def _warn_about_sizes(records: Sequence[ScanRecord]) -> None:
    """Warn about 2D images whose heads have more pixels in one contrast than in the other."""
    pixels: dict[str, list[float]] = defaultdict(list)
    for one in records:
        if one.is_2d:
            pixels[one.contrast].append(math.sqrt(math.prod(one.shape[1:])))
    if not pixels:
        return
    medians = sorted((median(sizes), contrast) for contrast, sizes in pixels.items())
    (small, smaller), (large, larger) = medians[0], medians[-1]
    if large > _OTHER_SIZE * small:
        warn(
            f"heads in the {larger} images are about {large / small:.1f} times as large as in the "
            f"{smaller} images (by the median, {large:.0f} and {small:.0f} pixels): 2D images have "
            "no pixel size, so a model would learn to change the size of heads. Resample one of "
            "them to the pixel size of the other"
        )


def _warn_about_2d_pairs(store: Store) -> None:
    """Warn about subjects of whose pairs of 2D images most do not show one head in register, by a
    few of each."""
    pairs: dict[str | None, list[tuple[ScanRecord, ScanRecord]]] = defaultdict(list)
    for split in ("train", "val", "test"):
        for source, target, _ in store.pairs(split):
            if source.is_2d:
                pairs[source.subject].append((source, target))
    others = []
    for several in pairs.values():
        few = [several[n] for n in np.linspace(0, len(several) - 1, _COMPARED).astype(int)]
        alike = [show_one_head(*_in_place(store, *pair), None) for pair in few]
        if sum(alike) < len(few) / 2:
            others.append(few[0])
    if others:
        source, target = others[0]
        warn(
            f"2D images of {len(others)} of {len(pairs)} subjects, such as {source.name} and "
            f"{target.name} of {source.subject}, do not show the same anatomy, though they count "
            "as pairs: they are of two people or two slice positions, or the head moved"
        )


def _in_place(
    store: Store, one: ScanRecord, other: ScanRecord
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """2D images of one size, each (1, rows, columns), 0 is background, without their crops."""
    origins = np.rint([one.origin, other.origin]).astype(int)
    starts = origins - origins.min(axis=0)  # an origin is negative where the margin is beyond
    ends = starts + np.array([one.shape[1:], other.shape[1:]])
    first, second = images = np.zeros((2, 1, *ends.max(axis=0)), np.float32)
    for image, record, (top, left), (bottom, right) in zip(
        images, (one, other), starts, ends, strict=True
    ):
        image[:, top:bottom, left:right] = store.slices(record) + np.float32(1)
    return first, second


def _listed(failures: list[Remark]) -> str:
    """The first five."""
    return some((f"{remark.name}: {remark.reason}" for remark in failures), 5, "; ")


def _manifest(
    prepared: list[Request],
    failures: list[Remark],
    ignored: list[Remark],
    settings: PrepareSettings,
) -> Manifest:
    segments = split_scans(prepared, settings)
    records = [
        one.record.model_copy(update={"segments": segments[one.record.id]}) for one in prepared
    ]
    return Manifest(
        settings=settings,
        records=records,
        failures=failures,
        ignored=ignored,
        typical={
            contrast: median_normalisation(
                _training_curves([r for r in records if r.contrast == contrast])
            )
            for contrast in settings.contrasts
        },
    )


def _report(
    records: Sequence[ScanRecord], failures: Sequence[Remark], ignored: Sequence[Remark]
) -> dict[str, Any]:
    """What became of every file, in the format of the other verbs."""
    return {
        "created_by": f"mrbridge {__version__}",
        "done": [{"source": r.name, "id": r.id, "contrast": r.contrast} for r in records],
        "failed": [{"source": r.name, "error": r.reason} for r in failures],
        "ignored": [{"source": r.name, "reason": r.reason} for r in ignored],
    }


def _standard_scale(manifest: Manifest, out: Path, jobs: dict[str, Job]) -> Manifest:
    """All scans on the scale of their contrast, which is learned from the training scans."""
    records: dict[str, ScanRecord] = {}
    typical: dict[str, IntensityNormalisation] = {}
    for contrast in manifest.typical:
        ours = [record for record in manifest.records if record.contrast == contrast]
        levels = learned_levels(_training_curves(ours))
        on_scale = [_rescaled(record, levels, out, jobs[record.id]) for record in ours]
        records |= {record.id: record for record in on_scale}
        typical[contrast] = median_normalisation(_training_curves(on_scale))
    placed = [records[record.id] for record in manifest.records]
    return manifest.model_copy(update={"records": placed, "typical": typical})


def _rescaled(record: ScanRecord, levels: tuple[float, ...], out: Path, job: Job) -> ScanRecord:
    """A scan with its array converted to a scale, unless it has that scale already."""
    if record.recipe.levels == levels or not record.recipe.landmarks:
        return record
    if record.recipe.levels:  # of another scale: from the source again, bit-identical to the first
        remove(array_path(out, record.id))
        again = prepare_scan(job)
        assert again is not None
        record = again.model_copy(update={"segments": record.segments})
    recipe = record.recipe.on_scale(levels)
    values = rescaled(read_slices(out, record), record.recipe, recipe)
    record = record.model_copy(update={"recipe": recipe, "data_sha256": data_hash(values)})
    write_scan(out, record, values)
    return record


def _training_curves(records: list[ScanRecord]) -> list[IntensityNormalisation]:
    train = [r.recipe for r in records if r.segments.get("train")]
    # A user's table may leave a contrast without training scans.
    return train or [r.recipe for r in records]


def _remove_others(out: Path, ids: set[str]) -> None:
    """Remove arrays of scans that are gone: a store holds what its manifest lists."""
    wanted = {array_path(out, id).name for id in ids}
    for entry in (out / "scans").glob("*.zarr"):
        if entry.name not in wanted and not is_temporary(entry) and is_our_array(entry):
            remove(entry)


def _shown(path: Path, roots: list[Path]) -> str:
    """A path as the manifest lists it: relative to the source, if it is in there."""
    for root in roots:
        base = root if root.is_dir() else root.parent
        if path.is_relative_to(base):
            relative = path.relative_to(base)
            return str(Path(base.name) / relative if len(roots) > 1 else relative)
    return shown(path)
