"""What one scan tells of itself: numbers and two thumbnails, small enough to keep of 10,000."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.io import read
from mrbridge.io.scans import Scan
from mrbridge.io.transfer import fetch
from mrbridge.preparation.crop import Crop
from mrbridge.preparation.geometry import to_slices
from mrbridge.preparation.intensity import IntensityRecipe, foreground_mask
from mrbridge.preparation.pipeline import StandardSettings, standardise
from mrbridge.preparation.store import ScanRecord, read_slices
from mrbridge.volume import Volume

THUMBNAIL = 64
"""Rows and columns of a thumbnail."""

BINS = 64
"""Of an intensity histogram, from -1 to 1."""

_MARGIN = 3  # pixels away from the anatomy's edge, where noise and sharpness are measured
_MEASURED = 12  # slices, evenly spread, in which they are
_FAR = 0.01  # of all pixels: fewer foreground pixels than this are no slice to judge
_TOUCH = 0.2  # of a side of the picture that anatomy must cover: a round head that is cut by 3 mm


@dataclass(frozen=True)
class Job:
    """A scan to look at: a file or series, or a record of a store.

    Attributes:
        name: what the page calls it.
        scan: what is known of it; of a record, what the store knows.
        record: None of a file.
        allow_gaps: fill slices that a DICOM series lacks.
    """

    name: str
    scan: Scan
    record: ScanRecord | None = None
    allow_gaps: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold a part of it."""
        if self.record is not None:
            return tuple(split for split, ranges in self.record.segments.items() if ranges)
        return (self.scan.split,) if self.scan.split else ()


@dataclass(frozen=True)
class Loaded:
    """A scan in memory.

    Attributes:
        slices: (slices, rows, columns), range [-1, 1], inferior first; rows run to posterior.
        foreground: where the head is, same shape.
        indices: where each slice lies in the scan's full stack.
        recipe: the way back to the scan's own intensities.
        spacing: mm between slices, rows, columns; None for a picture.
        grid: equal for scans on one grid.
        orientation: of the file's axes, such as LAS; None where it is not known.
        sha256: of the voxels.
        notes: what reading mended or assumed.
    """

    slices: NDArray[np.float32]
    foreground: NDArray[np.bool_]
    indices: list[int]
    recipe: IntensityRecipe
    spacing: tuple[float, float, float] | None
    grid: str
    orientation: str | None
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Facts:
    """What was found in one scan.

    Attributes:
        job: which one.
        shape: (slices, rows, columns).
        spacing, grid, orientation, sha256, notes: as in `Loaded`.
        range: low and high end of its own intensities (robust percentiles).
        histogram: shares of the foreground's pixels in `BINS` bins from -1 to 1.
        tilt: see `measure_tilt`; None where there is too little to judge.
        noise, sharpness: see `measure_texture`; None likewise.
        cut: share of the slices in which anatomy runs into a side of the picture, by side.
        thumbnail: uint8, (THUMBNAIL, THUMBNAIL), of the slice in the middle.
        side_view: likewise of the sagittal plane in the middle, superior up, anterior left; None
            where there are too few slices.
    """

    job: Job
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    grid: str
    orientation: str | None
    sha256: str
    notes: tuple[str, ...]
    range: tuple[float, float]
    histogram: NDArray[np.float32]
    tilt: float | None
    noise: float | None
    sharpness: float | None
    cut: dict[str, float]
    thumbnail: NDArray[np.uint8]
    side_view: NDArray[np.uint8] | None

    @property
    def name(self) -> str:
        """What the page calls it."""
        return self.job.name

    @property
    def contrast(self) -> str:
        """A BIDS suffix."""
        return self.job.scan.contrast

    @property
    def is_picture(self) -> bool:
        """Whether it has no place in space."""
        return self.spacing is None


