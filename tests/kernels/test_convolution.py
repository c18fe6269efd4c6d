"""The convolutions are PyTorch's, forwards and backwards, by each algorithm and without kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrbridge.kernels import Conv2d, ConvTranspose2d, convolution as module_under_test, weight_cache
from mrbridge.kernels.algorithms import Im2col, Kn2row, Winograd

BF16 = torch.bfloat16

Padding = Literal["zeros", "reflect"]
Layer = Conv2d | ConvTranspose2d


def strided(channels: int, features: int, bias: bool = False) -> Conv2d:
    return Conv2d(channels, features, 4, stride=2, padding=1, bias=bias)


def transposed(channels: int, features: int, bias: bool = False) -> ConvTranspose2d:
    return ConvTranspose2d(channels, features, bias=bias)


def stride_1(channels: int, features: int, taps: int, mode: Padding = "zeros") -> Conv2d:
    return Conv2d(channels, features, taps, padding=(taps - 1) // 2, padding_mode=mode)


# layer, image size (n, channels, rows, columns), algorithm
CASES = [
    (lambda: strided(64, 128), (2, 64, 32, 36), Winograd),
    (lambda: strided(3, 4, bias=True), (2, 3, 6, 10), Im2col),
    (lambda: strided(3, 4, bias=True), (2, 3, 34, 40), None),
    (lambda: strided(1, 4), (2, 1, 40, 44), Im2col),
    (lambda: strided(5, 4), (3, 5, 2, 2), Im2col),
    (lambda: strided(5, 4), (1, 5, 7, 9), None),
    (lambda: transposed(128, 64), (2, 128, 16, 18), Winograd),
    (lambda: transposed(64, 16), (1, 64, 16, 18), Winograd),
    (lambda: transposed(64, 15), (1, 64, 16, 18), None),
    (lambda: transposed(5, 3, bias=True), (2, 5, 3, 5), Im2col),
    (lambda: transposed(5, 3, bias=True), (1, 5, 17, 18), None),
    (lambda: transposed(5, 1, bias=True), (2, 5, 16, 17), Im2col),
    (lambda: stride_1(64, 65, 4), (2, 64, 32, 24), Winograd),
    (lambda: stride_1(64, 64, 4), (2, 64, 18, 17), None),
    (lambda: stride_1(64, 65, 3), (2, 64, 16, 18), Winograd),
    (lambda: stride_1(64, 64, 3), (1, 64, 17, 19), None),
    (lambda: stride_1(64, 64, 3, "reflect"), (2, 64, 16, 18), Winograd),
    (lambda: stride_1(64, 1, 7, "reflect"), (2, 64, 16, 18), Kn2row),
    (lambda: stride_1(64, 1, 4), (2, 64, 16, 18), Kn2row),
    (lambda: stride_1(3, 2, 3, "reflect"), (2, 3, 5, 6), None),
    (lambda: Conv2d(64, 64, 3, stride=2, padding=1), (1, 64, 18, 18), None),
    (lambda: Conv2d(64, 64, 3), (1, 64, 18, 18), None),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]()}-{case[1]}")
def case(request):
    make, size, algorithm = request.param
    rng = torch.Generator().manual_seed(0)
    layer = make()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1, generator=rng)
    return layer, torch.randn(size, generator=rng, requires_grad=True), algorithm


def reference(x: Tensor, layer: Layer) -> Tensor:
    """The same by PyTorch in float64."""
    x, weight = x.double(), layer.weight.double()
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, ConvTranspose2d):
        return functional.conv_transpose2d(x, weight, bias, stride=2, padding=1)
    mode = "reflect" if layer.padding_mode == "reflect" else "constant"
    padded = functional.pad(x, [int(layer.padding[0])] * 4, mode)
    return functional.conv2d(padded, weight, bias, layer.stride[0])


def relative_error(result: Tensor, expected: Tensor) -> float:
    return float((result.double() - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
def test_results_and_gradients_are_those_of_pytorch(case, dtype: torch.dtype, processor: None):
    check(case, dtype)


def test_so_they_are_without_kernels(case, without_kernels: None):
    check(case, torch.float32)


def check(case, dtype: torch.dtype) -> None:
    layer, x, _ = case
    with torch.autocast("cpu", BF16, enabled=dtype == BF16):
        result = layer(x)
    assert result.dtype == dtype
    expected = reference(x, layer)
    limit = 1e-5 if dtype == torch.float32 else 0.015
    assert relative_error(result, expected) < limit
    change = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    inputs = [x, *layer.parameters()]
    gradients = torch.autograd.grad(result, inputs, change)
    for ours, theirs in zip(
        gradients, torch.autograd.grad(expected, inputs, change.double()), strict=True
    ):
        assert relative_error(ours, theirs) < limit


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The algorithms of all layers that were called and use one."""
    used: list[type] = []
    convolve = module_under_test._convolve

    def record(*arguments, **options):
        used.append(type(arguments[2]))
        return convolve(*arguments, **options)

    monkeypatch.setattr(module_under_test, "_convolve", record)
    return used


