"""Adam for the vectors of `FlatParameters`, whose gradients may be in bfloat16."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mrbridge.networks.passes import compiled


class Adam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980), with the state of PyTorch's.

    Gradients that were computed in bfloat16 are read as they are, by a compiled pass: to write them
    out in float32 first would say nothing more and take as long again as the step. Elsewhere they
    are made float32, and PyTorch's own step is taken.

    Args:
        vectors: weights in float32, contiguous, on one device.
        rate: the learning rate.
        betas: decays of the running means of gradients and of their squares.
    """

    def __init__(self, vectors: Iterable[Tensor], rate: float, betas: tuple[float, float]) -> None:
        super().__init__(vectors, rate, betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the vectors that have a gradient."""
        vectors = [vector for group in self.param_groups for vector in group["params"]]
        on_cpu = all(vector.device.type == "cpu" for vector in vectors)
        if not on_cpu or compiled(torch.float32) is None:
            for vector in vectors:
                if vector.grad is not None:
                    vector.grad = vector.grad.to(vector.dtype)
            return super().step(closure)
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for vector in group["params"]:
                if vector.grad is not None:
                    self._move(vector, vector.grad, group)
        return result

    def _move(self, vector: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[vector]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(vector)
            state["exp_avg_sq"] = torch.zeros_like(vector)
        state["step"] += 1
        number, (beta1, beta2) = state["step"].item(), group["betas"]
        rate, correction = group["lr"] / (1 - beta1**number), math.sqrt(1 - beta2**number)
        passes = compiled(gradient.dtype)
        assert passes is not None
        passes(
            "adam", rate, beta1, beta2, group["eps"], correction, vector.numel(),
            gradient, vector, state["exp_avg"], state["exp_avg_sq"],
        )  # fmt: skip
