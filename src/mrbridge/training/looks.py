"""How tissues look in the data at hand, against the canonical answers of simulated subjects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrbridge import metrics
from mrbridge.bundle import Bundle
from mrbridge.data.dataset import SliceBank
from mrbridge.hardware import fast_bfloat16

_KNOTS = 65
_BACKGROUND = -0.95
_SLICES = 48  # of each contrast: a curve needs no more


class Looks(nn.Module):
    """A rising curve from canonical intensities to those of the data; at first the identity."""

    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(-1, 1, _KNOTS))

    def forward(self, images: Tensor) -> Tensor:
        """Images of any shape, range [-1, 1], with their intensities changed."""
        place = (images.float() + 1) * ((_KNOTS - 1) / 2)
        lower = place.long().clamp(0, _KNOTS - 2)
        return torch.lerp(self.levels[lower], self.levels[lower + 1], place - lower)

    def fit(self, canonical: NDArray[np.float32], real: NDArray[np.float32]) -> None:
        """Take the rising curve that brings one nearest to the other (isotonic regression).

        Args:
            canonical, real: intensities of the same places, shape (values,), range [-1, 1].
        """
        curve = metrics.fit_monotone(canonical, real)
        knots = np.linspace(-1, 1, _KNOTS, dtype=np.float32)
        levels = np.clip(curve.apply(knots), -1, 1)
        levels[0] = -1  # air stays air
        self.levels.copy_(torch.from_numpy(levels))


@torch.no_grad()
def learn_looks(
    looks: tuple[Looks, Looks],
    canonical: Bundle,
    banks: tuple[SliceBank, SliceBank],
    contrasts: tuple[str, str],
    device: torch.device,
) -> None:
    """Fit both curves without any pair: real slices against themselves after there and back.

    A canonical model turns a real slice into the other contrast and back; what comes out shows the
    same anatomy as the real slice, in canonical looks.

    Args:
        looks: of the source and of the target.
        canonical: a model that was trained on canonical answers: the shipped one.
        banks: training slices of source and target.
        contrasts: of source and target.
        device: where to compute.
    """
    generators = [
        canonical.build(canonical.generator_that_makes(contrast)).to(device)
        for contrast in contrasts
    ]
    for side, (curve, bank) in enumerate(zip(looks, banks, strict=True)):
        chosen = np.linspace(0, len(bank) - 1, min(_SLICES, len(bank))).round().astype(int)
        real = torch.from_numpy(np.stack([bank[int(n)] for n in chosen]))[:, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            there_and_back = torch.cat(
                [
                    generators[side](generators[1 - side](part.to(device)).float()).float().cpu()
                    for part in real.split(8)
                ]
            )
        inside = real > _BACKGROUND
        if inside.any():
            curve.fit(there_and_back[inside].numpy(), real[inside].numpy())
