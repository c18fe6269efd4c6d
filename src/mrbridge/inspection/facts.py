"""Measurements and thumbnails of single scans, small enough to keep for 10,000 scans."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.dataset.pairs import thumbnail_of
from mrbridge.dataset.store import ScanRecord, read_slices
from mrbridge.errors import InputError
from mrbridge.inference.input_check import check_image
from mrbridge.io import read
from mrbridge.io.nifti_header import other_by_intent
from mrbridge.io.scans import Scan
from mrbridge.preprocessing.foreground import Crop, black_background, foreground_mask
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.intensity import inner_half, skewness
from mrbridge.preprocessing.preprocess import IMMERKAER, preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Verdict

BINS = 64
"""Bins of an intensity histogram, from -1 to 1."""

LEAST_SCANS = 5
"""Scans of a contrast below which none can be an outlier."""

_MARGIN = 3  # pixels from the edge of the head that noise and sharpness leave out
_MEASURED = 12  # slices, evenly spaced, in which they are measured
_SMALL, _LARGE = 0.01, 0.05
"""Shares of foreground pixels from which a slice is measured at all, and for skewness and edges."""
_TOUCHED = 0.2  # share of an edge of the image: a round head that is truncated by 3 mm


@dataclass(frozen=True)
class Entry:
    """A scan of the dataset: a file, a DICOM series, or a record of a store.

    Attributes:
        scan: what is known before it is opened; for a record, what the store knows.
        record: of a store; None for a file or series.
    """

    name: str
    scan: Scan
    record: ScanRecord | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold a part of it."""
        if self.record is not None:
            return tuple(split for split, ranges in self.record.segments.items() if ranges)
        return (self.scan.split,) if self.scan.split else ()


@dataclass(frozen=True, eq=False)
class Properties:
    """What is known of a scan from its file.

    Attributes:
        range: the intensities, in units of the scan, that become -1 and 1.
        spacing: mm between slices, rows, columns; None for a 2D image.
        grid: a hash, equal for scans on one grid.
        orientation: of the file's axes, such as LAS; None if not known.
        sha256: of the voxels.
        notes: what the reader repaired or assumed.
    """

    range: tuple[float, float]
    spacing: tuple[float, float, float] | None
    grid: str
    orientation: str | None
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LoadedScan:
    """A scan in memory, its intensities normalised, on its own grid.

    Attributes:
        slices: (slices, rows, columns), range [-1, 1], inferior first; rows run to posterior.
        foreground: mask of the head, same shape.
        indices: position of each slice in the full stack of the scan.
        verdict: whether the shipped model knows this kind of scan; None for a store, whose scans
            were preprocessed.
    """

    slices: NDArray[np.float32]
    foreground: NDArray[np.bool_]
    indices: list[int]
    properties: Properties
    verdict: Verdict | None = None


@dataclass(frozen=True, eq=False)
class Facts(Properties):
    """Properties, measurements and thumbnails of one scan, about 20 kB.

    Attributes:
        shape: (slices, rows, columns).
        histogram: shares of the foreground's voxels in `BINS` bins from -1 to 1; shape (BINS,).
        skewness: of the middle slice, see `intensity.skewness`; None if it shows little head.
        noise, sharpness: see `measure_texture`; None if the head is too small.
        truncation: see `measure_truncation`, by side of the image.
        thumbnail: uint8, (THUMBNAIL, THUMBNAIL), of the middle slice.
        side_view: the same of the middle sagittal plane, superior up, anterior left; None if there
            are too few slices.
    """

    entry: Entry
    shape: tuple[int, int, int]
    histogram: NDArray[np.float32]
    skewness: float | None
    noise: float | None
    sharpness: float | None
    truncation: dict[str, float]
    verdict: Verdict | None
    thumbnail: NDArray[np.uint8]
    side_view: NDArray[np.uint8] | None

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.entry.name

    @property
    def subject(self) -> str | None:
        """The subject's identifier, if known."""
        return self.entry.scan.subject

    @property
    def session(self) -> str | None:
        """The session, if known."""
        return self.entry.scan.session

    @property
    def contrast(self) -> str:
        """A BIDS suffix."""
        return self.entry.scan.contrast

    @property
    def is_2d(self) -> bool:
        """Whether it is a 2D image, without a position in space."""
        return self.spacing is None

    def as_json(self) -> dict[str, Any]:
        """The scan in findings.json."""
        return {
            "scan": self.name,
            "subject": self.subject,
            "session": self.session,
            "contrast": self.contrast,
            "splits": list(self.entry.splits),
            "shape": list(self.shape),
            "spacing_mm": self.spacing and [_short(step) for step in self.spacing],
            "grid": self.grid,
            "orientation": self.orientation,
            "range": [_short(end) for end in self.range],
            "tilt": _short(self.skewness),
            "noise": _short(self.noise),
            "sharpness": _short(self.sharpness),
            "cut": {side: _short(share) for side, share in self.truncation.items() if share},
            "verdict": self.verdict and self.verdict.as_json(),
            "sha256": self.sha256,
            "notes": list(self.notes),
        }


