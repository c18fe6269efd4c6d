"""The schemes whose maps are compiled passes: those of `schemes`, in a fraction of the time.

Matrices are the same too, so that what is said there about shapes and sizes holds here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from mrbridge.networks.passes import Passes, compiled
from mrbridge.networks.schemes import (
    Columns,
    HalvingWinograd,
    Scheme,
    SmallWinograd,
    SteadyWinograd,
)


def compiled_scheme(scheme: Scheme, size: Sequence[int], dtype: torch.dtype) -> Scheme:
    """The scheme with compiled maps, where there are any.

    Args:
        scheme: of a convolution.
        size: of its result, (n, h, w, …).
        dtype: of its numbers.
    """
    if compiled(dtype) is None or isinstance(scheme, CompiledShifts):
        return scheme
    if isinstance(scheme, Columns):
        return CompiledColumns()
    if isinstance(scheme, SmallWinograd):
        return CompiledWinograd("two_of_three", 2, 3, cell=1, border=scheme.border)
    assert isinstance(scheme, HalvingWinograd | SteadyWinograd)
    interleaved = 1 if isinstance(scheme, HalvingWinograd) else 2
    two, three = (
        CompiledWinograd(rule, results, 2, cell=2, border=1, interleaved=interleaved)
        for rule, results in (("two_of_two", 2), ("three_of_two", 3))
    )
    return min(two, three, key=lambda one: one.operations(size))


@dataclass(frozen=True)
class CompiledColumns:
    """`Columns`."""

    keeps_expanded: ClassVar[bool] = True

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return Columns().pack(weight, dtype)

    def unpack(self, packed: Tensor) -> Tensor:
        return Columns().unpack(packed)

    def expand(self, image: Tensor) -> Tensor:
        n, rows, columns, channels = image.shape
        made = image.new_empty(1, n * (rows // 2) * (columns // 2), 16 * channels)
        _passes(image)("patches", image, made)
        return made

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        made = expanded.new_empty(*size)
        _passes(expanded)("fold", expanded, made)
        return made

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        return Columns().collect(products, size)

    def spread(self, result: Tensor) -> Tensor:
        return Columns().spread(result)


@dataclass(frozen=True)
class CompiledWinograd:
    """`HalvingWinograd`, `SteadyWinograd` and `SmallWinograd`, also by F(3x3, 2x2).

    That takes 16 multiplications for blocks of 3x3 results, where F(2x2, 2x2) takes 9 for blocks of
    2x2: a fifth less, unless the blocks reach far beyond the results. It rounds no worse
    (docs/decisions/0012-compiled.md).

    Attributes:
        rule: of which functions in passes.cpp.
        results: along one axis, of one block.
        taps: along one axis, in cells.
        cell: rows and columns of pixels that the taps see as one.
        border: pixels of zeros around the image.
        interleaved: along each axis, convolutions over shifted images whose results take turns.
    """

    keeps_expanded: ClassVar[bool] = False
    rule: str
    results: int
    taps: int
    cell: int
    border: int
    interleaved: int = 1

    def operations(self, size: Sequence[int]) -> int:
        """Multiplications for a result of `size`, for each channel and feature of a cell."""
        return self._products * sum(down * across for down, across in self._blocks(size))

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        _, _, channels, features = weight.shape
        made = weight.new_empty(self._products, self.cell**2 * channels, features, dtype=dtype)
        _passes(made)(f"{self.rule}_pack", weight.contiguous(), channels, features, made)
        return made

    def unpack(self, packed: Tensor) -> Tensor:
        _, rows, features = packed.shape
        channels, taps = rows // self.cell**2, self.cell * self.taps
        made = packed.new_empty(taps, taps, channels, features, dtype=torch.float32)
        _passes(packed)(f"{self.rule}_unpack", packed, channels, features, made)
        return made

    def expand(self, image: Tensor) -> Tensor:
        size = self._size_of_result(image.shape)
        made = self._matrices(image, size, self.cell**2 * image.shape[3])
        for part, blocks, shift in self._parts(made, size):
            corner = [one - self.border for one in shift]
            given = (image, *corner, *blocks, part, made.stride(0))
            _passes(image)(f"{self.rule}_expand", *given)
        return made

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        made = expanded.new_empty(*size)
        for part, blocks, shift in self._parts(expanded, self._size_of_result(size)):
            corner = [one - self.border for one in shift]
            given = (part, expanded.stride(0), *blocks, made, *corner, any(shift))
            _passes(made)(f"{self.rule}_contract", *given)
        return made

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        made = products.new_empty(*size)
        for part, blocks, (down, right) in self._parts(products, size):
            turn = made[:, down :: self.interleaved, right :: self.interleaved]
            _passes(made)(f"{self.rule}_collect", part, products.stride(0), *blocks, turn)
        return made

    def spread(self, result: Tensor) -> Tensor:
        made = self._matrices(result, result.shape, result.shape[3])
        for part, blocks, (down, right) in self._parts(made, result.shape):
            turn = result[:, down :: self.interleaved, right :: self.interleaved]
            _passes(made)(f"{self.rule}_spread", turn, *blocks, part, made.stride(0))
        return made

    @property
    def _products(self) -> int:
        return (self.results + self.taps - 1) ** 2

    def _size_of_result(self, size: Sequence[int]) -> tuple[int, int, int]:
        """(n, h, w) for an image (n, rows, columns, channels)."""
        stride, taps = self.cell // self.interleaved, self.cell * self.taps
        h, w = ((pixels + 2 * self.border - taps) // stride + 1 for pixels in size[1:3])
        return size[0], h, w

    def _shifts(self) -> Iterator[tuple[int, ...]]:
        return product(range(self.interleaved), repeat=2)

    def _blocks(self, size: Sequence[int]) -> Iterator[tuple[int, int]]:
        """How many down and across, of each of the interleaved convolutions."""
        apart = self.interleaved * self.results
        for shift in self._shifts():
            down, across = (
                -(-(whole - first) // apart) for whole, first in zip(size[1:3], shift, strict=True)
            )
            yield down, across

    def _matrices(self, x: Tensor, size: Sequence[int], k: int) -> Tensor:
        rows = size[0] * sum(down * across for down, across in self._blocks(size))
        return x.new_empty(self._products, rows, k)

    def _parts(
        self, matrices: Tensor, size: Sequence[int]
    ) -> Iterator[tuple[Tensor, tuple[int, int], tuple[int, ...]]]:
        """Of each of the interleaved convolutions: its first rows, its blocks, its shift."""
        first = 0
        for blocks, shift in zip(self._blocks(size), self._shifts(), strict=True):
            yield matrices[0, first:], blocks, shift
            first += size[0] * blocks[0] * blocks[1]


@dataclass(frozen=True)
class CompiledShifts:
    """Kernels with stride 1 and next to no features: each pixel times each tap, then shifted sums.

    A convolution computes features by the dozen, whatever their number. Here taps stand in their
    place: one product (pixels, channels) @ (channels, taps x features). It is the adjoint of what
    `Columns` does for a single channel. Products are rounded before they are added up, so this is
    for training only.

    Attributes:
        taps: along one axis.
        before: pixels of border before the first.
        reflects: whether the border mirrors the image; otherwise it is zero.
    """

    keeps_expanded: ClassVar[bool] = False
    taps: int
    before: int
    reflects: bool

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        taps = weight.permute(2, 0, 1, 3).reshape(1, weight.shape[2], -1)
        return taps.to(dtype).contiguous()

    def unpack(self, packed: Tensor) -> Tensor:
        taps = packed.view(packed.shape[1], self.taps, self.taps, -1)
        return taps.permute(1, 2, 0, 3).contiguous()

    def expand(self, image: Tensor) -> Tensor:
        return image.reshape(1, -1, image.shape[3])

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        return expanded.view(*size)

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        made = products.new_empty(*size)
        rows, columns = (pixels + self._lost for pixels in size[1:3])
        given = (self.taps, self.before, self.reflects, rows, columns)
        _passes(made)("shift_sum", products, *given, made)
        return made

    def spread(self, result: Tensor) -> Tensor:
        n, h, w, features = result.shape
        rows, columns = h + self._lost, w + self._lost
        made = result.new_empty(1, n * rows * columns, self.taps**2 * features)
        given = (self.taps, self.before, self.reflects, rows, columns)
        _passes(made)("shift_copy", result, *given, made)
        return made

    @property
    def _lost(self) -> int:
        """Rows by which a result is smaller than its image: a kernel of even size takes one."""
        return self.taps - 1 - 2 * self.before


def _passes(x: Tensor) -> Passes:
    passes = compiled(x.dtype)
    assert passes is not None, "compiled_scheme has looked"
    return passes
