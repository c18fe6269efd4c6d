"""The functions of `kernels.cpp`, called on tensors.

The build hook (hatch_build.py) compiles them on x86-64 Linux if it finds a C++ compiler. Each one
makes a single pass over memory (the norms two or three), whereas PyTorch's operations on whole
arrays read and write everything about ten times. Without the library, `supports` is False and the
modules of this package call PyTorch instead.

The library uses PyTorch's threads: it is loaded after PyTorch and shares its OpenMP runtime.
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

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_ADDRESS, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int


class _Image(ctypes.Structure):
    """`Image` of kernels.cpp; strides count elements."""

    _fields_ = [
        ("data", _ADDRESS),
        *[(name, _LONG) for name in ("n", "rows", "columns", "channels")],
        *[(name, _LONG) for name in ("image_stride", "row_stride", "column_stride")],
    ]


_IMAGE = ctypes.POINTER(_Image)
_NORM = [_LONG] * 3 + [_ADDRESS] * 2 + [_FLOAT] + [_ADDRESS] * 2
_WINOGRAD: dict[str, list[Any]] = {
    "input_transform": [_IMAGE, _LONG, _LONG, _LONG, _LONG, _ADDRESS, _LONG],
    "input_adjoint": [_ADDRESS, _LONG, _LONG, _LONG, _IMAGE, _LONG, _LONG, _INT],
    "output_transform": [_ADDRESS, _LONG, _LONG, _LONG, _IMAGE],
    "output_adjoint": [_IMAGE, _LONG, _LONG, _ADDRESS, _LONG],
    "filter_transform": [_ADDRESS, _LONG, _LONG, _ADDRESS],
    "filter_adjoint": [_ADDRESS, _LONG, _LONG, _ADDRESS],
}
_ARGUMENTS: dict[str, list[Any]] = {
    f"winograd_{rule}_{name}": types
    for rule in ("f22", "f32", "f23")
    for name, types in _WINOGRAD.items()
} | {
    "im2col": [_IMAGE, _ADDRESS],
    "col2im": [_ADDRESS, _IMAGE],
    "kn2row": [_ADDRESS, _LONG, _LONG, _INT, _LONG, _LONG, _IMAGE],
    "kn2row_adjoint": [_IMAGE, _LONG, _LONG, _INT, _LONG, _LONG, _ADDRESS],
    "norm": [*_NORM, _ADDRESS, _FLOAT, _ADDRESS],
    "norm_backward": [*_NORM, _ADDRESS, _LONG, _ADDRESS, _ADDRESS, _ADDRESS],
    "adam": [_FLOAT] * 5 + [_LONG] + [_ADDRESS] * 4,
}
"""The C types of each function's arguments, without the number of threads, which comes last."""


_CONVERSIONS: dict[Any, Callable[[Tensor], Any]] = {
    _IMAGE: lambda x: _Image(x.data_ptr(), *x.shape, *x.stride()[:3]),
    _ADDRESS: Tensor.data_ptr,
}


def supports(dtype: torch.dtype) -> bool:
    """Whether `call` works for tensors of this dtype on this machine."""
    return dtype in _DTYPES and _library() is not None


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of kernels.cpp with PyTorch's number of threads.

    It checks no sizes: the modules of this package know them.

    Args:
        name: without the suffix for the dtype.
        dtype: float32 or bfloat16.
        arguments: numbers, and tensors on the CPU. Images are (n, rows, columns, channels) with
            adjacent channels and may be views of larger ones; other tensors are contiguous.
    """
    function, types = _function(name, dtype)
    converted = [
        _CONVERSIONS[kind](argument) if kind in _CONVERSIONS else argument
        for kind, argument in zip(types, arguments, strict=True)
    ]
    function(*converted, torch.get_num_threads())


@cache
def _function(name: str, dtype: torch.dtype) -> tuple[Any, list[Any]]:
    types = _ARGUMENTS[name]
    function = getattr(_library(), f"{name}_{_DTYPES[dtype]}")
    function.argtypes = [*types, _INT]
    function.restype = None
    return function, types


@cache
def _library() -> ctypes.CDLL | None:
    """The library for this processor; None if it is missing or was built from another source."""
    source = Path(__file__).with_name("kernels.cpp")
    built = source.with_name(f"kernels-{vector_extension().lower()}.so")
    try:
        library = ctypes.CDLL(str(built))
        library.digest.restype = ctypes.c_char_p
        is_current = library.digest().decode() == hashlib.sha256(source.read_bytes()).hexdigest()
    except (OSError, AttributeError):
        return None
    return library if is_current else None
