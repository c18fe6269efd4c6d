"""A network, a loss, an augmentation and a preprocessing step for mrbridge, in one file.

mrbridge train store -o run --set networks.generator.kind=mrbridge_example:PlainGenerator
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn


class PlainGenerator(nn.Module):
    """A generator of plain 3x3 convolutions at half resolution, with a skip connection.

    Args:
        width: channels.
        depth: number of convolutions in between.
    """

    multiple = 2  # rows and columns must be multiples of this

    def __init__(
        self,
        width: Annotated[int, Field(ge=1, le=512)] = 32,
        depth: Annotated[int, Field(ge=1, le=50)] = 4,
    ) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, width, 4, stride=2, padding=1)
        self.middle = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2))
                for _ in range(depth)
            )
        )
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.last = nn.Conv2d(width + 1, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Translate images, (batch, 1, rows, columns) in [-1, 1], to the same shape and range."""
        features = self.up(self.middle(self.down(image)))  # (batch, width, rows, columns)
        return torch.tanh(self.last(torch.cat([features, image], dim=1)))


def gradient_loss(
    image: Tensor, reference: Tensor, *, order: Annotated[int, Field(ge=1, le=2)] = 1
) -> Tensor:
    """Mean absolute difference of the gradients along rows and columns.

    Args:
        image: what the generator made, (batch, 1, rows, columns) in [-1, 1].
        reference: what it is compared with, the same shape.
        order: of the derivatives.
    """
    loss = image.new_zeros(())
    for axis in (2, 3):
        loss = loss + (image.diff(order, dim=axis) - reference.diff(order, dim=axis)).abs().mean()
    return loss


def spikes(image: np.ndarray, rng: np.random.Generator, *, strength: float = 0.1) -> np.ndarray:
    """Add the stripes of a single wrong value in k-space, half of the time.

    Args:
        image: (slices, rows, columns) in [-1, 1], a copy that may be changed.
        rng: the only source of random numbers, so that resumed trainings stay exact.
        strength: largest amplitude of the stripes.
    """
    if rng.random() < 0.5:
        return image
    rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
    frequency = rng.uniform(0.05, 0.5, 2) * 2 * np.pi
    stripes = np.cos(frequency[0] * rows + frequency[1] * columns + rng.uniform(0, 2 * np.pi))
    inside = image > -1  # air stays air
    return image + inside * (rng.uniform(0, strength) * stripes).astype(np.float32)


def clip_bright(
    slices: np.ndarray,
    foreground: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.9,
) -> np.ndarray:
    """Clip what is brighter than a percentile of the foreground, such as vessels.

    Args:
        slices: (slices, rows, columns), in the units of the scan.
        foreground: where the head is, same shape, boolean.
        spacing: of the three axes, in mm.
        percentile: of the foreground.
    """
    if not foreground.any():
        return slices
    return np.minimum(slices, np.percentile(slices[foreground], percentile))
