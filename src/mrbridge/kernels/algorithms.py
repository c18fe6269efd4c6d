"""Convolutions as batched matrix products between linear transforms.

With an image x, a filter w, and linear transforms A, B and C, a convolution is

    y = C(A(x) @ B(w))

and its gradients are the same products with the transforms' adjoints in place of the transforms.
On a CPU the products then run at the full rate of its matrix instructions, and an algorithm with
fewer multiplications gains as much. Winograd 1980, "Arithmetic Complexity of Computations"; Lavin
and Gray 2016 (arXiv:1509.09308) call A, B and C the input, filter and output transforms.

Shapes: image (n, rows, columns, channels); output (n, h, w, features); filter (taps, taps,
channels, features); matrices A(x) (products, m, k), B(w) (products, k, features), and their product
(products, m, features).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from mrbridge.kernels.library import call


@dataclass(frozen=True)
class Im2col:
    """4x4 filters with stride 2 and padding 1: each patch becomes a row of a single product.

    For few pixels, where reading the weights takes the most time, and for a single channel.
    """

    keeps_matrices: ClassVar[bool] = True
    """Whether the matrices are small enough to be kept for the backward pass."""

    def filter_transform(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight.reshape(1, -1, weight.shape[-1]).to(dtype)

    def filter_adjoint(self, matrices: Tensor) -> Tensor:
        return matrices.view(4, 4, -1, matrices.shape[-1])

    def input_transform(self, image: Tensor) -> Tensor:
        n, rows, columns, channels = image.shape
        matrices = image.new_empty(1, n * (rows // 2) * (columns // 2), 16 * channels)
        call("im2col", image.dtype, image, matrices)
        return matrices

    def input_adjoint(self, matrices: Tensor, size: Sequence[int]) -> Tensor:
        image = matrices.new_empty(*size)
        call("col2im", image.dtype, matrices, image)
        return image

    def output_transform(self, products: Tensor, size: Sequence[int]) -> Tensor:
        return products.view(*size)

    def output_adjoint(self, output: Tensor) -> Tensor:
        return output.reshape(1, -1, output.shape[-1])


@dataclass(frozen=True)
class Winograd:
    """Winograd's minimal filtering F(m x m, r x r): (m + r - 1)^2 multiplications for m^2 outputs.

    `for_4x4` and `for_3x3` make those that are used here:

    - 3x3 filters with stride 1 by F(2x2, 3x3): 16 multiplications instead of 36;
    - 4x4 filters with stride 2: after space-to-depth, which makes one pixel with 4 channels of 2x2
      pixels, they are 2x2 filters with stride 1. F(2x2, 2x2) takes 9 multiplications instead of 16,
      F(3x3, 2x2) 16 instead of 36, unless many of its tiles reach beyond the output. Their rounding
      is the same (docs/decisions/0012-compiled.md);
    - 4x4 filters with stride 1: four convolutions with stride 2 over shifted images (polyphase),
      whose outputs interleave.

    Larger tiles need constants that magnify the rounding of bfloat16.

    Attributes:
        outputs: m, outputs of a tile along one axis.
        taps: r, after space-to-depth.
        depth: pixels along one axis that space-to-depth combines.
        padding: pixels of zeros on each side of the image.
        phases: convolutions along one axis whose outputs interleave.
    """

    keeps_matrices: ClassVar[bool] = False
    outputs: int
    taps: int
    depth: int
    padding: int
    phases: int = 1

    @classmethod
    def for_3x3(cls, padding: int) -> Winograd:
        """F(2x2, 3x3) for stride 1; rows and columns of the output are even."""
        return cls(2, 3, depth=1, padding=padding)

    @classmethod
    def for_4x4(cls, stride: int, size: Sequence[int]) -> Winograd:
        """The rule with fewer multiplications for stride 1 or 2 and padding 1; `size` is that of
        the output, (n, h, w, …)."""
        rules = [cls(m, 2, depth=2, padding=1, phases=2 // stride) for m in (2, 3)]
        return min(rules, key=lambda rule: rule.multiplications(size))

    def multiplications(self, size: Sequence[int]) -> int:
        """For an output of `size`, per image, row of a matrix and feature."""
        return self._products * sum(down * across for down, across in self._tiles(size))

    def filter_transform(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        _, _, channels, features = weight.shape
        matrices = weight.new_empty(self._products, self.depth**2 * channels, features, dtype=dtype)
        self._call("filter_transform", dtype, weight, channels, features, matrices)
        return matrices

    def filter_adjoint(self, matrices: Tensor) -> Tensor:
        _, rows, features = matrices.shape
        channels, taps = rows // self.depth**2, self.depth * self.taps
        # The gradient of a weight is a sum over many pixels, so it is float32.
        weight = matrices.new_empty(taps, taps, channels, features, dtype=torch.float32)
        self._call("filter_adjoint", matrices.dtype, matrices, channels, features, weight)
        return weight

    def input_transform(self, image: Tensor) -> Tensor:
        size = self._output_size(image.shape)
        matrices = self._empty_matrices(image, size, self.depth**2 * image.shape[3])
        for part, tiles, offset in self._phases(matrices, size):
            corner = [shift - self.padding for shift in offset]
            arguments = (image, *corner, *tiles, part, matrices.stride(0))
            self._call("input_transform", image.dtype, *arguments)
        return matrices

    def input_adjoint(self, matrices: Tensor, size: Sequence[int]) -> Tensor:
        image = matrices.new_empty(*size)
        for part, tiles, offset in self._phases(matrices, self._output_size(size)):
            corner = [shift - self.padding for shift in offset]
            is_added = any(offset)  # to what the first phase wrote
            arguments = (part, matrices.stride(0), *tiles, image, *corner, is_added)
            self._call("input_adjoint", image.dtype, *arguments)
        return image

    def output_transform(self, products: Tensor, size: Sequence[int]) -> Tensor:
        output = products.new_empty(*size)
        for part, tiles, (down, right) in self._phases(products, size):
            phase = output[:, down :: self.phases, right :: self.phases]
            arguments = (part, products.stride(0), *tiles, phase)
            self._call("output_transform", output.dtype, *arguments)
        return output

    def output_adjoint(self, output: Tensor) -> Tensor:
        matrices = self._empty_matrices(output, output.shape, output.shape[3])
        for part, tiles, (down, right) in self._phases(matrices, output.shape):
            phase = output[:, down :: self.phases, right :: self.phases]
            arguments = (phase, *tiles, part, matrices.stride(0))
            self._call("output_adjoint", output.dtype, *arguments)
        return matrices

    def _call(self, name: str, dtype: torch.dtype, *arguments: object) -> None:
        call(f"winograd_f{self.outputs}{self.taps}_{name}", dtype, *arguments)

    @property
    def _products(self) -> int:
        return (self.outputs + self.taps - 1) ** 2

    def _output_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """(n, h, w) for an image (n, rows, columns, channels)."""
        stride, taps = self.depth // self.phases, self.depth * self.taps
        h, w = ((pixels + 2 * self.padding - taps) // stride + 1 for pixels in size[1:3])
        return size[0], h, w

    def _offsets(self) -> Iterator[tuple[int, ...]]:
        return product(range(self.phases), repeat=2)

    def _tiles(self, size: Sequence[int]) -> Iterator[tuple[int, int]]:
        """How many tiles each phase has, down and across."""
        step = self.phases * self.outputs
        for offset in self._offsets():
            down, across = (
                -(-(length - first) // step)
                for length, first in zip(size[1:3], offset, strict=True)
            )
            yield down, across

    def _empty_matrices(self, like: Tensor, size: Sequence[int], k: int) -> Tensor:
        tiles = sum(down * across for down, across in self._tiles(size))
        return like.new_empty(self._products, size[0] * tiles, k)

    def _phases(
        self, matrices: Tensor, size: Sequence[int]
    ) -> Iterator[tuple[Tensor, tuple[int, int], tuple[int, ...]]]:
        """For each phase: its first row of the matrices, its tiles, its offset in pixels."""
        first = 0
        for tiles, offset in zip(self._tiles(size), self._offsets(), strict=True):
            yield matrices[0, first:], tiles, offset
            first += size[0] * tiles[0] * tiles[1]


@dataclass(frozen=True)
class Kn2row:
    """Stride 1 and very few features: multiply each pixel by each tap, then add shifted products.

    Matrix instructions compute features by the dozen, however few there are. Here the taps take
    their place: (pixels, channels) @ (channels, taps^2 features). Products are rounded before they
    are added, so this is for training only. Vasudevan et al. 2017 (arXiv:1704.04428), kn2row.

    Attributes:
        taps: along one axis.
        padding: pixels before the first row and column.
        reflects: whether the padding mirrors the image; otherwise it is zero.
    """

    keeps_matrices: ClassVar[bool] = False
    taps: int
    padding: int
    reflects: bool

    def filter_transform(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        taps = weight.permute(2, 0, 1, 3).reshape(1, weight.shape[2], -1)
        return taps.to(dtype).contiguous()

    def filter_adjoint(self, matrices: Tensor) -> Tensor:
        taps = matrices.view(matrices.shape[1], self.taps, self.taps, -1)
        return taps.permute(1, 2, 0, 3).contiguous()

    def input_transform(self, image: Tensor) -> Tensor:
        return image.reshape(1, -1, image.shape[3])

    def input_adjoint(self, matrices: Tensor, size: Sequence[int]) -> Tensor:
        return matrices.view(*size)

    def output_transform(self, products: Tensor, size: Sequence[int]) -> Tensor:
        output = products.new_empty(*size)
        call("kn2row", output.dtype, products, *self._geometry(size), output)
        return output

    def output_adjoint(self, output: Tensor) -> Tensor:
        geometry = self._geometry(output.shape)
        pixels = len(output) * geometry[3] * geometry[4]
        products = output.new_empty(1, pixels, self.taps**2 * output.shape[3])
        call("kn2row_adjoint", output.dtype, output, *geometry, products)
        return products

    def _geometry(self, size: Sequence[int]) -> tuple[int, int, bool, int, int]:
        lost = self.taps - 1 - 2 * self.padding  # filters of even size lose a row and a column
        return self.taps, self.padding, self.reflects, size[1] + lost, size[2] + lost


Algorithm = Im2col | Winograd | Kn2row
