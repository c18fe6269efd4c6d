"""`bundle.json`: what a model is, and which of its generators makes a contrast from which scans.

The model card follows from it, also in the layout of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, model_validator

from mrbridge import __version__
from mrbridge.extensions import code_in
from mrbridge.networks.settings import Networks, UNetSettings
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.reports import render
from mrbridge.settings import Planes, Settings
from mrbridge.text import short_repr

VERSION = 1

COVERAGE = 0.9
"""Share of the true values within an uncertainty map's interval."""

MOST_SCANS = 20_000
"""The most scans that a bundle lists."""

_LARGEST = 1e30  # of intensities: float32 cannot hold the squares of larger ones

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


class Uncertainty(Settings):
    """How the uncertainty of a voxel follows from what a translation knows of it.

    Half the width of the 90 % interval is `factor` times (`least` + predicted scale + `spread`
    times the standard deviation over the planes), in [-1, 1]. The factor is the conformal one of
    Angelopoulos et al. 2022 (arXiv:2202.05265).

    Attributes:
        width: channels of the scale heads; 0: there are none.
        least: the smallest scale.
        spread: weight of the standard deviation over the planes.
        factor: by the contrast that is synthesised.
        factor_in_one_plane: the same where there is one plane, and so no spread; empty: the other.
        calibrated_on: the scans that the factor was found on.
    """

    LEAST: ClassVar[float] = 0.01
    width: int = Field(0, ge=0, le=4096)
    least: float = Field(LEAST, ge=0, le=1)
    spread: float = Field(1.0, ge=0, le=100)
    factor: dict[Contrast, Factor]
    factor_in_one_plane: dict[Contrast, Factor] = Field(default_factory=dict)
    calibrated_on: Line = ""


class BundleManifest(Settings):
    """`bundle.json`: everything that inference needs, and the origin of the model.

    Its author is unknown: whatever becomes a name or a path is checked, and sizes have limits.

    Attributes:
        least_size: rows and columns to which smaller slices are padded, so that they have the same
            surroundings as in training, which instance norms see
            (docs/decisions/0013-surroundings.md). 0: only what the generator needs.
        uncertainty: how uncertainty maps are made; None: the model has none.
        any_contrast: a third generator, for all other directions; None: there is none.
        trained_on: of the scans that it learned from, also as initial model, the beginnings of the
            SHA-256 of their files; empty if there are more than `MOST_SCANS`, or it is not known.
    """

    format: Literal["mrbridge-bundle"] = "mrbridge-bundle"
    version: int = VERSION
    created_by: Line = f"mrbridge {__version__}"
    source: Contrast
    target: Contrast
    preset: Line
    networks: Networks
    standard: PreprocessSettings
    typical: dict[str, IntensityNormalisation]
    pictures: bool
    planes: Planes = "axial"
    least_size: int = Field(default=0, ge=0, le=8192)
    uncertainty: Uncertainty | None = None
    any_contrast: AnyContrast | None = None
    trained: dict[str, Any]
    trained_on: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = Field(
        (), max_length=MOST_SCANS, exclude_if=lambda scans: not scans
    )
    scores: dict[str, float]
    limits: tuple[Annotated[str, Field(max_length=10_000)], ...] = ()
    weights: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors)?$")
    weights_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _check(self) -> BundleManifest:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source}")
        if self.least_size > max(1024, self.networks.image_size):
            raise ValueError(f"least_size is {self.least_size}, far over image_size")
        for contrast in self.contrasts:
            if contrast not in self.typical:
                raise ValueError(f"typical names no range of {contrast}")
        for contrast, normalisation in self.typical.items():
            if not _is_range(normalisation):
                values = short_repr(normalisation.model_dump(exclude_defaults=True))
                raise ValueError(f"typical is not a range of {contrast}: {values}")
        return self

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All contrasts that the model takes and makes."""
        more = () if self.any_contrast is None else self.any_contrast.contrasts
        return tuple(dict.fromkeys((self.source, self.target, *more)))

    @property
    def code(self) -> tuple[str, ...]:
        """The code that translation needs and that is not part of mrbridge, as `module:Name`."""
        return code_in(self.networks.generator, self.standard)


def _is_range(normalisation: IntensityNormalisation) -> bool:
    """Whether all landmarks rise, so that intensities keep their order."""
    knee = [] if normalisation.knee is None else [normalisation.knee]
    line = [normalisation.low, *knee, normalisation.high]
    lines = (line, normalisation.landmarks, normalisation.levels)
    least = max(1e-6 * max(map(abs, line)), 1 / _LARGEST)
    if len(normalisation.levels) not in (0, len(normalisation.landmarks)):
        return False
    return all(after - before > least for before, after in pairwise(line)) and all(
        all(abs(value) < _LARGEST for value in values)
        and all(before < after for before, after in pairwise(values))
        for values in lines
    )


def in_words(names: Iterable[str]) -> str:
    """Names as `A, B or C`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def card(manifest: BundleManifest, *, allow_code: bool = False) -> str:
    """The model card, in Markdown; `allow_code`: whether code that it names may be imported, to
    count its parameters."""
    is_known = allow_code or not code_in(manifest.networks)
    parameters = manifest.networks.describe() if is_known else None
    return render("card.md.j2", model=manifest, parameters=parameters)


def huggingface_card(manifest: BundleManifest, library: str = "mrbridge") -> str:
    """The model card with the front matter of Hugging Face's model cards.

    Source: https://huggingface.co/docs/hub/model-cards
    """
    source, target = manifest.source, manifest.target
    metrics = [
        {"type": name, "value": round(value, 6)} for name, value in sorted(manifest.scores.items())
    ]
    front = {
        "library_name": library,
        "pipeline_tag": "image-to-image",
        "tags": ["medical", "mri", "brain", "image-synthesis", source, target, "mrbridge"],
        "model-index": [
            {
                "name": f"{source}-{target}-{manifest.weights_sha256[:12]}",
                "results": [
                    {
                        "task": {
                            "type": "image-to-image",
                            "name": f"{source} to {target} and back",
                        },
                        "dataset": {"type": "validation", "name": "validation slices"},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    if not metrics:
        del front["model-index"]
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n{card(manifest, allow_code=True)}"
