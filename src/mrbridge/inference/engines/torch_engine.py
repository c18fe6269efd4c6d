"""The engine of PyTorch: bfloat16 where the device is fast with it."""

from __future__ import annotations

import torch

from mrbridge.bundle import Bundle
from mrbridge.hardware import fast_bfloat16
from mrbridge.inference.engines import Stack, in_batches
from mrbridge.networks import Generator, unchanged_weights

_BATCH_PIXELS = {"cpu": 4 * 256 * 256, "cuda": 32 * 256 * 256}
"""On a CPU, larger batches leave its caches; a GPU wants to be filled."""


class TorchEngine:
    """A generator on a device of PyTorch."""

    def __init__(self, network: Generator, device: torch.device) -> None:
        self.multiple = int(network.multiple)
        self._network = network.to(device)
        self._device = device

    def run(self, slices: Stack, precise: bool = False) -> Stack:
        """See `Engine.run`."""
        fast = fast_bfloat16(self._device) and not precise
        pixels = _BATCH_PIXELS[self._device.type]
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=fast),
            unchanged_weights(),
        ):
            return in_batches(self._batch, slices, pixels)

    def _batch(self, slices: Stack) -> Stack:
        images = torch.from_numpy(slices)[:, None].to(self._device)
        made: Stack = self._network(images)[:, 0].float().cpu().numpy()
        return made


def open_engine(bundle: Bundle, generator: str, device: torch.device) -> TorchEngine:
    """The generator `to_target` or `to_source` on a device.

    Raises:
        BundleError: the weights do not fit the networks.
    """
    return TorchEngine(bundle.build(generator), device)
