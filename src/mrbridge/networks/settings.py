"""The settings of generators and critics, and what follows from them without PyTorch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mrbridge.errors import SizeError
from mrbridge.settings import Settings

Norm = Literal["instance", "batch", "none"]
Padding = Literal["reflect", "zeros"]


class UNetSettings(Settings):
    """Settings of `UNet`.

    Attributes:
        levels: how often the image is halved.
        features: channels after the first level; they double until `max_features`.
        max_features: channels of the widest level.
        dropout: probability in the inner up blocks.
        dropout_blocks: how many of the innermost up blocks have dropout.
        norm: `instance`, `batch` or `none`.
        refine: channels of two more convolutions at full size, which see the input itself next to
            the decoder's output; 0 omits them, as in the paper.
    """

    kind: Literal["unet"] = "unet"
    levels: int = Field(default=8, ge=1, le=12)
    features: int = Field(default=64, ge=1, le=4096)
    max_features: int = Field(default=512, ge=1, le=4096)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    dropout_blocks: int = Field(default=3, ge=0)
    norm: Norm = "instance"
    refine: int = Field(default=0, ge=0, le=4096)

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2**self.levels)


class ResUNetSettings(Settings):
    """Settings of `ResUNet`.

    Attributes:
        levels: how often the image is halved.
        features: channels after the first level; they double until `max_features`.
        max_features: channels of the widest level.
        blocks: residual blocks at the coarsest level; each adds `max_features` channels.
        norm: `instance`, `batch` or `none`.
    """

    kind: Literal["resunet"] = "resunet"
    levels: int = Field(default=3, ge=1, le=12)
    features: int = Field(default=64, ge=1, le=4096)
    max_features: int = Field(default=256, ge=1, le=4096)
    blocks: int = Field(default=6, ge=0, le=100)
    norm: Norm = "instance"

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(2**self.levels)


class ResNetSettings(Settings):
    """Settings of `ResNet`.

    Attributes:
        features: channels after the first 7x7 convolution; they double twice.
        blocks: number of residual blocks; None takes 6 for images up to 128x128 and 9 above.
        norm: `instance`, `batch` or `none`.
        padding: `reflect` as in the paper, or `zeros`, which is faster.
    """

    kind: Literal["resnet"] = "resnet"
    features: int = Field(default=64, ge=1, le=4096)
    blocks: int | None = Field(default=None, ge=0, le=100)
    norm: Norm = "instance"
    padding: Padding = "reflect"

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return 4


class PatchGANSettings(Settings):
    """Settings of `PatchGAN`.

    Attributes:
        features: channels after the first block; they double in each further one, up to 8 times.
        strided: number of blocks that halve the image; 3 gives a receptive field of 70x70 pixels.
        norm: `instance`, `batch` or `none`.
    """

    kind: Literal["patchgan"] = "patchgan"
    features: int = Field(default=64, ge=1, le=4096)
    strided: int = Field(default=3, ge=0, le=12)
    norm: Norm = "instance"

    def logits_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the logits for an image of this size."""
        return self._logits(rows), self._logits(columns)

    def check_size(self, rows: int, columns: int) -> None:
        """Refuse images that are too small for a single logit.

        Raises:
            SizeError: the image is too small.
        """
        if min(self.logits_size(rows, columns)) < 1:
            smallest = 3 * 2**self.strided
            raise SizeError(
                f"a PatchGAN with {self.strided} strided blocks cannot judge "
                f"{rows}x{columns} images",
                remedy=f"Take at least {smallest}x{smallest}.",
            )

    def _logits(self, size: int) -> int:
        for _ in range(self.strided):
            size = size // 2
        return size - 2  # each of the last two convolutions, 4x4 with padding 1, loses one


GeneratorSettings = Annotated[
    UNetSettings | ResUNetSettings | ResNetSettings, Field(discriminator="kind")
]


class Networks(Settings):
    """The networks of a model and the image size that they are trained for.

    Raises:
        SizeError: the generator or the critic cannot take images of this size.
    """

    generator: GeneratorSettings
    critic: PatchGANSettings = PatchGANSettings()
    image_size: int = Field(default=256, ge=8, le=8192)

    @model_validator(mode="after")
    def _check_sizes(self) -> Networks:
        # An impossible size is refused here, before anything is written.
        multiple = self.generator.multiple
        if self.image_size % multiple:
            raise SizeError(
                f"image_size cannot be {self.image_size} with this {self.generator.kind}",
                remedy=f"Take a multiple of {multiple}, or fewer levels.",
            )
        self.critic.check_size(self.image_size, self.image_size)
        return self

    def describe(self) -> dict[str, Any]:
        """Parameter counts and the critic's logits, as in `mrbridge info --json`."""
        import torch

        from mrbridge.networks import build_critic, build_generator, count_parameters

        with torch.device("meta"):  # neither memory nor time for weights
            generator = build_generator(self.generator, self.image_size)
            critic = build_critic(self.critic)
        counts = count_parameters(generator), count_parameters(critic)
        return {
            "generator": counts[0],
            "critic": counts[1],
            "total": 2 * sum(counts),
            "critic_logits": list(self.critic.logits_size(self.image_size, self.image_size)),
        }
