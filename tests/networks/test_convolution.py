"""The convolutions equal PyTorch's, forwards and backwards, whichever way they go."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrbridge.networks import convolution as module_under_test
from mrbridge.networks import unchanged_weights
from mrbridge.networks.convolution import Convolution, DoublingConvolution, HalvingConvolution
from mrbridge.networks.schemes import HalvingWinograd

Plain = Callable[[Tensor, nn.Module], Tensor]


def halved(x: Tensor, layer: nn.Module) -> Tensor:
    return functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)


def doubled(x: Tensor, layer: nn.Module) -> Tensor:
    return functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)


def same(x: Tensor, layer: nn.Module) -> Tensor:
    return functional.conv2d(x, layer.weight, layer.bias, padding=1)


def reflected(x: Tensor, layer: nn.Module) -> Tensor:
    return functional.conv2d(functional.pad(x, (1, 1, 1, 1), "reflect"), layer.weight, layer.bias)


CASES: list[tuple[Callable[[], nn.Module], tuple[int, ...], Plain]] = [
    (lambda: HalvingConvolution(64, 128), (2, 64, 32, 36), halved),
    (lambda: HalvingConvolution(3, 4, bias=True), (2, 3, 6, 10), halved),
    (lambda: HalvingConvolution(3, 4, bias=True), (2, 3, 34, 40), halved),
    (lambda: HalvingConvolution(1, 4), (2, 1, 8, 12), halved),
    (lambda: HalvingConvolution(5, 4), (3, 5, 2, 2), halved),
    (lambda: HalvingConvolution(5, 4), (1, 5, 7, 9), halved),
    (lambda: DoublingConvolution(128, 64), (2, 128, 16, 18), doubled),
    (lambda: DoublingConvolution(5, 3, bias=True), (2, 5, 3, 5), doubled),
    (lambda: DoublingConvolution(5, 3, bias=True), (1, 5, 17, 18), doubled),
    (lambda: DoublingConvolution(5, 1, bias=True), (2, 5, 8, 4), doubled),
    (lambda: Convolution(64, 65, 4), (2, 64, 32, 24), same),
    (lambda: Convolution(64, 64, 4, bias=True), (2, 64, 18, 17), same),
    (lambda: Convolution(64, 65, 3), (2, 64, 16, 18), same),
    (lambda: Convolution(64, 64, 3, bias=True), (1, 64, 17, 19), same),
    (lambda: Convolution(64, 64, 3, padding="reflect"), (2, 64, 16, 18), reflected),
    (lambda: Convolution(3, 2, 3, bias=True, padding="reflect"), (2, 3, 5, 6), reflected),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[2].__name__}-{case[1]}")
def case(request):
    make, size, plain = request.param
    rng = torch.Generator().manual_seed(0)
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=rng)
    x = torch.randn(size, dtype=torch.float64, generator=rng, requires_grad=True)
    return layer, x, plain


def test_results_and_gradients_are_those_of_pytorch(case):
    layer, x, plain = case
    made, wanted = layer(x), plain(x, layer)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-10)
    change = torch.randn_like(wanted)
    inputs = [x, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(made, inputs, change),
        torch.autograd.grad(wanted, inputs, change),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_two_calls_share_the_packed_weights_and_their_gradients_add_up(case):
    layer, x, _ = case
    whole = torch.cat([x, 2 * x]).detach()
    layer(whole).square().sum().backward()
    wanted = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    with unchanged_weights():
        total = layer(x).square().sum() + layer(2 * x).square().sum()
    total.backward()
    for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_packed_weights_do_not_outlive_a_change():
    layer = HalvingConvolution(64, 128)
    nn.init.ones_(layer.weight)
    x = torch.randn(1, 64, 32, 32)
    with torch.no_grad(), unchanged_weights():
        before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
        with unchanged_weights():
            torch.testing.assert_close(layer(x), 2 * before)
        torch.testing.assert_close(layer(x), 2 * before)


def in_thread(work: Callable[[], object]) -> Future[object]:
    return ThreadPoolExecutor(1).submit(work)


def test_threads_do_not_leave_each_other_packed_weights():
    """A begins, B begins, A ends, B ends: each once restored what the other one had put there."""
    layer = HalvingConvolution(64, 128)
    nn.init.normal_(layer.weight, std=0.05)
    images = torch.randn(2, 64, 32, 36, generator=torch.Generator().manual_seed(0))
    a_has_begun, b_has_begun, a_has_ended = Event(), Event(), Event()

    def a() -> None:
        with unchanged_weights():
            layer(images)
            a_has_begun.set()
            assert b_has_begun.wait(10)

    def b() -> None:
        assert a_has_begun.wait(10)
        with unchanged_weights():
            b_has_begun.set()
            assert a_has_ended.wait(10)

    of_a, of_b = in_thread(a), in_thread(b)
    of_a.result()
    a_has_ended.set()
    of_b.result()
    with torch.no_grad():
        layer.weight.mul_(-1)
    expected = halved(images, layer)
    for made in (layer(images), in_thread(lambda: layer(images)).result()):
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(-1),
        lambda layer: layer.load_state_dict({"weight": -layer.weight}),
        lambda layer: setattr(layer.weight, "data", -layer.weight.data),
        lambda layer: setattr(layer, "weight", nn.Parameter(-layer.weight.detach())),
    ],
    ids=["in place", "loaded", "other data", "other parameter"],
)
def test_weights_that_change_after_all_are_packed_again(change: Callable[[nn.Module], object]):
    layer = HalvingConvolution(64, 128)
    nn.init.normal_(layer.weight, std=0.05)
    images = torch.randn(2, 64, 32, 36, generator=torch.Generator().manual_seed(0))
    with unchanged_weights():
        before = layer(images)
        with torch.no_grad():
            change(layer)
        torch.testing.assert_close(layer(images), -before, atol=1e-4, rtol=1e-4)


def test_frozen_weights_let_gradients_through_to_the_image():
    layer = HalvingConvolution(64, 128)
    nn.init.normal_(layer.weight)
    layer.requires_grad_(False)
    x = torch.randn(1, 64, 32, 32, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert layer.weight.grad is None


def test_under_autocast_it_computes_in_bfloat16_and_the_gradient_is_float32():
    layer = HalvingConvolution(64, 128)
    nn.init.normal_(layer.weight)
    x = torch.randn(1, 64, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(x)
    made.float().square().sum().backward()
    assert made.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.shape == layer.weight.shape


def test_a_graph_that_is_exported_has_plain_convolutions():
    layer = HalvingConvolution(64, 128)
    nn.init.normal_(layer.weight)
    program = torch.export.export(layer, (torch.randn(1, 64, 32, 32),))
    called = {str(node.target) for node in program.graph.nodes}
    assert any("conv2d" in name or "convolution" in name for name in called)
    assert not any("bmm" in name for name in called)


def test_small_layers_are_not_worth_the_maps(monkeypatch):
    def fail(*args: object) -> None:
        raise AssertionError("a layer this small went by products")

    monkeypatch.setattr(module_under_test, "_apply", fail)
    layer = Convolution(3, 4, 3)
    nn.init.normal_(layer.weight)
    layer(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(("learning", "scheme"), [(True, HalvingWinograd), (False, type(None))])
def test_what_is_only_translated_is_rounded_less(learning: bool, scheme: type):
    with torch.set_grad_enabled(learning):
        for features, channels in ((256, 128), (512, 256)):
            chosen = module_under_test._halving_scheme(torch.empty(1), features, channels, 64, 64)
            assert isinstance(chosen, scheme)
