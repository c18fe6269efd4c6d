"""Compiled passes over memory: what `passes.cpp` offers, on tensors.

Where the package was installed on Linux with a C++ compiler, the maps around the convolutions'
products and the instance norms go through compiled code: each is bound by memory, and goes over it
once (a norm twice or three times), where PyTorch's whole-array operations go ten times. Everywhere
else `compiled` is None, and the same is computed by PyTorch.

Threads are PyTorch's own: the library is loaded after PyTorch, with whose OpenMP it shares them.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrbridge.hardware import vector_extension

_VARIANTS = {"AVX512": "avx512", "AVX2": "avx2"}
"""PyTorch's name of what the processor can do, and the library for it (see hatch_build.py)."""

_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_CHUNK = 256  # pixels over which a norm's sums are taken, as in passes.cpp

_ADDRESS, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int


class _Image(ctypes.Structure):
    _fields_ = [
        ("data", _ADDRESS),
        *[(name, _LONG) for name in ("n", "rows", "columns", "channels")],
        *[(name, _LONG) for name in ("image_step", "row_step", "column_step")],
    ]


_IMAGE = ctypes.POINTER(_Image)
_NORM = [_LONG] * 3 + [_ADDRESS] * 2 + [_FLOAT] + [_ADDRESS] * 2
_RULES = ("two_of_two", "three_of_two", "two_of_three")
_MAPS: dict[str, list[Any]] = {
    "expand": [_IMAGE, _LONG, _LONG, _LONG, _LONG, _ADDRESS, _LONG],
    "contract": [_ADDRESS, _LONG, _LONG, _LONG, _IMAGE, _LONG, _LONG, _INT],
    "collect": [_ADDRESS, _LONG, _LONG, _LONG, _IMAGE],
    "spread": [_IMAGE, _LONG, _LONG, _ADDRESS, _LONG],
    "pack": [_ADDRESS, _LONG, _LONG, _ADDRESS],
    "unpack": [_ADDRESS, _LONG, _LONG, _ADDRESS],
}
_OTHERS: dict[str, list[Any]] = {
    "patches": [_IMAGE, _ADDRESS],
    "fold": [_ADDRESS, _IMAGE],
    "shift_sum": [_ADDRESS, _LONG, _LONG, _INT, _LONG, _LONG, _IMAGE],
    "shift_copy": [_IMAGE, _LONG, _LONG, _INT, _LONG, _LONG, _ADDRESS],
    "norm": [*_NORM, _ADDRESS, _FLOAT, _ADDRESS],
    "norm_backward": [*_NORM, _ADDRESS, _LONG, _ADDRESS, _ADDRESS, _ADDRESS],
    "adam": [_FLOAT] * 5 + [_LONG] + [_ADDRESS] * 4,
}
"""Arguments of the functions in passes.cpp: of the maps that every rule has, and of the others."""


def _image(x: Tensor) -> _Image:
    return _Image(x.data_ptr(), *x.shape, *x.stride()[:3])


_GIVEN: dict[Any, Callable[[Tensor], Any]] = {_IMAGE: _image, _ADDRESS: Tensor.data_ptr}
"""How tensors are given for arguments of a kind; numbers are given as they are."""


class Passes:
    """The functions of a library for one kind of numbers.

    Tensors lie on the CPU. Images are (n, rows, columns, channels), the channels together, and may
    be parts of wider or larger ones; all others are contiguous. Nothing is checked here:
    `compiled_schemes` and `norm` know the sizes.

    Args:
        library: built from passes.cpp.
        kind: `float32` or `bfloat16`.
    """

    def __init__(self, library: ctypes.CDLL, kind: str) -> None:
        self._functions = {}
        of_rules = {f"{rule}_{name}": kinds for rule in _RULES for name, kinds in _MAPS.items()}
        for name, kinds in (of_rules | _OTHERS).items():
            function = getattr(library, f"{name}_{kind}")
            function.argtypes = [*kinds, _INT]  # the number of threads comes last
            function.restype = None
            self._functions[name] = function, [_GIVEN.get(one) for one in kinds]

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function of passes.cpp on tensors and numbers, with PyTorch's threads."""
        function, kinds = self._functions[name]
        given = [to(one) if to else one for to, one in zip(kinds, arguments, strict=True)]
        function(*given, torch.get_num_threads())

    def norm(
        self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
    ) -> tuple[Tensor, Tensor]:
        """Instance norm and leaky ReLU.

        Args:
            x: shape (n, channels, rows, columns), channels last in memory.
            weight: scale of each channel, float32.
            bias: offset of each channel, float32.
            eps: added to the variances.
            slope: what is below zero is multiplied by it; 0 is a ReLU, 1 nothing.

        Returns:
            The result, like `x`; means and inverse deviations, (2, n, channels).
        """
        made, statistics = torch.empty_like(x), weight.new_empty(2, *x.shape[:2])
        self("norm", *_sizes(x, weight, bias, slope, statistics), x, eps, made)
        return made, statistics

    def norm_backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        slope: float,
        statistics: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `norm`: of x, and of scale and offset for each image, (n, 2, channels)."""
        of_x, of_both = torch.empty_like(x), weight.new_empty(len(x), 2, len(weight))
        sizes = _sizes(x, weight, bias, slope, statistics)
        self("norm_backward", *sizes, gradient, gradient.stride(3), x, of_x, of_both)
        return of_x, of_both


def compiled(dtype: torch.dtype) -> Passes | None:
    """The compiled passes for numbers of this kind, if they are there."""
    kind = _KINDS.get(dtype)
    return None if kind is None else _passes(kind)


def _sizes(x: Tensor, weight: Tensor, bias: Tensor, slope: float, statistics: Tensor) -> list[Any]:
    n, channels, rows, columns = x.shape
    chunks = -(-rows * columns // _CHUNK)
    partial = weight.new_empty(n, chunks, 2, channels)
    return [n, rows * columns, channels, weight, bias, slope, statistics, partial]


@cache
def _passes(kind: str) -> Passes | None:
    library = _library()
    return None if library is None else Passes(library, kind)


@cache
def _library() -> ctypes.CDLL | None:
    """The library for this processor; None if there is none, or one of another source."""
    variant = _VARIANTS.get(vector_extension())
    source = Path(__file__).with_name("passes.cpp")
    try:
        library = ctypes.CDLL(str(source.with_name(f"passes-{variant}.so")))
        library.digest.restype = ctypes.c_char_p
        built_from = library.digest().decode()
        is_same = built_from == hashlib.sha256(source.read_bytes()).hexdigest()
    except (OSError, AttributeError):
        return None
    return library if is_same else None
