"""Random changes to training slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from torch import Tensor

from mrbridge.data.settings import AugmentSettings

_CPU = torch.device("cpu")

_OFTEN = 0.5  # how often a change other than the move is made


# What is drawn for an image, as a row of numbers: what each of them says.
_MIRROR = slice(0, 1)  # 1, or -1 to swap left and right
_MOVE = slice(1, 7)  # where a pixel comes from, as (column, row): by its column, by its row, and 1
_FIELD = slice(7, 16)  # coefficients of the bias field, 3x3
_EXPONENT = slice(16, 17)
_NOISE = slice(17, 18)  # its standard deviation, of a range of 1
_NOTHING = np.array([1, *(1, 0), *(0, 1), *(0, 0), *[0] * 9, 1, 0], np.float32)


class Augmentation:
    """Changes slices; generators in equal states give equal changes.

    What is to be changed is drawn on the CPU, a row of numbers an image (`draw`); the change itself
    is made where the images are (`apply`). For one image on a CPU the two take less than a
    millisecond, of which half is the interpolation: a training waits for its loader.

    Args:
        settings: which changes, how strong.
        image_size: rows and columns of the slices.
        device: where the images are that `apply` gets.
        looks: which slices of an image change their intensities; None: all. All of them move.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        image_size: int,
        device: torch.device = _CPU,
        looks: Sequence[int] | None = None,
    ) -> None:
        self.settings = settings
        self.looks = None if looks is None else list(looks)
        self.image_size = image_size
        # Centres of the pixels, the image's edges being at -1 and 1.
        places = ((np.arange(image_size) + 0.5) * 2 / image_size - 1).astype(np.float32)
        self._places = torch.from_numpy(places).to(device)
        polynomials = legvander(places, 2).astype(np.float32)  # (rows, degrees)
        self._polynomials = torch.from_numpy(polynomials).to(device)
        self._moves = bool(settings.rotate_degrees or settings.scale or settings.shift)

    def __call__(
        self, images: NDArray[np.float32], rngs: Sequence[np.random.Generator]
    ) -> NDArray[np.float32]:
        """Change images, the slices of one image alike but for the noise.

        Args:
            images: shape (images, slices, rows, columns), range [-1, 1] with background -1; left
                as they are.
            rngs: what decides, one for each image.

        Returns:
            The same shape and range.
        """
        drawn = np.stack([self.draw(rng) for rng in rngs])
        noise = None
        if drawn[:, _NOISE].any():
            noise = torch.empty(self.noise_shape(images.shape))
            for one, rng in zip(noise, rngs, strict=True):
                # PyTorch's normal numbers, which take a third of the time of NumPy's.
                one.normal_(generator=torch.Generator().manual_seed(int(rng.integers(2**63))))
        return self.apply(torch.from_numpy(images), drawn, torch.from_numpy(drawn), noise).numpy()

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the noise for images (images, slices, rows, columns): one for each look."""
        images, slices, *size = shape
        return (images, slices if self.looks is None else len(self.looks), *size)

    def without_looks(self) -> Augmentation:
        """The same moves, without any change of intensities."""
        moves = self.settings.changed({"bias_field": 0, "gamma": 0, "noise": 0})
        return Augmentation(moves, self.image_size, self._places.device)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """What is to become of an image, for `apply`: shape (numbers,)."""
        settings, drawn = self.settings, _NOTHING.copy()
        if settings.flip and rng.random() < _OFTEN:
            drawn[_MIRROR] = -1
        if self._moves:
            angle = np.deg2rad(rng.uniform(-1, 1) * settings.rotate_degrees)
            rows, columns = 1 + rng.uniform(-1, 1, 2) * settings.scale
            down, right = rng.uniform(-1, 1, 2) * 2 * settings.shift
            cosine, sine = math.cos(angle), math.sin(angle)
            side = float(drawn[0])
            drawn[_MOVE] = (
                *(side * columns * cosine, -columns * sine),
                *(side * rows * sine, rows * cosine),
                *(side * right, down),
            )
        if settings.bias_field and rng.random() < _OFTEN:
            coefficients = rng.uniform(0, settings.bias_field, (3, 3))
            # Of the second degree: the triangle of terms whose degrees sum to at most 2.
            coefficients[1, 2] = coefficients[2, 1] = coefficients[2, 2] = 0
            drawn[_FIELD] = coefficients.ravel()
        if settings.gamma and rng.random() < _OFTEN:
            largest = 1 + settings.gamma
            drawn[_EXPONENT] = rng.uniform(1 / largest, largest)
        if settings.noise and rng.random() < _OFTEN:
            drawn[_NOISE] = rng.uniform(0, settings.noise / 2)
        return drawn

    def apply(
        self, images: Tensor, drawn: NDArray[np.float32], there: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Change images as was drawn; the slices of one image alike but for the noise.

        Args:
            images: shape (images, slices, rows, columns), range [-1, 1] with background -1; left
                as they are.
            drawn: rows of `draw`, (images, numbers).
            there: the same on the device of the images.
            noise: of mean 0 and standard deviation 1, `noise_shape`; None where none is drawn.

        Returns:
            The same shape and range.
        """
        values = images + 1  # air is 0
        if self._moves:
            values = self._moved(values, there[:, _MOVE])
        elif (drawn[:, _MIRROR] < 0).any():
            values = torch.where(there[:, _MIRROR, None, None] < 0, values.flip(-1), values)
        if self._changes_looks(drawn, noise):
            # A copy of the slices that change, since indices by a list do not share memory.
            looks = values if self.looks is None else values[:, self.looks]
            self._change_looks(looks, drawn, there, noise)
            if self.looks is not None:
                values[:, self.looks] = looks
        return values.sub_(1).clamp_(-1, 1)

    def _changes_looks(self, drawn: NDArray[np.float32], noise: Tensor | None) -> bool:
        """Whether any image changes in more than its place."""
        return noise is not None or bool(drawn[:, _FIELD].any() or (drawn[:, _EXPONENT] != 1).any())

    def _change_looks(
        self, values: Tensor, drawn: NDArray[np.float32], there: Tensor, noise: Tensor | None
    ) -> None:
        """Change intensities in [0, 2] in place, as a share of 2: field, exponent, noise."""
        values.mul_(0.5)
        if drawn[:, _FIELD].any():
            coefficients = there[:, _FIELD].view(-1, 3, 3)
            field = self._polynomials @ coefficients @ self._polynomials.T
            values.mul_(_exponential_(field)[:, None])
        if (drawn[:, _EXPONENT] != 1).any():
            _power_(values, there[:, _EXPONENT, None, None])
        if noise is not None:
            # What was blank stays blank: it says where the anatomy ends.
            values.addcmul_(noise * (values > 0), there[:, _NOISE, None, None])
        values.mul_(2)

    def _moved(self, values: Tensor, move: Tensor) -> Tensor:
        """Mirrored, rotated, scaled and shifted, bilinear; what comes in from outside is air, 0."""
        by_column, by_row, shift = move.view(-1, 3, 1, 2).unbind(1)  # each (images, 1, 2)
        places = self._places[:, None]
        # Column and row as one complex number: half the passes, and as `grid_sample` wants them.
        columns = torch.view_as_complex(places * by_column)
        rows = torch.view_as_complex(places * by_row + shift)
        origin = torch.view_as_real(columns[:, None] + rows[:, :, None])
        return torch.nn.functional.grid_sample(values, origin, align_corners=False)


# In place.


def _exponential_(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return x.exp_()
    np.exp(x.numpy(), out=x.numpy())  # twice as fast as PyTorch's on one thread
    return x


def _power_(x: Tensor, exponents: Tensor) -> None:
    if x.device.type != "cpu":
        x.pow_(exponents)
        return
    for image, exponent in zip(x, exponents.flatten().tolist(), strict=True):
        if exponent != 1:
            image.pow_(exponent)  # by a number, not a tensor of them; NumPy's is slow with zeros
