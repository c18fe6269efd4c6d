"""One scan of the verb `prepare`: read, preprocessed and stored, unless it is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.dataset.pairs import show_one_head
from mrbridge.dataset.settings import PrepareSettings, SliceRange
from mrbridge.dataset.store import (
    FORMAT,
    ScanRecord,
    array_path,
    data_hash,
    read_if_current,
    write_scan,
)
from mrbridge.errors import InputError, MrbridgeError, as_error, warn
from mrbridge.io import read
from mrbridge.io.atomic import sha256_of
from mrbridge.io.nifti_header import other_by_intent
from mrbridge.io.scans import Scan
from mrbridge.preprocessing.foreground import Crop, black_background, crop_to_head
from mrbridge.preprocessing.geometry import slice_grid
from mrbridge.preprocessing.intensity import inner_half, skewness
from mrbridge.preprocessing.preprocess import Preprocessed, preprocess
from mrbridge.preprocessing.resample import (
    Placement,
    along_axes,
    grid_difference,
    grid_of,
    stored_like,
)
from mrbridge.preprocessing.settings import TransformKind
from mrbridge.preprocessing.template import Alignment, align, volume_l
from mrbridge.volume import Volume

_ARRAYS = 2  # raise it when the same settings begin to give other arrays


@dataclass(frozen=True)
class Job:
    """One scan to prepare.

    Attributes:
        id: its name in the store.
        reference: the first scan of the source contrast of the same subject and session, which this
            one is registered to, or cropped like if both are on one grid; None for that scan
            itself.
        mask: its brain mask, if the user gave one.
        force: whether it is used although its header says that it is something else.
    """

    scan: Scan
    id: str
    store: Path
    settings: PrepareSettings
    reference: Scan | None = None
    mask: Path | None = None
    force: bool = False

    @property
    def registers(self) -> bool:
        """Whether the scan is registered to its reference."""
        wanted = self.settings.registration != "none" and self.reference is not None
        return wanted and self.scan.contrast == self.settings.target

    @property
    def touched(self) -> list[Path]:
        """The files that are read and written for it."""
        reference = None if self.reference is None else self.reference.path
        read = [path for path in (self.scan.path, reference, self.mask) if path is not None]
        return [*read, array_path(self.store, self.id)]

    def key(self, source_sha256: str, reference_sha256: str | None) -> str:
        """Hash of everything that shapes the array, given those of the files: what resuming
        compares."""
        scan, settings = self.scan, self.settings
        parts: list[Any] = [
            FORMAT,
            _ARRAYS,
            source_sha256,
            [scan.subject, scan.session, scan.contrast, scan.name],
            settings.standard.model_dump(mode="json"),
            settings.min_foreground,
        ]
        if reference_sha256 is not None:
            parts.append(reference_sha256)
        if self.registers:
            parts.append([settings.registration, settings.seed])
        if settings.slices is not None:
            parts.append(["slices", settings.slices])
        if self.mask is not None:
            parts.append(["mask", sha256_of(self.mask)])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Reference:
    """What a scan takes over from its reference.

    Attributes:
        placement: on the reference's grid, or with it along the template's axes; None if the scan
            stays on its grid.
        crop: the part of the reference that holds the head, if this scan is on its grid or brought
            there: cropped apart, their slices would no longer match. Else None.
        grid: of that whole scan; None without a crop.
        registration: to the reference, for the record.
        alignment: of the reference with the template.
    """

    placement: Placement | None = None
    crop: Crop | None = None
    grid: Volume | None = None
    registration: dict[str, Any] | None = None
    alignment: Alignment | None = None


_Found = tuple[Crop, Volume, NDArray[np.float32]]
"""The box around the head in a scan, the grid of the whole scan, and its preprocessed slices."""


def prepare_scans(jobs: Sequence[Job]) -> list[ScanRecord | MrbridgeError | None]:
    """Prepare the scans of one session, the reference first (the head is searched once if the
    others are on its grid), as `prepare_scan` does; an error does not stop the others."""
    results: list[ScanRecord | MrbridgeError | None] = []
    found: dict[Scan, _Found] = {}
    for job in jobs:
        try:
            results.append(prepare_scan(job, found))
        except Warning:  # the user made warnings errors
            raise
        except Exception as error:
            results.append(as_error(error))
    return results


def prepare_scan(job: Job, found: dict[Scan, _Found] | None = None) -> ScanRecord | None:
    """Prepare one scan into the store, unless it is there; None for an empty 2D image. `found` says
    where the head is in the references of this session, and gets this one. InputError if
    it cannot be read, is synthetic, or shows nothing usable; OutputError if the store cannot be
    written."""
    scan, settings = job.scan, job.settings
    source_sha256 = _source_sha256(scan)
    reference_sha256 = None if job.reference is None else _source_sha256(job.reference)
    key = job.key(source_sha256, reference_sha256)
    present = read_if_current(job.store, job.id, key)
    if present is not None:
        return present
    volume = read(scan.path, series=scan.series, force=True, files=scan.files)
    if volume.synthetic:
        raise InputError("is synthetic", path=scan.path, remedy="Train on acquired scans only.")
    other = None if job.force else other_by_intent(volume.header)
    if other is not None:
        raise InputError(other, path=scan.path, remedy="Leave it out, or use --force.")
    if volume.is_2d and volume.voxels.min() == volume.voxels.max():
        return None
    volume = black_background(volume, scan.contrast, partial(warn, path=scan.path))
    reference = _Reference()
    if job.reference is not None and job.registers:
        reference = _register(volume, job.reference, settings)
    elif job.reference is not None:
        known = (found or {}).get(job.reference)
        reference, volume = _take_crop(volume, job.reference, settings, known)
    result = preprocess(
        volume,
        settings.standard,
        None if job.mask is None else read(job.mask),
        placement=reference.placement,
        crop=reference.crop,
    )
    if job.reference is None and found is not None:
        found[scan] = result.crop, grid_of(volume), result.slices
    elif job.reference is not None and reference.crop is not None and found:
        _compare(result, found.get(job.reference), scan, job.reference)
    kept = _kept_slices(result, job)
    if not kept.size:
        if volume.is_2d:
            return None
        raise InputError(
            f"no slice shows the head on {settings.min_foreground:.0%} of its pixels",
            path=scan.path,
            remedy="Leave it out, or lower min_foreground.",
        )
    alignment = result.alignment or reference.alignment
    whole, first = result.grid, (0, 0.0, 0.0)
    if alignment is None:
        whole = slice_grid(reference.grid or volume, None)
        first = (reference.crop or result.crop).first(result.grid)
    values = result.slices[kept].astype(np.float16)  # (slices, rows, columns)
    look, middle = None, kept[kept.size // 2]
    if settings.standard.foreground == "head":
        look = skewness(inner_half(result.slices[middle], result.foreground[middle]))
    record = ScanRecord(
        id=job.id,
        subject=scan.subject,
        session=scan.session,
        contrast=scan.contrast,
        name=scan.name,
        source_sha256=source_sha256,
        key=key,
        data_sha256=data_hash(values),
        shape=(values.shape[0], values.shape[1], values.shape[2]),
        spacing_mm=result.grid.spacing,
        slice_indices=(kept + first[0]).tolist(),
        origin=first[1:],
        grid_hash=whole.hash,
        recipe=result.normalisation,
        affine=_affine(result, first[0]),
        registration=reference.registration,
        alignment=None if alignment is None else alignment.as_json(),
        noise=None if result.noise is None else float(f"{result.noise:.4g}"),
        brain_litres=None if result.brain is None else round(volume_l(result.brain, volume), 4),
        skewness=None if look is None else round(look, 3),
    )
    write_scan(job.store, record, values)
    return record


def _compare(result: Preprocessed, known: _Found | None, scan: Scan, reference: Scan) -> None:
    """Warn if a scan on the grid of its reference does not show the same head."""
    if known is None or known[2].shape != result.slices.shape:
        return
    if not show_one_head(result.slices + 1, known[2] + 1, result.grid.spacing):
        series = f"{scan.name} of subject {scan.subject} " if scan.series else ""
        warn(
            f"{series}does not show the anatomy of {reference.name}, though both are on one grid "
            "and of one subject: one of them is of another person, or the head moved",
            scan.path,
        )


def _kept_slices(result: Preprocessed, job: Job) -> np.ndarray:
    """The numbers of the slices that show the head and are in the range that is asked for."""
    settings = job.settings
    filled = result.foreground.mean(axis=(1, 2)) >= settings.min_foreground
    if settings.slices is None:
        return np.flatnonzero(filled)
    kept = np.flatnonzero(filled & SliceRange.parse(settings.slices).holds(filled, result.grid))
    if filled.any() and not kept.size:
        raise InputError(
            f"no slice that shows the head is within {settings.slices}",
            path=job.scan.path,
            remedy="Leave it out, or widen the range.",
        )
    return kept


def _affine(result: Preprocessed, first: int) -> list[list[float]] | None:
    """Of the record: slices are counted in the whole scan, rows and columns in the array."""
    affine = result.grid.stored_affine
    if affine is None:
        return None
    slices, rows, columns = (before for before, _ in result.added)
    affine[:3, 3] -= affine[:3, :3] @ (first + slices, rows, columns)
    rounded: list[list[float]] = np.round(affine, 8).tolist()
    return rounded


def _register(volume: Volume, scan: Scan, settings: PrepareSettings) -> _Reference:
    """Onto the grid of the reference, or with it along the axes of the template; InputError if
    registration or alignment did not converge."""
    from mrbridge.preprocessing.registration import register

    standard = settings.standard
    fixed = read(scan.path, series=scan.series, files=scan.files)
    fixed = black_background(fixed, scan.contrast)
    kind: TransformKind = "affine" if settings.registration == "affine" else "rigid"
    result = register(volume, fixed, kind, settings.seed)
    record = {"reference": scan.name} | result.as_json()
    found = crop_to_head(fixed, standard.margin_mm)
    own = grid_of(crop_to_head(volume, standard.margin_mm).head.volume)
    if standard.align == "none":
        placement = Placement(result.transform, grid_of(found.head.volume), own)
        return _Reference(placement, found.crop, grid_of(fixed), record)
    alignment = align(found.head, standard.align)
    there = along_axes(found.head, alignment.transform, standard.spacing_mm)
    placement = Placement(there.transform @ result.transform, there.onto, own)
    return _Reference(placement, None, None, record, alignment)


def _take_crop(
    volume: Volume, scan: Scan, settings: PrepareSettings, known: _Found | None
) -> tuple[_Reference, Volume]:
    """The crop of the reference, if that can be read and is on the scan's own grid; and the scan,
    with its axes like those of the reference.

    Args:
        known: crop and grid of the reference, unless it must be read for them.
    """
    if known is None:
        try:
            other = read(scan.path, series=scan.series, files=scan.files)
        except MrbridgeError:  # reported for the reference itself
            return _Reference(), volume
        if grid_difference(stored_like(volume, other), other) is None:
            other = black_background(other, scan.contrast)
            crop = crop_to_head(other, settings.standard.margin_mm).crop
            known = crop, grid_of(other), np.empty(0, np.float32)
    turned = volume if known is None else stored_like(volume, known[1])
    if known is None or grid_difference(turned, known[1]) is not None:
        return _Reference(), volume
    return _Reference(crop=known[0], grid=known[1]), turned


def _source_sha256(scan: Scan) -> str:
    if scan.series is None:
        return sha256_of(scan.path)
    from mrbridge.io.dicom.scans import series_sha256

    return series_sha256(scan.path, scan.series, scan.files)
