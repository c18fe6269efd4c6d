"""The settings of preparation, in one place."""

from __future__ import annotations

from pydantic import Field, model_validator

from mrbridge.errors import SettingsError
from mrbridge.preparation.intensity import IntensitySettings
from mrbridge.settings import Settings
from mrbridge.volume import CONTRASTS


class StandardSettings(Settings):
    """What every scan goes through, in training and in translation alike.

    Attributes:
        spacing_mm: in-plane spacing to resample volumes to; None keeps each scan's own.
        intensity: how the intensity range is found.
    """

    spacing_mm: float | None = Field(1.0, gt=0)
    intensity: IntensitySettings = IntensitySettings()


class PrepareSettings(Settings):
    """How a data set becomes a store.

    Attributes:
        source, target: the two contrasts, BIDS suffixes.
        standard: what every scan goes through.
        min_foreground: share of a slice's pixels that must show the head; emptier ones are left
            out.
        validation_share, test_share: of the subjects; where there are too few, validation is a
            block of slices and there is no test split.
        gap: neighbouring slices that are dropped on either side of such a block.
        seed: of the split.
    """

    source: str = "T1w"
    target: str = "T2w"
    standard: StandardSettings = StandardSettings()
    min_foreground: float = Field(0.02, ge=0, lt=1)
    validation_share: float = Field(0.1, ge=0, lt=1)
    test_share: float = Field(0.1, ge=0, lt=1)
    gap: int = Field(3, ge=0)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> PrepareSettings:
        for contrast in (self.source, self.target):
            if contrast not in CONTRASTS:
                raise SettingsError(
                    f"'{contrast}' is no known contrast", remedy=f"Known: {', '.join(CONTRASTS)}."
                )
        if self.source == self.target:
            raise SettingsError(
                f"source and target are both {self.source}", remedy="Choose two contrasts."
            )
        return self
