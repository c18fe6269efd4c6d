"""The networks of the presets and their training as a textbook writes them: the yardstick.

Plain layers of PyTorch, one call a loss, Adam as it comes; averaged weights only where a loss asks
for them. Nothing here is shared with mrbridge but the settings, so that the two can be compared;
tests show that they hold the same parameters, give the same images and the same losses.

U-Net and PatchGAN: Isola et al. 2017 (arXiv:1611.07004). ResNet and the loop: Zhu et al. 2017
(arXiv:1703.10593). SSIM: Wang et al. 2004 (doi:10.1109/TIP.2003.819861). Only what the presets use:
instance norm with scale and offset.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from copy import deepcopy
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from mrbridge.dataset.sampling import Sample
from mrbridge.networks.settings import (
    GeneratorSettings,
    PatchGANSettings,
    ResNetSettings,
    ResUNetSettings,
    UNetSettings,
)
from mrbridge.training.settings import TrainSettings

Padding = Literal["reflect", "zeros"]


class Norm(nn.Module):
    """`nn.InstanceNorm2d`, which refuses a 1x1 map: there only the offset remains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels, rows, columns)."""
        if x.shape[-2:] == (1, 1):
            return self.norm.bias[None, :, None, None].expand_as(x)
        return self.norm(x)


def _encoder(channels: int, width: int, normed: bool = True, stride: int = 2) -> list[nn.Module]:
    """4x4 convolution, norm, leaky ReLU."""
    convolution = nn.Conv2d(channels, width, 4, stride, 1, bias=False)
    return [convolution, *([Norm(width)] if normed else []), nn.LeakyReLU(0.2)]


def _decoder(channels: int, width: int, dropout: float = 0.0) -> list[nn.Module]:
    """4x4 transposed convolution, norm, dropout, ReLU."""
    convolution = nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False)
    dropping = [nn.Dropout(dropout)] if dropout else []
    return [convolution, Norm(width), *dropping, nn.ReLU()]


class UNet(nn.Module):
    """A U-Net; with `refine`, two convolutions more that see the image itself."""

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        widths = [
            min(settings.features << n, settings.max_features) for n in range(settings.levels)
        ]
        inputs = [1, *widths[:-1]]
        self.encoders = nn.ModuleList(
            nn.Sequential(*_encoder(channels, width, normed=n > 0))
            for n, (channels, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.decoders = nn.ModuleList()
        channels = widths[-1]
        for n, width in enumerate(widths[-2::-1]):
            dropout = settings.dropout if n < settings.dropout_blocks else 0.0
            self.decoders.append(nn.Sequential(*_decoder(channels, width, dropout)))
            channels = 2 * width
        self.final = nn.ConvTranspose2d(channels, settings.refine or 1, 4, 2, 1)
        self.refine: nn.Module | None = None
        if settings.refine:
            self.refine = nn.Sequential(
                nn.Conv2d(settings.refine + 1, settings.refine, 3, 1, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(settings.refine, 1, 3, 1, 1),
            )

    def forward(self, image: Tensor) -> Tensor:
        """Translate (batch, 1, rows, columns) in [-1, 1]."""
        maps = [image]
        for encoder in self.encoders:
            maps.append(encoder(maps[-1]))
        x = maps.pop()
        for decoder in self.decoders:
            x = torch.cat((decoder(x), maps.pop()), 1)
        x = self.final(x)
        if self.refine is not None:
            x = self.refine(torch.cat((x, image), 1))
        return torch.tanh(x)


class ResUNet(nn.Module):
    """Encoder, residual blocks that concatenate instead of adding, decoder with skips."""

    def __init__(self, settings: ResUNetSettings) -> None:
        super().__init__()
        widths = [
            min(settings.features << n, settings.max_features) for n in range(settings.levels)
        ]
        self.encoders = nn.ModuleList(
            nn.Sequential(*_encoder(channels, width))
            for channels, width in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.blocks = nn.ModuleList()
        channels, inner = widths[-1], widths[-1]
        for _ in range(settings.blocks):
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(channels, inner, 3, 1, 1, bias=False),
                    Norm(inner),
                    nn.ReLU(),
                    nn.Conv2d(inner, inner, 3, 1, 1, bias=False),
                    Norm(inner),
                )
            )
            channels += inner
        self.decoders = nn.ModuleList()
        for width in widths[-2::-1]:
            self.decoders.append(nn.Sequential(*_decoder(channels, width)))
            channels = 2 * width
        self.final = nn.ConvTranspose2d(channels, 1, 4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Translate (batch, 1, rows, columns) in [-1, 1]."""
        maps = [image]
        for encoder in self.encoders:
            maps.append(encoder(maps[-1]))
        x = maps.pop()
        for block in self.blocks:
            x = torch.cat((block(x), x), 1)
        for decoder in self.decoders:
            x = torch.cat((decoder(x), maps.pop()), 1)
        return torch.tanh(self.final(x))


