"""What is computed in float32 though the rest of a network is in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def precisely(layers: nn.Module, x: Tensor) -> Tensor:
    """Layers in float32 where an image is made to be kept: U-Nets' first and last, a ResNet's all.

    What the first round, the instance norms of all later layers enlarge, most where a slice shows
    little: to 5 % of the range in single voxels; what the last rounds is seen as it is
    (docs/explanation/performance.md). Of a U-Net they are a third of the operations or less.
    Training does not need it.
    """
    if not torch.is_inference_mode_enabled():
        return layers(x)
    with torch.autocast(x.device.type, enabled=False):
        return layers(x.float())
