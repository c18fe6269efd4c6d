"""Losses against values worked out by hand from their formulas."""

import math

import pytest
import torch

from mrbridge.training import losses

REAL, FAKE = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 0.5])


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # half of mean(-log D(real)) + mean(-log(1 - D(fake)))
        (
            "bce",
            0.5
            * (
                (-math.log(logistic(0)) - math.log(logistic(2))) / 2
                + (-math.log(1 - logistic(-1)) - math.log(1 - logistic(0.5))) / 2
            ),
        ),
        # half of mean((0-1)^2, (2-1)^2) = 1 and mean(1, 0.25) = 0.625
        ("least_squares", 0.8125),
        # half of mean(max(0, 1), max(0, -1)) = 0.5 and mean(max(0, 0), max(0, 1.5)) = 0.75
        ("hinge", 0.625),
    ],
)
def test_critic_loss(kind, expected):
    assert losses.critic_loss(REAL, FAKE, kind).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bce", (-math.log(logistic(-1)) - math.log(logistic(0.5))) / 2),
        ("least_squares", (4 + 0.25) / 2),
        ("hinge", 0.25),
    ],
)
def test_generator_loss(kind, expected):
    assert losses.generator_loss(FAKE, kind).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["bce", "least_squares", "hinge"])
def test_adversaries_want_opposite_things(kind):
    low, high = torch.tensor([-0.5]), torch.tensor([0.9])
    assert losses.generator_loss(high, kind) < losses.generator_loss(low, kind)
    assert losses.critic_loss(high, low, kind) < losses.critic_loss(low, high, kind)


def test_bce_does_not_overflow():
    far = torch.tensor([1000.0])
    assert losses.generator_loss(-far, "bce").item() == pytest.approx(1000)
    assert losses.critic_loss(-far, far, "bce").item() == pytest.approx(1000)


def test_losses_are_float32_of_half_precision_logits():
    logits = torch.tensor([0.1], dtype=torch.bfloat16)
    for kind in ("bce", "least_squares", "hinge"):
        assert losses.generator_loss(logits, kind).dtype == torch.float32


def test_the_loss_of_cycles_and_pairs_is_the_mean_absolute_difference():
    image, other = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]])
    assert losses.l1_loss(image, other).item() == 1.0
    assert losses.l1_loss(image, image).item() == 0.0
