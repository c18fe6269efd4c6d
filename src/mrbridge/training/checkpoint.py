"""Checkpoints: tensors and plain numbers, whole or absent at every instant."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mrbridge.errors import InputError
from mrbridge.io.safety import atomic_path


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to a temporary file in the same folder, flush it, and rename it.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what PyTorch makes of a full disk
            raise OSError(f"PyTorch: {str(error).splitlines()[0]}") from error


def link_checkpoint(existing: Path, name: Path) -> None:
    """Give a checkpoint a second name without writing it twice.

    Checkpoints are replaced, never changed in place, so the two names part at the next save.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(name) as temporary:
        try:
            os.link(existing, temporary)
        except OSError:  # a file system without hard links
            temporary.write_bytes(existing.read_bytes())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted, nothing is executed.

    Raises:
        InputError: it is absent or damaged.
    """
    if not path.is_file():
        raise InputError(
            "there is no checkpoint to resume from",
            path=path,
            remedy="Name another run, or remove this one and train it without --resume.",
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        best = path.with_name("best.ckpt")
        raise InputError(
            # PyTorch goes on for a paragraph.
            f"the checkpoint is damaged ({str(error).splitlines()[0].split('. ')[0]})",
            path=path,
            remedy="Resume from checkpoints/best.ckpt: copy it over this one."
            if best.is_file() and best != path
            else "Train anew.",
        ) from None
    return state
