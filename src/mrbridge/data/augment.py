"""Random changes to training slices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from mrbridge.settings import Settings

_OFTEN = 0.5  # how often a change other than the move is made


class AugmentSettings(Settings):
    """How strongly training slices are changed; zero or False switches a change off.

    Attributes:
        flip: mirror left and right half of the time.
        rotate_degrees: largest rotation, either way.
        scale: largest relative change of size, along rows and along columns.
        shift: largest shift, as a share of the image.
        bias_field: largest coefficient of the smooth multiplicative field, half of the time.
        gamma: largest relative change of the exponent of the intensities, half of the time.
        noise: largest standard deviation of Gaussian noise, in the image's range of 2, half of the
            time.
    """

    flip: bool = True
    rotate_degrees: float = 5.0
    scale: float = 0.05
    shift: float = 0.03
    bias_field: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0


class Augmentation:
    """Changes slices; generators in equal states give equal changes.

    A training waits for its loader, so this takes about a millisecond, of which the interpolation
    is PyTorch's. Nothing in it runs on several threads: an image is too small to gain by them, and
    on few processors they would wait for those of the training.

    Args:
        settings: which changes, how strong.
        image_size: rows and columns of the slices.
    """

    def __init__(self, settings: AugmentSettings, image_size: int) -> None:
        self.settings = settings
        self.image_size = image_size
        # Centres of the pixels, the image's edges being at -1 and 1.
        self._places = ((np.arange(image_size) + 0.5) * 2 / image_size - 1).astype(np.float32)
        self._polynomials = legvander(self._places, 2).astype(np.float32)  # (rows, degrees)

    def __call__(
        self, images: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Change slices, all of them alike but for the noise.

        Args:
            images: shape (slices, rows, columns), range [-1, 1] with background -1; left as is.
            rng: what decides.

        Returns:
            The same shape and range.
        """
        settings = self.settings
        if settings.flip and rng.random() < _OFTEN:
            images = images[..., ::-1]
        values = (images + np.float32(1)) / np.float32(2)  # air is 0, for the changes that multiply
        if settings.rotate_degrees or settings.scale or settings.shift:
            values = self._moved(values, rng)
        if settings.bias_field and rng.random() < _OFTEN:
            values *= self._bias_field(rng)
        if settings.gamma and rng.random() < _OFTEN:
            largest = 1 + settings.gamma
            values **= np.float32(rng.uniform(1 / largest, largest))
        if settings.noise and rng.random() < _OFTEN:
            noise = rng.standard_normal(values.shape, np.float32)
            values += np.float32(rng.uniform(0, settings.noise / 2)) * noise
        values *= 2
        values -= 1
        return np.clip(values, -1, 1, out=values)

    def _moved(self, values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Rotated, scaled and shifted, bilinear; what comes in from outside is air, 0."""
        settings, places = self.settings, self._places
        angle = np.deg2rad(rng.uniform(-1, 1) * settings.rotate_degrees)
        rows, columns = 1 + rng.uniform(-1, 1, 2) * settings.scale
        down, right = rng.uniform(-1, 1, 2) * 2 * settings.shift
        # Where each pixel comes from: the column first, as `grid_sample` wants it.
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        row, column = (places * np.float32(rows))[:, None], places * np.float32(columns)
        origin = np.empty((1, len(places), len(places), 2), np.float32)
        np.add(column * cosine + np.float32(right), row * sine, out=origin[0, ..., 0])
        np.subtract(row * cosine + np.float32(down), column * sine, out=origin[0, ..., 1])
        moved = torch.nn.functional.grid_sample(
            torch.from_numpy(values)[None], torch.from_numpy(origin), align_corners=False
        )
        return moved[0].numpy()

    def _bias_field(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A smooth field above 0, (rows, columns): the exponential of a polynomial."""
        coefficients = rng.uniform(0, self.settings.bias_field, (3, 3)).astype(np.float32)
        # Of the second degree: the triangle of terms whose degrees sum to at most 2.
        coefficients[1, 2] = coefficients[2, 1] = coefficients[2, 2] = 0
        return np.exp(self._polynomials @ coefficients @ self._polynomials.T)
