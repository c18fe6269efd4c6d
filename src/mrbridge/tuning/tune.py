"""The verb `tune`: a hyperparameter search with Optuna, and its files."""

from __future__ import annotations

import json
import logging
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from mrbridge import __version__, interruption
from mrbridge.dataset.store import Store
from mrbridge.errors import (
    Interrupted,
    MrbridgeError,
    OutputError,
    SettingsError,
    StoreError,
    must_be_here,
)
from mrbridge.io.atomic import atomic_path, write_text
from mrbridge.io.lock import only_writer
from mrbridge.io.ownership import FIGURE_MARK, make_room
from mrbridge.reports import counted, csv_table
from mrbridge.settings import Positive, checked, merged, nested
from mrbridge.training.checkpoint import identity
from mrbridge.training.folder import FILES as RUN_FILES
from mrbridge.training.settings import resolve
from mrbridge.tuning.space import Space, find_space
from mrbridge.tuning.trial import (
    STORAGE,
    Job,
    Score,
    open_study,
    run_trial,
    storage_errors,
)

log = logging.getLogger(__name__)

BEST = "best.yaml"
TABLE = "trials.csv"
FIGURE = "importance.png"
FILES = (STORAGE, f"{STORAGE}-*", BEST, TABLE, FIGURE, *(f"trials/*/{one}" for one in RUN_FILES))
"""The files of a search, as patterns."""

_FEWEST = 6  # complete trials for importances
_COLOUR, _PALE = "#1f6fb4", "#8a8f98"


@dataclass(frozen=True)
class Search:
    """A search on disk.

    Attributes:
        path: its folder; `path / "best.yaml"` has the best settings.
        score: what was maximised.
        counts: how many trials are `complete`, `pruned` and `failed`.
        best: the number of the best trial.
        value: its score.
        median: the median score of the complete trials.
        params: its settings, by their keys.
        importances: of each setting, their sum is 1; empty if too few trials are complete.
        kept_initial: whether its bundle is still the initial model, since no state was better.
    """

    path: Path
    score: Score
    counts: dict[str, int]
    best: int
    value: float
    median: float
    params: dict[str, Any]
    importances: dict[str, float]
    kept_initial: bool

    def as_json(self) -> dict[str, Any]:
        """The fields, and where the files are."""
        fields = dict(vars(self)) | {"path": str(self.path), "trials": self.counts}
        del fields["counts"]
        return fields | {"config": str(self.path / BEST), "figure": str(self.path / FIGURE)}

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        value, median = (f"{one:.4g}" for one in (self.value, self.median))
        lines = [f"{self.path}: {counted(sum(self.counts.values()), 'trial')} ({counts})"]
        lines += [f"best: trial {self.best}, {self.score} {value} (median {median})"]
        for key, setting in self.params.items():
            share = f"   importance {self.importances[key]:.2f}" if self.importances else ""
            shown = f"{setting:.4g}" if isinstance(setting, float) else str(setting)
            lines.append(f"  {key}: {shown}{share}")
        if self.kept_initial:
            lines.append("No state of this trial was better than the initial model.")
        lines.append(f"Train with it: mrbridge train STORE -o RUN --config {self.path / BEST}")
        return "\n".join(lines)


@checked
def tune(
    store: str | Path | Store,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    space: Mapping[str, Any] | str | Path | None = None,
    trials: Positive = 20,
    minutes: float = 10.0,
    score: Score = "criterion",
    workers: Positive = 1,
    start: str | Path = "auto",
    device: str = "auto",
    overwrite: bool = False,
    allow_code: bool = False,
) -> Search:
    """Search for the settings with the best score; the same call continues a search.

    Args:
        store: the store or its path.
        out: the folder of the search.
        settings: those of all trials that differ from the preset's.
        space: the settings that differ between trials: `{"learning_rate": {"low": 1e-4, "high":
            1e-2, "log": True}, "batch_size": [1, 2]}`, or a YAML file of that form; None: learning
            rate, loss weights, EMA and augmentation.
        trials: their number, with those that a continued search has.
        minutes: of training for each.
        score: what is maximised, of each trial's best state: `criterion`, the validation criterion
            of trainings, which needs no pairs; or `psnr`, on the validation pairs, both directions.
        workers: number of processes, each with one thread if there are several.
        start, device, allow_code: as of `train`.
        overwrite: replace the search in the folder.

    Raises:
        StoreError: the store has no validation split, or no validation pairs for `psnr`.
        InputError: the file of the space does not exist.
        SettingsError: settings or space are impossible, the score does not fit them, or the folder
            has another search.
        OutputError: the folder holds something else, or cannot be written.
        Interrupted: a signal came; the finished trials are kept.
        MrbridgeError: all trials failed.
    """
    must_be_here(out)
    out = Path(out)
    opened = store if isinstance(store, Store) else Store.open(store)
    changes = dict(settings or {})
    base = resolve(changes)
    if changes.get("minutes") is not None:
        raise SettingsError("'minutes' is an option of tune", remedy="Use --minutes.")
    chosen = find_space(space, changes)
    _check(opened, chosen, score, start)
    more = {"start": start, "device": device, "allow_code": allow_code, "minutes": minutes}
    job = Job(opened.path.absolute(), out, changes, chosen, score, base.seed, more)
    make_room(out, FILES, STORAGE, overwrite=overwrite)
    with only_writer(out), storage_errors(out):
        study = open_study(out)
        _must_fit(study, job, opened)
        _requeue(study)
        count = trials - len(_finished(study))
        if count <= 0:
            log.info("the search has %s already", counted(len(_finished(study)), "trial"))
        interrupted = False
        try:
            for number in _run(job, len(_finished(study)), count, workers):
                _report(study, number, trials, score)
        except (KeyboardInterrupt, Interrupted):
            interrupted = True
        done = _result(study, job, opened)
    if interrupted:
        raise Interrupted(
            f"interrupted after {len(_finished(study))} of {trials} trials",
            path=out,
            remedy="The same command continues.",
            result=done,
        )
    if done is None:
        errors = [one.user_attrs["error"] for one in _finished(study) if "error" in one.user_attrs]
        raise MrbridgeError(f"no trial was completed: {errors[-1]}", path=out)
    return done


