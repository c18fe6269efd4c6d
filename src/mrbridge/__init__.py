"""mrbridge turns an MR scan of one contrast into the contrast that was not acquired.

The verbs of the command line are functions here, with their settings, results and errors. Names are
imported at their first use, so that `import mrbridge` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrbridge.threads import sharing_the_machine

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mrbridge import errors as errors, phantom as phantom
    from mrbridge.benchmarking.benchmark import benchmark as benchmark
    from mrbridge.benchmarking.result import Benchmark as Benchmark
    from mrbridge.bundle import Bundle as Bundle, load_bundle as load_bundle
    from mrbridge.dataset.prepare import prepare as prepare
    from mrbridge.dataset.settings import PrepareSettings as PrepareSettings
    from mrbridge.dataset.store import Store as Store
    from mrbridge.errors import (
        BundleError as BundleError,
        InputError as InputError,
        Interrupted as Interrupted,
        MrbridgeError as MrbridgeError,
        MrbridgeWarning as MrbridgeWarning,
        OutputError as OutputError,
        SettingsError as SettingsError,
        SizeError as SizeError,
        SomeScansFailed as SomeScansFailed,
        StoreError as StoreError,
    )
    from mrbridge.evaluation.evaluate import evaluate as evaluate, score as score
    from mrbridge.evaluation.result import Evaluation as Evaluation
    from mrbridge.evaluation.settings import EvaluateSettings as EvaluateSettings
    from mrbridge.inference.export import export as export
    from mrbridge.inference.output import Translation as Translation, Translations as Translations
    from mrbridge.inference.settings import TranslateSettings as TranslateSettings
    from mrbridge.inference.translate import translate as translate
    from mrbridge.inference.translator import Translator as Translator
    from mrbridge.inspection.inspect import Inspection as Inspection, inspect as inspect
    from mrbridge.io import read as read, write as write
    from mrbridge.phantom.settings import PhantomSettings as PhantomSettings
    from mrbridge.training.run import Run as Run, train as train
    from mrbridge.training.settings import PRESETS as PRESETS, TrainSettings as TrainSettings
    from mrbridge.tuning.tune import Search as Search, tune as tune
    from mrbridge.volume import Volume as Volume
    from mrbridge.web.page import View as View, view as view

_NAMES = {
    "mrbridge": ("errors", "phantom"),
    "mrbridge.benchmarking.benchmark": ("benchmark",),
    "mrbridge.benchmarking.result": ("Benchmark",),
    "mrbridge.bundle": ("Bundle", "load_bundle"),
    "mrbridge.errors": (
        *("BundleError", "InputError", "Interrupted", "MrbridgeError", "MrbridgeWarning"),
        *("OutputError", "SettingsError", "SizeError", "SomeScansFailed", "StoreError"),
    ),
    "mrbridge.evaluation.evaluate": ("evaluate", "score"),
    "mrbridge.evaluation.settings": ("EvaluateSettings",),
    "mrbridge.evaluation.result": ("Evaluation",),
    "mrbridge.inference.export": ("export",),
    "mrbridge.inference.output": ("Translation", "Translations"),
    "mrbridge.inference.settings": ("TranslateSettings",),
    "mrbridge.inference.translate": ("translate",),
    "mrbridge.inference.translator": ("Translator",),
    "mrbridge.inspection.inspect": ("Inspection", "inspect"),
    "mrbridge.io": ("read", "write"),
    "mrbridge.phantom.settings": ("PhantomSettings",),
    "mrbridge.dataset.prepare": ("prepare",),
    "mrbridge.dataset.settings": ("PrepareSettings",),
    "mrbridge.dataset.store": ("Store",),
    "mrbridge.training.run": ("Run", "train"),
    "mrbridge.training.settings": ("PRESETS", "TrainSettings"),
    "mrbridge.tuning.tune": ("Search", "tune"),
    "mrbridge.volume": ("Volume",),
    "mrbridge.web.page": ("View", "view"),
}
"""The public names by module; those above tell type checkers the same."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}

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
