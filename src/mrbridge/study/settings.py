"""The settings of `study setup`. Importing them takes no PyTorch."""

from __future__ import annotations

from pydantic import Field

from mrbridge.settings import Settings


class StudySettings(Settings):
    """What raters are asked about."""

    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of names, positions and the order for each rater."
    )
    spots: int = Field(
        3,
        ge=0,
        description="The most lesions of a person that raters are asked about, the largest first. "
        "As many positions without a lesion are added.",
    )
