"""`torch.nn.Conv2d` and `ConvTranspose2d`, faster on a CPU.

Shapes, names and meaning are PyTorch's, so neither bundles nor exported graphs depend on kernels.
`functional.conv2d` computes if no algorithm of `algorithms.py` is faster: on other devices,
in other dtypes, in exported and compiled graphs, without the compiled kernels, and for layers that
are too small. That is also the reference that the tests compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mrbridge.hardware import vector_extension
from mrbridge.kernels.algorithms import Algorithm, Im2col, Kn2row, Winograd
from mrbridge.kernels.library import supports

_MIN_PIXELS = 16 * 16
"""Below this many pixels of an output, Winograd's larger filters cost more than they save."""
_MIN_CHANNELS, _MIN_FEATURES = 32, 64
"""Below these, the transforms cost what they save (docs/explanation/performance.md)."""
_MIN_CHANNELS_WITH_GRADIENT = 16
"""The same for strided and transposed convolutions if a backward pass follows, which saves more."""
_MAX_TAPS = 64
"""Up to this many features times taps, Kn2row multiplies less than a convolution at its minimum."""
_MIN_CHANNELS_KN2ROW = 16
_MOST_CALLS = 16
"""How many calls share the backward pass of a transform."""


class Conv2d(nn.Conv2d):
    """A convolution with a square filter; its weights are left for a bundle or `init_weights`."""

    def reset_parameters(self) -> None:
        """Draw nothing: only order the weight in memory as the kernels read it."""
        self.weight = nn.Parameter(_reordered(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images, shape (n, in_channels, rows, columns)."""
        taps, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        assert isinstance(padding, int)
        h, w = ((pixels + 2 * padding - taps) // stride + 1 for pixels in x.shape[2:])
        algorithm = self._algorithm(x, h, w)
        if self.padding_mode == "reflect" and not isinstance(algorithm, Kn2row):
            x, padding = functional.pad(x, [padding] * 4, "reflect"), 0
        if algorithm is None:
            return functional.conv2d(x, _standard(self.weight), self.bias, stride, padding)
        size = (len(x), h, w, self.out_channels)
        return _add_bias(_convolve(x, self.weight, algorithm, size, transposed=False), self.bias)

    def _algorithm(self, x: Tensor, h: int, w: int) -> Algorithm | None:
        """The fastest algorithm for an output of h x w pixels; None is PyTorch's."""
        if not _kernels_apply(x, self.weight):
            return None
        taps, stride, padding = self.kernel_size[0], self.stride[0], self.padding[0]
        rows, columns = x.shape[2:]
        reflects = self.padding_mode == "reflect"
        if (taps, stride, padding, reflects) == (4, 2, 1, False):
            dtype = _compute_dtype(x)
            return _strided(self.in_channels, self.out_channels, rows, columns, dtype)
        if stride > 1 or padding != (taps - 1) // 2 or rows * columns < _MIN_PIXELS:
            return None
        few_taps = self.out_channels * taps**2 <= _MAX_TAPS
        few_taps &= self.in_channels >= _MIN_CHANNELS_KN2ROW
        can_reflect = (
            not reflects or min(rows, columns) > padding
        )  # else PyTorch says what is wrong
        if few_taps and can_reflect and torch.is_grad_enabled():
            return Kn2row(taps, padding, reflects)
        if min(self.in_channels, self.out_channels) < _MIN_CHANNELS:
            return None
        if taps == 3 and not (rows % 2 or columns % 2):
            return Winograd.for_3x3(padding=0 if reflects else 1)
        if taps == 4 and not (reflects or rows % 4 or columns % 4):
            return Winograd.for_4x4(1, (len(x), h, w))
        return None


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with a 4x4 filter, stride 2 and padding 1, which doubles the size.

    Args:
        bias: whether to add an offset to each output channel.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)

    def reset_parameters(self) -> None:
        """Draw nothing: only order the weight in memory as the kernels read it."""
        self.weight = nn.Parameter(_reordered(self.weight))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(n, in_channels, rows, columns) to (n, out_channels, 2 rows, 2 columns)."""
        assert output_size is None, "the output has twice the size of the image"
        n, _, rows, columns = x.shape
        algorithm = None
        if _kernels_apply(x, self.weight):
            size, dtype = (2 * rows, 2 * columns), _compute_dtype(x)
            algorithm = _strided(self.out_channels, self.in_channels, *size, dtype)
        if algorithm is None:
            weight = _standard(self.weight)
            return functional.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)
        shape = (n, 2 * rows, 2 * columns, self.out_channels)
        return _add_bias(_convolve(x, self.weight, algorithm, shape, transposed=True), self.bias)


@contextmanager
def weight_cache() -> Iterator[None]:
    """Transform each weight only once for all calls within this context.

    The calls also share the transform's backward pass. The cache belongs to the calling thread (or
    asyncio task). A weight that changes within the context is transformed again.
    """
    token = _cache.set({})
    try:
        yield
    finally:
        _cache.reset(token)


class _Key(NamedTuple):
    """Identifies a transformed weight: neither changed in place nor replaced since."""

    weight: int
    version: int
    address: int
    algorithm: Algorithm
    dtype: torch.dtype
    requires_grad: bool


class _Transformed(NamedTuple):
    """A weight as matrices, and how the calls that use them share one gradient product.

    Attributes:
        weight: kept alive, so that its `id` stays unique.
        matrices: (products, k, features).
        marker: (`_MOST_CALLS`,), zeros. The gradient of element n is 1 if call n stored factors.
        factors: by the number of the call, the two factors of its part of the gradient.
    """

    weight: Tensor
    matrices: Tensor
    marker: Tensor
    factors: list[tuple[Tensor, Tensor] | None]


_cache: ContextVar[dict[_Key, _Transformed] | None] = ContextVar("weights", default=None)


def _reordered(weight: Tensor) -> Tensor:
    """The uninitialised weight (a, b, taps, taps), ordered in memory as (taps, taps, b, a).

    The filter transforms read it in this order, which saves a copy of all weights in every step.
    Without compiled kernels it stays in PyTorch's order.
    """
    if not supports(torch.float32):
        return weight
    a, b, taps, _ = weight.shape
    return weight.detach().new_empty(taps, taps, b, a).permute(3, 2, 0, 1)


def _standard(weight: Tensor) -> Tensor:
    """The weight in the order that PyTorch's CPU kernels expect; on CUDA it stays as it is."""
    return weight.contiguous() if weight.device.type == "cpu" else weight


