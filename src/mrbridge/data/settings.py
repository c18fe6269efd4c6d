"""The settings of augmentation, without PyTorch."""

from __future__ import annotations

from pydantic import Field

from mrbridge.settings import Settings


class AugmentSettings(Settings):
    """How strongly training slices are changed; zero or False switches a change off.

    Attributes:
        flip: mirror left and right half of the time.
        rotate_degrees: largest rotation, either way.
        scale: largest relative change of size, along rows and along columns.
        shift: largest shift, as a share of the image.
        bias_field: largest coefficient of the smooth multiplicative field, half of the time.
        gamma: largest relative change of the exponent of the intensities, half of the time.
        noise: largest standard deviation of Gaussian noise, in the image's range of 2, half of the
            time.
    """

    flip: bool = True
    rotate_degrees: float = Field(default=5.0, ge=0, le=180)
    scale: float = Field(default=0.05, ge=0, lt=1)
    shift: float = Field(default=0.03, ge=0, le=1)
    bias_field: float = Field(default=0.0, ge=0, le=10)
    gamma: float = Field(default=0.0, ge=0, le=10)
    noise: float = Field(default=0.0, ge=0, le=2)