def _check(store: Store, space: Space, score: Score, start: str | Path) -> None:
    if not all(store.records(contrast=one, split="val") for one in store.contrasts):
        raise StoreError(
            "has no validation split, by which trials are scored",
            path=store.path,
            remedy="Prepare it again with a larger --set validation_share.",
        )
    if score == "psnr" and not any(positions for *_, positions in store.pairs("val")):
        raise StoreError(
            "has no pairs in its validation split to compute PSNR",
            path=store.path,
            remedy="Leave out --score: the criterion needs no pairs.",
        )
    unlike = [k for k in space if k == "wise_ft_weight" or k.startswith("networks.generator")]
    if score == "criterion" and unlike and start != "scratch":
        raise SettingsError(
            f"with different values of '{unlike[0]}', the criteria of trials that start from a "
            "model cannot be compared",
            remedy="Use --from scratch, or --score psnr if the store has pairs.",
        )


def _must_fit(study: optuna.Study, job: Job, store: Store) -> None:
    """Save what a search is about, or refuse to continue another one."""
    plan = {
        "store": identity(store),
        "settings": dict(job.changes),
        "space": {key: one.model_dump(mode="json") for key, one in job.space.items()},
        "score": job.score,
        "minutes": job.more["minutes"],
        "start": str(job.more["start"]),
    }
    plan = json.loads(json.dumps(plan, default=str))
    known = study.user_attrs.get("plan")
    if known is None:
        study.set_user_attr("plan", plan)
        return
    differ = [name for name, value in plan.items() if known.get(name) != value]
    if differ:
        raise OutputError(
            f"holds a search with another {' and another '.join(differ)}",
            path=job.out,
            remedy="Name a new folder, or use --overwrite.",
        )


def _requeue(study: optuna.Study) -> None:
    """Continue trials that were interrupted: the lock says that no other process works on them.

    One that had not begun to train is drawn again, with the same seed.
    """
    for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(one.number, state=TrialState.FAIL)
        if "run" in one.user_attrs:
            study.enqueue_trial(one.params, user_attrs=one.user_attrs)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have an outcome: not those that were interrupted and are continued."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return [one for one in study.trials if one.state in states or "error" in one.user_attrs]


def _run(job: Job, first: int, count: int, workers: int) -> Iterator[int]:
    """Run trials; yields the number of each that has ended."""
    indices = range(first, first + count)
    if workers <= 1:
        for index in indices:
            interruption.check()
            yield run_trial(job, index)
        return
    from mrbridge.parallel.processes import in_processes

    for _, number in in_processes(partial(run_trial, job), indices, workers, ()):
        if isinstance(number, Interrupted | OutputError):
            raise number
        if isinstance(number, MrbridgeError):
            log.warning("%s", number)
        else:
            yield number


def _report(study: optuna.Study, number: int, trials: int, score: Score) -> None:
    one = study.trials[number]
    settings = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in one.params.items()
    )
    outcome = one.user_attrs.get("error") or f"{score} {one.user_attrs['score']:.4g}"
    outcome += " (pruned)" if one.state == TrialState.PRUNED else ""
    log.info(
        "trial %d (%d of %d): %s: %s", number, len(_finished(study)), trials, settings, outcome
    )


def _result(study: optuna.Study, job: Job, store: Store) -> Search | None:
    """Write the results so far; None if no trial is complete."""
    finished = _finished(study)
    complete = [one for one in finished if one.state == TrialState.COMPLETE]
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    counts = Counter(names.get(one.state, "failed") for one in finished)
    if not complete:
        return None
    best = max(complete, key=lambda one: one.user_attrs["score"])
    shares = importances(study)
    write_results(job, finished, best, shares, store)
    return Search(
        path=job.out,
        score=job.score,
        counts={name: counts[name] for name in ("complete", "pruned", "failed")},
        best=best.number,
        value=best.user_attrs["score"],
        median=statistics.median(one.user_attrs["score"] for one in complete),
        params=best.params,
        importances=shares,
        kept_initial=best.user_attrs["kept_initial"],
    )


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
