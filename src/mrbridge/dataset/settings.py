"""Settings of prepared datasets and of augmentation; light enough for the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from mrbridge.errors import InputError, SettingsError
from mrbridge.extensions import Extension
from mrbridge.preprocessing.settings import PreprocessSettings, TransformKind
from mrbridge.settings import Option, Settings
from mrbridge.volume import CONTRASTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mrbridge.preprocessing.geometry import SliceGrid

Share = Annotated[float, Field(ge=0, lt=1)]

_NUMBER = r"([+-]?\d+(?:\.\d+)?)"
_RANGE = re.compile(rf"\s*{_NUMBER}\s*(%|mm)\s*:\s*{_NUMBER}\s*(%|mm)\s*")


@dataclass(frozen=True)
class SliceRange:
    """From one position in the head to another, both included.

    Attributes:
        low, high: in per cent, 0 the lowest and 100 the highest slice that shows the head; or in
            mm along the third axis of the scan's own space (RAS+), whose origin is the isocentre
            of the scanner, or the anterior commissure for scans in the space of a template.
        unit: `%` or `mm`.
    """

    low: float
    high: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> SliceRange:
        """Read `LOW:HIGH`, each with its unit; SettingsError if it is not such a range, or
        empty."""
        match = _RANGE.fullmatch(text)
        remedy = "Write 20%:80% or -40mm:60mm."
        if match is None or match[2] != match[4]:
            raise SettingsError(f"'{text}' is not a range of slices", remedy=remedy)
        result = cls(float(match[1]), float(match[3]), match[2])
        if not result.low < result.high:
            raise SettingsError(f"the range of slices '{text}' is empty", remedy=remedy)
        if result.unit == "%" and (result.low < 0 or result.high > 100):
            raise SettingsError(f"'{text}' goes beyond 0% or 100%", remedy=remedy)
        return result

    def holds(self, filled: NDArray[np.bool_], grid: SliceGrid) -> NDArray[np.bool_]:
        """Which slices are in the range, by their centres; `filled`, shape (slices,), from inferior
        to superior, says which of them show the head. InputError for 2D images, whose position in
        the head is unknown."""
        import numpy as np

        if grid.affine is None:
            raise InputError(
                "is a 2D image: its position in the head is unknown", remedy="Leave out --slices."
            )
        numbers = np.arange(len(filled))
        if self.unit == "mm":
            middle = (np.array(grid.full[1:]) - 1) / 2
            positions = grid.affine[2, 0] * numbers + grid.affine[2, 1:3] @ middle
            positions = positions + grid.affine[2, 3]
        else:
            shown = np.flatnonzero(filled)
            if not shown.size:
                return np.zeros(len(filled), bool)
            positions = (numbers - shown[0] + 0.5) / (shown[-1] - shown[0] + 1) * 100
        return np.asarray((positions >= self.low) & (positions <= self.high))


class PrepareSettings(Settings):
    """How scans become a prepared dataset."""

    source: str = Field(
        "T1w",
        description="Source contrast: T1w, T2w, PDw, FLAIR, or a name of your own, such as CT, "
        "that the files have as BIDS suffix or as a word.",
    )
    target: str = Field("T2w", description="Target contrast, named in the same way.")
    registration: Annotated[Literal["none", TransformKind], Option(("--register",))] = Field(
        "none",
        description="Register each scan of the target contrast to the scan of the source contrast "
        "of the same subject and session, for training on pairs: none, rigid or affine.",
    )
    standard: PreprocessSettings = Field(
        PreprocessSettings(), description="Preprocessing of every scan."
    )
    min_foreground: Share = Field(
        0.02, description="Share of a slice that must show the head; emptier slices are left out."
    )
    slices: Annotated[str | None, Option(metavar="FROM:TO", default="all")] = Field(
        None,
        description="Which slices: 20%:80% of those that show the head, or -40mm:60mm along the "
        "third axis of each scan's own space.",
    )
    validation_share: Share = Field(
        0.1,
        description="Share of the subjects for validation. With too few subjects it is a block of "
        "that share of the slices of each series of at least 8.",
    )
    test_share: Share = Field(
        0.1,
        description="Share of the subjects for testing; with too few subjects there is no test "
        "split.",
    )
    gap: int = Field(
        3,
        ge=0,
        description="Slices on either side of a validation block that are in no split, because "
        "neighbouring slices are nearly equal; both sides together at most a fifth of the slices.",
    )
    seed: int = Field(0, ge=0, description="Seed of the split and of registration.")

    @property
    def contrasts(self) -> tuple[str, str]:
        """Source and target."""
        return self.source, self.target

    @model_validator(mode="after")
    def _check(self) -> PrepareSettings:
        for contrast in self.contrasts:
            known = next((one for one in CONTRASTS if one.lower() == contrast.lower()), contrast)
            if known != contrast or not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,31}", contrast):
                raise SettingsError(
                    f"'{contrast}' is not the name of a contrast",
                    remedy=f"Use {', '.join(CONTRASTS)}, or letters and digits, such as CT.",
                )
        if self.source.lower() == self.target.lower():
            raise SettingsError(
                f"source and target are both {self.source}", remedy="Choose two contrasts."
            )
        if self.slices is not None:
            SliceRange.parse(self.slices)
        return self


class AugmentSettings(Settings):
    """Random changes to training slices; 0 or False switches a change off.

    Bias field, gamma and noise are applied half of the time, the others always.
    """

    flip: bool = Field(True, description="Mirror left and right with probability 0.5.")
    rotate_degrees: float = Field(
        5.0, ge=0, le=180, description="Maximum rotation in either direction, in degrees."
    )
    scale: Share = Field(
        0.05, description="Maximum relative change of size along rows and columns."
    )
    shift: float = Field(0.03, ge=0, le=1, description="Maximum shift, as a share of the image.")
    bias_field: float = Field(
        0.0, ge=0, le=10, description="Maximum coefficient of the smooth multiplicative field."
    )
    gamma: float = Field(
        0.0, ge=0, le=10, description="Maximum relative change of the exponent of intensities."
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Maximum standard deviation of Gaussian noise, in the image's range of 2.",
    )
    extra: Annotated[dict[str, Extension], Option(metavar="NAME…")] = Field(
        {},
        exclude_if=lambda extra: not extra,
        description="Augmentations of your own: augment.extra.NAME.kind is module:Name, and its "
        "other keys are settings of that function.",
    )
