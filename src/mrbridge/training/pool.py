"""The pool of past syntheses that the critics are shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Keeps past syntheses and hands some of them to the critic instead of the newest.

    Shrivastava et al. 2017 (arXiv:1612.07828), section 2.3, as used by Zhu et al. 2017: with
    probability one half an image is swapped for a random one of the pool.

    Args:
        size: how many images it keeps; with 0 it gives back what it gets.
        seed: of its own random state, which `state_dict` holds.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.rng = torch.Generator().manual_seed(seed)
        self.images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Put `images` in, take as many out.

        Args:
            images: shape (batch, 1, rows, columns), detached.
        """
        if not self.size:
            return images
        given: list[Tensor] = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                given.append(image)
            elif torch.rand((), generator=self.rng) < 0.5:
                place = int(torch.randint(self.size, (), generator=self.rng))
                given.append(self.images[place])
                self.images[place] = image.clone()
            else:
                given.append(image)
        return torch.stack(given)

    def state_dict(self) -> dict[str, Any]:
        """Images and random state."""
        return {"images": list(self.images), "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state`."""
        self.images = [image.to(device) for image in state["images"]]
        self.rng.set_state(state["rng"].cpu())
