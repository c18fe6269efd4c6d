"""The CycleGAN: two generators, two critics, and one training step."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mrbridge import losses
from mrbridge.data.dataset import Sample
from mrbridge.networks import build_critic, build_generator, unchanged_weights
from mrbridge.training.average import averaged_copy, follow
from mrbridge.training.compiling import Compiled
from mrbridge.training.layout import FlatParameters, lay_out
from mrbridge.training.pool import ImagePool
from mrbridge.training.settings import TrainSettings


class CycleGAN(pl.LightningModule):
    """Zhu et al. 2017 (arXiv:1703.10593) with averaged generators; it only wires.

    `step` counts optimiser steps over all sessions of a run. Dropout draws from a random state that
    is set from the seed and `step`, so a resumed training repeats an undisturbed one exactly on a
    CPU. On CUDA it sees the same samples, pool and dropout, but sums of many threads round anew in
    every run, resumed or not.
    """

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        networks = settings.networks
        rng = torch.Generator().manual_seed(settings.seed)
        self.to_target = build_generator(networks.generator, networks.image_size, rng)
        self.to_source = build_generator(networks.generator, networks.image_size, rng)
        self.source_critic = build_critic(networks.critic, rng)
        self.target_critic = build_critic(networks.critic, rng)
        self.mean_to_target = averaged_copy(self.to_target)
        self.mean_to_source = averaged_copy(self.to_source)
        self.source_pool = ImagePool(settings.pool_size, settings.seed)
        self.target_pool = ImagePool(settings.pool_size, settings.seed + 1)
        self.step = 0
        self.rate_share = 1.0
        self.unpaired_share = 1.0
        self._optimizer_states: list[dict[str, Any]] | None = None
        self._flat: list[FlatParameters] = []
        self._compiled: Compiled | None = None

    def compile_networks(self) -> None:
        """Train compiled generators and critics from the first step on, if that works here."""
        networks = (self.to_target, self.to_source, self.source_critic, self.target_critic)
        self._compiled = Compiled(networks)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generators, Adam for the critics; the device is known by now."""
        rate, betas = self.settings.learning_rate, self.settings.betas
        lay_out(self, self.device)
        for pool in (self.source_pool, self.target_pool):
            pool.images = [image.to(self.device) for image in pool.images]
        self._flat = [FlatParameters(n.parameters()) for n in (self._generators(), self._critics())]
        made: list[torch.optim.Optimizer] = [
            torch.optim.Adam(flat.vectors, rate, betas, fused=True) for flat in self._flat
        ]
        if self._optimizer_states is not None:
            for optimizer, flat, state in zip(
                made, self._flat, self._optimizer_states, strict=True
            ):
                optimizer.load_state_dict(flat.flattened(state))
            self._optimizer_states = None
        return made

    def training_step(self, batch: Sample, batch_idx: int) -> dict[str, Tensor]:
        """One step of the generators, then one of the critics; returns the losses."""
        if self._compiled is not None:
            if not self._compiled.is_rehearsed:
                self._rehearse(self._compiled, batch)
            self._compiled.begin_step()
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        generator_step, critic_step = self._optimizers()
        rate = self.settings.learning_rate * self.rate_share
        for optimizer, factor in ((generator_step, 1.0), (critic_step, self.settings.critic_rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

        of_generators, of_critics = self._flat
        self._critics().requires_grad_(False)
        with unchanged_weights():
            told, to_target, to_source = self._generator_losses(batch)
        self.manual_backward(told["generators"])
        _step(generator_step, of_generators)

        self._critics().requires_grad_(True)
        with unchanged_weights():
            told |= self._critic_losses(
                batch,
                self.target_pool.exchange(to_target.detach()),
                self.source_pool.exchange(to_source.detach()),
            )
        self.manual_backward(told["source_critic"] + told["target_critic"])
        _step(critic_step, of_critics)

        self.step += 1
        for mean, network in self._averages():
            follow(mean, network, self.settings.ema_decay, self.step)
        return {name: value.detach() for name, value in told.items()}

    def _rehearse(self, compiled: Compiled, batch: Sample) -> None:
        """Compile the networks on a batch, without any trace in weights, statistics or pools."""
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]

        def step() -> None:
            self._critics().requires_grad_(False)
            told, to_target, to_source = self._generator_losses(batch)
            self.manual_backward(told["generators"])
            self._critics().requires_grad_(True)
            told = self._critic_losses(batch, to_target.detach(), to_source.detach())
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

    def _optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        made = self.optimizers()
        assert isinstance(made, list)
        return made[0], made[1]

    def _generators(self) -> nn.ModuleList:
        return nn.ModuleList([self.to_target, self.to_source])

    def _critics(self) -> nn.ModuleList:
        return nn.ModuleList([self.source_critic, self.target_critic])

    def _averages(self) -> list[tuple[nn.Module, nn.Module]]:
        return [
            (self.mean_to_target, self.to_target),
            (self.mean_to_source, self.to_source),
        ]

    def _generator_losses(self, batch: Sample) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        settings = self.settings
        source, target = batch.source, batch.target
        simulated_source, simulated_target = (
            batch.simulated.split(1, dim=1) if (settings.simulated_weight) else (None, None)
        )
        to_target, same_target, paired_target = self._translate(
            self.to_target, source, target, simulated_source
        )
        to_source, same_source, paired_source = self._translate(
            self.to_source, target, source, simulated_target
        )
        told = {
            "adversarial": losses.generator_loss(
                self.target_critic(to_target), settings.adversarial
            )
            + losses.generator_loss(self.source_critic(to_source), settings.adversarial),
            "cycle": losses.cycle_loss(source, self.to_source(to_target))
            + losses.cycle_loss(target, self.to_target(to_source)),
        }
        if same_target is not None and same_source is not None:
            told["identity"] = losses.identity_loss(target, same_target) + losses.identity_loss(
                source, same_source
            )
        if simulated_source is not None and simulated_target is not None:
            assert paired_target is not None
            assert paired_source is not None
            told["simulated"] = losses.paired_loss(
                paired_target, simulated_target
            ) + losses.paired_loss(paired_source, simulated_source)
        weights = {
            "adversarial": settings.adversarial_weight * self.unpaired_share,
            "cycle": settings.cycle_weight * self.unpaired_share,
            "identity": settings.identity_weight * self.unpaired_share,
            "simulated": settings.simulated_weight,
        }
        total = torch.stack([weights[name] * value for name, value in told.items()]).sum()
        return {"generators": total} | told, to_target, to_source

    def _translate(
        self, generator: nn.Module, image: Tensor, same: Tensor, simulated: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Translation, identity and simulated pairs in one batch: instance norm keeps them apart.

        What is not wanted is None.
        """
        wanted = [image]
        if self.settings.identity_weight:
            wanted.append(same)
        if simulated is not None:
            wanted.append(simulated)
        made = list(generator(torch.cat(wanted)).split(len(image)))
        translated = made.pop(0)
        unchanged = made.pop(0) if self.settings.identity_weight else None
        return translated, unchanged, made.pop() if made else None

    def _critic_losses(
        self, batch: Sample, to_target: Tensor, to_source: Tensor
    ) -> dict[str, Tensor]:
        """What the critics make of real images and of syntheses, new or past ones."""
        told = {}
        for name, critic, real, fake in (
            ("source_critic", self.source_critic, batch.source, to_source),
            ("target_critic", self.target_critic, batch.target, to_target),
        ):
            both = critic(torch.cat([real, fake]))
            real_logits, fake_logits = both.split(len(real))
            told[name] = losses.critic_loss(real_logits, fake_logits, self.settings.adversarial)
        return told

    def shipped_weights(self) -> dict[str, Tensor]:
        """The averaged generators' tensors, as a bundle holds them."""
        return {
            f"{name}.{key}": value
            for name, network in (
                ("to_target", self.mean_to_target),
                ("to_source", self.mean_to_source),
            )
            for key, value in network.state_dict().items()
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, lists and numbers only."""
        return {
            "step": self.step,
            "networks": self.state_dict(),
            "optimizers": [
                flat.shaped(optimizer.state_dict())
                for flat, optimizer in zip(self._flat, self._optimizers(), strict=True)
            ],
            "pools": [self.source_pool.state_dict(), self.target_pool.state_dict()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the optimisers take theirs when they are made."""
        self.step = state["step"]
        self.load_state_dict(state["networks"])
        self._optimizer_states = state["optimizers"]
        for pool, kept in zip((self.source_pool, self.target_pool), state["pools"], strict=True):
            pool.load_state_dict(kept, self.device)


def _step(optimizer: LightningOptimizer, parameters: FlatParameters) -> None:
    """Step with the gradients of `parameters`, and let go of them: their memory is needed next."""
    parameters.take_gradients()
    optimizer.step()
    parameters.drop_gradients()
