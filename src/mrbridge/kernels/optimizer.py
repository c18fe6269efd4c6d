"""`torch.optim.Adam` for weights in any memory order and gradients in bfloat16."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from mrbridge.errors import InputError
from mrbridge.kernels.library import call, supports

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980), with PyTorch's state.

    Gradients that were computed in bfloat16 stay so (`Tensor.grad_dtype`), and a compiled kernel
    reads them: converting them to float32 first would take as long again as the step. Without the
    kernel they are converted, and PyTorch's fused step follows.

    Args:
        parameters: float32, dense (without gaps in memory), on one device.
        betas: decay rates of the running means of gradients and of their squares.
    """

    # PyTorch wraps these to exclude them from compilation, which imports its compiler: a second.
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    _load_state_dict = unwrap(torch.optim.Adam.load_state_dict)

    def __init__(
        self, parameters: Iterable[Tensor], rate: float, betas: tuple[float, float]
    ) -> None:
        super().__init__(parameters, rate, betas, fused=True)
        for parameter in self.parameters():
            parameter.grad_dtype = None  # any

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        parameters = self.parameters()
        has_kernel = supports(torch.float32) and all(one.device.type == "cpu" for one in parameters)
        for parameter in parameters:
            if parameter.grad is not None:
                gradient = _ordered_as(parameter, parameter.grad)
                parameter.grad = gradient if has_kernel else gradient.to(parameter.dtype)
        if not has_kernel:
            super().step()
            return result
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state, whatever its device and memory order; InputError if it belongs to
        other parameters."""
        self._load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in _MOMENTS:
                if state[name].shape != parameter.shape:
                    raise InputError(
                        "the checkpoint was written by another version of mrbridge",
                        remedy="Train again, or resume with that version.",
                    )
                state[name] = _ordered_as(parameter, state[name])

    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in _MOMENTS:
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        number, (beta1, beta2) = state["step"].item(), group["betas"]
        rate, correction = group["lr"] / (1 - beta1**number), math.sqrt(1 - beta2**number)
        call(
            "adam",
            gradient.dtype,
            rate,
            beta1,
            beta2,
            group["eps"],
            correction,
            parameter.numel(),
            gradient,
            parameter,
            *(state[name] for name in _MOMENTS),
        )


def _ordered_as(parameter: Tensor, x: Tensor) -> Tensor:
    """A tensor in the memory order of a dense parameter."""
    if x.stride() == parameter.stride():
        return x
    return torch.empty_like(parameter, dtype=x.dtype).copy_(x)