def _padded(channels: int, width: int, kernel: int, mode: Padding) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, 1, kernel // 2, padding_mode=mode, bias=False)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input."""

    def __init__(self, width: int, mode: Padding) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _padded(width, width, 3, mode),
            Norm(width),
            nn.ReLU(),
            _padded(width, width, 3, mode),
            Norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add to (batch, width, rows, columns)."""
        return x + self.block(x)


def resnet(settings: ResNetSettings, image_size: int) -> nn.Sequential:
    """c7s1-64, d128, d256, R256 six or nine times, u128, u64, c7s1-1 (Zhu et al., appendix 7.2)."""
    width, mode = settings.features, settings.padding
    blocks = settings.blocks if settings.blocks is not None else (6 if image_size <= 128 else 9)
    layers: list[nn.Module] = [_padded(1, width, 7, mode), Norm(width), nn.ReLU()]
    for out in (2 * width, 4 * width):
        layers += [nn.Conv2d(out // 2, out, 3, 2, 1, bias=False), Norm(out), nn.ReLU()]
    layers += [ResidualBlock(4 * width, mode) for _ in range(blocks)]
    for out in (2 * width, width):
        convolution = nn.ConvTranspose2d(2 * out, out, 3, 2, 1, 1, bias=False)
        layers += [convolution, Norm(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 7, 1, 3, padding_mode=mode), nn.Tanh())


def generator(settings: GeneratorSettings, image_size: int) -> nn.Module:
    """The textbook's generator for these settings."""
    if isinstance(settings, UNetSettings):
        return UNet(settings)
    if isinstance(settings, ResUNetSettings):
        return ResUNet(settings)
    assert isinstance(settings, ResNetSettings)
    return resnet(settings, image_size)


def critic(features: int, strided: int) -> nn.Sequential:
    """A PatchGAN that gives logits."""
    layers = _encoder(1, features, normed=False)
    channels = features
    for n in range(1, strided + 1):
        width = min(2 * channels, 8 * features)
        layers += _encoder(channels, width, stride=2 if n < strided else 1)
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))


