"""Convolutions as matrix products: what is gathered, what is multiplied, what is scattered.

A convolution is `collect(expand(image) @ pack(weight))` with linear maps around one batched matrix
product, and so are its gradients, with the maps' adjoints in their places. On a CPU the products
then run at the rate of the matrix unit, and a scheme that needs fewer products (Winograd 1980,
"Arithmetic Complexity of Computations"; Lavin and Gray 2016, arXiv:1509.09308) is as many times
faster than the best direct convolution.

Images are (batch, rows, columns, channels): what belongs to a pixel lies together in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional


@runtime_checkable
class Scheme(Protocol):
    """How one kind of convolution becomes one batched matrix product.

    Shapes: image (n, rows, columns, channels), result (n, h, w, features), weight (4, 4, channels,
    features) or (3, 3, channels, features), matrices (products, m, k) and (products, k, features).
    `contract`, `spread` and `unpack` are the adjoints of `expand`, `collect` and `pack`.

    Attributes:
        keeps_expanded: whether an expanded image is so little larger than the image that it is
            kept for the way back, rather than made again.
    """

    keeps_expanded: ClassVar[bool]

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight as matrices of a type, (products, k, features)."""

    def unpack(self, packed: Tensor) -> Tensor:
        """Adjoint of `pack`: the gradient of the weight; where it is a sum, in float32 at least."""

    def expand(self, image: Tensor) -> Tensor:
        """The image as matrices, (products, m, k)."""

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        """Adjoint of `expand`: an image of `size`, which is (n, rows, columns, channels)."""

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        """Products (products, m, features) as a result of `size`, which is (n, h, w, features)."""

    def spread(self, result: Tensor) -> Tensor:
        """Adjoint of `collect`."""