def _add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]


def _kernels_apply(x: Tensor, weight: Tensor) -> bool:
    """Whether the compiled kernels can compute this; exported graphs need plain convolutions."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and weight.dtype == torch.float32
        and supports(_compute_dtype(x))
    )


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _is_exact(dtype: torch.dtype) -> bool:
    """Whether Winograd is for images that are kept, too.

    In bfloat16 its rounding would show in them. With AVX-512, PyTorch's convolutions in float32
    are as fast.
    """
    return dtype == torch.float32 and vector_extension() != "AVX512"


def _strided(
    channels: int, features: int, rows: int, columns: int, dtype: torch.dtype
) -> Algorithm | None:
    """The algorithm of a 4x4 convolution with stride 2 or of its transpose; None is PyTorch's.

    Args:
        channels: of the larger image.
        features: of the smaller one.
        rows: of the larger image.
        columns: of the larger image.
    """
    if rows % 2 or columns % 2:
        return None
    if rows * columns < 4 * _MIN_PIXELS or channels == 1:
        return Im2col()
    least = _MIN_CHANNELS_WITH_GRADIENT if torch.is_grad_enabled() else _MIN_CHANNELS
    if channels < least or features < _MIN_FEATURES or rows % 4 or columns % 4:
        return None
    if not (torch.is_grad_enabled() or _is_exact(dtype)):
        return None
    return Winograd.for_4x4(2, (1, rows // 2, columns // 2))


def _convolve(
    x: Tensor, weight: Tensor, algorithm: Algorithm, size: tuple[int, ...], transposed: bool
) -> Tensor:
    """Convolve (n, channels, rows, columns); `size` of the result is (n, h, w, features)."""
    dtype = _compute_dtype(x)
    with torch.autocast("cpu", enabled=False):
        _, *filters = _transformed(weight, algorithm, dtype)
        image = _channels_last(x.to(dtype).permute(0, 2, 3, 1))  # (n, rows, columns, channels)
        result: Tensor = _Convolution.apply(image, *filters, algorithm, size, transposed)
        return result.permute(0, 3, 1, 2)  # (n, features, h, w), channels last in memory


def _transformed(weight: Tensor, algorithm: Algorithm, dtype: torch.dtype) -> _Transformed:
    requires_grad = weight.requires_grad and torch.is_grad_enabled()
    version = -1 if weight.is_inference() else weight._version  # inference tensors have none
    key = _Key(id(weight), version, weight.data_ptr(), algorithm, dtype, requires_grad)
    cache = _cache.get()
    found = None if cache is None else cache.get(key)
    if found is None or len(found.factors) == _MOST_CALLS:
        factors: list[tuple[Tensor, Tensor] | None] = []
        matrices, marker = _FilterTransform.apply(weight, algorithm, dtype, factors)
        found = _Transformed(weight, matrices, marker, factors)
        if cache is not None:
            cache[key] = found
    return found


def _channels_last(x: Tensor) -> Tensor:
    """An image with adjacent channels; it may be a view of one with more channels."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _filter(weight: Tensor) -> Tensor:
    """(features, channels, taps, taps) as contiguous (taps, taps, channels, features)."""
    features, channels, taps, _ = weight.shape
    if not weight.is_contiguous():
        return weight.permute(2, 3, 1, 0).contiguous()  # usually not a copy
    # In two steps, each of which PyTorch does block by block: four times as fast as in one.
    columns = weight.view(features, -1).t().contiguous()
    swapped = columns.view(channels, taps * taps, features).transpose(0, 1)
    return swapped.contiguous().view(taps, taps, channels, features)


