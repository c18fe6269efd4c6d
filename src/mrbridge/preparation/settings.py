"""The settings of preparation, in one place."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from string import Formatter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mrbridge.errors import SettingsError
from mrbridge.json_text import shortened
from mrbridge.preparation.intensity import IntensitySettings
from mrbridge.preparation.slice_range import SliceRange
from mrbridge.settings import Settings
from mrbridge.volume import CONTRASTS

_LONGEST_PATTERN = 1000


class StandardSettings(Settings):
    """What every scan goes through, in training and in translation alike.

    Attributes:
        spacing_mm: in-plane spacing to resample volumes to; None keeps each scan's own.
        margin_mm: air that is kept around the head; all that lies further out does not count.
        brain: `auto`, `hd-bet` and `mask` keep only the brain: all outside becomes 0, and in the
            synthesis, too. `auto` finds it by the template of the ICBM, `hd-bet` by the program of
            that name, `mask` takes masks that lie beside the scans.
        brain_mask: for `mask`, where: a path from the scan's folder, with `{stem}` (its name
            without extension) or `{entities}` (that without its contrast, too) in it.
        align: `rigid` and `affine` turn each scan so that its slices lie along the axes of the ICBM
            template; `affine` gives it the template's size, too. Syntheses are turned back.
        denoise: takes away the noise of each scan, as far as it can be told from the head. The
            noise of an input is not put onto its synthesis.
        bias: `n4` divides each scan by the smooth field of its receiving coil, as found by N4. The
            field of an input is not put onto its synthesis.
        intensity: how the intensity range is found.
    """

    spacing_mm: float | None = Field(1.0, ge=0.1, le=100)
    margin_mm: float = Field(10.0, ge=0, le=1000)
    brain: Literal["none", "auto", "hd-bet", "mask"] = "none"
    brain_mask: str = "{entities}_desc-brain_mask.nii.gz"
    align: Literal["none", "rigid", "affine"] = "none"
    denoise: bool = False
    bias: Literal["none", "n4"] = "none"
    intensity: IntensitySettings = IntensitySettings()

    @field_validator("brain_mask")
    @classmethod
    def _check_brain_mask(cls, pattern: str) -> str:
        check_pattern(pattern)
        return pattern


def check_pattern(pattern: str) -> None:
    """Refuse what is no pattern of a mask's path.

    Raises:
        SettingsError: absolute (it travels with the model), too long, of characters that are not
            printed, or with anything in braces but `{stem}` and `{entities}`.
    """
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        parts = []
    fields = {name for _, name, _, _ in parts if name is not None}
    plain = all(not form and not turned for _, _, form, turned in parts)
    absolute = any(
        path(pattern).is_absolute() or path(pattern).drive
        for path in (PurePosixPath, PureWindowsPath)
    )
    is_text = pattern.isprintable() and len(pattern) <= _LONGEST_PATTERN
    if not fields or not fields <= {"stem", "entities"} or not plain or absolute or not is_text:
        raise SettingsError(
            f"'{shortened(pattern)}' does not say where brain masks lie",
            remedy="Write a path from the scan's folder with {stem} or {entities} in it.",
        )


class PrepareSettings(Settings):
    """How a data set becomes a store.

    Attributes:
        source, target: the two contrasts, BIDS suffixes.
        registration: `rigid` and `affine` bring each scan of the target contrast onto the grid of
            the source contrast's scan of the same subject and session, for training on pairs.
        standard: what every scan goes through.
        min_foreground: share of a slice's pixels that must show the head; emptier ones are left
            out.
        slices: which of the others: `20%:80%` of those that show the head, from the lowest to the
            highest, or `-40mm:60mm` along the third axis of each scan's own space; None takes all.
        validation_share, test_share: of the subjects; where there are too few, validation is a
            block of that share of the slices of each series of at least 8, and there is no test
            split.
        gap: at most so many slices on either side of such a block lie in no split, since neighbours
            are much alike; both sides together are at most a fifth of the slices.
        seed: of the split.
    """

    source: str = "T1w"
    target: str = "T2w"
    registration: Literal["none", "rigid", "affine"] = "none"
    standard: StandardSettings = StandardSettings()
    min_foreground: float = Field(0.02, ge=0, lt=1)
    slices: str | None = None
    validation_share: float = Field(0.1, ge=0, lt=1)
    test_share: float = Field(0.1, ge=0, lt=1)
    gap: int = Field(3, ge=0)
    seed: int = Field(0, ge=0)

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
