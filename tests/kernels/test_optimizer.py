"""Adam is PyTorch's, whatever the gradients' dtype and memory order, with and without kernels."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from mrbridge.errors import InputError
from mrbridge.kernels import library
from mrbridge.kernels.optimizer import Adam

RATE, BETAS = 2e-3, (0.5, 0.999)


@pytest.fixture(params=["kernels", "pytorch"])
def any_machine(request: pytest.FixtureRequest) -> None:
    """A machine with kernels and one without."""
    if request.param == "pytorch":
        request.getfixturevalue("without_kernels")


def parameters() -> list[nn.Parameter]:
    """Weights of convolutions in both memory orders, vectors, and one channel."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 3, 4, 4, generator=rng)
    return [nn.Parameter(torch.randn(size, generator=rng)) for size in (1, 37, 9000)] + [
        nn.Parameter(weight.clone()),
        nn.Parameter(weight.to(memory_format=torch.channels_last)),
        nn.Parameter(weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)),
        nn.Parameter(weight[:, :1].to(memory_format=torch.channels_last)),
    ]


def gradient_of(parameter: Tensor, seed: int) -> Tensor:
    return torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_are_pytorchs(dtype: torch.dtype, any_machine: None) -> None:
    ours, theirs = parameters(), parameters()
    one, other = Adam(ours, RATE, BETAS), torch.optim.Adam(theirs, RATE, BETAS)
    for number in range(5):
        for seed, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = gradient_of(a, 100 * number + seed).to(dtype)
            a.grad, b.grad = gradient.clone(), gradient.float()
        for group in (*one.param_groups, *other.param_groups):
            group["lr"] = RATE / (1 + number)
        one.step()
        other.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride_of_one", [1, 16])
def test_the_stride_of_a_single_channel_does_not_matter(
    stride_of_one: int, any_machine: None
) -> None:
    weight = torch.randn(8, 1, 4, 4)
    parameter = nn.Parameter(weight.to(memory_format=torch.channels_last))
    reference = nn.Parameter(weight.clone())
    gradient = torch.randn(8, 1, 4, 4).as_strided((8, 1, 4, 4), (16, stride_of_one, 4, 1))
    parameter.grad, reference.grad = gradient, gradient.clone()
    Adam([parameter], RATE, BETAS).step()
    torch.optim.Adam([reference], RATE, BETAS).step()
    torch.testing.assert_close(parameter, reference)


def test_a_parameter_without_a_gradient_stays(any_machine: None) -> None:
    moved, kept = parameters()[1:3]
    before = kept.detach().clone()
    optimizer = Adam([moved, kept], RATE, BETAS)
    moved.grad = torch.ones_like(moved)
    optimizer.step()
    assert torch.equal(kept, before)
    assert set(optimizer.state) == {moved}


def test_the_closure_is_called(any_machine: None) -> None:
    parameter = parameters()[0]
    parameter.grad = torch.ones_like(parameter)
    assert Adam([parameter], RATE, BETAS).step(lambda: 7) == 7


@pytest.mark.parametrize("first", [True, False], ids=["from kernels", "from pytorch"])
def test_a_state_continues_on_any_machine(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(weights: list[nn.Parameter], with_kernels: list[bool]) -> None:
        state = None
        for has_kernels in with_kernels:
            with monkeypatch.context() as patched:
                if not has_kernels:
                    patched.setattr(library, "_library", lambda: None)
                optimizer = Adam(weights, RATE, BETAS)
                if state is not None:
                    optimizer.load_state_dict(state)
                for weight in weights:
                    weight.grad = gradient_of(weight, 1)
                optimizer.step()
                state = copy.deepcopy(optimizer.state_dict())
                # As on a device with another memory order.
                for values in state["state"].values():
                    values["exp_avg"] = values["exp_avg"].contiguous()

    mixed, plain = parameters(), parameters()
    steps(mixed, [first, not first, first])
    steps(plain, [False, False, False])
    for a, b in zip(mixed, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_a_state_of_other_shapes_is_refused(any_machine: None) -> None:
    parameter = parameters()[3]
    optimizer = Adam([parameter], RATE, BETAS)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].permute(2, 3, 1, 0)
    with pytest.raises(InputError, match="another version"):
        optimizer.load_state_dict(state)


def test_pytorch_s_compiler_is_not_imported() -> None:
    """It takes a second, and only compiled networks need it."""
    code = (
        "import sys, torch; from mrbridge.kernels.optimizer import Adam\n"
        "layer = torch.nn.Linear(2, 2)\n"
        "for _ in range(2):\n"
        "    optimizer = Adam(layer.parameters(), 0.1, (0.5, 0.9))\n"
        "    layer(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step(); optimizer.zero_grad()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
