"""The engine of OpenVINO: bfloat16 on CPUs that are fast with it."""

from __future__ import annotations

from pathlib import Path

import openvino
import torch

from mrbridge.bundle import Bundle
from mrbridge.hardware import fast_bfloat16
from mrbridge.inference.engines import Stack, in_batches
from mrbridge.inference.export import exported

_BATCH_PIXELS = 4 * 256 * 256


class OpenVinoEngine:
    """An exported generator in OpenVINO, with as many threads as PyTorch has."""

    def __init__(self, file: Path, multiple: int) -> None:
        self.multiple = multiple
        precision = "bf16" if fast_bfloat16(torch.device("cpu")) else "f32"
        self._model = openvino.Core().compile_model(
            str(file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )

    def run(self, slices: Stack) -> Stack:
        """See `Engine.run`."""
        return in_batches(self._batch, slices, _BATCH_PIXELS)

    def _batch(self, slices: Stack) -> Stack:
        made: Stack = self._model(slices[:, None])[0][:, 0]
        return made


def open_engine(bundle: Bundle, generator: str, device: torch.device) -> OpenVinoEngine:
    """The generator `to_target` or `to_source`, exported at its first use.

    Raises:
        BundleError: the weights do not fit the networks.
    """
    file = exported(bundle, generator)
    return OpenVinoEngine(file.path, file.multiple)
