"""The public names, each of which `__init__.py` imports at its first use."""

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

__version__: str
__all__: list[str]
