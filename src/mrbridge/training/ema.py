"""Averages of weights: an exponential moving average (EMA) over the training, and WiSE-FT."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)

_EVERY_STEP_UNTIL = 40
_INTERVAL = 4
"""After the first steps the EMA is updated only every fourth step: an update reads and writes all
weights, which takes as long as it does in the optimiser."""


def averaged_copy(network: M) -> M:
    """A copy in evaluation mode that needs no gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update the EMA of a network's weights after optimiser step `step`, counted from 1.

    As Yazici et al. 2019 (arXiv:1806.04498). The decay is (1 + step) / (10 + step) while that is
    lower, so that the untrained weights are soon forgotten. From step 40 on, only every fourth step
    updates, with the product of the four decays. Buffers are copied.
    """
    if step > _EVERY_STEP_UNTIL and step % _INTERVAL:
        return
    steps = range(step - _INTERVAL + 1, step + 1) if step > _EVERY_STEP_UNTIL else [step]
    kept = math.prod(min(decay, (1 + number) / (10 + number)) for number in steps)
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight, 1 - kept)
    for average_buffer, buffer in zip(average.buffers(), network.buffers(), strict=True):
        average_buffer.copy_(buffer)


@torch.no_grad()
def interpolated(initial: M, final: nn.Module, weight: float) -> M:
    """A network whose weights are `weight` times `initial`'s plus the rest times `final`'s.

    The mean of a broadly trained network and its fine-tuned copy keeps most of what both know:
    WiSE-FT, Wortsman et al. 2022 (arXiv:2109.01903). Integer buffers are `final`'s.
    """
    mixed = averaged_copy(initial)
    tensors = mixed.state_dict()
    for name, value in final.state_dict().items():
        if value.is_floating_point():
            tensors[name].lerp_(value, 1 - weight)
        else:
            tensors[name].copy_(value)
    return mixed
