"""Training examples of the generators: inputs with known targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrbridge import metrics
from mrbridge.bundle import Bundle
from mrbridge.dataset.sampling import SliceBank
from mrbridge.hardware import fast_bfloat16

_GAMMA = 1.2  # largest exponent of a back-translated input's intensities; 1 / 1.2 is the smallest
_NOISE = 0.03  # largest standard deviation of the noise on it, in the range of 2
_KNOTS = 65
_BACKGROUND_BELOW = -0.95
_FITTED_SLICES = 48  # of each contrast: enough for a curve


@dataclass(frozen=True)
class Example:
    """Images with a known target.

    Attributes:
        loss: the name of the loss that compares output and target.
        input: shape (batch, 1, rows, columns), range [-1, 1].
        target: the same shape and range.
    """

    loss: str
    input: Tensor
    target: Tensor


def translate_together(generator: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    """Translate several batches, each (batch, 1, rows, columns), in one call.

    Instance norm does not mix the images of a batch.
    """
    if not batches:
        return []
    return list(generator(torch.cat(list(batches))).split([len(batch) for batch in batches]))


@torch.no_grad()
def back_translation(generator: nn.Module, images: Tensor) -> Tensor:
    """Translate real images with the other generator: inputs whose target is the real image.

    Back-translation comes from machine translation (Sennrich et al. 2016, arXiv:1511.06709;
    unpaired: Lample et al. 2018, arXiv:1711.00043). Unlike the cycle loss, it gives no gradient to
    the generator that made the input, so that generator has no reason to hide the target in it.
    Random gamma and noise keep the trained generator from relying on the look of synthetic images.

    Args:
        generator: the EMA of the other direction's generator.
        images: shape (batch, 1, rows, columns), range [-1, 1].

    Returns:
        The same shape and range. Random numbers come from PyTorch's global state.
    """
    synthetic = generator(images).float()
    per_image = (len(synthetic), 1, 1, 1)
    exponents = _GAMMA ** (2 * torch.rand(per_image, device=synthetic.device) - 1)
    noise = torch.randn_like(synthetic) * (_NOISE * torch.rand(per_image, device=synthetic.device))
    varied = ((synthetic + 1) / 2).clamp(0, 1) ** exponents
    return (2 * varied - 1 + noise).clamp(-1, 1)


class IntensityMapping(nn.Module):
    """A rising curve from the canonical intensities of simulated subjects to those of the data.

    Piecewise linear, with evenly spaced knots; the identity until `fit`.
    """

    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(-1, 1, _KNOTS))  # (knots,)

    def forward(self, images: Tensor) -> Tensor:
        """Map the intensities of images of any shape, range [-1, 1]."""
        position = (images.float() + 1) * ((_KNOTS - 1) / 2)
        lower = position.long().clamp(0, _KNOTS - 2)
        return torch.lerp(self.levels[lower], self.levels[lower + 1], position - lower)

    def fit(self, canonical: NDArray[np.float32], real: NDArray[np.float32]) -> None:
        """Fit the curve by isotonic regression.

        Args:
            canonical, real: intensities of the same pixels, shape (pixels,), range [-1, 1].
        """
        curve = metrics.fit_monotone(canonical, real)
        knots = np.linspace(-1, 1, _KNOTS, dtype=np.float32)
        levels = np.clip(curve.apply(knots), -1, 1)
        levels[0] = -1  # air stays air
        self.levels.copy_(torch.from_numpy(levels))


@torch.no_grad()
def fit_intensity_mappings(
    mappings: Sequence[IntensityMapping],
    canonical: Bundle,
    banks: tuple[SliceBank, SliceBank],
    contrasts: tuple[str, str],
    device: torch.device,
) -> None:
    """Fit the mappings without pairs: real slices against their cycle through a model.

    The cycle shows the anatomy of the real slice with canonical intensities.

    Args:
        mappings: of source and target.
        canonical: a model trained on canonical intensities: the shipped one.
        banks: training slices of source and target.
        contrasts: of source and target.
        device: where to compute.
    """
    generators = [
        canonical.build(canonical.generator_that_makes(contrast)).to(device)
        for contrast in contrasts
    ]
    for side, (mapping, bank) in enumerate(zip(mappings, banks, strict=True)):
        chosen = np.linspace(0, len(bank) - 1, min(_FITTED_SLICES, len(bank))).round().astype(int)
        real = torch.from_numpy(np.stack([bank[int(n)] for n in chosen]))[:, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            cycled = torch.cat(  # (slices, 1, rows, columns)
                [
                    generators[side](generators[1 - side](part.to(device)).float()).float().cpu()
                    for part in real.split(8)
                ]
            )
        inside = real > _BACKGROUND_BELOW
        if inside.any():
            mapping.fit(cycled[inside].numpy(), real[inside].numpy())
