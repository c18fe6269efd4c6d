"""The verbs that train on a store; see `mrbridge.verbs`."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mrbridge.console import answer, as_far_as_done, is_follower
from mrbridge.errors import SettingsError, StoreError, must_exist
from mrbridge.interruption import quick_imports
from mrbridge.models import locate
from mrbridge.options import verb
from mrbridge.reports import counted

if TYPE_CHECKING:
    from mrbridge import verb_settings as options_of
    from mrbridge.training.settings import TrainSettings

log = logging.getLogger(__name__)


@verb("mrbridge.verb_settings:Train", "mrbridge train store -o run --preset unet --set epochs=30")
def train(options: options_of.Train, changes: dict[str, Any]) -> None:
    """Train a translation model.

    RUN/bundle can be used from the first validation on. The defaults shown are those of the preset
    bridge.
    """
    from mrbridge.training.folder import check_replaceable, check_target, check_unused
    from mrbridge.training.settings import TrainSettings, preset, resolve

    out, resume = options.out, options.resume
    check_target(out, resume=resume, overwrite=options.overwrite)
    _check_inputs(options)
    if resume and options.start is not None:
        raise SettingsError(
            "a resumed run has weights already", path=out, remedy="Leave out --from or --resume."
        )
    if "preset" in changes:
        preset(str(changes["preset"]))
    if not resume and not is_follower():
        (check_replaceable if options.overwrite else check_unused)(out)
    with quick_imports():
        from mrbridge.dataset.store import Store

    store = Store.open(options.store)
    with quick_imports():
        from mrbridge.hardware import keep_memory
        from mrbridge.training.distributed import launch
        from mrbridge.training.examples import check_simulated
        from mrbridge.training.run import train as run

    if changes.get("simulated_weight"):
        check_simulated(store)
    settings = changes if resume else resolve(changes)
    if isinstance(settings, TrainSettings):
        _warn_of_epochs(settings)
    more = options.model_dump(exclude={"store", "out", "devices"}, exclude_none=True)
    keep_memory()
    if options.devices > 1:
        result = launch(options.devices, run, store.path, out, settings, **more)
    else:
        result = run(store, out, settings, **more)
    last = result.rows[-1] if result.rows else {}
    epochs = counted(int(last.get("epoch", 0)), "epoch")
    summary = f"{out}: {epochs}; the model is in {out / 'bundle'}"
    fields = {"path": str(out), "bundle": str(out / "bundle"), "last": last}
    answer(fields | {"kept_beginning": result.kept_beginning}, summary)


def _warn_of_epochs(settings: TrainSettings) -> None:
    """Warn if epochs are asked for that do not count. A run's settings.yaml names the preset's."""
    from mrbridge.training.settings import preset

    if settings.minutes and settings.epochs != preset(settings.preset).epochs:
        log.warning("epochs is not used: this training takes %g minutes", settings.minutes)


@verb(
    "mrbridge.verb_settings:Tune",
    "mrbridge tune store -o search --trials 30 --minutes 10 --workers 2",
)
def tune(options: options_of.Tune, changes: dict[str, Any]) -> None:
    """Search for good training settings on a store (Optuna).

    Every trial is a short training. Trials that are worse than the median of the others end early.
    The same command continues a search, and a larger --trials extends it. DIR/best.yaml has the
    settings of the best trial, for mrbridge train --config; --config and --set change the settings
    of all trials.
    """
    from mrbridge.tuning.space import find_space

    _check_inputs(options)
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
    more = options.model_dump(exclude={"store", "out", "space"}, exclude_none=True)
    result, failure = as_far_as_done(
        lambda: run(options.store, options.out, changes, space=space, **more)
    )
    answer(result.as_json(), str(result), failure)


@verb(
    "mrbridge.verb_settings:Benchmark",
    "mrbridge benchmark store -o compared --arms bridge unet --minutes 10",
)
def benchmark(options: options_of.Benchmark, changes: dict[str, Any]) -> None:
    """Compare presets and configurations on a store: same splits, time and seeds.

    Arms are trained one after another and scored on the test split, next to a monotone intensity
    mapping and the unchanged input, with the spread over seeds. The same command continues a
    benchmark; with more --arms or --seeds it adds theirs. --config and --set change all arms.
    DIR/report.html has the figure and the table.
    """
    _check_inputs(options)
    with quick_imports():
        from mrbridge.benchmarking.benchmark import benchmark as run
        from mrbridge.hardware import keep_memory

    keep_memory()
    more = options.model_dump(exclude={"store", "out", "arms"}, exclude_none=True)
    result, failure = as_far_as_done(
        lambda: run(options.store, options.out, options.arms, settings=changes, **more)
    )
    answer(result.as_json(), str(result), failure)


def _check_inputs(options: options_of.Train | options_of.Tune | options_of.Benchmark) -> None:
    """The store and the initial weights of a training must exist."""
    must_exist(options.store, StoreError, "Run mrbridge prepare first.")
    if options.start not in (None, "auto", "scratch"):
        locate(options.start, "Use auto, shipped or scratch, or name a run or a bundle.")