class _FilterTransform(torch.autograd.Function):
    """B(w), and a marker whose gradient tells which calls took part in a backward pass.

    Autograd sums the gradients of all calls. Writing and adding large gradients takes longer than
    computing them, so calls with few rows only store the two factors of their gradient, and the
    backward pass here makes one product of the factors of all calls.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        algorithm: Algorithm,
        dtype: torch.dtype,
        factors: list[tuple[Tensor, Tensor] | None],
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.algorithm, ctx.factors = algorithm, factors
        return algorithm.filter_transform(_filter(weight), dtype), weight.new_zeros(_MOST_CALLS)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, of_marker: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        if of_marker is not None:
            calls = of_marker.nonzero().flatten().tolist()
            pairs = zip(*(ctx.factors[call] for call in calls), strict=True)
            left, right = (torch.cat(matrices, dim=1) for matrices in pairs)
            for call in calls:
                ctx.factors[call] = None
            product = torch.bmm(left.mT, right)
            gradient = product if gradient is None else gradient + product
        assert gradient is not None
        return ctx.algorithm.filter_adjoint(gradient).permute(3, 2, 0, 1), None, None, None


class _Convolution(torch.autograd.Function):
    """C(A(x) @ B(w)), or its adjoint A*(C*(x) @ B(w)^T), the transposed convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        matrices: Tensor,
        marker: Tensor,
        factors: list[tuple[Tensor, Tensor] | None],
        algorithm: Algorithm,
        size: tuple[int, ...],
        transposed: bool,
    ) -> Tensor:
        ctx.algorithm, ctx.transposed, ctx.size = algorithm, transposed, x.shape
        rows = _to_rows(algorithm, x, is_input=not transposed)
        kept = None
        if ctx.needs_input_grad[1]:
            kept = rows if algorithm.keeps_matrices else x
            ctx.factors, ctx.call = factors, len(factors)
            factors.append(None)
        ctx.save_for_backward(kept, matrices)
        products = torch.bmm(rows, matrices.mT if transposed else matrices)
        return _from_rows(algorithm, products, size, is_input=transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, matrices = ctx.saved_tensors
        algorithm, transposed = ctx.algorithm, ctx.transposed
        rows = _to_rows(algorithm, _channels_last(gradient), is_input=transposed)
        of_x = of_matrices = of_marker = None
        if ctx.needs_input_grad[0]:
            products = torch.bmm(rows, matrices if transposed else matrices.mT)
            of_x = _from_rows(algorithm, products, ctx.size, is_input=not transposed)
        if ctx.needs_input_grad[1]:
            if not algorithm.keeps_matrices:
                kept = _to_rows(algorithm, kept, is_input=not transposed)
            left, right = (rows, kept) if transposed else (kept, rows)
            (m, k), features = left.shape[1:], right.shape[2]
            if m * (k + features) < k * features:  # smaller than their product
                ctx.factors[ctx.call] = left, right
                of_marker = functional.one_hot(torch.tensor(ctx.call), _MOST_CALLS).float()
            else:
                of_matrices = torch.bmm(left.mT, right)  # (products, k, features)
        return of_x, of_matrices, of_marker, None, None, None, None


def _to_rows(algorithm: Algorithm, image: Tensor, is_input: bool) -> Tensor:
    """A(image) of the convolution's input, or C*(image) of its output: (products, m, …)."""
    return algorithm.input_transform(image) if is_input else algorithm.output_adjoint(image)


def _from_rows(algorithm: Algorithm, rows: Tensor, size: tuple[int, ...], is_input: bool) -> Tensor:
    """The image of `size` by A* (the convolution's input) or C (its output)."""
    if is_input:
        return algorithm.input_adjoint(rows, size)
    return algorithm.output_transform(rows, size)
