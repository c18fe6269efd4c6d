"""Weights may lie in any order: the steps are the same, and so are the checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mrbridge.data.sampling import Sample
from mrbridge.errors import InputError
from mrbridge.training import model as model_module
from mrbridge.training.layout import FlatParameters, lay_out
from mrbridge.training.model import TranslationModel

CUDA = torch.device("cuda")


@pytest.fixture
def make(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A model outside of a run: `make(channels_last, state)`; `step()` trains it."""
    settings = tiny("unet", precision="float32", pool_size=2)
    rng = torch.Generator().manual_seed(1)
    images = [torch.rand((1, 1, 32, 32), generator=rng) * 2 - 1 for _ in range(2)]
    batch = Sample(*images, *[torch.empty(1, 0, 32, 32)] * 2)

    def made(channels_last: bool, state: dict[str, Any] | None = None) -> SimpleNamespace:
        model = TranslationModel(settings)
        with monkeypatch.context() as patched:
            if channels_last:  # as on CUDA; the networks compute the same on a CPU
                patched.setattr(
                    model_module, "lay_out", lambda networks, _: lay_out(networks, CUDA)
                )
            model.to_device(torch.device("cpu"))
        if state is not None:
            model.restore(state)
        return SimpleNamespace(model=model, step=lambda: model.training_step(batch, 0.0))

    return made


def weights(it: SimpleNamespace) -> dict[str, torch.Tensor]:
    return dict(it.model.state_dict())


def test_on_cuda_channels_lie_last_and_parameters_stay_the_same_objects(
    make: Callable[..., Any],
) -> None:
    model = make(False).model
    before = dict(model.named_parameters())
    values = {name: value.detach().clone() for name, value in before.items()}
    lay_out(model, torch.device("cpu"))
    assert not before["to_target.last.weight"].is_contiguous(memory_format=torch.channels_last)
    lay_out(model, CUDA)
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert torch.equal(parameter, values[name])
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)


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


@pytest.mark.parametrize("stride_of_one", [1, 16])
def test_vectors_and_gradients_are_in_one_order(stride_of_one: int) -> None:
    # A single input channel: its stride says nothing, and PyTorch's kernels disagree about it.
    parameter = nn.Parameter(torch.randn(8, 1, 4, 4).to(memory_format=torch.channels_last))
    flat = FlatParameters([parameter])
    gradient = torch.randn(8, 1, 4, 4)
    parameter.grad = gradient.as_strided((8, 1, 4, 4), (16, stride_of_one, 4, 1))
    flat.take_gradients()
    (vector,) = flat.vectors
    assert vector.data_ptr() == parameter.data_ptr()
    assert vector.grad is not None
    assert vector.grad.stride() == vector.stride() == (1,)
    with torch.no_grad():
        vector -= vector.grad
    torch.testing.assert_close(parameter.detach() + gradient, parameter.detach() + parameter.grad)
    flat.drop_gradients()
    assert vector.grad is None
    assert parameter.grad is None


def test_gradients_of_another_layout_are_brought_into_order() -> None:
    parameter = nn.Parameter(torch.zeros(3, 2, 4, 4).to(memory_format=torch.channels_last))
    parameter.grad = torch.randn(3, 2, 4, 4)
    flat = FlatParameters([parameter])
    flat.take_gradients()
    with torch.no_grad():
        flat.vectors[0] += flat.vectors[0].grad
    assert torch.equal(parameter, parameter.grad)
