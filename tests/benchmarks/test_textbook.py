"""The textbook loop does the same as mrbridge: same networks, losses and numbers of operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.speed import material, textbook, train_step
from torch import nn

from mrbridge.networks.build import build_critic, build_generator, count_parameters
from mrbridge.networks.settings import PatchGANSettings, UNetSettings
from mrbridge.training.settings import PRESETS, resolve

CPU = torch.device("cpu")


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Numbers by order, which both networks share."""
    for given, taken in zip(source.parameters(), target.parameters(), strict=True):
        assert given.shape == taken.shape
        taken.data.copy_(given.data)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_parameter_counts_are_those_of_the_preset(preset: str) -> None:
    networks = PRESETS[preset].networks
    counts = networks.describe()
    assert isinstance(networks.critic, PatchGANSettings)
    with torch.device("meta"):
        generator = textbook.generator(networks.generator, networks.image_size)
        critic = textbook.critic(networks.critic.features, networks.critic.strided)
    assert count_parameters(generator) == counts["generator"]
    assert count_parameters(critic) == counts["critic"]
    if preset == "unet":
        assert (counts["generator"], counts["critic"]) == (54_408_833, 2_763_521)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_networks_give_the_same_images(preset: str) -> None:
    networks = material.settings_of(preset, 32, quick=True).networks
    assert isinstance(networks.critic, PatchGANSettings)
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, 32, 32, generator=rng).clamp(-1, 1)
    pairs = (
        (
            build_generator(networks.generator, 32, rng),
            textbook.generator(networks.generator, 32),
        ),
        (
            build_critic(networks.critic, rng),
            textbook.critic(networks.critic.features, networks.critic.strided),
        ),
    )
    for ours, theirs in pairs:
        copy_parameters(ours, theirs)
        with torch.no_grad():
            # Float32 on both sides; they add in another order.
            torch.testing.assert_close(
                ours.eval()(images), theirs.eval()(images), atol=2e-4, rtol=2e-4
            )


@pytest.mark.parametrize("with_pairs", [False, True], ids=["unpaired", "pairs"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_has_the_same_losses_and_the_same_result(preset: str, with_pairs: bool) -> None:
    settings = material.settings_of(preset, 32, quick=True, precision="float32")
    if isinstance(settings.networks.generator, UNetSettings):
        settings = settings.changed({"networks": {"generator": {"dropout": 0.0}}})
    loop = textbook.TextbookCycleGAN(settings, CPU)
    step, model = train_step.mrbridge_step(settings, CPU)
    names = ["to_target", "to_source"]
    if settings.adversarial_weight:
        names += ["source_critic", "target_critic"]
    for name in names:
        copy_parameters(getattr(model, name), getattr(loop, name))
    if settings.back_translation_weight:
        copy_parameters(model.ema_to_target, loop.mean_to_target)
        copy_parameters(model.ema_to_source, loop.mean_to_source)
    for sample in material.samples(settings, 2, 0, CPU):
        if with_pairs:
            source, target = sample.source, sample.target
            sample = sample._replace(paired=torch.cat([source.flip(2), target.flip(3)], 1))
        torch.manual_seed(settings.seed * 1_000_003 + loop.steps)  # as ours does by itself
        theirs = loop.step(sample)
        ours = step(sample)
        assert ("source_critic" in ours) == ("source_critic" in theirs) == (preset != "bridge")
        for key, value in theirs.items():
            assert float(ours[key]) == pytest.approx(float(value), rel=2e-3), key


@pytest.mark.parametrize("name", ["source_critic", "to_target"])
def test_a_step_changes_all_networks(name: str) -> None:
    settings = material.settings_of("resunet", 32, quick=True)
    loop = textbook.TextbookCycleGAN(settings, CPU, bfloat16=True)
    before = [parameter.clone() for parameter in getattr(loop, name).parameters()]
    loop.step(material.samples(settings, 1, 0, CPU)[0])
    after = list(getattr(loop, name).parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_operations_of_one_convolution_are_known_by_hand() -> None:
    # One level: a strided 4x4 convolution to 4 features and its mirror, 16x16 pixels.
    settings = UNetSettings(levels=1, features=4, max_features=4)
    down = up = 8 * 8 * 4 * 4 * 4 * 2
    assert textbook.forward_operations(settings, 16, 16, 16) == down + up


def test_operations_of_the_unet_step_are_those_that_are_needed() -> None:
    settings = resolve({"preset": "unet"})
    networks = settings.networks
    forward = textbook.forward_operations(networks.generator, 256, 256, 256)
    assert forward == pytest.approx(11.9e9, rel=0.01)
    # Layers of the critic: (logit rows, in, out); 4x4 kernels.
    shapes = ((128, 1, 64), (64, 64, 128), (32, 128, 256), (31, 256, 512), (30, 512, 1))
    layers = [rows * rows * given * made * 16 * 2 for rows, given, made in shapes]
    critic, first = sum(layers), layers[0]
    first_of_generator = 128 * 128 * 64 * 16 * 2
    innermost = 512 * 512 * 16 * 2  # to the 1x1 map, whose norm lets no gradient through
    # Six generator passes with both gradients, four of them on input images, which need none; two
    # passes of frozen critics with the image's gradient; four of critics on images that need none.
    wanted = 6 * 3 * forward - 4 * first_of_generator - 6 * 2 * innermost
    wanted += 2 * 2 * critic + 4 * (3 * critic - first)
    assert textbook.step_operations(settings) == wanted
    assert textbook.step_operations(settings, batch=2) == 2 * wanted


def test_operations_of_the_bridge_step_are_those_that_are_needed() -> None:
    settings = resolve({"preset": "bridge"})
    forward = textbook.forward_operations(settings.networks.generator, 256, 256, 256)
    first_of_generator = 128 * 128 * 32 * 16 * 2
    # Two generators: a question without gradients, and two answers with both gradients, but for the
    # given images. No critics, no translations besides.
    wanted = 2 * (forward + 2 * (3 * forward - first_of_generator))
    assert textbook.step_operations(settings) == wanted


def test_the_pool_gives_back_what_it_was_given() -> None:
    pool = textbook.Pool(3, seed=0)
    given: list[Any] = [torch.full((1, 1, 2, 2), float(n)) for n in range(40)]
    taken = [pool.query(image) for image in given]
    assert [float(one.mean()) for one in taken[:3]] == [0, 1, 2]
    ages = [n - int(one.mean()) for n, one in enumerate(taken)]
    assert min(ages) == 0
    assert max(ages) > 0
    assert len(pool.images) == 3
