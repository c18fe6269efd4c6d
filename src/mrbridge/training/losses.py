"""Losses as functions of tensors, and the pool of past images that the critics' loss needs.

Each loss is a mean, computed in float32.

Sources: GAN, Goodfellow et al. 2014 (arXiv:1406.2661); least squares, Mao et al. 2017
(arXiv:1611.04076); hinge, Lim and Ye 2017 (arXiv:1705.02894) and Miyato et al. 2018
(arXiv:1802.05957); cycle and identity, Zhu et al. 2017 (arXiv:1703.10593).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrbridge.training.settings import AdversarialKind


def critic_loss(
    real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"], kind: AdversarialKind
) -> Float[Tensor, ""]:
    """The critic's loss, halved so that it learns slower than the generator.

    Zhu et al. 2017, section 4.

    Args:
        real_logits: the critic's output for real images, any shape.
        fake_logits: its output for synthetic images, any shape.
        kind: `bce`: -log D(real) - log(1 - D(fake)), with D the logistic function of the logit;
            `least_squares`: (real - 1)^2 + fake^2 (Mao et al. 2017, equation 9, targets 1 and 0);
            `hinge`: max(0, 1 - real) + max(0, 1 + fake).
    """
    real, fake = real_logits.float(), fake_logits.float()
    if kind == "bce":
        # -log sigmoid(x) = softplus(-x) and -log(1 - sigmoid(x)) = softplus(x), without overflow.
        return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())
    if kind == "least_squares":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def generator_loss(fake_logits: Float[Tensor, "*fake"], kind: AdversarialKind) -> Float[Tensor, ""]:
    """The generator's adversarial loss.

    Args:
        fake_logits: the critic's output for synthetic images, any shape.
        kind: `bce`: -log D(fake), the non-saturating form (Goodfellow et al. 2014, section 3);
            `least_squares`: (fake - 1)^2; `hinge`: -fake.
    """
    fake = fake_logits.float()
    if kind == "bce":
        return functional.softplus(-fake).mean()
    if kind == "least_squares":
        return (fake - 1).square().mean()
    return -fake.mean()


def l1_loss(image: Float[Tensor, "*shape"], real: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean absolute difference of a real image and its cycle (Zhu et al. 2017, equation 2) or its
    synthesis (Isola et al. 2017, equation 3)."""
    return functional.l1_loss(image.float(), real.float())


class ImagePool:
    """A buffer of past synthetic images, some of which replace new ones in the critics' batches.

    Shrivastava et al. 2017 (arXiv:1612.07828), section 2.3, as used by Zhu et al. 2017: each new
    image is swapped with a random image of the pool with probability 0.5.

    Args:
        size: how many images the pool holds; with 0, `exchange` returns its argument.
        seed: of the pool's own random state, which is part of `state_dict`.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.rng = torch.Generator().manual_seed(seed)
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Put images in and take as many out: shape (batch, 1, rows, columns), detached."""
        if not self.size:
            return images
        taken: list[Tensor] = []
        for image in images:  # (1, rows, columns)
            if len(self.images) < self.size:
                self.images.append(image.clone())
                taken.append(image)
            elif torch.rand((), generator=self.rng) < 0.5:
                place = int(torch.randint(self.size, (), generator=self.rng))
                taken.append(self.images[place])
                self.images[place] = image.clone()
            else:
                taken.append(image)
        return torch.stack(taken)

    def state_dict(self) -> dict[str, Any]:
        """The images and the random state."""
        return {"images": list(self.images), "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over the images, moved to `device`, and the random state."""
        self.images = [image.to(device) for image in state["images"]]
        self.rng.set_state(state["rng"].cpu())
