"""The files of a search: the best settings, a table of all trials, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import yaml
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from mrbridge import __version__
from mrbridge.dataset.store import Store
from mrbridge.io.atomic import atomic_path, write_text
from mrbridge.io.ownership import FIGURE_MARK
from mrbridge.reports import counted, csv_table
from mrbridge.settings import merged, nested
from mrbridge.tuning.trial import Job

BEST = "best.yaml"
TABLE = "trials.csv"
FIGURE = "importance.png"

_FEWEST = 6  # complete trials for importances
_COLOUR, _PALE = "#1f6fb4", "#8a8f98"


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each setting decides whether a trial is among the best, largest first; the sum is 1.

    Source: PED-ANOVA, arXiv:2304.10255, as in Optuna. Empty if there are too few complete trials or
    all have the same score.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _FEWEST or len({one.value for one in complete}) < 2:
        return {}
    return {
        key: float(share) for key, share in optuna.importance.get_param_importances(study).items()
    }


def write_results(
    job: Job,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    shares: Mapping[str, float],
    store: Store,
) -> None:
    """Write best.yaml, trials.csv and importance.png."""
    settings = {"preset": "bridge"} | merged(job.changes, nested(best.params))
    start = job.more["start"]
    given = "" if start == "auto" else f" --from {start}"
    minutes = counted(job.more["minutes"], "minute")
    head = (
        f"# mrbridge {__version__} tune on {store.path.name}: trial {best.number}, "
        f"{job.score} {best.user_attrs['score']:.5g} after {minutes}.\n"
        f"# mrbridge train STORE -o RUN --config {BEST}{given}\n"
    )
    write_text(job.out / BEST, head + yaml.safe_dump(settings, sort_keys=False))
    write_text(job.out / TABLE, _table(job, trials))
    _draw(job, trials, best, shares, job.out / FIGURE)


def _table(job: Job, trials: Sequence[FrozenTrial]) -> str:
    rows = []
    for one in trials:
        known = one.user_attrs
        duration = "" if one.duration is None else round(one.duration.total_seconds(), 1)
        values = [one.params.get(key, "") for key in job.space]
        state = one.state.name.lower()
        rows.append(
            [one.number, state, known.get("score", ""), duration, *values, known.get("error", "")]
        )
    return csv_table(["trial", "state", job.score, "seconds", *job.space, "error"], rows)


def _draw(
    job: Job,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    shares: Mapping[str, float],
    path: Path,
) -> None:
    """How important each setting is, and the scores of the trials in their order."""
    figure = Figure(figsize=(10, 1.6 + 0.28 * max(6, len(shares))), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(shares)[::-1]
    left.barh(names, [shares[name] for name in names], color=_COLOUR)
    left.set_xlabel("importance (PED-ANOVA), all together 1")
    if not shares:
        left.set_axis_off()
        left.text(0.5, 0.5, "too few complete trials for importances", ha="center", va="center")
    for state, colour, label in (
        (TrialState.COMPLETE, _COLOUR, "complete"),
        (TrialState.PRUNED, "none", "pruned"),
    ):
        shown = [one for one in trials if one.state == state]
        if shown:
            scores = [one.user_attrs["score"] for one in shown]
            edge = _COLOUR if state == TrialState.COMPLETE else _PALE
            numbers = [one.number for one in shown]
            right.scatter(numbers, scores, c=colour, edgecolors=edge, label=label)
    right.axhline(best.user_attrs["score"], color=_PALE, linewidth=0.8, zorder=0)
    right.annotate(
        f"trial {best.number}",
        (best.number, best.user_attrs["score"]),
        textcoords="offset points",
        xytext=(0, 5),
        ha="center",
        fontsize=8,
    )
    right.margins(y=0.15)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("trial")
    right.set_ylabel({"criterion": "validation criterion", "psnr": "PSNR in dB"}[job.score])
    right.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata=FIGURE_MARK)
