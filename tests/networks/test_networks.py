"""Generators and critics: sizes, counts, and what they refuse."""

import subprocess
import sys

import pytest
import torch

from mrbridge.errors import SizeError
from mrbridge.kernels import library
from mrbridge.networks.build import build_critic, build_generator, count_parameters
from mrbridge.networks.settings import (
    PatchGANSettings,
    ResNetSettings,
    ResUNetSettings,
    UNetSettings,
)

SMALL = [
    UNetSettings(levels=4, features=4, max_features=16),
    UNetSettings(levels=3, features=4, max_features=16, refine=4),
    ResUNetSettings(levels=2, features=4, max_features=8, blocks=2),
    ResNetSettings(features=4, blocks=1),
    ResNetSettings(features=4, blocks=1, padding="zeros", norm="batch"),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_unet_has_the_parameters_of_the_original_projects():
    generator = count_parameters(build_generator(UNetSettings(), 256))
    critic = count_parameters(build_critic(PatchGANSettings()))
    assert generator == 54_408_833
    assert critic == 2_763_521
    assert 2 * (generator + critic) == 114_344_708


def test_unet_reaches_one_pixel_of_512_channels():
    network = build_generator(UNetSettings(), 256)
    shapes = []
    network.down[-1].register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        network(torch.zeros(1, 1, 256, 256))
    assert shapes == [(1, 512, 1, 1)]


def test_patchgan_judges_256_pixels_by_30_times_30_logits():
    critic = build_critic(PatchGANSettings(), rng())
    logits = critic(torch.zeros(1, 1, 256, 256))
    assert logits.shape == (1, 1, 30, 30)
    assert critic.settings.logits_size(256, 256) == (30, 30)
    wide = critic(torch.randn(1, 1, 64, 64) * 100)
    assert wide.min() < -1 or wide.max() > 1  # no activation squeezes the logits


def test_a_logit_of_the_patchgan_sees_70_pixels():
    critic = build_critic(PatchGANSettings(features=2, norm="none"), rng())
    image = torch.zeros(1, 1, 256, 256, requires_grad=True)
    critic(image)[0, 0, 15, 15].backward()
    seen = torch.nonzero(image.grad[0, 0])
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


@pytest.mark.parametrize("size", [(64, 64), (181, 217), (40, 56)])
def test_logits_size_tells_what_forward_gives(size):
    critic = build_critic(PatchGANSettings(features=2))
    assert critic.settings.logits_size(*size) == tuple(critic(torch.zeros(1, 1, *size)).shape[2:])


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_generators_keep_shape_and_range_and_train(settings):
    network = build_generator(settings, 32, rng())
    image = torch.randn(2, 1, 32, 48).clamp(-1, 1)
    made = network(image)
    assert made.shape == image.shape
    assert made.dtype == torch.float32
    assert made.abs().max() <= 1
    made.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("settings", SMALL[:4], ids=str)
def test_a_faint_contrast_survives_bfloat16_where_an_image_is_kept(settings):
    network = build_generator(settings, 64, rng()).eval()
    faint = 0.9 + 0.01 * torch.rand(2, 1, 64, 64, generator=rng(1))
    with torch.no_grad():
        exact = network(faint)
        with torch.autocast("cpu", torch.bfloat16):
            as_in_training = network(faint)
            with torch.inference_mode():
                kept = network(faint)
    assert (kept - exact).square().mean() < 0.5 * (as_in_training - exact).square().mean()
    assert (kept - exact).abs().max() < 0.02


@pytest.mark.parametrize("settings", [SMALL[0], SMALL[2]], ids=str)
def test_what_the_last_layer_makes_is_not_rounded_where_it_is_kept(settings):
    network = build_generator(settings, 64, rng()).eval()
    image = torch.rand(1, 1, 64, 64, generator=rng(1))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        levels = network(image).unique()
    assert len(levels) > 0.8 * image.numel(), "bfloat16 has some hundred"


@pytest.mark.parametrize("settings", SMALL[:4], ids=str)
def test_images_of_a_batch_do_not_touch_each_other(settings):
    network = build_generator(settings, 32, rng()).eval()
    images = torch.randn(2, 1, 32, 32).clamp(-1, 1)
    with torch.no_grad():
        together, single = network(images), network(images[:1])
    torch.testing.assert_close(together[:1], single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", SMALL[:4], ids=str)
def test_a_seed_fixes_the_weights(settings):
    one, same = (build_generator(settings, 32, rng(3)).state_dict() for _ in range(2))
    other = build_generator(settings, 32, rng(4)).state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("settings", SMALL[1:4], ids=str)
def test_a_seed_fixes_the_weights_with_and_without_kernels(settings, monkeypatch):
    one = build_generator(settings, 32, rng(3)).state_dict()
    monkeypatch.setattr(library, "_library", lambda: None)
    other = build_generator(settings, 32, rng(3)).state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("settings", "bad", "multiple"),
    [(UNetSettings(), 128, 256), (ResNetSettings(features=4), 130, 4), (ResUNetSettings(), 132, 8)],
    ids=["unet", "resnet", "resunet"],
)
def test_wrong_sizes_are_refused_with_the_multiple(settings, bad, multiple):
    with pytest.raises(SizeError, match=rf"{bad}x{bad}.*multiples of {multiple}"):
        build_generator(settings, 256)(torch.zeros(1, 1, bad, bad))


def test_too_small_an_image_is_refused_by_the_critic():
    with pytest.raises(SizeError, match="16x16"):
        build_critic(PatchGANSettings(features=2))(torch.zeros(1, 1, 16, 16))
    assert build_critic(PatchGANSettings(features=2))(torch.zeros(1, 1, 24, 24)).numel() == 1


@pytest.mark.parametrize(("size", "blocks"), [(128, 6), (256, 9)])
def test_resnet_takes_six_blocks_up_to_128_pixels_and_nine_above(size, blocks):
    network = build_generator(ResNetSettings(features=2), size)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds.count("_ResidualBlock") == blocks


def test_resunet_concatenates_residuals():
    settings = ResUNetSettings(levels=1, features=4, max_features=4, blocks=1, norm="none")
    block = build_generator(settings, 32, rng()).residual[0]
    x = torch.randn(1, 4, 5, 5)
    out = block(x)
    assert out.shape == (1, 8, 5, 5)
    assert torch.equal(out[:, 4:], x)


def test_refining_layers_see_the_input_at_full_size():
    settings = UNetSettings(levels=2, features=4, max_features=4, refine=4)
    network = build_generator(settings, 32, rng()).eval()
    with torch.no_grad():
        network.last.weight.zero_()  # nothing of the decoder is left
        network.last.bias.zero_()
        spot = torch.zeros(1, 1, 32, 32)
        spot[0, 0, 16, 16] = 1
        change = (network(spot) - network(torch.zeros_like(spot))).abs()[0, 0]
    reached = torch.nonzero(change > 1e-7)
    assert reached.min() >= 14
    assert reached.max() <= 18


def test_settings_do_not_need_pytorch():
    code = (
        "import sys; from mrbridge.networks.settings import UNetSettings; "
        "UNetSettings(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
