"""Instance normalisation that also takes a 1x1 map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mrbridge.networks.convolution import Convolution, DoublingConvolution, HalvingConvolution
from mrbridge.networks.passes import compiled


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and offset (Ulyanov et al. 2016, arXiv:1607.08022).

    PyTorch's own layer refuses a 1x1 map while training. The formula does not: one value minus its
    own mean is zero, so what is left is the offset.

    Args:
        channels: of the images.
        slope: of a leaky ReLU that follows, made in the same pass; 0 is a ReLU, 1 none.
        eps: added to the variances.
    """

    def __init__(self, channels: int, slope: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.slope = slope
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image.

        Args:
            x: shape (batch, channels, rows, columns).
        """
        if x.shape[2] * x.shape[3] == 1:
            # The parameters stay in the graph, so that every one of them has a gradient.
            offset = activated(self.bias + 0 * self.weight, self.slope)
            return offset.to(x.dtype)[None, :, None, None].expand_as(x).contiguous()
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            normed = nn.functional.instance_norm(
                x, weight=self.weight.to(x.dtype), bias=self.bias.to(x.dtype), eps=self.eps
            )
            return activated(normed, self.slope)
        if compiled(x.dtype) is not None and self.weight.dtype == torch.float32:
            made: Tensor = _InPasses.apply(x, self.weight, self.bias, self.eps, self.slope)
            return made
        return activated(_ByBatchNorm.apply(x, self.weight, self.bias, self.eps), self.slope)


def activated(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU, or ReLU for a slope of 0, or nothing for 1."""
    if slope == 1:
        return x
    return nn.functional.leaky_relu(x, slope) if slope else nn.functional.relu(x)


class _InPasses(torch.autograd.Function):
    """Instance norm and leaky ReLU of images with the channels last, by compiled passes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> Tensor:
        passes = compiled(x.dtype)
        assert passes is not None
        x = x.contiguous(memory_format=torch.channels_last)
        made, statistics = passes.norm(x, weight, bias, eps, slope)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.slope = slope
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, statistics = ctx.saved_tensors
        passes = compiled(x.dtype)
        assert passes is not None
        gradient = _pixel_by_pixel(gradient)
        of_x, of_both = passes.norm_backward(gradient, x, weight, bias, ctx.slope, statistics)
        of_weight, of_bias = of_both.sum(dim=0)
        return of_x, of_weight, of_bias, None, None


def _pixel_by_pixel(x: Tensor) -> Tensor:
    """Channels together and pixels evenly spaced; a part of a wider image may stay in it."""
    _, channels, rows, columns = x.shape
    step = x.stride(3)
    evenly = x.stride() == (rows * columns * step, 1, columns * step, step)
    return x if evenly and channels > 1 else x.contiguous(memory_format=torch.channels_last)


class _ByBatchNorm(torch.autograd.Function):
    """Instance norm of images with the channels last, without compiled passes.

    PyTorch's own copies them to and fro; its batch norm of one image is the same formula, and takes
    its statistics in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(x)
        statistics = weight.new_empty(2, *x.shape[:2])
        for index in range(len(x)):
            mean, inverse = statistics[:, index]
            torch.native_batch_norm(
                x[index : index + 1], weight, bias, None, None, True, 0.0, eps,
                out=(result[index : index + 1], mean, inverse),
            )  # fmt: skip
        ctx.save_for_backward(x, weight, statistics)
        ctx.eps = eps
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = torch.empty_like(x)
        of_both = weight.new_empty(len(x), 2, len(weight))
        for index in range(len(x)):
            mean, inverse = statistics[:, index]
            one = slice(index, index + 1)
            torch.ops.aten.native_batch_norm_backward.out(
                gradient[one], x[one], weight, None, None, mean, inverse, True, ctx.eps,
                [True, True, True], out0=of_x[one], out1=of_both[index, 0], out2=of_both[index, 1],
            )  # fmt: skip
        of_weight, of_bias = of_both.sum(dim=0)
        return of_x, of_weight, of_bias, None


def norm_and_activation(kind: str, channels: int, slope: float) -> tuple[nn.Module, nn.Module]:
    """The normalisation layer called `instance`, `batch` or `none`, and the activation after it.

    Instance norm does both; a dropout in between would change nothing about that.

    Args:
        kind: one of the three.
        channels: of the images.
        slope: of a leaky ReLU; 0 is a ReLU, 1 none.
    """
    if kind == "instance":
        return InstanceNorm(channels, slope), nn.Identity()
    norm = nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()
    if slope == 1:
        return norm, nn.Identity()
    inplace = kind != "none"  # what a convolution made may be wanted as it was
    return norm, nn.LeakyReLU(slope, inplace) if slope else nn.ReLU(inplace)


def init_weights(network: nn.Module, generator: torch.Generator, std: float = 0.02) -> None:
    """Draw convolution weights from N(0, std) and norm scales from N(1, std); biases are zero.

    Layers that no norm follows (those of a `refine` block) keep the scale of what passes through
    them instead (He et al. 2015, arXiv:1502.01852).

    The rest is the initialisation of DCGAN (Radford et al. 2015, arXiv:1511.06434), which pix2pix
    and CycleGAN took over.
    """
    convolutions = HalvingConvolution | DoublingConvolution | Convolution | nn.Conv2d
    refine = getattr(network, "refine", None)
    unscaled = set() if refine is None else set(refine.modules())
    for module in network.modules():
        if isinstance(module, convolutions | nn.ConvTranspose2d):
            if module in unscaled:
                nn.init.kaiming_normal_(module.weight, 0.2, generator=generator)
            else:
                nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, InstanceNorm | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std, generator=generator)
            nn.init.zeros_(module.bias)
