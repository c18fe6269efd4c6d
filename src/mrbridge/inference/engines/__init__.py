"""Engines: what computes a generator, one module each, all behind `Engine`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mrbridge.bundle import Bundle
from mrbridge.errors import SettingsError
from mrbridge.hardware import choose_device
from mrbridge.progress import track

Stack = NDArray[np.float32]


class Engine(Protocol):
    """One generator of a bundle, ready to translate slices.

    Attributes:
        multiple: rows and columns must be multiples of this.
    """

    multiple: int

    def run(self, slices: Stack, precise: bool = False) -> Stack:
        """Translate slices, in batches that the engine is fast with.

        Args:
            slices: any number of them, shape (slices, rows, columns), range [-1, 1].
            precise: in float32, where the engine would take something faster.

        Returns:
            The same shape and range, float32.
        """


class _Kind(NamedTuple):
    module: str
    packages: tuple[str, ...]


_KINDS = {
    "torch": _Kind("mrbridge.inference.engines.torch_engine", ()),
    "onnx": _Kind("mrbridge.inference.engines.onnx_engine", ("onnxruntime", "onnx", "onnxscript")),
}

ENGINES = tuple(_KINDS)
"""The engines, fastest first as measured (docs/explanation/performance.md): `auto` takes the first
that is installed."""


def choose_engine(wanted: str, device: str) -> tuple[str, Any]:
    """The engine to use, and the `torch.device` for it.

    Args:
        wanted: `auto`, or one of `ENGINES`.
        device: `auto`, `cpu` or `cuda`; all engines but `torch` compute on the CPU only.

    Raises:
        SettingsError: there is no such engine or device, the engine is not installed, or it does
            not compute on this device.
    """
    if wanted != "auto" and wanted not in ENGINES:
        raise SettingsError(
            f"there is no engine '{wanted}'", remedy=f"Choose one of auto, {', '.join(ENGINES)}."
        )
    if wanted == "auto":
        found = choose_device(device)
        usable = ENGINES if found.type == "cpu" else ("torch",)
        return next(name for name in usable if not _missing(name)), found
    missing = _missing(wanted)
    if missing:
        raise SettingsError(
            f"the engine '{wanted}' needs {' and '.join(missing)}",
            remedy=f"Run pip install 'mrbridge[{wanted}]', or take --engine auto.",
        )
    if wanted == "torch":
        return wanted, choose_device(device)
    if device == "cuda":
        raise SettingsError(
            f"the engine '{wanted}' computes on the CPU only",
            remedy="Take --engine torch, or --device cpu.",
        )
    return wanted, choose_device("cpu" if device == "auto" else device)


def open_engine(kind: str, bundle: Bundle, generator: str, device: Any) -> Engine:
    """Make one generator of a bundle ready.

    Args:
        kind: one of `ENGINES`.
        bundle: where the generator comes from.
        generator: `to_target` or `to_source`.
        device: what `choose_engine` gave.

    Raises:
        BundleError: the weights do not fit the networks.
    """
    engine: Engine = import_module(_KINDS[kind].module).open_engine(bundle, generator, device)
    return engine


def in_batches(compute: Callable[[Stack], Stack], slices: Stack, pixels: int) -> Stack:
    """Compute slices in batches, showing how far it is.

    Args:
        compute: takes and gives (slices, rows, columns), float32.
        slices: shape (slices, rows, columns), in any order in memory; `compute` gets them in C
            order.
        pixels: the most that a batch has, if that is at least one slice.
    """
    count, rows, columns = slices.shape
    size = max(1, pixels // (rows * columns))
    starts = range(0, count, size)
    made = np.empty(slices.shape, np.float32)
    for start in track(starts, "slices", len(starts)):
        batch = slice(start, start + size)
        made[batch] = compute(np.ascontiguousarray(slices[batch], np.float32))
    return made


def packages_of(engine: str) -> tuple[str, ...]:
    """What an engine needs beside mrbridge itself: the extra of its name installs it."""
    return _KINDS[engine].packages


def _missing(engine: str) -> list[str]:
    return [package for package in packages_of(engine) if find_spec(package) is None]
