"""`torch.nn.InstanceNorm2d` with the activation that follows it, faster on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mrbridge.kernels.library import call, supports

_CHUNK = 256  # pixels that are summed at a time, as in kernels.cpp


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance normalisation with scale and offset (Ulyanov et al. 2016, arXiv:1607.08022).

    PyTorch's module refuses a 1x1 image while training. The formula does not: a value minus its own
    mean is zero, so the offset remains.

    Args:
        negative_slope: of a leaky ReLU that follows in the same pass; 0 is a ReLU, 1 the identity.
    """

    def __init__(self, num_features: int, negative_slope: float = 1.0) -> None:
        super().__init__(num_features, affine=True)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image, shape (n, num_features, rows, columns)."""
        slope = self.negative_slope
        if x.shape[2] * x.shape[3] == 1:
            # The scale stays in the graph, so that every parameter has a gradient.
            offset = _leaky_relu(self.bias + 0 * self.weight, slope)
            return offset.to(x.dtype)[None, :, None, None].expand_as(x).contiguous()
        is_on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if is_on_cpu and supports(x.dtype) and self.weight.dtype == torch.float32:
            result: Tensor = _InstanceNorm.apply(x, self.weight, self.bias, self.eps, slope)
            return result
        # On a CPU, PyTorch's statistics of bfloat16 images are bfloat16 too.
        dtype = self.weight.dtype if x.device.type == "cpu" else x.dtype
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        normed = functional.instance_norm(x.to(dtype), weight=weight, bias=bias, eps=self.eps)
        return _leaky_relu(normed.to(x.dtype), slope)


def _leaky_relu(x: Tensor, slope: float) -> Tensor:
    if slope == 1:
        return x
    return functional.leaky_relu(x, slope) if slope else functional.relu(x)


class _InstanceNorm(torch.autograd.Function):
    """Instance norm and leaky ReLU by the compiled kernels; statistics are float32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(x)
        statistics = weight.new_empty(2, *x.shape[:2])  # means and inverse standard deviations
        common = _common(x, weight, bias, slope, statistics)
        call("norm", x.dtype, *common, x, eps, result)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.slope = slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, statistics = ctx.saved_tensors
        gradient = _even_pixels(gradient)
        of_x = torch.empty_like(x)
        of_parameters = weight.new_empty(len(x), 2, len(weight))  # scale, offset of each image
        common = _common(x, weight, bias, ctx.slope, statistics)
        arguments = (gradient, gradient.stride(3), x, of_x, of_parameters)
        call("norm_backward", x.dtype, *common, *arguments)
        of_weight, of_bias = of_parameters.sum(dim=0)
        return of_x, of_weight, of_bias, None, None


def _common(x: Tensor, weight: Tensor, bias: Tensor, slope: float, statistics: Tensor) -> list[Any]:
    """The arguments that both functions of kernels.cpp begin with."""
    n, channels, rows, columns = x.shape
    chunks = -(-rows * columns // _CHUNK)
    partial_sums = weight.new_empty(n, chunks, 2, channels)
    return [n, rows * columns, channels, weight, bias, slope, statistics, partial_sums]


def _even_pixels(x: Tensor) -> Tensor:
    """Adjacent channels and equidistant pixels; it may be a view of an image with more channels."""
    _, channels, rows, columns = x.shape
    step = x.stride(3)
    is_even = x.stride() == (rows * columns * step, 1, columns * step, step)
    return x if is_even and channels > 1 else x.contiguous(memory_format=torch.channels_last)
