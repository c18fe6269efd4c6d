"""Checkpoints: tensors and plain numbers, whole or absent at every instant.

A checkpoint is a zip file, as PyTorch writes it; the comment at its end holds the SHA-256 of all
that comes before. Those of older versions have none: of them the CRCs of the zip are checked.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from mrbridge.errors import InputError
from mrbridge.io.safety import atomic_path

log = logging.getLogger(__name__)

_NEEDED = {"step", "networks", "optimizers", "pools", "keeper"}
_END = b"PK\x05\x06"  # the end of a zip's directory; its last two bytes count the comment's
_END_BYTES = 22
_MARK = b"mrbridge sha256 "
_COMMENT_BYTES = len(_MARK) + 64
_BLOCK = 1 << 24


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to a temporary file in the same folder, flush it, and rename it.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what PyTorch makes of a full disk
            raise OSError(f"PyTorch: {_first_line(error)}") from error
        _sign(temporary)


def copy_checkpoint(existing: Path, name: Path) -> None:
    """Write a checkpoint once more, under another name: damage to one leaves the other.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(name) as temporary:
        shutil.copyfile(existing, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted, nothing is executed.

    Raises:
        InputError: it is absent or damaged.
    """
    if not path.is_file():
        best = _other(path)
        raise InputError(
            "there is no checkpoint to resume from",
            path=path,
            remedy="Name another run, or remove this one and train it without --resume."
            if best is None
            else f"Go on from the best state: copy {best} to this name.",
        )
    try:
        _check(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, LookupError) as error:
        raise _unusable(path, f"the checkpoint is damaged ({_first_line(error)})") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _unusable(path, f"the checkpoint is damaged ({_first_line(error)})") from None
    if not isinstance(state, dict):
        raise _unusable(path, "is not a training checkpoint")
    return state


def load_state(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a training, as `load_checkpoint`.

    Raises:
        InputError: it is absent, damaged, or no checkpoint of a training.
    """
    state = load_checkpoint(path)
    if not state.keys() >= _NEEDED or not _is_kept(state):
        raise _unusable(path, "is not a training checkpoint")
    return state


def _is_kept(state: dict[str, Any]) -> bool:
    kept = state["keeper"]
    return (
        isinstance(state["step"], int)
        and isinstance(state["networks"], dict)
        and isinstance(kept, dict)
        and {"watch", "begun", "rows"} <= kept.keys()
        and isinstance(kept["watch"], dict)
        and isinstance(kept["rows"], list)
    )


def _unusable(path: Path, what: str) -> InputError:
    best = _other(path)
    remedy = "Train again." if best is None else f"Go on from the best state: copy {best} over it."
    return InputError(what, path=path, remedy=remedy)


def _other(path: Path) -> Path | None:
    """The checkpoint of the best state, where it is there and can take the place of `path`."""
    best = path.with_name("best.ckpt")
    if path == best or not best.is_file():
        return None
    if path.exists() and path.samefile(best):  # hard links of older versions
        return None
    return best


def _sign(path: Path) -> None:
    """Put the checksum of all that was written into the comment of the zip."""
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size - _END_BYTES)
        end = file.read()
        if not end.startswith(_END) or end[-2:] != b"\0\0":
            raise OSError("PyTorch: wrote no zip")
        digest = _digest(path, size - 2)
        file.seek(size - 2)
        file.write(_COMMENT_BYTES.to_bytes(2, "little") + _MARK + digest.encode())


def _check(path: Path) -> None:
    """Refuse a file that is not what was written.

    Raises:
        ValueError: it is not.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _COMMENT_BYTES))
        comment = file.read()
    if comment.startswith(_MARK):
        if _digest(path, size - _COMMENT_BYTES - 2).encode() != comment[len(_MARK) :]:
            raise ValueError("its checksum differs")
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the CRC of {damaged} differs")
    log.debug("%s: has no checksum of its own; its CRCs are right", path)


def _digest(path: Path, size: int) -> str:
    """The SHA-256 of the first bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size > 0 and (block := file.read(min(_BLOCK, size))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    """What PyTorch says first; it goes on for a paragraph."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:200]
