"""Compiled passes compute what PyTorch's operations do, which stand in where there are none."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrbridge.networks import passes
from mrbridge.networks.compiled_schemes import (
    CompiledColumns,
    CompiledShifts,
    CompiledWinograd,
    compiled_scheme,
)
from mrbridge.networks.convolution import Convolution, DoublingConvolution, HalvingConvolution
from mrbridge.networks.norm import InstanceNorm
from mrbridge.networks.schemes import (
    Columns,
    HalvingWinograd,
    Scheme,
    SmallWinograd,
    SteadyWinograd,
)

BF16 = torch.bfloat16


@pytest.fixture(params=["AVX512", "AVX2"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A processor that can do this, and whose passes were compiled."""
    able = torch.backends.cpu.get_cpu_capability()
    if able not in ("AVX512", request.param):
        pytest.skip(f"this processor can do {able} only")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    forget()
    if passes.compiled(torch.float32) is None:
        pytest.skip("no passes were compiled")
    yield request.param
    forget()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled passes."""
    monkeypatch.setattr(passes, "_library", lambda: None)
    forget()
    yield
    forget()


def forget() -> None:
    passes._passes.cache_clear()
    if hasattr(passes._library, "cache_clear"):
        passes._library.cache_clear()


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng).to(dtype)


def dot(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.double() * b.double()).sum())


def close(made: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """Equal to a wanted result in float32, but for one rounding to `dtype`."""
    assert made.dtype == dtype
    assert made.shape == wanted.shape
    tolerance = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(made.float(), wanted, rtol=tolerance, atol=4e-6)


def test_they_are_there_where_a_compiler_was():
    if sys.platform != "linux" or platform.machine() != "x86_64" or not shutil.which("g++"):
        pytest.skip("nothing is compiled on this system")
    assert passes.compiled(torch.float32) is not None, "install again: passes.cpp has changed"
    assert passes.compiled(BF16) is not None
    assert passes.compiled(torch.float64) is None


def padded(image: Tensor, border: int, reflects: bool = False) -> Tensor:
    """(n, channels, rows, columns) of (n, rows, columns, channels), with a border."""
    return functional.pad(image.movedim(3, 1), [border] * 4, "reflect" if reflects else "constant")


def winograd(rule: str, results: int, interleaved: int = 1) -> CompiledWinograd:
    return CompiledWinograd(rule, results, 2, cell=2, border=1, interleaved=interleaved)


# scheme, kernel, stride, border, whether it mirrors, image size
WAYS = [
    (CompiledColumns(), 4, 2, 1, False, (2, 6, 10, 35)),
    (CompiledColumns(), 4, 2, 1, False, (2, 6, 10, 1)),
    (winograd("two_of_two", 2), 4, 2, 1, False, (2, 8, 12, 35)),
    (winograd("two_of_two", 2, 2), 4, 1, 1, False, (2, 8, 12, 35)),
    (winograd("three_of_two", 3), 4, 2, 1, False, (2, 12, 24, 35)),
    (winograd("three_of_two", 3), 4, 2, 1, False, (1, 8, 20, 3)),  # blocks beyond the results
    (winograd("three_of_two", 3, 2), 4, 1, 1, False, (2, 8, 16, 35)),
    (CompiledWinograd("two_of_three", 2, 3, cell=1, border=1), 3, 1, 1, False, (2, 6, 8, 35)),
    (CompiledWinograd("two_of_three", 2, 3, cell=1, border=0), 3, 1, 0, False, (2, 6, 8, 35)),
    (CompiledShifts(4, 1, False), 4, 1, 1, False, (2, 9, 12, 35)),
    (CompiledShifts(3, 1, True), 3, 1, 1, True, (2, 5, 8, 35)),
    (CompiledShifts(7, 3, True), 7, 1, 3, True, (1, 15, 4, 5)),
]
FEATURES = 19


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[-1]}")
def way(request: pytest.FixtureRequest):
    return request.param


def test_schemes_are_the_convolution(way, processor: str):
    scheme, kernel, stride, border, reflects, size = way
    image, weight = draw(*size), draw(kernel, kernel, size[3], FEATURES, seed=1)
    wanted = functional.conv2d(
        padded(image, border, reflects).double(), weight.permute(3, 2, 0, 1).double(), stride=stride
    ).movedim(1, 3)
    for dtype, error in ((torch.float32, 1e-6), (BF16, 0.008)):
        products = torch.bmm(scheme.expand(image.to(dtype)), scheme.pack(weight, dtype))
        made = scheme.collect(products, wanted.shape)
        assert made.dtype == dtype
        assert (made - wanted).norm() < error * wanted.norm()


def test_maps_have_their_adjoints(way, processor: str):
    scheme, kernel, stride, border, _, size = way
    image, weight = draw(*size), draw(kernel, kernel, size[3], FEATURES, seed=1)
    expanded, packed = scheme.expand(image), scheme.pack(weight, torch.float32)
    other = draw(*expanded.shape, seed=2)
    assert dot(expanded, other) == pytest.approx(dot(image, scheme.contract(other, size)), rel=1e-4)
    other = draw(*packed.shape, seed=3)
    assert dot(packed, other) == pytest.approx(dot(weight, scheme.unpack(other)), rel=1e-4)
    products = draw(*torch.bmm(expanded, packed).shape, seed=4)
    h, w = ((pixels + 2 * border - kernel) // stride + 1 for pixels in size[1:3])
    result = draw(size[0], h, w, FEATURES, seed=5)
    collected = scheme.collect(products, result.shape)
    assert dot(result, collected) == pytest.approx(dot(products, scheme.spread(result)), rel=1e-4)


def test_an_image_may_be_a_part_of_a_wider_one(way, processor: str):
    scheme, kernel, stride, border, _, size = way
    wide = draw(*size[:3], size[3] + 5)[..., 2:-3]
    assert torch.equal(scheme.expand(wide), scheme.expand(wide.contiguous()))
    h, w = ((pixels + 2 * border - kernel) // stride + 1 for pixels in size[1:3])
    wide = draw(size[0], h, w, FEATURES + 5)[..., 2:-3]
    assert torch.equal(scheme.spread(wide), scheme.spread(wide.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize(
    ("compiled", "scheme"),
    [
        (CompiledColumns(), Columns()),
        (winograd("two_of_two", 2), HalvingWinograd()),
        (winograd("two_of_two", 2, 2), SteadyWinograd()),
        (CompiledWinograd("two_of_three", 2, 3, cell=1, border=1), SmallWinograd(border=1)),
        (CompiledWinograd("two_of_three", 2, 3, cell=1, border=0), SmallWinograd(border=0)),
    ],
    ids=str,
)
def test_maps_are_pytorchs_rounded_once(
    compiled: Scheme, scheme: Scheme, dtype: torch.dtype, processor: str
):
    image = draw(2, 8, 12, 35, dtype=dtype)
    close(compiled.expand(image), scheme.expand(image.float()), dtype)
    size = 3 if isinstance(scheme, SmallWinograd) else 4
    weight = draw(size, size, 35, FEATURES)
    close(compiled.pack(weight, dtype), scheme.pack(weight, torch.float32), dtype)


@pytest.mark.parametrize(
    ("scheme", "h", "results"),
    [
        (HalvingWinograd(), 16, 2), (HalvingWinograd(), 32, 3), (HalvingWinograd(), 64, 3),
        (SteadyWinograd(), 31, 3), (SteadyWinograd(), 15, 2), (SmallWinograd(border=1), 64, 2),
    ],
)  # fmt: skip
def test_the_rule_with_the_fewest_products_is_taken(
    scheme: Scheme, h: int, results: int, processor: str
):
    taken = compiled_scheme(scheme, (2, h, h), BF16)
    assert isinstance(taken, CompiledWinograd)
    assert taken.results == results


@pytest.mark.parametrize("make", [
    lambda: HalvingConvolution(64, 128), lambda: HalvingConvolution(5, 4, bias=True),
    lambda: DoublingConvolution(64, 128), lambda: DoublingConvolution(64, 1, bias=True),
    lambda: Convolution(64, 65, 4), lambda: Convolution(64, 65, 3),
    lambda: Convolution(64, 65, 3, padding="reflect"),
    lambda: Convolution(64, 1, 7, bias=True, padding="reflect"), lambda: Convolution(64, 1, 4),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
def test_convolutions_do_the_same_without(
    make: Callable[[], nn.Module], dtype: torch.dtype, processor: str,
    request: pytest.FixtureRequest,
):  # fmt: skip
    layer = make()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    channels = layer.weight.shape[0 if isinstance(layer, DoublingConvolution) else 1]
    x = draw(2, channels, 32, 20).requires_grad_()

    def results() -> list[Tensor]:
        with torch.autocast("cpu", BF16, enabled=dtype == BF16):
            made = layer(x)
        inputs = [x, *layer.parameters()]
        return [made, *torch.autograd.grad(made, inputs, draw(*made.shape, seed=1, dtype=dtype))]

    ours = results()
    request.getfixturevalue("without")
    for made, wanted in zip(ours, results(), strict=True):
        assert made.dtype == wanted.dtype
        error = (made.float() - wanted.float()).norm() / wanted.float().norm()
        assert error < (1e-5 if dtype == torch.float32 else 0.01)


def test_an_image_with_too_few_rows_to_mirror_is_refused(processor: str):
    layer = Convolution(64, 1, 7, padding="reflect")
    nn.init.ones_(layer.weight)
    assert layer(draw(1, 64, 4, 128)).shape == (1, 1, 4, 128)
    with pytest.raises(RuntimeError, match="Padding size"):
        layer(draw(1, 64, 3, 128))


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", [(2, 64, 20, 13), (3, 83, 2, 3), (1, 5, 40, 41)])
def test_norms_are_pytorchs(slope: float, size: tuple[int, ...], processor: str):
    norm = InstanceNorm(size[1], slope)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    x = (3 * draw(*size) + 50).requires_grad_()
    made = norm(x)
    inputs = [x, *norm.parameters()]
    exactly = [one.detach().double().requires_grad_() for one in inputs]
    wanted = functional.leaky_relu(
        functional.instance_norm(exactly[0], weight=exactly[1], bias=exactly[2]), slope
    )
    torch.testing.assert_close(made.double(), wanted, rtol=1e-4, atol=1e-4)
    gradient = draw(*size, seed=1)
    for ours, theirs in zip(
        torch.autograd.grad(made, inputs, gradient),
        torch.autograd.grad(wanted, exactly, gradient.double()),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_a_norm_in_bfloat16_has_its_statistics_in_float32(processor: str):
    x = (3 * draw(2, 20, 64, 64) + 50).to(BF16).requires_grad_()
    norm = InstanceNorm(20, 0.2)
    made = norm(x)
    wanted = norm(x.detach().float())
    assert made.dtype == BF16
    torch.testing.assert_close(made.float(), wanted, rtol=2**-8, atol=1e-5)


def test_the_gradient_of_a_norm_may_be_a_part_of_a_wider_one(processor: str):
    x = draw(2, 64, 8, 12).requires_grad_()
    norm = InstanceNorm(64, 0.2)
    wide = draw(2, 70, 8, 12).contiguous(memory_format=torch.channels_last)[:, 4:-2]
    alone = wide.contiguous()
    made = norm(x)
    (ours,) = torch.autograd.grad(made, x, wide, retain_graph=True)
    (wanted,) = torch.autograd.grad(made, x, alone)
    assert torch.equal(ours, wanted)


def test_nothing_depends_on_how_many_threads_there_are(processor: str):
    layer, norm = HalvingConvolution(64, 128), InstanceNorm(128, 0.2)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    x = draw(2, 64, 64, 64).requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = norm(layer(x))
            inputs = [x, layer.weight, norm.weight]
            results.append([made, *torch.autograd.grad(made.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_without_them_the_schemes_are_pytorchs(without: None):
    for scheme in (Columns(), HalvingWinograd(), SteadyWinograd(), SmallWinograd(border=1)):
        assert compiled_scheme(scheme, (1, 64, 64), BF16) == scheme
    assert InstanceNorm(3)(draw(1, 3, 4, 4)).isfinite().all()


def test_a_library_of_another_source_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str
):
    for file in Path(passes.__file__).parent.glob("passes*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(passes, "__file__", str(tmp_path / "passes.py"))
    forget()
    assert passes.compiled(BF16) is not None
    with (tmp_path / "passes.cpp").open("a") as source:
        source.write("// changed\n")
    forget()
    assert passes.compiled(BF16) is None


def test_a_library_that_cannot_be_loaded_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str
):
    for file in Path(passes.__file__).parent.glob("passes*"):
        (tmp_path / file.name).write_bytes(b"no library")
    monkeypatch.setattr(passes, "__file__", str(tmp_path / "passes.py"))
    forget()
    assert passes.compiled(BF16) is None
