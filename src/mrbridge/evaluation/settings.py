"""The settings of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mrbridge.settings import Option, Settings


class EvaluateSettings(Settings):
    """How synthetic images are scored and shown."""

    contrasts: Annotated[
        tuple[str, ...], Option(metavar="CONTRAST…", default="source and target of the model")
    ] = Field(
        (),
        description="The two contrasts that are compared, for models of more than two, as in "
        "T2w FLAIR.",
    )
    mask: Literal["foreground", "whole", "brain"] = Field(
        "foreground",
        description="Where to score without --mask: the foreground of the real scan (by its "
        "intensities), the whole image, or the brain mask of a BIDS dataset's derivatives.",
    )
    registration: Annotated[Literal["auto", "off", "rigid", "affine"], Option(("--register",))] = (
        Field(
            "auto",
            description="Registration of pairs: auto registers rigidly if the two scans are on "
            "different grids; rigid and affine register every pair; off refuses pairs on different "
            "grids.",
        )
    )
    cycle: bool = Field(
        True,
        description="Translate back to the source contrast, also with noise in between; this "
        "triples the number of translations.",
    )
    noise: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Standard deviation of that noise, as a share of the synthetic image's 99.5th "
        "percentile.",
    )
    tissues: bool = Field(
        True,
        description="Segment fluid, grey and white matter in the real and the synthetic scan, and "
        "search for invented lesions; a few seconds for each scan.",
    )
    registration_error: bool = Field(
        False,
        description="Also measure the error in mm of a rigid registration in which the synthetic "
        "scan replaces its source; about half a minute for each scan.",
    )
    wasserstein_slices: int = Field(
        96,
        ge=1,
        description="Maximal number of slices of each contrast, over all cases, for the sliced "
        "Wasserstein distance.",
    )
    shown_cases: int = Field(
        6, ge=0, description="Maximal number of cases with images in the report."
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the noise, of the sampled voxels (also of registration) and of the "
        "sliced Wasserstein distance.",
    )

    @field_validator("contrasts")
    @classmethod
    def _two(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) not in (0, 2) or len(set(value)) < len(value):
            raise ValueError("two contrasts")
        return value
