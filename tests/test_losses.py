"""Losses against values worked out by hand from their formulas."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from mrbridge import losses

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


def test_cycle_identity_and_paired_are_mean_absolute_differences():
    image, other = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]])
    assert losses.cycle_loss(image, other).item() == 1.0
    assert losses.identity_loss(image, other).item() == 1.0
    assert losses.paired_loss(image, other).item() == 1.0
    assert losses.cycle_loss(image, image).item() == 0.0


class TestStructure:
    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(0)
        coarse = torch.rand((2, 1, 12, 12), generator=rng) * 1.6 - 0.8
        image = torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bilinear")
        return image, image + 0.1 * torch.randn(image.shape, generator=rng)

    def test_it_is_one_minus_the_ssim_of_the_scores(self) -> None:
        image, noisy = self.images()
        expected = []
        for one, other in zip(image[:, 0].numpy(), noisy[:, 0].numpy(), strict=True):
            told = structural_similarity(
                *(np.pad(x, 5, constant_values=-1) for x in (one, other)),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=2,
                truncate=3.5,
                full=True,
            )[1]
            expected.append(1 - told[5:-5, 5:-5].mean())
        found = losses.structure_loss(noisy, image).item()
        assert found == pytest.approx(np.mean(expected), abs=2e-3)

    def test_it_grows_with_noise_and_is_zero_for_equal_images(self) -> None:
        image, noisy = self.images()
        assert losses.structure_loss(image, image).item() == pytest.approx(0, abs=1e-5)
        assert losses.structure_loss(noisy, image) < losses.structure_loss(2 * noisy - image, image)

    def test_blank_background_does_not_count(self) -> None:
        image, noisy = self.images()
        padded = [torch.nn.functional.pad(x, [20] * 4, value=-1.0) for x in (noisy, image)]
        assert losses.structure_loss(*padded).item() == pytest.approx(
            losses.structure_loss(noisy, image).item(), rel=0.25
        )
        air = torch.full((1, 1, 32, 32), -1.0)
        assert losses.structure_loss(air, air).item() == 0

    def test_it_is_as_exact_where_the_networks_are_not(self) -> None:
        """In half precision the variance of a flat image was lost, and training with it."""
        flat = torch.full((1, 1, 32, 32), 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            told = losses.structure_loss(flat + 0.02, flat)
        assert told.item() == pytest.approx(losses.structure_loss(flat + 0.02, flat).item())
        assert 0 <= told.item() < 0.01
