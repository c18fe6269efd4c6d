"""What a generator is given in a step, and what it shall answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_EXPONENT = 1.2  # gamma of syntheses that are given to a generator, at most; at least its inverse
_NOISE = 0.03  # standard deviation of what is added to them, at most, of a range of 2


@dataclass(frozen=True)
class Lesson:
    """Images with a known answer.

    Attributes:
        loss: the name of the loss.
        given: shape (batch, 1, rows, columns), range [-1, 1].
        answer: the same shape and range.
    """

    loss: str
    given: Tensor
    answer: Tensor


def answer_all(generator: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Translate batches (batch, 1, rows, columns) as one: instance norm keeps them apart."""
    if not images:
        return []
    return list(generator(torch.cat(list(images))).split([len(image) for image in images]))


@torch.no_grad()
def back_translated(generator: nn.Module, images: Tensor) -> Tensor:
    """Syntheses of real images, to be given to the generator that leads back to them.

    Back-translation comes from machine translation (Sennrich et al. 2016, arXiv:1511.06709; without
    any pair: Lample et al. 2018, arXiv:1711.00043): the answer is a real image, the question a
    synthesis. Unlike the cycle loss it gives no gradient to the generator that made the question,
    which therefore has no reason to hide the answer in it. A random exponent and some noise keep
    the other one from relying on the looks of syntheses.

    Args:
        generator: the averaged one of the other direction.
        images: shape (batch, 1, rows, columns), range [-1, 1].

    Returns:
        The same shape and range. Random numbers come from PyTorch's global state.
    """
    made = generator(images).float()
    each = (len(made), 1, 1, 1)
    exponents = _EXPONENT ** (2 * torch.rand(each, device=made.device) - 1)
    noise = torch.randn_like(made) * (_NOISE * torch.rand(each, device=made.device))
    brighter = ((made + 1) / 2).clamp(0, 1) ** exponents
    return (2 * brighter - 1 + noise).clamp(-1, 1)