@dataclass(frozen=True)
class Columns:
    """4x4 kernels with stride 2 and padding 1, one product: every patch becomes a row.

    For few pixels, where the weights are most of what is read, and for a single channel.
    """

    keeps_expanded: ClassVar[bool] = True

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight.reshape(1, -1, weight.shape[-1]).to(dtype)

    def unpack(self, packed: Tensor) -> Tensor:
        return packed.view(4, 4, -1, packed.shape[-1])

    def expand(self, image: Tensor) -> Tensor:
        n, rows, columns, channels = image.shape
        padded = functional.pad(image, (0, 0, 1, 1, 1, 1))
        patches = padded.as_strided(
            (n, rows // 2, columns // 2, 4, 4 * channels),
            (padded.stride(0), 2 * padded.stride(1), 2 * channels, padded.stride(1), 1),
        )
        return patches.reshape(1, -1, 16 * channels)

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        n, rows, columns, channels = size
        if channels == 1:
            columns_first = expanded.view(n, -1, 16).transpose(1, 2)
            image = functional.fold(columns_first, (rows, columns), 4, padding=1, stride=2)
            return image.permute(0, 2, 3, 1)
        h, w = rows // 2, columns // 2
        patches = expanded.view(n, h, w, 2, 2, 2, 2, channels)
        cells = expanded.new_zeros(n, h + 1, w + 1, 2, 2, channels)
        for down, right in product((0, 1), (0, 1)):
            cells[:, down : down + h, right : right + w] += patches[:, :, :, down, :, right]
        return _from_cells(cells, size, -1, -1)

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        return products.view(*size)

    def spread(self, result: Tensor) -> Tensor:
        return result.reshape(1, -1, result.shape[-1])


@dataclass(frozen=True)
class HalvingWinograd:
    """4x4 kernels with stride 2 and padding 1 by F(2x2, 2x2): 9 multiplications instead of 16.

    In cells of 2x2 pixels (four times the channels, half the size) the kernel has 2x2 taps and
    stride 1. Two neighbouring results of a 2-tap filter need three products (Winograd 1980):

        y0 = d0 g0 + d1 g1 = (d0 - d1) g0 + d1 (g0 + g1)
        y1 = d1 g0 + d2 g1 = (d2 - d1) g1 + d1 (g0 + g1)

    and in two dimensions 9 instead of 16. Sums and differences only: no constant magnifies
    rounding. Results come in blocks of 2x2, so h and w are even.
    """

    keeps_expanded: ClassVar[bool] = True

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        channels, features = weight.shape[2:]
        taps = weight.view(2, 2, 2, 2, channels, features).transpose(1, 2)
        down = torch.stack([taps[0], taps[0] + taps[1], taps[1]])
        both = torch.stack([down[:, 0], down[:, 0] + down[:, 1], down[:, 1]], dim=1)
        return both.view(9, 4 * channels, features).to(dtype)

    def unpack(self, packed: Tensor) -> Tensor:
        features = packed.shape[-1]
        both = packed.view(3, 3, 2, 2, -1, features)
        down = _precise(both[:2] + both[1:])
        taps = down[:, :2] + down[:, 1:]
        return taps.transpose(1, 2).reshape(4, 4, -1, features)

    def expand(self, image: Tensor) -> Tensor:
        rows, columns = image.shape[1:3]
        return _expand_cells(_to_cells(image, rows // 2 + 1, columns // 2 + 1, -1, -1))

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        n, rows, columns, channels = size
        cells = _contract_cells(expanded, n, rows // 2 + 1, columns // 2 + 1)
        return _from_cells(cells.unflatten(-1, (2, 2, channels)), size, -1, -1)

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        n, h, w, features = size
        blocks = products.view(3, 3, n, h // 2, w // 2, features)
        down = blocks[:2] + blocks[1:]
        result = products.new_empty(n, h // 2, 2, w // 2, 2, features)
        torch.add(down[:, :2], down[:, 1:], out=result.permute(2, 4, 0, 1, 3, 5))
        return result.view(n, h, w, features)

    def spread(self, result: Tensor) -> Tensor:
        n, h, w, features = result.shape
        blocks = result.reshape(n, h // 2, 2, w // 2, 2, features)
        products = result.new_empty(3, 3, n, h // 2, w // 2, features)
        upper, lower = blocks[:, :, 0], blocks[:, :, 1]
        for row, down in enumerate((upper, upper + lower, lower)):
            left, right = down[:, :, :, 0], down[:, :, :, 1]
            products[row, 0] = left
            torch.add(left, right, out=products[row, 1])
            products[row, 2] = right
        return products.view(9, -1, features)


@dataclass(frozen=True)
class SteadyWinograd:
    """4x4 kernels with stride 1 and padding 1: four convolutions with stride 2, interleaved.

    The results at even and odd rows and columns are those of a convolution with stride 2 over the
    image shifted by 0 or 1 pixel. n x n pixels give n - 1 x n - 1 results; the schemes' blocks
    make n x n, of which the last row and column are dropped. n is a multiple of 4.
    """

    keeps_expanded: ClassVar[bool] = False
    halving: ClassVar[HalvingWinograd] = HalvingWinograd()

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return self.halving.pack(weight, dtype)

    def unpack(self, packed: Tensor) -> Tensor:
        return self.halving.unpack(packed)

    def expand(self, image: Tensor) -> Tensor:
        h, w = image.shape[1] // 2 + 1, image.shape[2] // 2 + 1
        shifted = [
            _to_cells(image, h, w, down - 1, right - 1) for down, right in product((0, 1), (0, 1))
        ]
        return _expand_cells(torch.cat(shifted))

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        n, rows, columns, channels = size
        cells = _contract_cells(expanded, 4 * n, rows // 2 + 1, columns // 2 + 1)
        shifted = cells.unflatten(-1, (2, 2, channels)).split(n)
        image = _from_cells(shifted[0], size, -1, -1)
        for part, (down, right) in zip(shifted[1:], ((0, 1), (1, 0), (1, 1)), strict=True):
            image += _from_cells(part, size, down - 1, right - 1)
        return image

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        n, h, w, features = size
        half = (4 * n, (h + 1) // 2, (w + 1) // 2, features)
        phases = self.halving.collect(products, half).unflatten(0, (2, 2, n))
        whole = phases.permute(2, 3, 0, 4, 1, 5).reshape(n, h + 1, w + 1, features)
        return whole[:, :h, :w].contiguous()

    def spread(self, result: Tensor) -> Tensor:
        n, h, w, features = result.shape
        whole = functional.pad(result, (0, 0, 0, 1, 0, 1))
        phases = whole.view(n, (h + 1) // 2, 2, (w + 1) // 2, 2, features).permute(2, 4, 0, 1, 3, 5)
        return self.halving.spread(phases.reshape(4 * n, (h + 1) // 2, (w + 1) // 2, features))


@dataclass(frozen=True)
class SmallWinograd:
    """3x3 kernels with stride 1 by F(2x2, 3x3): 16 multiplications instead of 36.

    Lavin and Gray 2016 (arXiv:1509.09308), section 4.1. Results come in blocks of 2x2, so h and w
    are even.

    Attributes:
        border: pixels of zeros that are added on every side of the image: 1, or 0 where it has a
            border already.
    """

    keeps_expanded: ClassVar[bool] = False
    border: Literal[0, 1]

    def pack(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        down = torch.stack(_taps_of_three(*weight.unbind(0)))
        both = torch.stack(_taps_of_three(*down.unbind(1)), dim=1)
        return both.view(16, *weight.shape[2:]).to(dtype)

    def unpack(self, packed: Tensor) -> Tensor:
        both = _precise(packed).view(4, 4, *packed.shape[1:])
        down = torch.stack(_three_of_taps(*both.unbind(0)))
        return torch.stack(_three_of_taps(*down.unbind(1)), dim=1)

    def expand(self, image: Tensor) -> Tensor:
        image = functional.pad(image, (0, 0, *[self.border] * 4))
        n, rows, columns, channels = image.shape
        h, w = rows // 2 - 1, columns // 2 - 1
        expanded = image.new_empty(4, 4, n, h, w, channels)
        shifted = [image[:, k : k + 2 * h - 1 : 2] for k in range(4)]
        for row, down in enumerate(
            (
                shifted[0] - shifted[2],
                shifted[1] + shifted[2],
                shifted[2] - shifted[1],
                shifted[1] - shifted[3],
            )
        ):
            across = [down[:, :, k : k + 2 * w - 1 : 2] for k in range(4)]
            torch.sub(across[0], across[2], out=expanded[row, 0])
            torch.add(across[1], across[2], out=expanded[row, 1])
            torch.sub(across[2], across[1], out=expanded[row, 2])
            torch.sub(across[1], across[3], out=expanded[row, 3])
        return expanded.view(16, -1, channels)

    def contract(self, expanded: Tensor, size: Sequence[int]) -> Tensor:
        n, rows, columns, channels = size
        rows, columns = rows + 2 * self.border, columns + 2 * self.border
        h, w = rows // 2 - 1, columns // 2 - 1
        tiles = expanded.view(4, 4, n, h, w, channels)
        across = expanded.new_empty(4, n, h, columns, channels)
        _overlap_fours([part.movedim(3, 0) for part in tiles.unbind(1)], across.movedim(3, 0))
        image = expanded.new_empty(n, rows, columns, channels)
        _overlap_fours([part.movedim(1, 0) for part in across], image.movedim(1, 0))
        inner = slice(self.border, -self.border or None)
        return image[:, inner, inner]

    def collect(self, products: Tensor, size: Sequence[int]) -> Tensor:
        n, h, w, features = size
        tiles = products.view(4, 4, n, h // 2, w // 2, features)
        middle = tiles[1] + tiles[2], tiles[1] - tiles[2]
        result = products.new_empty(n, h // 2, 2, w // 2, 2, features)
        for row, down in enumerate((tiles[0] + middle[0], middle[1] - tiles[3])):
            torch.add(down[0], down[1], out=result[:, :, row, :, 0]).add_(down[2])
            torch.sub(down[1], down[2], out=result[:, :, row, :, 1]).sub_(down[3])
        return result.view(n, h, w, features)

    def spread(self, result: Tensor) -> Tensor:
        n, h, w, features = result.shape
        blocks = result.reshape(n, h // 2, 2, w // 2, 2, features)
        upper, lower = blocks[:, :, 0], blocks[:, :, 1]
        products = result.new_empty(4, 4, n, h // 2, w // 2, features)
        for row, down in enumerate((upper, upper + lower, upper - lower, -lower)):
            left, right = down[:, :, :, 0], down[:, :, :, 1]
            products[row, 0] = left
            torch.add(left, right, out=products[row, 1])
            torch.sub(left, right, out=products[row, 2])
            torch.neg(right, out=products[row, 3])
        return products.view(16, -1, features)


def _precise(x: Tensor) -> Tensor:
    """In float32 at least: gradients of weights are summed and kept in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _taps_of_three(g0: Tensor, g1: Tensor, g2: Tensor) -> list[Tensor]:
    """Lavin and Gray's G: three taps as the four factors of F(2, 3)."""
    outer, inner = (g0 + g2) / 2, g1 / 2
    return [g0, outer + inner, outer - inner, g2]


def _three_of_taps(u0: Tensor, u1: Tensor, u2: Tensor, u3: Tensor) -> list[Tensor]:
    """Adjoint of `_taps_of_three`."""
    outer = (u1 + u2) / 2
    return [u0 + outer, (u1 - u2) / 2, outer + u3]


def _overlap_fours(products: Sequence[Tensor], pixels: Tensor) -> None:
    """Adjoint of F(2, 3)'s differences along the first axis.

    Tile t gives its products x0, x1 - x2 + x3, x1 + x2 - x0 and -x3 to pixels 2 t to 2 t + 3.
    """
    x0, x1, x2, x3 = products
    even, odd = pixels[0::2], pixels[1::2]
    even[:-1] = x0
    even[-1] = 0
    even[1:] += x1
    even[1:] += x2
    even[1:] -= x0
    torch.sub(x1, x2, out=odd[:-1])
    odd[-1] = 0
    odd[:-1] += x3
    odd[1:] -= x3


def _to_cells(image: Tensor, h: int, w: int, top: int, left: int) -> Tensor:
    """Cells of 2x2 pixels, (n, h, w, 2, 2, channels), from pixel (top, left) on; zero outside."""
    n, rows, columns, channels = image.shape
    cells = image.new_zeros(n, h, w, 2, 2, channels)
    for down, right in product((0, 1), (0, 1)):
        i, r = _overlap(h, rows, top + down)
        j, c = _overlap(w, columns, left + right)
        cells[:, i, j, down, right] = image[:, r, c]
    return cells


def _from_cells(cells: Tensor, size: Sequence[int], top: int, left: int) -> Tensor:
    """Adjoint of `_to_cells`: the image of `size`, zero where no cell lies."""
    n, rows, columns, channels = size
    h, w = cells.shape[1:3]
    whole = (top, left) == (-1, -1) and (2 * h, 2 * w) == (rows + 2, columns + 2)
    image = (cells.new_empty if whole else cells.new_zeros)(n, rows, columns, channels)
    for down, right in product((0, 1), (0, 1)):
        i, r = _overlap(h, rows, top + down)
        j, c = _overlap(w, columns, left + right)
        image[:, r, c] = cells[:, i, j, down, right]
    return image


def _overlap(cells: int, pixels: int, first: int) -> tuple[slice, slice]:
    """Which of `cells` hold a pixel, and which of `pixels`: cell i holds pixel first + 2 i."""
    skipped = (1 - first) // 2 if first < 0 else 0
    start = first + 2 * skipped
    count = min(cells - skipped, (pixels - start + 1) // 2)
    return slice(skipped, skipped + count), slice(start, start + 2 * count - 1, 2)


def _expand_cells(cells: Tensor) -> Tensor:
    """Differences of neighbouring cells, (9, n * blocks, 4 * channels)."""
    cells = cells.flatten(3)
    n, h, w, k = cells.shape
    expanded = cells.new_empty(3, 3, n, h // 2, w // 2, k)
    even, odd = cells[:, 0::2], cells[:, 1::2]
    for row, down in enumerate((even[:, :-1] - odd, odd, even[:, 1:] - odd)):
        left, middle, right = down[:, :, 0:-1:2], down[:, :, 1::2], down[:, :, 2::2]
        torch.sub(left, middle, out=expanded[row, 0])
        expanded[row, 1] = middle
        torch.sub(right, middle, out=expanded[row, 2])
    return expanded.view(9, -1, k)


def _contract_cells(expanded: Tensor, n: int, h: int, w: int) -> Tensor:
    """Adjoint of `_expand_cells`: cells (n, h, w, 4 * channels)."""
    k = expanded.shape[-1]
    blocks = expanded.view(3, 3, n, h // 2, w // 2, k)
    rows = expanded.new_empty(3, n, h // 2, w, k)
    _fold([part.movedim(3, 0) for part in blocks.unbind(1)], rows.movedim(3, 0))
    cells = expanded.new_empty(n, h, w, k)
    _fold([part.movedim(1, 0) for part in rows], cells.movedim(1, 0))
    return cells


def _fold(differences: Sequence[Tensor], cells: Tensor) -> None:
    """Adjoint of the differences of `_expand_cells` along the first axis."""
    before, middle, after = differences
    odd = torch.sub(middle, before, out=cells[1::2])
    odd -= after
    cells[0:-1:2] = before
    cells[-1] = 0
    cells[2::2] += after
