"""Steps and checkpoints do not depend on the memory order of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mrbridge.dataset.sampling import Sample
from mrbridge.errors import InputError
from mrbridge.training.model import TranslationModel


@pytest.fixture
def make(tiny: Callable[..., Any]) -> Callable[..., Any]:
    """A model outside of a run: `make(channels_last, state)`; `step()` trains it."""
    settings = tiny("unet", precision="float32", pool_size=2)
    rng = torch.Generator().manual_seed(1)
    images = [torch.rand((1, 1, 32, 32), generator=rng) * 2 - 1 for _ in range(2)]
    batch = Sample(*images, *[torch.empty(1, 0, 32, 32)] * 2)

    def made(channels_last: bool, state: dict[str, Any] | None = None) -> SimpleNamespace:
        model = TranslationModel(settings)
        if channels_last:  # as on CUDA; the networks compute the same on a CPU
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.to_device(torch.device("cpu"))
        if state is not None:
            model.restore(state)
        return SimpleNamespace(model=model, step=lambda: model.training_step(batch, 0.0))

    return made


def weights(it: SimpleNamespace) -> dict[str, torch.Tensor]:
    return dict(it.model.state_dict())


def test_training_is_the_same_in_both_layouts(make: Callable[..., Any]) -> None:
    plain, last = make(False), make(True)
    for _ in range(3):
        plain.step()
        last.step()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(last)[name], value, msg=name)


@pytest.mark.parametrize("first", [True, False])
def test_a_run_may_change_its_device(first: bool, make: Callable[..., Any]) -> None:
    one = make(first)
    one.step()
    one.step()
    state = copy.deepcopy(one.model.state())  # as if written and read
    other = make(not first, state)
    for it in (one, other):
        it.step()
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, msg=name)
    for kept in state["optimizers"]:
        shapes = [tuple(values["exp_avg"].shape) for values in kept["state"].values()]
        assert any(len(shape) == 4 for shape in shapes)


def test_a_checkpoint_of_other_shapes_is_refused(make: Callable[..., Any]) -> None:
    one = make(False)
    one.step()
    state = copy.deepcopy(one.model.state())  # as if written and read
    moments = state["optimizers"][0]["state"][0]
    moments["exp_avg"] = moments["exp_avg"].permute(2, 3, 1, 0)
    with pytest.raises(InputError, match="another version"):
        make(False, state)
