"""The instance norm is PyTorch's, and takes a 1x1 image as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrbridge.kernels import InstanceNorm2d

BF16 = torch.bfloat16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["kernels", "pytorch"])
def any_machine(request: pytest.FixtureRequest) -> None:
    """A machine with kernels and one without."""
    if request.param == "pytorch":
        request.getfixturevalue("without_kernels")


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", [(2, 64, 20, 13), (3, 83, 2, 3), (1, 5, 40, 41)])
def test_it_is_pytorchs(slope: float, size: tuple[int, ...]) -> None:
    check(slope, size)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_so_it_is_without_kernels(slope: float) -> None:
    check(slope, (2, 64, 20, 13))


def check(slope: float, size: tuple[int, ...]) -> None:
    norm = InstanceNorm2d(size[1], slope)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    x = (3 * draw(*size) + 50).requires_grad_()
    result = norm(x)
    inputs = [x, *norm.parameters()]
    exact = [one.detach().double().requires_grad_() for one in inputs]
    expected = functional.leaky_relu(
        functional.instance_norm(exact[0], weight=exact[1], bias=exact[2]), slope
    )
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)
    gradient = draw(*size, seed=1)
    for ours, theirs in zip(
        torch.autograd.grad(result, inputs, gradient),
        torch.autograd.grad(expected, exact, gradient.double()),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_statistics_are_float32(any_machine: None) -> None:
    x = (3 * draw(2, 20, 64, 64) + 50).to(BF16).requires_grad_()
    norm = InstanceNorm2d(20, 0.2)
    result = norm(x)
    expected = norm(x.detach().float())
    assert result.dtype == BF16
    torch.testing.assert_close(result.float(), expected, rtol=2**-7, atol=2**-8)


@pytest.mark.usefixtures("processor")
def test_the_gradient_may_be_a_view_of_one_with_more_channels() -> None:
    x = draw(2, 64, 8, 12).requires_grad_()
    wide = draw(2, 70, 8, 12).contiguous(memory_format=torch.channels_last)[:, 4:-2]
    result = InstanceNorm2d(64, 0.2)(x)
    (ours,) = torch.autograd.grad(result, x, wide, retain_graph=True)
    (expected,) = torch.autograd.grad(result, x, wide.contiguous())
    assert torch.equal(ours, expected)


@pytest.mark.usefixtures("processor")
def test_a_result_does_not_depend_on_the_number_of_threads() -> None:
    norm, x = InstanceNorm2d(128, 0.2), draw(2, 128, 64, 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = norm(x)
        torch.set_num_threads(3)
        assert torch.equal(norm(x), expected)
    finally:
        torch.set_num_threads(before)


def test_one_pixel_becomes_the_offset_and_has_gradients(any_machine: None) -> None:
    norm = InstanceNorm2d(3)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    out = norm(torch.randn(2, 3, 1, 1))
    assert out[:, :, 0, 0].tolist() == [[1, 2, 3]] * 2
    out.sum().backward()
    assert norm.bias.grad.tolist() == [2, 2, 2]
    assert norm.weight.grad.tolist() == [0, 0, 0]


def test_each_channel_of_each_image_is_centred_and_scaled(any_machine: None) -> None:
    out = InstanceNorm2d(3)(draw(2, 3, 16, 16) * 7 + 5)
    torch.testing.assert_close(out.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((2, 3), correction=0), torch.ones(2, 3), atol=1e-3, rtol=0)
