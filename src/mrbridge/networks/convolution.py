"""Convolutions that know the fastest way on a CPU; elsewhere they are PyTorch's.

On a CPU, images go through the network with their channels last, and a convolution is one batched
matrix product between linear maps (`schemes`). Weights have PyTorch's shapes and names, so a bundle
does not know how it was computed; in memory they lie as the products want them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mrbridge.networks.compiled_schemes import CompiledShifts, compiled_scheme
from mrbridge.networks.passes import compiled
from mrbridge.networks.schemes import (
    Columns,
    HalvingWinograd,
    Scheme,
    SmallWinograd,
    SteadyWinograd,
)

Padding = Literal["reflect", "zeros"]

Size = tuple[int, int, int, int]

_ENOUGH_PIXELS = 16 * 16
"""Results of one image from which saved products outweigh larger packed weights."""
_ENOUGH = {True: (32, 64), False: (64, 128)}
"""Channels of the larger image and features of the smaller one, with and without compiled passes,
below which the maps cost what the products save: see docs/explanation/performance.md."""
_FEW_TAPS = 64
"""Taps times features up to which they are fewer than what a convolution computes at the least."""
_ENOUGH_CHANNELS_OF_TAPS = 16


class HalvingConvolution(nn.Module):
    """4x4 convolution with stride 2 and padding 1.

    Args:
        channels: of the image.
        features: of the result, half the size.
        bias: whether it adds an offset a feature.
    """

    def __init__(self, channels: int, features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = _weight(4, channels, features)
        self.bias = nn.Parameter(torch.empty(features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, rows, columns), both even, to (n, features, rows / 2, columns / 2)."""
        n, _, rows, columns = x.shape
        features, channels = self.weight.shape[:2]
        scheme = _halving_scheme(x, features, channels, rows, columns)
        if scheme is None:
            return functional.conv2d(x, _in_order(x, self.weight), self.bias, stride=2, padding=1)
        size = (n, rows // 2, columns // 2, features)
        return _with(self.bias, _apply(_Convolution, x, self.weight, scheme, size))


class DoublingConvolution(nn.Module):
    """4x4 transposed convolution with stride 2 and padding 1.

    Args:
        channels: of the image.
        features: of the result, twice the size.
        bias: whether it adds an offset a feature.
    """

    def __init__(self, channels: int, features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = _weight(4, features, channels)
        self.bias = nn.Parameter(torch.empty(features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, rows, columns) to (n, features, 2 rows, 2 columns)."""
        n, _, rows, columns = x.shape
        channels, features = self.weight.shape[:2]
        scheme = _halving_scheme(x, channels, features, 2 * rows, 2 * columns)
        if scheme is None:
            return functional.conv_transpose2d(
                x, _in_order(x, self.weight), self.bias, stride=2, padding=1
            )
        size = (n, 2 * rows, 2 * columns, features)
        return _with(self.bias, _apply(_TransposedConvolution, x, self.weight, scheme, size))


class Convolution(nn.Module):
    """Convolution with stride 1: odd kernels keep the size, even ones take one pixel away.

    Args:
        channels: of the image.
        features: of the result.
        kernel: rows and columns; (kernel - 1) // 2 pixels are added on every side.
        bias: whether it adds an offset a feature.
        padding: `zeros` or `reflect`.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        kernel: int,
        bias: bool = False,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.weight = _weight(kernel, channels, features)
        self.bias = nn.Parameter(torch.empty(features)) if bias else None
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, rows, columns) to (n, features, rows, columns), or one less each."""
        n, _, rows, columns = x.shape
        features, _, kernel, _ = self.weight.shape
        border, less = (kernel - 1) // 2, 1 - kernel % 2
        scheme = self._scheme(x, border)
        if self.padding == "reflect" and not isinstance(scheme, CompiledShifts):
            x, border = functional.pad(x, [border] * 4, "reflect"), 0
        if scheme is None:
            return functional.conv2d(x, _in_order(x, self.weight), self.bias, padding=border)
        size = (n, rows - less, columns - less, features)
        return _with(self.bias, _apply(_Convolution, x, self.weight, scheme, size))

    def _scheme(self, x: Tensor, border: int) -> Scheme | None:
        """None is PyTorch's way."""
        rows, columns = x.shape[2:]
        features, channels, kernel, _ = self.weight.shape
        reflects = self.padding == "reflect"
        if not _by_products(x) or rows * columns < _ENOUGH_PIXELS:
            return None
        in_passes = compiled(_dtype(x)) is not None
        few = features * kernel**2 <= _FEW_TAPS and channels >= _ENOUGH_CHANNELS_OF_TAPS
        mirrors = not reflects or min(rows, columns) > border  # or PyTorch says why it cannot
        if few and mirrors and torch.is_grad_enabled() and in_passes:
            return CompiledShifts(kernel, border, reflects)
        block = {3: 2, 4: 4}.get(kernel)
        large = min(features, channels) >= _ENOUGH[in_passes][0]
        if block is None or not large or rows % block or columns % block:
            return None
        return SteadyWinograd() if kernel == 4 else SmallWinograd(border=0 if reflects else 1)


@contextmanager
def unchanged_weights() -> Iterator[None]:
    """Within it weights do not change, and are packed for the products only once.

    Several calls of a network then share the packed weights and the way back through them. It holds
    for the calling thread (and the calling task of asyncio) only.
    """
    token = _packed.set({})
    try:
        yield
    finally:
        _packed.reset(token)


class _Key(NamedTuple):
    """Which packed weights: a weight that was changed or replaced after all is packed again."""

    weight: int
    version: int
    address: int
    scheme: Scheme
    dtype: torch.dtype
    wants_gradient: bool


_packed: ContextVar[dict[_Key, tuple[Tensor, Tensor, _Owed]] | None] = ContextVar(
    "packed_weights", default=None
)
"""Of each key the weight, which it keeps alive so that no other can have its `id`, the packed
weight and its gradient."""


def _weight(kernel: int, channels: int, features: int) -> nn.Parameter:
    """(features, channels, kernel, kernel), which lies in memory the other way round."""
    return nn.Parameter(torch.empty(kernel, kernel, channels, features).permute(3, 2, 0, 1))


def _in_order(x: Tensor, weight: Tensor) -> Tensor:
    """The weight as PyTorch's own convolution takes it: on a CPU some of its ways want no other."""
    return weight.contiguous() if x.device.type == "cpu" else weight


def _with(bias: Tensor | None, x: Tensor) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]


def _by_products(x: Tensor) -> bool:
    """Whether to go the CPU's way; a graph that leaves for elsewhere has plain convolutions."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _halving_scheme(
    x: Tensor, features: int, channels: int, rows: int, columns: int
) -> Scheme | None:
    """The scheme between an image of `channels`, rows x columns, and a result half its size.

    None is PyTorch's own way.
    """
    if not _by_products(x) or rows % 2 or columns % 2:
        return None
    if rows * columns < 4 * _ENOUGH_PIXELS or channels == 1:
        return Columns()
    # Without gradients it saves little, and its rounding would show in an image that is kept.
    least_channels, least_features = _ENOUGH[compiled(_dtype(x)) is not None]
    enough = channels >= least_channels and features >= least_features
    worth_it = enough and torch.is_grad_enabled()
    return HalvingWinograd() if worth_it and not (rows % 4 or columns % 4) else None


def _apply(
    function: type[torch.autograd.Function],
    x: Tensor,
    weight: Tensor,
    scheme: Scheme,
    size: Size,
) -> Tensor:
    """The convolution of (n, channels, rows, columns)."""
    dtype = _dtype(x)
    if weight.dtype == torch.float32:
        h, w = x.shape[2:] if function is _TransposedConvolution else size[1:3]
        scheme = compiled_scheme(scheme, (len(x), h, w), dtype)
    with torch.autocast("cpu", enabled=False):
        packed, owed = _pack(weight, scheme, dtype)
        image = _channels_last(x.to(dtype).permute(0, 2, 3, 1))
        result: Tensor = function.apply(image, packed, owed, scheme, size)
        return result.permute(0, 3, 1, 2)


def _dtype(x: Tensor) -> torch.dtype:
    """The type that autocast asks for."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _channels_last(x: Tensor) -> Tensor:
    """An image whose pixels' channels lie together; a part of a wider image may stay in it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _pack(weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> tuple[Tensor, _Owed]:
    wants_gradient = weight.requires_grad and torch.is_grad_enabled()
    version = -1 if weight.is_inference() else weight._version  # inference tensors have none
    key = _Key(id(weight), version, weight.data_ptr(), scheme, dtype, wants_gradient)
    kept = _packed.get()
    if kept is not None and key in kept:
        return kept[key][1:]
    owed = _Owed()
    packed: Tensor = _Pack.apply(weight, scheme, dtype, owed)
    if kept is not None:
        kept[key] = weight, packed, owed
    return packed, owed


def _as_products_want(weight: Tensor) -> Tensor:
    """(kernel, kernel, channels, features), contiguous; loaded weights lie as PyTorch's do."""
    features, channels, kernel, _ = weight.shape
    if not weight.is_contiguous():
        return weight.permute(2, 3, 1, 0).contiguous()
    # In two steps, each of which PyTorch does in blocks: four times as fast as one.
    columns = weight.view(features, -1).t().contiguous()
    swapped = columns.view(channels, kernel * kernel, features).transpose(0, 1)
    return swapped.reshape(kernel, kernel, channels, features)


class _Owed:
    """The gradient of packed weights, as the calls on the way back find their parts of it.

    A part is `left^T @ right`. Where the matrices are smaller than their product, they are kept,
    and one product is made of those of all calls: to write large gradients takes longer than to
    compute them. Autograd itself would add up as many products as there are calls.
    """

    def __init__(self) -> None:
        self._task = -1
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._sum: Tensor | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add a part: matrices (products, m, k) and (products, m, features)."""
        task = torch._C._current_graph_task_id()
        if task != self._task:  # what a backward pass left that did not ask for the weights
            self._task, self._kept, self._sum = task, [], None
        m, k, features = left.shape[1], left.shape[2], right.shape[2]
        if m * (k + features) < k * features:
            self._kept.append((left, right))
        else:
            self._add(torch.bmm(left.transpose(1, 2), right))

    def total(self) -> Tensor:
        """The sum, (products, k, features), which is then forgotten."""
        if self._kept:
            left, right = (torch.cat(parts, dim=1) for parts in zip(*self._kept, strict=True))
            self._kept = []
            self._add(torch.bmm(left.transpose(1, 2), right))
        total, self._sum = self._sum, None
        assert total is not None, "no call has come back"
        return total

    def _add(self, part: Tensor) -> None:
        self._sum = part if self._sum is None else self._sum.add_(part)


class _Pack(torch.autograd.Function):
    """The weight as matrices; the gradients of all calls come back through here at once.

    They do so in `owed`, and autograd, which waits for all calls that it goes back through, is
    given none.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scheme: Scheme, dtype: torch.dtype, owed: _Owed
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.scheme, ctx.owed = scheme, owed
        return scheme.pack(_as_products_want(weight), dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: None) -> tuple[Tensor, None, None, None]:
        return ctx.scheme.unpack(ctx.owed.total()).permute(3, 2, 0, 1), None, None, None


class _Convolution(torch.autograd.Function):
    """collect(expand(x) @ packed)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: Tensor, owed: _Owed, scheme: Scheme, size: Size
    ) -> Tensor:
        expanded = scheme.expand(x)
        ctx.owed, ctx.scheme, ctx.size = owed, scheme, x.shape
        _keep(ctx, x, expanded, packed)
        return scheme.collect(torch.bmm(expanded, packed), size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        kept, packed = ctx.saved_tensors
        scheme: Scheme = ctx.scheme
        spread = scheme.spread(_channels_last(gradient))
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = scheme.contract(torch.bmm(spread, packed.transpose(1, 2)), ctx.size)
        if ctx.needs_input_grad[1]:
            ctx.owed.add(kept if scheme.keeps_expanded else scheme.expand(kept), spread)
        return of_x, None, None, None, None


class _TransposedConvolution(torch.autograd.Function):
    """contract(spread(x) @ packed^T): the adjoint of `_Convolution`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: Tensor, owed: _Owed, scheme: Scheme, size: Size
    ) -> Tensor:
        spread = scheme.spread(x)
        ctx.owed, ctx.scheme, ctx.size = owed, scheme, x.shape
        _keep(ctx, x, spread, packed)
        return scheme.contract(torch.bmm(spread, packed.transpose(1, 2)), size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        kept, packed = ctx.saved_tensors
        scheme: Scheme = ctx.scheme
        expanded = scheme.expand(_channels_last(gradient))
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = scheme.collect(torch.bmm(expanded, packed), ctx.size)
        if ctx.needs_input_grad[1]:
            ctx.owed.add(expanded, kept if scheme.keeps_expanded else scheme.spread(kept))
        return of_x, None, None, None, None


def _keep(ctx: Any, image: Tensor, matrices: Tensor, packed: Tensor) -> None:
    """Keep for the way back what the gradient of the weights will need, if one is wanted."""
    wanted = matrices if ctx.scheme.keeps_expanded else image
    ctx.save_for_backward(wanted if ctx.needs_input_grad[1] else None, packed)
