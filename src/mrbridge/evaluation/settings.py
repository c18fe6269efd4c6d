"""The settings of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mrbridge.settings import Option, Settings


class EvaluateSettings(Settings):
    """How synthetic images are scored and shown.

    Attributes:
        mask: where to score without --mask: `foreground` of the real scan (by its intensities),
            the `whole` image, or the `brain` mask of a BIDS dataset's derivatives.
        registration: of pairs, before scoring: `auto` registers rigidly if the two scans are on
            different grids; `rigid` and `affine` register every pair; `off` refuses pairs on
            different grids.
        cycle: translate back to the source contrast, also with noise in between; this triples the
            number of translations.
        noise: standard deviation of that noise, as a share of the synthetic image's 99.5th
            percentile.
        wasserstein_slices: maximal number of slices of each contrast, over all cases, for the
            sliced Wasserstein distance.
        shown_cases: maximal number of cases with images in the report.
        seed: of the noise, of the sampled voxels (also of registration) and of the sliced
            Wasserstein distance.
    """

    mask: Literal["foreground", "whole", "brain"] = "foreground"
    registration: Annotated[Literal["auto", "off", "rigid", "affine"], Option(("--register",))] = (
        Field("auto", description="Registration of pairs that are not on one grid.")
    )
    cycle: bool = True
    noise: float = Field(default=0.02, gt=0, le=1)
    wasserstein_slices: int = Field(default=96, ge=1)
    shown_cases: int = Field(default=6, ge=0)
    seed: int = Field(default=0, ge=0)
