"""The engine of ONNX Runtime: float32 on the CPU."""

from __future__ import annotations

import os

import numpy as np
import torch

from mrbridge.bundle import Bundle
from mrbridge.inference.engines import Stack, in_batches
from mrbridge.inference.export import exported

# It reads this when it is imported. Without it, its wheels report to Microsoft and keep an
# identifier of the device in the user's cache.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

_BATCH_PIXELS = 4 * 256 * 256
_WARNINGS = 3  # onnxruntime.SessionOptions.log_severity_level: errors and worse


class OnnxEngine:
    """An exported generator in ONNX Runtime, with as many threads as PyTorch has."""

    def __init__(self, model: str | bytes, multiple: int) -> None:
        self.multiple = multiple
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # As OpenMP's threads by default here (`mrbridge.threads`), these sleep while they wait.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _WARNINGS
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    def run(self, slices: Stack, precise: bool = False) -> Stack:
        """See `Engine.run`; it is always precise."""
        return in_batches(self._batch, slices, _BATCH_PIXELS)

    def _batch(self, slices: Stack) -> Stack:
        made: Stack = self._session.run(None, {"image": slices[:, None]})[0][:, 0]
        return np.clip(made, -1, 1, out=made)  # its tanh may pass 1 by a bit


def open_engine(bundle: Bundle, generator: str, device: torch.device) -> OnnxEngine:
    """The generator `to_target` or `to_source`, exported at its first use.

    Raises:
        BundleError: the weights do not fit the networks.
    """
    model = exported(bundle, generator)
    return OnnxEngine(model.content if model.path is None else str(model.path), model.multiple)
