"""Settings of preprocessing and of prepared datasets; light enough for the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrbridge.errors import InputError, SettingsError
from mrbridge.json_text import shortened
from mrbridge.settings import Option, Settings
from mrbridge.volume import CONTRASTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mrbridge.preparation.geometry import SliceGrid

BrainKind = Literal["none", "auto", "hd-bet", "mask"]
TransformKind = Literal["rigid", "affine"]
"""6 or 12 degrees of freedom."""

_LONGEST_PATTERN = 1000
_NUMBER = r"([+-]?\d+(?:\.\d+)?)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*(%|mm)\s*:\s*{_NUMBER}\s*(%|mm)\s*")


class IntensitySettings(Settings):
    """How the intensity range of a scan is found."""

    method: Annotated[Literal["percentile", "nyul", "zscore"], Option(("--intensity",))] = Field(
        "percentile",
        description="Intensity normalisation: percentile (from background to bright tissue), "
        "zscore (standard deviations from the mean of the foreground) or nyul (the deciles of "
        "each contrast matched to those of the training scans).",
    )
    lower_percentile: float = Field(
        1.0, ge=0, le=50, description="Percentile of all voxels that is the background."
    )
    upper_percentile: float = Field(
        99.5,
        gt=50,
        le=100,
        description="Percentile of the foreground above which intensities are clipped (vessels, "
        "spikes).",
    )
    knee_percentile: float = Field(
        90.0,
        gt=50,
        le=100,
        description="Percentile of the foreground at which the intensity curve bends, if that is "
        "below 80 % of the range; 100: a straight line.",
    )
    zscore_limit: float = Field(
        3.0, gt=0, description="Standard deviations from the mean that become -1 and 1."
    )


class PreprocessSettings(Settings):
    """Preprocessing of every scan, the same in training and in translation."""

    spacing_mm: float | None = Field(
        1.0,
        ge=0.1,
        le=100,
        description="In-plane spacing to which volumes are resampled; none keeps that of each "
        "scan.",
    )
    margin_mm: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Margin around the head; everything further out is cropped.",
    )
    brain: BrainKind = Field(
        "none",
        description="Skull-strip: keep only the brain, set everything else to 0. One of none, "
        "auto (registration of the ICBM 152 template), hd-bet (the program) or mask (masks of "
        "your own).",
    )
    brain_mask: Annotated[str, Option(metavar="PATTERN")] = Field(
        "{entities}_desc-brain_mask.nii.gz",
        description="Where masks of your own are: a path from the folder of the scan, with "
        "{stem} (file name without extension) or {entities} (the same without the contrast).",
    )
    align: Literal["none", TransformKind] = Field(
        "none",
        description="Align slices with the axes of the ICBM 152 template: none, rigid, or affine "
        "(the size of the template, too). Synthetic images are rotated back.",
    )
    denoise: Annotated[bool, Option(("--denoise/--no-denoise",), default="no-denoise")] = Field(
        False,
        description="Remove noise by non-local means. The noise of an input is not added to the "
        "synthetic image.",
    )
    bias: Literal["none", "n4"] = Field(
        "none",
        description="Bias field correction: none or n4. The field of an input is not applied to "
        "the synthetic image.",
    )
    intensity: IntensitySettings = Field(
        IntensitySettings(), description="How the intensity range is found."
    )

    @field_validator("brain_mask")
    @classmethod
    def _check_brain_mask(cls, pattern: str) -> str:
        check_pattern(pattern)
        return pattern


def check_pattern(pattern: str) -> None:
    """Refuse anything but the pattern of a path to a mask.

    Raises:
        SettingsError: absolute (the pattern travels with the model), too long, with characters
            that cannot be printed, or with other fields than `{stem}` and `{entities}`.
    """
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        parts = []
    fields = {name for _, name, _, _ in parts if name is not None}
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    absolute = any(
        path(pattern).is_absolute() or path(pattern).drive
        for path in (PurePosixPath, PureWindowsPath)
    )
    is_text = pattern.isprintable() and len(pattern) <= _LONGEST_PATTERN
    if not fields or not fields <= {"stem", "entities"} or not plain or absolute or not is_text:
        raise SettingsError(
            f"'{shortened(pattern)}' does not say where the brain masks are",
            remedy="Write a path from the scan's folder with {stem} or {entities} in it.",
        )


@dataclass(frozen=True)
class SliceRange:
    """From one position in the head to another, both included.

    Attributes:
        low, high: in per cent, 0 the lowest and 100 the highest slice that shows the head; or in
            mm along the third axis of the scan's own space (RAS+), whose origin is the isocentre
            of the scanner, or the anterior commissure for scans in the space of a template.
        unit: `%` or `mm`.
    """

    low: float
    high: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> SliceRange:
        """Read `LOW:HIGH`, each with its unit.

        Raises:
            SettingsError: not such a range, or an empty one.
        """
        match = _RANGE.fullmatch(text)
        remedy = "Write 20%:80% or -40mm:60mm."
        if match is None or match[2] != match[4]:
            raise SettingsError(f"'{text}' is not a range of slices", remedy=remedy)
        result = cls(float(match[1]), float(match[3]), match[2])
        if not result.low < result.high:
            raise SettingsError(f"the range of slices '{text}' is empty", remedy=remedy)
        if result.unit == "%" and (result.low < 0 or result.high > 100):
            raise SettingsError(f"'{text}' goes beyond 0% or 100%", remedy=remedy)
        return result

    def holds(self, filled: NDArray[np.bool_], grid: SliceGrid) -> NDArray[np.bool_]:
        """Which slices lie in the range, by their centres.

        Args:
            filled: shape (slices,), from inferior to superior: which of them show the head.
            grid: theirs.

        Raises:
            InputError: 2D images, whose position in the head is unknown.
        """
        import numpy as np

        if grid.affine is None:
            raise InputError(
                "is a 2D image: its position in the head is unknown", remedy="Leave out --slices."
            )
        numbers = np.arange(len(filled))
        if self.unit == "mm":
            middle = (np.array(grid.full[1:]) - 1) / 2
            positions = grid.affine[2, 0] * numbers + grid.affine[2, 1:3] @ middle
            positions = positions + grid.affine[2, 3]
        else:
            shown = np.flatnonzero(filled)
            if not shown.size:
                return np.zeros(len(filled), bool)
            positions = (numbers - shown[0] + 0.5) / (shown[-1] - shown[0] + 1) * 100
        return np.asarray((positions >= self.low) & (positions <= self.high))


class PrepareSettings(Settings):
    """How scans become a prepared dataset."""

    source: str = Field("T1w", description="Source contrast.")
    target: str = Field("T2w", description="Target contrast.")
    registration: Annotated[Literal["none", TransformKind], Option(("--register",))] = Field(
        "none",
        description="Register each scan of the target contrast to the scan of the source contrast "
        "of the same subject and session, for training on pairs: none, rigid or affine.",
    )
    standard: PreprocessSettings = Field(
        PreprocessSettings(), description="Preprocessing of every scan."
    )
    min_foreground: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Share of a slice that must show the head; emptier slices are left out.",
    )
    slices: Annotated[str | None, Option(metavar="FROM:TO", default="all")] = Field(
        None,
        description="Which slices: 20%:80% of those that show the head, or -40mm:60mm along the "
        "third axis of each scan's own space.",
    )
    validation_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the subjects for validation. With too few subjects it is a block of "
        "that share of the slices of each series of at least 8.",
    )
    test_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the subjects for testing; with too few subjects there is no test "
        "split.",
    )
    gap: int = Field(
        3,
        ge=0,
        description="Slices on either side of a validation block that are in no split, because "
        "neighbouring slices are nearly equal; both sides together at most a fifth of the slices.",
    )
    seed: int = Field(0, ge=0, description="Seed of the split and of registration.")

    @model_validator(mode="after")
    def _check(self) -> PrepareSettings:
        for contrast in (self.source, self.target):
            if contrast not in CONTRASTS:
                raise SettingsError(
                    f"'{contrast}' is not a known contrast",
                    remedy=f"Known: {', '.join(CONTRASTS)}.",
                )
        if self.source == self.target:
            raise SettingsError(
                f"source and target are both {self.source}", remedy="Choose two contrasts."
            )
        if self.slices is not None:
            SliceRange.parse(self.slices)
        return self
