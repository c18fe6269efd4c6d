"""How weights lie in memory while they are trained, and how the optimiser sees them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mrbridge.errors import InputError


def lay_out(networks: nn.Module, device: torch.device) -> None:
    """Lay the weights of convolutions as the device's kernels want them.

    On a CPU they stay as `networks.convolution` made them. cuDNN's bfloat16 kernels take weights
    and images with their channels last; from any other layout it would copy them at every call.
    Images of one channel lie in both ways at once, so that only the weights decide. Call it before
    the optimiser is made: parameters stay the same objects, their memory is new.
    """
    if device.type == "cuda":
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class FlatParameters:
    """Parameters as vectors, in the order in which their numbers lie in memory.

    PyTorch's fused Adam copies on a CPU what is not contiguous, and on CUDA refuses a weight and a
    gradient whose strides differ, if only along an axis of length 1. Vectors are safe from both.

    Args:
        parameters: dense tensors; laid out already, and never again.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._orders = [_order(parameter) for parameter in self.parameters]
        self.vectors = [
            parameter.detach().permute(order).view(-1)
            for parameter, order in zip(self.parameters, self._orders, strict=True)
        ]
        for tensor in (*self.parameters, *self.vectors):
            tensor.grad_dtype = None  # gradients stay in the type in which they were computed

    def take_gradients(self) -> None:
        """Give the vectors the gradients of the parameters, which share memory where they can.

        They may be in bfloat16 where the weights are in float32: `adam.Adam` takes both.
        """
        for vector, parameter, order in zip(
            self.vectors, self.parameters, self._orders, strict=True
        ):
            gradient = parameter.grad
            vector.grad = None if gradient is None else gradient.permute(order).reshape(-1)

    def drop_gradients(self) -> None:
        """Let go of the gradients of vectors and parameters."""
        for vector, parameter in zip(self.vectors, self.parameters, strict=True):
            vector.grad = parameter.grad = None

    def shaped(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimiser's state with the shapes of the parameters, whatever their layout here."""

        def of_parameter(value: Tensor, parameter: nn.Parameter, order: list[int]) -> Tensor:
            lying = value.view([parameter.shape[axis] for axis in order])
            return lying.permute([order.index(axis) for axis in range(len(order))])

        return self._each(state, of_parameter)

    def flattened(self, state: dict[str, Any]) -> dict[str, Any]:
        """What `shaped` gave, maybe on another device, as the vectors' optimiser takes it.

        Raises:
            InputError: it is of other parameters.
        """

        def of_vector(value: Tensor, parameter: nn.Parameter, order: list[int]) -> Tensor:
            if value.shape != parameter.shape:
                raise InputError(
                    "the checkpoint was written by another version of mrbridge",
                    remedy="Train again, or resume with that version.",
                )
            return value.permute(order).reshape(-1)

        return self._each(state, of_vector)

    def _each(self, state: dict[str, Any], change: Any) -> dict[str, Any]:
        """A state whose tensors are changed, but for the numbers of the step."""
        kept = {
            number: {
                name: value
                if name == "step"
                else change(value, self.parameters[number], self._orders[number])
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        return state | {"state": kept}


def _order(x: Tensor) -> list[int]:
    """The axes in the order of memory, the slowest first; those of length 1 come last."""

    def step(axis: int) -> int:
        return x.stride(axis) if x.shape[axis] > 1 else 0

    return sorted(range(x.dim()), key=step, reverse=True)
