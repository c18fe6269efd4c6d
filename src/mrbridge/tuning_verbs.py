"""The verbs that compare trainings on a store; see `mrbridge.verbs`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mrbridge.console import answer, as_far_as_done
from mrbridge.errors import SettingsError, StoreError, must_exist
from mrbridge.interruption import quick_imports
from mrbridge.models import locate
from mrbridge.options import verb

if TYPE_CHECKING:
    from mrbridge import verb_settings as options_of


@verb("mrbridge.verb_settings.Tune")
def tune(options: options_of.Tune, changes: dict[str, Any]) -> None:
    """Search for good training settings on a store (Optuna).

    Every trial is a short training. Trials that are worse than the median of the others end early.
    The same command continues a search, and a larger --trials extends it. DIR/best.yaml has the
    settings of the best trial, for mrbridge train --config; --config and --set change the settings
    of all trials.
    """
    from mrbridge.tuning.space import find_space

    start = _start(options)
    if find_spec("optuna") is None:
        raise SettingsError(
            "tune needs a package that is not installed (optuna)",
            remedy="Run: pip install 'mrbridge[tune]'",
        )
    space = find_space(options.space, changes)
    with quick_imports():
        from mrbridge.hardware import keep_memory
        from mrbridge.tuning.tune import tune as run

    keep_memory()
    more = options.model_dump(exclude={"store", "out", "space", "start"})
    result, failure = as_far_as_done(
        lambda: run(options.store, options.out, changes, space=space, start=start, **more)
    )
    answer(result.as_json(), str(result), failure)


@verb("mrbridge.verb_settings.Benchmark")
def benchmark(options: options_of.Benchmark, changes: dict[str, Any]) -> None:
    """Compare presets and configurations on a store: same splits, time and seeds.

    Arms are trained one after another and scored on the test split, next to a monotone intensity
    mapping and the unchanged input, with the spread over seeds. The same command continues a
    benchmark; with more --arms or --seeds it adds theirs. --config and --set change all arms.
    DIR/report.html has the figure and the table.
    """
    start = _start(options)
    with quick_imports():
        from mrbridge.benchmarking.benchmark import benchmark as run
        from mrbridge.hardware import keep_memory

    keep_memory()
    more = options.model_dump(exclude={"store", "out", "arms", "start"})
    result, failure = as_far_as_done(
        lambda: run(options.store, options.out, options.arms, settings=changes, start=start, **more)
    )
    answer(result.as_json(), str(result), failure)


def _start(options: options_of.Tune | options_of.Benchmark) -> str:
    """The initial weights, which must exist, as must the store."""
    must_exist(options.store, StoreError, "Run mrbridge prepare first.")
    start = "auto" if options.start is None else options.start
    if start not in ("auto", "scratch"):
        locate(start, "Use auto, shipped or scratch, or name a run or a bundle.")
    return start
