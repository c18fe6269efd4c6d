"""The manifest of a prepared dataset: its scans, and how they were prepared and split."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mrbridge.dataset.settings import PrepareSettings
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.settings import Settings

Range = tuple[int, int]
"""Half-open, of slices."""

FORMAT = "mrbridge-store"
_MAX_SIZE = 1 << 16
"""The most slices, rows and columns that an array may have."""


class ScanRecord(Settings):
    """One scan of a store.

    Attributes:
        id: name of the array; from subject, session, contrast and file name.
        subject, session: None if unknown.
        contrast: a BIDS suffix.
        name: the file's name.
        source_sha256: of the file's bytes.
        key: hash of the file and of the settings that shape the array: what resuming compares.
        data_sha256: of the array's bytes.
        shape: (slices, rows, columns) of the array.
        spacing_mm: between slices, rows, columns; None for 2D images.
        slice_indices: of each slice in the scan's full stack (inferior to superior).
        origin: row and column of its full slices at which the array begins, in the array's pixels.
        grid_hash: equal for scans on one grid.
        recipe: the intensity normalisation.
        affine: (4, 4), from a pixel's slice in the full stack, and its row and column in the array,
            to RAS+ mm: of the scanner, of the subject's source scan, or of the template; None for
            2D images.
        registration: to the subject's source scan: its file name and `Registration.as_json`; None
            without registration.
        alignment: with the template, of the scan or of the source scan that it was registered to:
            `Alignment.as_json`; None without alignment.
        noise: standard deviation of the noise that was removed, in the file's unit; None without
            denoising.
        brain_litres: the volume of the brain; None without skull stripping.
        segments: split (`train`, `val`, `test`) to half-open ranges of the array's slices.
    """

    id: str
    subject: str | None
    session: str | None
    contrast: str
    name: str
    source_sha256: str
    key: str
    data_sha256: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    slice_indices: list[int]
    origin: tuple[float, float] = (0.0, 0.0)
    grid_hash: str
    recipe: IntensityNormalisation
    affine: list[list[float]] | None = None
    registration: dict[str, Any] | None = None
    alignment: dict[str, Any] | None = None
    noise: float | None = None
    brain_litres: float | None = None
    segments: dict[str, list[Range]] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _check_id(cls, id: str) -> str:
        if not id or id.startswith(".") or any(sign in id for sign in "/\\\0"):
            raise ValueError("the id of a scan is not a file name")
        return id

    @model_validator(mode="after")
    def _check_numbers(self) -> ScanRecord:
        """Whatever is read of the array is within it."""
        slices = self.shape[0]
        if min(self.shape) < 1 or max(self.shape) > _MAX_SIZE:
            raise ValueError(f"{self.id} has an impossible shape")
        if len(self.slice_indices) != slices:
            raise ValueError(f"{self.id} has {slices} slices and {len(self.slice_indices)} indices")
        for ranges in self.segments.values():
            if len(ranges) > slices or any(not 0 <= a <= b <= slices for a, b in ranges):
                raise ValueError(f"{self.id} has segments beyond its slices")
        return self

    @property
    def is_2d(self) -> bool:
        """Whether it is a 2D image."""
        return self.spacing_mm is None

    def positions(self, split: str) -> list[int]:
        """The slices of the array that belong to `split`."""
        return [i for start, stop in self.segments.get(split, []) for i in range(start, stop)]


class Remark(Settings):
    """A file that is not in the store, and why."""

    name: str
    reason: str


class Manifest(Settings):
    """The contents of a store; `typical` is the median normalisation of each contrast's training
    scans."""

    format: Literal["mrbridge-store"] = "mrbridge-store"
    version: Literal[1] = 1
    settings: PrepareSettings
    records: list[ScanRecord]
    failures: list[Remark]
    ignored: list[Remark]
    typical: dict[str, IntensityNormalisation]

    @model_validator(mode="after")
    def _check_records(self) -> Manifest:
        if not self.records:
            raise ValueError("it lists no scans")
        if len({record.id for record in self.records}) < len(self.records):
            raise ValueError("it lists a scan twice")
        contrasts = {self.settings.source, self.settings.target}
        if not contrasts <= self.typical.keys():
            raise ValueError("it lacks the intensities of a contrast")
        return self
