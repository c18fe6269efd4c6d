"""Compiled passes compute what PyTorch's operations do, which stand in where there are none."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.networks.test_schemes import CASES, FEATURES
from torch import Tensor, nn
from torch.nn import functional

from mrbridge.networks import passes
from mrbridge.networks.compiled_schemes import compiled_scheme
from mrbridge.networks.convolution import Convolution, DoublingConvolution, HalvingConvolution
from mrbridge.networks.norm import InstanceNorm

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


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_maps_are_those_of_the_scheme(case, dtype: torch.dtype, processor: str):
    scheme, kernel, image_size, result_size, _ = case
    compiled = compiled_scheme(scheme, dtype)
    assert compiled != scheme
    size = (*result_size, FEATURES)
    image, weight = draw(*image_size, dtype=dtype), draw(kernel, kernel, image_size[-1], FEATURES)
    expanded, packed = scheme.expand(image.float()), scheme.pack(weight, torch.float32)
    close(compiled.expand(image), expanded, dtype)
    close(compiled.pack(weight, dtype), packed, dtype)

    other = draw(*packed.shape, seed=1, dtype=dtype)
    torch.testing.assert_close(compiled.unpack(other), scheme.unpack(other.float()))
    products = draw(*torch.bmm(expanded, packed).shape, seed=2, dtype=dtype)
    close(compiled.collect(products, size), scheme.collect(products.float(), size), dtype)
    result = draw(*size, seed=3, dtype=dtype)
    close(compiled.spread(result), scheme.spread(result.float()), dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_the_image_comes_back_together(case, processor: str):
    scheme, _, image_size, _, _ = case
    compiled = compiled_scheme(scheme, torch.float32)
    expanded = draw(*scheme.expand(torch.zeros(image_size)).shape)
    wanted = scheme.contract(expanded, image_size)
    torch.testing.assert_close(compiled.contract(expanded, image_size), wanted)
    made = compiled_scheme(scheme, BF16).contract(expanded.to(BF16), image_size)
    assert (made.float() - wanted).norm() < 0.006 * wanted.norm()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_an_image_may_be_a_part_of_a_wider_one(case, processor: str):
    scheme, _, image_size, result_size, _ = case
    compiled = compiled_scheme(scheme, torch.float32)
    image = draw(*image_size[:3], image_size[3] + 5)[..., 2:-3]
    assert torch.equal(compiled.expand(image), compiled.expand(image.contiguous()))
    result = draw(*result_size, FEATURES + 5)[..., 2:-3]
    assert torch.equal(compiled.spread(result), compiled.spread(result.contiguous()))


@pytest.mark.parametrize("make", [
    lambda: HalvingConvolution(64, 128), lambda: HalvingConvolution(5, 4, bias=True),
    lambda: DoublingConvolution(64, 128), lambda: DoublingConvolution(64, 1, bias=True),
    lambda: Convolution(64, 65, 4), lambda: Convolution(64, 65, 3),
    lambda: Convolution(64, 65, 3, padding="reflect"),
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
        assert error < (1e-6 if dtype == torch.float32 else 0.01)


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
    assert all(compiled_scheme(scheme, BF16) == scheme for scheme, *_ in CASES)
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
