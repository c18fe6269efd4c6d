"""Simulated subjects: T1w and T2w of whole heads in register, with ground truth.

Names are imported at their first use: the settings need no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrbridge.phantom.dataset import write_bids
    from mrbridge.phantom.settings import PhantomSettings
    from mrbridge.phantom.subjects import SimulatedSubject, simulate, varied_subject

__all__ = ["PhantomSettings", "SimulatedSubject", "simulate", "varied_subject", "write_bids"]

_MODULES = {"PhantomSettings": "settings", "write_bids": "dataset"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mrbridge.phantom' has no attribute '{name}'")
    return getattr(import_module(f"mrbridge.phantom.{_MODULES.get(name, 'subjects')}"), name)