class Pool:
    """The last 50 synthetic images, one of which replaces the newest half of the time."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.images, self.random = size, list[Tensor](), random.Random(seed)

    def query(self, image: Tensor) -> Tensor:
        """Exchange one batch, (batch, 1, rows, columns), detached."""
        if len(self.images) < self.size:
            self.images.append(image.clone())
            return image
        if self.random.random() < 0.5:
            return image
        place = self.random.randrange(self.size)
        old, self.images[place] = self.images[place], image.clone()
        return old


class TextbookCycleGAN:
    """The published loop: a step of the generators, then one of the critics.

    Where neither the adversarial nor the cycle loss has a weight, as in `bridge`, real slices are
    not translated, and the critics do not learn.

    Args:
        settings: which networks, losses and weights.
        device: where.
        bfloat16: under autocast; the rest is the same.
    """

    def __init__(
        self, settings: TrainSettings, device: torch.device, bfloat16: bool = False
    ) -> None:
        self.settings, self.device, self.bfloat16 = settings, device, bfloat16
        networks = settings.networks
        self.to_target, self.to_source = (
            generator(networks.generator, networks.image_size).to(device) for _ in range(2)
        )
        assert isinstance(networks.critic, PatchGANSettings)
        self.source_critic, self.target_critic = (
            critic(networks.critic.features, networks.critic.strided).to(device) for _ in range(2)
        )
        rate, betas = settings.learning_rate, settings.betas
        generators = chain(self.to_target.parameters(), self.to_source.parameters())
        self.generator_step = torch.optim.Adam(generators, rate, betas)
        self.critic_step = torch.optim.Adam(
            self._critic_parameters(), rate * settings.critic_rate, betas
        )
        self.pools = [Pool(settings.pool_size, settings.seed + side) for side in (0, 1)]
        self.steps = 0
        if settings.back_translation_weight:
            self.mean_to_target = deepcopy(self.to_target).eval().requires_grad_(False)
            self.mean_to_source = deepcopy(self.to_source).eval().requires_grad_(False)

    def step(self, sample: Sample) -> dict[str, Tensor]:
        """One step on (batch, 1, rows, columns) images; returns the losses."""
        self._let_critics_learn(False)
        self.generator_step.zero_grad()
        with self._precision():
            loss, fakes = self._generator_loss(sample)
        loss.backward()
        self.generator_step.step()
        self.steps += 1
        if self.settings.back_translation_weight:
            self._average(self.mean_to_target, self.to_target)
            self._average(self.mean_to_source, self.to_source)
        results = {"generators": loss.detach()}
        if fakes is None:
            return results

        fake_target, fake_source = fakes
        self._let_critics_learn(True)
        self.critic_step.zero_grad()
        for name, network, real, fake, pool in (
            ("source_critic", self.source_critic, sample.source, fake_source, self.pools[0]),
            ("target_critic", self.target_critic, sample.target, fake_target, self.pools[1]),
        ):
            with self._precision():
                seen = pool.query(fake.detach())
                loss = 0.5 * (self._judged(network(real), 1.0) + self._judged(network(seen), 0.0))
            loss.backward()
            results[name] = loss.detach()
        self.critic_step.step()
        return results

    def _generator_loss(self, sample: Sample) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The weighted sum of all losses, and the translations for the critics, if they learn."""
        settings, (source, target, simulated, paired) = self.settings, sample
        distance = functional.l1_loss
        loss, fakes = torch.zeros((), device=self.device), None
        if settings.adversarial_weight or settings.cycle_weight:
            fakes = fake_target, fake_source = self.to_target(source), self.to_source(target)
            fooled = self._judged(self.target_critic(fake_target), 1.0)
            fooled = fooled + self._judged(self.source_critic(fake_source), 1.0)
            loss = fooled * settings.adversarial_weight
        if fakes is not None and settings.cycle_weight:
            cycle = distance(self.to_source(fake_target), source)
            cycle = cycle + distance(self.to_target(fake_source), target)
            loss = loss + settings.cycle_weight * cycle
        if settings.identity_weight:
            same = distance(self.to_target(target), target)
            same = same + distance(self.to_source(source), source)
            loss = loss + settings.identity_weight * same
        if settings.back_translation_weight:
            back = self._taught(self.to_target, self._question(self.mean_to_source, target), target)
            question = self._question(self.mean_to_target, source)
            back = back + self._taught(self.to_source, question, source)
            loss = loss + settings.back_translation_weight * back
        if settings.simulated_weight:
            seen_source, source_answer, seen_target, target_answer = simulated.split(1, 1)
            known = self._taught(self.to_target, seen_source, target_answer)
            known = known + self._taught(self.to_source, seen_target, source_answer)
            loss = loss + settings.simulated_weight * known
        if paired.shape[1]:
            first, second = paired.split(1, 1)
            known = self._taught(self.to_target, first, second)
            known = known + self._taught(self.to_source, second, first)
            loss = loss + settings.paired_weight * known
        return loss, fakes

    def _taught(self, network: nn.Module, given: Tensor, answer: Tensor) -> Tensor:
        """How far a generator is from a known answer."""
        made = network(given)
        return functional.l1_loss(made, answer)

    @torch.no_grad()
    def _question(self, average: nn.Module, real: Tensor) -> Tensor:
        """A synthesis of a real image, with a random exponent and noise (`back_translated`)."""
        made = (average(real).float() + 1) / 2
        each = (len(made), 1, 1, 1)
        exponents = 1.2 ** (2 * torch.rand(each, device=self.device) - 1)
        noise = torch.randn_like(made) * (0.03 * torch.rand(each, device=self.device))
        return (2 * made.clamp(0, 1) ** exponents - 1 + noise).clamp(-1, 1)

    @torch.no_grad()
    def _average(self, average: nn.Module, network: nn.Module) -> None:
        """Follow a generator, quicker in the beginning, as mrbridge does."""
        decay = min(self.settings.ema_decay, (1 + self.steps) / (10 + self.steps))
        for kept, new in zip(average.parameters(), network.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)

    def _judged(self, logits: Tensor, wanted: float) -> Tensor:
        labels = torch.full_like(logits, wanted)
        if self.settings.adversarial == "bce":
            return functional.binary_cross_entropy_with_logits(logits, labels)
        assert self.settings.adversarial == "least_squares", "no preset has another loss"
        return functional.mse_loss(logits, labels)

    def _critic_parameters(self) -> chain[nn.Parameter]:
        return chain(self.source_critic.parameters(), self.target_critic.parameters())

    def _let_critics_learn(self, learn: bool) -> None:
        for parameter in self._critic_parameters():
            parameter.requires_grad_(learn)

    def _precision(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


def step_operations(settings: TrainSettings, batch: int = 1) -> int:
    """Operations of the convolutions of one training step, two a multiplication and addition.

    As direct convolutions, their padding counted like pixels; no gradients of the critics' weights
    in the generators' step, none of the input images. Without pairs. Counted on the meta device:
    nothing is computed.
    """
    meta, size = torch.device("meta"), settings.networks.image_size
    image = torch.empty(batch, 1, size, size, device=meta)
    sample = Sample(image, image, torch.cat([image] * 4, 1), image[:, :0])
    loop = TextbookCycleGAN(settings, meta)
    with FlopCounterMode(display=False) as counter:
        loop.step(sample)
    return int(counter.get_total_flops())


def forward_operations(
    settings: GeneratorSettings, image_size: int, rows: int, columns: int
) -> int:
    """Operations of a generator, made for `image_size`, for one image; counted in the same way."""
    with torch.device("meta"):
        network = generator(settings, image_size)
        image = torch.empty(1, 1, rows, columns)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops())