def test_each_layer_uses_the_algorithm_that_suits_it(case, used: list[type], processor: None):
    layer, x, algorithm = case
    layer(x)
    assert used == ([] if algorithm is None else [algorithm])


def test_without_gradients_float32_is_by_winograd_unless_there_is_avx512(
    used: list[type], processor: None
):
    with_avx2 = module_under_test.vector_extension() == "AVX2"
    for layer in (strided(64, 128), transposed(128, 64)):
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
        x = torch.randn(1, layer.in_channels, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert relative_error(layer(x), reference(x, layer)) < 1e-5
        assert used == [Winograd] * with_avx2
        used.clear()


def test_without_gradients_strided_layers_are_direct_and_round_less(processor: None):
    for make in (strided, lambda a, b: transposed(b, a)):
        layer = make(64, 128)
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
        x = torch.randn(1, layer.in_channels, 64, 64, generator=torch.Generator().manual_seed(1))
        errors = []
        for learning in (True, False):
            with torch.set_grad_enabled(learning), torch.autocast("cpu", BF16):
                errors.append(relative_error(layer(x), reference(x, layer)))
        assert errors[1] < 0.8 * errors[0]


def test_two_calls_share_the_transformed_weights_and_their_gradients_add_up(case):
    layer, x, _ = case
    whole = torch.cat([x, 2 * x]).detach()
    layer(whole).square().sum().backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    with weight_cache():
        total = layer(x).square().sum() + layer(2 * x).square().sum()
    total.backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-2)


def test_gradients_of_only_the_image_leave_no_trace():
    layer = strided(64, 128)
    nn.init.normal_(layer.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 64, 32, 32, requires_grad=True)
    result = layer(x).square().sum()
    (expected,) = torch.autograd.grad(result, layer.weight, retain_graph=True)
    torch.autograd.grad(result, x, retain_graph=True)
    (again,) = torch.autograd.grad(result, layer.weight)
    assert torch.equal(again, expected)


