"""The settings of `translate`. Importing them takes no PyTorch."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mrbridge.settings import Option, Planes, Settings

NumberType = Literal["float32", "int16", "uint16", "uint8", "int32"]


class TranslateSettings(Settings):
    """Which scans are translated, and into what."""

    to: Annotated[str | None, Option(default="the contrast that the scan is not")] = Field(
        None, description="Contrast to synthesise."
    )
    planes: Annotated[Planes | None, Option(default="those of the model")] = Field(
        None,
        description="Planes in which volumes are sliced: axial, or all three, which is better and "
        "takes longer.",
    )
    uncertainty: bool = Field(
        False,
        description="Also write an uncertainty map on the same grid: half the width of the 90 % "
        "interval of each voxel, in the units of the synthetic scan.",
    )
    spacing: Annotated[
        tuple[Annotated[float, Field(ge=0.1, le=100)], ...],
        Option(metavar="MM…", default="the grid of the scan"),
    ] = Field(
        (),
        description="Voxel size of the result in mm along the axes of the scan, one number or "
        "three, as in 1: for scans with thick slices.",
    )
    combine: Annotated[bool, Option(("--combine/--no-combine",), default="combine")] = Field(
        True,
        description="BIDS dataset: make the result from all scans of a session, if the model takes "
        "several; otherwise from the best one.",
    )
    dtype: NumberType = Field("float32", description="Data type of synthetic volumes.")
    volume: int | None = Field(None, ge=0, description="Volume of a 4D file, from 0.")
    assume: str | None = Field(
        None, description="Orientation of a file that states none, such as RAS."
    )
    force: bool = Field(
        False,
        description="Also translate scans that are refused: synthetic or of the requested contrast "
        "already; something else by name or header, such as a mask, a map or a scan after a "
        "contrast agent; or a mask by the look of the image.",
    )
    overwrite: bool = Field(
        False,
        description="Replace files that mrbridge wrote, never others. Without it, files and DICOM "
        "series are replaced as well; in BIDS derivatives, files that are up to date are kept and "
        "others refused.",
    )
    participants: Annotated[
        tuple[str, ...],
        Option(("--participant-label", "--participant_label"), metavar="LABEL…", default="all"),
    ] = Field((), description="BIDS dataset: participants to translate, as in 01 02.")
    sessions: Annotated[
        tuple[str, ...],
        Option(("--session-label", "--session_label"), metavar="LABEL…", default="all"),
    ] = Field((), description="BIDS dataset: sessions to translate.")
    bids_filter: Annotated[Path | None, Option(("--bids-filter-file",), metavar="FILE")] = Field(
        None,
        description='BIDS dataset: JSON file of queries, such as {"t1w": {"acquisition": null}}.',
    )
    series: Annotated[str | None, Option(default="by contrast")] = Field(
        None, description="DICOM: number or UID of the series."
    )
    allow_gaps: bool = Field(False, description="DICOM: fill missing slices by interpolation.")
    form: Annotated[
        Literal["dicom", "nifti"] | None,
        Option(("--as",), default="dicom, unless the output is named as a NIfTI file"),
    ] = Field(None, description="DICOM: format of the result.")

    @field_validator("spacing", mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        """`spacing=1` in Python."""
        return (value,) if isinstance(value, Real) else value

    @field_validator("spacing")
    @classmethod
    def _one_or_three(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) not in (0, 1, 3):
            raise ValueError("one number of mm, or three")
        return value
