"""mrbridge turns an MR scan of one contrast into the contrast that was not acquired.

The verbs of the command line are functions here, with their settings, results and errors. Names are
imported at their first use, so that `import mrbridge` is quick.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from mrbridge.threads import sharing_the_machine

__version__ = "0.1.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULES = {
    name.name: str(line.module)
    for line in _STUB.body
    if isinstance(line, ast.ImportFrom)
    for name in line.names
}
"""The public names and their modules, from what type checkers read."""

__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'mrbridge' has no attribute '{name}'")
    with sharing_the_machine():  # PyTorch reads it when it is loaded
        if module == "mrbridge":
            return import_module(f"mrbridge.{name}")
        return getattr(import_module(module), name)


def __dir__() -> list[str]:
    """The public names too, so that they complete before their first use."""
    return sorted(globals() | _MODULES)
