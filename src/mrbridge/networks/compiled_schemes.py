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


def compiled_scheme(scheme: Scheme, dtype: torch.dtype) -> Scheme:
    """The scheme with compiled maps for numbers of a type, where there are any."""
    if compiled(dtype) is None:
        return scheme
    if isinstance(scheme, Columns):
        return CompiledColumns()
    if isinstance(scheme, SmallWinograd):
        return CompiledWinograd("small", products=4, cell=1, border=scheme.border)
    assert isinstance(scheme, HalvingWinograd | SteadyWinograd)
    interleaved = 1 if isinstance(scheme, HalvingWinograd) else 2
    return CompiledWinograd("halving", products=3, cell=2, border=1, interleaved=interleaved)


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
    """`HalvingWinograd`, `SteadyWinograd` and `SmallWinograd`.

    Attributes:
        rule: of which functions in passes.cpp.
        products: along one axis, for two results.
        cell: rows and columns of pixels that the taps see as one.
        border: pixels of zeros around the image.
        interleaved: along each axis, convolutions over shifted images whose results take turns.
    """

    keeps_expanded: ClassVar[bool] = False
    rule: str
    products: int
    cell: int
    border: int
    interleaved: int = 1

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        _, _, channels, features = weight.shape
        made = weight.new_empty(self.products**2, self.cell**2 * channels, features, dtype=dtype)
        _passes(made)(f"{self.rule}_pack", weight.contiguous(), channels, features, made)
        return made

    def unpack(self, packed: Tensor) -> Tensor:
        _, rows, features = packed.shape
        channels = rows // self.cell**2
        taps = self.cell * (self.products - 1)
        made = packed.new_empty(taps, taps, channels, features, dtype=torch.float32)
        _passes(packed)(f"{self.rule}_unpack", packed, channels, features, made)
        return made

    def expand(self, image: Tensor) -> Tensor:
        tiles = self._tiles_of_image(image.shape)
        made = self._matrices(image, tiles, self.cell**2 * image.shape[3])
        for part, shift in zip(self._parts(made), self._shifts(), strict=True):
            corner = [one - self.border for one in shift]
            given = (image, *corner, *tiles, part, made.stride(0))
            _passes(image)(f"{self.rule}_expand", *given)
        return made

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        tiles = self._tiles_of_image(size)
        made = expanded.new_empty(*size)
        for number, (part, shift) in enumerate(
            zip(self._parts(expanded), self._shifts(), strict=True)
        ):
            corner = [one - self.border for one in shift]
            given = (part, expanded.stride(0), *tiles, made, *corner, number > 0)
            _passes(made)(f"{self.rule}_contract", *given)
        return made

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        tiles = self._tiles_of_result(size)
        made = products.new_empty(*size)
        for part, result in zip(self._parts(products), self._turns(made), strict=True):
            given = (part, products.stride(0), *tiles, result)
            _passes(made)(f"{self.rule}_collect", *given)
        return made

    def spread(self, result: Tensor) -> Tensor:
        tiles = self._tiles_of_result(result.shape)
        made = self._matrices(result, tiles, result.shape[3])
        for part, turn in zip(self._parts(made), self._turns(result), strict=True):
            _passes(made)(f"{self.rule}_spread", turn, *tiles, part, made.stride(0))
        return made

    def _tiles_of_image(self, size: Sequence[int]) -> tuple[int, int]:
        """Blocks of 2x2 results down and across, of one of the interleaved convolutions."""
        down, across = (
            ((pixels + 2 * self.border) // self.cell - self.products + 2) // 2
            for pixels in size[1:3]
        )
        return down, across

    def _tiles_of_result(self, size: Sequence[int]) -> tuple[int, int]:
        down, across = (-(-pixels // (2 * self.interleaved)) for pixels in size[1:3])
        return down, across

    def _shifts(self) -> Iterator[tuple[int, ...]]:
        return product(range(self.interleaved), repeat=2)

    def _turns(self, result: Tensor) -> Iterator[Tensor]:
        """The results of each of the interleaved convolutions."""
        for down, right in self._shifts():
            yield result[:, down :: self.interleaved, right :: self.interleaved]

    def _matrices(self, x: Tensor, tiles: tuple[int, int], k: int) -> Tensor:
        rows = self.interleaved**2 * len(x) * tiles[0] * tiles[1]
        return x.new_empty(self.products**2, rows, k)

    def _parts(self, matrices: Tensor) -> Iterator[Tensor]:
        """Where the rows of each of the interleaved convolutions begin."""
        rows = matrices.shape[1] // self.interleaved**2
        for number in range(self.interleaved**2):
            yield matrices[0, number * rows :]


def _passes(x: Tensor) -> Passes:
    passes = compiled(x.dtype)
    assert passes is not None, "compiled_scheme has looked"
    return passes
