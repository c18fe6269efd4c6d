"""A training of seconds."""

from __future__ import annotations

from typing import Any

SMALL_RESNET: dict[str, Any] = {
    "networks": {
        "image_size": 32,
        "generator": {"kind": "resnet", "features": 4, "blocks": 2},
        "critic": {"features": 4, "strided": 1},
    },
    "precision": "float32",
    "epochs": 1,
    "validation_slices": 2,
    "sample_slices": 1,
}
"""Changes of the preset `resnet` that make a training of seconds without any chance in it."""
