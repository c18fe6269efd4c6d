"""Directions of translation: which generator of a model makes a contrast from which scans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from mrbridge.networks.settings import UNetSettings
from mrbridge.settings import Settings

Contrast = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,32}$")]
Factor = Annotated[float, Field(gt=0, le=1000)]
Line = Annotated[str, Field(max_length=200)]


class AnyContrast(Settings):
    """A generator that takes any of several contrasts, and makes each of the others.

    Attributes:
        contrasts: of its channels, in and out; one more channel of the input takes scans whose
            contrast is unknown. Channels of absent contrasts are 0.
        generator: the network.
        width: channels of its scale head; 0: there is none.
        factor: as `Uncertainty.factor`, by `Direction.name`, in three planes.
        factor_in_one_plane: the same where there is one plane.
    """

    contrasts: tuple[Contrast, ...] = Field(min_length=2, max_length=16)
    generator: UNetSettings
    width: int = Field(0, ge=0, le=4096)
    factor: dict[Line, Factor] = Field(default_factory=dict)
    factor_in_one_plane: dict[Line, Factor] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> AnyContrast:
        channels = self.generator.inputs, self.generator.outputs
        if channels != (len(self.contrasts) + 1, len(self.contrasts)):
            raise ValueError("the generator's channels are not those of the contrasts")
        if len(set(self.contrasts)) != len(self.contrasts):
            raise ValueError("a contrast is named twice")
        return self


@dataclass(frozen=True)
class Direction:
    """How a contrast is made from scans.

    Attributes:
        given: contrasts of the scans, that of the scan to translate first; None: unknown.
        to: the contrast to synthesise.
        generator: `to_target`, `to_source` or `to_any`.
        settings: of a generator with several channels; None: it has one.
        contrasts: of the channels of that generator.
    """

    given: tuple[str | None, ...]
    to: str
    generator: str
    settings: UNetSettings | None = None
    contrasts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `T2w+FLAIR to T1w`, the scans in the order of the channels."""
        known = sorted((self.channel(one), one or "unknown") for one in self.given)
        return f"{'+'.join(one for _, one in known)} to {self.to}"

    @property
    def inputs(self) -> int:
        """Channels of the generator's input."""
        return 1 if self.settings is None else self.settings.inputs

    @property
    def output(self) -> int:
        """The channel of the result."""
        return 0 if self.settings is None else self.contrasts.index(self.to)

    def channel(self, contrast: str | None) -> int:
        """The input channel of a scan of this contrast."""
        if self.settings is None:
            return 0
        if contrast is None:
            return len(self.contrasts)
        return self.contrasts.index(contrast)


def in_words(names: Iterable[str]) -> str:
    """Names as `A, B or C`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
