"""The pool of past synthetic images that the critics see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
        """Put images in and take as many out.

        Args:
            images: shape (batch, 1, rows, columns), detached.

        Returns:
            The same shape.
        """
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
