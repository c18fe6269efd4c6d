"""The verbs that compare trainings on a store; see `mrbridge.verbs`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mrbridge.console import answer, as_far_as_done, interruption_of
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
    from mrbridge.settings import read_yaml
    from mrbridge.training.settings import resolve
    from mrbridge.tuning.space import default_space, read_space

    must_exist(options.store, StoreError, "Run mrbridge prepare first.")
    start = "auto" if options.start is None else options.start
    if start not in ("auto", "scratch"):
        locate(start, "Use auto, shipped or scratch, or name a run or a bundle.")
    if find_spec("optuna") is None:
        raise SettingsError(
            "tune needs a package that is not installed (optuna)",
            remedy="Run: pip install 'mrbridge[tune]'",
        )
    base = resolve(None, changes)
    if options.space is None:
        space = default_space(base)
    else:
        must_exist(options.space)
        space = read_space(read_yaml(options.space), changes, options.space)
    with quick_imports():
        from mrbridge.hardware import keep_memory
        from mrbridge.tuning.tune import tune as run

    keep_memory()
    more = options.model_dump(exclude={"store", "out", "space", "start"})
    result, failure = as_far_as_done(
        lambda: run(options.store, options.out, changes, space=space, start=start, **more)
    )
    answer(result.as_json() | interruption_of(failure), str(result))
    if failure:
        raise failure
