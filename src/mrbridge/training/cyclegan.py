"""Two generators, two critics if an adversarial loss is wanted, and one training step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mrbridge import losses
from mrbridge.bundle import Bundle
from mrbridge.data.dataset import Sample
from mrbridge.networks import build_critic, build_generator, unchanged_weights
from mrbridge.training.adam import Adam
from mrbridge.training.average import averaged_copy, between, follow
from mrbridge.training.compiling import Compiled
from mrbridge.training.layout import FlatParameters, lay_out
from mrbridge.training.lessons import Lesson, answer_all, back_translated
from mrbridge.training.looks import Looks
from mrbridge.training.pool import ImagePool
from mrbridge.training.ranks import Ranks
from mrbridge.training.settings import TrainSettings


class CycleGAN(pl.LightningModule):
    """Zhu et al. 2017 (arXiv:1703.10593) with averaged generators; it only wires.

    `step` counts optimiser steps over all sessions of a run. Dropout draws from a random state that
    is set from the seed and `step`, so a resumed training repeats an undisturbed one exactly on a
    CPU. On CUDA it sees the same samples, pool and dropout, but sums of many threads round anew in
    every run, resumed or not.

    Where several processes train together, each makes its own part of a step's losses; gradients
    and losses are averaged over them, and all keep the same pools, of the syntheses of all.
    """

    def __init__(self, settings: TrainSettings, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        self.ranks = ranks or Ranks()
        networks = settings.networks
        rng = torch.Generator().manual_seed(settings.seed)
        self.to_target = build_generator(networks.generator, networks.image_size, rng)
        self.to_source = build_generator(networks.generator, networks.image_size, rng)
        # Drawn last, so that generators start from the same weights with and without critics.
        self.source_critic: nn.Module | None = None
        self.target_critic: nn.Module | None = None
        if settings.adversarial_weight:
            self.source_critic = build_critic(networks.critic, rng)
            self.target_critic = build_critic(networks.critic, rng)
        self.mean_to_target = averaged_copy(self.to_target)
        self.mean_to_source = averaged_copy(self.to_source)
        self.beginning = nn.ModuleList()
        """The generators that training began with, to target and to source, if they count."""
        self.source_pool = ImagePool(settings.pool_size, settings.seed)
        self.target_pool = ImagePool(settings.pool_size, settings.seed + 1)
        self.step = 0
        self.rate_share = 1.0
        self.unpaired_share = 1.0
        self.looks = nn.ModuleList([Looks(), Looks()])
        """How the canonical answers of simulated subjects look in the data: source, target."""
        self._optimizer_states: list[dict[str, Any]] | None = None
        self._flat: list[FlatParameters] = []
        self._compiled: Compiled | None = None

    def begin_from(self, bundle: Bundle, target: str) -> None:
        """Take the generators of a bundle instead of random ones.

        Args:
            bundle: of the same generators and contrasts.
            target: the contrast that `to_target` makes.
        """
        makes_target = bundle.generator_that_makes(target)
        makes_source = "to_source" if makes_target == "to_target" else "to_target"
        for name, networks in (
            (makes_target, (self.to_target, self.mean_to_target)),
            (makes_source, (self.to_source, self.mean_to_source)),
        ):
            weights = bundle.build(name).state_dict()
            for network in networks:
                network.load_state_dict(weights)
        if self.settings.beginning_share:
            self._remember_beginning()

    def _remember_beginning(self) -> None:
        self.beginning.extend(
            [averaged_copy(self.mean_to_target), averaged_copy(self.mean_to_source)]
        )

    def compile_networks(self) -> None:
        """Train compiled generators and critics from the first step on, if that works here."""
        self._compiled = Compiled([self.to_target, self.to_source, *self._critics()])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generators, Adam for the critics if any; the device is known by now."""
        rate, betas = self.settings.learning_rate, self.settings.betas
        lay_out(self, self.device)
        for pool in (self.source_pool, self.target_pool):
            pool.images = [image.to(self.device) for image in pool.images]
        groups = [self._generators(), self._critics()] if self._critics() else [self._generators()]
        self._flat = [FlatParameters(group.parameters()) for group in groups]
        made: list[torch.optim.Optimizer] = [Adam(flat.vectors, rate, betas) for flat in self._flat]
        if self._optimizer_states is not None:
            for optimizer, flat, state in zip(
                made, self._flat, self._optimizer_states, strict=True
            ):
                optimizer.load_state_dict(flat.flattened(state))
            self._optimizer_states = None
        return made

    def training_step(self, batch: Sample, batch_idx: int) -> dict[str, Tensor]:
        """One step of the generators, then one of the critics if any; returns the losses."""
        if self._compiled is not None:
            if not self._compiled.is_rehearsed:
                self._rehearse(self._compiled, batch)
            self._compiled.begin_step()
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step + (self.ranks.rank << 40))
        optimizers = self._optimizers()
        rate = self.settings.learning_rate * self.rate_share
        for optimizer, factor in zip(optimizers, (1.0, self.settings.critic_rate), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

        self._critics().requires_grad_(False)
        with unchanged_weights():
            told, translations = self._generator_losses(batch)
        self.manual_backward(told["generators"])
        _step(optimizers[0], self._flat[0], self.ranks)

        if self._critics():
            self._critics().requires_grad_(True)
            to_target, to_source = (image.detach() for image in translations)
            with unchanged_weights():
                told |= self._critic_losses(
                    batch,
                    self._exchanged(self.target_pool, to_target),
                    self._exchanged(self.source_pool, to_source),
                )
            self.manual_backward(told["source_critic"] + told["target_critic"])
            _step(optimizers[1], self._flat[1], self.ranks)

        self.step += 1
        for mean, network in self._averages():
            follow(mean, network, self.settings.ema_decay, self.step)
        losses_now = {name: value.detach() for name, value in told.items()}
        self.ranks.average(list(losses_now.values()))
        return losses_now

    def _exchanged(self, pool: ImagePool, images: Tensor) -> Tensor:
        """What a critic is shown for new syntheses; the pool sees those of all processes."""
        return self.ranks.own(pool.exchange(self.ranks.joined(images)))

    def _rehearse(self, compiled: Compiled, batch: Sample) -> None:
        """Compile the networks on a batch, without any trace in weights, statistics or pools."""
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]

        def step() -> None:
            self._critics().requires_grad_(False)
            told, translations = self._generator_losses(batch)
            self.manual_backward(told["generators"])
            self._critics().requires_grad_(True)
            if self._critics():
                told = self._critic_losses(batch, *(image.detach() for image in translations))
                self.manual_backward(told["source_critic"] + told["target_critic"])
            for flat in self._flat:
                flat.drop_gradients()

        try:
            compiled.rehearse(step, self.device)
        finally:
            for flat in self._flat:
                flat.drop_gradients()
            for buffer, before in buffers:
                buffer.copy_(before)

    def _optimizers(self) -> list[LightningOptimizer]:
        """Of the generators, and of the critics if any: Lightning unpacks a list of one."""
        made = self.optimizers()
        return made if isinstance(made, list) else [made]

    def _generators(self) -> nn.ModuleList:
        return nn.ModuleList([self.to_target, self.to_source])

    def _critics(self) -> nn.ModuleList:
        """Of source and target; empty where the adversarial loss has no weight."""
        return nn.ModuleList(
            [one for one in (self.source_critic, self.target_critic) if one is not None]
        )

    def _averages(self) -> list[tuple[nn.Module, nn.Module]]:
        return [
            (self.mean_to_target, self.to_target),
            (self.mean_to_source, self.to_source),
        ]

    def _generator_losses(self, batch: Sample) -> tuple[dict[str, Tensor], list[Tensor]]:
        """All losses of the generators, `generators` being their weighted sum, and translations.

        The translations of source and target slices are there if a critic or the cycle wants them.
        """
        settings = self.settings
        weights = self._weights()
        critics = self._critics()
        plays = bool(critics or settings.cycle_weight)
        told: dict[str, Tensor] = {}
        translations = []
        for direction, own in ((0, batch.source), (1, batch.target)):
            lessons = self._lessons(batch, direction, weights)
            images = [own] * plays + [lesson.given for lesson in lessons]
            made = answer_all((self.to_target, self.to_source)[direction], images)
            translations += made[:plays]
            for lesson, image in zip(lessons, made[plays:], strict=True):
                loss = losses.paired_loss(image, lesson.answer)
                told[lesson.loss] = told[lesson.loss] + loss if lesson.loss in told else loss
        if plays:
            to_target, to_source = translations
        if critics:
            of_source, of_target = critics
            told["adversarial"] = losses.generator_loss(
                of_target(to_target), settings.adversarial
            ) + losses.generator_loss(of_source(to_source), settings.adversarial)
        if settings.cycle_weight:
            told["cycle"] = losses.cycle_loss(
                batch.source, self.to_source(to_target)
            ) + losses.cycle_loss(batch.target, self.to_target(to_source))
        total = torch.stack([weights[name] * value for name, value in told.items()]).sum()
        return {"generators": total} | told, translations

    def _weights(self) -> dict[str, float]:
        """The weight of each loss at this moment of the training."""
        settings = self.settings
        unpaired = {
            "adversarial": settings.adversarial_weight,
            "cycle": settings.cycle_weight,
            "identity": settings.identity_weight,
            "back_translation": settings.back_translation_weight,
        }
        return {name: weight * self.unpaired_share for name, weight in unpaired.items()} | {
            "simulated": settings.simulated_weight,
            "paired": settings.paired_weight,
        }

    def _lessons(self, batch: Sample, direction: int, weights: dict[str, float]) -> list[Lesson]:
        """What the generator of a direction (0 to the target, 1 to the source) is given."""
        other = (batch.target, batch.source)[direction]
        lessons = []
        if self.settings.identity_weight:
            lessons.append(Lesson("identity", other, other))
        if weights["back_translation"]:
            back = (self.mean_to_source, self.mean_to_target)[direction]
            lessons.append(Lesson("back_translation", back_translated(back, other), other))
        if weights["simulated"] and batch.simulated.shape[1]:
            given, answer = ((0, 3), (2, 1))[direction]
            group = batch.simulated
            wanted = self.looks[1 - direction](group[:, answer : answer + 1])
            lessons.append(Lesson("simulated", group[:, given : given + 1], wanted))
        if batch.paired.shape[1]:
            given, answer = (0, 1) if direction == 0 else (1, 0)
            both = batch.paired.split(1, dim=1)
            lessons.append(Lesson("paired", both[given], both[answer]))
        return lessons

    def _critic_losses(
        self, batch: Sample, to_target: Tensor, to_source: Tensor
    ) -> dict[str, Tensor]:
        """What the critics make of real images and of syntheses, new or past ones."""
        told = {}
        of_source, of_target = self._critics()
        for name, critic, real, fake in (
            ("source_critic", of_source, batch.source, to_source),
            ("target_critic", of_target, batch.target, to_target),
        ):
            both = critic(torch.cat([real, fake]))
            real_logits, fake_logits = both.split(len(real))
            told[name] = losses.critic_loss(real_logits, fake_logits, self.settings.adversarial)
        return told

    def shipped(self) -> tuple[nn.Module, nn.Module]:
        """The generators to target and to source that are validated and put into a bundle.

        The averaged ones; `settings.beginning_share` of the way back to those it began with.
        """
        averages = (self.mean_to_target, self.mean_to_source)
        if not self.beginning:
            return averages
        share = self.settings.beginning_share
        to_target, to_source = map(between, self.beginning, averages, (share, share))
        return to_target, to_source

    def shipped_weights(self) -> dict[str, Tensor]:
        """The tensors of `shipped`, as a bundle holds them."""
        return {
            f"{name}.{key}": value
            for name, network in zip(("to_target", "to_source"), self.shipped(), strict=True)
            for key, value in network.state_dict().items()
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, lists and numbers only."""
        return {
            "step": self.step,
            "processes": self.ranks.count,
            "networks": self.state_dict(),
            "optimizers": [
                flat.shaped(optimizer.state_dict())
                for flat, optimizer in zip(self._flat, self._optimizers(), strict=True)
            ],
            "pools": [self.source_pool.state_dict(), self.target_pool.state_dict()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the optimisers take theirs when they are made.

        Older checkpoints hold critics even where the adversarial loss has no weight: left out.
        """
        self.step = state["step"]
        if not self.beginning and any(name.startswith("beginning.") for name in state["networks"]):
            self._remember_beginning()  # as something to load the weights into
        networks, optimizers = state["networks"], state["optimizers"]
        if not self._critics():
            networks = {name: v for name, v in networks.items() if not is_of_critic(name)}
            optimizers = None if optimizers is None else optimizers[:1]
        self.load_state_dict(networks)
        self._optimizer_states = optimizers
        for pool, kept in zip((self.source_pool, self.target_pool), state["pools"], strict=True):
            pool.load_state_dict(kept, self.device)


def is_of_critic(name: str) -> bool:
    """Whether a tensor of a `CycleGAN`'s state, by its name, belongs to one of the critics."""
    return name.startswith(("source_critic.", "target_critic."))


def _step(optimizer: LightningOptimizer, parameters: FlatParameters, ranks: Ranks) -> None:
    """Step with the mean gradients of `parameters`, and let go of them: their memory is needed."""
    parameters.take_gradients()
    if ranks.count > 1:
        for vector in parameters.vectors:
            vector.grad = None if vector.grad is None else vector.grad.float()
    ranks.average([vector.grad for vector in parameters.vectors if vector.grad is not None])
    optimizer.step()
    parameters.drop_gradients()
