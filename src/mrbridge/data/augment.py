"""Random changes to training slices, by MONAI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandBiasField,
    RandFlip,
    RandGaussianNoise,
)
from numpy.typing import NDArray

from mrbridge.settings import Settings


class AugmentSettings(Settings):
    """How strongly training slices are changed; zero or False switches a change off.

    Attributes:
        flip: mirror left and right half of the time.
        rotate_degrees: largest rotation, either way.
        scale: largest relative change of size.
        shift: largest shift, as a share of the image.
        bias_field: largest coefficient of the smooth multiplicative field.
        gamma: largest relative change of the exponent of the intensities.
        noise: standard deviation of Gaussian noise, in the image's range of 2.
    """

    flip: bool = True
    rotate_degrees: float = 5.0
    scale: float = 0.05
    shift: float = 0.03
    bias_field: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0


class Augmentation:
    """Changes slices; equal seeds give equal changes.

    Intensities are moved to [0, 1] for the changes that multiply (bias field, gamma) and back.

    Args:
        settings: which changes, how strong.
        image_size: rows and columns of the slices.
    """

    def __init__(self, settings: AugmentSettings, image_size: int) -> None:
        transforms: list[Any] = []
        if settings.flip:
            transforms.append(RandFlip(prob=0.5, spatial_axis=1))
        if settings.rotate_degrees or settings.scale or settings.shift:
            pixels = settings.shift * image_size
            transforms.append(
                RandAffine(
                    prob=1.0,
                    rotate_range=np.deg2rad(settings.rotate_degrees),
                    scale_range=(settings.scale, settings.scale),
                    translate_range=(pixels, pixels),
                    padding_mode="zeros",
                )
            )
        if settings.bias_field:
            coefficients = (0.0, settings.bias_field)
            transforms.append(RandBiasField(degree=2, coeff_range=coefficients, prob=0.5))
        if settings.gamma:
            exponents = (1 / (1 + settings.gamma), 1 + settings.gamma)
            transforms.append(RandAdjustContrast(prob=0.5, gamma=exponents))
        if settings.noise:
            transforms.append(RandGaussianNoise(prob=0.5, std=settings.noise / 2))
        self._change = Compose(transforms) if transforms else None

    def __call__(self, image: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Change a slice, shape (rows, columns), range [-1, 1] with background -1."""
        if self._change is None:
            return image
        self._change.set_random_state(seed=seed % 2**32)
        with _one_thread():  # so small an image is changed several times slower on all of them
            changed = np.asarray(self._change((image[None] + 1) / 2))[0]
        return np.clip(changed * 2 - 1, -1, 1).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
