"""The settings of an evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mrbridge.settings import Settings


class EvaluateSettings(Settings):
    """How syntheses are scored and shown.

    Attributes:
        mask: where to score, unless masks are given: `foreground` of the true scan (found by its
            intensities), the `whole` image, or the `brain` mask of a BIDS data set's derivatives.
        registration: of pairs, before they are scored: `auto` registers rigidly where the two scans
            do not lie on one grid; `rigid` and `affine` register every pair; `off` refuses pairs
            that are not on one grid.
        cycle: whether to translate there and back, also with noise in between; this triples the
            translations.
        noise: standard deviation of that noise, as a share of the synthesis' 99.5th percentile.
        wasserstein_slices: at most this many slices of each contrast, spread over all cases, enter
            the sliced Wasserstein distance.
        shown_cases: at most this many cases are shown as pictures.
        seed: of the noise, of the sampled voxels (those that registration looks at included) and of
            the sliced Wasserstein distance.
    """

    mask: Literal["foreground", "whole", "brain"] = "foreground"
    registration: Literal["auto", "off", "rigid", "affine"] = "auto"
    cycle: bool = True
    noise: float = Field(default=0.02, gt=0, le=1)
    wasserstein_slices: int = Field(default=96, ge=1)
    shown_cases: int = Field(default=6, ge=0)
    seed: int = Field(default=0, ge=0)
