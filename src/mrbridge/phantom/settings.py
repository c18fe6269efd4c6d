"""What a simulated data set is made of."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from mrbridge.settings import Settings

Count = Annotated[int, Field(ge=0, le=200)]


class PhantomSettings(Settings):
    """Options of the phantom. A subject depends on these and on its index, on nothing else.

    Attributes:
        subjects: how many subjects `write_bids` makes.
        seed: of all randomness.
        spacing_mm: edge of a voxel; with `slice_thickness_mm`, its edge within the slice.
        slice_thickness_mm: thickness of contiguous axial slices; None: isotropic voxels.
        lesions: fewest and most white matter lesions of a subject; (0, 0): healthy subjects.
        noise: standard deviation of the noise in each of the two channels of the receiver, as a
            share of white matter's mean signal (the convention of BrainWeb); varied by subject.
        bias: the receive field varies smoothly between exp(-bias) and exp(bias), in each contrast
            otherwise; 0: uniform.
        stripped: whether all but the brain is set to 0.
    """

    subjects: int = Field(default=8, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0)
    spacing_mm: float = Field(default=1.0, ge=0.5, le=8.0)
    slice_thickness_mm: float | None = Field(default=None, ge=0.5, le=16.0)
    lesions: tuple[Count, Count] = (2, 16)
    noise: float = Field(default=0.03, ge=0.0, le=1.0)
    bias: float = Field(default=0.12, ge=0.0, le=1.0)
    stripped: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lesions[0] > self.lesions[1]:
            raise ValueError("the fewest lesions come first")
        thickness = self.slice_thickness_mm
        if thickness is not None and thickness < self.spacing_mm:
            raise ValueError("slice_thickness_mm is at least spacing_mm")
        return self
