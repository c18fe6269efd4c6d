"""mrbridge turns an MR scan of one contrast into the contrast that was not acquired.

The verbs of the command line are functions here: `prepare`, `train`, `translate`, `evaluate`. They
are imported at their first use, so that `import mrbridge` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_VERBS = {
    "prepare": "mrbridge.preparation.pipeline",
    "train": "mrbridge.training.run",
    "translate": "mrbridge.inference.translate",
    "evaluate": "mrbridge.evaluation.evaluate",
    "score": "mrbridge.evaluation.evaluate",
    "inspect": "mrbridge.inspection.inspect",
    "read": "mrbridge.io",
    "write": "mrbridge.io",
    "Volume": "mrbridge.volume",
}

__all__ = [
    "Volume",
    "__version__",
    "evaluate",
    "inspect",
    "prepare",
    "read",
    "score",
    "train",
    "translate",
    "write",
]

if TYPE_CHECKING:
    from mrbridge.evaluation.evaluate import evaluate, score
    from mrbridge.inference.translate import translate
    from mrbridge.inspection.inspect import inspect
    from mrbridge.io import read, write
    from mrbridge.preparation.pipeline import prepare
    from mrbridge.training.run import train
    from mrbridge.volume import Volume


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'mrbridge' has no attribute '{name}'")
    return getattr(import_module(_VERBS[name]), name)


def __dir__() -> list[str]:
    """The public names too, so that they complete before their first use."""
    return sorted(globals() | dict.fromkeys(_VERBS))
