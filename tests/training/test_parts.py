"""The pool, the average, the schedule, and what one step may touch."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mrbridge.dataset.sampling import Sample
from mrbridge.training.ema import averaged_copy, interpolated, update_ema
from mrbridge.training.examples import back_translation, translate_together
from mrbridge.training.losses import ImagePool
from mrbridge.training.model import TranslationModel, rate_share

NOTHING: dict[str, Any] = {
    "adversarial_weight": 0.0,
    "cycle_weight": 0.0,
    "identity_weight": 0.0,
    "back_translation_weight": 0.0,
    "simulated_weight": 0.0,
}


def numbered(*numbers: int) -> torch.Tensor:
    """Images of one pixel."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None, None]


class TestPool:
    def test_the_first_images_are_returned(self) -> None:
        pool = ImagePool(5, 0)
        for n in range(0, 4, 2):
            assert torch.equal(pool.exchange(numbered(n, n + 1)), numbered(n, n + 1))
        assert torch.equal(pool.exchange(numbered(4)), numbered(4))
        assert len(pool.images) == 5

    def test_then_about_half_are_exchanged_for_past_ones(self) -> None:
        pool = ImagePool(10, 0)
        pool.exchange(numbered(*range(10)))
        given = [int(pool.exchange(numbered(n)).item()) for n in range(10, 1010)]
        swapped = [(n, old) for n, old in enumerate(given, start=10) if n != old]
        # Five standard deviations of a binomial of 1000 throws.
        assert abs(len(swapped) - 500) < 5 * np.sqrt(250)
        assert all(old < n for n, old in swapped)
        olds = [old for _, old in swapped]
        assert len(set(olds)) == len(olds), "what was given away is no longer in the pool"

    def test_the_pool_keeps_copies(self) -> None:
        pool = ImagePool(1, 0)
        images = numbered(3)
        pool.exchange(images)
        images.fill_(9)
        assert pool.images[0].item() == 3

    def test_its_state_round_trips(self) -> None:
        one = ImagePool(4, 0)
        one.exchange(numbered(*range(9)))
        other = ImagePool(4, 77)
        other.load_state_dict(one.state_dict(), torch.device("cpu"))
        later = numbered(*range(9, 60))
        assert torch.equal(one.exchange(later), other.exchange(later))

    def test_it_is_seeded_and_does_not_touch_the_global_state(self) -> None:
        images = numbered(*range(100))
        state = torch.get_rng_state()
        first, again, other = (ImagePool(4, seed).exchange(images) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_a_pool_of_size_zero_returns_its_input(self) -> None:
        pool = ImagePool(0, 0)
        for n in range(20):
            assert pool.exchange(numbered(n)).item() == n


class TestAverage:
    def test_the_formula(self) -> None:
        network, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, 1.0)
        nn.init.constant_(average.weight, 0.0)
        # Decay min(0.9, 2/11) after step 1: 0 * 2/11 + 1 * 9/11.
        update_ema(average, network, 0.9, step=1)
        assert average.weight.item() == pytest.approx(9 / 11)
        # Decay min(0.1, 41/50) = 0.1: 9/11 * 0.1 + 3 * 0.9.
        nn.init.constant_(network.weight, 3.0)
        update_ema(average, network, 0.1, step=40)
        assert average.weight.item() == pytest.approx(0.1 * 9 / 11 + 2.7)

    def test_later_it_is_updated_every_fourth_step_with_four_decays(self) -> None:
        network, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(network.weight, 1.0)
        nn.init.constant_(average.weight, 0.0)
        for step in (41, 42, 43):
            update_ema(average, network, 0.9, step)
            assert average.weight.item() == 0
        update_ema(average, network, 0.9, 44)
        decays = (42 / 51, 43 / 52, 44 / 53, 45 / 54)
        assert average.weight.item() == pytest.approx(1 - math.prod(decays))

    def test_no_decay_is_a_copy(self) -> None:
        network, average = nn.Linear(3, 3), nn.Linear(3, 3)
        update_ema(average, network, 0.0, 52)
        assert torch.equal(average.weight, network.weight)

    def test_buffers_are_copied_and_nothing_learns(self) -> None:
        network = nn.BatchNorm2d(2)
        average = averaged_copy(network)
        network(torch.randn(4, 2, 3, 3))
        update_ema(average, network, 0.999, 1)
        assert torch.equal(average.running_mean, network.running_mean)
        assert not average.training
        assert not any(p.requires_grad for p in average.parameters())

    def test_between_two_networks_each_has_its_share(self) -> None:
        first, last = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        last(torch.randn(4, 2, 3, 3))  # statistics, and a count, of its own
        nn.init.constant_(last.weight, 5.0)
        made = interpolated(first, last, 0.25)
        assert made.weight.tolist() == [4.0, 4.0]
        torch.testing.assert_close(
            made.running_mean, 0.25 * first.running_mean + 0.75 * last.running_mean
        )
        assert made.num_batches_tracked == last.num_batches_tracked
        assert first.weight.tolist() == [1.0, 1.0]
        assert not made.training
        for share, same in ((0.0, last), (1.0, first)):
            assert torch.equal(interpolated(first, last, share).weight, same.weight)


