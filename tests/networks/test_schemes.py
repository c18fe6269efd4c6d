"""Laws of the schemes: they compute the convolution, and their maps' adjoints are adjoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mrbridge.networks.schemes import (
    Columns,
    HalvingWinograd,
    Scheme,
    SmallWinograd,
    SteadyWinograd,
)

# scheme, kernel, image size, result size, the same in PyTorch's words
CASES = [
    (Columns(), 4, (2, 6, 10, 3), (2, 3, 5), {"stride": 2, "padding": 1}),
    (Columns(), 4, (2, 2, 2, 5), (2, 1, 1), {"stride": 2, "padding": 1}),
    (Columns(), 4, (2, 8, 4, 1), (2, 4, 2), {"stride": 2, "padding": 1}),
    (HalvingWinograd(), 4, (2, 8, 12, 3), (2, 4, 6), {"stride": 2, "padding": 1}),
    (HalvingWinograd(), 4, (1, 4, 4, 1), (1, 2, 2), {"stride": 2, "padding": 1}),
    (SteadyWinograd(), 4, (2, 8, 12, 3), (2, 7, 11), {"padding": 1}),
    (SteadyWinograd(), 4, (1, 4, 4, 2), (1, 3, 3), {"padding": 1}),
    (SmallWinograd(border=0), 3, (2, 6, 10, 3), (2, 4, 8), {}),
    (SmallWinograd(border=0), 3, (1, 4, 4, 2), (1, 2, 2), {}),
    (SmallWinograd(border=1), 3, (2, 4, 8, 18), (2, 4, 8), {"padding": 1}),
    (HalvingWinograd(), 4, (2, 8, 12, 35), (2, 4, 6), {"stride": 2, "padding": 1}),
    (Columns(), 4, (2, 6, 10, 35), (2, 3, 5), {"stride": 2, "padding": 1}),
]
FEATURES = 5


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def case(request):
    return request.param


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dot(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a * b).sum())


def test_it_is_the_convolution(case):
    scheme, kernel, image_size, result_size, options = case
    image, weight = draw(*image_size), draw(kernel, kernel, image_size[-1], FEATURES, seed=1)
    size = (*result_size, FEATURES)
    made = scheme.collect(torch.bmm(scheme.expand(image), scheme.pack(weight, weight.dtype)), size)
    wanted = functional.conv2d(image.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), **options)
    torch.testing.assert_close(made, wanted.permute(0, 2, 3, 1), rtol=0, atol=1e-12)


def test_the_maps_have_their_adjoints(case):
    scheme, kernel, image_size, result_size, _ = case
    image, weight = draw(*image_size), draw(kernel, kernel, image_size[-1], FEATURES, seed=1)
    expanded, packed = scheme.expand(image), scheme.pack(weight, weight.dtype)
    other = draw(*expanded.shape, seed=2)
    assert dot(expanded, other) == pytest.approx(dot(image, scheme.contract(other, image_size)))

    other = draw(*packed.shape, seed=3)
    assert dot(packed, other) == pytest.approx(dot(weight, scheme.unpack(other)))

    products = torch.bmm(expanded, packed)
    result = scheme.collect(products, (*result_size, FEATURES))
    other = draw(*result.shape, seed=4)
    assert dot(result, other) == pytest.approx(dot(products, scheme.spread(other)))


def test_nothing_that_goes_in_is_changed(case):
    scheme, kernel, image_size, result_size, _ = case
    image, weight = draw(*image_size), draw(kernel, kernel, image_size[-1], FEATURES, seed=1)
    expanded, packed = scheme.expand(image), scheme.pack(weight, weight.dtype)
    products = torch.bmm(expanded, packed)
    result = scheme.collect(products, (*result_size, FEATURES))
    before = [x.clone() for x in (image, weight, expanded, packed, products, result)]
    scheme.contract(expanded, image_size)
    scheme.unpack(packed)
    scheme.spread(result)
    scheme.expand(image)
    scheme.collect(products, result.shape)
    after = (image, weight, expanded, packed, products, result)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("scheme", "direct"),
    [(HalvingWinograd(), 4 * 16), (SteadyWinograd(), 4 * 16), (SmallWinograd(0), 4 * 9)],
    ids=lambda value: type(value).__name__,
)
def test_winograd_needs_fewer_products(scheme: Scheme, direct: int):
    kernel = 3 if isinstance(scheme, SmallWinograd) else 4
    size = 34 if kernel == 3 else 32
    expanded = scheme.expand(draw(1, size, size, 1))
    packed = scheme.pack(draw(kernel, kernel, 1, 1), torch.float64)
    results = (16 if isinstance(scheme, HalvingWinograd) else 32) ** 2
    products = expanded.numel() * packed.shape[-1]
    saved = direct / 4 * results / products
    assert saved == pytest.approx(2.25 if kernel == 3 else 16 / 9)


def test_bfloat16_keeps_two_digits(case):
    scheme, kernel, image_size, result_size, options = case
    image, weight = draw(*image_size), draw(kernel, kernel, image_size[-1], FEATURES, seed=1)
    low = torch.bfloat16
    products = torch.bmm(scheme.expand(image.to(low)), scheme.pack(weight.float(), low))
    made = scheme.collect(products, (*result_size, FEATURES)).double()
    wanted = functional.conv2d(image.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), **options)
    error = (made - wanted.permute(0, 2, 3, 1)).norm() / wanted.norm()
    assert error < 0.015
