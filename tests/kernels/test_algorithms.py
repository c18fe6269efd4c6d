"""Laws of the algorithms: they compute convolutions, and their adjoints are adjoints."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mrbridge.kernels.algorithms import Algorithm, Im2col, Kn2row, Winograd

BF16 = torch.bfloat16
FEATURES = 19

pytestmark = pytest.mark.usefixtures("processor")


class Case(NamedTuple):
    """An algorithm and the convolution that it computes."""

    algorithm: Algorithm
    taps: int
    stride: int
    padding: int
    size: tuple[int, int, int, int]  # (n, rows, columns, channels)
    reflects: bool = False

    @property
    def output_size(self) -> tuple[int, int, int, int]:
        """(n, h, w, features)."""
        h, w = (
            (pixels + 2 * self.padding - self.taps) // self.stride + 1 for pixels in self.size[1:3]
        )
        return self.size[0], h, w, FEATURES


def f22(stride: int) -> Winograd:
    return Winograd(2, 2, depth=2, padding=1, phases=2 // stride)


def f32(stride: int) -> Winograd:
    return Winograd(3, 2, depth=2, padding=1, phases=2 // stride)


CASES = [
    Case(Im2col(), 4, 2, 1, (2, 6, 10, 35)),
    Case(Im2col(), 4, 2, 1, (2, 6, 10, 1)),
    Case(Im2col(), 4, 2, 1, (2, 2, 2, 5)),
    Case(f22(2), 4, 2, 1, (2, 8, 12, 35)),
    Case(f22(2), 4, 2, 1, (1, 4, 4, 1)),
    Case(f22(1), 4, 1, 1, (2, 8, 12, 35)),
    Case(f32(2), 4, 2, 1, (2, 12, 24, 35)),
    Case(f32(2), 4, 2, 1, (1, 8, 20, 3)),  # tiles beyond the output
    Case(f32(1), 4, 1, 1, (2, 8, 16, 35)),
    Case(Winograd.for_3x3(padding=1), 3, 1, 1, (2, 6, 8, 35)),
    Case(Winograd.for_3x3(padding=0), 3, 1, 0, (2, 6, 8, 35)),
    Case(Kn2row(4, 1, False), 4, 1, 1, (2, 9, 12, 35)),
    Case(Kn2row(3, 1, True), 3, 1, 1, (2, 5, 8, 35), reflects=True),
    Case(Kn2row(7, 3, True), 7, 1, 3, (1, 15, 4, 5), reflects=True),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case.algorithm}-{case.size}")
def case(request: pytest.FixtureRequest) -> Case:
    param: Case = request.param
    return param


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_of(case: Case) -> Tensor:
    return draw(case.taps, case.taps, case.size[3], FEATURES, seed=1)


def dot(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.double() * b.double()).sum())


def test_it_is_the_convolution(case: Case) -> None:
    image, weight = draw(*case.size), weight_of(case)
    padding = [case.padding] * 4
    mode = "reflect" if case.reflects else "constant"
    padded = functional.pad(image.movedim(3, 1), padding, mode).double()
    filters = weight.permute(3, 2, 0, 1).double()
    expected = functional.conv2d(padded, filters, stride=case.stride).movedim(1, 3)
    for dtype, error in ((torch.float32, 1e-6), (BF16, 0.008)):
        rows = case.algorithm.input_transform(image.to(dtype))
        products = torch.bmm(rows, case.algorithm.filter_transform(weight, dtype))
        result = case.algorithm.output_transform(products, expected.shape)
        assert result.dtype == dtype
        assert (result - expected).norm() < error * expected.norm()


def test_adjoints(case: Case) -> None:
    algorithm, image, weight = case.algorithm, draw(*case.size), weight_of(case)
    rows = algorithm.input_transform(image)
    other = draw(*rows.shape, seed=2)
    adjoint = algorithm.input_adjoint(other, case.size)
    assert dot(rows, other) == pytest.approx(dot(image, adjoint), rel=1e-4)

    matrices = algorithm.filter_transform(weight, torch.float32)
    other = draw(*matrices.shape, seed=3)
    adjoint = algorithm.filter_adjoint(other)
    assert dot(matrices, other) == pytest.approx(dot(weight, adjoint), rel=1e-4)

    products = draw(*torch.bmm(rows, matrices).shape, seed=4)
    output = draw(*case.output_size, seed=5)
    result = algorithm.output_transform(products, output.shape)
    adjoint = algorithm.output_adjoint(output)
    assert dot(output, result) == pytest.approx(dot(products, adjoint), rel=1e-4)


def test_an_image_may_be_a_view_of_one_with_more_channels(case: Case) -> None:
    wide = draw(*case.size[:3], case.size[3] + 5)[..., 2:-3]
    transform = case.algorithm.input_transform
    assert torch.equal(transform(wide), transform(wide.contiguous()))
    wide = draw(*case.output_size[:3], FEATURES + 5)[..., 2:-3]
    adjoint = case.algorithm.output_adjoint
    assert torch.equal(adjoint(wide), adjoint(wide.contiguous()))


def test_transforms_leave_their_inputs_alone(case: Case) -> None:
    algorithm, image, weight = case.algorithm, draw(*case.size), weight_of(case)
    rows = algorithm.input_transform(image)
    matrices = algorithm.filter_transform(weight, torch.float32)
    products = torch.bmm(rows, matrices)
    output = algorithm.output_transform(products, case.output_size).clone()
    tensors = [image, weight, rows, matrices, products, output]
    before = [x.clone() for x in tensors]
    algorithm.input_adjoint(rows, case.size)
    algorithm.filter_adjoint(matrices)
    algorithm.output_adjoint(output)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


@pytest.mark.parametrize(
    ("case", "ratio"),
    [
        (Case(f22(2), 4, 2, 1, (1, 32, 32, 1)), 16 / 9),
        (Case(f32(2), 4, 2, 1, (1, 24, 24, 1)), 36 / 16),
        (Case(f22(1), 4, 1, 1, (1, 33, 33, 1)), 16 / 9),
        (Case(Winograd.for_3x3(padding=1), 3, 1, 1, (1, 32, 32, 1)), 36 / 16),
    ],
    ids=str,
)
def test_winograd_multiplies_less(case: Case, ratio: float) -> None:
    rows = case.algorithm.input_transform(draw(*case.size))
    _, h, w, _ = case.output_size
    assert case.taps**2 * h * w / rows.numel() == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("stride", "h", "outputs"), [(2, 16, 2), (2, 32, 3), (2, 64, 3), (1, 31, 3), (1, 15, 2)]
)
def test_the_rule_with_the_fewest_multiplications_is_used(
    stride: int, h: int, outputs: int
) -> None:
    assert Winograd.for_4x4(stride, (2, h, h)).outputs == outputs
