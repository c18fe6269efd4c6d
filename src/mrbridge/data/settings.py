"""Settings of augmentation; light enough for the command line."""

from __future__ import annotations

from pydantic import Field

from mrbridge.settings import Settings


class AugmentSettings(Settings):
    """Random changes to training slices; 0 or False switches a change off.

    Bias field, gamma and noise are applied half of the time, the others always.
    """

    flip: bool = Field(True, description="Mirror left and right half of the time.")
    rotate_degrees: float = Field(
        5.0, ge=0, le=180, description="Largest rotation, either way, in degrees."
    )
    scale: float = Field(
        0.05, ge=0, lt=1, description="Largest relative change of size along rows and columns."
    )
    shift: float = Field(0.03, ge=0, le=1, description="Largest shift, as a share of the image.")
    bias_field: float = Field(
        0.0, ge=0, le=10, description="Largest coefficient of the smooth multiplicative field."
    )
    gamma: float = Field(
        0.0, ge=0, le=10, description="Largest relative change of the exponent of intensities."
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Largest standard deviation of Gaussian noise, in the image's range of 2.",
    )
