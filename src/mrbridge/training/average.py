"""Averages of weights: over a training, and with the weights that it began with."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from mrbridge.training.layout import FlatParameters

M = TypeVar("M", bound=nn.Module)

_EACH, _EVERY = 40, 4
"""Averages follow each of the first steps, and then every few: hundreds of steps are in them by
then, and to read and write all weights takes as long as it does in the optimiser."""


def averaged_copy(network: M) -> M:
    """A copy that takes no gradients and stays in evaluation mode."""
    copied = copy.deepcopy(network).eval()
    return copied.requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `network` after optimiser step number `step`, counted from 1.

    Polyak averaging as in Yazici et al. 2019 (arXiv:1806.04498). The decay starts low, at
    (1 + step) / (10 + step), so that the untrained weights are soon forgotten. From step 40 on
    only every fourth step does something, by the decays of four.
    """
    if step > _EACH and step % _EVERY:
        return
    steps = range(step - _EVERY + 1, step + 1) if step > _EACH else [step]
    kept = math.prod(min(decay, (1 + number) / (10 + number)) for number in steps)
    old, new = (FlatParameters(one.parameters()).vectors for one in (average, network))
    torch._foreach_lerp_(old, new, 1 - kept)
    for held, current in zip(average.buffers(), network.buffers(), strict=True):
        held.copy_(current)


@torch.no_grad()
def between(beginning: M, end: nn.Module, share: float) -> M:
    """A network between two of one kind, its weights `share` of `beginning`'s and the rest `end`'s.

    Weights of a network trained widely, averaged with those of its fine-tuned copy, keep most of
    what both know: WiSE-FT, Wortsman et al. 2022 (arXiv:2109.01903).
    """
    made = averaged_copy(beginning)
    weights = made.state_dict()
    for name, final in end.state_dict().items():
        if final.is_floating_point():
            weights[name].lerp_(final, 1 - share)
        else:
            weights[name].copy_(final)
    return made
