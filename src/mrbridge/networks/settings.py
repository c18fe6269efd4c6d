"""The settings of generators and critics, and what follows from them without PyTorch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mrbridge.errors import SizeError
from mrbridge.extensions import Extension
from mrbridge.settings import Settings

Norm = Literal["instance", "batch", "none"]
Padding = Literal["reflect", "zeros"]
_KIND = "Kind of generator, or your own as module:Name."
_Width = Annotated[int, Field(ge=1, le=4096)]
_FirstWidth = Annotated[
    _Width, Field(description="Channels after the first level; they double until max_features.")
]
_LastWidth = Annotated[_Width, Field(description="Channels of the widest level.")]
_Levels = Annotated[int, Field(ge=1, le=12, description="Number of downsampling steps.")]
_Norm = Annotated[Norm, Field(description="Normalisation layer.")]


class UNetSettings(Settings):
    """Settings of `UNet`."""

    kind: Literal["unet"] = Field("unet", description=_KIND)
    levels: _Levels = 8
    features: _FirstWidth = 64
    max_features: _LastWidth = 512
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Probability of dropout in the innermost up blocks."
    )
    dropout_blocks: int = Field(3, ge=0, description="Number of innermost up blocks with dropout.")
    norm: _Norm = "instance"
    refine: int = Field(
        0,
        ge=0,
        le=4096,
        description="Channels of two further convolutions at full resolution, applied to the "
        "decoder's output and the input together; 0 omits them, as in the paper.",
    )
    inputs: int = Field(1, ge=1, le=64, description="Channels of the input.")
    outputs: int = Field(1, ge=1, le=64, description="Channels of the output.")

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2**self.levels)


class ResUNetSettings(Settings):
    """Settings of `ResUNet`."""

    kind: Literal["resunet"] = Field("resunet", description=_KIND)
    levels: _Levels = 3
    features: _FirstWidth = 64
    max_features: _LastWidth = 256
    blocks: int = Field(
        6,
        ge=0,
        le=100,
        description="Residual blocks at the coarsest level; each adds max_features channels.",
    )
    norm: _Norm = "instance"

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2**self.levels)


class ResNetSettings(Settings):
    """Settings of `ResNet`."""

    kind: Literal["resnet"] = Field("resnet", description=_KIND)
    features: _Width = Field(
        64, description="Channels after the first 7x7 convolution; they double twice."
    )
    blocks: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Number of residual blocks; none: 6 for images up to 128x128, otherwise 9.",
    )
    norm: _Norm = "instance"
    padding: Padding = Field(
        "reflect", description="reflect as in the paper, or zeros, which is faster."
    )

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return 4


class PatchGANSettings(Settings):
    """Settings of `PatchGAN`."""

    kind: Literal["patchgan"] = Field(
        "patchgan", description="Kind of critic, or your own as module:Name."
    )
    features: _Width = Field(
        64,
        description="Channels after the first block; they double in each further one, up to 8 "
        "times.",
    )
    strided: int = Field(
        3,
        ge=0,
        le=12,
        description="Number of strided blocks; 3 give a receptive field of 70x70 pixels.",
    )
    norm: _Norm = "instance"

    def logits_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the logits for an image of this size."""
        return self._logits(rows), self._logits(columns)

    def check_size(self, rows: int, columns: int) -> None:
        """Refuse images that are too small for a single logit: SizeError."""
        if min(self.logits_size(rows, columns)) < 1:
            smallest = 3 * 2**self.strided
            raise SizeError(
                f"a PatchGAN with {self.strided} strided blocks cannot judge "
                f"{rows}x{columns} images",
                remedy=f"Use at least {smallest}x{smallest}.",
            )

    def _logits(self, size: int) -> int:
        for _ in range(self.strided):
            size = size // 2
        return size - 2  # each of the last two convolutions, 4x4 with padding 1, loses one


class GeneratorExtension(Extension):
    """A generator from the user's own code: a class or function that gives an `nn.Module`."""

    built_in: ClassVar[tuple[str, ...]] = ("unet", "resunet", "resnet")

    multiple: int = Field(
        0,
        ge=0,
        le=4096,
        description="Rows and columns must be multiples of this; 0: the attribute `multiple` of "
        "the class, or 1.",
    )

    def complete(self) -> GeneratorExtension:
        """The same with the defaults of all settings.

        Raises:
            SettingsError: it cannot be imported, or a setting is unknown or impossible.
        """
        multiple = self.multiple or getattr(self.resolve(), "multiple", 1)
        return super().complete().changed({"multiple": multiple})


class CriticExtension(Extension):
    """A critic from the user's own code; its output may have any shape."""

    built_in: ClassVar[tuple[str, ...]] = ("patchgan",)


def _kind_of(value: Any) -> Any:
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


def _generator_tag(value: Any) -> Any:
    kind = _kind_of(value)
    return kind if kind is None or kind in GeneratorExtension.built_in else "own"


def _critic_tag(value: Any) -> str:
    return "patchgan" if _kind_of(value) in (None, "patchgan") else "own"


GeneratorSettings = Annotated[
    Annotated[UNetSettings, Tag("unet")]
    | Annotated[ResUNetSettings, Tag("resunet")]
    | Annotated[ResNetSettings, Tag("resnet")]
    | Annotated[GeneratorExtension, Tag("own")],
    Discriminator(_generator_tag),
]
CriticSettings = Annotated[
    Annotated[PatchGANSettings, Tag("patchgan")] | Annotated[CriticExtension, Tag("own")],
    Discriminator(_critic_tag),
]


class Networks(Settings):
    """The networks of a model and the image size that they are trained for.

    Raises:
        SizeError: the generator or the critic cannot take images of this size.
    """

    generator: GeneratorSettings
    critic: CriticSettings = PatchGANSettings()
    image_size: int = Field(
        256, ge=8, le=8192, description="Rows and columns of training slices, in pixels."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Networks:
        # An impossible size is refused here, before anything is written.
        multiple = self.generator.multiple
        if multiple and self.image_size % multiple:
            raise SizeError(
                f"image_size cannot be {self.image_size} with this {self.generator.kind}",
                remedy=f"Use a multiple of {multiple}, or fewer levels.",
            )
        if isinstance(self.critic, PatchGANSettings):
            self.critic.check_size(self.image_size, self.image_size)
        return self

    def describe(self) -> dict[str, Any]:
        """Parameter counts and the critic's logits, as in `mrbridge info --json`.

        The user's own networks are imported.
        """
        import torch

        from mrbridge.networks.build import build_critic, build_generator, count_parameters

        size = self.image_size
        with torch.device("meta"), torch.no_grad():  # neither memory nor time for weights
            generator = build_generator(self.generator, size)
            critic = build_critic(self.critic)
            if isinstance(self.critic, PatchGANSettings):
                logits = self.critic.logits_size(size, size)
            else:
                logits = tuple(critic(torch.empty(1, 1, size, size)).shape[2:])
        counts = count_parameters(generator), count_parameters(critic)
        return {
            "generator": counts[0],
            "critic": counts[1],
            "total": 2 * sum(counts),
            "critic_logits": list(logits),
        }