class TestSchedule:
    def test_constant_then_linearly_to_zero(self) -> None:
        assert [rate_share(p, 0.5) for p in (0, 0.2, 0.5)] == [1, 1, 1]
        assert rate_share(0.75, 0.5) == pytest.approx(0.5)
        assert rate_share(0.9, 0.5) == pytest.approx(0.2)
        assert rate_share(1.0, 0.5) == 0
        assert rate_share(0.25, 0.0) == pytest.approx(0.75)

    def test_one_keeps_it_constant(self) -> None:
        assert [rate_share(p, 1.0) for p in (0, 0.5, 1)] == [1, 1, 1]


@pytest.fixture
def wired(tiny: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """A model with its optimisers, outside of a run, and one batch."""

    def make(**changes: Any) -> SimpleNamespace:
        every = {
            "adversarial_weight": 1.0,
            "cycle_weight": 10.0,
            "identity_weight": 5.0,
            "back_translation_weight": 1.0,
            "simulated_weight": 1.0,
            "warm_up": 0.0,
        }
        model = TranslationModel(tiny("bridge", **{**every, **changes}))
        model.to_device(torch.device("cpu"))
        rng = torch.Generator().manual_seed(1)
        source, target = (torch.rand((2, 1, 32, 32), generator=rng) * 2 - 1 for _ in range(2))
        turned = [source.flip(0), target.flip(0)]
        group = torch.cat([turned[0], turned[0], turned[1], turned[1]], dim=1)
        batch = Sample(source, target, group, torch.cat([source, target], dim=1))
        return SimpleNamespace(model=model, optimizers=model.optimizers, batch=batch)

    return make


def weights(*networks: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for network in networks for p in network.parameters()]


class TestStep:
    def test_each_half_changes_its_own_networks_only(
        self, wired: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        it = wired()
        model = it.model
        generators = (model.to_target, model.to_source)
        critics = (model.source_critic, model.target_critic)
        seen: dict[str, Any] = {}

        def watched(name: str, optimizer: Any, networks: Any, others: Any) -> None:
            original = optimizer.step

            def step() -> None:
                seen[f"{name} has gradients"] = [p.grad for n in networks for p in n.parameters()]
                if name == "generators":  # before any critic step: nothing may have flowed there
                    seen["critics' gradients"] = [p.grad for n in others for p in n.parameters()]
                else:
                    seen["generators' gradients"] = [p.grad for n in others for p in n.parameters()]
                before, theirs = weights(*networks), weights(*others)
                original()
                after = weights(*networks)
                seen[name] = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
                seen[f"{name} left the others"] = all(
                    torch.equal(a, b) for a, b in zip(theirs, weights(*others), strict=True)
                )

            monkeypatch.setattr(optimizer, "step", step)

        watched("generators", it.optimizers[0], generators, critics)
        watched("critics", it.optimizers[1], critics, generators)
        model.training_step(it.batch, 0.0)
        for others in ("critics' gradients", "generators' gradients"):
            assert seen[others] == [None] * len(seen[others]), "a loss reached the other networks"
        for name in ("generators", "critics"):
            assert seen[name]
            assert seen[f"{name} left the others"]
            assert all(grad is not None for grad in seen[f"{name} has gradients"])

    def test_the_learning_rate_reaches_the_optimisers(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        it = wired(learning_rate=1e-3, critic_rate=0.5, decay_from=0.5)
        it.model.training_step(it.batch, 0.875)  # a quarter of the way left from 0.5 on
        assert it.model.learning_rate == pytest.approx(2.5e-4)
        rates = [group["lr"] for o in it.optimizers for group in o.param_groups]
        assert rates == pytest.approx([2.5e-4, 1.25e-4])
        before = weights(it.model.to_target, it.model.source_critic)
        it.model.training_step(it.batch, 1.0)
        after = weights(it.model.to_target, it.model.source_critic)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    def test_the_generators_learn_to_reconstruct(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        it = wired(learning_rate=5e-3, **{**NOTHING, "cycle_weight": 10.0, "paired_weight": 0.0})
        result = [it.model.training_step(it.batch, 0.0)["cycle"].item() for n in range(40)]
        assert np.mean(result[-5:]) < 0.8 * result[0]

    @pytest.mark.parametrize("loss", ["back_translation", "simulated", "paired"])
    def test_the_generators_learn_each_example(
        self, loss: str, wired: Callable[..., SimpleNamespace]
    ) -> None:
        it = wired(learning_rate=5e-3, **{**NOTHING, "paired_weight": 0.0, f"{loss}_weight": 1.0})
        result = [it.model.training_step(it.batch, 0.0)[loss].item() for n in range(40)]
        assert np.mean(result[-5:]) < 0.8 * result[0]

    def test_the_total_is_the_weighted_sum(self, wired: Callable[..., SimpleNamespace]) -> None:
        it = wired(
            cycle_weight=7.0,
            identity_weight=3.0,
            simulated_weight=2.0,
            adversarial_weight=0.6,
            back_translation_weight=4.0,
            paired_weight=9.0,
            warm_up=0.6,
        )
        result = it.model.training_step(it.batch, 0.3)  # halfway through the warm-up
        parts = {
            "adversarial": 0.3,
            "cycle": 3.5,
            "identity": 1.5,
            "back_translation": 2.0,
            "simulated": 2.0,
            "paired": 9.0,
        }
        expected = sum(weight * result[name].item() for name, weight in parts.items())
        assert result["generators"].item() == pytest.approx(expected, rel=1e-5)

    def test_losses_without_weight_are_not_computed(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        nothing = torch.empty(2, 0, 32, 32)
        batch = wired().batch._replace(simulated=nothing, paired=nothing)
        model = wired(identity_weight=0.0, back_translation_weight=0.0).model
        assert set(model.generator_losses(batch, model.weights.at(0.0))[0]) == {
            "generators",
            "adversarial",
            "cycle",
        }
        model = wired(**{**NOTHING, "back_translation_weight": 1.0}).model
        result, translations = model.generator_losses(batch, model.weights.at(0.0))
        assert set(result) == {"generators", "back_translation"}
        assert translations == [], "no loss needs them"

    @pytest.mark.parametrize("loss", ["back_translation", "cycle"])
    def test_critics_are_built_only_if_their_loss_has_a_weight(
        self, loss: str, wired: Callable[..., SimpleNamespace]
    ) -> None:
        it = wired(**{**NOTHING, f"{loss}_weight": 1.0})
        result = it.model.training_step(it.batch, 0.0)
        assert {"source_critic", "adversarial"}.isdisjoint(result)
        assert len(it.optimizers) == 1
        assert not any("critic" in name for name in it.model.state_dict())

    def test_generators_start_the_same_without_critics(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        played, not_played = (wired(adversarial_weight=weight).model for weight in (1.0, 0.0))
        for name in ("to_target", "to_source"):
            one, other = (weights(getattr(model, name)) for model in (played, not_played))
            assert all(map(torch.equal, one, other))

    def test_each_direction_translates_one_contrast_into_the_other(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        """Every example, result by images whose level names them."""
        model = wired(adversarial_weight=0.0, cycle_weight=0.0).model
        level = lambda *values: torch.tensor(values)[None, :, None, None].expand(  # noqa: E731
            1, len(values), 32, 32
        )
        batch = Sample(level(0.1), level(0.2), level(0.3, 0.4, 0.5, 0.6), level(0.7, 0.8))
        expected = {
            0: {"identity": (0.2, 0.2), "simulated": (0.3, 0.6), "paired": (0.7, 0.8)},
            1: {"identity": (0.1, 0.1), "simulated": (0.5, 0.4), "paired": (0.8, 0.7)},
        }
        for direction, wanted in expected.items():
            examples = {
                example.loss: example
                for example in model.examples(batch, direction, model.weights.at(1.0))
            }
            back = examples.pop("back_translation")
            assert torch.equal(back.target, batch.target if direction == 0 else batch.source)
            found = {
                name: (example.input.mean().item(), example.target.mean().item())
                for name, example in examples.items()
            }
            assert set(found) == set(wanted)
            for name, pair in wanted.items():
                assert found[name] == pytest.approx(pair, abs=1e-5)

    def test_targets_of_simulated_subjects_get_the_intensities_of_the_data(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        it = wired()
        canonical = np.linspace(-1, 1, 4000, dtype=np.float32)
        it.model.intensity_mappings[1].fit(
            canonical, (np.sqrt((canonical + 1) / 2) * 2 - 1).astype(np.float32)
        )
        examples = it.model.examples(it.batch, 0, it.model.weights.at(1.0))
        simulated = next(example for example in examples if example.loss == "simulated")
        expected = ((it.batch.simulated[:, 3:] + 1) / 2).sqrt() * 2 - 1
        torch.testing.assert_close(simulated.target, expected, atol=0.1, rtol=0)

    def test_images_of_one_batch_do_not_mix(self, wired: Callable[..., SimpleNamespace]) -> None:
        model = wired().model.eval()
        images = [wired().batch.source, wired().batch.target, wired().batch.simulated[:, :1]]
        with torch.no_grad():
            together = translate_together(model.to_target, images)
            apart = [model.to_target(image) for image in images]
        for one, other in zip(together, apart, strict=True):
            assert torch.allclose(one, other, atol=1e-5)

    def test_back_translation_gives_no_gradient_to_the_other_generator(
        self, wired: Callable[..., SimpleNamespace]
    ) -> None:
        model = wired().model
        given = back_translation(model.to_source, wired().batch.target)
        assert not given.requires_grad
        assert given.abs().max() <= 1
        torch.manual_seed(3)
        again = back_translation(model.to_source, wired().batch.target)
        assert not torch.equal(given, again), "its looks vary"

    def test_equal_seeds_make_equal_networks(self, tiny: Callable[..., Any]) -> None:
        torch.manual_seed(1)
        one = TranslationModel(tiny("bridge", seed=4))
        torch.manual_seed(2)
        other, third = (
            TranslationModel(tiny("bridge", seed=4)),
            TranslationModel(tiny("bridge", seed=5)),
        )
        assert torch.equal(one.to_target.last.weight, other.to_target.last.weight)
        assert not torch.equal(one.to_target.last.weight, third.to_target.last.weight)
        assert not torch.equal(one.to_target.last.weight, one.to_source.last.weight)
