"""The trained model: two generators, their averages, critics if a loss needs them, and one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mrbridge.bundle import Bundle
from mrbridge.dataset.sampling import Sample
from mrbridge.hardware import fast_bfloat16
from mrbridge.kernels import weight_cache
from mrbridge.kernels.optimizer import Adam
from mrbridge.networks.build import build_critic, build_generator
from mrbridge.networks.unet import ScaleHead
from mrbridge.training import losses
from mrbridge.training.distributed import Ranks
from mrbridge.training.ema import averaged_copy, interpolated, update_ema
from mrbridge.training.examples import (
    Example,
    IntensityMapping,
    back_translation,
    translate_together,
)
from mrbridge.training.settings import LossWeights, TrainSettings, extra_name

_OLD_NAMES = {"mean_to_": "ema_to_", "beginning.": "initial.", "looks.": "intensity_mappings."}
"""Prefixes of tensors in older checkpoints, and what they are called now."""


class TranslationModel(nn.Module):
    """Generators to the target and to the source contrast, with everything that trains them.

    With adversarial, cycle and identity losses this is CycleGAN (Zhu et al. 2017,
    arXiv:1703.10593); other losses come from `examples`. EMAs of the generators are validated and
    put into the bundle.

    `step` counts optimiser steps over all sessions of a run. Random numbers of a step depend on the
    seed and `step` only, so that a resumed training equals an uninterrupted one bit for bit on a
    CPU. On CUDA it sees the same samples, pools and dropout, but sums round differently in every
    run, resumed or not.

    If several processes train together, each computes its part of a step; gradients and losses are
    averaged over the processes, and all hold the same pools, filled by all of them.

    Without `weights` those of the settings are used.
    """

    def __init__(
        self,
        settings: TrainSettings,
        weights: LossWeights | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.weights = weights or LossWeights.of(settings)
        self.ranks = ranks or Ranks()
        networks = settings.networks
        rng = torch.Generator().manual_seed(settings.seed)
        self.to_target = build_generator(networks.generator, networks.image_size, rng)
        self.to_source = build_generator(networks.generator, networks.image_size, rng)
        # Drawn last, so that generators start from the same weights with and without critics.
        self.source_critic: nn.Module | None = None
        self.target_critic: nn.Module | None = None
        if self.weights.unpaired["adversarial"]:
            self.source_critic = build_critic(networks.critic, rng)
            self.target_critic = build_critic(networks.critic, rng)
        self.ema_to_target = averaged_copy(self.to_target)
        self.ema_to_source = averaged_copy(self.to_source)
        self.initial = nn.ModuleList()
        """The initial generators, to target and to source, if `wise_ft` needs them."""
        self.scale_heads = nn.ModuleDict()
        """Of the initial model's generators, frozen; empty if it has none."""
        self.intensity_mappings = nn.ModuleList([IntensityMapping(), IntensityMapping()])
        """From the intensities of simulated subjects to those of the data: source, target."""
        self.source_pool = losses.ImagePool(settings.pool_size, settings.seed)
        self.target_pool = losses.ImagePool(settings.pool_size, settings.seed + 1)
        self.extra_losses = {
            extra_name(name): (one, one.make())
            for name, one in settings.extra_losses.items()
            if one.weight
        }
        """The user's own losses; what weights they have is not trained."""
        self.step = 0
        self.optimizers: list[Adam] = []
        """Of the generators and, if there are any, of the critics; empty until `to_device`."""
        self._uses_bfloat16 = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.to_target.parameters()).device

    @property
    def critics(self) -> list[nn.Module]:
        """Of source and target; empty if the adversarial loss has no weight."""
        return [one for one in (self.source_critic, self.target_critic) if one is not None]

    @property
    def learning_rate(self) -> float:
        """The generators' learning rate in the last step."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def rate_at(self, progress: float) -> float:
        """The generators' learning rate when a share of the training is done, in [0, 1]."""
        return self.settings.learning_rate * rate_share(progress, self.settings.decay_from)

    def initialise_from(self, bundle: Bundle, target: str) -> None:
        """Start from the bundle's generators; `target` is the contrast that `to_target` makes."""
        makes_target = bundle.generator_that_makes(target)
        makes_source = "to_source" if makes_target == "to_target" else "to_target"
        for name, own, networks in (
            (makes_target, "to_target", (self.to_target, self.ema_to_target)),
            (makes_source, "to_source", (self.to_source, self.ema_to_source)),
        ):
            generator = bundle.build(name)
            for network in networks:
                network.load_state_dict(generator.state_dict())
            head = bundle.build_scale_head(name, generator)
            if head is not None:
                self.scale_heads[own] = head
        if self.weights.wise_ft:
            self._keep_initial()

    def _keep_initial(self) -> None:
        self.initial.extend([averaged_copy(self.ema_to_target), averaged_copy(self.ema_to_source)])

    def to_device(self, device: torch.device) -> None:
        """Move to a device, which decides over the precision, and create the optimisers.

        Call it once, before the first step.
        """
        self.to(device)
        for _, loss in self.extra_losses.values():
            if isinstance(loss, nn.Module):
                loss.to(device).eval().requires_grad_(False)
        if device.type == "cuda":
            # In any other order, cuDNN's bfloat16 kernels copy images and weights in every call.
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        precision = self.settings.precision
        self._uses_bfloat16 = precision == "bfloat16" or (
            precision == "auto" and fast_bfloat16(device)
        )
        groups: list[list[nn.Module]] = [[self.to_target, self.to_source], self.critics]
        rate, betas = self.settings.learning_rate, self.settings.betas
        self.optimizers = [
            Adam(nn.ModuleList(group).parameters(), rate, betas) for group in groups if group
        ]
        if self.settings.compile:
            torch.compiler.reset()  # earlier networks count towards the limit of recompilations
            for network in (self.to_target, self.to_source, *self.critics):
                network.compile(dynamic=False)

    def autocast(self) -> torch.autocast:
        """The precision of the training, for a `with` statement."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self._uses_bfloat16, cache_enabled=False
        )

    def training_step(self, batch: Sample, progress: float) -> dict[str, Tensor]:
        """One step of the generators, then one of the critics if there are any.

        Args:
            batch: images (batch, channels, rows, columns) on the model's device, range [-1, 1].
            progress: share of the training that is done, in [0, 1]; it decides over the learning
                rate and the warm-up.

        Returns:
            The losses by name, means over all processes.
        """
        weights = self.weights.at(progress)
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step + (self.ranks.rank << 40))
        rate = self.rate_at(progress)
        for optimizer, factor in zip(
            self.optimizers, (1.0, self.settings.critic_rate), strict=False
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

        with self.autocast():
            self._train_critics(False)
            with weight_cache():
                results, translations = self.generator_losses(batch, weights)
            results["generators"].backward()
            self._optimise(0)

            if self.critics:
                self._train_critics(True)
                to_target, to_source = (image.detach() for image in translations)
                with weight_cache():
                    results |= self._critic_losses(
                        batch,
                        self._exchanged(self.target_pool, to_target),
                        self._exchanged(self.source_pool, to_source),
                    )
                (results["source_critic"] + results["target_critic"]).backward()
                self._optimise(1)

            self.step += 1
            for average, network in (
                (self.ema_to_target, self.to_target),
                (self.ema_to_source, self.to_source),
            ):
                update_ema(average, network, self.settings.ema_decay, self.step)
            results = {name: value.detach() for name, value in results.items()}
            self.ranks.average(list(results.values()))
        return results

    def _train_critics(self, train: bool) -> None:
        for critic in self.critics:
            critic.requires_grad_(train)

    def _optimise(self, number: int) -> None:
        """Step an optimiser with mean gradients, and free them: their memory is needed."""
        optimizer = self.optimizers[number]
        if self.ranks.count > 1:
            gradients = []
            for parameter in optimizer.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.float()
                    gradients.append(parameter.grad)
            self.ranks.average(gradients)
        optimizer.step()
        optimizer.zero_grad()

    def _exchanged(self, pool: losses.ImagePool, images: Tensor) -> Tensor:
        """What a critic sees for new synthetic images; the pool gets those of all processes."""
        return self.ranks.own_part(pool.exchange(self.ranks.gather(images)))

    def generator_losses(
        self, batch: Sample, weights: dict[str, float]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The losses of the generators; `generators` is their weighted sum.

        Returns:
            The losses, and the translations of source and target slices if critics or the cycle
            loss need them, each (batch, 1, rows, columns).
        """
        has_cycle_loss = bool(self.weights.unpaired["cycle"])
        needs_cycle = has_cycle_loss or self._has_extra("cycle")
        needs_translations = bool(self.critics or needs_cycle or self._has_extra("input"))
        results: dict[str, Tensor] = {}
        translations = []
        for direction, own in ((0, batch.source), (1, batch.target)):
            examples = self.examples(batch, direction, weights)
            inputs = [own] * needs_translations + [example.input for example in examples]
            outputs = translate_together((self.to_target, self.to_source)[direction], inputs)
            translations += outputs[:needs_translations]
            for example, output in zip(examples, outputs[needs_translations:], strict=True):
                loss, name = losses.l1_loss(output, example.target), example.loss
                results[name] = results[name] + loss if name in results else loss
                self._add_extra(results, "target", output, example.target, weights[name])
        if self.critics:
            (of_source, of_target), (to_target, to_source) = self.critics, translations
            results["adversarial"] = losses.generator_loss(
                of_target(to_target), self.settings.adversarial
            ) + losses.generator_loss(of_source(to_source), self.settings.adversarial)
        for output, own in zip(translations, (batch.source, batch.target), strict=False):
            self._add_extra(results, "input", output, own)
        if needs_cycle:
            to_target, to_source = translations
            returned = self.to_source(to_target), self.to_target(to_source)
            for back, own in zip(returned, (batch.source, batch.target), strict=True):
                self._add_extra(results, "cycle", back, own)
            if has_cycle_loss:
                results["cycle"] = losses.l1_loss(returned[0], batch.source) + losses.l1_loss(
                    returned[1], batch.target
                )
        weights = weights | {
            name: one.weight for name, (one, _) in self.extra_losses.items() if one.on == "target"
        }
        total = torch.stack([weights[name] * value for name, value in results.items()]).sum()
        return {"generators": total} | results, translations

    def _has_extra(self, on: str) -> bool:
        return any(one.on == on for one, _ in self.extra_losses.values())

    def _add_extra(
        self,
        results: dict[str, Tensor],
        on: str,
        image: Tensor,
        reference: Tensor,
        factor: float = 1.0,
    ) -> None:
        """Add the user's own losses of an image and its reference, each (batch, 1, rows, columns);
        SettingsError if one fails, or does not return one number."""
        for name, (settings, loss) in self.extra_losses.items():
            if settings.on == on:
                value = settings.call(loss, image.float(), reference.float())
                if not isinstance(value, Tensor) or value.numel() != 1:
                    raise settings.failed("it does not return one number")
                value = factor * value.reshape(())
                results[name] = results[name] + value if name in results else value

    def examples(self, batch: Sample, direction: int, weights: dict[str, float]) -> list[Example]:
        """The training examples of a generator: direction 0 to the target, 1 to the source."""
        other = (batch.target, batch.source)[direction]
        examples = []
        if self.weights.unpaired["identity"]:
            examples.append(Example("identity", other, other))
        if weights["back_translation"]:
            back = (self.ema_to_source, self.ema_to_target)[direction]
            examples.append(Example("back_translation", back_translation(back, other), other))
        if weights["simulated"] and batch.simulated.shape[1]:
            # Channels: source as acquired, canonical source, target as acquired, canonical target.
            acquired, canonical = ((0, 3), (2, 1))[direction]
            group = batch.simulated  # (batch, 4, rows, columns)
            target = self.intensity_mappings[1 - direction](group[:, canonical : canonical + 1])
            examples.append(Example("simulated", group[:, acquired : acquired + 1], target))
        if batch.paired.shape[1]:
            pair = batch.paired.split(1, dim=1)  # source and target, each (batch, 1, rows, columns)
            examples.append(Example("paired", pair[direction], pair[1 - direction]))
        return examples

    def _critic_losses(
        self, batch: Sample, to_target: Tensor, to_source: Tensor
    ) -> dict[str, Tensor]:
        """The critics' losses on real images and on synthetic ones, new or from the pool."""
        results = {}
        of_source, of_target = self.critics
        for name, critic, real, synthetic in (
            ("source_critic", of_source, batch.source, to_source),
            ("target_critic", of_target, batch.target, to_target),
        ):
            logits = critic(torch.cat([real, synthetic]))  # (2 batch, 1, logit rows, columns)
            of_real, of_synthetic = logits.split(len(real))
            results[name] = losses.critic_loss(of_real, of_synthetic, self.settings.adversarial)
        return results

    def inference_generators(self) -> tuple[nn.Module, nn.Module]:
        """The generators to target and to source that are validated and put into the bundle.

        The EMAs, mixed with the initial generators if `wise_ft` has a weight.
        """
        if not self.initial:
            return self.ema_to_target, self.ema_to_source
        to_target, to_source = self.initial
        share = self.weights.wise_ft
        return (
            interpolated(to_target, self.ema_to_target, share),
            interpolated(to_source, self.ema_to_source, share),
        )

    def bundle_weights(self, scale_heads: bool) -> dict[str, Tensor]:
        """The tensors of `inference_generators`, with heads if asked for, by their bundle names."""
        networks = dict(zip(("to_target", "to_source"), self.inference_generators(), strict=True))
        if scale_heads:
            networks |= {f"{name}_scale": head for name, head in self.scale_heads.items()}
        return {
            f"{name}.{key}": value
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, lists and numbers only."""
        return {
            "step": self.step,
            "processes": self.ranks.count,
            "networks": self.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "pools": [self.source_pool.state_dict(), self.target_pool.state_dict()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; before `to_device`, only weights and pools.

        Older checkpoints hold critics even if the adversarial loss has no weight: left out.
        """
        networks = {_current_name(name): value for name, value in state["networks"].items()}
        if not self.critics:
            networks = {name: v for name, v in networks.items() if not is_of_critic(name)}
        for name, weight in networks.items():
            if name.startswith("scale_heads.") and name.endswith(".up.weight"):
                channels, width = weight.shape[:2]
                head = ScaleHead(channels, width).requires_grad_(False)
                self.scale_heads[name.split(".")[1]] = head.to(self.device)
        if not self.initial and any(name.startswith("initial.") for name in networks):
            self._keep_initial()  # so that there is something to load the weights into
            self.initial.to(self.device)
        self.load_state_dict(networks)
        self.step = state["step"]
        kept = state["optimizers"][: len(self.optimizers)]
        for optimizer, values in zip(self.optimizers, kept, strict=True):
            optimizer.load_state_dict(values)
        pools = (self.source_pool, self.target_pool)
        for pool, values in zip(pools, state["pools"], strict=True):
            pool.load_state_dict(values, self.device)


def is_of_critic(name: str) -> bool:
    """Whether a tensor of a model's state, by its name, belongs to a critic."""
    return name.startswith(("source_critic.", "target_critic."))


def _current_name(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def rate_share(progress: float, decay_from: float) -> float:
    """The learning rate as a share of its start: 1, then from `decay_from` on linearly to 0.

    Both arguments are shares of the training, in [0, 1].
    """
    if progress <= decay_from or decay_from >= 1:
        return 1.0
    return max(0.0, (1 - progress) / (1 - decay_from))
