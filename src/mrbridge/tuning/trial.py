"""One trial of a search: a short training, which ends early if it is worse than the others."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import sqlalchemy
from optuna.trial import TrialState

from mrbridge.errors import Interrupted, MrbridgeError, OutputError, as_error
from mrbridge.quiet import at_level
from mrbridge.settings import nested
from mrbridge.training.folder import remove_state
from mrbridge.training.run import train_or_resume
from mrbridge.training.settings import SHORT, resolve
from mrbridge.training.words import Row, best_epoch, verdicts
from mrbridge.tuning.space import Space

Score = Literal["criterion", "psnr"]

STORAGE = "study.db"
NAME = "mrbridge"
WARM_UP_TENTHS = 2
STARTUP_TRIALS = 4
_POINTS = "points"
_WAIT_SECONDS = 60  # for the lock of the storage, which all workers write


@dataclass(frozen=True)
class Job:
    """What all trials of a search have in common.

    Attributes:
        changes: settings of all trials that differ from the preset's.
        space: the settings that differ between trials.
        score: what is maximised.
        seed: of the search; trials have that of `changes`.
        more: further arguments of `train`.
    """

    store: Path
    out: Path
    changes: Mapping[str, Any]
    space: Space
    score: Score
    seed: int
    more: Mapping[str, Any]


def open_study(out: Path, seed: int = 0) -> optuna.Study:
    """The study in the storage of a search, which is created if it is missing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = sqlalchemy.URL.create("sqlite", database=str((out / STORAGE).absolute()))
    storage = optuna.storages.RDBStorage(
        url.render_as_string(), engine_kwargs={"connect_args": {"timeout": _WAIT_SECONDS}}
    )
    return optuna.create_study(
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * STARTUP_TRIALS),
        pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=WARM_UP_TENTHS),
        study_name=NAME,
        direction="maximize",
        load_if_exists=True,
    )


@contextmanager
def storage_errors(out: Path) -> Iterator[None]:
    """Within it, a storage that cannot be read or written, as on a full disk, is an OutputError."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        raise OutputError(
            f"cannot be read or written ({getattr(cause, 'orig', cause)})",
            path=out / STORAGE,
            remedy="Check the free space and the permissions, or name another folder.",
        ) from error


def run_trial(job: Job, index: int) -> int:
    """Run the next trial of a study, and save its outcome there; the number of the trial in the
    study. `index` counts without interruptions: with the search's seed, it is the seed of the
    sampler. Interrupted if a signal stopped it, which leaves it unfinished; OutputError if the
    study cannot be saved."""
    with storage_errors(job.out):
        return _run_trial(job, index)


def _run_trial(job: Job, index: int) -> int:
    study = open_study(job.out, seed=1000 * job.seed + index)
    trial = study.ask()
    own = {key: one.suggest(trial, key) for key, one in job.space.items()}
    name = trial.user_attrs.get("run", f"trials/{trial.number:04}")
    trial.set_user_attr("run", name)
    run = job.out / name
    watch = _Watch(trial, job.score)
    try:
        settings = resolve(SHORT, job.changes, nested(own))
        with at_level(logging.ERROR, "mrbridge.training"):
            result = train_or_resume(job.store, run, settings, after_validation=watch, **job.more)
        best = best_epoch(result.rows)
        row = next((row for row in result.rows if row["epoch"] == best), {})
        value = score_of(row, job.score)
        if not math.isfinite(value) or verdicts(row):
            reason = "its criterion is not finite" if not verdicts(row) else _PATHOLOGICAL
            raise MrbridgeError(reason, path=run)
        trial.set_user_attr("score", value)
        trial.set_user_attr("kept_initial", result.kept_beginning)
        state = TrialState.PRUNED if watch.pruned else TrialState.COMPLETE
        study.tell(trial, None if watch.pruned else value, state)
    except Interrupted:
        raise
    except Exception as error:
        trial.set_user_attr("error", str(as_error(error)))
        study.tell(trial, state=TrialState.FAIL)
    remove_state(run)
    return trial.number


_PATHOLOGICAL = "in all its validations, a generator inverts or copies its input or has collapsed"


def score_of(row: Row, score: Score) -> float:
    """The score of an epoch, larger is better; NaN if it has none."""
    if score == "psnr":
        return 0.5 * (row.get("psnr_target", math.nan) + row.get("psnr_source", math.nan))
    return row.get("criterion", math.nan)


class _Watch:
    """Reports the validations of a training to its trial, and ends it if the pruner says so.

    Trials validate at different times. So the score is interpolated to the tenths of the training,
    at which the pruner compares them. The study keeps the scores, so that a trial that is continued
    reports what it would have reported without the interruption.
    """

    def __init__(self, trial: optuna.Trial, score: Score) -> None:
        self.trial, self.score, self.pruned = trial, score, False
        self._kept: list[tuple[float, float]] = trial.user_attrs.get(_POINTS, [])
        self._points: list[tuple[float, float]] = []  # progress and score
        self._reported = -1

    def __call__(self, progress: float, row: Row) -> bool:
        value = score_of(row, self.score)
        if verdicts(row) or not math.isfinite(value):
            return False
        earlier = [point for point in self._kept if point[0] < progress]
        self._kept = []
        for point in (*earlier, (progress, value)):
            self._add(*point)
        self.trial.set_user_attr(_POINTS, self._points)
        self.pruned = progress < 1 and self.trial.should_prune()
        return self.pruned

    def _add(self, progress: float, value: float) -> None:
        self._points.append((progress, value))
        xs, ys = zip(*self._points, strict=True)
        first = max(self._reported + 1, math.ceil(10 * xs[0]))
        for tenth in range(first, math.floor(10 * progress + 1e-9) + 1):
            self.trial.report(float(np.interp(tenth / 10, xs, ys)), tenth)
            self._reported = tenth