@pytest.mark.parametrize("pixels", [4, 64], ids=["few rows", "many rows"])
def test_gradients_of_many_calls_add_up(pixels: int):
    """Also if a backward pass that did not ask for the weight left its parts."""
    layer = strided(64, 128)
    nn.init.normal_(layer.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    images = [torch.randn(1, 64, pixels, pixels, requires_grad=True) for _ in range(37)]
    with weight_cache():
        results = [layer(image).square().mean() for image in images]
    torch.autograd.grad(results[3], images[3], retain_graph=True)
    chosen = [result for index, result in enumerate(results) if index != 3]
    (found,) = torch.autograd.grad(sum(chosen), layer.weight, retain_graph=True)
    one_by_one = [torch.autograd.grad(one, layer.weight, retain_graph=True)[0] for one in chosen]
    torch.testing.assert_close(found, torch.stack(one_by_one).sum(0), rtol=1e-3, atol=1e-4)


def test_transformed_weights_do_not_outlive_a_change():
    layer = strided(64, 128)
    nn.init.ones_(layer.weight)
    x = torch.randn(1, 64, 32, 32)
    with torch.no_grad(), weight_cache():
        before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
        with weight_cache():
            torch.testing.assert_close(layer(x), 2 * before)
        torch.testing.assert_close(layer(x), 2 * before)


def in_thread(work: Callable[[], object]) -> Future[object]:
    return ThreadPoolExecutor(1).submit(work)


def test_threads_do_not_share_transformed_weights():
    """A begins, B begins, A ends, B ends: neither restores the cache of the other."""
    layer = strided(64, 128)
    nn.init.normal_(layer.weight, std=0.05)
    images = torch.randn(2, 64, 32, 36, generator=torch.Generator().manual_seed(0))
    a_has_begun, b_has_begun, a_has_ended = Event(), Event(), Event()

    def a() -> None:
        with weight_cache():
            layer(images)
            a_has_begun.set()
            assert b_has_begun.wait(10)

    def b() -> None:
        assert a_has_begun.wait(10)
        with weight_cache():
            b_has_begun.set()
            assert a_has_ended.wait(10)

    of_a, of_b = in_thread(a), in_thread(b)
    of_a.result()
    a_has_ended.set()
    of_b.result()
    with torch.no_grad():
        layer.weight.mul_(-1)
    expected = reference(images, layer).float()
    for result in (layer(images), in_thread(lambda: layer(images)).result()):
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


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
def test_weights_that_change_within_the_cache_are_transformed_again(
    change: Callable[[nn.Module], object],
):
    layer = strided(64, 128)
    nn.init.normal_(layer.weight, std=0.05)
    images = torch.randn(2, 64, 32, 36, generator=torch.Generator().manual_seed(0))
    with weight_cache():
        before = layer(images)
        with torch.no_grad():
            change(layer)
        torch.testing.assert_close(layer(images), -before, atol=1e-4, rtol=1e-4)


def test_weights_in_any_memory_order_give_the_same_result():
    layer, x = strided(64, 128), torch.randn(1, 64, 32, 32)
    nn.init.normal_(layer.weight, std=0.05)
    expected = layer(x)
    for order in (torch.contiguous_format, torch.channels_last):
        layer.weight.data = layer.weight.data.contiguous(memory_format=order)
        assert torch.equal(layer(x), expected)


def test_frozen_weights_let_gradients_through_to_the_image():
    layer = strided(64, 128)
    nn.init.normal_(layer.weight)
    layer.requires_grad_(False)
    x = torch.randn(1, 64, 32, 32, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert layer.weight.grad is None


def test_under_autocast_it_computes_in_bfloat16_and_the_gradient_is_float32():
    layer = strided(64, 128)
    nn.init.normal_(layer.weight)
    x = torch.randn(1, 64, 32, 32)
    with torch.autocast("cpu", BF16):
        result = layer(x)
    result.float().square().sum().backward()
    assert result.dtype == BF16
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.shape == layer.weight.shape


def test_an_exported_graph_has_plain_convolutions():
    layer = strided(64, 128)
    nn.init.normal_(layer.weight)
    program = torch.export.export(layer, (torch.randn(1, 64, 32, 32),))
    called = {str(node.target) for node in program.graph.nodes}
    assert any("conv2d" in name or "convolution" in name for name in called)
    assert not any("bmm" in name for name in called)


def test_an_image_with_too_few_rows_to_reflect_is_refused(processor: None):
    layer = stride_1(64, 1, 7, "reflect")
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert layer(torch.randn(1, 64, 4, 128)).shape == (1, 1, 4, 128)
    with pytest.raises(RuntimeError, match="Padding size"):
        layer(torch.randn(1, 64, 3, 128))


def test_a_result_does_not_depend_on_the_number_of_threads(processor: None):
    layer = strided(64, 128)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 64, 64, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            result = layer(x)
            gradients = torch.autograd.grad(result.square().sum(), [x, layer.weight])
            results.append([result, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert relative_error(b, a.double()) < 1e-5
