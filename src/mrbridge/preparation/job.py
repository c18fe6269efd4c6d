"""One scan of the verb `prepare`: read, brought to a standard and stored, unless it is there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError
from mrbridge.io import read
from mrbridge.io.remote import fetch
from mrbridge.io.safety import sha256_of
from mrbridge.io.scans import Scan
from mrbridge.preparation.brain import litres
from mrbridge.preparation.geometry import slice_grid
from mrbridge.preparation.reference import Place, place_beside
from mrbridge.preparation.settings import PrepareSettings
from mrbridge.preparation.slice_range import SliceRange
from mrbridge.preparation.standard import Standard, standardise
from mrbridge.preparation.store import (
    FORMAT,
    ScanRecord,
    array_path,
    data_hash,
    read_scan,
    write_scan,
)

_ARRAYS = 2  # raise it when the same settings begin to give other arrays


@dataclass(frozen=True)
class Job:
    """What is asked of one scan.

    Attributes:
        scan: where it lies, and whose it is.
        id: its name in the store.
        store: the store's folder.
        settings: of all scans.
        reference: the first scan of the source contrast of the same subject and session, which this
            one is registered to, or cropped like if both lie on one grid; None of that scan itself.
        mask: its brain mask, where the user gave one.
    """

    scan: Scan
    id: str
    store: Path
    settings: PrepareSettings
    reference: Scan | None = None
    mask: Path | None = None

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


def prepare_scan(job: Job) -> ScanRecord | None:
    """Prepare one scan into the store, unless it is there; None for an empty picture.

    Raises:
        InputError: it cannot be read, is synthetic, or shows nothing that could be used.
        OutputError: the store cannot be written.
    """
    scan, settings = job.scan, job.settings
    fetch(scan.path)
    if scan.series is None and not scan.path.is_file():
        raise InputError("does not exist", path=scan.path, remedy="Check the path.")
    source_sha256 = _source_sha256(scan)
    key = _key(source_sha256, job)
    present = read_scan(job.store, job.id, key)
    if present is not None:
        return present
    volume = read(scan.path, series=scan.series, force=True, files=scan.files)
    if volume.synthetic:
        raise InputError("is synthetic", path=scan.path, remedy="Train on acquired scans only.")
    if volume.is_picture and volume.voxels.min() == volume.voxels.max():
        return None
    mask = None if job.mask is None else read(job.mask)
    place = Place()
    if job.reference is not None:
        place = place_beside(volume, job.reference, settings, job.registers)
    standard = standardise(
        volume, settings.standard, mask, placement=place.placement, crop=place.crop
    )
    whole, first = standard.grid, (0, 0.0, 0.0)
    if standard.alignment is None and place.alignment is None:
        whole = slice_grid(place.grid or volume, None)
        first = (place.crop or standard.crop).first(standard.grid)
    alignment = standard.alignment or place.alignment
    filled = standard.foreground.mean(axis=(1, 2)) >= settings.min_foreground
    wanted = filled
    if settings.slices is not None:
        wanted = filled & SliceRange.parse(settings.slices).holds(filled, standard.grid)
    kept = np.flatnonzero(wanted)
    if filled.any() and not kept.size:
        raise InputError(
            f"no slice that shows the head lies within {settings.slices}",
            path=scan.path,
            remedy="Leave it out, or widen the range.",
        )
    if not kept.size:
        if volume.is_picture:
            return None
        raise InputError(
            f"no slice shows the head on {settings.min_foreground:.0%} of its pixels",
            path=scan.path,
            remedy="Leave it out, or lower min_foreground.",
        )
    values = standard.slices[kept].astype(np.float16)
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
        spacing_mm=standard.grid.spacing,
        slice_indices=(kept + first[0]).tolist(),
        origin=first[1:],
        grid_hash=whole.hash,
        recipe=standard.recipe,
        affine=_affine(standard, first[0]),
        registration=place.registration,
        alignment=None if alignment is None else alignment.as_json(),
        noise=None if standard.noise is None else float(f"{standard.noise:.4g}"),
        brain_litres=None if standard.brain is None else round(litres(standard.brain, volume), 4),
    )
    write_scan(job.store, record, values)
    return record


def _affine(standard: Standard, first: int) -> list[list[float]] | None:
    """Of the record: slices are counted in the whole scan, rows and columns in the array."""
    affine = standard.grid.stored_affine
    if affine is None:
        return None
    slices, rows, columns = (before for before, _ in standard.added)
    affine[:3, 3] -= affine[:3, :3] @ (first + slices, rows, columns)
    result: list[list[float]] = np.round(affine, 8).tolist()
    return result


def _source_sha256(scan: Scan) -> str:
    if scan.series is None:
        return sha256_of(scan.path)
    from mrbridge.io.dicom.scans import series_sha256

    return series_sha256(scan.path, scan.series, scan.files)


def _key(source_sha256: str, job: Job) -> str:
    scan, settings = job.scan, job.settings
    told: list[Any] = [
        FORMAT,
        _ARRAYS,
        source_sha256,
        [scan.subject, scan.session, scan.contrast, scan.name],
        settings.standard.model_dump(mode="json"),
        settings.min_foreground,
    ]
    if job.reference is not None:
        told.append(_source_sha256(job.reference))
    if job.registers:
        told.append([settings.registration, settings.seed])
    if settings.slices is not None:
        told.append(["slices", settings.slices])
    if job.mask is not None:
        told.append(["mask", sha256_of(job.mask)])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
