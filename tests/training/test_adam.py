"""Adam is PyTorch's, whatever the gradients' type and whoever computes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mrbridge.networks import passes
from mrbridge.training.adam import Adam

RATE, BETAS = 2e-3, (0.5, 0.999)


@pytest.fixture(params=["compiled", "pytorch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With compiled passes, where they are there, and without."""
    if request.param == "pytorch":
        monkeypatch.setattr(passes, "_library", lambda: None)
    passes._passes.cache_clear()
    yield
    passes._passes.cache_clear()


def vectors() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    made = [torch.randn(size, generator=rng) for size in (1, 37, 9000)]
    for vector in made:
        vector.grad_dtype = None
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_are_pytorchs(dtype: torch.dtype, way: None) -> None:
    ours, theirs = vectors(), vectors()
    one, other = Adam(ours, RATE, BETAS), torch.optim.Adam(theirs, RATE, BETAS)
    for number in range(5):
        for seed, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            rng = torch.Generator().manual_seed(100 * number + seed)
            gradient = torch.randn(a.shape, generator=rng).to(dtype)
            a.grad, b.grad = gradient.clone(), gradient.float()
        for group in (*one.param_groups, *other.param_groups):
            group["lr"] = RATE / (1 + number)
        one.step()
        other.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_has_no_gradient_stays(way: None) -> None:
    moved, kept = vectors()[1:]
    before = kept.clone()
    optimizer = Adam([moved, kept], RATE, BETAS)
    moved.grad = torch.ones_like(moved)
    optimizer.step()
    assert torch.equal(kept, before)
    assert set(optimizer.state) == {moved}


def test_the_closure_is_called(way: None) -> None:
    (vector, *_) = vectors()
    vector.grad = torch.ones_like(vector)
    assert Adam([vector], RATE, BETAS).step(lambda: 7) == 7


@pytest.mark.parametrize("first", [True, False], ids=["from compiled", "from pytorch"])
def test_either_goes_on_from_the_others_state(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.linspace(-1, 1, 37)

    def steps(vector: Tensor, compiled: list[bool]) -> None:
        state = None
        for has_passes in compiled:
            with monkeypatch.context() as patched:
                if not has_passes:
                    patched.setattr(passes, "_library", lambda: None)
                passes._passes.cache_clear()
                optimizer = Adam([vector], RATE, BETAS)
                if state is not None:
                    optimizer.load_state_dict(state)
                vector.grad = gradient
                optimizer.step()
                state = optimizer.state_dict()
        passes._passes.cache_clear()

    mixed, plain = vectors()[1], vectors()[1]
    steps(mixed, [first, not first, first])
    steps(plain, [False, False, False])
    torch.testing.assert_close(mixed, plain)
