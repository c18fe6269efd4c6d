"""Settings of preprocessing; light enough for the command line."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrbridge.errors import SettingsError
from mrbridge.extensions import Extension
from mrbridge.settings import Option, Settings
from mrbridge.text import shortened

BrainKind = Literal["none", "auto", "hd-bet", "mask"]
TransformKind = Literal["rigid", "affine"]
"""6 or 12 degrees of freedom."""

Percentile = Annotated[float, Field(gt=50, le=100)]

_LONGEST_PATTERN = 1000


class IntensitySettings(Settings):
    """How the intensity range of a scan is found."""

    method: Annotated[Literal["percentile", "nyul", "zscore"], Option(("--intensity",))] = Field(
        "percentile",
        description="Intensity normalisation: percentile (from background to bright tissue), "
        "zscore (standard deviations from the mean of the foreground) or nyul (the deciles of "
        "each contrast matched to those of the training scans).",
    )
    lower_percentile: float = Field(
        1.0, ge=0, le=50, description="Percentile of all voxels that is the background."
    )
    upper_percentile: Percentile = Field(
        99.5,
        description="Percentile of the foreground above which intensities are clipped (vessels, "
        "spikes).",
    )
    knee_percentile: Percentile = Field(
        90.0,
        description="Percentile of the foreground at which the intensity curve bends, if that is "
        "below 80 % of the range; 100: a straight line.",
    )
    zscore_limit: float = Field(
        3.0, gt=0, description="Standard deviations from the mean that become -1 and 1."
    )


class PreprocessSettings(Settings):
    """Preprocessing of every scan, the same in training and in translation."""

    spacing_mm: float | None = Field(
        1.0,
        ge=0.1,
        le=100,
        description="In-plane spacing to which volumes are resampled; none keeps that of each "
        "scan.",
    )
    margin_mm: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Margin around the head; everything further out is cropped.",
    )
    foreground: Literal["head", "threshold"] = Field(
        "head",
        exclude_if=lambda kind: kind == "head",
        description="What the scans show: head; or threshold, any object that is brighter than "
        "its background, for other parts of the body. Nothing then assumes a head: neither the "
        "check of the input, nor training on simulated heads, nor the tissues of evaluate.",
    )
    brain: BrainKind = Field(
        "none",
        description="Skull-strip: keep only the brain, set everything else to 0. One of none, "
        "auto (registration of the ICBM 152 template), hd-bet (the program) or mask (masks of "
        "your own).",
    )
    brain_mask: Annotated[str, Option(metavar="PATTERN")] = Field(
        "{entities}_desc-brain_mask.nii.gz",
        description="Where masks of your own are: a path from the folder of the scan, with "
        "{stem} (file name without extension) or {entities} (the same without the contrast).",
    )
    align: Literal["none", TransformKind] = Field(
        "none",
        description="Align slices with the axes of the ICBM 152 template: none, rigid, or affine "
        "(the size of the template, too). Synthetic images are rotated back.",
    )
    denoise: Annotated[bool, Option(("--denoise/--no-denoise",), default="no-denoise")] = Field(
        False,
        description="Remove noise by non-local means. The noise of an input is not added to the "
        "synthetic image.",
    )
    bias: Literal["none", "n4"] = Field(
        "none",
        description="Bias field correction: none or n4. The field of an input is not applied to "
        "the synthetic image.",
    )
    intensity: IntensitySettings = Field(
        IntensitySettings(), description="How the intensity range is found."
    )
    extra: Annotated[dict[str, Extension], Option(metavar="NAME…")] = Field(
        {},
        exclude_if=lambda extra: not extra,
        description="Preprocessing steps of your own: standard.extra.NAME.kind is module:Name, and "
        "its other keys are settings of that function. They run in the order of the settings, "
        "after bias field correction.",
    )

    @model_validator(mode="after")
    def _check_foreground(self) -> PreprocessSettings:
        steps = {"brain": self.brain, "align": self.align}
        wrong = [name for name, kind in steps.items() if kind != "none"]
        if self.foreground != "head" and wrong:
            raise SettingsError(
                f"--{wrong[0]} {steps[wrong[0]]} needs a head, which --foreground "
                "threshold excludes",
                remedy="Leave one of them out.",
            )
        return self

    @field_validator("brain_mask")
    @classmethod
    def _check_brain_mask(cls, pattern: str) -> str:
        check_pattern(pattern)
        return pattern


def check_pattern(pattern: str) -> None:
    """Refuse anything but the pattern of a path to a mask.

    Raises:
        SettingsError: absolute (the pattern travels with the model), too long, with characters
            that cannot be printed, or with other fields than `{stem}` and `{entities}`.
    """
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        parts = []
    fields = {name for _, name, _, _ in parts if name is not None}
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    absolute = any(
        path(pattern).is_absolute() or path(pattern).drive
        for path in (PurePosixPath, PureWindowsPath)
    )
    is_text = pattern.isprintable() and len(pattern) <= _LONGEST_PATTERN
    if not fields or not fields <= {"stem", "entities"} or not plain or absolute or not is_text:
        raise SettingsError(
            f"'{shortened(pattern)}' does not say where the brain masks are",
            remedy="Write a path from the scan's folder with {stem} or {entities} in it.",
        )
