"""Settings of simulated datasets; light enough for the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from mrbridge.settings import Option, Settings
from mrbridge.volume import CONTRASTS

Count = Annotated[int, Field(ge=0, le=200)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class PhantomSettings(Settings):
    """Options of the phantom. A subject depends on these and on its index, on nothing else."""

    contrasts: Annotated[tuple[str, ...], Option(metavar="|".join(CONTRASTS) + "…")] = Field(
        default=("T1w", "T2w"), min_length=1, description="Contrasts of each subject."
    )
    subjects: int = Field(default=8, ge=1, le=10_000, description="How many subjects.")
    seed: int = Field(default=0, ge=0, description="Seed of all randomness.")
    spacing_mm: float = Field(
        default=1.0,
        ge=0.5,
        le=8.0,
        description="Voxel size in mm; with slice_thickness_mm, that within the slice.",
    )
    slice_thickness_mm: float | None = Field(
        default=None,
        ge=0.5,
        le=16.0,
        description="Thickness of contiguous axial slices in mm; isotropic voxels unless given.",
    )
    lesions: tuple[Count, Count] = Field(
        default=(2, 16),
        description="Fewest and most white matter lesions of a subject; 0 0: healthy subjects.",
    )
    noise: Share = Field(
        default=0.03,
        description="Standard deviation of the noise in each of the two channels of the receiver, "
        "as a share of white matter's mean signal (the convention of BrainWeb); varies by subject.",
    )
    bias: Share = Field(
        default=0.12,
        description="The bias field varies smoothly between exp(-bias) and exp(bias), in each "
        "contrast differently; 0: uniform.",
    )
    stripped: bool = Field(default=False, description="Whether everything but the brain is 0.")
    labels: Path | None = Field(
        default=None,
        description="Folder of label maps in FreeSurfer's numbering (NIfTI files or aseg.mgz); "
        "subjects take turns with them. Unless given, all come from the ICBM 152 template.",
    )
    pathology: Share = Field(
        default=0.0,
        description="Share of subjects with one to three tumours, strokes, cysts, haemorrhages, "
        "oedemas or resection cavities.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for contrast in self.contrasts:
            if contrast not in CONTRASTS or self.contrasts.count(contrast) > 1:
                raise ValueError(f"contrasts are some of {', '.join(CONTRASTS)}, each once")
        if self.lesions[0] > self.lesions[1]:
            raise ValueError("the fewest lesions come first")
        thickness = self.slice_thickness_mm
        if thickness is not None and thickness < self.spacing_mm:
            raise ValueError("slice_thickness_mm is at least spacing_mm")
        return self
