"""Augmentation: random changes to training slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from torch import Tensor

from mrbridge.dataset.settings import AugmentSettings

_CPU = torch.device("cpu")
_OFTEN = 0.5  # how often a change other than the move is made


class Changes(NamedTuple):
    """What becomes of n images: arrays or tensors.

    Attributes:
        mirror: (n, 1): 1, or -1 to swap left and right.
        move: (n, 6), where a pixel comes from, (column, row) each: by its column, by its row, and
            the shift; the image's edges are at -1 and 1.
        field: (n, 9), coefficients of the bias field, 3x3.
        exponent: (n, 1), of the intensities.
        noise: (n, 1), its standard deviation, of a range of 1.
    """

    mirror: Any
    move: Any
    field: Any
    exponent: Any
    noise: Any

    @classmethod
    def of(cls, rows: Any) -> Changes:
        """Views of rows of 18 numbers, which travel to a device as one array."""
        return cls(*(rows[:, start:stop] for start, stop in pairwise((0, 1, 7, 16, 17, 18))))


_UNCHANGED = np.array([1, *(1, 0), *(0, 1), *(0, 0), *[0] * 9, 1, 0], np.float32)


class Augmentation:
    """Changes slices; generators in equal states give equal changes.

    The changes are drawn on the CPU, a row of numbers per image (`draw`), and made where the images
    are (`apply`). For one image on a CPU the two take less than a millisecond, of which half is the
    interpolation: training waits for its loader.

    Args:
        image_size: rows and columns of the slices.
        device: of the images that `apply` gets.
        intensities: the slices of an image whose intensities change; None: all. All of them move.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        image_size: int,
        device: torch.device = _CPU,
        intensities: Sequence[int] | None = None,
    ) -> None:
        self.settings = settings
        self.intensities = None if intensities is None else list(intensities)
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
        """Change images, not in place: shape (images, slices, rows, columns), range [-1, 1] with
        background -1, and as many `rngs`. All slices of one image change in the same way except for
        the noise."""
        rows = self.draw(rngs)
        noise = None
        if Changes.of(rows).noise.any():
            noise = torch.empty(self.noise_shape(images.shape))
            for one, rng in zip(noise, rngs, strict=True):
                # PyTorch's normal numbers, which take a third of the time of NumPy's.
                one.normal_(generator=torch.Generator().manual_seed(int(rng.integers(2**63))))
        made: NDArray[np.float32] = self.apply(torch.from_numpy(images), rows, noise).numpy()
        for one in self.settings.extra.values():
            for image, rng in zip(made, rngs, strict=True):  # (slices, rows, columns)
                image[:] = np.clip(one.change(image, rng), -1, 1)
        return made

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the noise for images (images, slices, rows, columns)."""
        images, slices, *size = shape
        return (images, slices if self.intensities is None else len(self.intensities), *size)

    def moves_only(self) -> Augmentation:
        """The same moves, without any change of intensities, and without the user's own."""
        still = {"bias_field": 0.0, "gamma": 0.0, "noise": 0.0, "extra": {}}
        moves = self.settings.model_copy(update=still)
        return Augmentation(moves, self.image_size, self._places.device)

    def draw(self, rngs: Sequence[np.random.Generator]) -> NDArray[np.float32]:
        """Draw the changes of images, one generator for each: (images, 18), see `Changes`."""
        rows = np.tile(_UNCHANGED, (len(rngs), 1))
        changes = Changes.of(rows)
        for n, rng in enumerate(rngs):
            self._draw(rng, Changes(*(part[n] for part in changes)))
        return rows

    def _draw(self, rng: np.random.Generator, one: Changes) -> None:
        """Of one image, in place."""
        settings = self.settings
        if settings.flip and rng.random() < _OFTEN:
            one.mirror[:] = -1
        if self._moves:
            angle = np.deg2rad(rng.uniform(-1, 1) * settings.rotate_degrees)
            rows, columns = 1 + rng.uniform(-1, 1, 2) * settings.scale
            down, right = rng.uniform(-1, 1, 2) * 2 * settings.shift
            cosine, sine = math.cos(angle), math.sin(angle)
            side = float(one.mirror[0])
            one.move[:] = (
                *(side * columns * cosine, -columns * sine),
                *(side * rows * sine, rows * cosine),
                *(side * right, down),
            )
        if settings.bias_field and rng.random() < _OFTEN:
            coefficients = rng.uniform(0, settings.bias_field, (3, 3))
            # Of the second degree: the triangle of terms whose degrees sum to at most 2.
            coefficients[1, 2] = coefficients[2, 1] = coefficients[2, 2] = 0
            one.field[:] = coefficients.ravel()
        if settings.gamma and rng.random() < _OFTEN:
            largest = 1 + settings.gamma
            one.exponent[:] = rng.uniform(1 / largest, largest)
        if settings.noise and rng.random() < _OFTEN:
            one.noise[:] = rng.uniform(0, settings.noise / 2)

    def apply(self, images: Tensor, rows: NDArray[np.float32], noise: Tensor | None) -> Tensor:
        """Change images as drawn.

        Args:
            images: shape (images, slices, rows, columns), range [-1, 1] with background -1; not
                changed in place.
            rows: from `draw`, (images, 18).
            noise: on the device of the images, of mean 0 and standard deviation 1, `noise_shape`;
                None if there is none.

        Returns:
            The same shape and range.
        """
        drawn, there = Changes.of(rows), Changes.of(to_device(rows, images.device))
        values = images + 1  # air is 0
        if self._moves:
            values = self._moved(values, there.move)
        elif (drawn.mirror < 0).any():
            values = torch.where(there.mirror[..., None, None] < 0, values.flip(-1), values)
        bends, shades = bool((drawn.exponent != 1).any()), bool(drawn.field.any())
        if bends or shades or noise is not None:
            # A copy of the slices that change, since indices by a list do not share memory.
            part = values if self.intensities is None else values[:, self.intensities]
            part.mul_(0.5)
            if shades:
                coefficients = there.field.view(-1, 3, 3)
                # Legendre polynomials of both coordinates: (images, rows, columns)
                field = self._polynomials @ coefficients @ self._polynomials.T
                part.mul_(_exponential_(field)[:, None])
            if bends:
                _power_(part, there.exponent[..., None, None])
            if noise is not None:
                # What was blank stays blank: it marks where the anatomy ends.
                part.addcmul_(noise * (part > 0), there.noise[..., None, None])
            part.mul_(2)
            if self.intensities is not None:
                values[:, self.intensities] = part
        return values.sub_(1).clamp_(-1, 1)

    def _moved(self, values: Tensor, move: Tensor) -> Tensor:
        """Mirrored, rotated, scaled and shifted, bilinear; air, 0, comes in from outside."""
        by_column, by_row, shift = move.view(-1, 3, 1, 2).unbind(1)  # each (images, 1, 2)
        places = self._places[:, None]
        # Column and row as one complex number: half the passes over memory, and in the order that
        # `grid_sample` takes.
        columns = torch.view_as_complex(places * by_column)
        rows = torch.view_as_complex(places * by_row + shift)
        # (images, rows, columns, 2)
        origin = torch.view_as_real(columns[:, None] + rows[:, :, None])
        return torch.nn.functional.grid_sample(values, origin, align_corners=False)


def to_device(numbers: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on a device; from pinned memory, since the CPU would wait for any other
    copy to a GPU."""
    tensor = torch.from_numpy(numbers)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_float32(images: Tensor) -> NDArray[np.float32]:
    """Half to single precision by PyTorch, which takes a twentieth of the time of NumPy."""
    single: NDArray[np.float32] = images.float().numpy()
    return single


def _exponential_(x: Tensor) -> Tensor:
    """In place."""
    if x.device.type != "cpu":
        return x.exp_()
    np.exp(x.numpy(), out=x.numpy())  # twice as fast as PyTorch's on one thread
    return x


def _power_(x: Tensor, exponents: Tensor) -> None:
    """In place."""
    if x.device.type != "cpu":
        x.pow_(exponents)
        return
    for image, exponent in zip(x, exponents.flatten().tolist(), strict=True):
        if exponent != 1:
            image.pow_(exponent)  # by a number, not a tensor of them; NumPy's is slow with zeros