def by_contrast(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    """The scans of each contrast, in their order."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        groups[one.contrast].append(one)
    return dict(sorted(groups.items()))


def find_facts(job: Job) -> Facts:
    """Look at one scan.

    Raises:
        MrbridgeError: it cannot be read, or shows nothing.
    """
    loaded = load(job)
    slices, foreground = loaded.slices, loaded.foreground
    if not foreground.any():
        raise InputError("shows nothing", path=job.scan.path, remedy="Leave it out.")
    counts, _ = np.histogram(slices[foreground], bins=BINS, range=(-1, 1))
    noise, sharpness = measure_texture(slices, foreground)
    middle = len(slices) // 2
    return Facts(
        job=job,
        shape=(slices.shape[0], slices.shape[1], slices.shape[2]),
        spacing=loaded.spacing,
        grid=loaded.grid,
        orientation=loaded.orientation,
        sha256=loaded.sha256,
        notes=loaded.notes,
        range=(loaded.recipe.low, loaded.recipe.high),
        histogram=(counts / counts.sum()).astype(np.float32),
        tilt=measure_tilt(slices[middle], foreground[middle]),
        noise=noise,
        sharpness=sharpness,
        cut=measure_cut(foreground, loaded.spacing is None),
        thumbnail=_thumbnail(slices[middle], loaded.spacing and loaded.spacing[1:]),
        side_view=_side_view(slices, loaded.spacing),
    )


def load(job: Job) -> Loaded:
    """Read a scan and bring it to [-1, 1], on its own grid.

    Raises:
        MrbridgeError: it cannot be read, or shows nothing.
    """
    return _from_file(job) if job.record is None else _from_store(job.record, job.scan.path)


def _from_file(job: Job) -> Loaded:
    scan = job.scan
    fetch(scan.path)
    if scan.series is None and not scan.path.is_file():
        raise InputError("does not exist", path=scan.path, remedy="Check the path.")
    volume = read(scan.path, series=scan.series, allow_gaps=job.allow_gaps, files=scan.files)
    if volume.synthetic:
        raise InputError("is synthetic", path=scan.path, remedy="Leave it out.")
    standard = standardise(volume, StandardSettings(spacing_mm=None), crop=Crop.whole(volume))
    orientation = None if volume.affine is None else "".join(aff2axcodes(volume.affine))
    return Loaded(
        slices=standard.slices,
        foreground=standard.foreground,
        indices=list(range(len(standard.slices))),
        recipe=standard.recipe,
        spacing=standard.grid.spacing,
        grid=standard.grid.hash,
        orientation=orientation,
        sha256=_voxel_hash(volume),
        notes=volume.notes if scan.series is None else tuple(map(_nameless, volume.notes)),
    )


def _nameless(note: str) -> str:
    """A note on a DICOM series without the files that it names: people are in such names."""
    return note.partition(" (")[0]


def _voxel_hash(volume: Volume) -> str:
    """Of the voxels in one orientation and number type: equal for copies in other files."""
    slices, _ = to_slices(volume, None)
    return hashlib.sha256(repr(slices.shape).encode() + slices.tobytes()).hexdigest()


def _from_store(record: ScanRecord, path: Path) -> Loaded:
    slices = read_slices(path, record).astype(np.float32)
    return Loaded(
        slices=slices,
        foreground=foreground_mask(slices),
        indices=record.slice_indices,
        recipe=record.recipe,
        spacing=record.spacing_mm,
        grid=record.grid_hash,
        orientation=None,
        sha256=record.data_sha256,
        notes=(),
    )


def measure_tilt(plane: NDArray[np.float32], inside: NDArray[np.bool_]) -> float | None:
    """Whether the dark or the bright tail of the brain's intensities is the longer one.

    (p97 + p3 - 2 p50) / (p97 - p3), Bowley's skewness with outer percentiles, of the pixels in the
    inner half of the head. In T1w the tail is dark (fluid), in T2w bright.

    Args:
        plane: range [-1, 1], (rows, columns).
        inside: where the head is.

    Returns:
        -1 to 1; None where there is next to no head.
    """
    if inside.mean() < 5 * _FAR:
        return None
    depth = ndimage.distance_transform_edt(inside)
    values = plane[depth > 0.35 * depth.max()]
    low, middle, high = np.percentile(values, (3, 50, 97))
    return float((high + low - 2 * middle) / (high - low)) if high > low else None


def measure_texture(
    slices: NDArray[np.float32], foreground: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """Noise (Immerkaer 1996, doi:10.1006/cviu.1996.0060, by the median) and mean gradient inside
    the head, both in units of the spread of its intensities; None where there is too little head.
    """
    filled = np.flatnonzero(foreground.mean(axis=(1, 2)) > _FAR)
    chosen = filled[
        np.linspace(0, len(filled) - 1, min(_MEASURED, len(filled))).round().astype(int)
    ]
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rough, steep, spread = [], [], []
    for plane, inside in zip(slices[chosen], foreground[chosen], strict=True):
        core = ndimage.binary_erosion(inside, iterations=_MARGIN)
        if core.sum() < 100:
            continue
        rough.append(np.abs(ndimage.convolve(plane, kernel))[core])
        steep.append(np.hypot(*np.gradient(plane))[core])
        spread.append(plane[core])
    if not spread:
        return None, None
    low, high = np.percentile(np.concatenate(spread), (5, 95))
    if not high > low:
        return None, None
    noise = float(np.median(np.concatenate(rough))) / 0.6745 / 6
    spread_of = float(high - low)
    return noise / spread_of, float(np.concatenate(steep).mean()) / spread_of


def measure_cut(foreground: NDArray[np.bool_], picture: bool) -> dict[str, float]:
    """In which share of the slices that show a head it runs into a side of the picture, by side."""
    filled = foreground[foreground.mean(axis=(1, 2)) > 5 * _FAR]
    if not len(filled):
        return {}
    names = ("top", "bottom", "left", "right") if picture else ("front", "back", "right", "left")
    edges = (filled[:, 0], filled[:, -1], filled[:, :, 0], filled[:, :, -1])
    return {
        name: float((edge.mean(axis=1) > _TOUCH).mean())
        for name, edge in zip(names, edges, strict=True)
    }


def _side_view(
    slices: NDArray[np.float32], spacing: tuple[float, float, float] | None
) -> NDArray[np.uint8] | None:
    if spacing is None or len(slices) < 8:
        return None
    return _thumbnail(slices[::-1, :, slices.shape[2] // 2], spacing[:2])


def _thumbnail(
    plane: NDArray[np.float32], spacing: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """A plane, range [-1, 1], as a square of bytes, its shape in mm kept."""
    steps = spacing or (1.0, 1.0)
    sides = [size * step for size, step in zip(plane.shape, steps, strict=True)]
    rows, columns = (max(1, round(THUMBNAIL * side / max(sides))) for side in sides)
    small = Image.fromarray(plane).resize((columns, rows), Image.Resampling.BOX)
    result = np.full((THUMBNAIL, THUMBNAIL), -1, np.float32)
    top, left = (THUMBNAIL - rows) // 2, (THUMBNAIL - columns) // 2
    result[top : top + rows, left : left + columns] = np.asarray(small)
    return np.clip((result + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