def by_contrast(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    """The scans of each contrast, in their order."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        groups[one.contrast].append(one)
    return dict(sorted(groups.items()))


def measure(entry: Entry) -> Facts:
    """Read one scan and measure it; MrbridgeError if it cannot be read, or has no foreground."""
    scan = load(entry)
    slices, foreground = scan.slices, scan.foreground
    if not foreground.any():
        raise InputError("shows nothing", path=entry.scan.path, remedy="Leave it out.")
    counts, _ = np.histogram(slices[foreground], bins=BINS, range=(-1, 1))
    noise, sharpness = measure_texture(slices, foreground)
    middle, spacing = len(slices) // 2, scan.properties.spacing
    plane, inside = slices[middle], foreground[middle]
    return Facts(
        **vars(scan.properties),
        entry=entry,
        shape=(slices.shape[0], slices.shape[1], slices.shape[2]),
        histogram=(counts / counts.sum()).astype(np.float32),
        skewness=skewness(inner_half(plane, inside)) if inside.mean() > _LARGE else None,
        noise=noise,
        sharpness=sharpness,
        truncation=measure_truncation(foreground, is_2d=spacing is None),
        verdict=scan.verdict,
        thumbnail=thumbnail_of(plane, spacing and spacing[1:]),
        side_view=_side_view(slices, spacing),
    )


def load(entry: Entry) -> LoadedScan:
    """Read one scan and normalise its intensities to [-1, 1], on its own grid; MrbridgeError as
    `measure`."""
    if entry.record is not None:
        return _of_store(entry.record, entry.scan.path)
    scan = entry.scan
    volume = read(scan.path, series=scan.series, allow_gaps=True, files=scan.files)
    if volume.synthetic:
        raise InputError("is synthetic", path=scan.path, remedy="Leave it out.")
    other = other_by_intent(volume.header)
    if other is not None:
        raise InputError(other, path=scan.path, remedy="Leave it out.")
    shown = black_background(volume, scan.contrast)
    standard = preprocess(shown, PreprocessSettings(spacing_mm=None), crop=Crop.whole(volume))
    turned, _ = to_slices(volume, None)  # equal for copies in other orientations and types
    properties = Properties(
        range=(standard.normalisation.low, standard.normalisation.high),
        spacing=standard.grid.spacing,
        grid=standard.grid.hash,
        orientation=None if volume.affine is None else "".join(aff2axcodes(volume.affine)),
        sha256=hashlib.sha256(repr(turned.shape).encode() + turned.tobytes()).hexdigest(),
        # Notes on a DICOM series name files in brackets, and file names may hold patient names.
        notes=tuple(n.partition(" (")[0] if scan.series else n for n in shown.notes),
    )
    indices = list(range(len(standard.slices)))
    verdict = check_image(shown, scan.contrast)
    return LoadedScan(standard.slices, standard.foreground, indices, properties, verdict)


def _of_store(record: ScanRecord, path: Path) -> LoadedScan:
    slices = read_slices(path, record).astype(np.float32)
    properties = Properties(
        range=(record.recipe.low, record.recipe.high),
        spacing=record.spacing_mm,
        grid=record.grid_hash,
        orientation=None,
        sha256=record.data_sha256,
        notes=(),
    )
    return LoadedScan(slices, foreground_mask(slices), record.slice_indices, properties)


def measure_texture(
    slices: NDArray[np.float32], foreground: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """Noise (Immerkaer 1996, doi:10.1006/cviu.1996.0060, by the median) and mean gradient inside
    the head, both relative to the spread of its intensities; None if the head is too small.
    """
    filled = np.flatnonzero(foreground.mean(axis=(1, 2)) > _SMALL)
    chosen = filled[
        np.linspace(0, len(filled) - 1, min(_MEASURED, len(filled))).round().astype(int)
    ]
    laplacians, gradients, intensities = [], [], []
    for plane, inside in zip(slices[chosen], foreground[chosen], strict=True):
        core = ndimage.binary_erosion(inside, iterations=_MARGIN)
        if core.sum() < 100:
            continue
        laplacians.append(np.abs(ndimage.convolve(plane, IMMERKAER))[core])
        gradients.append(np.hypot(*np.gradient(plane))[core])
        intensities.append(plane[core])
    if not intensities:
        return None, None
    low, high = np.percentile(np.concatenate(intensities), (5, 95))
    if not high > low:
        return None, None
    # The median of |x| is 0.6745 standard deviations.
    noise = float(np.median(np.concatenate(laplacians))) / 0.6745
    spread = float(high - low)
    return noise / spread, float(np.concatenate(gradients).mean()) / spread


def measure_truncation(foreground: NDArray[np.bool_], *, is_2d: bool) -> dict[str, float]:
    """Share of the slices with a head in which the head reaches an edge of the image, by edge."""
    filled = foreground[foreground.mean(axis=(1, 2)) > _LARGE]
    if not len(filled):
        return {}
    names = ("top", "bottom", "left", "right") if is_2d else ("front", "back", "right", "left")
    edges = (filled[:, 0], filled[:, -1], filled[:, :, 0], filled[:, :, -1])
    return {
        name: float((edge.mean(axis=1) > _TOUCHED).mean())
        for name, edge in zip(names, edges, strict=True)
    }


def _side_view(
    slices: NDArray[np.float32], spacing: tuple[float, float, float] | None
) -> NDArray[np.uint8] | None:
    if spacing is None or len(slices) < 8:
        return None
    return thumbnail_of(slices[::-1, :, slices.shape[2] // 2], spacing[:2])


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
